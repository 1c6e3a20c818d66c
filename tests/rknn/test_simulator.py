"""The simulator as a runtime, with a stand-in for rknn-toolkit2 (vendor/rknn)."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lcmcore.errors import ArgumentError, NetworkError, RuntimeUnavailableError
from runtimes.rknn import RknnSimulator, simulator, toolkit
from tests.rknn.conftest import Calls, network_of
from tests.rknn.fixtures import TINY


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def opened(root: Path, component: str = "vae_encoder", **options: Any) -> Any:
    return RknnSimulator().open(component, root / component, options)


def test_contract() -> None:
    assert (RknnSimulator.name, RknnSimulator.filename) == ("rknn-sim", "model.onnx")
    assert RknnSimulator.priority == -1
    assert RknnSimulator.options == {"size", "platform"}


def test_a_network_of_the_size_asked_for(root: Path, calls: Calls) -> None:
    network = opened(root, size="48x32", platform="rk3576")
    assert [str(spec) for spec in network.inputs] == ["sample [1, 3, 32, 48] float32"]
    assert [spec.name for spec in network.outputs] == ["latent_parameters"]
    sample = np.random.default_rng(0).standard_normal((1, 3, 32, 48))
    for _ in range(2):
        got = network.run({"sample": sample})
        assert got.keys() == {"latent_parameters"}
        assert got["latent_parameters"].dtype == np.float32
    (want,) = network_of("vae_encoder")([sample.astype(np.float32)])
    np.testing.assert_allclose(got["latent_parameters"], want, atol=1e-5)
    network.close()
    network.close()
    with pytest.raises(NetworkError, match="the network is closed"):
        network.run({"sample": sample})
    made = calls()
    assert [call for call, _ in made] == [
        *("RKNN", "config", "load_onnx", "build", "init_runtime", "inference", "inference")
    ]
    assert made[1][1]["target_platform"] == "rk3576"
    assert made[2][1]["sizes"] == [[1, 3, 32, 48]]
    assert made[5][1] == {"data_format": "nchw", "dtypes": ["float32"]}


def test_size_and_platform_by_default(root: Path, calls: Calls) -> None:
    (root / "unet" / "config.json").write_text('{"sample_size": [4, 6]}')
    network = opened(root)
    assert network.inputs[0].shape == (1, 3, 32, 48)
    network.close()
    assert calls()[1][1]["target_platform"] == "rk3588"


def test_inputs_go_in_the_files_order_and_dtypes(root: Path, calls: Calls) -> None:
    with closing(opened(root, "unet", size="48x32")) as network:
        specs = {spec.name: spec for spec in network.inputs}
        assert specs["timestep"].shape == (1,)  # rank 0 in the file
        inputs = {
            name: np.ones(spec.shape, np.int32 if name == "timestep" else np.float64)
            for name, spec in reversed(specs.items())
        }
        assert network.run(inputs)["out_sample"].shape == (1, 4, 4, 6)
    assert calls()[-1][1]["dtypes"] == ["float32", "int64", "float32", "float32"]


def test_what_is_opened_is_logged(
    root: Path,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("runtimes.rknn.simulator.log.info", lambda text, *v: lines.append(text % v))
    opened(root, size="48x32").close()
    path = root / "vae_encoder" / "model.onnx"
    rewritten, opened_at = lines
    assert rewritten.startswith("vae_encoder: 14 group norms: ")
    assert opened_at == f"vae_encoder: {path} in the simulator of rk3588, size 48x32"


@pytest.mark.parametrize(
    ("size", "words"),
    [("50x32", "multiples of 8"), ("x", "size must be WIDTHxHEIGHT"), (["8"], "size must be WID")],
)
def test_sizes_that_cannot_be(
    root: Path,
    calls: Calls,
    size: Any,
    words: str,
) -> None:
    with pytest.raises(NetworkError, match=f"^vae_encoder: .*{words}") as error:
        opened(root, size=size)
    assert isinstance(error.value.__cause__, ArgumentError)
    assert calls() == []


def test_a_network_that_does_not_convert_leaves_no_process(
    root: Path,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[toolkit.Toolkit] = []

    class Spy(toolkit.Toolkit):
        def __init__(self, component: str) -> None:
            super().__init__(component)
            made.append(self)

    monkeypatch.setattr(toolkit, "Toolkit", Spy)
    monkeypatch.setenv("RKNN_FAIL", "build=-1")
    with pytest.raises(NetworkError, match="vae_encoder: rknn-toolkit2 refused to build: build "):
        opened(root, size="48x32")
    assert made[0]._process.returncode == 0
    assert not Path(made[0]._folder.name).exists()


def test_missing_file(root: Path, calls: Calls) -> None:
    (root / "vae_encoder" / "model.onnx").unlink()
    with pytest.raises(NetworkError, match=r"^vae_encoder: no model\.onnx in "):
        opened(root)


def test_without_the_converter(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "missing", lambda: "rknn-toolkit2 is missing")
    assert RknnSimulator().available() == "rknn-toolkit2 is missing"
    assert list(RknnSimulator().diagnose(root)) == []
    with pytest.raises(RuntimeUnavailableError, match="'rknn-sim' cannot be used here: rknn-tool"):
        opened(root)


def test_findings(root: Path, calls: Calls) -> None:
    assert list(RknnSimulator().diagnose(root)) == [("ok", "rknn-toolkit2 9.8.7", "")]
    assert simulator.DEFAULT_PLATFORM == "rk3588"
