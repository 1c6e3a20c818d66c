"""Init images of one size, in the working folder: one scribble in four variants."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from .environments import ROOT

_SCRIBBLE = ROOT / "docs" / "pictures" / "scribble.png"


def make(work: Path, size: int) -> list[Path]:
    """Paths of square PNGs, as many as there are prompts."""
    with Image.open(_SCRIBBLE) as file:
        scribble = file.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    images = (
        scribble,
        ImageOps.mirror(scribble),
        ImageOps.flip(scribble),
        ImageOps.invert(scribble),
    )
    folder = work / "images"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{size}-{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    return paths
