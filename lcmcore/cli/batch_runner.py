"""Runs tasks on anything that turns jobs into futures, and writes the images."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from lcmcore.cli.batch_tasks import BadTask, Task, Tasks
from lcmcore.cli.progress import Progress, count_of, duration
from lcmcore.errors import (
    ImageError,
    LcmError,
    OutputError,
    RuntimeUnavailableError,
    first_line,
    reason_of,
)
from lcmcore.image_files.opening import MAX_BYTES
from lcmcore.jobs.fingerprint import RECORD_KEY, fingerprint, is_done
from lcmcore.jobs.job import Job
from lcmcore.jobs.worker import EncodedImage
from lcmcore.png import absolute, png_size
from lcmcore.util.files import read_regular, write_whole

_POLL_SECONDS = 0.5  # between looks at whether to stop
_MAX_LISTED = 1000  # failures: the log has a line for each
_MAX_WORDS = 500  # characters of a name or a reason; a line of a job may be longer
_NO_MORE_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # other images would fail likewise


@dataclass(frozen=True)
class Backend:
    """Where jobs run: `submit` returns a future of (PNG, seed); at most `window()` are in flight.

    `model` describes what generates the images, as part of their fingerprints.
    """

    submit: Callable[[Job], Future[EncodedImage]]
    window: Callable[[], int]
    model: Mapping[str, object]


@dataclass
class Tally:
    """How many images were asked for, generated, skipped and failed.

    `failures` has the names and reasons of the first thousand that failed.
    """

    total: int
    generated: int = 0
    skipped: int = 0
    failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        """How many images are neither generated nor skipped nor failed."""
        return self.total - self.generated - self.skipped - self.failed

    def add_failure(self, name: str, reason: str) -> None:
        """Count an image that failed."""
        self.failed += 1
        if len(self.failures) < _MAX_LISTED:
            self.failures.append((name, reason))


class Runner:
    """One pass over tasks. A task that fails is recorded and the others go on."""

    def __init__(
        self, tasks: Tasks, backend: Backend, progress: Progress, stopped: Callable[[], bool]
    ) -> None:
        """`stopped` is polled; once it returns True no further task is started."""
        self.tally = Tally(len(tasks))
        self._tasks = tasks
        self._backend = backend
        self._progress = progress
        self._stopped = stopped
        self._running: dict[Future[EncodedImage], Task] = {}
        self._start: float | None = None  # when the first job was submitted

    def run(self) -> Tally:
        """Start every task that is not done, and finish all that were started.

        Raises OutputError when no image can be written any more, and RuntimeUnavailableError when
        none can be generated any more.
        """
        announced = False
        for task in self._until_stopped():
            if isinstance(task, BadTask):
                self._fail(task, task.error)
            else:
                self._begin(task)
            while len(self._running) >= max(1, self._backend.window()) and not self._stopped():
                self._finish_some()
        while self._running:
            if self._stopped() and not announced:
                announced = True
                count = count_of(len(self._running), "image")
                self._progress.say(f"finishing {count} in progress; signal again to stop at once")
            self._finish_some()
        return self.tally

    def _until_stopped(self) -> Iterator[Task | BadTask]:
        for task in self._tasks:
            if self._stopped():
                return
            yield task

    def _begin(self, task: Task) -> None:
        try:
            init, mask = _read(task.init), _read(task.mask, f"mask {task.mask} ")
            mark = fingerprint(task.request, init, self._backend.model, mask)
            if is_done(task.output, mark):
                self.tally.skipped += 1
                self._show(None)
                return
            files = {"init": task.init, "mask": task.mask}
            record = {key: absolute(path) for key, path in files.items() if path is not None}
            self._start = self._start or time.perf_counter()
            future = self._backend.submit(
                Job(task.request, init, {**record, RECORD_KEY: mark}, mask)
            )
        except Exception as error:  # whatever a file or a job holds
            self._fail(task, error)
        else:
            self._running[future] = task

    def _finish_some(self) -> None:
        done, _ = wait(self._running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            task = self._running.pop(future)
            try:
                png, _seed = future.result()
                self._write(task, png)
            except CancelledError as error:  # by the executor: nothing is cancelled here
                raise RuntimeUnavailableError(
                    "the executor cancelled the jobs, as when a scheduler is lost:"
                    " run the same command to continue"
                ) from error
            except Exception as error:  # an executor raises errors of its own
                self._fail(task, error)
            else:
                self.tally.generated += 1
                width, height = png_size(png)
                self._show(f"{task.output} ({width}x{height})")

    def _write(self, task: Task, png: bytes) -> None:
        task.output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(task.output, png)

    def _fail(self, task: Task | BadTask, error: Exception) -> None:
        name = _shorten(task.name)
        cause = error.__cause__ if isinstance(error, OutputError) else error
        if isinstance(cause, OSError) and cause.errno in _NO_MORE_WRITES:
            place = task.output if isinstance(task, Task) else name
            raise OutputError(f"{place} cannot be written: {first_line(cause)}") from error
        reason = str(error) if isinstance(error, LcmError) else first_line(error)
        self.tally.add_failure(name, _shorten(reason))
        self._show(f"{name} FAILED")

    def _show(self, name: str | None) -> None:
        tally = self.tally
        words = [f"{tally.failed} failed"] if tally.failed else []
        if tally.generated and self._start is not None:
            each = (time.perf_counter() - self._start) / tally.generated
            speed = f"{each:.1f} s each" if each >= 1 else f"{1 / each:.1f}/s"
            words += [speed, f"{duration(each * tally.remaining)} left"]
        self._progress.item(tally.total - tally.remaining, tally.total, name, ", ".join(words))


def _read(path: Path | None, name: str = "") -> bytes | None:
    """Errors need not name an init image, as it is the name of its task."""
    try:
        return None if path is None else read_regular(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}cannot be read: {reason_of(error)}") from error


def _shorten(text: str) -> str:
    """In one line of a bounded length."""
    text = " ".join(text.split())
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}..."
