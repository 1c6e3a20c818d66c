"""Golden noise: what torch.randn draws in sequence from one generator."""

import numpy as np
import torch

from .files import save_arrays

SEEDS = (
    *(0, 1, 42, 2**31, 2**32 - 1, 2**33 + 7, 2**63 - 1, 2**63, 2**64 - 1),
    *(-1, -42, -(2**63)),
)
# Fewer than sixteen (one at a time, an odd count leaves a spare), multiples of sixteen, and others.
SIZES = (1, 2, 15, 3, 16, 17, 5, 24, 31, 32, 250, 468)


def make() -> str:
    draws = {str(seed): _draw(seed) for seed in SEEDS}
    save_arrays("noise.npz", {"sizes": np.array(SIZES), **draws})
    return f"{len(SEEDS)} seeds, {len(SIZES)} draws each"


def _draw(seed: int) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.cat([torch.randn(size, generator=generator) for size in SIZES]).numpy()
