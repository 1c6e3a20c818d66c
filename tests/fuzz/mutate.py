"""Changes items at random: bytes of any file, and the structure of those whose format is known.

What a file holds is told by its suffix. Everything is drawn from one `random.Random`, so that its
seed brings the same item again.
"""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from runtimes.onnx.protobuf import Message
from tests.fuzz.items import Item, Link

INTEGERS = (0, 1, -1, 2, 3, 127, 255, 256, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32, 2**40)
INTEGERS += (2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31), -(2**63), 10**30, 10**400)
FLOATS = (0.5, 1e-9, 1e308, 1e-320, -0.0, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    "", " ", "\0", "a\nb", "\x1b[2J", "\u202e", "\u2028", "\x85", "\ud800", "\U0001f600", "é", "-",
    "--help", "$(touch pwned)", "'", "%s%n", "{}", "a" * 300, "x" * 100_000, ".", "..", "/",
    "../canary/secret", "/dev/zero", "/dev/null", "/proc/self/mem", "fifo", "loop", "sparse",
    "64x64", "0x0", "99999x99999", "NaN", "1e999", "!", "<|endoftext|>", "constructor", "__class__",
)  # fmt: skip


def nested(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], [None], {"": None}, [0] * 9, [1e9] * 1000, *INTEGERS,
    *FLOATS, *TEXTS, nested(100), nested(600),
)  # fmt: skip
DEEP = 3000  # levels, beyond Python's own limit

Rng = random.Random


def mutate(seeds: Sequence[Item], rng: Rng, links: bool = True) -> Item:
    """One of the seeds, with one to four changes."""
    item = dict(rng.choice(seeds))
    others = [content for seed in seeds for content in seed.values() if isinstance(content, bytes)]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        name = rng.choice(sorted(item))
        content = item[name]
        chance = rng.random()
        if chance < 0.02:
            del item[name]
        elif chance < 0.04 and links:
            item[name] = Link(rng.choice(("/dev/zero", "../canary/secret", "../fifo", name)))
        elif isinstance(content, bytes):
            item[name] = _mutated(name, content, others, rng)
        if not item:
            break
    return item


def _mutated(name: str, content: bytes, others: Sequence[bytes], rng: Rng) -> bytes:
    suffix = name.rpartition(".")[2]
    structural = _BY_SUFFIX.get(suffix)
    if structural is not None and rng.random() < 0.75:
        try:
            return structural(content, rng)
        except (ValueError, RecursionError, IndexError, KeyError, struct.error):
            pass  # it has been damaged before
    if suffix in _TEXT and rng.random() < 0.5:
        return _text(content, rng)
    return rng.choice(_OPERATIONS)(bytearray(content), others, rng)


# Bytes of any format.


def _place(data: bytes | bytearray, rng: Rng) -> int:
    """The beginning, where headers are, more often than elsewhere."""
    limit = len(data) if rng.random() < 0.6 else min(len(data), 200)
    return rng.randrange(max(1, limit))


def _chunk(data: bytes | bytearray, rng: Rng) -> slice:
    start = _place(data, rng)
    return slice(start, start + int(2 ** rng.uniform(0, 12)))


def _flip(data: bytearray, others: Sequence[bytes], rng: Rng) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _set_byte(data: bytearray, others: Sequence[bytes], rng: Rng) -> bytes:
    if data:
        data[_place(data, rng)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return bytes(data)


def _set_number(data: bytearray, others: Sequence[bytes], rng: Rng) -> bytes:
    size = rng.choice((2, 4, 4, 8))
    order = rng.choice(("little", "big"))
    number = (rng.choice(INTEGERS) & (1 << 8 * size) - 1).to_bytes(size, order)  # type: ignore[arg-type]
    start = _place(data, rng)
    data[start : start + size] = number
    return bytes(data)


def _cut(data: bytearray, others: Sequence[bytes], rng: Rng) -> bytes:
    return bytes(data[: _place(data, rng)])


def _drop(data: bytearray, others: Sequence[bytes], rng: Rng) -> bytes:
    del data[_chunk(data, rng)]
    return bytes(data)


def _duplicate(data: bytearray, others: Sequence[bytes], rng: Rng) -> bytes:
    chunk = _chunk(data, rng)
    data[chunk.start : chunk.start] = data[chunk] * rng.choice((1, 1, 2, 50))
    return bytes(data)


def _splice(data: bytearray, others: Sequence[bytes], rng: Rng) -> bytes:
    other = rng.choice(others)
    return bytes(data[: _place(data, rng)]) + other[_place(other, rng) :]


def _insert(data: bytearray, others: Sequence[bytes], rng: Rng) -> bytes:
    start = _place(data, rng)
    data[start:start] = rng.randbytes(rng.choice((1, 2, 4, 100)))
    return bytes(data)


_OPERATIONS = (_flip, _flip, _set_byte, _set_number, _cut, _drop, _duplicate, _splice, _insert)


# Text.

_TEXT = ("json", "jsonl", "toml", "txt")
_TOKEN = re.compile(r'-?\d+(\.\d+)?(e-?\d+)?|"[^"\n]*"|\w+|[^\w\s]')


def _text(content: bytes, rng: Rng) -> bytes:
    """Another token in the place of one, or a line twice."""
    text = content.decode("utf-8", "surrogateescape")
    tokens = list(_TOKEN.finditer(text))
    if not tokens or rng.random() < 0.2:
        lines = text.splitlines(keepends=True) or [""]
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
        return "".join(lines).encode("utf-8", "surrogateescape")
    token = rng.choice(tokens)
    text = text[: token.start()] + _new_token(rng) + text[token.end() :]
    return text.encode("utf-8", "surrogatepass")


def _new_token(rng: Rng) -> str:
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(("[", '{"a":', "[[")) * DEEP
    if kind < 0.4:
        return str(rng.choice((*INTEGERS, *FLOATS)))
    value = json.dumps(rng.choice(TEXTS), ensure_ascii=rng.random() < 0.5)
    return value if kind < 0.8 else value[1:-1]


def _json(content: bytes, rng: Rng) -> bytes:
    """Another value at one place of the document, or a key more, less or twice."""
    document = json.loads(content)
    places = list(_places(document))
    if not places:
        return json.dumps(rng.choice(VALUES)).encode()
    holder, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.1:
        del holder[key]
    elif kind < 0.2 and isinstance(holder, dict):
        holder[rng.choice((*TEXTS, *holder))] = rng.choice(VALUES)
    elif kind < 0.3:
        other, name = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    else:
        holder[key] = rng.choice(VALUES)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    if kind > 0.97:
        text = text.replace("[", "[" * DEEP, 1).replace("]", "]" * DEEP, 1)
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    """(holder, key) of every value in a JSON document."""
    keys = value if isinstance(value, dict) else range(len(value) if type(value) is list else 0)
    for key in list(keys):
        yield value, key
        yield from _places(value[key])


def _json_lines(content: bytes, rng: Rng) -> bytes:
    lines = content.split(b"\n")
    index = rng.randrange(len(lines))
    lines[index] = _json(lines[index], rng)
    return b"\n".join(lines)


# Binary formats with lengths and checksums, which a change of bytes alone would not get past.


def _png(content: bytes, rng: Rng) -> bytes:
    """A chunk changed, moved, doubled or dropped; the checksums fit again."""
    chunks = [[kind, data] for kind, data in png_chunks(content)]
    index = rng.randrange(len(chunks))
    kind, data = chunks[index]
    change = rng.random()
    if change < 0.6:
        chunks[index][1] = _header(data, rng) if kind == b"IHDR" else _png_data(kind, data, rng)
    elif change < 0.7:
        chunks[index][0] = rng.choice(
            (b"IHDR", b"IDAT", b"iTXt", b"zTXt", b"tRNS", b"eXIf", b"acTL")
        )
    elif change < 0.8:
        del chunks[index]
    elif change < 0.9:
        chunks.insert(rng.randrange(len(chunks)), chunks[index])
    else:
        rng.shuffle(chunks)
    return content[:8] + b"".join(map(png_chunk, chunks))


def png_chunks(content: bytes) -> Any:
    position = 8
    while position < len(content):
        size = int.from_bytes(content[position : position + 4], "big")
        if position + size + 12 > len(content):
            raise ValueError("no PNG")
        kind = content[position + 4 : position + 8]
        yield kind, content[position + 8 : position + 8 + size]
        position += size + 12


def png_chunk(chunk: Sequence[bytes]) -> bytes:
    kind, data = chunk
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header(data: bytes, rng: Rng) -> bytes:
    width, height, depth, color, *rest = struct.unpack(">IIBBBBB", data)
    sides = (0, 1, 7, 64, 5000, 16000, 65535, 2**27, 2**31 - 1, 2**32 - 1)
    width, height = (rng.choice((side, rng.choice(sides))) for side in (width, height))
    depth = rng.choice((depth, 1, 2, 4, 8, 16, 255))
    color = rng.choice((color, 0, 2, 3, 4, 6, 255))
    return struct.pack(">IIBBBBB", width, height, depth, color, *rest)


def _png_data(kind: bytes, data: bytes, rng: Rng) -> bytes:
    if kind in (b"iTXt", b"zTXt") and rng.random() < 0.5:
        key, *_ = data.partition(b"\0")
        if rng.random() < 0.3:  # a text that is long when it is unpacked
            return key + b"\0\1\0\0\0" + zlib.compress(bytes(rng.choice((10**5, 10**8))))
        return key + b"\0\0\0\0\0" + rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    return rng.choice(_OPERATIONS)(bytearray(data), [data], rng)


def _protobuf(content: bytes, rng: Rng) -> bytes:
    """A field changed, doubled or dropped, at some depth; the lengths around it fit again."""
    fields = list(Message(content).fields)
    if not fields:
        raise ValueError("an empty message")
    index = rng.randrange(len(fields))
    number, wire_type, value = fields[index]
    change = rng.random()
    if wire_type == 2 and len(value) > 1 and rng.random() < 0.8:
        try:
            fields[index] = number, wire_type, _protobuf(bytes(value), rng)
            return _from_fields(fields)
        except ValueError:
            pass
    if change < 0.1:
        del fields[index]
    elif change < 0.2:
        fields[index:index] = [fields[index]] * rng.choice((1, 1, 100))
    elif change < 0.25:
        fields[index] = rng.choice((1, 2, 3, 5, 7, 9, 13, 14, 20)), wire_type, value
    elif wire_type == 0:
        fields[index] = number, 0, rng.choice(INTEGERS)
    elif wire_type == 2:
        fields[index] = number, 2, _blob(bytes(value), rng)
    else:
        fields[index] = number, wire_type, rng.randbytes(len(value))
    return _from_fields(fields)


def _from_fields(fields: Any) -> bytes:
    message = Message()
    message.fields = fields
    return bytes(message)


def _blob(value: bytes, rng: Rng) -> bytes:
    if rng.random() < 0.4:
        return rng.choice(TEXTS).encode("utf-8", "surrogatepass")
    return rng.choice(_OPERATIONS)(bytearray(value), [value], rng)


def _rknn(content: bytes, rng: Rng) -> bytes:
    """Another value in the JSON at the end or near the top, or in the NPU's program.

    The lengths fit again.
    """
    start = 64 + int.from_bytes(content[16:24], "little")
    body, graph = content[:start], content[start + 8 :]
    if len(body) > 65536 and rng.random() < 0.8:  # one that has a program
        body = _words(bytearray(body), rng)
    elif rng.random() < 0.7:
        graph = _json(graph, rng)
    else:
        match = rng.choice(list(re.finditer(rb'\{"[^\0]{4,2000}\}', body[:65536])))
        changed = _json(match[0], rng)[: len(match[0])].ljust(len(match[0]))
        body = body[: match.start()] + changed + body[match.end() :]
    return body + len(graph).to_bytes(8, "little") + graph


def _words(content: bytearray, rng: Rng) -> bytes:
    """Some numbers of four bytes in it changed, as lengths and pointers are."""
    for _ in range(rng.choice((1, 1, 2, 10, 100))):
        place = rng.randrange(64, len(content) - 4) & ~3
        value = rng.choice((rng.getrandbits(32), rng.getrandbits(8), rng.getrandbits(16), 2**31))
        content[place : place + 4] = value.to_bytes(4, "little")
    return bytes(content)


# XML.

_XML_PLACE = re.compile(r'"[^"]*"|(?<=>)[^<>\s]+(?=<)|<\w+ [^<>]*/>')


def _xml(content: bytes, rng: Rng) -> bytes:
    """Another value of an attribute, another text, or an element twice or not at all."""
    text = content.decode()
    place = rng.choice(list(_XML_PLACE.finditer(text)))
    value = str(rng.choice((*INTEGERS, *FLOATS, *TEXTS, "?", "f16", "i64")))
    if place[0].startswith("<"):
        value = rng.choice(("", place[0] * 2))
    else:
        if rng.random() < 0.3:
            value = rng.choice(re.findall(r'"([^"<>]*)"', text))
        value = quoteattr(value) if place[0].startswith('"') else escape(value)
    text = text[: place.start()] + value + text[place.end() :]
    return text.encode("utf-8", "surrogatepass")


_BY_SUFFIX: dict[str, Callable[[bytes, Rng], bytes]] = {
    "json": _json,
    "jsonl": _json_lines,
    "png": _png,
    "onnx": _protobuf,
    "rknn": _rknn,
    "xml": _xml,
}
