"""Jobs, and the memory of processes, for the benchmarks of the pool."""

from __future__ import annotations

import multiprocessing
import os
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageChops

from lcmcore.jobs.job import Job, Request

INIT = (Path(__file__).parents[1] / "docs" / "pictures" / "scribble.png").read_bytes()
_MEBI = 2**20


def good_job(seed: int, size: str) -> Job:
    """An img2img job with a prompt and an init image of its own, so that every network runs."""
    buffer = BytesIO()
    with Image.open(BytesIO(INIT)) as image:
        ImageChops.offset(image, seed, 0).save(buffer, "PNG", compress_level=1)
    return Job(Request(f"a snowy landscape {seed} at night", size, seed=seed), buffer.getvalue())


def resident_mebibytes(pid: int) -> float:
    """Resident memory of a process, shared pages included."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEBI


def memory() -> list[float]:
    """Resident MiB of this process, then of each of its workers."""
    pids = sorted(child.pid or 0 for child in multiprocessing.active_children())
    return [resident_mebibytes(pid) for pid in (os.getpid(), *pids)]
