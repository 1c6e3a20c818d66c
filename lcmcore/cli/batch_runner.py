"""Runs tasks through anything that turns jobs into futures, and writes what comes back."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any

from lcmcore.cli.batch_tasks import Task
from lcmcore.cli.progress import Progress, duration
from lcmcore.errors import (
    ImageError,
    LcmError,
    OutputError,
    RuntimeUnavailableError,
    first_line,
)
from lcmcore.jobs.fingerprint import KEY, fingerprint, is_done
from lcmcore.jobs.job import Job
from lcmcore.util.files import write_whole

_GLANCE = 0.5  # seconds between looks at whether to stop
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other picture could be written either


@dataclass(frozen=True)
class Engine:
    """Where jobs go: `submit` returns a future of (PNG, seed), `window` says how many at a time.

    `model` tells what makes the pictures, as part of their fingerprints.
    """

    submit: Callable[[Job], Future[Any]]
    window: Callable[[], int]
    model: dict[str, Any]


@dataclass
class Tally:
    """How many pictures were asked for, made, found done, and not to be had for which reason."""

    total: int
    made: int = 0
    kept: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """What nothing has been done about yet."""
        return self.total - self.made - self.kept - len(self.failures)


class Runner:
    """One pass over tasks. A task that fails is noted and the rest go on."""

    def __init__(
        self, tasks: list[Task], engine: Engine, progress: Progress, stopped: Callable[[], bool]
    ) -> None:
        """`stopped` is asked now and then; once it is true no further task is begun."""
        self.tally = Tally(len(tasks))
        self._tasks = tasks
        self._engine = engine
        self._progress = progress
        self._stopped = stopped
        self._running: dict[Future[Any], Task] = {}
        self._start: float | None = None  # when the first task began that was not done

    def run(self) -> Tally:
        """Begin every task that is not done, finish all that were begun.

        Raises OutputError when nothing can be written any more, and RuntimeUnavailableError when
        nothing can be made any more.
        """
        told = False
        for task in self._until_stopped(self._tasks):
            self._begin(task)
            while len(self._running) >= max(1, self._engine.window()) and not self._stopped():
                self._finish_some()
        while self._running:
            if self._stopped() and not told:
                told = True
                count = len(self._running)
                self._progress.say(f"stopping: {count} more to finish; once more ends it at once")
            self._finish_some()
        return self.tally

    def _until_stopped(self, tasks: Iterable[Task]) -> Iterable[Task]:
        for task in tasks:
            if self._stopped():
                return
            yield task

    def _begin(self, task: Task) -> None:
        try:
            init = None if task.init is None else _read(task)
            mark = fingerprint(task.request, init, self._engine.model)
            if is_done(task.output, mark):
                self.tally.kept += 1
                self._show(None)
                return
            record = {KEY: mark} if task.init is None else {"init": str(task.init), KEY: mark}
            self._start = self._start or time.perf_counter()
            future = self._engine.submit(Job(task.request, init, record))
        except (LcmError, OSError, MemoryError) as error:
            self._fail(task, error)
        else:
            self._running[future] = task

    def _finish_some(self) -> None:
        done, _ = wait(self._running, timeout=_GLANCE, return_when=FIRST_COMPLETED)
        for future in done:
            task = self._running.pop(future)
            try:
                self._write(task, future.result()[0])
            except CancelledError as error:  # by the executor, for we cancel nothing
                raise RuntimeUnavailableError(
                    "the jobs were cancelled, as when a scheduler is lost;"
                    " the same command goes on with what is left"
                ) from error
            except Exception as error:  # an executor raises errors of its own
                self._fail(task, error)
            else:
                self.tally.made += 1
                self._show(str(task.output))

    def _write(self, task: Task, png: bytes) -> None:
        task.output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(task.output, png)

    def _fail(self, task: Task, error: BaseException) -> None:
        cause = error.__cause__ if isinstance(error, OutputError) else error
        if isinstance(cause, OSError) and cause.errno in _HOPELESS:
            raise OutputError(f"{task.output} cannot be written: {first_line(cause)}") from error
        ours = str(error) if isinstance(error, LcmError) else first_line(error)
        self.tally.failures.append((task.name, " ".join(ours.split())))
        self._show(f"{task.name} FAILED")

    def _show(self, name: str | None) -> None:
        tally = self.tally
        words = [f"{len(tally.failures)} failed"] if tally.failures else []
        if tally.made and self._start is not None:
            each = (time.perf_counter() - self._start) / tally.made
            speed = f"{each:.1f} s each" if each >= 1 else f"{1 / each:.1f}/s"
            words += [speed, f"{duration(each * tally.left)} left"]
        self._progress.item(tally.total - tally.left, tally.total, name, ", ".join(words))


def _read(task: Task) -> bytes:
    assert task.init is not None
    try:
        return task.init.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {first_line(error)}") from error
