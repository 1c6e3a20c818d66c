"""Seconds of a network on the cores of the NPU, predicted from its program.

A layer takes the longer of computing and moving its bytes, and what is moved in bursts of 16 bytes
comes on top. The first two constants come from measurements of single layers on RK3588 boards that
others published (rknn_model_zoo issue 366), the third was fitted to one published time of a whole
network (VAE decoder, 256x256). Published times that had no part in them are from 13 % more to 16 %
less than predicted, and that of the text encoder (0.05 s) half as much again: docs/npu.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtimes.rknn.cost.flatbuffer import DamagedError
from runtimes.rknn.cost.program import Layer, Program
from runtimes.rknn.cost.tasks import task_costs

# One core of the RK3588's NPU, half precision.
_MACS_PER_SECOND = 512 * 0.9e9  # 512 a cycle, at nine tenths of 1 GHz
_BYTES_PER_SECOND = 9.5e9
_THIN_BYTES_PER_SECOND = 1.05e9  # of tasks one pixel wide and high: bursts of 16 bytes
PLATFORM = "rk3588"  # for which these hold

GROUP_NORM = "/group_norm/"  # in the names of a group norm's layers that rewrites/ has made
_KINDS = {
    "exSDPAttention": "attention",
    "exSoftmax": "attention",
    "exSwish": "activation",
    "exGelu": "activation",
    "exMatMul": "matrix product",
    "MatMul": "matrix product",
    "exNorm": "layer norm",
}


@dataclass(frozen=True)
class LayerCost:
    """What a layer takes, all cores together; `seconds` are those of the slowest core."""

    layer: Layer
    tasks: int
    bytes: int  # read from and written to memory
    thin_bytes: int  # of them, by tasks one pixel wide and high
    macs: int
    seconds: float

    @property
    def kind(self) -> str:
        """What it is part of, in the field's words: "convolution", "group norm", ..."""
        return _kind(self.layer)


@dataclass(frozen=True)
class Prediction:
    """A network's layers in the order in which they run, with their sums. Nothing was measured."""

    cores: int
    layers: tuple[LayerCost, ...]

    @property
    def tasks(self) -> int:
        """How many tasks the NPU is given."""
        return sum(layer.tasks for layer in self.layers)

    @property
    def bytes(self) -> int:
        """How many bytes are read and written."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def thin_bytes(self) -> int:
        """How many of them by tasks one pixel wide and high, which is slow."""
        return sum(layer.thin_bytes for layer in self.layers)

    @property
    def macs(self) -> int:
        """How many multiplications with an addition."""
        return sum(layer.macs for layer in self.layers)

    @property
    def seconds(self) -> float:
        """How long an RK3588's NPU takes; what the CPU does is not in it."""
        return sum(layer.seconds for layer in self.layers)

    @property
    def on_cpu(self) -> int:
        """How many layers the NPU does not run, without the network's inputs and outputs."""
        return sum(not each.layer.on_npu and not _is_edge(each.layer) for each in self.layers)

    def shares(self) -> Mapping[str, float]:
        """The part of the seconds that each kind of layer takes, the largest first."""
        seconds: dict[str, float] = defaultdict(float)
        for layer in self.layers:
            seconds[layer.kind] += layer.seconds
        whole = self.seconds or 1.0
        return {kind: seconds[kind] / whole for kind in sorted(seconds, key=lambda k: -seconds[k])}


def predict(path: Path, cores: int = 1) -> Prediction | None:
    """Predict what a .rknn file takes on 1, 2 or 3 cores; None if no such program is understood.

    Raises OSError if the file cannot be read.
    """
    return predict_all(path).get(cores)


def predict_all(path: Path) -> dict[int, Prediction]:
    """Predictions by number of cores, for the programs that a .rknn file has and are understood.

    With several cores, each layer waits for the slowest of them, and that they share the memory is
    not counted. Raises OSError if the file cannot be read.
    """
    try:
        program = Program.read(path)
        return {cores: _predict(program, cores) for cores in program.tasks}
    except DamagedError:
        return {}


def _predict(program: Program, cores: int) -> Prediction:
    by_core = [_by_layer(program, tasks) for tasks in program.tasks[cores]]
    counts = np.sum([each.counts for each in by_core], axis=0).tolist()
    seconds = np.max([each.seconds for each in by_core], axis=0).tolist()
    rows = zip(program.layers, counts, seconds, strict=True)
    layers = (
        LayerCost(layer, int(tasks), int(moved), int(thin), int(macs), time)
        for layer, (tasks, moved, thin, macs), time in rows
    )
    return Prediction(cores, tuple(layers))


class _ByLayer(NamedTuple):
    """What a core takes for each layer."""

    counts: NDArray[np.float64]  # (layers, 4): tasks, bytes, thin bytes, MACs
    seconds: NDArray[np.float64]


def _by_layer(program: Program, tasks: NDArray[Any]) -> _ByLayer:
    costs = task_costs(tasks, program.words)
    thin, moved, ones = costs.is_thin, costs.bytes, np.ones(len(tasks))
    number, wide_bytes, thin_bytes, macs, wide_macs = (
        np.bincount(costs.layer, values, len(program.layers)).astype(np.float64)
        for values in (ones, moved * ~thin, moved * thin, costs.macs, costs.macs * ~thin)
    )
    seconds = np.maximum(wide_macs / _MACS_PER_SECOND, wide_bytes / _BYTES_PER_SECOND)
    seconds += thin_bytes / _THIN_BYTES_PER_SECOND
    counts = np.stack([number, wide_bytes + thin_bytes, thin_bytes, macs], axis=1)
    return _ByLayer(counts, seconds)


def _kind(layer: Layer) -> str:
    if GROUP_NORM in layer.name:
        return "group norm"
    if layer.operator == "exNorm" and layer.inputs and layer.inputs[0][:1] != (1,):
        return "group norm"  # as instance norms of the groups, in the batch's dimension
    if layer.operator.startswith("Conv"):
        return "convolution"
    return _KINDS.get(layer.operator, layer.operator)


def _is_edge(layer: Layer) -> bool:
    return layer.operator in ("InputOperator", "OutputOperator")
