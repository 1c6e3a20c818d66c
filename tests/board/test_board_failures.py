"""Every way in which RKNNLite fails silently, or worse, becomes an error of ours."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcmcore.errors import ArgumentError, NetworkError
from lcmcore.runtime import Network, find_runtime
from tests.board.images import arguments
from tests.board.machine import HOST, MODELS, lcm

COMPONENT = "vae_encoder"
MODEL = MODELS / "192x128"
FOLDER = MODEL / COMPONENT


def image(height: int = 128, width: int = 192) -> dict[str, np.ndarray[Any, Any]]:
    """What the encoder takes."""
    values = np.random.default_rng(0).uniform(-1, 1, (1, 3, height, width))
    return {"sample": values.astype(np.float32)}


def opened(folder: Path = FOLDER, **options: Any) -> Network:
    """The encoder on the board."""
    return find_runtime("rknn").open(COMPONENT, folder, options)


@pytest.fixture
def network() -> Iterator[Network]:
    """The encoder, well and running."""
    network = opened()
    network.run(image())
    yield network
    network.close()


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A copy of the file, to spoil."""
    return Path(shutil.copytree(FOLDER, tmp_path / COMPONENT)) / "model.rknn"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"^vae_encoder: no model\.rknn in "):
        opened(tmp_path)


def test_corrupt_file_that_only_the_driver_notices(spoilt: Path) -> None:
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2] ^= 0xFF
    spoilt.write_bytes(data)
    with pytest.raises(NetworkError, match=r"^vae_encoder: .*RKNN_ERR_MODEL_INVALID"):
        opened(spoilt.parent)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2]])
def test_cut_file(spoilt: Path, damage: Any) -> None:
    spoilt.write_bytes(damage(spoilt.read_bytes()))
    with pytest.raises(NetworkError, match=r"^vae_encoder: .*model\.rknn"):
        opened(spoilt.parent)


@pytest.mark.parametrize(
    ("code", "name"), [(-6, "RKNN_ERR_MODEL_INVALID"), (-4, "RKNN_ERR_MALLOC_FAIL")]
)
def test_failing_rknn_init_is_quoted(monkeypatch: pytest.MonkeyPatch, code: int, name: str) -> None:
    monkeypatch.setenv("NPU_FAULT", f"init:{code}")
    with pytest.raises(NetworkError, match=f"^vae_encoder: .*{name}"):
        opened()


def test_unknown_core_mask() -> None:
    with pytest.raises(ArgumentError, match=r"core_mask.*0_1_2.*'3'"):
        opened(core_mask="3")


def test_core_mask_that_the_driver_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPU_FAULT", "core:-5")
    with pytest.raises(NetworkError, match=r"^vae_encoder: .*core"):
        opened(core_mask="0_1_2")


@pytest.mark.parametrize("core_mask", ["auto", "0", "1", "2", "0_1", "0_1_2"])
def test_every_core_mask_works(core_mask: str) -> None:
    network = opened(core_mask=core_mask)
    assert network.run(image())["latent_parameters"].shape == (1, 8, 16, 24)
    network.close()


@pytest.mark.parametrize("shape", [(256, 192), (64, 192), (192, 128)])
def test_wrong_input_shape_never_reaches_the_driver(
    network: Network, shape: tuple[int, int]
) -> None:
    with pytest.raises(NetworkError, match=r"^vae_encoder: .*sample.*128, 192"):
        network.run(image(*shape))


def test_refused_inputs(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPU_FAULT", "inputs:-5")
    with pytest.raises(NetworkError, match=r"^vae_encoder: .*RKNN_ERR_PARAM_INVALID"):
        network.run(image())


def test_failing_run_does_not_return_the_outputs_of_the_last(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    # RKNNLite.inference passes over rknn_run's code and returns what the buffers still hold:
    # finite, of the right shape, and of the previous call.
    monkeypatch.setenv("NPU_FAULT", "run:-1")
    for _ in range(2):  # trying again helps nobody
        with pytest.raises(NetworkError, match=r"^vae_encoder: .*run"):
            network.run({"sample": -image()["sample"]})


def test_failing_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    network = opened()
    monkeypatch.setenv("NPU_FAULT", "run:-1")
    with pytest.raises(NetworkError, match=r"^vae_encoder: "):
        network.run(image())


def test_refused_outputs(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPU_FAULT", "outputs:-9")
    with pytest.raises(NetworkError, match=r"^vae_encoder: .*RKNN_ERR_OUTPUT_INVALID"):
        network.run(image())


@pytest.mark.parametrize(
    ("fault", "message"),
    [("nan", "NaN or infinity"), ("inf", "NaN or infinity"), ("constant", "0.5 throughout")],
)
def test_outputs_that_are_nan_infinite_or_constant(
    network: Network, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    monkeypatch.setenv("NPU_FAULT", fault)
    with pytest.raises(NetworkError, match=f"^vae_encoder: output latent_parameters .*{message}"):
        network.run(image())


def test_wrong_output_shape(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPU_FAULT", "shape")
    with pytest.raises(NetworkError, match=r"^vae_encoder: .*latent_parameters .*16, 23.*16, 24"):
        network.run(image())


def test_network_works_again_after_an_error(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPU_FAULT", "nan")
    with pytest.raises(NetworkError):
        network.run(image())
    monkeypatch.delenv("NPU_FAULT")
    assert np.isfinite(network.run(image())["latent_parameters"]).all()


@pytest.mark.parametrize(
    ("board", "message"),
    [
        ("none", "not a Rockchip board"),
        ("no-library", "librknnrt"),
        ("old-library", "librknnrt|rknn_set_input_shapes"),
        ("rk3568", "rk3588.*rk3568"),
    ],
)
def test_machine_that_cannot_run_the_model(tmp_path: Path, board: str, message: str) -> None:
    output = tmp_path / "board.png"
    words = arguments("img2img-192x128", HOST, output)
    done = lcm(*words, "--quiet", "--model", MODEL, "--runtime", "rknn", board=board)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("lcm: ")]
    assert len(lines) == 1
    assert re.search(f"^lcm: error: .*({message})", lines[0])
    assert "Traceback" not in done.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("board", "status", "error"),
    [
        ("rk3588", 0, ""),
        ("none", 1, "/proc/device-tree/compatible cannot be read"),
        ("no-device", 1, "the NPU's device node /dev/dri/renderD129 is missing"),
        ("no-library", 1, "no librknnrt.so in /usr/lib"),
    ],
)
def test_the_doctor_names_what_keeps_the_npu_from_working(
    board: str, status: int, error: str
) -> None:
    done = lcm("doctor", board=board)
    errors = [line for line in done.stdout.splitlines() if line.startswith("error")]
    assert done.returncode == status, done.stdout
    assert bool(errors) == bool(error)
    assert not error or any(error in line for line in errors)
