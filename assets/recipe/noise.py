"""Smooth random curves and fields."""

import numpy as np
from canvas import SIZE
from PIL import Image


def curve(rng: np.random.Generator, knots: int, octaves: int = 1, length: int = SIZE) -> np.ndarray:
    """A smooth curve, about -1 to 1; each octave doubles the knots and halves the height."""
    total = np.zeros(length, np.float32)
    for octave in range(octaves):
        count = knots * 2**octave
        heights = rng.uniform(-1, 1, count + 2).astype(np.float32)
        at = np.linspace(0, count, length, endpoint=False)
        low = at.astype(int)
        share = at - low
        share = share * share * (3 - 2 * share)
        total += (heights[low] * (1 - share) + heights[low + 1] * share) / 2**octave
    return total


def zigzag(rng: np.random.Generator, spacing: float, length: int) -> np.ndarray:
    """Straight lines between random heights in -1 to 1."""
    count = int(length / spacing) + 2
    return np.interp(
        np.arange(length), np.arange(count) * spacing, rng.uniform(-1, 1, count)
    ).astype(np.float32)


def field(rng: np.random.Generator, knots: int, height: int = SIZE) -> np.ndarray:
    """A smooth field of random values, about 0 to 1, with `knots` values across."""
    grid = rng.random((max(2, knots * height // SIZE) + 1, knots + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((SIZE, height), Image.Resampling.BICUBIC))
