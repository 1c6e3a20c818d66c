"""A file of named tensors: .safetensors, or a .ckpt or .pt of torch that is read weights-only.

safetensors checks sizes and offsets of a header before it believes them, and maps the file. torch's
weights-only reader builds tensors and containers; it runs nothing that a pickle asks for, and what
PyTorch Lightning adds is passed over (`lightning.py`).
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lcmcore.errors import BundleError, LcmError, first_line
from lcmcore.util.files import open_solid
from lcmcore.util.placeholder import EMPTY, HEAD_BYTES, placeholder
from runtimes.onnx.checkpoint.lightning import load_checkpoint
from runtimes.onnx.pages import drop_pages

_MAX_MAPPED_BYTES = 2**28
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".bin", ".pth")
# How files of torch begin, now and before 1.6. A .safetensors file may begin with any number, the
# length of its header, but that follows and is a JSON object.
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_REASONS = {  # what safetensors' messages hold, by its version -> what is wrong
    ("HeaderTooLarge", "header too large"): (
        "not a .safetensors file: its header would be larger than 100 MB"
    ),
    ("HeaderTooSmall", "header too small"): "too short for a .safetensors file",
    ("InvalidHeaderLength", "invalid header length"): (
        "cut short within its header: download it again"
    ),
    ("MetadataIncompleteBuffer", "incomplete metadata", "not fully covered"): (
        "cut short, or its header does not fit the data: download it again"
    ),
}


class WeightFile:
    """Tensors by name, each read when it is asked for; raises BundleError that names the file.

    Tensors are copies: what has been read of a mapped file is taken out of memory now and then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.paths = (path,)
        self.metadata: Mapping[str, str] = {}
        self._mapped_bytes = 0  # at most: what was read since pages were dropped
        head = _head(path)
        with _readable(path):
            if head[8:9] != b"{" and head.startswith((_ZIP, _PICKLE)):
                self._tensors: Mapping[str, Tensor] | None = _torch_tensors(path)
                self.shapes = {name: tuple(each.shape) for name, each in self._tensors.items()}
            else:
                self._tensors = None
                self._file = safe_open(path, framework="pt")
                self.metadata = self._file.metadata() or {}
                self.shapes = {
                    name: tuple(self._file.get_slice(name).get_shape())
                    for name in self._file.keys()  # noqa: SIM118 - it is no mapping
                }

    def read(self, name: str) -> Tensor:
        """One tensor in float32; raises BundleError if it has NaN, infinities or no numbers."""
        with _readable(self.path):
            found = self._file.get_tensor(name) if self._tensors is None else self._tensors[name]
            tensor = found.to(torch.float32, copy=True)
        self._mapped_bytes += found.nbytes
        if self._mapped_bytes > _MAX_MAPPED_BYTES:
            drop_pages(self.path.resolve())
            self._mapped_bytes = 0
        if not torch.isfinite(tensor).all():
            raise BundleError(f"{self.path}: {name} holds NaN or infinities: a broken file")
        return tensor

    def header(self, key: str) -> dict[str, Any]:
        """A JSON object in the metadata; empty where there is none."""
        try:
            value = json.loads(self.metadata.get(key, "{}"))
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


class WeightPair:
    """TAESD's two files as one: the names begin with encoder. or decoder."""

    def __init__(self, encoder: WeightFile, decoder: WeightFile) -> None:
        self.path = decoder.path
        self.paths = (encoder.path, decoder.path)
        self.files = {"encoder": encoder, "decoder": decoder}
        self.shapes = {
            f"{half}.{name}": shape
            for half, file in self.files.items()
            for name, shape in file.shapes.items()
        }

    def read(self, name: str) -> Tensor:
        """One tensor in float32, as of a WeightFile."""
        half, _, rest = name.partition(".")
        return self.files[half].read(rest)


def _head(path: Path) -> bytes:
    """The first bytes of a regular file that is no placeholder for another."""
    try:
        with open_solid(path) as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise BundleError(f"no such file: {path}") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {first_line(error)}") from error
    found = placeholder(head) if head else EMPTY
    if found is not None:
        raise BundleError(f"{path}: {found}")
    return head


def _torch_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch file, of `state_dict` where there is one; dots between names."""
    if path.suffix.lower() == ".safetensors":
        raise BundleError(
            f"{path}: a pickle of torch that is named .safetensors: do not trust where it is from"
        )
    content = _torch_content(path)
    found: dict[str, Tensor] = {}
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    _collect(content, "", found)
    return found


def _torch_content(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        with _BoundedFile(io.FileIO(path)) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        return load_checkpoint(path)


class _BoundedFile(io.BufferedReader):
    """A file that takes no memory for what it has not: a pickle may ask for any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        rest = os.fstat(self.fileno()).st_size - self.tell()
        return super().read(rest if size is None or size < 0 else min(size, max(rest, 0)))


def _collect(value: Any, name: str, found: dict[str, Tensor], depth: int = 0) -> None:
    if isinstance(value, Tensor):
        found[name] = value
    elif isinstance(value, Mapping) and depth < 4:
        for key, each in value.items():
            _collect(each, f"{name}.{key}" if name else str(key), found, depth + 1)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what safetensors, torch and a pickle's reader raise into a BundleError of one line."""
    try:
        yield
    except LcmError:
        raise
    except Exception as error:
        raise BundleError(f"{path}: {_reason(first_line(error))}") from error


def _reason(text: str) -> str:
    for marks, reason in _REASONS.items():
        if any(mark in text for mark in marks):
            return reason
    if "weights_only" in text or "Weights only" in text or "Unsupported" in text:
        return (
            "a pickle that asks for more than tensors, which is never run: convert it to"
            " .safetensors with a tool that you trust"
        )
    return f"cannot be read as weights: {text}"
