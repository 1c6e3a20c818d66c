"""Against the timesteps of diffusers. Golden: tests/goldens/schedules.py; again: `make goldens`.

"rescale" is LCMScheduler.set_timesteps with a strength (LCM img2img), "truncate" is
StableDiffusionImg2ImgPipeline.get_timesteps where steps times strength is whole.
"""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import pytest

from lcmcore.errors import ArgumentError
from lcmcore.scheduler import LCMScheduler

from .goldens import load_arrays

GOLDEN = load_arrays("schedules.npz")
Row = tuple[int, int, int, float, list[int]]


def _rows(mode: str) -> Iterator[Row]:
    ends = np.cumsum(GOLDEN[f"{mode}_lengths"])
    timesteps = np.split(GOLDEN[f"{mode}_timesteps"], ends[:-1])
    for (train, original, steps, strength), row in zip(
        GOLDEN[f"{mode}_cases"].tolist(), timesteps, strict=True
    ):
        yield int(train), int(original), int(steps), strength, row.tolist()


def _by_original(mode: str) -> list[tuple[int, int, list[Row]]]:
    grouped = groupby(_rows(mode), key=lambda row: row[:2])
    return [(train, original, list(rows)) for (train, original), rows in grouped]


@pytest.mark.parametrize(("train", "original", "rows"), _by_original("rescale"))
def test_rescale_is_lcm_img2img(train: int, original: int, rows: list[Row]) -> None:
    scheduler = LCMScheduler(num_train_timesteps=train)
    for _, _, steps, strength, expected in rows:
        if expected:
            got = scheduler.schedule(steps, strength, "rescale", original)
            assert got.tolist() == expected, (steps, strength)
        else:
            with pytest.raises(ArgumentError):
                scheduler.schedule(steps, strength, "rescale", original)


@pytest.mark.parametrize(("train", "original", "rows"), _by_original("truncate"))
def test_truncate_is_stable_diffusion_img2img(train: int, original: int, rows: list[Row]) -> None:
    scheduler = LCMScheduler(num_train_timesteps=train, original_inference_steps=original)
    for _, _, steps, strength, expected in rows:
        assert scheduler.schedule(steps, strength).tolist() == expected, (steps, strength)
