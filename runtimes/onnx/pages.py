"""Memory pages of files that are mapped into this process."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

_MADV_DONTNEED = 4  # on Linux

UNMAP_LOCK = threading.Lock()  # held to unmap files, and while addresses of mappings are in use


def drop_pages(path: Path) -> None:
    """Take the pages of a file mapped for reading out of this process, until the next access.

    They stay in the kernel's page cache, from which mapping them again costs milliseconds. Where
    there is no /proc/self/maps (other systems than Linux) nothing happens.
    """
    with UNMAP_LOCK:
        for start, size in _mappings(path):
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)


def _mappings(path: Path) -> list[tuple[int, int]]:
    """Addresses and sizes of a file's mappings; none if they are unknown."""
    try:
        lines = os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines()
    except OSError:
        return []
    spans = [line.split()[0] for line in lines if line.split(maxsplit=5)[5:] == [str(path)]]
    limits = [[int(address, 16) for address in span.split("-")] for span in spans]
    return [(start, end - start) for start, end in limits]
