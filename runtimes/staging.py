"""Writing parts of a bundle so that an interrupted build leaves no half-written network."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcmcore.errors import OutputError, first_line
from lcmcore.util.configfile import read_table
from lcmcore.util.files import make_folder, write_whole

SETTINGS = "lcm.toml"
# Files that a network needs from its own model: those of another model make it useless.
COMPANIONS = {"text_encoder": ("tokenizer",), "unet": ("model_index.json", "scheduler")}


@contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """A temporary folder whose files move to `folder` at the end; on an error they are removed.

    `last` is the file that marks the build as complete: it moves last, and an older one is removed
    first, so that it never lies beside files of another build. Raises OutputError.
    """
    make_folder(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            stage = Path(name)
            yield stage
            (folder / last).unlink(missing_ok=True)
            for path in sorted(stage.iterdir(), key=lambda path: path.name == last):
                path.replace(folder / path.name)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {first_line(error)}") from error


def copy_each(names: Iterable[str], source: Path, out: Path) -> None:
    """Copy files or folders of one bundle to another, replacing them; raises OutputError."""
    for name in names:
        copy_over(source / name, out / name)


def copy_over(source: Path, target: Path) -> None:
    """Replace the target by a copy of a file or folder, if that exists; raises OutputError."""
    if not source.exists():
        return
    make_folder(target.parent)
    try:
        if source.is_file():
            write_whole(target, source.read_bytes())
            return
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as stage:
            copied = shutil.copytree(source, Path(stage) / target.name)
            if target.exists():
                target.replace(Path(stage) / "old")
            copied.replace(target)
    except (OSError, shutil.Error) as error:
        raise OutputError(f"{target} cannot be written: {first_line(error)}") from error


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
