"""A landscape in words: what its picture shows, before anything is drawn."""

import zlib
from dataclasses import dataclass, replace

import numpy as np

PLACES = ("meadow", "autumn", "snow", "desert", "forest")
TIMES = ("day", "sunset", "dawn", "night")
WATERS = ("none", "lake", "river")
TREES = ("none", "pine", "round", "bare")
STYLES = ("plain", "watercolor", "pixel art", "pencil sketch")

#: Attributes that a caption tells and that a picture must obey, with their classes.
ATTRIBUTES: dict[str, tuple[object, ...]] = {
    "place": PLACES,
    "time": TIMES,
    "mountains": (False, True),
    "water": WATERS,
    "trees": TREES,
    "house": (False, True),
    "clouds": (False, True),
    "style": STYLES,
}


@dataclass(frozen=True)
class Scene:
    """Attributes of a landscape, and the seed of everything that they leave open.

    Each part of the picture draws its random numbers from a stream of its own, so two scenes that
    share `seed` and differ in one attribute have the same layout. `flat` paints even areas of odd
    colours, as a user's scribble has.
    """

    seed: int
    place: str
    time: str
    mountains: bool
    water: str
    trees: str
    house: bool
    clouds: bool
    style: str
    flat: bool = False

    def stream(self, part: str) -> np.random.Generator:
        """Random numbers for one part of the picture."""
        return np.random.default_rng([self.seed, zlib.crc32(part.encode())])

    def classes(self) -> list[int]:
        """Index of the class of each attribute, in the order of ATTRIBUTES."""
        return [classes.index(getattr(self, name)) for name, classes in ATTRIBUTES.items()]


def sample(seed: int) -> Scene:
    """Draw the attributes of a scene."""
    rng = np.random.default_rng(seed)
    return Scene(
        seed=seed,
        place=str(rng.choice(PLACES)),
        time=str(rng.choice(TIMES)),
        mountains=bool(rng.random() < 0.6),
        water=str(rng.choice(WATERS, p=[0.45, 0.37, 0.18])),
        trees=str(rng.choice(TREES, p=[0.30, 0.28, 0.27, 0.15])),
        house=bool(rng.random() < 0.33),
        clouds=bool(rng.random() < 0.4),
        style=str(rng.choice(STYLES, p=[0.52, 0.16, 0.14, 0.18])),
    )


def counterpart(scene: Scene) -> Scene:
    """The same layout in other colours, as a user may hand it to img2img."""
    rng = scene.stream("counterpart")
    flat = bool(rng.random() < 0.5)
    return replace(
        scene,
        place=str(rng.choice(PLACES)) if rng.random() < 0.6 else scene.place,
        time=str(rng.choice(TIMES)),
        style="plain" if flat else str(rng.choice(STYLES)),
        flat=flat,
    )
