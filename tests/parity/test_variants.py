"""Bundles in the forms that exporters have given them, each against the same goldens.

Golden: tests/goldens/pipelines.py, again with `make goldens`; the forms: variants.py.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

import lcmcore

from . import variants
from .bundles import assemble
from .cases import TOLERANCE, distance, draw

IMAGE, TEXT = "rescale batch", "text batch"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return assemble("lcm", tmp_path / "bundle")


@pytest.mark.parametrize("variant", variants.EXACT, ids=lambda variant: variant.__name__)
def test_same_image(bundle: Path, variant: Callable[[Path], None]) -> None:
    variant(bundle)
    with lcmcore.load(bundle, runtime="onnx", threads=1) as pipe:
        for name in (IMAGE, TEXT):
            assert distance(draw(pipe, name), name) < TOLERANCE


def test_all_variants_at_once(bundle: Path) -> None:
    variants.timestep_of_batch(bundle)
    variants.int32_ids(bundle)
    variants.latents_of_four_channels(bundle)
    variants.fixed_size(bundle)
    variants.external_data(bundle)
    with lcmcore.load(bundle, runtime="onnx", threads=1) as pipe:
        assert distance(draw(pipe, IMAGE), IMAGE) < TOLERANCE


def test_fixed_size_runs_a_batch_one_by_one(bundle: Path) -> None:
    variants.fixed_size(bundle)
    with lcmcore.load(bundle, runtime="onnx", threads=1) as pipe:
        for name in (IMAGE, "rescale 3 of each", "text 1 step"):
            assert distance(draw(pipe, name), name) < TOLERANCE


def test_a_fixed_size_is_the_default_and_serves_others_by_tiles(bundle: Path) -> None:
    variants.fixed_size(bundle)
    with lcmcore.load(bundle, runtime="onnx", threads=1) as pipe:
        assert draw(pipe, "text batch").shape[1:3] != (32, 32)
        assert pipe("a snow tree", output_type="np").images.shape == (1, 32, 32, 3)


def test_half_precision(bundle: Path) -> None:
    """float16 holds 11 bits: what goes in and out of the networks is off by a thousandth or so."""
    variants.half_precision(bundle)
    with lcmcore.load(bundle, runtime="onnx", threads=1) as pipe:
        off = distance(draw(pipe, IMAGE), IMAGE)
    assert TOLERANCE < off < 0.05
