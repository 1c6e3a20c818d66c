"""The guidance scale, as an input of a UNet that was distilled with it."""

from __future__ import annotations

import math

import numpy as np

from lcmcore.util.arrays import Floats
from lcmcore.util.validate import whole_number

MIN_WIDTH = 4


def guidance_embedding(guidance_scale: float, width: int) -> Floats:
    """The sinusoidal embedding of the guidance scale, float32 [width], for `timestep_cond`.

    Reference: `get_guidance_scale_embedding` of diffusers' LCM pipelines, after
    google-research/vdm; the networks were trained on `guidance_scale - 1`, times 1000. It needs two
    frequencies, so a width of 4 or more: raises ArgumentError for less.
    """
    whole_number("the width of timestep_cond", width, MIN_WIDTH, 2**16)
    half = width // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-math.log(1e4) / (half - 1))
    # Angles reach thousands of radians, so the last bit of a frequency shows. torch's float32 exp
    # rounds correctly, as double precision does; numpy's does not.
    frequencies = np.exp(exponents, dtype=np.float64).astype(np.float32)
    angles = np.float32(guidance_scale - 1) * np.float32(1000) * frequencies
    embedding = np.zeros(width, np.float32)
    embedding[: 2 * half] = np.concatenate([np.sin(angles), np.cos(angles)])
    return embedding
