"""ONNX graphs to look at and to change, by protobuf's wire format: no package is needed.

A message is a list of fields in the file's order, so that what is not understood is kept.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Field: TypeAlias = "tuple[int, int, Any]"  # number, wire type, value: an integer or bytes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _OPSET, _NODE, _INITIALIZER, _OUTPUT = 7, 8, 1, 5, 12
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 7: np.dtype("<i8")}
_MICROSOFT = "com.microsoft"
_CONTRIBUTED = {"FusedMatMul", "MultiHeadAttention"}
_LARGE = 1024  # bytes of a weight that goes into a file of its own


class Node:
    """One operation; `attributes` has lists of numbers, and bytes for texts."""

    def __init__(self, fields: list[Field]) -> None:
        self.fields = fields
        self.op = _texts(fields, 4)[0]
        self.inputs, self.outputs = _texts(fields, 1), _texts(fields, 2)
        attributes = map(read, pick(fields, 5))
        self.attributes = {_texts(each, 1)[0]: _value(each) for each in attributes}

    @classmethod
    def make(cls, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> Node:
        """A new one; attributes are integers, lists of them, floats, or the nodes of a branch."""
        domain = _MICROSOFT if op in _CONTRIBUTED else ""
        fields = [_text(1, name) for name in inputs] + [_text(2, output), _text(4, op)]
        fields += [_text(7, domain), _text(3, f"{output}/{op}")]
        return cls(fields + [(5, _BYTES, _attribute(*pair)) for pair in attributes.items()])


class Graph:
    """The graph of a model that ONNX Runtime has written; the rest of the model is kept.

    Raises ValueError for what is no model, OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model, self._fields = _parts(path)
        self.nodes = [Node(read(each)) for each in pick(self._fields, _NODE)]
        tensors = map(read, pick(self._fields, _INITIALIZER))
        self._weights = {_texts(fields, 8)[0]: fields for fields in tensors}

    @property
    def opset(self) -> int:
        """The version of ONNX's own operations."""
        sets = map(read, pick(self._model, _OPSET))
        return next(int(pick(each, 2)[0]) for each in sets if not any(_texts(each, 1)))

    def weight(self, name: str) -> NDArray[Any] | None:
        """A weight, mapped if it is in another file; None if there is none of a known type."""
        fields = self._weights.get(name, [])
        dtype = _DTYPES.get(sum(pick(fields, 2)))
        raw, place, dims = pick(fields, 9), _place(fields), tuple(pick(fields, 1))
        if dtype is None or not (raw or place):
            return None
        if not raw:
            path = self._path.parent / place["location"]
            size = math.prod(dims) * dtype.itemsize
            raw = [np.memmap(path, "B", "r", int(place.get("offset", 0)), size)]
        return np.frombuffer(raw[0], dtype).reshape(dims)

    def numbers(self, name: str) -> list[Any] | None:
        """The elements of a small constant."""
        array = self.weight(name)
        return array.ravel().tolist() if array is not None and array.size < 9 else None

    def add_weight(self, name: str, array: NDArray[Any]) -> str:
        """Put a float32 or int64 array into the graph, or beside it; returns its name."""
        kind = 1 if array.dtype == np.float32 else 7
        fields = [(1, _VARINT, size) for size in array.shape] + [(2, _VARINT, kind), _text(8, name)]
        if array.nbytes < _LARGE:
            fields.append((9, _BYTES, array.tobytes()))
        else:
            path = self._path.with_suffix(".added")
            with path.open("ab") as file:
                place = {"location": path.name, "offset": file.tell(), "length": array.nbytes}
                file.write(array.tobytes())
            pairs = ([_text(1, key), _text(2, str(value))] for key, value in place.items())
            fields += [*((13, _BYTES, write(pair)) for pair in pairs), (14, _VARINT, 1)]
        self._fields.append((_INITIALIZER, _BYTES, write(fields)))
        self._weights[name] = fields
        return name

    def replace(self, replacements: Mapping[int, Sequence[Node]]) -> int:
        """Put others in the place of nodes, which are told by their id(); returns of how many."""
        self.nodes = [new for node in self.nodes for new in replacements.get(id(node), [node])]
        return len(replacements)

    def save(self, path: Path) -> None:
        """Write the model, without nodes that nothing needs any more."""
        needed = {_texts(read(each), 1)[0] for each in pick(self._fields, _OUTPUT)}
        kept: list[Field] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(_taken(node))
                kept.append((_NODE, _BYTES, write(node.fields)))
        fields = [field for field in self._fields if field[0] != _NODE] + kept[::-1]
        model = [field for field in self._model if field[0] != _GRAPH]
        model.append((_GRAPH, _BYTES, write(fields)))
        if all(_MICROSOFT not in _texts(read(each), 1) for each in pick(model, _OPSET)):
            model.append((_OPSET, _BYTES, write([_text(1, _MICROSOFT), (2, _VARINT, 1)])))
        path.write_bytes(write(model))


def external_files(path: Path) -> list[Path]:
    """A model's file, and those in its folder that hold weights; raises ValueError, OSError."""
    places = (_place(read(each)) for each in pick(_parts(path)[1], _INITIALIZER))
    names = sorted({place["location"] for place in places if place})
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names):
        raise ValueError(f"{path} has weights outside of its folder")
    return [path, *(path.parent / name for name in names)]


def read(data: Any) -> list[Field]:
    """The fields of a message; raises ValueError for what is none."""
    fields: list[Field] = []
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            fields.append((tag >> 3, kind, value - (value >> 63 << 64)))
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            size, position = _varint(data, position)
        if size is None or position + size > len(data):
            raise ValueError("this is no protobuf message, or not all of it")
        fields.append((tag >> 3, kind, data[position : position + size]))
        position += size
    return fields


def write(fields: Iterable[Field]) -> bytes:
    """The message of these fields."""
    parts = []
    for number, kind, value in fields:
        parts.append(_as_varint(number << 3 | kind))
        if kind in (_VARINT, _BYTES):
            parts.append(_as_varint(value if kind == _VARINT else len(value)))
        if kind != _VARINT:
            parts.append(value)
    return b"".join(parts)


def pick(fields: Iterable[Field], wanted: int) -> list[Any]:
    """The values of one number."""
    return [value for number, _, value in fields if number == wanted]


def _parts(path: Path) -> tuple[list[Field], list[Field]]:
    """Fields of the model, and of its graph; weights inside stay in the file, which is mapped."""
    with path.open("rb") as file:
        model = read(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    graph = pick(model, _GRAPH)
    if not graph:
        raise ValueError(f"{path} holds no graph")
    return model, read(graph[0])


def _taken(node: Node) -> list[str]:
    """What a node needs, its branches included."""
    branches = [body for each in pick(node.fields, 5) for body in pick(read(each), 6)]
    nodes = [Node(read(each)) for body in branches for each in pick(read(body), _NODE)]
    return node.inputs + [name for each in nodes for name in _taken(each)]


def _texts(fields: Iterable[Field], number: int) -> list[str]:
    return [str(value, "utf-8") for value in pick(fields, number)]


def _text(number: int, value: str) -> Field:
    return number, _BYTES, value.encode()


def _place(tensor: Iterable[Field]) -> dict[str, str]:
    entries = map(read, pick(tensor, 13))
    return {_texts(entry, 1)[0]: _texts(entry, 2)[0] for entry in entries}


def _value(attribute: Iterable[Field]) -> Any:
    texts = pick(attribute, 4)
    if texts:
        return bytes(texts[0])
    floats = [number for data in pick(attribute, 2) for number in struct.unpack("<f", data)]
    return floats + pick(attribute, 3) + pick(attribute, 8)


def _attribute(name: str, value: Any) -> bytes:
    if isinstance(value, float):
        fields = [(2, _FIXED32, struct.pack("<f", value)), (20, _VARINT, 1)]
    elif isinstance(value, int):
        fields = [(3, _VARINT, value), (20, _VARINT, 2)]
    elif value and isinstance(value[0], Node):
        fields = [(6, _BYTES, _branch(name, value)), (20, _VARINT, 5)]
    else:
        fields = [*((8, _VARINT, item) for item in value), (20, _VARINT, 7)]
    return write([_text(1, name), *fields])


def _branch(name: str, nodes: Sequence[Node]) -> bytes:
    """A graph that takes what it needs from around it, and gives what its last node gives."""
    fields = [(_NODE, _BYTES, write(node.fields)) for node in nodes] + [_text(2, name)]
    return write([*fields, (_OUTPUT, _BYTES, write([_text(1, nodes[-1].outputs[0])]))])


def _varint(data: Any, position: int) -> tuple[int, int]:
    value = 0
    for shift, byte in enumerate(data[position : position + 10]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, position + shift + 1
    raise ValueError("this is no protobuf message, or not all of it")


def _as_varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number takes ten bytes
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
