"""The cores of this machine, and which of them are the fast ones."""

from __future__ import annotations

import os
from pathlib import Path


def usable() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def big(folder: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """The usable cores of at least 3/4 of the largest capacity; empty where that are all of them.

    An RK3588 tells 1024 for cores 4 to 7 and 530 for the others.
    """
    try:
        told = {core: int((folder / f"cpu{core}/cpu_capacity").read_text()) for core in usable()}
    except (OSError, ValueError):  # x86 tells none
        return []
    fast = [core for core, capacity in told.items() if capacity >= 0.75 * max(told.values())]
    return fast if len(fast) < len(told) else []
