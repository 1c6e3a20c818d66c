"""Float images against diffusers' pipelines, on tiny networks of random weights.

Golden: tests/goldens/pipelines.py, networks: tiny.py, again with `make goldens`. "rescale" is
LatentConsistencyModelImg2ImgPipeline, "truncate" StableDiffusionImg2ImgPipeline with LCMScheduler,
"text" LatentConsistencyModelPipeline (StableDiffusionPipeline for the `sd` bundle).
"""

from collections.abc import Iterator

import numpy as np
import pytest

import lcmcore
from lcmcore.pipeline import Pipeline

from .bundles import assemble
from .cases import ARRAYS, CASES, TOLERANCE, distance, draw


@pytest.fixture(scope="module")
def pipes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pipeline]]:
    opened = {
        name: lcmcore.load(assemble(name, tmp_path_factory.mktemp(name)), runtime="onnx", threads=1)
        for name in ("lcm", "sd", "taesd")
    }
    yield opened
    for pipe in opened.values():
        pipe.close()


@pytest.mark.parametrize("name", CASES)
def test_same_image_as_diffusers(pipes: dict[str, Pipeline], name: str) -> None:
    pixels = draw(pipes[CASES[name]["bundle"]], name)
    assert distance(pixels, name) < TOLERANCE


def test_every_argument_changes_the_golden() -> None:
    """Two calls that differ in one thing must differ by far more than the tolerance."""
    pairs = (
        ("rescale", "rescale sample"),
        ("rescale", "truncate"),
        ("rescale guidance 1", "rescale guidance 7.3"),
        ("guided", "guided sample"),
        ("text", "rescale"),
    )
    for one, other in pairs:
        assert np.abs(ARRAYS[one] - ARRAYS[other]).mean() > 100 * TOLERANCE, (one, other)


def test_an_image_of_a_batch_can_be_generated_alone(pipes: dict[str, Pipeline]) -> None:
    """Each item's seed, prompt and image belong together, as in diffusers' list of generators."""
    name = "rescale batch sample"
    call = dict(CASES[name]["call"])
    prompts, seeds = call.pop("prompt"), call.pop("seed")
    for index, image in enumerate(CASES[name]["images"]):
        alone = pipes["lcm"](
            prompts[index],
            ARRAYS[f"image/{image}"],
            seed=seeds[index],
            output_type="np",
            **call,
        )
        assert np.abs(alone.images[0] - ARRAYS[name][index]).max() < TOLERANCE
