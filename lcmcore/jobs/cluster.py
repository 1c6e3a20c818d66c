"""Jobs on a Dask cluster, through Dask's `concurrent.futures.Executor`."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, NamedTuple

from lcmcore.errors import RuntimeUnavailableError, first_line
from lcmcore.jobs.cluster_steps import ClusterSteps, teller
from lcmcore.jobs.job import Job
from lcmcore.jobs.process import WorkerSpec
from lcmcore.jobs.switching import SwitchingWorker
from lcmcore.jobs.worker import EncodedImage, ModelSummary, OnStep, PipelineWorker

_CONNECT_TIMEOUT = "10s"


class Cluster(NamedTuple):
    """A connection to a Dask cluster.

    `threads()` is how many its workers have; raises RuntimeUnavailableError when the connection is
    lost.
    """

    executor: Executor
    threads: Callable[[], int]
    steps: ClusterSteps


@contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """The cluster of the scheduler at that address.

    Raises RuntimeUnavailableError if `distributed` is not installed or no scheduler answers.
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
        executor = client.get_executor(pure=False)
        yield Cluster(executor, threads, ClusterSteps(client, executor))


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


def run_followed_on_worker(spec: bytes, job: Job, topic: str, name: str) -> EncodedImage:
    """As `run_on_worker`, by `ClusterSteps.submit`."""
    return _WORKER.run(spec, job, teller(topic, name))


def summary_on_worker(spec: bytes) -> ModelSummary:
    """Warm up a Dask worker; what a service tells of its model. `spec` is a pickled WorkerSpec."""
    return _WORKER.summary(spec)


class _CachedWorker:
    """The one PipelineWorker of a Dask process, kept open for the next job; runs one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spec: bytes | None = None
        self._worker: PipelineWorker | SwitchingWorker | None = None

    def run(self, spec: bytes, job: Job, on_step: OnStep | None = None) -> EncodedImage:
        with self._lock:
            worker = self._opened(spec)
            if on_step is not None and isinstance(worker, PipelineWorker):
                worker.learn_previews()  # one of several models has
            return worker.run_job(job, on_step)

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
