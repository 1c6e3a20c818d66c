"""Jobs on a Dask cluster, through Dask's `concurrent.futures.Executor`."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from lcmcore.errors import RuntimeUnavailableError, first_line
from lcmcore.jobs.job import Job
from lcmcore.jobs.process import WorkerSpec
from lcmcore.jobs.switching import SwitchingWorker
from lcmcore.jobs.worker import EncodedImage, ModelSummary, PipelineWorker

_CONNECT_TIMEOUT = "10s"


@contextmanager
def connect(address: str) -> Iterator[tuple[Executor, Callable[[], int]]]:
    """An executor on the cluster, and a function that returns how many threads its workers have.

    Raises RuntimeUnavailableError if `distributed` is not installed or no scheduler answers at the
    address; the function raises it when the connection to the scheduler is lost.
    """
    client = _client(address)

    def threads() -> int:
        try:
            return sum(client.nthreads().values())
        except Exception as error:  # of the connection
            raise RuntimeUnavailableError(
                f"lost the Dask scheduler at {address}: {first_line(error)}"
            ) from error

    with client:
        # Not pure: two equal jobs without a seed give two images.
        yield client.get_executor(pure=False), threads


def _client(address: str) -> Any:
    try:
        from distributed import Client
        from distributed.comm import get_address_host_port
    except ImportError as error:
        raise RuntimeUnavailableError(
            "Dask is not installed: pip install 'lcmcore[cluster]'"
        ) from error
    try:
        get_address_host_port(address, strict=True)  # a Client would retry a bad one
        return Client(address, timeout=_CONNECT_TIMEOUT, set_as_default=False)
    except Exception as error:  # of the connection or the address
        message = f"no Dask scheduler at {address}: {first_line(error)}"
        raise RuntimeUnavailableError(message) from error


def run_on_worker(spec: bytes, job: Job) -> EncodedImage:
    """Run a job in a Dask worker: (PNG, seed); `spec` is a pickled WorkerSpec.

    The init image comes with the job, not by `scatter`: so the scheduler can give the job to
    another worker when this one is lost.
    """
    return _WORKER.run(spec, job)


def summary_on_worker(spec: bytes) -> ModelSummary:
    """Warm up a Dask worker; what a service tells of its model. `spec` is a pickled WorkerSpec."""
    return _WORKER.summary(spec)


class _CachedWorker:
    """The one PipelineWorker of a Dask process, kept open for the next job; runs one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spec: bytes | None = None
        self._worker: PipelineWorker | SwitchingWorker | None = None

    def run(self, spec: bytes, job: Job) -> EncodedImage:
        with self._lock:
            return self._opened(spec).run_job(job)

    def summary(self, spec: bytes) -> ModelSummary:
        with self._lock:
            return self._opened(spec).warm_up()

    def _opened(self, spec: bytes) -> PipelineWorker | SwitchingWorker:
        if self._worker is None or self._spec != spec:
            if self._worker is not None:
                self._worker.close()
                self._worker = None
            opened: WorkerSpec = pickle.loads(spec)
            self._worker, self._spec = opened.open(), spec
        return self._worker


_WORKER = _CachedWorker()
