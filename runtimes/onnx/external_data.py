"""The files that a model consists of; it comes from a stranger, and names them itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lcmcore.util.files import open_solid
from runtimes.onnx.graph import external_data, external_path, read_model
from runtimes.onnx.protobuf import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    Message,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
)

# Where tensors can be, in each kind of message.
_PARTS: dict[type[Message], dict[str, type[Message]]] = {
    ModelProto: {"graph": GraphProto, "functions": FunctionProto},
    FunctionProto: {"node": NodeProto},
    GraphProto: {
        "initializer": TensorProto,
        "sparse_initializer": SparseTensorProto,
        "node": NodeProto,
    },
    NodeProto: {"attribute": AttributeProto},
    AttributeProto: {
        "t": TensorProto,
        "tensors": TensorProto,
        "g": GraphProto,
        "graphs": GraphProto,
        "sparse_tensor": SparseTensorProto,
        "sparse_tensors": SparseTensorProto,
    },
    SparseTensorProto: {"values": TensorProto, "indices": TensorProto},
}
_MAX_DEPTH = 100  # protobuf's own limit


def external_files(path: Path) -> list[Path]:
    """A model's file, and those that hold weights of it, which may be in folders beside it.

    Raises ValueError for a file that is not an ONNX model, or whose weights lie where ONNX Runtime
    does not look for them; OSError for one that is missing, endless, a device or a FIFO.
    """
    names: dict[str, None] = {}
    for tensor in _tensors(read_model(path)[0]):
        place = external_data(tensor)
        if place and not (tensor.messages("raw_data") and not any(tensor.all("data_location"))):
            names[place.get("location", "")] = None
    files = [external_path(path, name) for name in sorted(names)]
    for each in files:
        open_solid(each).close()
    return [path, *files]


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: weights, constants, and those of branches and functions."""
    remaining: list[tuple[int, Message]] = [(0, model)]
    while remaining:
        depth, message = remaining.pop()
        if depth > _MAX_DEPTH:
            raise ValueError("messages are nested deeper than protobuf reads them")
        if isinstance(message, TensorProto):
            yield message
            continue
        for name, kind in _PARTS[type(message)].items():
            found = message.messages(name)
            if kind is NodeProto:  # to look into each of thousands would take tenths of a second
                found = [data for data in found if b"location" in bytes(data)]
            remaining += ((depth + 1, kind(data)) for data in found)
