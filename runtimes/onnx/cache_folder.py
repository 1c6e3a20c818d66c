"""The folder of the cache: where it is, whether it can be trusted, and the locks in it."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: without locks there is no cache
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None
WAIT_SECONDS = 10.0  # for a lock that somebody holds who is not building
BUILD_SECONDS = 900.0  # for one that builds: minutes for a UNet on a board
_SILENT_SECONDS, _POLL_SECONDS = 2.0, 0.05
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

log = logging.getLogger("lcmcore.runtimes.onnx")


class UntrustedError(OSError):
    """Somebody else could have written what the cache holds."""


def cache_root(name: str = "onnx") -> Path:
    """Where optimized graphs of one kind are kept."""
    own, shared = os.environ.get("LCM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own or f"{shared or '~/.cache'}/lcmcore").expanduser() / name


def make_private(root: Path) -> None:
    """Create the cache's folder and its parents, for this user only.

    Raises OSError, and UntrustedError as `require_private` does.
    """
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(0o700, exist_ok=True)
    require_private(root)


def require_private(root: Path) -> None:
    """Raise UntrustedError for a cache that others could write to or replace; raises OSError.

    What is not there yet is no fault: `make_private` creates it.
    """
    with suppress(FileNotFoundError):
        parent = root.parent.stat()  # a link to it is the user's
        writable = parent.st_mode & _OTHERS_WRITE and not parent.st_mode & stat.S_ISVTX
        if writable or _is_foreign(parent):
            raise UntrustedError(_advice(root.parent))
        require_trusted(root)


def require_trusted(*paths: Path) -> None:
    """Raise UntrustedError for a link, or what others own or can write to; root is trusted."""
    for path in paths:
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        if (
            kind not in (stat.S_IFREG, stat.S_IFDIR)
            or status.st_mode & _OTHERS_WRITE
            or _is_foreign(status)
        ):
            raise UntrustedError(_advice(path))


def _is_foreign(status: os.stat_result) -> bool:
    return status.st_uid not in (os.geteuid(), 0)


def _advice(path: Path) -> str:
    return (
        f"{path} is a link, or others own it or can write to it: what it holds is not used;"
        " remove it (or chmod go-w), or set LCM_CACHE to a folder of your own"
    )


@contextmanager
def opened_lock(path: Path) -> Iterator[int]:
    """The descriptor of a lock's file, which is created; no lock is taken. Raises OSError."""
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, os.O_RDWR | flags, 0o600)
    except OSError:  # on a read-only disk
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take_shared(lock: int, path: Path) -> None:
    """Hold what `path` is against replacement; raises TimeoutError if somebody replaces it."""
    _take(lock, fcntl.LOCK_SH, path)


@contextmanager
def exclusive(lock: int, path: Path) -> Iterator[None]:
    """Hold `path` alone, to replace it, then shared again. Raises TimeoutError.

    What a shared lock has protected may have changed when this one is taken.
    """
    _take(lock, fcntl.LOCK_EX, path)
    with suppress(OSError):  # for the word of those who wait
        os.pwrite(lock, f"{os.getpid():<20}".encode(), 0)
    try:
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(lock, 0)
    _take(lock, fcntl.LOCK_SH, path)


def _take(lock: int, kind: int, path: Path) -> None:
    start, warned = time.monotonic(), False
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(lock, kind | fcntl.LOCK_NB)
        seconds, builder = time.monotonic() - start, _builder(lock)
        holder = f"process {builder}, which optimizes" if builder else "another process, which uses"
        if seconds > (BUILD_SECONDS if builder else WAIT_SECONDS):
            raise TimeoutError(f"waited {seconds:.0f} s for {holder} {path}")
        if seconds > _SILENT_SECONDS and not warned:
            log.warning("waiting for %s %s", holder, path)
            warned = True
        time.sleep(_POLL_SECONDS)


def _builder(lock: int) -> str:
    """The id of the process that holds a lock alone, in its own container; "" if none does."""
    return os.pread(lock, 20, 0).decode("ascii", "replace").strip()
