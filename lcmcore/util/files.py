"""Reading regular files of a bounded size, writing files atomically, checksums.

What is written has a temporary name first, PART, and its process holds a lock on it (flock). A lock
that can be taken belongs to nobody: the process was killed, and the next one that writes to the
folder removes what it left. Process ids would not do: they are used again, and containers that
share a folder have their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from lcmcore.errors import OutputError, first_line

_BINARY = getattr(os, "O_BINARY", 0)  # of Windows, where it keeps line ends as they are
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_PART = (".lcm-", ".part")  # around 16 hexadecimal digits
_MAX_HOLES = 2**30  # bytes of a file that were never written
_MAX_DIGESTED = 2**40  # bytes; /proc/kcore says that it has 2**47


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


def open_solid(path: Path) -> BinaryIO:
    """Like `open_regular`, for files of any size: raises OSError for a sparse or endless one, too.

    To read 40 GB of holes takes a minute, and to store them one block of a stranger's disk.
    """
    file = open_regular(path)
    try:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_DIGESTED or (size > _MAX_HOLES and _holes(file.fileno(), size) > _MAX_HOLES):
            raise OSError(errno.EFBIG, "a sparse file: most of it was never written", str(path))
    except BaseException:
        file.close()
        raise
    return file


def _holes(descriptor: int, size: int) -> int:
    """Bytes of a file that are in no block of the disk; 0 where that is unknown."""
    if not hasattr(os, "SEEK_DATA"):  # on Windows
        return 0
    holes = position = 0
    try:
        while position < size and holes <= _MAX_HOLES:
            data = _next_data(descriptor, position, size)
            holes += data - position
            position = os.lseek(descriptor, data, os.SEEK_HOLE) if data < size else size
    except OSError:  # a file system that does not tell
        return 0
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return holes


def _next_data(descriptor: int, position: int, size: int) -> int:
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # the rest of the file is a hole
            raise
        return size


def _require_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def make_folder(folder: Path) -> None:
    """Create a folder and its parents unless they exist, to write to; raises OutputError.

    What a killed process has left there is removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {folder} cannot be created: {first_line(error)}") from error
    remove_leftovers(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write to a temporary file, then rename it: `path` never holds half a file.

    The content is synced to the disk before the rename, for boards lose their power.
    Raises OutputError.
    """
    if path.parent not in _swept:  # once: the folder may hold a million images
        _swept.add(path.parent)
        remove_leftovers(path.parent)
    try:
        with _part(path.parent, _create_file) as temporary:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {first_line(error)}") from error


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder that only this user can enter, removed at the end; raises OSError.

    If this process is killed, the next one that writes to `parent` removes it.
    """
    remove_leftovers(parent)
    with _part(parent, lambda path: path.mkdir(0o700)) as folder:
        yield folder


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders whose process is gone, if they are this user's."""
    if not hasattr(os, "geteuid"):  # Windows, where there are no such locks
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if _is_part(entry.name)]:
            with contextlib.suppress(OSError):
                _remove_left(folder / name)


_swept: set[Path] = set()


@contextlib.contextmanager
def _part(parent: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """A temporary file or folder with a lock; removed at the end if it is still there."""
    path, lock = _create_locked(parent, create)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            _remove(path)
        if lock is not None:
            os.close(lock)


def _create_locked(parent: Path, create: Callable[[Path], None]) -> tuple[Path, int | None]:
    while True:
        path = parent / os.urandom(8).hex().join(_PART)
        create(path)
        # Between the two, `remove_leftovers` of another process may have taken it.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            return path, _lock(path)


def _create_file(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file or folder; None where there are no locks.

    Raises BlockingIOError if another process has it, FileNotFoundError.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(path, os.O_RDONLY | _NO_LINK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.lstat()):
            return descriptor
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None


def _is_part(name: str) -> bool:
    start, end = _PART
    digits = name[len(start) : -len(end)]
    return (
        name == digits.join(_PART) and len(digits) == 16 and set(digits) <= set("0123456789abcdef")
    )


def _remove_left(path: Path) -> None:
    status = path.lstat()
    if status.st_uid != os.geteuid() or not (
        stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    ):
        return
    lock = _lock(path)
    if lock is not None:
        try:
            _remove(path)
        finally:
            os.close(lock)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; links in it are not followed."""
    if stat.S_ISDIR(path.lstat().st_mode):
        import shutil  # not loaded by anything else in the core

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def sha256(path: Path) -> str:
    """The SHA-256 of a regular file in hexadecimal; raises OSError for any other, as for a FIFO."""
    import hashlib  # takes longer to import than the rest of this file

    digest = hashlib.sha256()
    with open_solid(path) as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def redirect_to_devnull(stream: IO[str]) -> None:
    """Let what the stream still buffers go to /dev/null; else its flush fails when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
