"""The locks of the cache: who uses an entry, who replaces it, and how long others wait."""

from __future__ import annotations

import logging
import os
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

log = logging.getLogger("lcmcore.runtimes.onnx")


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
