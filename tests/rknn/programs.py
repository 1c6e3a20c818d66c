"""Small .rknn files written by hand, whose FlatBuffer announces more than it holds."""

from __future__ import annotations

import struct

from tests.rknn import fixtures

TASK = struct.Struct("<8IQ")
CLEAR, ELEMENTWISE = 0x1FFFF, 0x18


class Writer:
    """A FlatBuffer written front to back: tables whose fields are pointed at what comes later."""

    def __init__(self) -> None:
        self.data = bytearray(8)

    def table(self, *fields: int) -> dict[int, int]:
        """Where the pointer of each field is; -1: the table itself."""
        self._align(4, 0)
        vtable, count = len(self.data), max(fields) + 1
        offsets = [4 + 4 * fields.index(n) if n in fields else 0 for n in range(count)]
        self.data += struct.pack(f"<{count + 2}H", 4 + 2 * count, 4 + 4 * len(fields), *offsets)
        self._align(4, 0)
        table = len(self.data)
        self.data += struct.pack("<i", table - vtable) + bytes(4 * len(fields))
        return {-1: table, **{field: table + 4 + 4 * n for n, field in enumerate(fields)}}

    def vector(self, *places: int, content: bytes, length: int | None = None) -> int:
        """Write a vector that these pointers share; returns where its first element is."""
        self._align(8, 4)
        for place in places:
            self.point(place, len(self.data))
        self.data += struct.pack("<I", len(content) if length is None else length) + content
        return len(self.data) - len(content)

    def integers(self, *places: int, values: list[int]) -> int:
        """Write a vector of integers."""
        return self.vector(
            *places, content=struct.pack(f"<{len(values)}I", *values), length=len(values)
        )

    def point(self, place: int, target: int) -> None:
        """Set a pointer, which counts from its own place."""
        struct.pack_into("<I", self.data, place, target - place)

    def _align(self, to: int, rest: int) -> None:
        while len(self.data) % to != rest:
            self.data.append(0)


def shared(
    *,
    layers: int = 1,
    sides: int = 1,
    rank: int = 4,
    text: int = 8,
    tasks: int = 1,
    words: int = 1,
    second: int = 0,
) -> bytes:
    """A .rknn file whose layers are all one table, its tensors all one, its tasks' words, too.

    Of its `tasks`, the last `second` are those of the second of two cores.
    """
    writer = Writer()
    root = writer.table(2, 20)
    struct.pack_into("<I", writer.data, 0, root[-1])
    graphs = writer.integers(root[2], values=[0])
    buffers = writer.integers(root[20], values=[0, 0])
    graph = writer.table(0, 1, 10)
    writer.point(graphs, graph[-1])
    tensors = writer.integers(graph[0], values=[0])
    places = writer.integers(graph[1], values=[0] * layers)
    writer.integers(graph[10], values=[0, 0, 0, tasks - second, tasks])
    layer = writer.table(1, 2, 4, 5, 10)
    for number in range(layers):
        writer.point(places + 4 * number, layer[-1])
    writer.vector(layer[1], layer[2], content=b"a:" * (text // 2))
    writer.integers(layer[4], layer[5], values=[0] * sides)
    writer.integers(layer[10], values=[tasks - second, 0, second, 0, 0, 0])
    tensor = writer.table(4)
    writer.point(tensors, tensor[-1])
    writer.integers(tensor[4], values=[1] * rank)
    for number, content in enumerate(
        (
            struct.pack("<Q", 0x1001 << 48 | 15 << 16 | 0x500C) * words,
            TASK.pack(0, 0, ELEMENTWISE, 0x300, CLEAR, 0, words, 0, 0) * tasks,
        )
    ):
        table = writer.table(0)
        writer.point(buffers + 4 * number, table[-1])
        writer.vector(table[0], content=content)
    return with_body(bytes(writer.data))


def with_body(body: bytes, component: str = "unet") -> bytes:
    """A component's .rknn file with another body."""
    data = fixtures.read(component)
    end = 64 + int.from_bytes(data[16:24], "little")
    return data[:16] + len(body).to_bytes(8, "little") + data[24:64] + body + data[end:]


def of_group_norm(component: str) -> bytes:
    """A component's .rknn file with the program of the fixture group_norm."""
    data = fixtures.read("group_norm")
    return with_body(data[64 : 64 + int.from_bytes(data[16:24], "little")], component)
