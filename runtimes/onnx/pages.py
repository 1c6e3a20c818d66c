"""Files that are mapped into this process."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

_MADV_DONTNEED = 4  # on Linux

STILL = threading.Lock()  # held by who unmaps files, and while addresses are used that were read


def give_back(path: Path) -> None:
    """Drop the pages of a file mapped for reading; they are mapped again at the next touch.

    They stay in the kernel's page cache: it costs milliseconds, and the process is smaller. Where
    mappings cannot be told (elsewhere than on Linux) nothing happens.
    """
    with STILL:
        for start, size in _places(path):
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)


def _places(path: Path) -> list[tuple[int, int]]:
    """Where a file is mapped: addresses and sizes; none if that cannot be told."""
    try:
        lines = os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines()
    except OSError:
        return []
    spans = [line.split()[0] for line in lines if line.split(maxsplit=5)[5:] == [str(path)]]
    limits = [[int(address, 16) for address in span.split("-")] for span in spans]
    return [(start, end - start) for start, end in limits]
