"""Writing parts of a bundle so that an interrupted build leaves no half-written network."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcmcore.errors import OutputError, first_line
from lcmcore.util.configfile import read_table
from lcmcore.util.files import is_within, make_folder, read_regular, write_whole
from lcmcore.util.temporary import temporary_folder

SETTINGS = "lcm.toml"
_MAX_BYTES = 2**28  # of a file that is copied: a configuration, or a vocabulary
_MAX_DEPTH = 16  # of folders in one that is copied
# Files that a network needs from its own model: those of another model make it useless.
COMPANIONS = {"text_encoder": ("tokenizer",), "unet": ("model_index.json", "scheduler")}


@contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """A temporary folder whose files move to `folder` at the end; on an error they are removed.

    `last` is the file that marks the build as complete: it moves last, and an older one is removed
    first, so that it never lies beside files of another build. What a killed build has left beside
    `folder` is removed. Raises OutputError.
    """
    make_folder(folder)
    try:
        with temporary_folder(folder.parent) as stage:
            yield stage
            (folder / last).unlink(missing_ok=True)
            for path in sorted(stage.iterdir(), key=lambda path: path.name == last):
                path.replace(folder / path.name)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {first_line(error)}") from error


def copy_each(names: Iterable[str], source: Path, out: Path) -> None:
    """Copy files or folders of one bundle to another, as `copy_over` does; raises OutputError."""
    for name in names:
        copy_over(source / name, out / name, source)


def copy_over(source: Path, target: Path, bundle: Path | None = None) -> None:
    """Replace the target by a copy of a file or folder, if that exists; raises OutputError.

    Links are followed within `bundle` only (default: the source's folder), and from a snapshot in
    Hugging Face's cache to its blobs: else a stranger's bundle could have any file of the user
    copied into one that is handed on. Whatever is no regular file is refused.
    """
    if not source.exists():
        return
    make_folder(target.parent)
    try:
        inside = _folders_of(bundle or source.parent)
        if not source.is_dir():
            write_whole(target, _read_within(source, inside))
            return
        with temporary_folder(target.parent) as stage:
            _copy_tree(source, stage / "new", inside)
            if target.exists():
                target.replace(stage / "old")
            (stage / "new").replace(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {first_line(error)}") from error


def _folders_of(bundle: Path) -> list[Path]:
    """Where a bundle's files may lie, links resolved."""
    root = Path(os.path.realpath(bundle))
    snapshot = root.parent.name == "snapshots"
    return [root, root.parent.parent / "blobs"] if snapshot else [root]


def _copy_tree(source: Path, target: Path, inside: list[Path], depth: int = 0) -> None:
    """Copy a folder; links to folders in it are refused, for they may form a loop."""
    _require_within(source, inside)
    if depth > _MAX_DEPTH:
        raise OSError(f"{source}: folders are nested deeper than {_MAX_DEPTH}")
    target.mkdir()
    for path in source.iterdir():
        if path.is_symlink() and path.is_dir():
            raise OSError(f"{path} is a link to a folder: replace it by a copy")
        if path.is_dir():
            _copy_tree(path, target / path.name, inside, depth + 1)
        else:
            (target / path.name).write_bytes(_read_within(path, inside))


def _read_within(path: Path, inside: list[Path]) -> bytes:
    _require_within(path, inside)
    return read_regular(path, _MAX_BYTES)


def _require_within(path: Path, inside: list[Path]) -> None:
    if not is_within(path, inside):
        raise OSError(f"{path} is a link that leaves {inside[0]}: replace it by a copy")


def read_settings(out: Path) -> dict[str, Any]:
    """The tables of OUT/lcm.toml, empty if there is none; raises BundleError."""
    path = out / SETTINGS
    return read_table(path) if path.exists() else {}


def write_settings(out: Path, tables: Mapping[str, Any]) -> None:
    """Write OUT/lcm.toml atomically; its comments are lost. Raises OutputError."""
    make_folder(out)
    write_whole(out / SETTINGS, "".join(_lines("", tables)).lstrip("\n").encode("utf-8"))


def _lines(prefix: str, table: Mapping[str, Any]) -> Iterator[str]:
    """Lines of TOML: values before tables, for the next table header ends a table's values."""
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    for key, value in table.items():
        if key not in tables:
            yield f"{_key(key)} = {_value(value)}\n"
    for key, value in tables.items():
        name = f"{prefix}{_key(key)}"
        if not value or any(not isinstance(item, Mapping) for item in value.values()):
            yield f"\n[{name}]\n"
        yield from _lines(f"{name}.", value)


def _key(key: str) -> str:
    plain = key.replace("_", "").replace("-", "")
    return key if plain.isascii() and plain.isalnum() else json.dumps(key)


def _value(value: Any) -> str:
    """A TOML value; strings, numbers, booleans and arrays are written as in JSON."""
    return json.dumps(value, ensure_ascii=False)
