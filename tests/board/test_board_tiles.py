"""The VAE by tiles on three instances, one a core, as `instances` in lcm.toml asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lcmcore
from lcmcore.errors import NetworkError
from tests.board.images import arguments
from tests.board.machine import HOST, MODELS, lcm
from tests.board.test_board_images import psnr

CASE, MODEL = "img2img-256x256", MODELS / "tiles"
LATENTS = np.random.default_rng(0).standard_normal((1, 4, 32, 32), np.float32)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The bundle's lcm.toml, with three instances of both halves of the VAE."""
    text = (MODEL / "lcm.toml").read_text()
    for component in ("vae_encoder", "vae_decoder"):
        text = text.replace(f"[{component}]\n", f"[{component}]\ninstances = 3\n")
    path = tmp_path / "lcm.toml"
    path.write_text(text)
    return path


def connections() -> int:
    """Sockets of this process: each open network has one, to the NPU outside."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(str(link.readlink()).startswith("socket:") for link in links)


def test_an_image_by_tiles_on_three_cores(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "board.png"
    words = arguments(CASE, HOST, output)
    done = lcm(*words, "-v", "--model", MODEL, "--config", config, "--runtime", "rknn")
    assert done.returncode == 0, done.stderr
    for component in ("vae_encoder", "vae_decoder"):
        for core in range(3):
            assert f"{component}, instance {core + 1} of 3 (core_mask {core}):" in done.stderr
    agreement = psnr(output, HOST / f"{CASE}.png")
    print(f"{CASE} by tiles: {agreement:.1f} dB")
    assert agreement >= 37  # from the whole, on ONNX Runtime


def test_instances_make_the_same_image_as_one_and_all_are_released(config: Path) -> None:
    before = connections()
    with lcmcore.load(MODEL, runtime="rknn") as pipe:
        expected = pipe.decode(LATENTS)
        assert connections() == before + 1
    with lcmcore.load(MODEL, runtime="rknn", config=config) as pipe:
        got = pipe.decode(LATENTS)
        assert connections() == before + 3
    assert connections() == before
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("fault", ["run:-1%2", "core:-5%2"])
def test_the_one_instance_that_fails_is_named_and_all_are_released(
    config: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before = connections()
    monkeypatch.setenv("NPU_FAULT", fault)  # of the second core
    message = r"^vae_decoder: instance 2 of 3 \(core_mask 1\): "
    with lcmcore.load(MODEL, runtime="rknn", config=config) as pipe:
        with pytest.raises(NetworkError, match=message):
            pipe.decode(LATENTS)
        monkeypatch.delenv("NPU_FAULT")
        assert np.isfinite(pipe.decode(LATENTS)).all()
    assert connections() == before
