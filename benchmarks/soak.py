"""Five hundred jobs through a pool, every tenth of them bad: `make soak`.

Every good job must return its image, every bad one raise an LcmError, and the memory of the pool
and of its workers must not grow after the first hundred.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

from PIL import Image

from benchmarks.jobs import INIT, good_job, memory
from lcmcore.errors import LcmError
from lcmcore.jobs.job import Job
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.worker import EncodedImage

JOBS = 500
WORKERS = 2
SIZE = "128x128"


def bad_jobs() -> Iterator[Job]:
    """Jobs that fail in five ways, endlessly."""
    job = good_job(0, SIZE)
    while True:
        yield replace(job, init_image=INIT[: len(INIT) // 2])
        yield replace(job, init_image=b"not an image")
        yield replace(job, req=replace(job.req, size="129x128"))
        yield replace(job, req=replace(job.req, num_inference_steps=0))
        yield replace(job, req=replace(job.req, denoise_strength=float("nan")))


def jobs() -> Iterator[tuple[int, bool, Job]]:
    """(number, whether it is good, job)."""
    bad = bad_jobs()
    for number in range(JOBS):
        good = number % 10 != 9
        yield number, good, good_job(number, SIZE) if good else next(bad)


def is_right(future: Future[EncodedImage], number: int, good: bool) -> bool:
    """Whether a good job returned its image and a bad one raised an LcmError."""
    error = future.exception()
    if not good or error is not None:
        return not good and isinstance(error, LcmError)
    png, seed = future.result()
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        return seed == number and image.size == tuple(map(int, SIZE.split("x")))


def main() -> None:
    """Print the memory after each hundred jobs, and how many ended as they should."""
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
    print(f"{right[True]} of {JOBS * 9 // 10} good jobs returned their image")
    print(f"{right[False]} of {JOBS // 10} bad jobs raised an LcmError")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
