"""Paint a scene: sky, mountains, hills, water, then what stands on the ground, far to near.

A small f8 autoencoder must be able to hold the picture: clear silhouettes, soft shading, nothing
finer than a few pixels.
"""

import sys

import numpy as np
from canvas import SIZE, Canvas, X, Y, coverage, mix, rows
from noise import curve, field, zigzag
from palette import SNOW_LINE, SNOWY, Palette, palette
from PIL import Image
from props import paint_house, paint_tree
from scene import Scene, sample
from styles import finish


def render(scene: Scene) -> np.ndarray:
    """Paint a scene: uint8 (256, 256, 3). The same scene gives the same picture."""
    colors = palette(scene)
    picture = Canvas(sketch=scene.style == "pencil sketch")
    horizon = float(scene.stream("layout").uniform(0.42, 0.58)) * SIZE
    left = paint_sky(picture, scene, colors, horizon)
    if scene.clouds:
        paint_clouds(picture, scene, colors, horizon)
    if scene.mountains:
        paint_mountains(picture, scene, colors, horizon, left)
    first_hill = paint_hills(picture, scene, colors, horizon)
    dry = paint_water(picture, scene, colors, horizon, first_hill)
    paint_props(picture, scene, colors, horizon, dry)
    return finish(picture, scene)


def paint_sky(picture: Canvas, scene: Scene, colors: Palette, horizon: float) -> bool:
    """Sky with stars and the sun or the moon; says whether the light comes from the left."""
    rng = scene.stream("sky")
    height = np.clip(Y[:, :1] / horizon, 0, 1)
    top, middle, bottom = colors.sky
    if not colors.relief:
        top = bottom = middle
    picture.color[:] = mix(
        mix(top, middle, np.clip(height / 0.55, 0, 1)),
        bottom,
        np.clip((height - 0.55) / 0.45, 0, 1),
    )
    low = scene.time in ("sunset", "dawn")
    x = float(rng.uniform(0.12, 0.88)) * SIZE
    y = (
        horizon - SIZE * float(rng.uniform(0.05, 0.15))
        if low
        else float(rng.uniform(0.08, 0.22)) * SIZE
    )
    radius = float(rng.uniform(11, 16))
    distance = np.hypot(X - x, Y - y)
    if scene.time == "night":
        paint_stars(picture, rng, horizon, colors.relief)
    reach = 26.0 if scene.time == "night" else 44.0
    glow = (
        colors.relief
        * (0.3 if scene.time == "night" else 0.42)
        * np.exp(-np.maximum(distance - radius, 0) / reach)
    )
    picture.paint(glow, colors.sun, outline=False)
    picture.paint(coverage(radius - distance), colors.sun)
    return x < SIZE / 2


def paint_stars(picture: Canvas, rng: np.random.Generator, horizon: float, relief: float) -> None:
    """Dots of light above the horizon."""
    for _ in range(int(rng.integers(26, 44) * relief)):
        x, y, r = rng.uniform(4, SIZE - 4), rng.uniform(4, horizon), rng.uniform(0.9, 1.7)
        shade = np.full(3, rng.uniform(170, 255), np.float32)
        picture.shapes([("ellipse", [(x - r, y - r), (x + r, y + r)])], shade, outline=False)


def paint_clouds(picture: Canvas, scene: Scene, colors: Palette, horizon: float) -> None:
    """Heaps of round puffs on a flat base, lit from above."""
    rng = scene.stream("clouds")
    lit, shaded = colors.cloud
    for _ in range(int(rng.integers(2, 5))):
        cx, base = rng.uniform(0, SIZE), rng.uniform(0.16, 0.62) * horizon
        width = rng.uniform(34, 70) * (0.6 + 0.6 * base / horizon)
        where = rows(base - width, base + 12)
        x, y = X[where], Y[where]
        inside = np.full(x.shape, -np.inf, np.float32)
        for offset in np.linspace(-1, 1, int(rng.integers(4, 7))):
            r = width * (0.40 - 0.18 * abs(offset)) * rng.uniform(0.8, 1.15)
            inside = np.maximum(
                inside, r - np.hypot(x - cx - offset * width * 0.8, (y - base + r * 0.45) * 1.15)
            )
        mask = coverage(np.minimum(inside, base + 3 - y), 2.4) * 0.95
        shade = np.clip((y - base + width * 0.3) / (width * 0.4), 0, 1) * colors.relief
        picture.paint(mask, mix(lit, shaded, shade), where)


def paint_mountains(
    picture: Canvas, scene: Scene, colors: Palette, horizon: float, left: bool
) -> None:
    """One or two ranges of peaks with lit and shaded sides, snow on top and haze at the foot."""
    rng = scene.stream("mountains")
    base = horizon + 10
    ranges = int(rng.integers(1, 3))
    for layer in range(ranges):
        near = layer == ranges - 1
        count = int(rng.integers(3, 6))
        spots = (np.arange(count) + rng.uniform(0.15, 0.85, count)) / count * 1.1 - 0.05
        heights = (
            rng.uniform(0.34, 0.62, count) if near and ranges > 1 else rng.uniform(0.5, 0.84, count)
        )
        for i in np.argsort(-heights):
            top = base - heights[i] * horizon
            paint_peak(
                picture,
                scene,
                colors,
                rng,
                (spots[i] * SIZE, top, base),
                left,
                0.1 if near else 0.34,
            )


def paint_peak(
    picture: Canvas,
    scene: Scene,
    colors: Palette,
    rng: np.random.Generator,
    place: tuple[float, float, float],
    left: bool,
    haze: float,
) -> None:
    """One mountain; `place` is its top (x, y) and the row of its foot."""
    x, top, base = place
    height = base - top
    where = rows(top - 2, base + 8)
    depth = (Y[where] - top)[:, :1]
    steps = len(depth)
    rough = np.clip(depth / 30, 0.2, 1) * 6

    def flank(slope: float) -> np.ndarray:
        return depth * slope + rough * zigzag(rng, 17, steps)[:, None]

    west, east = x - flank(rng.uniform(0.75, 1.25)), x + flank(rng.uniform(0.75, 1.25))
    crest = x + depth * rng.uniform(-0.25, 0.25) + rough * zigzag(rng, 23, steps)[:, None]
    snow = height * SNOW_LINE[scene.place] * 0.9 + 8 * zigzag(rng, 17, SIZE)[None]
    inside = np.minimum(X[where] - west, east - X[where])
    mask = coverage(np.minimum(inside, depth + 0.5))
    side = coverage((X[where] - crest) * (1 if left else -1), 2.0) * colors.relief
    color = mix(colors.rock[0], colors.rock[1], side)
    if SNOW_LINE[scene.place]:
        white = mix(colors.lit(SNOWY), colors.lit(SNOWY) * 0.55 + colors.rock[1] * 0.45, side)
        color = mix(color, white, coverage(snow - depth, 1.6))
    far = (haze + 0.42 * np.clip(depth / height, 0, 1) ** 1.5) * colors.relief
    picture.paint(mask, mix(color, colors.sky[2], far), where)


def paint_hills(picture: Canvas, scene: Scene, colors: Palette, horizon: float) -> np.ndarray:
    """Rolling ground; returns the outline of the farthest hill, a row for each column."""
    rng = scene.stream("hills")
    count = int(rng.integers(3, 5))
    first = np.zeros(SIZE, np.float32)
    far, near = colors.ground
    for hill in range(count):
        share = hill / count
        ridge = horizon + (SIZE - horizon) * share**1.2 + (4 + 8 * share) * curve(rng, 3, 2)
        if hill == 0:
            first = ridge
            if scene.place == "forest" and colors.relief:
                paint_treeline(picture, scene.stream("treeline"), colors, ridge)
        where = rows(float(ridge.min()) - 2)
        depth = Y[where] - ridge
        slope = np.clip(np.gradient(ridge) * 0.7, -0.16, 0.16) * np.exp(-np.maximum(depth, 0) / 34)
        shade = (
            1.07
            - 0.26 * np.clip(depth / 62, 0, 1)
            + slope
            + 0.12 * (field(rng, 4, len(depth)) - 0.5)
        )
        color = mix(far, near, hill / (count - 1)) * (1 + colors.relief * (shade[..., None] - 1))
        picture.paint(coverage(depth / np.hypot(1, np.gradient(ridge))), color, where)
    return first


def paint_treeline(
    picture: Canvas, rng: np.random.Generator, colors: Palette, ridge: np.ndarray
) -> None:
    """A dark band of conifers behind a hill."""
    x, shapes = -6.0, []
    while x < SIZE + 6:
        foot = float(ridge[int(np.clip(x, 0, SIZE - 1))]) + 6
        width, height = rng.uniform(7, 11), rng.uniform(16, 30)
        shapes.append(("polygon", [(x - width, foot), (x + width, foot), (x, foot - height)]))
        x += rng.uniform(7, 12)
    picture.shapes(shapes, mix(colors.lit((34, 78, 56)), colors.sky[2], 0.16))


def paint_water(
    picture: Canvas, scene: Scene, colors: Palette, horizon: float, first_hill: np.ndarray
) -> np.ndarray:
    """A lake or a river; returns how far each pixel is from the water (negative in it)."""
    rng = scene.stream("water")
    span = SIZE - horizon
    if scene.water == "none":
        return np.full((SIZE, SIZE), SIZE, np.float32)
    if scene.water == "lake":
        cy, cx = horizon + span * rng.uniform(0.4, 0.62), SIZE * rng.uniform(0.3, 0.7)
        ry, rx = span * rng.uniform(0.2, 0.29), SIZE * rng.uniform(0.28, 0.44)
        angle = np.arctan2((Y - cy) / ry, (X - cx) / rx)
        shape = 1 + sum(
            rng.uniform(0.03, 0.07) * np.sin(n * angle + rng.uniform(0, 6.3)) for n in (2, 3)
        )
        inside = (shape - np.hypot((X - cx) / rx, (Y - cy) / ry)) * ry * 1.3
        top, bottom = cy - ry, cy + ry
    else:
        near = np.clip((Y - horizon) / span, 0, 1)
        bend = (
            rng.uniform(0.12, 0.2)
            * np.sin(near * rng.uniform(3, 6) + rng.uniform(0, 6.3))
            * (1 - 0.3 * near)
        )
        inside = (
            ((0.016 + 0.11 * near) - np.abs(X / SIZE - 0.5 - rng.uniform(-0.2, 0.2) - bend))
            * SIZE
            * 0.8
        )
        inside = np.minimum(inside, Y - first_hill - 3)
        top, bottom = horizon, SIZE
    where = rows(top - 12, bottom + 12)
    picture.paint(coverage(inside[where] + 3.0, 2.0), colors.shore, where)
    depth = np.clip((Y[where] - top) / (bottom - top), 0, 1)
    mirrored = mix(colors.sky[2], colors.sky[0], depth)
    surface = (
        mix(colors.water, mirrored, 0.42 * colors.relief)
        * (1 + colors.relief * (0.14 - 0.28 * depth))[..., None]
    )
    for _ in range(int(rng.integers(3, 6) * colors.relief)):
        y, x, width = (
            rng.uniform(top, bottom),
            SIZE * rng.uniform(0.1, 0.9),
            SIZE * rng.uniform(0.05, 0.14),
        )
        streak = coverage(2.2 - np.abs(Y[where] - y)) * coverage(width - np.abs(X[where] - x), 24.0)
        surface = surface + 34 * streak[..., None]
    picture.paint(coverage(inside[where]), surface, where)
    return -inside


def paint_props(
    picture: Canvas, scene: Scene, colors: Palette, horizon: float, dry: np.ndarray
) -> None:
    """House and trees on dry ground, far ones first."""
    rng = scene.stream("props")
    span = SIZE - horizon

    def is_dry(x: float, y: float, margin: float) -> bool:
        return bool(dry[int(np.clip(y, 0, SIZE - 1)), int(np.clip(x, 0, SIZE - 1))] > margin)

    house = (float("inf"), 0.0)
    for _ in range(60):
        x, y = SIZE * rng.uniform(0.16, 0.84), horizon + span * rng.uniform(0.26, 0.92)
        if scene.house:
            house = (x, y)
        if is_dry(x, y, 12) and is_dry(x - 26, y, 4) and is_dry(x + 26, y, 4):
            break
    standing = [(*house, True)] if scene.house else []
    if scene.trees != "none":
        rng = scene.stream("trees")
        for _ in range(int(rng.integers(4, 10))):
            for _ in range(10):
                x, y = SIZE * rng.uniform(0.04, 0.96), horizon + span * rng.uniform(0.1, 0.96)
                apart = all(abs(x - other[0]) > 17 or abs(y - other[1]) > 22 for other in standing)
                clear = abs(x - house[0]) > 46 or y < house[1] - 34
                if apart and clear and is_dry(x, y, 4):
                    standing.append((x, y, False))
                    break
    for x, y, is_house in sorted(standing, key=lambda prop: prop[1]):
        near = (y - horizon) / span
        if is_house:
            paint_house(picture, scene, colors, (x, y), 44 + 26 * near)
        else:
            paint_tree(
                picture, scene, colors, scene.stream(f"tree {x:.3f}"), (x, y), 28 + 58 * near
            )


def main() -> None:
    """Save a sheet of scenes: python painter.py SHEET.png [FIRST_SEED]."""
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    tiles = [render(sample(first + i)) for i in range(40)]
    sheet = np.concatenate([np.concatenate(tiles[i : i + 8], 1) for i in range(0, 40, 8)])
    Image.fromarray(sheet).save(sys.argv[1])


if __name__ == "__main__":
    main()
