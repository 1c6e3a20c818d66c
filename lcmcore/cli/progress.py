"""Progress on stderr, and numbers in words."""

from __future__ import annotations

import logging
import time
from typing import TextIO

from lcmcore.util.closeable import Closeable
from lcmcore.util.terminal import is_terminal, redraw, tell

_WIDTH = 24


class Progress(Closeable):
    """A bar on a terminal, plain lines in a log or between INFO lines (-v), nothing when quiet."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._quiet = quiet
        verbose = logging.getLogger("lcmcore").isEnabledFor(logging.INFO)
        self._terminal = not quiet and not verbose and is_terminal(stream)
        self._bar_shown = False
        self._start = time.perf_counter()

    def say(self, text: str) -> None:
        """Write a line."""
        self.close()
        self._tell(text)

    def step(self, done: int, total: int) -> None:
        """`done` of `total` steps are done."""
        seconds = time.perf_counter() - self._start
        if self._terminal:
            self._bar(done, total, f" steps, {seconds:.1f} s")
        else:
            self._tell(f"step {done}/{total}, {seconds:.1f} s")

    def item(self, done: int, total: int, name: str | None, words: str) -> None:
        """`done` of `total` items are done; a log gets a line for each item that has a name."""
        if self._terminal:
            self._bar(done, total, f" {words}")
        elif name is not None:
            self._tell(f"{done}/{total} {name}, {words}")

    def close(self) -> None:
        """End the line of a bar."""
        if self._bar_shown:
            self._bar_shown = False
            tell("", self._stream)

    def _bar(self, done: int, total: int, words: str) -> None:
        filled = _WIDTH * done // total
        self._bar_shown = True
        redraw(f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {done}/{total}{words}", self._stream)

    def _tell(self, text: str) -> None:
        if not self._quiet:
            tell(text, self._stream)


def duration(seconds: float) -> str:
    """In the units that matter: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def count_of(number: int, noun: str) -> str:
    """A number and its noun: "1 image", "3 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
