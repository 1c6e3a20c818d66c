"""How much memory there is, and whether a model's networks fit in it together."""

from __future__ import annotations

from pathlib import Path

MEMORIES = ("auto", "low", "high")  # how much of it networks may take

_CGROUP = Path("/sys/fs/cgroup")
_NO_WEIGHTS = (".json", ".safetensors", ".bin")  # configs, and what torch reads


def available_bytes() -> int | None:
    """Memory that a new allocation can have, by /proc/meminfo and the cgroup; None if unknown."""
    limits = [limit for limit in (_from_meminfo(), _from_cgroup()) if limit is not None]
    return min(limits, default=None)


def file_bytes(folder: Path, filename: str) -> int:
    """Size of a model file and its external data, which may have any name; 0 if it has no file."""
    try:
        return sum(
            path.stat().st_size
            for path in (folder.iterdir() if filename else ())
            if path.name.startswith(filename)
            or not (path.name.startswith("model.") or path.suffix in _NO_WEIGHTS)
        )
    except OSError:  # whoever opens it tells why
        return 0


def process_bytes(field: str) -> int:
    """A size in this process's /proc/self/status, like "VmHWM"; 0 if unknown."""
    return _kernel_bytes(Path("/proc/self/status"), field) or 0


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
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = (_CGROUP / "memory.current").read_text().strip()
    except OSError:
        return None
    return None if limit == "max" else int(limit) - int(used)
