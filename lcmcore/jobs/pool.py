"""Workers on one machine behind a bounded queue.

Each worker is a process: a crash in a network, or the OOM killer, costs one job only, and a job
past its deadline can be killed. Threads would share one copy of the weights; they are equally fast,
for ONNX Runtime releases the GIL (docs/worker.md has the figures).
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, overload

from lcmcore.errors import ArgumentError, DeadlineExceeded, LcmError, QueueFull, WorkerDied
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.process import WorkerProcess, WorkerSpec
from lcmcore.jobs.worker import EncodedImage, EncodedImageWithLatents, ModelSummary, OnStep
from lcmcore.runtime_choice import RuntimeChoice
from lcmcore.util.closeable import Closeable
from lcmcore.util.validate import real_number, shown, whole_number

_MAX_WORKERS = 1024
_MAX_QUEUE = 2**20
_MAX_DEADLINE = 1e6  # seconds
_KILL_TIMEOUT = 5.0  # seconds for a process that was killed to end


class Pool(Closeable):
    """`workers` processes, each with its share of the machine: an NPU core, or CPU threads.

    At most `queue_size` jobs wait (default: two for each worker). A worker that dies is replaced,
    and its job retried once. Use it in a `with` block, or close it.
    """

    def __init__(
        self,
        model_dir: str | Path | None = None,
        runtime: RuntimeChoice = "auto",
        *,
        workers: int = 1,
        queue_size: int | None = None,
        log_level: int | None = None,
        warm_up: bool = False,
        models: Mapping[str, str | Path | None] | None = None,
        **options: Any,
    ) -> None:
        """Open the model in every worker; the other arguments are those of PipelineWorker.

        `models`, folders by name, stand in place of `model_dir`: a job names one (`Job.model`), and
        a worker has one of them open at a time, at first the first.

        With `warm_up` every worker runs its networks once before it is ready, and `summary` is set.

        `log_level`, e.g. logging.INFO: the processes write what lcmcore logs from that level up to
        stderr; None leaves their logging as Python sets it up.
        Raises what PipelineWorker raises, and WorkerDied if a process does not start.
        """
        count = whole_number("workers", workers, 1, _MAX_WORKERS)
        size = 2 * count if queue_size is None else queue_size
        self._room = threading.Semaphore(whole_number("queue_size", size, 1, _MAX_QUEUE))
        self._queue: SimpleQueue[_PendingJob | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = self._aborted = False
        self._models = dict(models or {})
        spec = WorkerSpec(model_dir, runtime, options, warm_up, self._models)
        self._processes = [WorkerProcess(spec, index, count, log_level) for index in range(count)]
        _start_all(self._processes)
        self._threads = [
            threading.Thread(target=self._serve, args=(process,), daemon=True)
            for process in self._processes
        ]
        for thread in self._threads:
            thread.start()
        self.summary = self._processes[0].summary
        atexit.register(self.close)  # idle processes would keep Python from exiting

    @overload
    def submit(
        self,
        job: Any,
        *,
        latents: Literal[False] = False,
        deadline: float | None = None,
        on_step: OnStep | None = None,
    ) -> Future[EncodedImage]: ...

    @overload
    def submit(
        self,
        job: Any,
        *,
        latents: Literal[True],
        deadline: float | None = None,
        on_step: OnStep | None = None,
    ) -> Future[EncodedImageWithLatents]: ...

    @overload
    def submit(
        self,
        job: Any,
        *,
        latents: bool,
        deadline: float | None = None,
        on_step: OnStep | None = None,
    ) -> Future[EncodedImage] | Future[EncodedImageWithLatents]: ...

    def submit(
        self,
        job: Any,
        *,
        latents: bool = False,
        deadline: float | None = None,
        on_step: OnStep | None = None,
    ) -> Any:
        """Queue a job; its future returns what the worker's `run_job` returns: (PNG, seed).

        With `latents`, what `run_job_with_latents` returns. `deadline` is in seconds from now: a
        job that is not done by then fails with DeadlineExceeded, and the worker that runs it is
        replaced. `cancel` works on a job that no worker has started. `on_step` is called in another
        thread after each step, and again from the first if the job is retried; the worker waits for
        it, and if it returns False the job ends with Cancelled. The future raises what the worker
        or `on_step` raises, or WorkerDied. Raises QueueFull, and ArgumentError for what is not a
        job, or names a model that the pool does not have.
        """
        if deadline is not None:
            deadline = real_number("deadline", deadline, 0, _MAX_DEADLINE)
        job = Job.read(job)
        method = "run_job_with_latents" if latents else "run_job"
        return self._enqueue(method, job, deadline, on_step)

    def describe(self, model: str) -> Future[ModelSummary]:
        """Warm up one of several models in a worker, which then has it open; raises as `submit`."""
        described: Future[ModelSummary] = self._enqueue("describe", Job(Request(""), model=model))
        return described

    def _enqueue(
        self, method: str, job: Job, deadline: float | None = None, on_step: OnStep | None = None
    ) -> Any:
        if job.model is not None and job.model not in self._models:
            raise ArgumentError(f"the pool has no model {shown(job.model)}")
        with self._lock:
            if self._closed:
                raise LcmError("the pool is closed")
            if not self._room.acquire(blocking=False):
                raise QueueFull("the queue of the pool is full: submit the job again later")
            pending = _PendingJob(method, job, deadline, on_step)
            self._queue.put(pending)
        return pending.future

    def close(self) -> None:
        """Accept no more jobs, finish those in the queue, and stop every process."""
        with self._lock:
            self._closed = True
        self._queue.put(None)
        for thread in self._threads:
            thread.join()
        atexit.unregister(self.close)

    def abort(self) -> None:
        """Kill every process; waiting jobs are cancelled, running ones fail with WorkerDied."""
        with self._lock:
            self._closed = self._aborted = True
        self._queue.put(None)
        patience = time.monotonic() + _KILL_TIMEOUT
        while any(thread.is_alive() for thread in self._threads):
            for process in self._processes:  # in each round, for one may just have been started
                process.kill()
                if time.monotonic() > patience:
                    process.abandon()
            self._threads[0].join(0.05)
        self.close()

    def _serve(self, process: WorkerProcess) -> None:
        """The thread of one process: gives it job after job."""
        while (pending := self._queue.get()) is not None:
            self._room.release()
            if self._aborted:
                pending.future.cancel()
            if pending.claim():
                self._run(process, pending)
            del pending  # frees its image before the next job comes
            if not self._closed:
                process.start_replacement()
        self._queue.put(None)  # for the other threads
        process.stop()

    def _run(self, process: WorkerProcess, pending: _PendingJob) -> None:
        try:
            answer = self._call(process, pending)
        except Exception as error:
            pending.future.set_exception(error)
        else:
            pending.future.set_result(answer)

    def _call(self, process: WorkerProcess, pending: _PendingJob) -> Any:
        try:
            return process.call(pending.method, pending.job, pending.until, pending.on_step)
        except WorkerDied:
            if self._aborted:
                raise
        try:
            return process.call(pending.method, pending.job, pending.until, pending.on_step)
        except WorkerDied as error:
            raise WorkerDied(f"{error}, and so did the worker that tried this job before") from None


class _PendingJob:
    """A queued job. The first to claim it, a worker or its deadline, completes its future."""

    def __init__(
        self, method: str, job: Job, deadline: float | None, on_step: OnStep | None
    ) -> None:
        self.method = method
        self.job = job
        self.on_step = on_step
        self.future: Future[Any] = Future()
        self.until = None if deadline is None else time.monotonic() + deadline
        self._unclaimed = threading.Lock()
        self._timer = None if deadline is None else threading.Timer(deadline, self._expire)
        if self._timer is not None:
            self._timer.daemon = True
            with suppress(RuntimeError):  # as the program ends; a worker watches the deadline, too
                self._timer.start()

    def claim(self) -> bool:
        """True for the first caller, unless the future was cancelled."""
        if not self._unclaimed.acquire(blocking=False):
            return False
        if self._timer is not None:
            self._timer.cancel()
        return self.future.set_running_or_notify_cancel()

    def _expire(self) -> None:
        if self.claim():
            self.future.set_exception(
                DeadlineExceeded("no worker was free before the deadline of the job")
            )


def _start_all(processes: list[WorkerProcess]) -> None:
    """Start all processes at the same time; if one fails, stop all."""
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.wait_until_ready()
    except BaseException:
        for process in processes:
            process.kill()
            process.stop()
        raise
