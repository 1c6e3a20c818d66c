"""Rewritten networks in half precision, in the simulator, beside the same in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lcmcore.bundle import demo_dir
from lcmcore.util.arrays import Array
from runtimes.rknn.rewrites.attention import downsample_keys
from runtimes.rknn.rewrites.time_embedding import time_embedding
from runtimes.rknn.rewrites.upsample_conv import upsample_conv
from runtimes.rknn.toolkit import Toolkit
from tests.rknn.rewrites.contexts import feed, folded, rewritten, run
from tests.rknn.rewrites.test_upsample_conv import upsampling

MIN_DECIBELS = 55.0
TIMESTEPS = (999, 759, 499, 259)


def decibels(got: Array, expected: Array) -> float:
    """Signal to noise."""
    noise = np.square(got - expected, dtype=float).sum()
    return float(10 * np.log10(np.square(expected, dtype=float).sum() / noise))


def simulated(path: Path, timesteps: tuple[int, ...] = (499,)) -> list[float]:
    """Decibels of half precision to float32, at each timestep."""
    inputs = feed(path)
    found = []
    with Toolkit("network") as toolkit:
        toolkit.build(path, {name: each.shape for name, each in inputs.items()}, "rk3588")
        for timestep in timesteps:
            inputs = feed(path, timestep)
            expected = run(path, inputs)
            (got,) = toolkit.run(list(inputs.values()))
            found.append(decibels(got.reshape(expected.shape), expected))
    return found


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folded(demo_dir(), "unet", (128, 128), tmp_path_factory.mktemp("unet"))


def test_a_table_of_sines_is_closer_to_float32(unet: Path) -> None:
    changed, _ = rewritten(unet, time_embedding)
    before, after = simulated(unet, TIMESTEPS), simulated(changed, TIMESTEPS)
    print([f"{a:.1f} -> {b:.1f} dB" for a, b in zip(before, after, strict=True)])
    assert min(after) >= MIN_DECIBELS
    assert np.mean(after) >= np.mean(before) + 2


def test_downsampled_keys_in_half_precision(unet: Path) -> None:
    changed, line = rewritten(rewritten(unet, time_embedding)[0], downsample_keys)
    assert line.startswith("keys and values of 16 tokens instead of 64")
    assert min(simulated(changed)) >= MIN_DECIBELS


def test_upsampling_in_half_precision(tmp_path: Path) -> None:
    changed, line = rewritten(upsampling(tmp_path / "model.onnx", (1, 128, 16, 24)), upsample_conv)
    assert line
    assert min(simulated(changed)) >= MIN_DECIBELS
