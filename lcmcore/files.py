"""Writing files whole or not at all, and knowing them again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from lcmcore.errors import OutputError, first_line


def require_writable(path: Path) -> None:
    """Raise OutputError if a file cannot be made there; asked before the work is done."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file to write")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"folder {path.parent} is not writable")


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, then rename: `path` never holds half a file. Raises OutputError."""
    beside = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {first_line(error)}") from error
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
