"""The `lcm` command on aarch64, against the images of ONNX Runtime on the host."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcmcore.bundle import demo_dir
from tests.board.images import CASES, arguments, size
from tests.board.machine import HOST, MODELS, lcm


def psnr(one: Path, other: Path) -> float:
    """Peak signal-to-noise ratio in dB of two images of the same size."""
    first, second = (np.asarray(Image.open(path), np.float64) for path in (one, other))
    assert first.shape == second.shape
    return float(10 * np.log10(255**2 / max(np.mean((first - second) ** 2), 1e-9)))


@pytest.mark.parametrize("case", CASES)
def test_board_image_matches_that_of_the_host(case: str, tmp_path: Path) -> None:
    output = tmp_path / "board.png"
    model = MODELS / size(case)
    done = lcm(*arguments(case, HOST, output), "--model", model, "--runtime", "rknn")
    assert done.returncode == 0, done.stderr
    agreement = psnr(output, HOST / f"{case}.png")
    print(f"{case}: {agreement:.1f} dB")
    assert agreement >= 40


def test_auto_runs_an_encoder_without_rknn_file_on_the_cpu(tmp_path: Path) -> None:
    case = "img2img-192x128"
    model, output = tmp_path / "mixed", tmp_path / "board.png"
    shutil.copytree(MODELS / "192x128", model)
    shutil.rmtree(model / "vae_encoder")
    shutil.copytree(demo_dir() / "vae_encoder", model / "vae_encoder")
    done = lcm(*arguments(case, HOST, output), "--model", model)
    assert done.returncode == 0, done.stderr
    assert psnr(output, HOST / f"{case}.png") >= 40


def test_quiet_silences_the_vendors_library(tmp_path: Path) -> None:
    words = arguments("txt2img-192x128", HOST, tmp_path / "board.png")
    done = lcm(*words, "--quiet", "--model", MODELS / "192x128", "--runtime", "rknn")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
