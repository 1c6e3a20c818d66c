"""What a model.onnx takes, by the file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcmcore.runtime import TensorSpec
from runtimes.onnx.model_files import read_model
from runtimes.onnx.protobuf import (
    Dimension,
    Message,
    TensorProto,
    TensorShapeProto,
    TypeProto,
    TypeProtoTensor,
    ValueInfoProto,
)

_DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
}


def inputs_of(path: Path) -> list[TensorSpec]:
    """The inputs that are no weights; a size is None where the file leaves it free.

    Raises ValueError for a file that is no ONNX model, or whose inputs have no type or shape;
    OSError.
    """
    _, graph = read_model(path)
    weights = {TensorProto(each).text("name") for each in graph.messages("initializer")}
    specs = [_spec(ValueInfoProto(each)) for each in graph.messages("input")]
    return [spec for spec in specs if spec.name not in weights]


def _spec(value: ValueInfoProto) -> TensorSpec:
    name = value.text("name")
    tensor = TypeProtoTensor(_only(TypeProto(_only(value, "type")), "tensor_type"))
    kind = tensor.integer("elem_type")
    if kind not in _DTYPES:
        raise ValueError(f"{name} is of a type not supported: {kind}")
    dims = TensorShapeProto(_only(tensor, "shape")).messages("dim")
    return TensorSpec(name, tuple(_size(Dimension(dim)) for dim in dims), _DTYPES[kind])


def _only(message: Message, name: str) -> Any:
    """The bytes of the one message in a field; raises ValueError if there is none, or several."""
    found = message.messages(name)
    if len(found) != 1:
        raise ValueError(f"an input has {len(found)} fields {name}, where one is due")
    return found[0]


def _size(dimension: Dimension) -> int | None:
    size = dimension.integer("dim_value")
    return size if size > 0 else None  # a name, or nothing, stands where a size is free
