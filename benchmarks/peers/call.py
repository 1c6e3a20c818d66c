"""The call that every contestant makes.

All of them run the UNet STEPS times: diffusers' LCM img2img spreads all its steps over the part of
the schedule below the strength, which is lcmcore's strength_mode "rescale". Same timesteps, same
noise and a latent sampled from the encoder make it the same picture.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

Generate: TypeAlias = Callable[[str, str, int], tuple[Any, int]]
"""Prompt, path of the init image and seed to picture [height, width, 3] and runs of the UNet."""

STEPS = 4
STRENGTH = 0.5
GUIDANCE = 8.5
SEED = 7

PROMPTS = (  # the first picture's, then those of the warm pictures that change prompt and image
    "a snowy landscape with mountains and a lake at night",
    "a green meadow with a house at sunset",
    "a watercolor of a desert with a cactus",
    "a forest with a river at dawn",
)
WARM = len(PROMPTS) - 1  # warm pictures of each kind
