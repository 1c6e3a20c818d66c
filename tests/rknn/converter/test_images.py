"""The demo model in half precision, as the NPU computes it, beside the same on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

import lcmcore
from lcmcore.bundle import demo_dir
from tests.fixed_size import fix_size

Pixels: TypeAlias = "np.ndarray[Any, Any]"

MIN_PSNR = 45.0  # decibels; without a table of the timestep's sines 40.1
INIT = Path(__file__).parents[3] / "docs" / "pictures" / "scribble.png"
CASES = [
    ("a snowy landscape with mountains and a lake at night", 7),
    ("a sunny meadow with a house and trees, watercolor", 0),
    ("autumn hills under clouds at sunset", 42),
    ("a desert with dunes and cactus at noon, pixel art", 123456789),
    ("a forest by a river, pencil sketch", 2**33 + 8),
]


@pytest.fixture(scope="module")
def simulated() -> Iterator[lcmcore.Pipeline]:
    with lcmcore.load(demo_dir(), runtime="rknn-sim") as pipe:
        yield pipe


@pytest.fixture(scope="module")
def exact() -> Iterator[lcmcore.Pipeline]:
    with lcmcore.load(demo_dir(), runtime="onnx") as pipe:
        yield pipe


def generate(
    pipe: lcmcore.Pipeline, prompt: str, seed: int, image: Path | None
) -> np.ndarray[Any, Any]:
    result = pipe(prompt, image=image, strength=0.75, seed=seed, width=256, height=256)
    return np.asarray(result.images[0]).astype(np.float64)


def psnr(a: Pixels, b: Pixels) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a - b) ** 2), 1e-12)))


@pytest.mark.parametrize("image", [INIT, None], ids=["img2img", "txt2img"])
@pytest.mark.parametrize(("prompt", "seed"), CASES)
def test_half_precision_is_close_to_float32(
    simulated: lcmcore.Pipeline,
    exact: lcmcore.Pipeline,
    prompt: str,
    seed: int,
    image: Path | None,
) -> None:
    decibels = psnr(generate(simulated, prompt, seed, image), generate(exact, prompt, seed, image))
    print(f"{'txt2img' if image is None else 'img2img'}, seed {seed}: {decibels:.1f} dB")
    assert decibels >= MIN_PSNR


def test_same_seed_same_bytes(simulated: lcmcore.Pipeline) -> None:
    prompt, seed = CASES[0]
    first, second = (generate(simulated, prompt, seed, INIT) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_tiles_of_256_in_the_simulator_are_those_of_onnx_runtime(
    simulated: lcmcore.Pipeline, tmp_path: Path
) -> None:
    """The sizes on both sides of the networks': two tiles of the UNet, and padding below."""
    fixed = fix_size(demo_dir(), tmp_path / "fixed", (256, 256))
    prompt, seed = CASES[0]
    size = {"width": 384, "height": 192}
    with lcmcore.load(fixed, runtime="onnx") as exact_tiles:
        images = [
            np.asarray(pipe(prompt, INIT, 0.4, seed=seed, **size).images[0]).astype(np.float64)
            for pipe in (simulated, exact_tiles)
        ]
    assert images[0].shape == (192, 384, 3)
    print(f"by tiles: {psnr(*images):.1f} dB")
    assert psnr(*images) >= MIN_PSNR
