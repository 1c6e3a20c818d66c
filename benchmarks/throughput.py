"""Images per second with 1, 2 and 3 workers, as ratios to one worker in the same run.

Compares the processes of lcmcore.jobs.pool with as many threads that share one worker, and the
memory of both. `make throughput`.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager

from benchmarks.jobs import good_job, memory
from lcmcore.jobs.job import Job
from lcmcore.jobs.pool import Pool
from lcmcore.jobs.process import WorkerSpec
from lcmcore.jobs.worker import EncodedImage

COUNTS = (1, 2, 3)
ROUNDS = 5
JOBS = 6  # in a round, for any number of workers
SIZE = "256x256"

Submit = Callable[[Job], Future[EncodedImage]]
Make = Callable[[int], AbstractContextManager[Submit]]
Setup = tuple[str, int]


@contextmanager
def processes(count: int) -> Iterator[Submit]:
    """A pool of that many worker processes."""
    with Pool(workers=count, queue_size=JOBS) as pool:
        yield pool.submit


@contextmanager
def threads(count: int) -> Iterator[Submit]:
    """One worker with the CPU threads that each of `count` would have, and `count` callers."""
    with WorkerSpec().open(0, count) as worker, ThreadPoolExecutor(count) as executor:
        yield lambda job: executor.submit(worker.run_job, job)


def rate(submit: Submit, number: int = 0) -> float:
    """Jobs per second in a round; each round number has its own jobs."""
    jobs = [good_job(seed, SIZE) for seed in range(JOBS * number, JOBS * (number + 1))]
    start = time.perf_counter()
    futures = [submit(job) for job in jobs]
    for future in futures:
        future.result()
    return JOBS / (time.perf_counter() - start)


def memory_of(make: Make, count: int) -> float:
    """Resident MiB of this process and its workers after one round."""
    with make(count) as submit:
        rate(submit)
        return sum(memory())


def memory_alone(make: Make, count: int) -> float:
    """The same in a new process, without the memory of earlier measurements."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(memory_of, make, count).result()


def rates_of(setups: list[Setup]) -> dict[Setup, list[float]]:
    """Jobs per second of each, in alternating rounds: other load on the machine slows all alike."""
    rates: dict[Setup, list[float]] = {setup: [] for setup in setups}
    with ExitStack() as stack:
        submits = {
            (kind, count): stack.enter_context(MAKERS[kind](count)) for kind, count in setups
        }
        for submit in submits.values():
            rate(submit)  # warm-up: opens the networks
        for number in range(1, ROUNDS + 1):
            for setup, submit in submits.items():
                rates[setup].append(rate(submit, number))
    return rates


def main() -> None:
    """Print ratios and memory."""
    rates = rates_of([(kind, count) for kind in MAKERS for count in COUNTS])
    reference = rates["processes", 1]
    for (kind, count), several in rates.items():
        ratios = [new / one for new, one in zip(several, reference, strict=True)]
        used = memory_alone(MAKERS[kind], count)
        print(
            f"{count} {kind:9}: {statistics.median(ratios):.2f} times one process"
            f" ({min(ratios):.2f} to {max(ratios):.2f}),"
            f" {statistics.median(several):.2f} images/s, {used:.0f} MiB in all"
        )


MAKERS: dict[str, Make] = {"processes": processes, "threads": threads}

if __name__ == "__main__":
    main()
