"""Reads the inputs, outputs and platform of a .rknn file without vendor code.

The format is undocumented; these offsets were found in files of rknn-toolkit2 2.3.2 and 2.5.0
(file version 6). They are used for diagnosis and for the order of the inputs:

    0   "RKNN" and 4 zero bytes          64      body of N bytes; near its top the inputs' dtypes
    8   file version, u64                        and layouts, as plain JSON
    16  length N of the body, u64        64 + N  length J, u64, then J bytes of JSON: the graph
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from lcmcore.errors import BundleError, first_line, reason_of
from lcmcore.util.files import open_regular
from lcmcore.util.placeholder import HEAD_BYTES, placeholder

KNOWN_VERSION = 6
OLDEST_TOOLKIT = (2, 3, 0)  # older ones have a wrong LayerNorm in half precision

_HEADER_BYTES = 64
_PREAMBLE_BYTES = 1 << 16  # the part of the body that is searched for dtypes and layouts
_MAX_OBJECTS = 64  # of JSON that are looked at there; files of 2.5.0 have at most 7
# Far above what the converter writes (2 kB of JSON), and little enough to be read in no time.
_MAX_JSON_BYTES = 1 << 20
_MAX_TENSORS = 64  # inputs or outputs
_MAX_RANK = 8
_MAX_ELEMENTS = 1 << 30  # of a tensor: the NPU addresses 4 GiB
_MAX_NAME = 1024  # characters, also of the version and of a platform
_DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64"),
)

log = logging.getLogger("lcmcore.runtimes.rknn")


@dataclass(frozen=True)
class RknnTensor:
    """An input or output; `shape` is that of the ONNX file. None is what the file does not say."""

    name: str
    shape: tuple[int, ...]
    dtype: str | None = None  # numpy's name
    layout: str | None = None  # "NHWC" or "NCHW", of four dimensions only

    def __str__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        kind = " ".join(filter(None, (self.dtype, self.layout)))
        return f"{self.name} [{shape}] {kind}".rstrip()


@dataclass(frozen=True)
class RknnFile:
    """The metadata of a .rknn file; inputs and outputs in the device's order.

    Inputs and outputs are empty for a file version that this reader cannot parse.
    """

    path: Path
    version: int
    size: int  # bytes
    toolkit: str = ""  # e.g. "2.5.0"
    platforms: tuple[str, ...] = ()  # e.g. ("rk3588",)
    inputs: tuple[RknnTensor, ...] = ()
    outputs: tuple[RknnTensor, ...] = ()

    @classmethod
    def read(cls, path: Path) -> RknnFile:
        """Read a file; raises BundleError if it is missing, not .rknn, encrypted, cut or damaged.

        An unknown file version is logged as a warning, and parsed as far as possible.
        """
        try:
            with open_regular(path) as file:
                return cls._parse(path, os.fstat(file.fileno()).st_size, file)
        except OSError as error:
            raise BundleError(f"{path}: cannot be read: {reason_of(error)}") from error

    @classmethod
    def _parse(cls, path: Path, size: int, file: BinaryIO) -> RknnFile:
        head = file.read(HEAD_BYTES)
        if (found := placeholder(head)) is not None:
            raise BundleError(f"{path}: {found}")
        header = head[:_HEADER_BYTES]
        _check_magic(path, header)
        version = int.from_bytes(header[8:16], "little")
        if version != KNOWN_VERSION:
            log.warning(
                "%s: file version %d is not supported (only %d is): its metadata may be wrong",
                path, version, KNOWN_VERSION,
            )  # fmt: skip
        try:
            preamble, graph = _sections(file, header, size)
            inputs, outputs = (_tensors(graph, preamble, side) for side in ("input", "output"))
            toolkit = _text("version", graph["version"])
            platforms = tuple(_text("platform", name) for name in _list(graph["target_platform"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if version != KNOWN_VERSION:
                return cls(path, version, size)
            reason = first_line(error) if isinstance(error, _DamagedError) else "damaged"
            raise BundleError(f"{path}: {reason}: copy or rebuild it") from error
        return cls(path, version, size, toolkit, platforms, inputs, outputs)

    @property
    def too_old(self) -> bool:
        """Whether a toolkit older than OLDEST_TOOLKIT built it."""
        numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", self.toolkit)
        return numbers is not None and tuple(map(int, numbers.groups())) < OLDEST_TOOLKIT


class _DamagedError(ValueError):
    """The file is cut or damaged; the message says how."""


def _check_magic(path: Path, header: bytes) -> None:
    if header.startswith(b"RKCE"):
        raise BundleError(f"{path}: encrypted (RKCE): ask its author for the plain .rknn file")
    if not header.startswith(b"RKNN"):
        raise BundleError(f"{path}: not an RKNN file: it begins with {header[:4]!r}")
    if len(header) < _HEADER_BYTES:
        raise BundleError(f"{path}: cut after {len(header)} bytes: copy or rebuild it")
    if not any(header[8:24]):
        raise BundleError(f"{path}: damaged, its header is empty: copy or rebuild it")


def _sections(file: BinaryIO, header: bytes, size: int) -> tuple[bytes, Mapping[str, Any]]:
    """The start of the body, and the JSON object that follows the body."""
    start = _HEADER_BYTES + int.from_bytes(header[16:24], "little")
    if start + 8 > size:
        raise _DamagedError(f"cut: it has {size} bytes and should have more than {start}")
    file.seek(_HEADER_BYTES)
    preamble = file.read(min(_PREAMBLE_BYTES, start - _HEADER_BYTES))
    file.seek(start)
    length = int.from_bytes(file.read(8), "little")
    if start + 8 + length > size:
        raise _DamagedError(f"cut: it has {size} bytes and should have {start + 8 + length}")
    if length > _MAX_JSON_BYTES:
        raise _DamagedError(f"damaged: {length} bytes of JSON announced")
    return preamble, json.loads(file.read(length))


def _tensors(graph: Mapping[str, Any], preamble: bytes, side: str) -> tuple[RknnTensor, ...]:
    """Inputs or outputs in the device's order, with dtype and layout if the preamble has them."""
    edges = [edge for edge in graph["graph"] if edge["left"] == side]
    if not 1 <= len(edges) <= _MAX_TENSORS:
        raise _DamagedError(f"damaged: it has {len(edges) or 'no'} {side}")
    by_position = {_position(edge["left_tensor_id"]): edge["right_tensor_id"] for edge in edges}
    if by_position.keys() != set(range(len(edges))):
        raise _DamagedError(f"damaged: the positions of its {side}s are wrong")
    by_id = {tensor["tensor_id"]: tensor for tensor in graph["norm_tensor"]}
    declared = [by_id[by_position[position]] for position in range(len(edges))]
    formats = _formats(preamble, [_text("name", tensor["url"]) for tensor in declared])
    return tuple(_tensor(tensor, formats.get(tensor["url"], {})) for tensor in declared)


def _tensor(declared: Mapping[str, Any], form: Mapping[str, Any]) -> RknnTensor:
    name, shape, dtype = declared["url"], tuple(_list(declared["size"])), form.get("dtype")
    if (
        len(shape) > _MAX_RANK
        or not all(type(dim) is int and 1 <= dim <= _MAX_ELEMENTS for dim in shape)
        or math.prod(shape) > _MAX_ELEMENTS
    ):
        raise _DamagedError(f"damaged: {name!r} has an impossible shape")
    layout = form.get("layout") if len(shape) == 4 else None
    return RknnTensor(
        name=name,
        shape=shape,
        dtype=dtype if dtype in _DTYPES else None,
        layout=layout if layout in ("NHWC", "NCHW") else None,
    )


def _position(value: Any) -> int:
    if type(value) is not int:
        raise _DamagedError(f"damaged: a position is of type {type(value).__name__}")
    return value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise _DamagedError(f"damaged: a {what} is no text of at most {_MAX_NAME} characters")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MAX_TENSORS:
        raise _DamagedError(f"damaged: no list of at most {_MAX_TENSORS} where one should be")
    return value


def _formats(preamble: bytes, names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """The {name: {"dtype", "layout"}} for exactly these tensors, or nothing."""
    for candidate in islice(_json_objects(preamble), _MAX_OBJECTS):
        if candidate.keys() == set(names) and all(isinstance(v, dict) for v in candidate.values()):
            return candidate
    return {}


def _json_objects(data: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects in the data that are complete, empty ones in place of the others."""
    text = data.decode("latin-1")  # one character per byte; the JSON itself is ASCII
    decoder = json.JSONDecoder()
    for match in re.finditer(r'\{"', text):
        try:
            value, _ = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            value = {}
        yield value
