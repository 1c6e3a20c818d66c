"""Pillow <-> tensor.

Tensors are NCHW float32 in [-1, 1], the VAE's input and output; the reference is diffusers'
`VaeImageProcessor`. Sizes are (width, height) as in Pillow, shapes (height, width) as in numpy.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from lcmcore.errors import ArgumentError, ImageError, first_line
from lcmcore.util.arrays import Array, Floats, Pixels
from lcmcore.util.files import open_regular
from lcmcore.util.memory import available_bytes
from lcmcore.util.validate import one_of

ImageLike: TypeAlias = "Image.Image | Array | bytes | str | os.PathLike[str]"

FITS = ("stretch", "cover", "contain")  # the first is the default
MAX_PIXELS = 2**27  # 134 million: more is taken for a decompression bomb
MAX_BYTES = 2**28  # of a file: an uncompressed RGB image of 67 million pixels has 201 MB

# Pillow's names of the formats that are read; HEIF is that of pillow-heif. No others, for these are
# decoded within the process: EPS starts Ghostscript, GRIB or WMF call what somebody registered.
FORMATS = (
    *("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "PPM"),
    *("WEBP", "TIFF", "JPEG2000", "AVIF", "HEIF", "TGA"),  # TGA, for any file may begin like one
)
_KNOWN = f"known are {', '.join(FORMATS)}"
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")  # of what Pillow reads without init()
_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)

_MAX_STRIPS = 2**18  # of a TIFF: Pillow needs 0.5 kB for each
_MAX_TEXT = 2**24  # bytes of a PPM, PGM or PBM in decimal text: Pillow reads 5 MB in a second
_MAX_COMMENTS = 100  # in such text: Pillow takes seconds for thousands
_WRITER_SECONDS = 1.0  # in which another process opens a FIFO
_ASK_FROM = 2**26  # bytes: to ask for the free memory takes as long as a small image

# Bytes a pixel that decoders need beside Pillow's image, measured with Pillow 13.
_DECODER_BYTES = {"WEBP": 13, "JPEG2000": 21, "AVIF": 8, "HEIF": 8, "TIFF": 4}

_LANCZOS = Image.Resampling.LANCZOS
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


def read_image(source: ImageLike) -> Image.Image:
    """An image from a path, encoded bytes, Pillow or an array: RGB, upright by its EXIF tag.

    Transparent pixels are laid over white; of an animation the first frame is taken. Of 16 bits a
    channel the upper 8 are kept; 32-bit integers are taken for 16-bit ones, floats for 0 to 1.
    Arrays are [height, width, 3], uint8, or floats in [0, 1]. The result has no metadata.
    Raises ImageError if it is of none of the FORMATS, is damaged, has more than MAX_PIXELS, is a
    file of more than MAX_BYTES, or needs more memory than is free; ArgumentError for another type,
    shape or dtype.
    """
    if isinstance(source, Image.Image):
        return _of_pillow(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "image")
    if isinstance(source, (str, os.PathLike)):
        return _read_file(os.fspath(source))
    raise ArgumentError(
        f"image must be a path, bytes, a Pillow image or an array, not {type(source).__name__}"
    )


def open_image(stream: IO[bytes], name: str) -> Image.Image:
    """Open an image of one of the FORMATS without decoding it; `name` is for messages.

    Nothing else in this package calls Image.open, which tries all formats. Raises ImageError.
    """
    head = stream.read(16)
    _require_few_strips(stream, head, name)
    _require_short_text(stream, head, name)
    missing = _load_plugins(head)
    stream.seek(0)
    try:
        return Image.open(stream, formats=[each for each in FORMATS if each in Image.OPEN])
    except UnidentifiedImageError:
        reason = missing or f"not an image of a known format, or empty; {_KNOWN}"
        raise ImageError(f"{name}: {reason}") from None
    except Exception as error:  # Pillow's format plugins raise whatever they meet
        raise ImageError(f"{name}: cannot be read: {first_line(error)}") from error


def image_suffixes() -> frozenset[str]:
    """Suffixes of the files that `read_image` reads here, in lower case: ".jpg", ".png", ...

    ".heic" is one of them where pillow-heif is installed.
    """
    Image.init()
    _register_heif()
    known = {each for each in FORMATS if each in Image.OPEN or each == "MPO"}  # opened as JPEG
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in known)


def read_images(source: ImageLike | Sequence[ImageLike] | None) -> list[Image.Image]:
    """One image or a list of them; None gives []. Raises as `read_image` does."""
    if source is None:
        return []
    if not isinstance(source, (list, tuple)):
        return [read_image(source)]  # type: ignore[arg-type]  # checked there
    if not source:
        raise ArgumentError("image is an empty list")
    return [read_image(each) for each in source]


def fit_image(image: Image.Image, size: tuple[int, int], fit: str = FITS[0]) -> Image.Image:
    """Resize to (width, height) with LANCZOS.

    "stretch" changes the aspect ratio, "cover" crops what hangs over, "contain" shows the whole
    image centred on black.
    """
    one_of("fit", fit, FITS)
    if image.size == size:
        return image
    if fit == "cover":
        from PIL import ImageOps

        return ImageOps.fit(image, size, _LANCZOS)
    if fit == "contain":
        return _contain(image, size)
    return image.resize(size, _LANCZOS)


def fit_images(images: Sequence[Image.Image], size: tuple[int, int], fit: str = FITS[0]) -> Pixels:
    """Pixels of RGB images, each resized as by `fit_image`: [batch, height, width, 3]."""
    return np.stack([np.asarray(fit_image(image, size, fit)) for image in images])


def _contain(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """ImageOps.pad, but for two things: it rounds a very thin image away, which keeps a row here,
    and of uneven margins the larger is the upper one at some sizes; here always the lower one.
    """
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new("RGB", size)
    inner = image.resize((width, height), _LANCZOS)
    canvas.paste(inner, ((size[0] - width) // 2, (size[1] - height) // 2))
    return canvas


def to_tensor(pixels: Pixels) -> Floats:
    """RGB pixels [batch, height, width, 3] to [batch, 3, height, width] in [-1, 1]."""
    tensor: Floats = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    tensor /= np.float32(127.5)
    tensor -= np.float32(1)
    return tensor


def to_array(tensor: Floats) -> Floats:
    """[batch, 3, height, width] in [-1, 1] to [batch, height, width, 3] in [0, 1], clipped."""
    array = tensor / np.float32(2)
    array += np.float32(0.5)
    return array.clip(0, 1, out=array).transpose(0, 2, 3, 1)


def to_pil(array: Floats) -> list[Image.Image]:
    """[batch, height, width, 3] in [0, 1] to Pillow images, rounded half to even.

    Channel by channel, for networks return planes: interleaving in numpy takes eight times as long.
    """
    pixels = array * 255
    pixels = pixels.round(out=pixels).astype(np.uint8)
    planes = ([Image.fromarray(image[..., color]) for color in range(3)] for image in pixels)
    return [Image.merge("RGB", each) for each in planes]


def _read_file(name: str) -> Image.Image:
    """Opened here, not by Pillow, which leaves a pipe open (Pillow 13), or finds none (10.1)."""
    try:
        with _open_file(Path(name)) as stream:
            return _read(stream, name)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: is a folder, not an image") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ImageError(f"{name}: cannot be read: {reason}") from error


def _open_file(path: Path) -> IO[bytes]:
    """A regular file, or what comes through a pipe; raises OSError for others and larger ones."""
    if stat.S_ISFIFO(path.stat().st_mode):
        return io.BytesIO(_read_pipe(path))
    file = open_regular(path)
    if os.fstat(file.fileno()).st_size <= MAX_BYTES:
        return file
    file.close()
    raise _too_large()


def _read_pipe(path: Path) -> bytes:
    """The content of a pipe; that of a FIFO which no process opens for writing is empty."""
    from select import select

    content = bytearray()
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else it waits for that process
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        select([pipe], [], [], _WRITER_SECONDS)
        while len(content) <= MAX_BYTES:
            chunk = pipe.read(2**20)
            if chunk == b"":
                return bytes(content)
            content += chunk or b""  # None: there is a process, but it has not written yet
            os.set_blocking(descriptor, True)
    raise _too_large()


def _too_large() -> OSError:
    return OSError(errno.EFBIG, f"larger than {MAX_BYTES / 2**20:g} MiB")


def _read(stream: IO[bytes], name: str) -> Image.Image:
    with open_image(stream, name) as image:
        _require_few_scans(image, stream, name)
        return _decode(image, name, ours=True)


def _of_pillow(image: Image.Image) -> Image.Image:
    if _is_lazy(image) and image.format not in FORMATS:  # to decode EPS starts Ghostscript
        raise ImageError(f"image: {image.format} is not a format that is read; {_KNOWN}")
    decoded = _decode(image, "image", ours=False)
    return decoded.copy() if decoded.im is image.im else decoded


def _is_lazy(image: Image.Image) -> bool:
    """Whether it was opened, but not decoded; some plugins have no tiles until then."""
    from PIL import ImageFile

    pixels = getattr(image, "_im", image.__dict__.get("im"))  # Pillow 11, 10
    return isinstance(image, ImageFile.ImageFile) and (bool(image.tile) or pixels is None)


def _load_plugins(head: bytes) -> str | None:
    """Let Pillow know what may read a file that begins so; what is missing for it, or None."""
    Image.preinit()
    if head.startswith(_MAGIC):
        return None
    Image.init()  # imports some 40 modules
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and not _register_heif():
        return "HEIC is read only where pillow-heif is installed (pip install pillow-heif)"
    if head[4:12] in (b"ftypavif", b"ftypavis") and "AVIF" not in Image.OPEN:
        return "AVIF is read only with Pillow 11.3 or later"
    return None


def _register_heif() -> bool:
    """Whether HEIF can be read, which pillow-heif does where it is installed."""
    if "HEIF" not in Image.OPEN:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return False
        register_heif_opener()
    return True


def _require_few_strips(stream: IO[bytes], head: bytes, name: str) -> None:
    """Raise ImageError for a TIFF with so many strips that Pillow's list of them fills memory."""
    if head[:2] in (b"II", b"MM") and head[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):
        try:
            count = _strips(stream, head)
        except (struct.error, OSError, ValueError, OverflowError):
            return  # Pillow says what is wrong
        if count > _MAX_STRIPS:
            raise ImageError(f"{name}: {count} strips or tiles are more than {_MAX_STRIPS}")


def _strips(stream: IO[bytes], head: bytes) -> int:
    """How many strips or tiles the first directory of a TIFF has (TIFF 6.0, section 2; BigTIFF)."""
    order = "<" if head[:2] == b"II" else ">"
    big = b"+" in head[2:4]
    (directory,) = struct.unpack_from(f"{order}{'Q' if big else 'L'}", head, 8 if big else 4)
    stream.seek(directory)
    (entries,) = struct.unpack(f"{order}{'Q' if big else 'H'}", stream.read(8 if big else 2))
    entry = struct.Struct(f"{order}HH{'QQ' if big else 'LL'}")
    for _ in range(entries):
        tag, _, count, _ = entry.unpack(stream.read(entry.size))
        if tag in (273, 324):  # StripOffsets, TileOffsets
            return int(count)
    return 0


def _require_short_text(stream: IO[bytes], head: bytes, name: str) -> None:
    """Raise ImageError for a PPM, PGM or PBM in decimal text that Pillow is too slow for."""
    if head[:2] in (b"P1", b"P2", b"P3"):
        text = head + stream.read(_MAX_TEXT)
        if len(text) > _MAX_TEXT or text.count(b"#") > _MAX_COMMENTS:
            raise ImageError(f"{name}: too long, or too many comments; save it in binary form")


def _require_few_scans(image: Image.Image, stream: IO[bytes], name: str) -> None:
    """Raise ImageError for a JPEG of so many scans that decoding it takes minutes.

    Each goes over the whole image, and may have 200 bytes; usual are 1, or 10 if progressive.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    position = stream.tell()
    stream.seek(0)
    scans = stream.read().count(b"\xff\xda")  # within a scan 0xff is followed by 0
    stream.seek(position)
    if scans * image.width * image.height > 16 * MAX_PIXELS:
        raise ImageError(
            f"{name}: {scans} scans of {image.width}x{image.height} pixels (a decompression bomb?)"
        )


def _require_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} pixels are more than {MAX_PIXELS} (a decompression bomb?);"
            " make it smaller first"
        )
    if not width or not height:
        raise ImageError(f"{name}: has no pixels ({width}x{height})")


def _require_memory(image: Image.Image, pixel_bytes: int, name: str) -> None:
    """Raise ImageError unless so many bytes a pixel are free."""
    needed = image.width * image.height * pixel_bytes
    free = available_bytes() if needed >= _ASK_FROM else None
    if free is not None and needed > free:
        raise ImageError(
            f"{name}: {image.width}x{image.height} pixels need {needed >> 20} MiB of memory,"
            f" and {free >> 20} MiB are free; make it smaller first"
        )


def _decode(image: Image.Image, name: str, ours: bool) -> Image.Image:
    """RGB, upright. What is ours is closed: no two images of full size are kept without need."""
    _require_size(image, name)
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
        rgb = _to_rgb(pixels)
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever they meet in a damaged file
        raise ImageError(f"{name}: cannot be read: {first_line(error)}") from error
    rgb.info = {}  # or it would be turned again when it is read again
    return rgb


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


def _decoding_bytes(image: Image.Image, ours: bool) -> int:
    """Bytes a pixel that are needed at the same time until the image is RGB."""
    result = 0 if ours and image.mode == "RGB" and "transparency" not in image.info else 4
    if not _is_lazy(image):
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


def _to_rgb(image: Image.Image) -> Image.Image:
    """In parts, if each takes several steps: a step makes an image."""
    if not image.has_transparency_data and not _is_deep(image):
        return image if image.mode == "RGB" else image.convert("RGB")
    canvas = Image.new("RGB", image.size, "white")
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


def _from_array(array: Array) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ArgumentError(f"an image array is [height, width, 3], not {list(array.shape)}")
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    if array.dtype.kind != "f" or not ((array >= 0) & (array <= 1)).all():
        raise ArgumentError("an image array holds uint8, or floats from 0 to 1")
    return Image.fromarray((array * 255).round().astype(np.uint8))
