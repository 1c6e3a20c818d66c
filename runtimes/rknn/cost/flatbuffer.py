"""A reader of FlatBuffers tables without a schema, as far as .rknn files need it.

Source: the FlatBuffers internals page (flatbuffers.dev). Positions are bytes from the start of the
buffer; whatever lies outside of it raises DamagedError, so that any bytes can be read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Vectors can share their bytes, so that a small file can announce any amount of work.
_MAX_TABLES = 1 << 14  # of a vector; the full-size UNet has 1,659 layers, 4,559 tensors
_MAX_INTEGERS = 16
_MAX_STRING = 256  # bytes


class DamagedError(ValueError):
    """The bytes are not what a program for the NPU looks like; the message says how."""


class Span(NamedTuple):
    """The elements of a vector: where the first is, and how many there are."""

    start: int
    length: int


class Table:
    """A table in a buffer, its fields by their number; a field that is absent is None or empty."""

    def __init__(self, data: memoryview, position: int) -> None:
        self._data = data
        self._position = position
        self._vtable = position - _unpack("<i", data, position)
        self._fields = (_unpack("<H", data, self._vtable) - 4) // 2

    @classmethod
    def root(cls, data: memoryview) -> Table:
        """The table that a buffer begins with."""
        return cls(data, _unpack("<I", data, 0))

    def byte(self, field: int) -> int:
        """A field of one byte, 0 if absent."""
        place = self._place(field)
        return 0 if place is None else _unpack("<B", self._data, place)

    def span(self, field: int) -> Span:
        """Where a field's vector is, without its elements being looked at."""
        place = self._place(field)
        if place is None:
            return Span(0, 0)
        place += _unpack("<I", self._data, place)
        return Span(place + 4, _unpack("<I", self._data, place))

    def text(self, field: int) -> str:
        """A field's string, of which the first 256 bytes are read."""
        start, length = self.span(field)
        return bytes(self._data[start : start + min(length, _MAX_STRING)]).decode(
            "utf-8", "replace"
        )

    def integers(self, field: int) -> Sequence[int]:
        """A field's vector of unsigned 32-bit integers, of which the first 16 are read."""
        start, length = self._span_of_words(field)
        values: tuple[int, ...]
        values = struct.unpack_from(f"<{min(length, _MAX_INTEGERS)}I", self._data, start)
        return values

    def tables(self, field: int, last: int | None = None) -> Iterator[Table]:
        """A field's vector of tables, or the `last` ones of it."""
        start, length = self._span_of_words(field)
        first = 0 if last is None else max(length - last, 0)
        if length - first > _MAX_TABLES:
            raise DamagedError(f"a vector has {length} elements")
        for place in range(start + 4 * first, start + 4 * length, 4):
            yield Table(self._data, place + _unpack("<I", self._data, place))

    def _span_of_words(self, field: int) -> Span:
        start, length = self.span(field)
        if start + 4 * length > len(self._data):
            raise DamagedError(f"a vector has {length} elements")
        return Span(start, length)

    def _place(self, field: int) -> int | None:
        if field >= self._fields:
            return None
        offset = _unpack("<H", self._data, self._vtable + 4 + 2 * field)
        return self._position + offset if offset else None


def _unpack(form: str, data: memoryview, position: int) -> int:
    if not 0 <= position <= len(data) - struct.calcsize(form):
        raise DamagedError(f"position {position} is outside of its {len(data)} bytes")
    value: int = struct.unpack_from(form, data, position)[0]
    return value
