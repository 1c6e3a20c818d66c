"""Pillow <-> tensor.

Tensors are NCHW float32 in [-1, 1], the VAE's input and output; the reference is diffusers'
`VaeImageProcessor`. Sizes are (width, height) as in Pillow, shapes (height, width) as in numpy.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from PIL import Image

from lcmcore.errors import ArgumentError, ImageError, reason_of
from lcmcore.image_files.opening import FORMATS, KNOWN, open_file, open_image
from lcmcore.image_files.rgb import is_lazy, to_rgb
from lcmcore.util.arrays import Array, Floats, Pixels
from lcmcore.util.validate import one_of

ImageLike: TypeAlias = "Image.Image | Array | bytes | str | os.PathLike[str]"

FITS = ("stretch", "cover", "contain")  # the first is the default
MAX_PIXELS = 2**27  # 134 million: more is taken for a decompression bomb
MAX_SIDE = 2**21  # Pillow takes 12 bytes a row beside the pixels, 48 for each to resize them
_LANCZOS = Image.Resampling.LANCZOS


def read_image(source: ImageLike, name: str = "image", background: str = "white") -> Image.Image:
    """An image from a path, encoded bytes, Pillow or an array: RGB, upright by its EXIF tag.

    `name` is what errors call it. Transparent pixels are laid over `background`; of an animation
    the first frame is taken. Of 16 bits a channel the upper 8 are kept; 32-bit integers are taken
    for 16-bit ones, floats for 0 to 1. Arrays are [height, width, 3], uint8, or floats in [0, 1].
    The result has no metadata.
    Raises ImageError if it is of none of the FORMATS, is damaged, has more than MAX_PIXELS, is a
    file of more than MAX_BYTES, needs more memory than is free, or would take Pillow too long
    (image_files/bombs.py); ArgumentError for another type, shape or dtype.
    """
    if isinstance(source, Image.Image):
        return _of_pillow(source, name, background)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), name, background)
    if isinstance(source, (str, os.PathLike)):
        return _read_file(os.fspath(source), background)
    raise ArgumentError(
        f"{name} must be a path, bytes, a Pillow image or an array, not {type(source).__name__}"
    )


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
    """Pixels of RGB images, each resized as by `fit_image`: [batch, height, width, 3].

    Of grey ones, [batch, height, width].
    """
    return np.stack([np.asarray(fit_image(image, size, fit)) for image in images])


def _contain(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """ImageOps.pad, but for two things: it rounds a very thin image away, which keeps a row here,
    and of uneven margins the larger is the upper one at some sizes; here always the lower one.
    """
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = (max(1, round(side * scale)) for side in image.size)
    canvas = Image.new(image.mode, size)
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


def _read_file(name: str, background: str) -> Image.Image:
    """Opened here, not by Pillow, which leaves a pipe open (Pillow 13), or finds none (10.1)."""
    try:
        with open_file(Path(name)) as stream:
            return _read(stream, name, background)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: is a folder, not an image") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be read: {reason_of(error)}") from error


def _read(stream: IO[bytes], name: str, background: str) -> Image.Image:
    with open_image(stream, name) as image:
        _require_size(image, name)
        return to_rgb(image, name, ours=True, background=background)


def _of_pillow(image: Image.Image, name: str, background: str) -> Image.Image:
    if is_lazy(image) and image.format not in FORMATS:  # to decode EPS starts Ghostscript
        raise ImageError(f"{name}: {image.format} is not a format that is read; {KNOWN}")
    _require_size(image, name)
    rgb = to_rgb(image, name, ours=False, background=background)
    return rgb.copy() if rgb.im is image.im else rgb


def _require_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} pixels are more than {MAX_PIXELS} (a decompression bomb?);"
            " make it smaller first"
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name}: {width}x{height} pixels: a side is longer than {MAX_SIDE};"
            " make it smaller first"
        )
    if not width or not height:
        raise ImageError(f"{name}: has no pixels ({width}x{height})")


def _from_array(array: Array, name: str) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ArgumentError(f"{name}: an array is [height, width, 3], not {list(array.shape)}")
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    if array.dtype.kind != "f" or not ((array >= 0) & (array <= 1)).all():
        raise ArgumentError(f"{name}: an array holds uint8, or floats from 0 to 1")
    return Image.fromarray((array * 255).round().astype(np.uint8))
