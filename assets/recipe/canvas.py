"""A picture under way: colours, and the ink lines round what was painted."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SIZE = 256
Y, X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)

Point = tuple[float, float]
Box = tuple[slice, slice]
EVERYWHERE: Box = (slice(0, SIZE), slice(0, SIZE))


def rows(first: float, last: float = SIZE) -> Box:
    """The part of the canvas between two rows."""
    return box(0, first, SIZE, last)


def box(x0: float, y0: float, x1: float, y1: float) -> Box:
    """The part of the canvas within a rectangle, at least a pixel large."""
    x0, y0 = (int(np.clip(v, 0, SIZE - 1)) for v in (x0, y0))
    x1, y1 = (int(np.clip(np.ceil(v), low + 1, SIZE)) for v, low in ((x1, x0), (y1, y0)))
    return slice(y0, y1), slice(x0, x1)


def coverage(distance: np.ndarray, blur: float = 1.0) -> np.ndarray:
    """Mask in [0, 1] from a distance in pixels, positive inside; the edge is `blur` wide."""
    return np.clip(distance / blur + 0.5, 0, 1)


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Go from colour a to colour b."""
    share = np.asarray(share, np.float32)
    return a + (b - a) * (share[..., None] if share.ndim else share)


def softened(mask: np.ndarray) -> np.ndarray:
    """Mean over 3x3 pixels, the border repeated."""
    mask = np.pad(mask, 1, "edge")
    mask = mask[:-2] + mask[1:-1] + mask[2:]
    return (mask[:, :-2] + mask[:, 1:-1] + mask[:, 2:]) / 9


class Canvas:
    """Colours, float32 (SIZE, SIZE, 3) in 0 to 255; with `sketch` also ink in [0, 1]."""

    def __init__(self, sketch: bool = False) -> None:
        self.color = np.zeros((SIZE, SIZE, 3), np.float32)
        self.ink = np.zeros((SIZE, SIZE), np.float32) if sketch else None

    def paint(
        self, mask: np.ndarray, color: np.ndarray, where: Box = EVERYWHERE, outline: bool = True
    ) -> None:
        """Lay a colour over a part; a shape hides the ink behind it and gets a line round it."""
        part = self.color[where]
        part += (color - part) * mask[..., None]
        if self.ink is not None and outline:
            soft = softened(mask)
            ink = self.ink[where]
            ink *= 1 - mask
            np.maximum(ink, 4 * soft * (1 - soft), out=ink)

    def shapes(
        self, shapes: Sequence[tuple[str, Sequence[Point]]], color: np.ndarray, outline: bool = True
    ) -> None:
        """Paint the union of "polygon" and "ellipse" shapes, drawn at twice the size first."""
        points = np.array([point for _, points in shapes for point in points])
        where = box(*(points.min(0) - 3), *(points.max(0) + 3))
        top, left = where[0].start, where[1].start
        size = (where[1].stop - left, where[0].stop - top)
        mask = Image.new("L", (2 * size[0], 2 * size[1]))
        draw = ImageDraw.Draw(mask)
        for name, points in shapes:
            getattr(draw, name)([(2 * (x - left), 2 * (y - top)) for x, y in points], fill=255)
        alpha = np.asarray(mask.resize(size, Image.Resampling.BOX), np.float32) / 255
        self.paint(alpha, color, where, outline)
