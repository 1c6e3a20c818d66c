"""Reading regular files of a bounded size, writing files atomically, checksums."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import IO, BinaryIO

from lcmcore.errors import OutputError, first_line

_BINARY = getattr(os, "O_BINARY", 0)  # of Windows, where it keeps line ends as they are


def require_writable(path: Path) -> None:
    """Raise OutputError if a file cannot be written there, before the work for it is done."""
    if is_folder(path):
        raise OutputError(f"{path} is a folder: give the name of a file")
    if not is_folder(path.parent):
        raise OutputError(f"there is no folder {path.parent} to write {path.name} to")
    if is_deleted(path.parent):
        raise OutputError(f"folder {path.parent} was deleted: {path.name} cannot be written to it")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"folder {path.parent} is not writable")


def is_folder(path: Path) -> bool:
    """Like `path.is_dir()`, which raises for a name too long or a parent that cannot be read."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_deleted(folder: Path) -> bool:
    """Whether the folder has no name any more, as the working directory of a process may."""
    try:
        return folder.stat().st_nlink == 0
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Like `path.is_file()`, which raises for the same paths."""
    try:
        return path.is_file()
    except OSError:
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading that is no FIFO or socket, which are waited for, and no device.

    Raises OSError; symbolic links are followed.
    """
    _require_regular(path.stat(), path)  # before it is opened: that alone can act on a device
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    file = os.fdopen(descriptor, "rb")
    try:
        _require_regular(os.fstat(descriptor), path)  # it may have been replaced meanwhile
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file; raises OSError for another, or one of more than `max_bytes`.

    Sparse files can be larger than the memory, and files of /proc longer than their size says.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= max_bytes:
            content: bytes | None = file.read(max_bytes + 1)
            if content is None:  # some of /proc, /proc/kmsg for one, wait for more to come
                raise BlockingIOError(errno.EAGAIN, "nothing to read", os.fspath(path))
            if len(content) <= max_bytes:
                return content
    raise OSError(errno.EFBIG, f"larger than {max_bytes / 2**20:g} MiB", os.fspath(path))


def _require_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def make_folder(folder: Path) -> None:
    """Create a folder and its parents unless they exist; raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {folder} cannot be created: {first_line(error)}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write to a temporary file, then rename it: `path` never holds half a file.

    The content is synced to the disk before the rename, for boards lose their power.
    Raises OutputError.
    """
    temporary = path.with_name(f".lcm-{os.urandom(8).hex()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
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


def redirect_to_devnull(stream: IO[str]) -> None:
    """Let what the stream still buffers go to /dev/null; else its flush fails when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
