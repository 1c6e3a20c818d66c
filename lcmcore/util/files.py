"""Writing files whole or not at all, and knowing them again."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from lcmcore.errors import OutputError, first_line


def require_writable(path: Path) -> None:
    """Raise OutputError if a file cannot be made there; asked before the work is done."""
    if is_folder(path):
        raise OutputError(f"{path} is a folder: name a file to write")
    if not is_folder(path.parent):
        raise OutputError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"folder {path.parent} is not writable")


def is_folder(path: Path) -> bool:
    """Like `path.is_dir()`, which raises for a name too long or a parent that cannot be read."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Like `path.is_file()`, see above."""
    try:
        return path.is_file()
    except OSError:
        return False


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, then rename: `path` never holds half a file. Raises OutputError.

    The content is on the disk before the name is: boards lose their power.
    """
    beside = path.with_name(f".lcm-{os.urandom(8).hex()}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise OutputError(f"{path} cannot be written: {first_line(error)}") from error
        raise


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    import hashlib  # takes longer to import than the rest of this file

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def let_go(stream: IO[str]) -> None:
    """Send to nowhere what a stream still holds and cannot write, which fails a program's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
