"""Scribbles of nothing in particular: flat areas, blobs and strokes, for the VAE alone."""

import numpy as np
from canvas import SIZE
from PIL import Image, ImageDraw


def scribble(seed: int) -> np.ndarray:
    """Draw what a user might: uint8 (256, 256, 3)."""
    rng = np.random.default_rng(seed)

    def color() -> tuple[int, ...]:
        return tuple(int(value) for value in rng.integers(0, 256, 3))

    def point() -> tuple[float, float]:
        x, y = rng.uniform(-30, 2 * SIZE + 30, 2)
        return float(x), float(y)

    image = Image.new("RGB", (2 * SIZE, 2 * SIZE), color())
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 10))):
        kind = rng.integers(4)
        if kind == 0:
            draw.polygon([point() for _ in range(int(rng.integers(3, 7)))], fill=color())
        elif kind == 1:
            (x, y), rx, ry = point(), rng.uniform(16, 160), rng.uniform(16, 120)
            draw.ellipse([x - rx, y - ry, x + rx, y + ry], fill=color())
        elif kind == 2:
            draw.rectangle([0, rng.uniform(160, 460), 2 * SIZE, 2 * SIZE], fill=color())
        else:
            stroke = [point() for _ in range(int(rng.integers(2, 6)))]
            draw.line(stroke, fill=color(), width=int(rng.integers(8, 36)), joint="curve")
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))
