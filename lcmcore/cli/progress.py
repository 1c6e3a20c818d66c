"""Progress on stderr, and numbers in words."""

from __future__ import annotations

import logging
import time
from typing import TextIO

from lcmcore.util.closeable import Closeable
from lcmcore.util.terminal import is_terminal, redraw, tell

_WIDTH = 24
# What a terminal shows of a network's turn.
_TURNS = {
    ("running", "text_encoder"): "encoding the prompt",
    ("running", "vae_encoder"): "encoding the init image",
    ("running", "unet"): "running the first step",
    ("running", "vae_decoder"): "decoding",
}


class Progress(Closeable):
    """A line on a terminal, plain lines in a log or between INFO lines (-v), nothing when quiet.

    The line on the terminal says what is being done, and is cleared by the next one of `say`.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._quiet = quiet
        verbose = logging.getLogger("lcmcore").isEnabledFor(logging.INFO)
        self._terminal = not quiet and not verbose and is_terminal(stream)
        self._drawn = False
        self._start = time.perf_counter()
        self._first_start = self._start  # of the first image
        self._steps_start: float | None = None  # of the image's first step
        self._bar_of_steps = ""  # once a step of the image is done
        self._title = ""
        self._left_known = False  # of all images

    def say(self, text: str) -> None:
        """Write a line."""
        self.close()
        self._tell(text)

    def begin(self, number: int, total: int) -> None:
        """Image `number` of `total` begins; once one is made, the time that is left is known."""
        now = time.perf_counter()
        self._steps_start, self._bar_of_steps = None, ""
        self._left_known = number > 1
        if self._left_known:
            left = (now - self._first_start) / (number - 1) * (total - number + 1)
            self._title = f"image {number} of {total}, {duration(left)} left: "
        else:
            self._title = f"image {number} of {total}: " if total > 1 else ""
            self._first_start = now

    def show(self, text: str) -> None:
        """Say what is being done, on a terminal."""
        if self._terminal:
            self._draw(f"{text} ({time.perf_counter() - self._start:.1f} s)")

    def turn(self, what: str, component: str) -> None:
        """A network's turn, as `Networks.on_turn` reports it: "opening" or "running" a component.

        While the UNet runs, the bar of the steps is shown, also behind a preview.
        """
        running_unet = (what, component) == ("running", "unet")
        if running_unet and self._steps_start is None:
            self._steps_start = time.perf_counter()
        if running_unet and self._bar_of_steps and self._terminal:
            self._draw(self._bar_of_steps)
        else:
            self.show(_TURNS.get((what, component), f"{what} {component}"))

    def step(self, done: int, total: int) -> None:
        """`done` of `total` steps are done."""
        now = time.perf_counter()
        if not self._terminal:
            self._tell(f"step {done}/{total}, {now - self._start:.1f} s")
            return
        left = ""
        if self._steps_start is not None and done < total and not self._left_known:
            left = f", {duration((now - self._steps_start) / done * (total - done))} left"
        self._bar_of_steps = _bar(done, total, f" steps, {now - self._start:.1f} s{left}")
        self._draw(self._bar_of_steps)

    def item(self, done: int, total: int, name: str | None, words: str) -> None:
        """`done` of `total` items are done; a log gets a line for each item that has a name."""
        if self._terminal:
            self._draw(_bar(done, total, f" {words}"))
        elif name is not None:
            self._tell(f"{done}/{total} {name}, {words}")

    def close(self) -> None:
        """Clear the line of the terminal."""
        if self._drawn:
            self._drawn = False
            redraw("", self._stream)

    def _draw(self, text: str) -> None:
        self._drawn = True
        redraw(f"{self._title}{text}", self._stream)

    def _tell(self, text: str) -> None:
        if not self._quiet:
            tell(text, self._stream)


def _bar(done: int, total: int, words: str) -> str:
    filled = _WIDTH * done // total
    return f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {done}/{total}{words}"


def duration(seconds: float) -> str:
    """In the units that matter: "40 s", "12 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def count_of(number: int, noun: str) -> str:
    """A number and its noun: "1 image", "3 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
