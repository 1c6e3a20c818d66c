"""What lies in the place of a file that was never fetched: a Git LFS pointer, a page, nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lcmcore.util.files import open_regular

MAX_FILES = 10_000
HEAD_BYTES = 1025  # as many as tell a pointer, which has fewer than 1024 bytes, from other files

# The first line of a pointer, and of those that Git LFS still reads by its former name (its
# docs/spec.md).
_POINTERS = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<!--", b"<?xml", b"<error>")
_NETWORK = b"<net "  # the root of OpenVINO's XML
_NEVER_EMPTY = (".onnx", ".onnx_data", ".data", ".rknn", ".json")
_NOT_READ = (
    *(".safetensors", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"),
    *(".md", ".html", ".xml", ".svg", ".png", ".jpg", ".jpeg", ".webp", ".gif"),
)
_TORCH = "pytorch_model"  # in the names of its .bin files; others may hold weights of a network
_BEFORE_PAGES = b"\xef\xbb\xbf \t\r\n"


class Placeholder(NamedTuple):
    """What a file is instead of itself, and what to do; as text, both."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


EMPTY = Placeholder("empty", "copy or download it again")
_POINTER = Placeholder("a Git LFS pointer, not the file itself", "run `git lfs pull`")
_PAGE = Placeholder("an HTML or XML page, not the file itself", "download it again")


def placeholder(head: bytes) -> Placeholder | None:
    """What a file is whose first HEAD_BYTES bytes, or all that it has, are these.

    None for one that may be the file itself.
    """
    if not head:
        return EMPTY
    if len(head) < HEAD_BYTES - 1 and head.startswith(_POINTERS):
        return _POINTER
    if head.lstrip(_BEFORE_PAGES).lower().startswith(_PAGES) and _NETWORK not in head:
        return _PAGE
    return None


def placeholder_at(path: Path) -> Placeholder | None:
    """What lies there instead of a file; None also for what cannot be read, or is no file."""
    try:
        with open_regular(path) as file:
            return placeholder(file.read(HEAD_BYTES))
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return None


def placeholders(folder: Path) -> Iterator[tuple[Path, Placeholder]]:
    """The files in a folder and below that were never fetched.

    Files that only torch or a person reads are passed over, for nobody needs to fetch those, and
    so are hidden ones. At most MAX_FILES are looked at; links to folders are not followed.
    """
    for path in islice(_files(folder), MAX_FILES):
        found = placeholder_at(path)
        if found is None or (found == EMPTY and path.suffix not in _NEVER_EMPTY):
            continue
        yield path, found


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and not is_unread(name):
                yield Path(parent, name)


def is_unread(name: str) -> bool:
    """Whether a file of this name is for torch or for a person, and no runtime reads it."""
    suffix = Path(name).suffix.lower()
    return suffix in _NOT_READ or (suffix == ".bin" and _TORCH in name)
