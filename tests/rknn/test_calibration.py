"""The inputs on which activations are measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lcmcore
from lcmcore.errors import ArgumentError, ImageError
from lcmcore.runtime import TensorSpec
from runtimes.rknn.calibration import Calibration, dead_leaves
from tests.rknn.fixtures import TINY

SIZE = (48, 32)
UNET = [
    TensorSpec("sample", (1, 4, 4, 6), "float32"),
    TensorSpec("timestep", (1,), "int64"),
    TensorSpec("encoder_hidden_states", (1, 77, 16), "float32"),
    TensorSpec("timestep_cond", (1, 256), "float32"),
]
PIXELS = [TensorSpec("sample", (1, 3, 32, 48), "float32")]
LATENTS = [TensorSpec("latent_sample", (1, 4, 4, 6), "float32")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def test_what_the_pipeline_would_give(root: Path) -> None:
    """Latents, embeddings, timesteps and guidance are those of a call."""
    samples, missing = Calibration(root, SIZE).samples("unet", UNET)
    assert missing == []
    assert [sample["timestep"].tolist() for sample in samples] == [[999], [759], [499], [259]]
    with lcmcore.load(root, runtime="onnx", graph_cache=False) as pipe:
        latents = pipe.encode_image(dead_leaves(SIZE, 0), SIZE)
        embeds = pipe.encode_prompt("a watercolor of a meadow")
        scaling_factor = np.float32(pipe.bundle.vae.scaling_factor)
    decoded, _ = Calibration(root, SIZE).samples("vae_decoder", LATENTS)
    scaled = decoded[0]["latent_sample"] * scaling_factor
    np.testing.assert_allclose(scaled, latents, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(samples[1]["encoder_hidden_states"], embeds, rtol=1e-4, atol=1e-5)
    for sample in samples:
        for spec in UNET:
            assert sample[spec.name].shape == spec.shape
            assert sample[spec.name].dtype == spec.dtype


def test_they_are_the_same_each_time(root: Path) -> None:
    one, other = (Calibration(root, SIZE).samples("unet", UNET)[0] for _ in range(2))
    for a, b in zip(one, other, strict=True):
        for name, array in a.items():
            np.testing.assert_array_equal(array, b[name])


def test_noise_stands_for_networks_that_are_missing(root: Path) -> None:
    for name in ("vae_encoder", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(root / name)
    samples, missing = Calibration(root, SIZE).samples("unet", UNET)
    found = [part.partition(" (")[0] for part in missing]
    assert sorted(found) == [
        "embeddings",
        "its latents",
        "the prompts' tokens",
        "the scheduler, of which the usual one is taken",
    ]
    assert 0.8 < np.std(samples[0]["encoder_hidden_states"]) < 1.2
    assert samples[0]["sample"].shape == (1, 4, 4, 6)


def test_the_users_images(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "notes.txt").write_text("no image")
    for name, color in (("b.png", 255), ("a.PNG", 0)):
        Image.new("RGB", (100, 40), (color,) * 3).save(folder / name)
    calibration = Calibration(root, SIZE, folder)
    samples, _ = calibration.samples("vae_encoder", PIXELS)
    assert [sample["sample"].mean() for sample in samples] == [-1, 1]
    assert len(calibration.digest) == 64
    assert Calibration(root, SIZE).digest == ""
    Image.new("RGB", (9, 9)).save(folder / "c.png")
    assert Calibration(root, SIZE, folder).digest != calibration.digest


def test_folders_that_cannot_be_used(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"--calibrate .*none: "):
        Calibration(root, SIZE, tmp_path / "none")
    (tmp_path / "images").mkdir()
    with pytest.raises(ArgumentError, match="has no images"):
        Calibration(root, SIZE, tmp_path / "images")
    (tmp_path / "images" / "a.png").write_bytes(b"broken")
    with pytest.raises(ImageError, match=r"a\.png"):
        Calibration(root, SIZE, tmp_path / "images").samples("vae_encoder", PIXELS)


def test_drawn_images_have_the_statistics_of_photos() -> None:
    """Power falls with about the square of the frequency, as in photos."""
    gray = np.asarray(dead_leaves((256, 256), 0).convert("L"), np.float64)
    power = np.abs(np.fft.fft2(gray - gray.mean())) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(256, 1 / 256)] * 2))
    bands = [power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (4, 8, 16, 32)]
    slopes = np.diff(np.log2(bands))
    assert slopes.min() > -3.2
    assert slopes.max() < -1
