"""Which of the CPU cores are the big ones (of big.LITTLE)."""

from __future__ import annotations

from pathlib import Path

from lcmcore.util.cpu import usable_cores


def big(folder: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """The usable cores of at least 3/4 of the largest capacity; empty if all are alike.

    Linux reports 1024 for cores 4 to 7 of an RK3588 and 530 for the others.
    """
    try:
        capacities = {
            core: int((folder / f"cpu{core}/cpu_capacity").read_text()) for core in usable_cores()
        }
    except (OSError, ValueError):  # x86 has no such files
        return []
    largest = max(capacities.values(), default=0)
    fast = [core for core, capacity in capacities.items() if capacity >= 0.75 * largest]
    return fast if len(fast) < len(capacities) else []
