"""Writing parts of a bundle so that an interrupted build leaves nothing half done."""

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
from lcmcore.util.files import write_whole

SETTINGS = "lcm.toml"
# What a network is no good with if it is another model's.
COMPANIONS = {"text_encoder": ("tokenizer",), "unet": ("model_index.json", "scheduler")}


@contextmanager
def staged(folder: Path, last: str) -> Iterator[Path]:
    """An empty folder beside `folder`, whose files move there at the end; on an error they vanish.

    `last` is the file that makes the others count: it moves last, and an older one goes first, so
    that it never stands beside files of another build. Raises OutputError.
    """
    require_folder(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            stage = Path(name)
            yield stage
            (folder / last).unlink(missing_ok=True)
            for path in sorted(stage.iterdir(), key=lambda path: path.name == last):
                path.replace(folder / path.name)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {first_line(error)}") from error


def require_folder(folder: Path) -> None:
    """Make a folder unless it exists; raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {first_line(error)}") from error


def copy_each(names: Iterable[str], source: Path, out: Path) -> None:
    """Copy files or folders of a bundle to another one by copy_over; raises OutputError."""
    for name in names:
        copy_over(source / name, out / name)


def copy_over(source: Path, target: Path) -> None:
    """Copy a file or folder if it exists, in place of the target; raises OutputError."""
    if not source.exists():
        return
    require_folder(target.parent)
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
    """Write OUT/lcm.toml whole; comments that it had are lost. Raises OutputError."""
    require_folder(out)
    write_whole(out / SETTINGS, "".join(_lines("", tables)).lstrip("\n").encode("utf-8"))


def _lines(prefix: str, table: Mapping[str, Any]) -> Iterator[str]:
    """TOML: values first, then tables, for a table's values end where the next table begins."""
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
    """A TOML value; its strings, numbers, booleans and arrays look as they do in JSON."""
    return json.dumps(value, ensure_ascii=False)
