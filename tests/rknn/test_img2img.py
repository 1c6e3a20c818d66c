"""The whole of img2img over the doubled device, from directories without tokenizer and lcm.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import lcmcore
from lcmcore.runtime import ENTRY_POINTS
from runtimes.onnx import OnnxRuntime
from runtimes.rknn import RknnRuntime
from tests.rknn import fixtures
from tests.rknn.double import RKNNLiteDouble

Lites = list[RKNNLiteDouble]


@pytest.fixture
def bundle(tiny: Path) -> Path:
    """config.json + model.rknn by component, and a scheduler; no tokenizer, no lcm.toml."""
    for component in fixtures.COMPONENTS:
        shutil.copy(fixtures.TINY / component / "config.json", tiny / component)
    shutil.copytree(fixtures.TINY / "scheduler", tiny / "scheduler")
    return tiny


def generate(root: Path, **choice: object) -> np.ndarray:
    init = np.random.default_rng(0).uniform(0, 1, (32, 48, 3))
    with lcmcore.load(root, tokenizer=fixtures.TINY / "tokenizer", **choice) as pipe:
        result = pipe(
            "a lake", image=init, strength=0.75, seed=3, width=48, height=32, output_type="np"
        )
    return np.asarray(result.images[0])


@pytest.fixture
def expected() -> np.ndarray:
    return generate(fixtures.TINY, runtime=OnnxRuntime())


def test_all_on_the_npu(bundle: Path, lites: Lites, expected: np.ndarray) -> None:
    np.testing.assert_allclose(generate(bundle, runtime=RknnRuntime()), expected, atol=1e-5)
    assert len(lites) == 4
    assert all(lite.released for lite in lites)


def test_encoder_as_onnx_runs_on_the_cpu(bundle: Path, lites: Lites, expected: np.ndarray) -> None:
    (bundle / "vae_encoder" / "model.rknn").unlink()
    shutil.copy(fixtures.TINY / "vae_encoder" / "model.onnx", bundle / "vae_encoder")
    np.testing.assert_allclose(generate(bundle, runtime="auto"), expected, atol=1e-5)
    assert len(lites) == 3


@pytest.mark.slow
def test_with_little_memory_no_network_is_loaded_twice(
    bundle: Path, lites: Lites, expected: np.ndarray
) -> None:
    """Sizes and inputs are read from the files, without opening the networks."""
    np.testing.assert_allclose(
        generate(bundle, runtime=RknnRuntime(), memory="low"), expected, atol=1e-5
    )
    assert len(lites) == 4


@pytest.mark.slow
def test_lcm_toml_chooses_by_component(bundle: Path, lites: Lites, expected: np.ndarray) -> None:
    shutil.copy(fixtures.TINY / "vae_decoder" / "model.onnx", bundle / "vae_decoder")
    (bundle / "lcm.toml").write_text('[vae_decoder]\nruntime = "onnx"\n[unet]\ncore_mask = "0_1"\n')
    np.testing.assert_allclose(generate(bundle, runtime="auto"), expected, atol=1e-5)
    assert len(lites) == 3


def test_another_size_than_the_compiled_one_is_made_by_tiles(bundle: Path, lites: Lites) -> None:
    tokenizer = fixtures.TINY / "tokenizer"
    with lcmcore.load(bundle, runtime=RknnRuntime(), tokenizer=tokenizer) as pipe:
        assert pipe("a lake", seed=1).images[0].size == (48, 32)
        assert pipe("a lake", width=64, height=64, seed=1).images[0].size == (64, 64)


def test_runtimes_are_registered() -> None:
    from importlib.metadata import entry_points

    names = {entry.name for entry in entry_points(group=ENTRY_POINTS)}
    assert {"onnx", "rknn", "rknn-sim"} <= names
