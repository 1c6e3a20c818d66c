"""Against diffusers' LCMScheduler. Golden: tests/goldens/trajectories.py; again: `make goldens`.

The golden holds what a fixed model answered at each step and the noise; the samples in between are
our own, so that an error would grow from step to step.
"""

from itertools import zip_longest
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lcmcore.scheduler import LCMScheduler

from .goldens import load_arrays, load_json

CONFIGS: dict[str, dict[str, Any]] = load_json("trajectories.json")
GOLDEN = load_arrays("trajectories.npz")


@pytest.fixture(params=CONFIGS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scheduler(name: str) -> LCMScheduler:
    return LCMScheduler.from_config(CONFIGS[name])


def test_alphas_cumprod(name: str, scheduler: LCMScheduler) -> None:
    expected = GOLDEN[f"{name}/alphas_cumprod"]
    np.testing.assert_allclose(scheduler.alphas_cumprod, expected, rtol=2e-6, atol=1e-9)


def test_trajectory(name: str, scheduler: LCMScheduler) -> None:
    golden = {key: GOLDEN[f"{name}/{key}"] for key in ("noise", "model_output", "denoised")}
    timesteps = scheduler.schedule(len(golden["noise"]))
    assert timesteps.tolist() == GOLDEN[f"{name}/timesteps"].tolist()
    clean = GOLDEN[f"{name}/clean"]
    sample = scheduler.add_noise(clean, golden["noise"][0], timesteps[0])
    _assert_close(sample, GOLDEN[f"{name}/start"])
    for index, (timestep, prev) in enumerate(zip_longest(timesteps, timesteps[1:])):
        noise = None if prev is None else golden["noise"][index + 1]
        output = golden["model_output"][index]
        sample, denoised = scheduler.step(output, timestep, prev, sample, noise)
        _assert_close(denoised, golden["denoised"][index])
        _assert_close(sample, GOLDEN[f"{name}/prev_sample"][index])


def _assert_close(got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
