"""Images as an answer has them: the worker's PNG, or another format with the same record."""

from __future__ import annotations

import base64
import io

from PIL import Image

from lcmcore.errors import ArgumentError
from lcmcore.exif import encode_with_exif
from lcmcore.image_files.opening import open_image
from lcmcore.util.arrays import Pixels

FORMATS = ("png", "jpeg", "webp")
_SUFFIXES = {"jpeg": ".jpg", "webp": ".webp"}
_PREVIEW_QUALITY = 80
_NAME = "the worker's image"


def texts_of(png: bytes) -> dict[str, str]:
    """The record of a PNG that a worker made."""
    return _decoded(png)[1]


def _decoded(png: bytes) -> tuple[Image.Image, dict[str, str]]:
    """The image in RGB and its record."""
    with open_image(io.BytesIO(png), _NAME) as image:
        return image.convert("RGB"), dict(image.text)  # type: ignore[attr-defined]


def encoded(png: bytes, output_format: str) -> bytes:
    """A worker's PNG in one of FORMATS, with its record."""
    if output_format == "png":
        return png
    if output_format not in FORMATS:
        raise ArgumentError(f"output_format must be one of {', '.join(FORMATS)}")
    image, record = _decoded(png)
    return encode_with_exif(image, record, _SUFFIXES[output_format])


def encoded_preview(preview: Pixels, factor: int, output_format: str) -> bytes:
    """A preview, enlarged by that factor, in one of FORMATS."""
    image = Image.fromarray(preview)
    size = (image.width * factor, image.height * factor)
    buffer = io.BytesIO()
    options = {"compress_level": 1} if output_format == "png" else {"quality": _PREVIEW_QUALITY}
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, output_format.upper(), **options)
    return buffer.getvalue()


def base64_text(content: bytes) -> str:
    """The bytes in base64."""
    return base64.b64encode(content).decode("ascii")
