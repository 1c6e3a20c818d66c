"""Masks as clients send them: transparent where they repaint, as OpenAI says, or white."""

from __future__ import annotations

import io

from PIL import ImageChops

from lcmcore.image import read_image
from lcmcore.masks import read_mask


def white_mask(content: bytes) -> bytes:
    """A mask, white where the image is repainted, as an image file; raises ImageError.

    What has transparent pixels is repainted there, whatever colour they have; of other masks what
    is white.
    """
    on_white = read_image(content, "mask", "white")
    on_black = read_image(content, "mask", "black")
    clear = ImageChops.subtract(on_white, on_black).convert("L")  # 255 less alpha
    mask = clear if clear.getbbox() else read_mask(on_black)
    buffer = io.BytesIO()
    mask.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
