"""A board that is none: RKNNLite's double in the place of the vendor's package."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from runtimes.onnx import OnnxRuntime
from runtimes.rknn import board, device
from runtimes.rknn.file import RknnFile
from tests.rknn import fixtures
from tests.rknn.double import Array, RKNNLiteDouble

Calls = Callable[[], list[list[Any]]]


@cache  # a session takes longer to open than to run
def network_of(component: str) -> Any:
    """A tiny ONNX network as a function of arrays in the order of its .rknn file."""
    network = OnnxRuntime().open(component, fixtures.TINY / component, {})
    names = [spec.name for spec in network.inputs]

    def run(inputs: list[Array]) -> list[Array]:
        return list(network.run(dict(zip(names, inputs, strict=True))).values())

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A bundle of .rknn files, compiled for 48x32."""
    fixtures.write_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def lites(monkeypatch: pytest.MonkeyPatch) -> list[RKNNLiteDouble]:
    """Make this host an RK3588 with rknn-toolkit-lite2; the list is every instance made."""
    made: list[RKNNLiteDouble] = []

    class Lite(RKNNLiteDouble):
        def __init__(self) -> None:
            super().__init__(self._network)
            made.append(self)

        def _network(self, inputs: list[Array]) -> list[Array]:
            """Of the component whose file was loaded."""
            return network_of(self._path.parent.name)(inputs)

    package, api = ModuleType("rknnlite"), ModuleType("rknnlite.api")
    api.RKNNLite = Lite  # type: ignore[attr-defined]
    package.__spec__ = api.__spec__ = sys.__spec__
    monkeypatch.setitem(sys.modules, "rknnlite", package)
    monkeypatch.setitem(sys.modules, "rknnlite.api", api)
    monkeypatch.setattr(board, "platform", lambda: "rk3588")
    return made


class Npu(NamedTuple):
    """The folders /dev and /sys of a board, and the NPU's node in the former."""

    dev: Path
    sys: Path
    node: Path


@pytest.fixture
def npu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Npu:
    """A kernel with Rockchip's driver: a display, a GPU, and the NPU as the second render node."""
    dev, sys_ = tmp_path / "dev", tmp_path / "sys"
    for name, driver in [("card0", "rockchip-drm"), ("renderD128", "panthor"),
                         ("renderD129", "RKNPU")]:  # fmt: skip
        (sys_ / "class" / "drm" / name / "device").mkdir(parents=True)
        uevent = f"DRIVER={driver}\nOF_NAME=npu\nOF_COMPATIBLE_0=rockchip,rk3588-rknpu\n"
        (sys_ / "class" / "drm" / name / "device" / "uevent").write_text(uevent)
        (dev / "dri").mkdir(parents=True, exist_ok=True)
        (dev / "dri" / name).write_bytes(b"")
    monkeypatch.setattr(device.nodes, "__defaults__", (dev, sys_))
    monkeypatch.setattr(device.fault, "__defaults__", (dev, sys_))
    monkeypatch.setattr(device.is_there, "__defaults__", (sys_,))
    return Npu(dev, sys_, dev / "dri" / "renderD129")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """Installs the stand-in; returns what was called since the last time that one asked."""
    vendor, root = Path(__file__).parent / "vendor", Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(vendor))
    monkeypatch.setenv("PYTHONPATH", f"{vendor}:{root}")
    log = tmp_path / "calls.jsonl"
    monkeypatch.setenv("RKNN_CALLS", str(log))

    def take() -> list[list[Any]]:
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    return take


def inputs_of(path: Path, seed: int = 0) -> dict[str, Array]:
    """Valid inputs of a .rknn file by name, in the core's terms."""
    random = np.random.default_rng(seed)
    return {
        tensor.name: np.full(tensor.shape, 7, np.int64)
        if tensor.dtype == "int64"
        else random.standard_normal(tensor.shape, np.float32)
        for tensor in RknnFile.read(path).inputs
    }
