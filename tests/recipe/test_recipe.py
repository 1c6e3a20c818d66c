"""The recipe of the demo model from the first image to a bundle, with next to no training.

It needs torch and diffusers: the environment that `make goldens` makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lcmcore

sys.path.insert(0, str(Path(__file__).parents[2] / "assets" / "recipe"))

import dataset
import distill
import export
import latents
import refine
import teacher
import training
import vae

pytestmark = pytest.mark.filterwarnings("default")  # torch and diffusers warn of one another


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the phases leave in their folder, trained for two steps each."""
    folder = tmp_path_factory.mktemp("run")
    phases = (
        (vae, vae.train_vae),
        (teacher, teacher.train_teacher),
        (distill, distill.distill),
        (refine, refine.refine),
    )
    dataset.make_dataset(folder, scenes=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "TILED", 1)
        for module, phase in phases:
            if module is teacher:
                patch.setattr(sys, "argv", ["latents.py", str(folder)])
                latents.main()
            patch.setattr(module, "BATCH", 8)
            training.launch(phase, folder, 2, 1.0)
    return folder


def test_from_the_first_image_to_a_bundle(run: Path, tmp_path: Path) -> None:
    export.export(run, tmp_path / "bundle")
    init = Image.new("RGB", (256, 256), "green")
    with lcmcore.load(tmp_path / "bundle") as pipeline:
        image = pipeline("a forest at dawn", image=init, strength=0.5, seed=1).images[0]
    assert image.size == (256, 256)


def test_the_autoencoder_is_normalized(run: Path) -> None:
    found = np.load(run / "latents.npy").astype(np.float32)
    assert np.abs(found.mean((0, 1, 3, 4))).max() < 0.5
    assert np.abs(found.std((0, 1, 3, 4)) - 1).max() < 0.5
