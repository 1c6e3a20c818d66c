"""Colours of a landscape by place and time of day (RGB, 0 to 255)."""

from dataclasses import dataclass

import numpy as np
from scene import Scene

Color = np.ndarray

SKY = {  # at the top, half way down, at the horizon
    "day": ((48, 122, 214), (112, 180, 240), (206, 234, 250)),
    "sunset": ((72, 46, 124), (214, 92, 96), (255, 190, 96)),
    "dawn": ((122, 148, 214), (204, 188, 222), (255, 216, 196)),
    "night": ((12, 16, 54), (24, 36, 92), (58, 76, 136)),
}
LIGHT = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.0, 0.74, 0.6),
    "dawn": (0.95, 0.87, 0.91),
    "night": (0.44, 0.5, 0.7),
}
SUN = {
    "day": (255, 247, 196),
    "sunset": (255, 236, 160),
    "dawn": (255, 246, 220),
    "night": (246, 243, 222),
}
CLOUD = {  # lit from above, shaded below
    "day": ((255, 255, 255), (206, 222, 240)),
    "sunset": ((255, 190, 152), (196, 98, 128)),
    "dawn": ((255, 240, 232), (214, 190, 220)),
    "night": ((96, 108, 160), (52, 62, 116)),
}
WATER = {
    "day": (54, 128, 206),
    "sunset": (150, 84, 116),
    "dawn": (148, 164, 210),
    "night": (26, 44, 100),
}

GROUND = {  # far, near
    "meadow": ((150, 200, 92), (78, 150, 56)),
    "autumn": ((228, 166, 70), (184, 100, 36)),
    "snow": ((246, 250, 255), (208, 224, 242)),
    "desert": ((244, 210, 144), (214, 160, 92)),
    "forest": ((72, 128, 74), (34, 84, 52)),
}
ROCK = {  # lit, shaded
    "meadow": ((138, 146, 166), (86, 96, 122)),
    "autumn": ((164, 138, 134), (110, 88, 94)),
    "snow": ((164, 180, 208), (112, 130, 168)),
    "desert": ((214, 132, 88), (156, 82, 60)),
    "forest": ((108, 128, 138), (66, 84, 100)),
}
SNOW_LINE = {
    "meadow": 0.26,
    "autumn": 0.2,
    "snow": 0.6,
    "desert": 0.0,
    "forest": 0.26,
}  # of a peak's height
FOLIAGE = {  # pine, round
    "meadow": ((40, 100, 64), (80, 152, 60)),
    "autumn": ((108, 98, 46), (216, 96, 36)),
    "snow": ((56, 102, 90), (204, 220, 236)),
    "desert": ((60, 108, 66), (64, 134, 72)),
    "forest": ((36, 92, 58), (56, 124, 62)),
}
SHORE = {"snow": (160, 182, 208), "desert": (178, 128, 74)}
BARK, CACTUS, SNOWY = (98, 72, 54), (64, 134, 72), (240, 245, 252)
WALLS = ((232, 212, 178), (238, 232, 220), (206, 162, 126))
ROOFS = ((176, 64, 50), (146, 80, 56), (92, 84, 120))
DOOR, GLASS, LAMP = (110, 70, 46), (104, 146, 180), (255, 224, 124)


@dataclass(frozen=True)
class Palette:
    """Colours of one scene. `relief` scales all shading: 0 for a flat scribble, else 1."""

    sky: np.ndarray
    light: Color
    sun: Color
    cloud: np.ndarray
    water: Color
    shore: Color
    ground: np.ndarray
    rock: np.ndarray
    relief: float

    def lit(self, color: object) -> Color:
        """A colour as it looks in this light."""
        return np.asarray(color, np.float32) * self.light


def palette(scene: Scene) -> Palette:
    """Colours of the scene's place and time; those of a flat scene are far off."""
    rng = scene.stream("palette")
    spread = 42.0 if scene.flat and rng.random() < 0.7 else 5.0

    def shifted(color: object) -> np.ndarray:
        color = np.asarray(color, np.float32)
        return np.clip(color + rng.normal(0, spread, 3).astype(np.float32), 0, 255)

    light = np.asarray(LIGHT[scene.time], np.float32)
    return Palette(
        sky=shifted(SKY[scene.time]),
        light=light,
        sun=np.asarray(SUN[scene.time], np.float32),
        cloud=shifted(CLOUD[scene.time]),
        water=shifted(WATER[scene.time]),
        shore=shifted(SHORE.get(scene.place, (104, 92, 68))) * light,
        ground=shifted(GROUND[scene.place]) * light,
        rock=shifted(ROCK[scene.place]) * light,
        relief=0.0 if scene.flat else 1.0,
    )
