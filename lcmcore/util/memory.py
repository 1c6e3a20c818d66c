"""How much memory is free, how much a process has, and giving some back."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_bytes() -> int | None:
    """Memory free for new allocations, by /proc/meminfo and the cgroup; None if unknown."""
    limits = [limit for limit in (_from_meminfo(), _from_cgroup()) if limit is not None]
    return min(limits, default=None)


def anonymous_bytes(process: int | str = "self") -> int:
    """Anonymous memory of this process, or of another by its id; 0 if unknown.

    Cheap enough to be read for every image: /proc/PID/status takes the kernel ten times as long.
    """
    try:
        resident, shared = Path(f"/proc/{process}/statm").read_bytes().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """Peak resident memory of this process, mapped files included; 0 if unknown."""
    return _kernel_bytes(Path("/proc/self/status"), "VmHWM") or 0


def return_freed() -> None:
    """Give what the C library keeps of freed memory back to the system: it takes a millisecond.

    Some keep none, or have no function for it.
    """
    import ctypes

    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _from_meminfo() -> int | None:
    return _kernel_bytes(Path("/proc/meminfo"), "MemAvailable")


def _kernel_bytes(path: Path, field: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields[field].split()[0]) * 1024 if field in fields else None


def _from_cgroup() -> int | None:
    """Free memory of the process's cgroup (version 1 or 2); its page cache counts as free."""
    try:
        lines = [line.split(":", 2) for line in _MEMBERSHIP.read_text().splitlines()]
    except OSError:
        return None
    frees = [
        _free_in(_CGROUPS / kind / place, *names)
        for _, controllers, path in lines
        for kind, controller, *names in (
            ("", "", "memory.max", "memory.current"),
            ("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        )
        if controller in controllers.split(",")
        for place in (path.strip("/"), "")  # a container sees its own cgroup at the root
    ]
    return min((free for free in frees if free is not None), default=None)


def _free_in(folder: Path, limit: str, usage: str) -> int | None:
    """Free memory of one cgroup; None if it has no limit."""
    try:
        maximum = (folder / limit).read_text().strip()
        if maximum == "max":
            return None
        used = int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    cached = sum(int(stat.get(f"{kind}_file", 0)) for kind in ("active", "inactive"))
    return int(maximum) - used + cached
