"""The layers and the NPU's tasks in the body of a .rknn file, which is a FlatBuffer (id "RKNN").

Found in files of rknn-toolkit2 2.3.2 and 2.5.0 for rk3588 (file version 6); undocumented. By field
number:

    root    2: graphs, of which there is one   20: buffers, each a table with its bytes in field 0
    graph   0: tensors   1: layers   10: five numbers, the last two are the first tasks of the
            programs for two and for three cores; that for one core begins at 0
    layer   1: operator   2: "operator:name"   3: 2 if it runs on the NPU   4, 5: tensors that go in
            and come out, by position   10: six numbers of tasks: in the program of one core, of
            each of two cores, and of each of three
    tensor  4: shape   5: name

The last buffer holds the tasks, 40 bytes each (`TASK`), the one before it the register words that
they send, 64 bits each: unit << 48 | value << 16 | register. A register keeps its value until a
later task of that core writes it; programs share words.

Programs of other platforms have fewer numbers in their fields 10, and other registers: the bytes
that they move cannot be told by what is known of rk3588, so they are refused.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcmcore.util.files import open_regular
from runtimes.rknn.cost.flatbuffer import DamagedError, Table
from runtimes.rknn.file import KNOWN_VERSION

TASK = np.dtype(
    [
        ("flags", "<u4"),
        ("layer", "<u4"),
        ("units", "<u4"),  # that run: see `runtimes.rknn.cost.tasks`
        ("interrupts", "<u4"),
        ("clear", "<u4"),
        ("status", "<u4"),
        ("words", "<u4"),
        ("core", "<u4"),
        ("offset", "<u8"),  # bytes, of the first word
    ]
)
_CLEAR = 0x1FFFF  # of every task
_HEADER = 64
_GRAPHS, _BUFFERS = 2, 20  # fields of the root
_TENSORS, _LAYERS, _STARTS = 0, 1, 10  # fields of the graph
_OPERATOR, _NAME, _PLACE, _INPUTS, _OUTPUTS, _TASKS = 1, 2, 3, 4, 5, 10  # fields of a layer
_SHAPE = 4  # field of a tensor
_ON_NPU = 2
_MAX_RANK = 8
_MAX_TASKS = 1 << 20  # the full-size decoder for 512x512 has 191,372 in each program


@dataclass(frozen=True)
class Layer:
    """An operator as the compiler left it, with the shapes of the tensors at its sides."""

    operator: str  # the compiler's name, e.g. "ConvAdd" or "exNorm"
    name: str  # of the node that it was made from, e.g. "node_conv2d_34_ConvAdd"
    on_npu: bool
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Program:
    """The layers of a network, and its programs for as many numbers of cores as it was built for.

    `tasks` holds for each number of cores what each of these is given: arrays of TASK, in the order
    in which they run.
    """

    layers: tuple[Layer, ...]
    tasks: Mapping[int, tuple[NDArray[Any], ...]]
    words: NDArray[np.uint64]  # the registers' values, at the tasks' offsets

    @classmethod
    def read(cls, path: Path) -> Program:
        """Read a file; raises DamagedError where there is no program of this form, OSError."""
        with open_regular(path) as file:
            head = file.read(_HEADER)
            version = int.from_bytes(head[8:16], "little")
            if not head.startswith(b"RKNN") or version != KNOWN_VERSION:
                raise DamagedError("an unknown version of the file")
            size = int.from_bytes(head[16:24], "little")
            # Of gigabytes of weights nothing is read; it is unmapped with the arrays on it.
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            return cls._parse(content[_HEADER : _HEADER + size])
        except (struct.error, ValueError) as error:
            raise DamagedError(str(error)) from error

    @classmethod
    def _parse(cls, body: memoryview) -> Program:
        root = Table.root(body)
        graph = next(root.tables(_GRAPHS), None)
        if graph is None:
            raise DamagedError("it has no graph")
        buffers = [_bytes(body, table) for table in root.tables(_BUFFERS, last=2)]
        if len(buffers) < 2 or buffers[0].nbytes % 8 or buffers[1].nbytes % TASK.itemsize:
            raise DamagedError("its buffers hold no whole tasks")
        words, tasks = buffers[0].view("<u8"), buffers[1].view(TASK)
        layers = tuple(_layers(graph))
        if not 0 < len(tasks) <= _MAX_TASKS or not (tasks["clear"] == _CLEAR).all():
            raise DamagedError("its tasks are of an unknown form")
        if (tasks["layer"] >= len(layers)).any():
            raise DamagedError("a task belongs to no layer")
        by_cores = {}
        for cores, bounds in _bounds(graph, len(tasks)).items():
            if bounds[0] < bounds[-1] <= len(tasks):
                ranges = (tasks[first:end] for first, end in pairwise(bounds))
                by_cores[cores] = tuple(each for each in ranges if len(each))
        return cls(layers, by_cores, words)


def _bytes(body: memoryview, table: Table) -> NDArray[np.uint8]:
    start, length = table.span(0)
    if start + length > len(body):
        raise DamagedError(f"a buffer has {length} bytes")
    return np.frombuffer(body, np.uint8, length, start)


def _bounds(graph: Table, count: int) -> dict[int, list[int]]:
    """For each number of cores, the first task of each core, and the one behind the last's."""
    starts = graph.integers(_STARTS)
    rows = [layer.integers(_TASKS) for layer in graph.tables(_LAYERS)]
    if len(starts) != 5 or any(len(row) != 6 for row in rows):
        raise DamagedError("its program is not one for rk3588")
    *_, two, three = starts
    sums = [sum(column) for column in zip(*rows, strict=True)]
    return {
        # The first of the numbers leaves out a few tasks beside layers of the CPU.
        1: [0, min(two or count, three or count, count)],
        2: list(accumulate(sums[1:3], initial=two)),
        3: list(accumulate(sums[3:6], initial=three)),
    }


def _layers(graph: Table) -> Iterator[Layer]:
    shapes = [tuple(tensor.integers(_SHAPE)[:_MAX_RANK]) for tensor in graph.tables(_TENSORS)]
    for table in graph.tables(_LAYERS):
        sides = []
        for field in (_INPUTS, _OUTPUTS):
            indices = table.integers(field)
            if any(index >= len(shapes) for index in indices):
                raise DamagedError("a layer has a tensor that is not there")
            sides.append(tuple(shapes[index] for index in indices))
        yield Layer(
            operator=table.text(_OPERATOR),
            name=table.text(_NAME).partition(":")[2],
            on_npu=table.byte(_PLACE) == _ON_NPU,
            inputs=sides[0],
            outputs=sides[1],
        )
