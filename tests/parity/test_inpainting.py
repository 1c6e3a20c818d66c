"""Images with masks against diffusers' StableDiffusionInpaintPipeline with LCMScheduler.

Golden: tests/goldens/inpainting.py, on the tiny networks; again: `make goldens`. With a crop they
are 8-bit images that the pipeline has laid over the init image; the others are floats, on which it
lays nothing (overlay=False).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lcmcore
from lcmcore.pipeline import Pipeline

from .bundles import assemble
from .goldens import load_arrays, load_json

CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in load_json("inpainting.json")}
ARRAYS = load_arrays("inpainting.npz")
TOLERANCE = 1e-4  # of pixels from 0 to 1
CROPPED = [name for name, case in CASES.items() if "padding_mask_crop" in case["call"]]


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pipeline]]:
    opened = {
        name: lcmcore.load(assemble(name, tmp_path_factory.mktemp(name)), runtime="onnx", threads=1)
        for name in ("lcm", "sd", "taesd")
    }
    yield opened
    for pipe in opened.values():
        pipe.close()


def draw(pipe: Pipeline, name: str, **options: Any) -> Any:
    """The images of the case's call."""
    case = CASES[name]
    images = [ARRAYS[f"image/{each}"] for each in case["images"]]
    masks = [ARRAYS[f"mask/{each}"] for each in case["masks"]]
    height, width = images[0].shape[:2]
    call = {"height": height, "width": width, **case["call"], **options}
    return pipe(image=images, mask_image=masks, **call).images


def distance(pixels: NDArray[Any], name: str) -> float:
    """The largest difference to the golden."""
    golden = ARRAYS[name]
    assert pixels.shape == golden.shape
    return float(np.abs(pixels.astype(np.float32) - golden.astype(np.float32)).max())


@pytest.mark.parametrize("name", [name for name in CASES if name not in CROPPED])
def test_same_image_as_diffusers(pipes: dict[str, Pipeline], name: str) -> None:
    pixels = draw(pipes[CASES[name]["bundle"]], name, output_type="np", overlay=False)
    assert distance(pixels, name) < TOLERANCE


def test_what_one_image_of_several_seeds_samples_is_what_each_seed_samples_alone(
    pipes: dict[str, Pipeline],
) -> None:
    """Here diffusers samples the init image's latents by the first of its generators alone."""
    options = {"output_type": "np", "overlay": False, "num_images_per_prompt": 2, "seed": [3, 42]}
    pixels = draw(pipes["lcm"], "sample", **options)
    assert distance(pixels[1:], "sample") < TOLERANCE


def test_every_argument_changes_the_golden() -> None:
    """Two calls that differ in one thing must differ by far more than the tolerance."""
    pairs = (
        ("hard 1", "white"),
        ("hard 1", "hard 0.75"),
        ("hard 0.75", "hard 0.5"),
        ("hard 0.75", "sample"),
        ("hard 0.75", "of another size"),
        ("blurred", "black"),
    )
    for one, other in pairs:
        assert np.abs(ARRAYS[one] - ARRAYS[other]).mean() > 100 * TOLERANCE, (one, other)
    crops = [ARRAYS[name].astype(int) for name in ("crop 0.75", "crop soft", "crop 0.5")]
    assert np.abs(crops[0] - crops[1]).max() > 10
    assert np.abs(crops[0] - crops[2]).max() > 10


@pytest.mark.parametrize("name", CROPPED)
def test_same_8_bit_image_of_a_crop_as_diffusers(pipes: dict[str, Pipeline], name: str) -> None:
    made = draw(pipes[CASES[name]["bundle"]], name)
    assert distance(np.stack([np.asarray(image) for image in made]), name) <= 1
