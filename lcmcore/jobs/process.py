"""A PipelineWorker in a process of its own: what kills the process costs one job only."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from lcmcore.errors import ArgumentError, DeadlineExceeded, LcmError, WorkerDied, first_line
from lcmcore.jobs.switching import SwitchingWorker
from lcmcore.jobs.worker import JobStep, ModelSummary, OnStep, PipelineWorker
from lcmcore.runtime import worker_options
from lcmcore.runtime_choice import RuntimeChoice
from lcmcore.util.files import is_deleted
from lcmcore.util.logs import log_to_stderr

_STOP_TIMEOUT = 5.0  # seconds for an idle process to exit, and for one that was killed
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STEP = None  # what an answer begins with that is not the last: not True, done, nor False, failed
# Not fork: a copy of a process with threads, which ONNX Runtime has, may hang.
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class WorkerSpec:
    """The arguments of a PipelineWorker, and whether it runs its networks before the first job.

    `models`, by name, stand in place of `model_dir`: one of them is open at a time.
    """

    model_dir: str | Path | None = None
    runtime: RuntimeChoice = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    warm_up: bool = False
    models: Mapping[str, str | Path | None] = field(default_factory=dict)

    def open(self, index: int = 0, count: int = 1) -> PipelineWorker | SwitchingWorker:
        """Open worker `index` of `count` on this machine, with its share of it; raises LcmError."""
        share = worker_options(index, count) if count > 1 else {}
        make = partial(PipelineWorker, index, runtime=self.runtime, **{**share, **self.options})
        if not self.models:
            return make(model_dir=self.model_dir)
        return SwitchingWorker(
            {name: partial(make, model_dir=path) for name, path in self.models.items()}
        )


class WorkerProcess:
    """Runs one job at a time in a process, which it replaces when that has died."""

    def __init__(
        self, spec: WorkerSpec, index: int, count: int, log_level: int | None = None
    ) -> None:
        self._arguments = (spec, index, count, log_level)
        self._name = f"worker {index}"
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._answer: Future[Any] = Future()  # what the process says next
        self._ready = False
        self.summary: ModelSummary | None = None  # of a worker that was warmed up
        self._lock = threading.Lock()  # `kill` and `abandon` are called by other threads

    def start(self) -> None:
        """Start the process without waiting for its model to load; raises WorkerDied."""
        if is_deleted(Path()):  # found here, for multiprocessing's own processes show tracebacks
            raise WorkerDied(f"{self._name} cannot be started: the working directory was deleted")
        try:
            ours, theirs = _SPAWN.Pipe()
            process = _SPAWN.Process(
                target=_serve, args=(theirs, *self._arguments), name=f"lcmcore {self._name}"
            )
            with _signals_blocked(), theirs:
                process.start()
        except OSError as error:  # no memory, or no descriptors, for one more process
            raise WorkerDied(f"{self._name} cannot be started: {first_line(error)}") from error
        with self._lock:
            self._process, self._pipe, self._ready = process, ours, False
            self._answer = _in_thread(ours.recv)

    def start_replacement(self) -> None:
        """Start a process if there is none, so that its model is loaded when the next job comes."""
        if self._process is None:
            with suppress(WorkerDied):  # the next job tries again, and reports it
                self.start()

    def wait_until_ready(self, until: float | None = None) -> None:
        """Return when the model is open; raises what opening it raised, else as `call` does."""
        try:
            self.summary = self._receive(until)
        except WorkerDied as error:
            raise WorkerDied(
                f"{error} before it was ready (in a script, create a Pool below"
                " `if __name__ == '__main__':`)"
            ) from None
        self._ready = True

    def call(
        self, method: str, job: Any, until: float | None, on_step: OnStep | None = None
    ) -> Any:
        """What the worker's method returns for the job; raises what it raises.

        `on_step` is called in another thread, and what it raises is raised here, too. Raises
        DeadlineExceeded if `time.monotonic()` passes `until`, having killed the process, and
        WorkerDied if the process ends before it has answered.
        """
        self._ensure_ready(until)
        try:
            message = pickle.dumps((method, job, on_step is not None))
        except Exception as error:  # any __reduce__ may fail in any way
            raise ArgumentError(f"the job cannot be pickled: {first_line(error)}") from error
        with self._lock:
            pipe = self._pipe
            if pipe is None:
                raise WorkerDied(f"{self._name} was killed")
            self._answer = _in_thread(lambda: _exchange(pipe, message, on_step))
        try:
            return self._receive(until)
        except DeadlineExceeded:
            self.discard()
            raise

    def kill(self) -> None:
        """Kill the process; a `call` in progress raises WorkerDied."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def abandon(self) -> None:
        """Let a `call` in progress raise WorkerDied though the process does not end."""
        self.discard()
        with suppress(InvalidStateError):
            self._answer.set_exception(WorkerDied(f"{self._name} cannot be killed"))

    def discard(self) -> None:
        """Kill the process without waiting for its end.

        One that sleeps in a driver (state D) ends when the driver lets it, or never.
        """
        self.kill()
        with self._lock:
            process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None and pipe is not None:
            _forget(process)
            with suppress(RuntimeError):  # as in `_in_thread`; the program ends anyway
                threading.Thread(target=_reap, args=(process, pipe), daemon=True).start()

    def stop(self) -> None:
        """Let the idle process exit, or kill it after a timeout, and release its resources."""
        if self._process is None or self._pipe is None:
            return
        self._pipe.close()  # upon which the process exits
        if self._join(None) is None:
            self.discard()
            return
        with self._lock:
            self._process.close()
            self._process = self._pipe = None

    def _ensure_ready(self, until: float | None) -> None:
        if self._process is None or not self._process.is_alive():
            self.stop()
            self.start()
        if self._ready:
            return
        try:
            self.wait_until_ready(until)
        except DeadlineExceeded:
            raise  # the process goes on loading, for the next job
        except LcmError:
            self.stop()
            raise

    def _receive(self, until: float | None) -> Any:
        answer = self._answer
        if not wait([answer], _remaining(until)).done:
            raise DeadlineExceeded("the job was not done by its deadline")
        try:
            done, value = answer.result()
        except (EOFError, OSError):
            raise self._worker_died(until) from None
        if done:
            return value
        raise value

    def _worker_died(self, until: float | None) -> WorkerDied:
        code = self._join(until)
        if code is None:
            self.discard()
            return WorkerDied(f"{self._name} closed its pipe and did not exit")
        how = f"was killed by signal {-code}" if code < 0 else f"exited with status {code}"
        return WorkerDied(f"{self._name} {how}")

    def _join(self, until: float | None) -> int | None:
        """Wait for the process to exit, kill it after a timeout, and return its exit code.

        None if it does not end, or not by `until` (but for a moment).
        """
        process = self._process
        if process is None:
            return None
        process.join(_patience(until))
        process.kill()
        process.join(_patience(until))
        return process.exitcode


def _patience(until: float | None) -> float:
    """Seconds to wait for a process to end."""
    remaining = _remaining(until)
    return _STOP_TIMEOUT if remaining is None else min(_STOP_TIMEOUT, max(0.1, remaining))


def _remaining(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


def _in_thread(work: Callable[[], Any]) -> Future[Any]:
    """The result of `work`, which may wait for ever on a process that is stopped."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            with suppress(InvalidStateError):  # it was abandoned
                answer.set_exception(error)
        else:
            with suppress(InvalidStateError):
                answer.set_result(result)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError:  # Python 3.12.0 to 3.12.2 start none once the main thread has ended
        run()
    return answer


def _exchange(pipe: Connection, message: bytes, on_step: OnStep | None) -> Any:
    """Send a job and receive its answer; before it come the steps, each of which waits for a word.

    So a job is cancelled between two steps, and no word can come too late and hit the next job.
    """
    pipe.send_bytes(message)
    failure: Exception | None = None
    while (answer := pipe.recv())[0] is _STEP:
        try:
            go_on = failure is None and on_step is not None and on_step(answer[1]) is not False
        except Exception as error:
            go_on, failure = False, error
        pipe.send(go_on)
    return answer if failure is None else (False, failure)


def _forget(process: SpawnProcess) -> None:
    """multiprocessing waits for all its children when Python exits; this one may never end."""
    getattr(multiprocessing.process, "_children", set()).discard(process)


def _reap(process: SpawnProcess, pipe: Connection) -> None:
    process.join()
    pipe.close()
    process.close()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM for the processes that are started meanwhile.

    A new Python has no handlers yet: it would end with a traceback, or at once. `_serve` unblocks
    the signals when it ignores them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started below, it would unblock the signals
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _serve(
    pipe: Connection, spec: WorkerSpec, index: int, count: int, log_level: int | None
) -> None:
    """The main function of the process: answers jobs until the pipe is closed."""
    # A terminal or a service manager signals the whole process group; the parent decides.
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # Pillow warns of files that it reads, or that then fail anyway
    if log_level is not None:
        log_to_stderr(log_level)
    try:
        worker = spec.open(index, count)
        summary = worker.warm_up() if spec.warm_up else None
    except Exception as error:
        pipe.send_bytes(_failure(error))
        return
    pipe.send((True, summary))
    with worker:
        while (message := _receive_message(pipe)) is not None:
            pipe.send_bytes(_answer(worker, message, pipe))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _receive_message(pipe: Connection) -> bytes | None:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):
        return None


def _answer(worker: PipelineWorker | SwitchingWorker, message: bytes, pipe: Connection) -> bytes:
    def report(step: JobStep) -> bool:
        try:
            pipe.send((_STEP, step))
            return bool(pipe.recv())
        except (EOFError, OSError):  # nobody waits for the job
            os._exit(1)

    try:
        method, job, with_steps = pickle.loads(message)
        run = getattr(worker, method)
        return pickle.dumps((True, run(job, report) if with_steps else run(job)))
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> bytes:
    """The error, pickled; an LcmError of its text if it cannot be, or is a foreign one."""
    if isinstance(error, LcmError):
        try:
            message = pickle.dumps((False, error))
            pickle.loads(message)
            return message
        except Exception:
            return pickle.dumps((False, LcmError(str(error))))
    return pickle.dumps((False, LcmError(f"{type(error).__name__}: {first_line(error)}")))
