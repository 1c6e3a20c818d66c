"""The call that every contestant makes.

All of them run the UNet STEPS times: diffusers' LCM img2img spreads all its steps over the part of
the schedule below the strength, as lcmcore does with strength_mode "rescale". With the same
timesteps, the same noise and latents sampled from the encoder, the images are the same.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

Generate: TypeAlias = Callable[[str, str, int], tuple[Any, int]]
"""(prompt, path of the init image, seed) to (image [height, width, 3], number of UNet runs)."""

STEPS = 4
STRENGTH = 0.5
GUIDANCE = 8.5
SEED = 7

PROMPTS = (  # of the first image, then of the warm images that change prompt and init image
    "a snowy landscape with mountains and a lake at night",
    "a green meadow with a house at sunset",
    "a watercolor of a desert with a cactus",
    "a forest with a river at dawn",
)
WARM = len(PROMPTS) - 1  # warm images of each kind
