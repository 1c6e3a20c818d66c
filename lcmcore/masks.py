"""Masks: grey images that say which part of an init image is repainted, the white one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from lcmcore.errors import ArgumentError
from lcmcore.image import MAX_PIXELS, MAX_SIDE, ImageLike, read_image
from lcmcore.util.memory import available_bytes
from lcmcore.util.validate import one_of, real_number, shown

_MAX_BLUR = 1000  # pixels
_CANVAS_BYTES = 9  # a pixel: canvas, mask, and strips of the canvas
_NEAREST = Image.Resampling.NEAREST
_ASK_FROM = 2**26  # bytes: to ask for the free memory takes as long as a small image


class Margins(NamedTuple):
    """Pixels by which a canvas is larger than its image, on each side."""

    left: int
    top: int
    right: int
    bottom: int


def read_mask(source: ImageLike) -> Image.Image:
    """A mask from what `read_image` reads, as grey: mode L, white (255) where it is repainted.

    Transparent pixels are black: nothing was painted there. Arrays may also be [height, width],
    and of bool. Raises as `read_image` does.
    """
    if isinstance(source, np.ndarray) and source.ndim == 2:
        array = source * np.uint8(255) if source.dtype == bool else source
        source = np.stack([array] * 3, axis=2)
    return read_image(source, "mask_image", "black").convert("L")


def read_masks(source: ImageLike | Sequence[ImageLike] | None) -> list[Image.Image]:
    """One mask or a list of them; None gives []. Raises as `read_mask` does."""
    if source is None:
        return []
    if not isinstance(source, (list, tuple)):
        return [read_mask(source)]  # type: ignore[arg-type]  # checked there
    if not source:
        raise ArgumentError("mask_image is an empty list")
    return [read_mask(each) for each in source]


def read_margins(text: Any) -> Margins:
    """Margins of text like "64,0,64,0": left, top, right, bottom, in pixels.

    Raises ArgumentError for anything else, and if all are 0.
    """
    sides = text.split(",") if isinstance(text, str) else []
    if len(sides) != 4 or not all(side.isdecimal() and len(side) < 8 for side in sides):
        raise ArgumentError(
            f"expand must be LEFT,TOP,RIGHT,BOTTOM, like 64,0,64,0, not {shown(text)}"
        )
    margins = Margins(*map(int, sides))
    if not any(margins):
        raise ArgumentError("expand by 0,0,0,0 adds nothing: give one side at least some pixels")
    return margins


def prepare(
    image: Image.Image | None,
    mask: Image.Image | None,
    *,
    blur: float | None = None,
    invert: bool | None = None,
    expand: str | None = None,
) -> tuple[Image.Image | None, Image.Image | None]:
    """Image and mask as a call takes them, from an RGB image and a mask as they were read.

    The mask is inverted; image and mask are expanded by margins that the mask repaints; and then
    the mask is blurred by a Gaussian of that radius in pixels. Raises ArgumentError.
    """
    if invert is not None and one_of("invert_mask", invert, (False, True)):
        mask = _inverted(_required(mask, "invert_mask"))
    if expand is not None:
        if image is None:
            raise ArgumentError("expand needs an init image")
        image, mask = expand_canvas(image, mask, read_margins(expand))
    if blur is not None and real_number("mask_blur", blur, 0, _MAX_BLUR):
        mask = blurred(_required(mask, "mask_blur"), blur)
    return image, mask


def blurred(mask: Image.Image, radius: float) -> Image.Image:
    """The mask with soft edges: a Gaussian blur, as diffusers' `VaeImageProcessor.blur`."""
    from PIL import ImageFilter

    return mask.filter(ImageFilter.GaussianBlur(radius))


def expand_canvas(
    image: Image.Image, mask: Image.Image | None, margins: Margins
) -> tuple[Image.Image, Image.Image]:
    """For outpainting: the image with its edge pixels continued, and a mask white in the margins.

    Raises ArgumentError if the canvas has more than MAX_PIXELS, or needs more memory than is free.
    """
    left, top, right, bottom = margins
    width, height = image.size
    size = (left + width + right, top + height + bottom)
    _require_room(size)
    inner = mask_of_size(mask, image.size) if mask else Image.new("L", image.size)
    canvas, canvas_mask = Image.new("RGB", size), Image.new("L", size, 255)
    canvas.paste(image, (left, top))
    canvas_mask.paste(inner, (left, top))
    for column, count, at in ((0, left, 0), (width - 1, right, left + width)):
        if count:
            edge = image.crop((column, 0, column + 1, height))
            canvas.paste(edge.resize((count, height), _NEAREST), (at, top))
    for row, count, at in ((top, top, 0), (top + height - 1, bottom, top + height)):
        if count:
            edge = canvas.crop((0, row, size[0], row + 1))
            canvas.paste(edge.resize((size[0], count), _NEAREST), (0, at))
    return canvas, canvas_mask


def _require_room(size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    needed = pixels * _CANVAS_BYTES
    free = available_bytes() if needed >= _ASK_FROM else None
    if pixels > MAX_PIXELS or max(size) > MAX_SIDE or (free is not None and needed > free):
        raise ArgumentError(
            f"expand: a canvas of {size[0]}x{size[1]} pixels is too large: give smaller margins, or"
            " make the init image smaller first"
        )


def mask_of_size(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask stretched to (width, height), with LANCZOS."""
    return mask if mask.size == size else mask.resize(size, Image.Resampling.LANCZOS)


def _inverted(mask: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.invert(mask)


def _required(mask: Image.Image | None, name: str) -> Image.Image:
    if mask is None:
        raise ArgumentError(f"{name} needs a mask")
    return mask
