"""A cgroup of limited memory, of either version; needs root.

Page cache counts: file pages that its processes map or read are dropped, and read again, when the
limit is reached.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_NAME = "lcmcore-peers"


@dataclass(frozen=True)
class Cgroup:
    """An existing cgroup."""

    folder: Path

    @property
    def wrapper(self) -> list[str]:
        """A command that joins the cgroup and then executes the command that follows it."""
        return ["sh", "-c", f'echo $$ > "{self.folder}/cgroup.procs"; exec "$@"', "sh"]

    @property
    def peak(self) -> float | None:
        """Its peak memory in GB, page cache included; None if the kernel does not report it."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            if (self.folder / name).exists():
                return int((self.folder / name).read_text()) / 1e9
        return None


@contextmanager
def limited(gigabytes: float) -> Iterator[Cgroup]:
    """A new cgroup of that much memory and no swap, removed afterwards."""
    second = (_ROOT / "cgroup.controllers").exists()
    if second and "memory" not in (_ROOT / "cgroup.subtree_control").read_text().split():
        (_ROOT / "cgroup.subtree_control").write_text("+memory")
    folder = (_ROOT if second else _ROOT / "memory") / _NAME
    folder.mkdir()
    limits = (
        {"memory.max": str(int(gigabytes * 1e9)), "memory.swap.max": "0"}
        if second
        else {"memory.limit_in_bytes": str(int(gigabytes * 1e9)), "memory.swappiness": "0"}
    )
    try:
        for name, value in limits.items():
            if (folder / name).exists():
                (folder / name).write_text(value)
        yield Cgroup(folder)
    finally:
        folder.rmdir()


def drop_page_cache(folders: Iterable[Path]) -> None:
    """Drop the page cache of all files in the folders, which is charged to the first reader."""
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
