"""Styles: turn a painted scene into a watercolor, pixel art or a pencil sketch."""

import numpy as np
from canvas import SIZE, Canvas, X, Y
from noise import field
from PIL import Image, ImageFilter
from scene import Scene

PAPER = np.array((250, 247, 240), np.float32)
#: Hatching with a period that the VAE's 8-pixel cell divides, so that every cell sees the same
#: strokes.
HATCH = 0.5 + 0.5 * np.sin(2 * np.pi * (X + Y) / 8)
CROSS = 0.5 + 0.5 * np.sin(2 * np.pi * (X - Y) / 8)
STEP = 16  # between the shades of pixel art


def finish(picture: Canvas, scene: Scene) -> np.ndarray:
    """The picture in the scene's style, uint8 (SIZE, SIZE, 3)."""
    color = np.clip(picture.color, 0, 255)
    if scene.style == "watercolor":
        color = watercolor(color, scene.stream("watercolor"))
    elif scene.style == "pixel art":
        color = pixel_art(color)
    elif scene.style == "pencil sketch":
        color = pencil_sketch(color, picture.ink)
    return np.clip(np.round(color), 0, 255).astype(np.uint8)


def blurred(color: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur, by way of 8-bit colours."""
    image = Image.fromarray(np.clip(color, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32)


def watercolor(color: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wavering shapes in washes of paint, darker where it gathers at edges, with a border."""
    dx, dy = ((field(rng, 9) - 0.5) * 9 for _ in range(2))
    at = np.clip(Y + dy, 0, SIZE - 1).astype(int), np.clip(X + dx, 0, SIZE - 1).astype(int)
    soft = blurred(color[at], 1.2)
    rim = np.abs(soft - blurred(soft, 3)).max(-1)
    wash = 0.60 + 0.42 * (0.7 * field(rng, 4) + 0.3 * field(rng, 8))
    paint = (
        PAPER
        - (PAPER - soft) * np.clip(wash, 0, 1)[..., None]
        - np.clip(rim * 0.9 - 3, 0, 22)[..., None]
    )
    border = (
        np.minimum(np.minimum(X, SIZE - 1 - X), np.minimum(Y, SIZE - 1 - Y)) - 6 - 8 * field(rng, 9)
    )
    return PAPER + (paint - PAPER) * np.clip(border / 3, 0, 1)[..., None]


def pixel_art(color: np.ndarray) -> np.ndarray:
    """Blocks of 4 pixels in a few shades."""
    blocks = color.reshape(SIZE // 4, 4, SIZE // 4, 4, 3).mean((1, 3))
    return np.round(blocks / STEP).repeat(4, 0).repeat(4, 1) * STEP


def pencil_sketch(color: np.ndarray, ink: np.ndarray | None) -> np.ndarray:
    """Outlines, tones and hatching of graphite on paper."""
    assert ink is not None
    tone = 1 - blurred(color, 1.5) @ np.array((0.3, 0.59, 0.11), np.float32) / 255
    tone -= np.clip(tone.mean() - 0.42, 0, 0.25)  # night is darker, yet readable
    strokes = HATCH * np.clip((tone - 0.3) * 1.1, 0, 0.36) + CROSS * np.clip(
        (tone - 0.62) * 1.2, 0, 0.22
    )
    shade = np.maximum(0.16 * tone + strokes, 0.74 * ink)
    return (250 - 196 * shade)[..., None].repeat(3, -1)
