"""A PipelineWorker in a process of its own, so that what kills it takes one job and no more."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from lcmcore.errors import ArgumentError, DeadlineExceeded, LcmError, WorkerDied, first_line
from lcmcore.jobs.worker import PipelineWorker
from lcmcore.runtime import worker_options
from lcmcore.runtime_choice import RuntimeChoice

_PATIENCE = 5.0  # seconds for an idle process to end
# Not fork: a copy of a process with threads, which ONNX Runtime has, may hang.
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class WorkerSpec:
    """How to open a PipelineWorker: its arguments."""

    model_dir: str | Path | None = None
    runtime: RuntimeChoice = "auto"
    options: dict[str, Any] = field(default_factory=dict)

    def open(self, index: int = 0, count: int = 1) -> PipelineWorker:
        """Worker `index` of `count` on this machine, each with its share; raises LcmError."""
        share = worker_options(index, count) if count > 1 else {}
        return PipelineWorker(index, self.model_dir, self.runtime, **{**share, **self.options})


class WorkerProcess:
    """Starts a process, gives it one job at a time, and starts another when it has died."""

    def __init__(self, spec: WorkerSpec, index: int, count: int) -> None:
        self._arguments = (spec, index, count)
        self._name = f"worker {index}"
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._ready = False
        self._lock = threading.Lock()  # `kill` may come from another thread than all the rest

    def start(self) -> None:
        """Start it, without waiting for it to load its model."""
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=_serve, args=(theirs, *self._arguments), name=f"lcmcore {self._name}"
        )
        process.start()
        theirs.close()
        self._process, self._pipe, self._ready = process, ours, False

    def wait_until_ready(self, until: float | None = None) -> None:
        """Return when its model is open; raises what that raised, else as `call` does."""
        try:
            self._receive(until)
        except WorkerDied as error:
            raise WorkerDied(
                f"{error} before it was ready (a script that makes a Pool keeps that below"
                " `if __name__ == '__main__':`)"
            ) from None
        self._ready = True

    def call(self, method: str, job: Any, until: float | None) -> Any:
        """What the worker's method returns for the job; raises what it raises.

        Raises DeadlineExceeded if `time.monotonic()` passes `until`, having replaced the process,
        and WorkerDied if the process ends before it has answered.
        """
        self._be_ready(until)
        try:
            message = pickle.dumps((method, job))
        except Exception as error:  # an attribute's own __reduce__ can fail in any way
            raise ArgumentError(f"the job cannot be sent: {first_line(error)}") from error
        try:
            self._send(message)
            return self._receive(until)
        except DeadlineExceeded:
            self.kill()
            self.stop()
            self.start()
            raise

    def kill(self) -> None:
        """End it at once; whoever waits for its answer gets WorkerDied."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def stop(self) -> None:
        """End it when it is idle, and leave nothing of it behind."""
        if self._process is None or self._pipe is None:
            return
        self._pipe.close()  # which it takes for the end
        self._end()
        with self._lock:
            self._process.close()
            self._process = self._pipe = None

    def _be_ready(self, until: float | None) -> None:
        if self._process is None or not self._process.is_alive():
            self.stop()
            self.start()
        if self._ready:
            return
        try:
            self.wait_until_ready(until)
        except DeadlineExceeded:
            raise  # it goes on loading, for the next job
        except LcmError:
            self.stop()
            raise

    def _send(self, message: bytes) -> None:
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(message)
        except OSError:
            raise self._death() from None

    def _receive(self, until: float | None) -> Any:
        assert self._pipe is not None
        try:
            if not self._pipe.poll(_remaining(until)):
                raise DeadlineExceeded("the job was not done when its deadline came")
            done, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if done:
            return value
        raise value

    def _death(self) -> WorkerDied:
        code = self._end()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return WorkerDied(f"{self._name} {how}")

    def _end(self) -> int:
        """Wait for it to end, not for ever; its exit code."""
        assert self._process is not None
        self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()
        return self._process.exitcode or 0


def _remaining(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


def _serve(pipe: Connection, spec: WorkerSpec, index: int, count: int) -> None:
    """The process: answers jobs until the pipe is closed."""
    # A terminal or a service manager signals the whole group; the parent alone decides.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")  # Pillow warns of files that then work, or fail by our error
    try:
        worker = spec.open(index, count)
    except Exception as error:
        pipe.send_bytes(_failure(error))
        return
    pipe.send((True, None))
    with worker:
        while (message := _next(pipe)) is not None:
            pipe.send_bytes(_answer(worker, message))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _next(pipe: Connection) -> bytes | None:
    try:
        return pipe.recv_bytes()
    except (EOFError, OSError):
        return None


def _answer(worker: PipelineWorker, message: bytes) -> bytes:
    try:
        method, job = pickle.loads(message)
        return pickle.dumps((True, getattr(worker, method)(job)))
    except Exception as error:
        return _failure(error)


def _failure(error: Exception) -> bytes:
    """The error, pickled; one that is not ours, or cannot be, is told in words."""
    if isinstance(error, LcmError):
        try:
            message = pickle.dumps((False, error))
            pickle.loads(message)
            return message
        except Exception:
            return pickle.dumps((False, LcmError(str(error))))
    return pickle.dumps((False, LcmError(f"{type(error).__name__}: {first_line(error)}")))
