"""Pictures a second of 1, 2 and 3 workers, as ratios to one of them in the same run.

Beside processes, as lcmcore.pool has them, one worker used by as many threads; and the memory of
both. `make throughput`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from benchmarks.jobs import good_job, memory
from lcmcore.job import Job
from lcmcore.pool import Pool
from lcmcore.process import WorkerSpec

COUNTS = (1, 2, 3)
ROUNDS = 5
JOBS = 6  # a round, whichever the count
SIZE = "256x256"

Submit = Callable[[Job], Future[Any]]


@contextmanager
def processes(count: int) -> Iterator[Submit]:
    """The pool as it is."""
    with Pool(workers=count, queue_size=JOBS) as pool:
        yield pool.submit


@contextmanager
def threads(count: int) -> Iterator[Submit]:
    """One worker, with the CPU threads that each of `count` would have, and as many callers."""
    with WorkerSpec().open(0, count) as worker, ThreadPoolExecutor(count) as executor:
        yield lambda job: executor.submit(worker.run_job, job)


def rate(submit: Submit) -> float:
    """Jobs a second."""
    start = time.perf_counter()
    futures = [submit(good_job(seed, SIZE)) for seed in range(JOBS)]
    for future in futures:
        future.result()
    return JOBS / (time.perf_counter() - start)


def memory_of(make: Callable[[int], AbstractContextManager[Submit]], count: int) -> float:
    """MiB of all processes after some work."""
    with make(count) as submit:
        rate(submit)
        return sum(memory())


def rates_of(make: Callable[[int], AbstractContextManager[Submit]]) -> dict[int, list[float]]:
    """Jobs a second of each count, round by round, so that a busy machine slows all alike."""
    rates: dict[int, list[float]] = {count: [] for count in COUNTS}
    with ExitStack() as stack:
        submits = {count: stack.enter_context(make(count)) for count in COUNTS}
        for submit in submits.values():
            rate(submit)  # opens the networks
        for _ in range(ROUNDS):
            for count, submit in submits.items():
                rates[count].append(rate(submit))
    return rates


def main() -> None:
    """Print ratios and memory."""
    makers = {"processes": processes, "threads": threads}
    used = {(kind, n): memory_of(make, n) for kind, make in makers.items() for n in COUNTS}
    for kind, make in makers.items():
        rates = rates_of(make)
        for count, several in rates.items():
            ratios = [new / one for new, one in zip(several, rates[1], strict=True)]
            print(
                f"{count} {kind:9}: {statistics.median(ratios):.2f} times one"
                f" ({min(ratios):.2f} to {max(ratios):.2f}),"
                f" {statistics.median(several):.2f} pictures/s, {used[kind, count]:.0f} MiB in all"
            )


if __name__ == "__main__":
    main()
