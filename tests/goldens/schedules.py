"""Golden schedules: the timesteps that diffusers would run for steps and strength."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import LCMScheduler, StableDiffusionImg2ImgPipeline

from .files import save_arrays

# num_train_timesteps, original_inference_steps
ORIGINALS = ((1000, 50), (1000, 25), (1000, 100), (1000, 30), (500, 50), (1000, 1000))
STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 25, 30, 50)
# Every twentieth, and some whose product with 50 or 100 floats just below a whole number.
STRENGTHS = (*(i / 20 for i in range(1, 21)), 0.01, 0.14, 0.28, 0.29, 0.56, 0.57, 0.58)
CUT_STRENGTHS = tuple(i / 100 for i in range(1, 101))

Case = tuple[int, int, int, float]


def make() -> str:
    rescale = [(*o, n, s) for o in ORIGINALS for n in STEPS for s in STRENGTHS]
    truncate = list(_whole_cuts())
    save_arrays(
        "schedules.npz",
        _table("rescale", rescale, map(_rescaled, rescale))
        | _table("truncate", truncate, map(_truncated, truncate)),
    )
    return f"{len(rescale)} rescaled, {len(truncate)} truncated"


def _rescaled(case: Case) -> list[int]:
    """LCM img2img; empty where diffusers refuses because too few timesteps are left."""
    train, original, steps, strength = case
    scheduler = LCMScheduler(num_train_timesteps=train)
    try:
        scheduler.set_timesteps(steps, original_inference_steps=original, strength=strength)
    except ValueError:
        return []
    return scheduler.timesteps.tolist()


def _truncated(case: Case) -> list[int]:
    """Stable Diffusion img2img."""
    train, original, steps, strength = case
    scheduler = LCMScheduler(num_train_timesteps=train, original_inference_steps=original)
    scheduler.set_timesteps(steps)
    pipeline = SimpleNamespace(scheduler=scheduler)
    timesteps, _ = StableDiffusionImg2ImgPipeline.get_timesteps(
        pipeline, steps, strength, torch.device("cpu")
    )
    return timesteps.tolist()


def _whole_cuts() -> Iterator[Case]:
    """Steps times strength is whole, and floats do not slip: there every rounding agrees."""
    for steps in range(1, 51):
        for strength in CUT_STRENGTHS:
            kept = Fraction(str(strength)) * steps
            if kept.denominator == 1 and int(steps * strength) == kept:
                yield 1000, 50, steps, strength


def _table(name: str, cases: list[Case], schedules: Iterable[list[int]]) -> dict[str, np.ndarray]:
    """Rows of unequal length, end to end with their lengths."""
    rows = list(schedules)
    return {
        f"{name}_cases": np.array(cases, np.float64),
        f"{name}_lengths": np.array([len(row) for row in rows]),
        f"{name}_timesteps": np.concatenate([np.array(row, np.int64) for row in rows]),
    }
