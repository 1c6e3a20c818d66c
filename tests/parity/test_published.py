"""Directories of each family of published ONNX exports, unmodified, by `--runtime auto`.

The image is that of the float32 networks from which they are made, whose goldens are diffusers'
(tests/parity/test_pipelines.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import lcmcore
from lcmcore.cli.main import main

from . import published
from .bundles import assemble

SIDE = 64  # a multiple of what Stable Diffusion's UNet needs, which is taken without a config
EXACT, HALF = 1e-4, 0.05
FAMILIES: list[tuple[Callable[[Path], None], str, float]] = [
    (published.optimum_now, "lcm", EXACT),
    (published.optimum_2023, "lcm", EXACT),
    (published.olive, "lcm", HALF),
    (published.amuse, "lcm", HALF),
    (published.onnx_web, "sd", EXACT),
    (published.onnx_web_half, "sd", HALF),
]


def draw(root: Path) -> NDArray[np.float32]:
    init = np.random.default_rng(0).uniform(0, 1, (SIDE, SIDE, 3))
    with lcmcore.load(root, runtime="auto", threads=1) as pipe:
        pixels: NDArray[np.float32] = pipe(
            "a snow tree", image=init, strength=0.75, seed=3, width=SIDE, height=SIDE,
            guidance_scale=1.0, output_type="np",
        ).images  # fmt: skip
    return pixels


@pytest.mark.parametrize(("make", "plain", "tolerance"), FAMILIES, ids=lambda each: str(
    getattr(each, "__name__", "")))  # fmt: skip
def test_published_export_draws(
    tmp_path: Path, make: Callable[[Path], None], plain: str, tolerance: float
) -> None:
    make(tmp_path / "model")
    expected = draw(assemble(plain, tmp_path / "plain"))
    off = np.abs(draw(tmp_path / "model") - expected).max()
    assert off < tolerance
    assert tolerance == EXACT or off > EXACT, "nothing was in half precision"


def test_what_an_amuse_directory_lacks_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints the warning, and `lcm info` describes the whole directory."""
    root = tmp_path / "model"
    published.amuse(root)
    words = ["txt2img", "a tree", "-o", str(tmp_path / "a.png"), "--model", str(root)]
    with caplog.at_level(logging.WARNING, "lcmcore"):
        assert main([*words, "--size=64x64", "--guidance=1", "--runtime=auto"]) == 0
    (warned,) = [line for line in caplog.messages if line.startswith("no ")]
    assert warned == (
        f"no {root}/scheduler/scheduler_config.json: that of Stable Diffusion 1 is used,"
        " which predicts epsilon"
    )
    assert main(["info", str(root)]) == 0
    described = capsys.readouterr().out
    line = "  scheduler: none here, Stable Diffusion 1's is used: scaled_linear betas"
    assert line in described
    assert described.count("    model.onnx\n") == 4
