"""ONNX's protobuf messages, read and written with the field names of onnx.proto.

No package is needed, and what is not named here is kept: a message is the list of its fields, in
the file's order. Values are slices of the data that is read, so that the weights of a mapped file
stay in it.

https://protobuf.dev/programming-guides/encoding/
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar, TypeAlias

Field: TypeAlias = "tuple[int, int, Any]"  # number, wire type, value: an integer or bytes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_MAX_NUMBER = 2**29 - 1  # of a field; protobuf's C++ drops higher bits, and reads another field
_MAX_FIELDS = 2**21  # of one message: a graph has a field for each operator, some thousands


class Message:
    """A message's fields; a subclass has the numbers of the fields that this package uses.

    `data` is what to read (bytes or a memoryview), `values` are fields to add, as in `add`.
    Raises ValueError for data that is not a message.
    """

    NUMBERS: ClassVar[dict[str, int]]

    def __init__(self, data: Any = b"", **values: Any) -> None:
        self.fields = _read(data)
        for name, value in values.items():
            for each in value if isinstance(value, (list, tuple)) else [value]:
                self.add(name, each)

    def __bytes__(self) -> bytes:
        return _write(self.fields)

    def all(self, name: str) -> list[Any]:
        """All values of a field: integers, or the bytes of anything else."""
        number = self.NUMBERS[name]
        return [value for found, _, value in self.fields if found == number]

    def messages(self, name: str) -> list[Any]:
        """The bytes of a field that holds messages; whatever else has its number is unknown."""
        number = self.NUMBERS[name]
        return [value for found, kind, value in self.fields if (found, kind) == (number, _BYTES)]

    def texts(self, name: str) -> list[str]:
        """All values of a string."""
        return [str(value, "utf-8") for value in self.messages(name)]

    def integer(self, name: str) -> int:
        """The value of an integer that is not repeated, or 0; of several the last one counts."""
        return next(reversed(self.all(name)), 0)

    def text(self, name: str) -> str:
        """The value of a string that is not repeated, or ""; of several the last one counts."""
        return next(reversed(self.texts(name)), "")

    def add(self, name: str, value: int | float | str | bytes | Message) -> None:
        """Append a value to a field."""
        self.fields.append((self.NUMBERS[name], *_encoded(value)))

    def remove(self, name: str) -> None:
        """Drop all values of a field."""
        number = self.NUMBERS[name]
        self.fields = [field for field in self.fields if field[0] != number]


class ModelProto(Message):
    """A model: a graph, and the versions of the operators that it uses."""

    NUMBERS: ClassVar = {"ir_version": 1, "graph": 7, "opset_import": 8, "functions": 25}


class OperatorSetIdProto(Message):
    """A version of a domain's operators; the domain of ONNX's own is empty."""

    NUMBERS: ClassVar = {"domain": 1, "version": 2}


class GraphProto(Message):
    """Operators in an order in which they can run, and the weights that they use."""

    NUMBERS: ClassVar = {
        "node": 1, "name": 2, "initializer": 5, "input": 11, "output": 12, "value_info": 13,
        "sparse_initializer": 15,
    }  # fmt: skip


class FunctionProto(Message):
    """Operators that stand for one."""

    NUMBERS: ClassVar = {"node": 7}


class NodeProto(Message):
    """An operator."""

    NUMBERS: ClassVar = {
        "input": 1, "output": 2, "name": 3, "op_type": 4, "attribute": 5, "domain": 7,
    }  # fmt: skip


class AttributeProto(Message):
    """An attribute of an operator; `type` says which field holds the value."""

    NUMBERS: ClassVar = {
        "name": 1, "f": 2, "i": 3, "s": 4, "t": 5, "g": 6, "ints": 8, "tensors": 10, "graphs": 11,
        "type": 20, "sparse_tensor": 22, "sparse_tensors": 23,
    }  # fmt: skip
    FLOAT, INT, STRING, GRAPH, INTS = 1, 2, 3, 5, 7  # AttributeType


class TensorProto(Message):
    """A constant tensor, whose data may be in another file."""

    NUMBERS: ClassVar = {
        "dims": 1, "data_type": 2, "int32_data": 5, "name": 8, "raw_data": 9, "external_data": 13,
        "data_location": 14,
    }  # fmt: skip
    FLOAT, INT32, INT64, BOOL, FLOAT16, DOUBLE = 1, 6, 7, 9, 10, 11  # DataType
    EXTERNAL = 1  # DataLocation


class SparseTensorProto(Message):
    """A constant tensor of which most is 0: what is not, and where."""

    NUMBERS: ClassVar = {"values": 1, "indices": 2}


class StringStringEntryProto(Message):
    """A key and its value: of a tensor's external data, the file's name, the offset, the length."""

    NUMBERS: ClassVar = {"key": 1, "value": 2}


class ValueInfoProto(Message):
    """An input or output of a graph."""

    NUMBERS: ClassVar = {"name": 1, "type": 2}


class TypeProto(Message):
    """The type of a value."""

    NUMBERS: ClassVar = {"tensor_type": 1}


class TypeProtoTensor(Message):
    """TypeProto.Tensor: of which elements, in which shape."""

    NUMBERS: ClassVar = {"elem_type": 1, "shape": 2}


class TensorShapeProto(Message):
    """Dimensions."""

    NUMBERS: ClassVar = {"dim": 1}


class Dimension(Message):
    """TensorShapeProto.Dimension: a fixed size (dim_value) or a symbolic one (dim_param)."""

    NUMBERS: ClassVar = {"dim_value": 1}


def _read(data: Any) -> list[Field]:
    fields: list[Field] = []
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number <= _MAX_NUMBER or len(fields) == _MAX_FIELDS:
            raise ValueError("not a protobuf message")  # for one, a file of zeros
        if wire_type == _VARINT:
            value, position = _varint(data, position)
            fields.append((number, wire_type, value - (value >> 63 << 64)))  # signed
            continue
        size = _SIZES.get(wire_type)
        if wire_type == _BYTES:
            size, position = _varint(data, position)
        if size is None or position + size > len(data):
            raise ValueError("not a protobuf message, or only a part of one")
        fields.append((number, wire_type, data[position : position + size]))
        position += size
    return fields


def _write(fields: list[Field]) -> bytes:
    parts = []
    for number, wire_type, value in fields:
        parts.append(_as_varint(number << 3 | wire_type))
        if wire_type in (_VARINT, _BYTES):
            parts.append(_as_varint(value if wire_type == _VARINT else len(value)))
        if wire_type != _VARINT:
            parts.append(value)
    return b"".join(parts)


def _encoded(value: int | float | str | bytes | Message) -> tuple[int, Any]:
    """Wire type and value of what a field is to hold; floats are single precision."""
    if isinstance(value, int):
        return _VARINT, value
    if isinstance(value, float):
        return _FIXED32, struct.pack("<f", value)
    return _BYTES, value.encode() if isinstance(value, str) else bytes(value)


def _varint(data: Any, position: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, the lowest first, and the position after it."""
    value = 0
    for shift, byte in enumerate(data[position : position + 10]):
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            return value, position + shift + 1
    raise ValueError("not a protobuf message, or only a part of one")


def _as_varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number takes ten bytes
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
