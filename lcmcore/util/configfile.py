"""Reading the JSON and TOML files of a bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lcmcore.errors import BundleError, first_line
from lcmcore.util.files import read_regular
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
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise BundleError(f"{path}: not valid TOML: {first_line(error)}") from error
