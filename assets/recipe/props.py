"""What stands on the ground: a house, trees, cactuses."""

import numpy as np
from canvas import Canvas, Point, X, Y, box, coverage
from palette import BARK, CACTUS, DOOR, FOLIAGE, GLASS, LAMP, ROOFS, SNOWY, WALLS, Palette
from scene import Scene


def rectangle(x0: float, y0: float, x1: float, y1: float) -> tuple[str, list[Point]]:
    """A rectangle as a shape for Canvas.shapes."""
    return "polygon", [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def disc(x: float, y: float, radius: float) -> tuple[str, list[Point]]:
    """A disc as a shape for Canvas.shapes."""
    return "ellipse", [(x - radius, y - radius), (x + radius, y + radius)]


def paint_shadow(picture: Canvas, colors: Palette, foot: Point, width: float) -> None:
    """Darken the ground under a thing."""
    x, y = foot
    where = box(x - width, y - width / 3, x + width, y + width / 3)
    distance = np.hypot((X[where] - x) / width, (Y[where] - y) / width * 3.4)
    part = picture.color[where]
    part *= 1 - 0.26 * colors.relief * coverage(1 - distance, 0.9)[..., None]


def paint_house(picture: Canvas, scene: Scene, colors: Palette, foot: Point, width: float) -> None:
    """A cottage: wall, door, two windows, a roof with a chimney."""
    rng = scene.stream("house")
    x, y = foot
    half, height, eave = width / 2, width * 0.42, width * 0.09
    peak = y - height - width * 0.36
    wall = colors.lit(WALLS[int(rng.integers(len(WALLS)))])
    roof = colors.lit(ROOFS[int(rng.integers(len(ROOFS)))])
    cap = colors.lit(SNOWY) if scene.place == "snow" and colors.relief else roof
    lamp = scene.time in ("night", "sunset")
    glass = np.asarray(LAMP, np.float32) if lamp else colors.lit(GLASS)
    paint_shadow(picture, colors, (x, y), width * 0.75)
    picture.shapes([rectangle(x + half * 0.3, peak - 3, x + half * 0.58, y - height)], roof * 0.8)
    picture.shapes([rectangle(x - half, y - height, x + half, y)], wall)
    left, right = x - half - eave, x + half + eave
    picture.shapes(
        [
            (
                "polygon",
                [
                    (left, y - height),
                    (x - half * 0.62, peak),
                    (x + half * 0.62, peak),
                    (right, y - height),
                ],
            )
        ],
        cap,
    )
    picture.shapes(
        [rectangle(x - width * 0.09, y - height * 0.66, x + width * 0.09, y)], colors.lit(DOOR)
    )
    for side in (-1, 1):
        middle = x + side * width * 0.31
        window = rectangle(
            middle - width * 0.085, y - height * 0.68, middle + width * 0.085, y - height * 0.28
        )
        picture.shapes([window], glass)


def paint_tree(
    picture: Canvas,
    scene: Scene,
    colors: Palette,
    rng: np.random.Generator,
    foot: Point,
    size: float,
) -> None:
    """A tree of the scene's kind, `size` pixels high."""
    paint_shadow(picture, colors, foot, size * 0.3)
    if scene.trees == "bare":
        paint_bare(picture, colors, rng, foot, size)
    elif scene.trees == "pine":
        paint_pine(picture, scene, colors, rng, foot, size)
    elif scene.place == "desert":
        paint_cactus(picture, colors, rng, foot, size)
    else:
        paint_round(picture, scene, colors, rng, foot, size)


def paint_pine(
    picture: Canvas,
    scene: Scene,
    colors: Palette,
    rng: np.random.Generator,
    foot: Point,
    size: float,
) -> None:
    """Three tiers of needles on a short trunk; the right half darker, snow on top in winter."""
    x, y = foot
    green = colors.lit(FOLIAGE[scene.place][0]) * rng.uniform(0.9, 1.12)
    picture.shapes(
        [rectangle(x - size * 0.045, y - size * 0.18, x + size * 0.045, y)], colors.lit(BARK)
    )
    tiers = [
        (y - size * (0.12 + 0.24 * i), size * (0.29 - 0.065 * i), size * 0.4) for i in range(3)
    ]
    picture.shapes([("polygon", [(x - w, b), (x + w, b), (x, b - h)]) for b, w, h in tiers], green)
    if colors.relief:
        halves = [("polygon", [(x, b), (x + w, b), (x, b - h)]) for b, w, h in tiers]
        picture.shapes(halves, green * 0.8, outline=False)
        if scene.place == "snow":
            tops = [
                ("polygon", [(x - w * 0.5, b - h * 0.5), (x + w * 0.5, b - h * 0.5), (x, b - h)])
                for b, w, h in tiers
            ]
            picture.shapes(tops, colors.lit(SNOWY), outline=False)


def paint_round(
    picture: Canvas,
    scene: Scene,
    colors: Palette,
    rng: np.random.Generator,
    foot: Point,
    size: float,
) -> None:
    """A crown of round puffs with a lighter heart, on a trunk."""
    x, y = foot
    size *= 0.86
    green = colors.lit(FOLIAGE[scene.place][1]) * rng.uniform(0.9, 1.12)
    picture.shapes(
        [rectangle(x - size * 0.05, y - size * 0.4, x + size * 0.05, y)], colors.lit(BARK)
    )
    puffs = [(-0.17, -0.48, 0.17), (0.17, -0.48, 0.17), (0.0, -0.68, 0.2), (0.0, -0.46, 0.18)]
    crown = [
        disc(x + dx * size, y + dy * size, r * size * rng.uniform(0.9, 1.1)) for dx, dy, r in puffs
    ]
    picture.shapes(crown, green)
    if colors.relief:
        picture.shapes(
            [disc(x - size * 0.06, y - size * 0.62, size * 0.14)],
            np.minimum(green * 1.16, 255),
            outline=False,
        )


def paint_cactus(
    picture: Canvas, colors: Palette, rng: np.random.Generator, foot: Point, size: float
) -> None:
    """A column with an arm on each side."""
    x, y = foot
    size *= 0.74
    thick = size * 0.085
    mirror = 1 if rng.random() < 0.5 else -1
    shapes = [
        rectangle(x - thick, y - size + thick, x + thick, y),
        disc(x, y - size + thick, thick),
    ]
    for side, low, high in ((mirror, 0.36, 0.72), (-mirror, 0.5, 0.8)):
        out = x + side * size * 0.25
        a, b = sorted((x, out))
        shapes += [rectangle(a, y - size * low - thick, b, y - size * low + thick * 0.7)]
        shapes += [
            rectangle(
                out - thick * 0.85,
                y - size * high,
                out + thick * 0.85,
                y - size * low + thick * 0.2,
            )
        ]
        shapes += [
            disc(out, y - size * high, thick * 0.85),
            disc(out, y - size * low - thick * 0.1, thick * 0.85),
        ]
    picture.shapes(shapes, colors.lit(CACTUS) * rng.uniform(0.9, 1.1))


def paint_bare(
    picture: Canvas, colors: Palette, rng: np.random.Generator, foot: Point, size: float
) -> None:
    """A forking trunk without leaves."""
    shapes: list[tuple[str, list[Point]]] = []

    def grow(x: float, y: float, angle: float, length: float, width: float, forks: int) -> None:
        dx, dy = np.cos(angle), -np.sin(angle)
        x1, y1 = x + dx * length, y + dy * length
        end = max(width * 0.7, 1.2)
        corners = [
            (x - dy * width, y + dx * width),
            (x1 - dy * end, y1 + dx * end),
            (x1 + dy * end, y1 - dx * end),
        ]
        shapes.append(("polygon", [*corners, (x + dy * width, y - dx * width)]))
        if forks:
            for turn in (rng.uniform(0.3, 0.6), -rng.uniform(0.3, 0.6)):
                grow(x1, y1, angle + turn, length * 0.74, end, forks - 1)

    grow(*foot, np.pi / 2 + rng.normal(0, 0.06), size * 0.34, max(size * 0.04, 1.4), 3)
    picture.shapes(shapes, colors.lit(BARK) * 0.92)
