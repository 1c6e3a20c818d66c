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
        try:
            lines = os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines()
        except OSError:
            return
        madvise = ctypes.CDLL(None).madvise
        for line in lines:
            span, *_, name = line.split(maxsplit=5)
            if name == str(path):
                start, end = (int(address, 16) for address in span.split("-"))
                madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)
