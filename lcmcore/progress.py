"""Progress on a terminal or in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

_WIDTH = 24


class Progress:
    """Tells of steps on stderr: a bar on a terminal, plain lines else, nothing when quiet."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet or self._stream is None  # no stderr at all: `2>&-`
        self._terminal = not self._quiet and self._stream.isatty()
        self._bar_shown = False
        self._start = time.perf_counter()

    def __enter__(self) -> Progress:
        """Return itself; the end of the block ends a bar's line, also after an error."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the bar's line."""
        self._end_bar()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._end_bar()
        self._write(f"{text}\n")

    def step(self, done: int, total: int) -> None:
        """`done` of `total` steps are done."""
        seconds = time.perf_counter() - self._start
        if not self._terminal:
            self._write(f"step {done}/{total}, {seconds:.1f} s\n")
            return
        filled = _WIDTH * done // total
        bar = "#" * filled + "-" * (_WIDTH - filled)
        self._bar_shown = True
        self._write(f"\r[{bar}] {done}/{total} steps, {seconds:.1f} s")

    def _end_bar(self) -> None:
        if self._bar_shown:
            self._bar_shown = False
            self._write("\n")

    def _write(self, text: str) -> None:
        if not self._quiet:
            self._stream.write(text)
            self._stream.flush()
