"""The jobs of a server: at most so many run, at most so many wait, and none for who has gone."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from lcmcore.errors import LcmError, QueueFull
from lcmcore.jobs.job import Job
from lcmcore.jobs.worker import EncodedImage, JobStep, OnStep

Follow: TypeAlias = "Callable[[JobStep], None]"  # called in the event loop after each step


class Submit(Protocol):
    """Gives a job to a worker, as `Pool.submit` does."""

    def __call__(self, job: Job, *, on_step: OnStep) -> Future[EncodedImage]:
        """The future of (PNG, seed)."""


class Stopping(LcmError):  # noqa: N818 - an event, not a fault
    """The server is shutting down, and starts no more jobs."""


@dataclass
class Counts:
    """What has become of the jobs that a worker was given."""

    done: int = 0
    failed: int = 0  # or cancelled between two steps
    unwanted: int = 0  # done when the client had gone: it went after the last step


class JobQueue:
    """Waiting is done here, not in the pool, so that a job is gone once its client is."""

    def __init__(self, submit: Submit, workers: Callable[[], int], waiting: int) -> None:
        """`workers()` jobs run at the same time; `waiting` more are admitted."""
        self._submit = submit
        self._workers = workers
        self._waiting = waiting
        self._turns: list[asyncio.Future[None]] = []  # of the jobs that wait, the oldest first
        self._admitted = 0
        self._running = 0
        self._stopping = False
        self._seconds = 1.0  # of a job, about
        self.counts = Counts()

    @property
    def load(self) -> dict[str, int]:
        """How many jobs run and wait."""
        return {"running": self._running, "waiting": len(self._turns)}

    def admit(self, count: int) -> None:
        """Count that many jobs in, each of which then is given to `run`; raises QueueFull."""
        if self._admitted + count > max(1, self._workers()) + self._waiting:
            raise QueueFull("the queue is full: send the request again later")
        self._admitted += count

    def leave(self, count: int) -> None:
        """Count out jobs that were admitted and are not run."""
        self._admitted -= count

    @property
    def retry_after(self) -> int:
        """Seconds until there may be room."""
        return max(1, math.ceil(self._seconds * self._admitted / max(1, self._workers()) / 2))

    def stop(self) -> None:
        """Start no more jobs; what runs is finished."""
        self._stopping = True
        for turn in self._turns:
            if not turn.done():
                turn.set_exception(Stopping("the server is shutting down"))

    async def run(self, job: Job, follow: Follow = lambda _: None) -> EncodedImage:
        """(PNG, seed) of a job that was admitted; raises what the worker raises, and Stopping.

        Cancelled, it is not started; or if it runs, it ends after the step in progress.
        """
        try:
            await self._turn()
        except BaseException:
            self._admitted -= 1
            raise
        loop = asyncio.get_running_loop()
        gone = threading.Event()

        def in_loop(call: Callable[[], None]) -> None:
            try:
                loop.call_soon_threadsafe(call)
            except RuntimeError:  # it is closed: a second signal ended the server at once
                gone.set()

        def on_step(step: JobStep) -> bool:
            in_loop(lambda: None if gone.is_set() else follow(step))
            return not gone.is_set()

        start = time.monotonic()
        try:
            future = self._submit(job, on_step=on_step)
        except BaseException:
            self._end()
            raise

        def end() -> None:
            self._count(future, gone.is_set())
            self._end(start)

        future.add_done_callback(lambda _: in_loop(end))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            gone.set()  # upon which the worker ends the job, after the step in progress
            raise

    async def _turn(self) -> None:
        """Wait until this job is the oldest, and a worker is free."""
        if self._stopping:
            raise Stopping("the server is shutting down")
        if self._turns or self._running >= max(1, self._workers()):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            try:
                await turn
            except BaseException:
                if turn in self._turns:
                    self._turns.remove(turn)
                elif turn.done() and not turn.cancelled() and not turn.exception():
                    self._release()  # it was its turn, and it has gone
                raise
        else:
            self._running += 1

    def _count(self, future: Future[EncodedImage], gone: bool) -> None:
        if future.cancelled() or future.exception() is not None:
            self.counts.failed += 1
        else:
            self.counts.done += 1
            self.counts.unwanted += gone

    def _end(self, start: float | None = None) -> None:
        """A job has ended, and its worker is free."""
        self._admitted -= 1
        if start is not None:
            self._seconds += 0.2 * (time.monotonic() - start - self._seconds)
        self._release()

    def _release(self) -> None:
        """Let the oldest job that waits have the place of one that ran."""
        self._running -= 1
        while self._turns and self._running < max(1, self._workers()):
            turn = self._turns.pop(0)
            if not turn.done():
                self._running += 1
                turn.set_result(None)
