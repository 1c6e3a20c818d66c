"""The files that a model consists of; it comes from a stranger, and names them itself.

Those beside model.onnx hold weights (ONNX's external data).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from lcmcore.errors import reason_of
from lcmcore.util.files import is_within, open_regular, open_solid
from lcmcore.util.placeholder import EMPTY, Placeholder, placeholder_at
from runtimes.onnx.protobuf import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    Message,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    StringStringEntryProto,
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
_REPEATED = {"functions", "node", "attribute", "initializer", "sparse_initializer"}
_REPEATED |= {"tensors", "graphs", "sparse_tensors"}
_IN_MEMORY = "*/_ORT_"  # begins what ONNX Runtime up to 1.22 takes for an address in its process
_MAX_DEPTH = 100  # protobuf's own limit
_MAX_BYTES = 2**31 - 1  # of a protobuf message
_AGAIN = "download or export the model again"


def read_model(source: Path | bytes) -> tuple[ModelProto, GraphProto]:
    """A model and its graph; weights inside stay in the file, which is mapped.

    Raises ValueError, OSError: only regular files of what protobuf can hold are read.
    """
    model = ModelProto(memoryview(source) if isinstance(source, bytes) else _mapped(source))
    graphs = model.messages("graph")
    if not graphs:
        raise ValueError(f"{source!s:.200} has no graph: it is not an ONNX model")
    return model, GraphProto(graphs[0])


def external_files(path: Path) -> list[Path]:
    """A model's file, and those that hold weights of it, which may be in folders beside it.

    Raises ValueError for a file that is not an ONNX model, or whose weights lie where ONNX Runtime
    does not look for them, or for a file that was never fetched; OSError for one that is missing,
    sparse, endless, a device or a FIFO.
    """
    if (found := placeholder_at(path)) is not None:
        raise ValueError(f"{path}: {found}")
    files = [path]
    for name, is_read in _external_names(path).items():
        file, found = _weights(path, name, is_read)
        if found is not None:
            raise ValueError(f"{file}: {found}")
        files.append(file)
    return files


def faults(path: Path) -> Iterator[tuple[str, str]]:
    """Whatever `external_files` raises for: each file with what is wrong, and what to do."""
    if (found := placeholder_at(path)) is not None:
        yield f"{path}: {found.what}", found.remedy
        return
    try:
        names = _external_names(path)
    except (OSError, ValueError) as error:
        yield f"{path}: {reason_of(error)}", _AGAIN
        return
    for name, is_read in names.items():
        try:
            file, found = _weights(path, name, is_read)
        except (OSError, ValueError) as error:  # ValueError: the model is at fault
            yield f"{getattr(error, 'filename', None) or path}: {reason_of(error)}", _AGAIN
        else:
            if found is not None:
                yield f"{file}: {found.what}", found.remedy


def _external_names(path: Path) -> dict[str, bool]:
    """The names in a model of files with weights, sorted, and whether a byte is read of each.

    Tensors without elements can have a file of their own, which is empty.
    """
    names: dict[str, bool] = {}
    for tensor in _tensors(read_model(path)[0]):
        place = external_data(tensor)
        if place and not (tensor.messages("raw_data") and not any(tensor.all("data_location"))):
            name = place.get("location", "")
            names[name] = names.get(name, False) or place.get("length") != "0"
    return dict(sorted(names.items()))


def _weights(model: Path, name: str, is_read: bool) -> tuple[Path, Placeholder | None]:
    """A file with weights, and what is there in its place; raises as `external_files` does."""
    file = external_path(model, name)
    open_solid(file).close()
    found = placeholder_at(file)
    return file, None if found == EMPTY and not is_read else found


def external_path(model: Path, name: str) -> Path:
    """A file with weights of a model, where ONNX Runtime 1.32 would read it.

    It refuses absolute paths, and those that lie neither in the model's folder nor in that of the
    file to which model.onnx links, links resolved; the latter is the layout of Hugging Face's
    cache. Older releases open anything, and take one name for memory. Raises ValueError.
    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/framework/tensorprotoutils.cc
    """
    path = model.parent / name
    folders = Path(os.path.realpath(model.parent)), Path(os.path.realpath(model)).parent
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if name.startswith(_IN_MEMORY):
        raise ValueError(f"{model} has weights at an address in memory, {name!r}")
    if absolute or not is_within(path, folders):
        raise ValueError(f"{model} has weights outside of its folder, in {name!r}: copy them there")
    return path


def external_data(tensor: TensorProto) -> dict[str, str]:
    """Where the data is if it is in another file: location, offset and length."""
    entries = map(StringStringEntryProto, tensor.messages("external_data"))
    return {entry.text("key"): entry.text("value") for entry in entries}


def read_external(path: Path, place: Mapping[str, str], limit: int) -> bytes:
    """A constant's data in another file; raises ValueError if it is not there, or too long."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        offset = int(place.get("offset", 0))
        length = int(place.get("length", size - offset))
        if not (0 <= offset <= size - length and 0 <= length <= limit):
            raise ValueError(f"{path} does not hold {length} bytes at {offset}, or too many")
        file.seek(offset)
        return file.read(length)


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
            if len(found) > 1 and name not in _REPEATED:
                raise ValueError(f"{name} is there twice, which protobuf would merge")
            if kind is NodeProto:  # to look into each of thousands would take tenths of a second
                found = [data for data in found if b"location" in bytes(data)]
            remaining += ((depth + 1, kind(data)) for data in found)


def _mapped(path: Path) -> memoryview:
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > _MAX_BYTES:
            raise ValueError(f"{path} is larger than 2 GiB: it is not an ONNX model")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
