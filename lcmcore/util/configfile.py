"""Reading the JSON and TOML files of a bundle, and changing keys of the latter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lcmcore.errors import BundleError, first_line
from lcmcore.util.files import read_regular, write_whole
from lcmcore.util.placeholder import EMPTY, HEAD_BYTES, placeholder

_MAX_BYTES = 2**26  # the largest file of this kind, a tokenizer.json, has some 2**22


def read_text(path: Path) -> str:
    """The file as UTF-8 text; raises BundleError that names it."""
    try:
        content = read_regular(path, _MAX_BYTES)
        if content and (found := placeholder(content[:HEAD_BYTES])) is not None:
            raise BundleError(f"{path}: {found}")
        return content.decode("utf-8-sig")  # Windows' editors write a BOM
    except FileNotFoundError:
        raise BundleError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read: {first_line(error)}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file; raises BundleError that names it."""
    import json  # takes longer to import than the rest of this file

    text = read_text(path)
    if not text.strip():
        raise BundleError(f"{path}: {EMPTY}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_table(path: Path) -> dict[str, Any]:
    """The TOML document in the file; raises BundleError that names it."""
    try:
        return _parsed(read_text(path))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise BundleError(f"{path}: not valid TOML: {first_line(error)}") from error


def _parsed(text: str) -> dict[str, Any]:
    """Raises ValueError, RecursionError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    return tomllib.loads(text)


def set_in_tables(path: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Set keys of tables of a TOML file, which is created if it is missing; None removes a key.

    Values are texts, numbers and booleans. All other lines stay, comments too. Raises BundleError
    for a file that is invalid, or written in another way than `[table]` and `key = value`, and
    OutputError.
    """
    import json
    import os

    before = read_table(path) if os.path.lexists(path) else {}
    lines = read_text(path).splitlines() if before else []
    wanted = {
        name: dict(value) if isinstance(value, dict) else value for name, value in before.items()
    }
    for name, keys in changes.items():
        table = wanted.setdefault(name, {})
        start, end = _span(lines, name)
        kept = [line for line in lines[start:end] if line.partition("=")[0].strip() not in keys]
        new = [f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None]
        lines[start:end] = [*new, *kept]
        for key, value in keys.items():
            table.pop(key, None)
            if value is not None:
                table[key] = value
    content = "\n".join(lines).lstrip("\n") + "\n"
    try:
        is_right = _parsed(content) == wanted
    except ValueError:  # a table within a line, which cannot be opened again
        is_right = False
    if not is_right:
        raise BundleError(f"{path}: cannot be changed: set {_described(changes)} by hand")
    write_whole(path, content.encode())


def _span(lines: list[str], name: str) -> tuple[int, int]:
    """Where the lines of a table begin and end; its header is appended if it is missing."""
    headers = [i for i, line in enumerate(lines) if line.lstrip().startswith("[")]
    start = next((i for i in headers if lines[i].split("#")[0].strip() == f"[{name}]"), None)
    if start is None:
        lines += ["", f"[{name}]"]
        return len(lines), len(lines)
    return start + 1, next((i for i in headers if i > start), len(lines))


def _described(changes: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{name}.{key} = {value!r}"
        for name, keys in changes.items()
        for key, value in keys.items()
        if value is not None
    )
