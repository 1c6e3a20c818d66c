"""The layers and the NPU's tasks in the body of a .rknn file, which is a FlatBuffer (id "RKNN").

Found in files of rknn-toolkit2 2.5.0 for rk3588 (file version 6); undocumented. By field number:

    root    2: graphs, of which there is one   20: buffers, each a table with its bytes in field 0
    graph   0: tensors   1: layers   10: five numbers, the last two are the first tasks of the
            programs for two and for three cores; that for one core begins at 0
    layer   1: operator   2: "operator:name"   3: 2 if it runs on the NPU   4, 5: tensors that go in
            and come out, by position   10: tasks in the program of one core, of each of two cores,
            and of each of three
    tensor  4: shape   5: name

The last buffer holds the tasks, 40 bytes each (`TASK`), the one before it the register words that
they send, 64 bits each: unit << 48 | value << 16 | register. A register keeps its value until a
later task writes it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
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
_TENSORS, _LAYERS, _STARTS = 0, 1, 10  # fields of the graph
_GRAPHS, _BUFFERS = 2, 20  # fields of the root
_ON_NPU = 2
_MAX_SHAPE = 8


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
    """The layers of a network, and the tasks of its program for one core."""

    layers: tuple[Layer, ...]
    tasks: NDArray[Any]  # of TASK, in the order in which they run
    words: NDArray[np.uint64]  # the registers' values, at the tasks' offsets

    @classmethod
    def read(cls, path: Path) -> Program:
        """Read a file; raises DamagedError where there is no such program, OSError."""
        with open_regular(path) as file:
            head = file.read(_HEADER)
            if (
                not head.startswith(b"RKNN")
                or int.from_bytes(head[8:16], "little") != KNOWN_VERSION
            ):
                raise DamagedError("an unknown version of the file")
            size = int.from_bytes(head[16:24], "little")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                whole = memoryview(content)
                body = whole[_HEADER : _HEADER + size]
                try:
                    return cls._parse(body)
                except struct.error as error:
                    raise DamagedError(str(error)) from error
                finally:
                    body.release()
                    whole.release()

    @classmethod
    def _parse(cls, body: memoryview) -> Program:
        root = Table.root(body)
        graph = next(root.tables(_GRAPHS), None)
        if graph is None:
            raise DamagedError("it has no graph")
        tasks, words = _buffers(body, root)
        starts = graph.integers(_STARTS)
        end = min((start for start in starts if start), default=len(tasks))
        layers = tuple(_layers(graph))
        tasks = tasks[:end]
        if not len(tasks) or not (tasks["clear"] == _CLEAR).all():
            raise DamagedError("it has no tasks of a known form")
        if (tasks["layer"] >= len(layers)).any():
            raise DamagedError("a task belongs to no layer")
        return cls(layers, tasks, words)


def _buffers(body: memoryview, root: Table) -> tuple[NDArray[Any], NDArray[np.uint64]]:
    """Copies of the tasks and of the register words."""
    buffers = list(root.tables(_BUFFERS))
    if len(buffers) < 2:
        raise DamagedError("it has no tasks")
    tasks, words = buffers[-1].span(0), buffers[-2].span(0)
    for start, length in (tasks, words):
        if start + length > len(body):
            raise DamagedError(f"a buffer has {length} bytes")
    if tasks.length % TASK.itemsize or words.length % 8:
        raise DamagedError("its buffers hold no whole tasks")
    return (
        np.frombuffer(body, TASK, tasks.length // TASK.itemsize, tasks.start).copy(),
        np.frombuffer(body, "<u8", words.length // 8, words.start).copy(),
    )


def _layers(graph: Table) -> Iterator[Layer]:
    shapes = [tuple(tensor.integers(4)[:_MAX_SHAPE]) for tensor in graph.tables(_TENSORS)]
    for table in graph.tables(_LAYERS):
        sides = []
        for field in (4, 5):
            indices = table.integers(field)
            if any(index >= len(shapes) for index in indices):
                raise DamagedError("a layer has a tensor that is not there")
            sides.append(tuple(shapes[index] for index in indices))
        yield Layer(
            operator=table.text(1),
            name=table.text(2).partition(":")[2],
            on_npu=table.byte(3) == _ON_NPU,
            inputs=sides[0],
            outputs=sides[1],
        )
