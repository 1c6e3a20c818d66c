"""The cores of this machine, and which of them are the fast ones."""

from __future__ import annotations

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_BIG = 0.75  # of the largest capacity


def usable() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def big(folder: Path = _CPUS) -> list[int]:
    """The usable cores that are fast, where others are slow; empty where all are alike.

    An RK3588 tells a capacity of 1024 for cores 4 to 7 and of 530 for the others.
    """
    try:
        capacities = {
            core: int((folder / f"cpu{core}" / "cpu_capacity").read_text()) for core in usable()
        }
    except (OSError, ValueError):  # x86 tells none
        return []
    least = _BIG * max(capacities.values())
    fast = [core for core, capacity in capacities.items() if capacity >= least]
    return fast if len(fast) < len(capacities) else []
