"""Temporary files and folders; what a killed process leaves of them is removed by the next one.

Each has a name of the form _PART, and its process holds a lock on it (flock). A lock that can be
taken belongs to nobody: the process was killed, and the next one that writes to the folder removes
what it left. Process ids would not do: they are used again, and containers that share a folder have
their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_PART = (".lcm-", ".part")  # around 16 hexadecimal digits


@contextlib.contextmanager
def temporary_file(parent: Path) -> Iterator[Path]:
    """An empty file, removed at the end if it is still there; raises OSError."""
    with _part(parent, _create_file) as path:
        yield path


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
