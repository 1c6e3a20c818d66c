"""A Pillow image of any mode to upright RGB, in little memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from lcmcore.errors import ImageError, first_line
from lcmcore.util.memory import available_bytes

_ASK_FROM = 2**26  # bytes: to ask for the free memory takes as long as a small image

# Bytes a pixel that decoders need beside Pillow's image, measured with Pillow 13.
_DECODER_BYTES = {"WEBP": 13, "JPEG2000": 21, "AVIF": 8, "HEIF": 8, "TIFF": 4}

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {  # by its value: how an image as it is stored becomes upright (EXIF 2.3, 4.6.4)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# By Pillow's raw mode of a grey PNG: the bits of a sample, and the factor to the decoded value.
_GREY_KEYS = {"1": (1, 255), "L;2": (3, 85), "L;4": (15, 17), "L": (255, 1), "I;16B": (65535, 1)}


def to_rgb(image: Image.Image, name: str, ours: bool, background: str = "white") -> Image.Image:
    """RGB, upright, with the background where it is transparent.

    What is ours is closed: no two images of full size are kept without need.
    """
    _require_memory(image, _decoding_bytes(image, ours), name)
    try:
        key = _colour_key(image)
        turn = _load_tiff(image) if ours and image.format == "TIFF" else _load(image)
        pixels = image._new(image.im)  # as image.copy(), but it shares the pixels
        if key is not None:
            pixels.info["transparency"] = key
        if ours:
            image.close()
        if turn is not None:
            _require_memory(pixels, _stored_bytes(pixels), name)
            pixels = pixels.transpose(turn)
        rgb = _converted(pixels, background)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever they meet in a damaged file
        raise ImageError(f"{name}: cannot be read: {first_line(error)}") from error
    rgb.info = {}  # or it would be turned again when it is read again
    return rgb


def is_lazy(image: Image.Image) -> bool:
    """Whether it was opened, but not decoded; some plugins have no tiles until then."""
    from PIL import ImageFile

    pixels = getattr(image, "_im", image.__dict__.get("im"))  # Pillow 11, 10
    return isinstance(image, ImageFile.ImageFile) and (bool(image.tile) or pixels is None)


def _load(image: Image.Image) -> Image.Transpose | None:
    """Decode the pixels; how they become upright."""
    image.load()
    return _turn(image)  # PNG may have it at its end


def _load_tiff(image: Image.Image) -> Image.Transpose | None:
    """Like `_load`; Pillow turns a TIFF itself, and refuses it for any odd tag of its EXIF."""
    turn = _turn(image)
    image.load_end = lambda: None  # type: ignore[attr-defined]
    image.load()
    return turn


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How the image becomes upright by EXIF or XMP; None if it is, or they cannot be read.

    ImageOps.exif_transpose reads the same tag, but then writes all others, and fails for odd ones.
    """
    try:
        return _TURNS.get(image.getexif()[_ORIENTATION])
    except Exception:  # whatever a damaged one leads to
        return None


def _require_memory(image: Image.Image, pixel_bytes: int, name: str) -> None:
    """Raise ImageError unless so many bytes a pixel are free."""
    needed = image.width * image.height * pixel_bytes
    free = available_bytes() if needed >= _ASK_FROM else None
    if free is not None and needed > free:
        raise ImageError(
            f"{name}: {image.width}x{image.height} pixels need {needed >> 20} MiB of memory,"
            f" and {free >> 20} MiB are free; make it smaller first"
        )


def _decoding_bytes(image: Image.Image, ours: bool) -> int:
    """Bytes a pixel that are needed at the same time until the image is RGB."""
    result = 0 if ours and image.mode == "RGB" and "transparency" not in image.info else 4
    if not is_lazy(image):
        return result
    decoder = _DECODER_BYTES.get(str(image.format), 0)
    if "progressive" in image.info:
        decoder = 6  # JPEG: all coefficients, two bytes each
    return _stored_bytes(image) + max(decoder, result)


def _stored_bytes(image: Image.Image) -> int:
    """Bytes a pixel in Pillow's memory, four for RGB."""
    if image.mode in ("1", "L", "P"):
        return 1
    return 2 if image.mode.startswith("I;16") else 4


def _colour_key(image: Image.Image) -> object:
    """`image.info["transparency"]`; of grey and RGB the transparent colour as it is when decoded.

    PNG has it before scaling, in 16 bits, of which the lower count (PNG 11.3.2.1); how many they
    are Pillow tells by its raw mode, until the image is decoded.
    """
    key = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    if key is None or not tile or image.format != "PNG":
        return key
    raw = tile[0][3]
    if raw in _GREY_KEYS:
        mask, factor = _GREY_KEYS[raw]
        return (key & mask) * factor
    if raw == "RGB":
        return tuple(each & 255 for each in key)
    if raw == "RGB;16B":
        return tuple(each >> 8 for each in key)  # Pillow keeps the upper 8 of 16 bits
    return key


def _converted(image: Image.Image, background: str) -> Image.Image:
    """In parts, if each takes several steps: a step makes an image."""
    if not image.has_transparency_data and not _is_deep(image):
        return image if image.mode == "RGB" else image.convert("RGB")
    canvas = Image.new("RGB", image.size, background)
    for box in _boxes(*image.size):
        part = _eight_bits(image.crop(box)) if _is_deep(image) else image.crop(box)
        alpha = part.convert("RGBA") if part.has_transparency_data else None
        # Rounds as Image.alpha_composite on white does, in less than half the time.
        canvas.paste(part.convert("RGB") if alpha is None else alpha.convert("RGB"), box, alpha)
    return canvas


def _boxes(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, upper, right, lower) of at most 2**20 pixels that cover the image."""
    columns = min(width, 2**20)
    rows = 2**20 // columns
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield left, top, min(left + columns, width), min(top + rows, height)


def _is_deep(image: Image.Image) -> bool:
    """Whether the samples have more than 8 bits; all such modes are grey."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _eight_bits(image: Image.Image) -> Image.Image:
    """L, or LA if a value is transparent."""
    values = np.asarray(image)
    if image.mode == "F":
        grey = (np.nan_to_num(values).clip(0, 1) * 255).round()
    else:
        grey = values.clip(0, 65535) >> 8
    result = Image.fromarray(grey.astype(np.uint8))
    if "transparency" in image.info:
        opaque = values != image.info["transparency"]
        result.putalpha(Image.fromarray(opaque * np.uint8(255)))
    return result
