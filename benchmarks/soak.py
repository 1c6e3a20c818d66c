"""Five hundred jobs, every tenth of them bad, and what becomes of the memory: `make soak`.

Every good job must be delivered, every bad one reported by an error of ours, and the memory of
the pool and of its workers must stay where it was after the first hundred.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import Any

from PIL import Image

from benchmarks.jobs import INIT, good_job, memory
from lcmcore.errors import LcmError
from lcmcore.jobs.job import Job
from lcmcore.jobs.pool import Pool

JOBS = 500
WORKERS = 2
SIZE = "128x128"


def bad_jobs() -> Iterator[Job]:
    """Jobs that fail in five ways, over and over."""
    job = good_job(0, SIZE)
    while True:
        yield replace(job, init_image=INIT[: len(INIT) // 2])
        yield replace(job, init_image=b"no picture at all")
        yield replace(job, req=replace(job.req, size="129x128"))
        yield replace(job, req=replace(job.req, num_inference_steps=0))
        yield replace(job, req=replace(job.req, denoise_strength=float("nan")))


def jobs() -> Iterator[tuple[int, bool, Job]]:
    """(number, whether it is good, job)."""
    bad = bad_jobs()
    for number in range(JOBS):
        good = number % 10 != 9
        yield number, good, good_job(number, SIZE) if good else next(bad)


def is_right(future: Future[Any], number: int, good: bool) -> bool:
    """Whether a good job gave its picture and a bad one an error of ours."""
    error = future.exception()
    if not good or error is not None:
        return not good and isinstance(error, LcmError)
    png, seed = future.result()
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        return seed == number and image.size == tuple(map(int, SIZE.split("x")))


def main() -> None:
    """Print what became of the jobs, and the memory after each hundred."""
    start = time.perf_counter()
    right, waiting = {True: 0, False: 0}, {}
    done = 0
    with Pool(workers=WORKERS) as pool:
        for number, good, job in jobs():
            waiting[pool.submit(job)] = (number, good)
            while len(waiting) >= 2 * WORKERS or (number == JOBS - 1 and waiting):
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    which, kind = waiting.pop(future)
                    right[kind] += is_right(future, which, kind)
                    done += 1
                    if done % 100 == 0:
                        sizes = ", ".join(f"{size:.1f}" for size in memory())
                        print(f"after {done} jobs: MiB of the pool, of each worker: {sizes}")
    print(f"{right[True]} of {JOBS * 9 // 10} good jobs delivered")
    print(f"{right[False]} of {JOBS // 10} bad jobs reported")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
