"""Workers on one machine behind a bounded queue.

Each is a process: a network that crashes, or is killed for its memory, takes one job with it, and
a job past its deadline can be ended. Threads would share one copy of the weights instead; the
speed is the same, for ONNX Runtime works outside Python's lock (docs/worker.md has the figures).
"""

from __future__ import annotations

import atexit
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lcmcore.errors import DeadlineExceeded, LcmError, QueueFull, WorkerDied
from lcmcore.jobs.job import Job
from lcmcore.jobs.process import WorkerProcess, WorkerSpec
from lcmcore.runtime_choice import RuntimeChoice
from lcmcore.util.closeable import Closeable
from lcmcore.util.validate import real_number, whole_number

_MOST = 1024
_LONGEST = 1e6  # seconds


class Pool(Closeable):
    """`workers` processes, each with its share of the machine: an NPU core, or CPU threads.

    At most `queue_size` jobs wait (default: two for each worker). A worker that dies is replaced,
    and its job tried once more. Use it in a `with` block, or close it.
    """

    def __init__(
        self,
        model_dir: str | Path | None = None,
        runtime: RuntimeChoice = "auto",
        *,
        workers: int = 1,
        queue_size: int | None = None,
        **options: Any,
    ) -> None:
        """Open the model in every worker; arguments are those of PipelineWorker.

        Raises what that raises, and WorkerDied if a process does not come up.
        """
        count = whole_number("workers", workers, 1, _MOST)
        size = 2 * count if queue_size is None else queue_size
        self._room = threading.Semaphore(whole_number("queue_size", size, 1, _MOST * _MOST))
        self._queue: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = self._aborted = False
        spec = WorkerSpec(model_dir, runtime, options)
        self._processes = [WorkerProcess(spec, index, count) for index in range(count)]
        _start(self._processes)
        self._threads = [
            threading.Thread(target=self._serve, args=(process,), daemon=True)
            for process in self._processes
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)  # a process that waits for jobs would keep Python from ending

    def submit(
        self, job: Any, *, latents: bool = False, deadline: float | None = None
    ) -> Future[Any]:
        """Accept a job; its future returns what the worker's `run_job` does.

        With `latents`, what `run_job_with_latents` does. `deadline` is in seconds from now: a job
        that is not done by then fails with DeadlineExceeded, and a worker busy with it is
        replaced. `cancel` works on a job that no worker has begun. Beside what the worker raises, a
        future may raise WorkerDied. Raises QueueFull, and ArgumentError for what is no job.
        """
        if deadline is not None:
            deadline = real_number("deadline", deadline, 0, _LONGEST)
        job = Job.read(job)
        method = "run_job_with_latents" if latents else "run_job"
        with self._lock:
            if self._closed:
                raise LcmError("the pool is closed")
            if not self._room.acquire(blocking=False):
                raise QueueFull("as many jobs wait as the pool may hold: offer it again later")
            ticket = _Ticket(method, job, deadline)
            self._queue.put(ticket)
        return ticket.future

    def close(self) -> None:
        """Take no more jobs, finish those accepted, and end every process."""
        with self._lock:
            self._closed = True
        self._queue.put(None)
        for thread in self._threads:
            thread.join()
        atexit.unregister(self.close)

    def abort(self) -> None:
        """End every process at once; what waits is cancelled, what runs fails with WorkerDied."""
        with self._lock:
            self._closed = self._aborted = True
        self._queue.put(None)
        while any(thread.is_alive() for thread in self._threads):
            for process in self._processes:  # again: one may just have been started
                process.kill()
            self._threads[0].join(0.05)
        self.close()

    def _serve(self, process: WorkerProcess) -> None:
        """One thread a process: hands it job after job."""
        while (ticket := self._queue.get()) is not None:
            self._room.release()
            if self._aborted:
                ticket.future.cancel()
            if ticket.claim():
                self._run(process, ticket)
            del ticket  # its image need not wait for the next one to come
        self._queue.put(None)  # for the other threads
        process.stop()

    def _run(self, process: WorkerProcess, ticket: _Ticket) -> None:
        try:
            answer = self._call(process, ticket)
        except Exception as error:
            ticket.future.set_exception(error)
        else:
            ticket.future.set_result(answer)

    def _call(self, process: WorkerProcess, ticket: _Ticket) -> Any:
        try:
            return process.call(ticket.method, ticket.job, ticket.until)
        except WorkerDied:
            if self._aborted:
                raise
        try:
            return process.call(ticket.method, ticket.job, ticket.until)
        except WorkerDied as error:
            raise WorkerDied(f"{error}, as had another that tried this job") from None


class _Ticket:
    """A job in the queue. Whoever claims it first, a worker or its deadline, ends its future."""

    def __init__(self, method: str, job: Job, deadline: float | None) -> None:
        self.method = method
        self.job = job
        self.future: Future[Any] = Future()
        self.until = None if deadline is None else time.monotonic() + deadline
        self._unclaimed = threading.Lock()
        self._timer = None if deadline is None else threading.Timer(deadline, self._expire)
        if self._timer is not None:
            self._timer.daemon = True
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
                DeadlineExceeded("no worker was free for the job before its deadline")
            )


def _start(processes: list[WorkerProcess]) -> None:
    """Start them all beside one another; if one fails, none is left."""
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
