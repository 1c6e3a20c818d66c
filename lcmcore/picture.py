"""PNG files that say how they were made."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, PngImagePlugin

from lcmcore.errors import ImageError, first_line
from lcmcore.record import SOFTWARE


def encode_png(image: Image.Image, record: Mapping[str, str]) -> bytes:
    """The image as PNG with each entry of the record as a text chunk (iTXt, UTF-8)."""
    chunks = PngImagePlugin.PngInfo()
    for key, text in record.items():
        chunks.add_itxt(key, text.encode("utf-8", "replace").decode())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_record(path: Path) -> dict[str, str]:
    """The text chunks of a PNG that lcmcore made; raises ImageError for any other file."""
    try:
        with Image.open(path) as image:
            image.load()
            texts = {key: str(text) for key, text in getattr(image, "text", {}).items()}
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file or folder") from None
    except Exception as error:  # Pillow's plugins raise whatever they meet
        raise ImageError(f"{path}: not a picture: {first_line(error)}") from error
    if not texts.get(SOFTWARE, "").startswith("lcmcore ") or "prompt" not in texts:
        raise ImageError(f"{path}: holds no record of how it was made; lcmcore did not write it")
    return texts
