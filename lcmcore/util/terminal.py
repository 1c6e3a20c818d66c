"""The one place where text reaches a person: lines on stdout and stderr that are safe to show.

Each function writes one line, whatever the text holds: a newline or an escape sequence in a
prompt, a file's name or a network's input is shown (`printable`), and never obeyed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from lcmcore.errors import OutputError, reason_of
from lcmcore.util.printable import printable

_CLEAR = "\x1b[K"  # to the end of the line
_redrawn: list[TextIO | None] = []  # the stream whose last line is one of `redraw`


def say(line: str) -> None:
    """Write a line of what was asked for to stdout, at once.

    Raises OutputError if stdout is closed or full, or its encoding lacks a letter; exits with
    status 1 where the reader of a pipe has gone, as in `lcm info | head`.
    """
    if sys.stdout is None:
        raise OutputError("standard output is closed")
    try:
        _write(sys.stdout, f"{printable(line)}\n")
    except UnicodeEncodeError as error:
        raise OutputError(f"standard output cannot show this: {error}: set PYTHONUTF8=1") from error
    except BrokenPipeError:
        _redirect_to_devnull(sys.stdout)
        sys.exit(1)
    except OSError as error:
        _redirect_to_devnull(sys.stdout)
        raise OutputError(f"standard output cannot be written: {reason_of(error)}") from error


def tell(line: str, stream: TextIO | None = None) -> None:
    """Write a message to stderr (or `stream`); where that is closed or full it is lost.

    It takes the place of a line of `redraw`, as a warning in the midst of work does.
    """
    start = ""
    if (stream or sys.stderr) in _redrawn:
        _redrawn.clear()
        start = f"\r{_CLEAR}"
    _try_to_write(f"{start}{printable(line)}\n", stream)


def redraw(line: str, stream: TextIO | None = None) -> None:
    """Replace the line of the cursor, on a terminal, and stay in it: for progress bars.

    What is wider than the terminal is cut off: of a line that wraps, a part would stay.
    """
    _redrawn[:] = [stream or sys.stderr] if line else []
    _try_to_write(f"\r{printable(line)[: _columns(stream) - 1]}{_CLEAR}", stream)


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether stderr (or `stream`) is a terminal."""
    stream = stream or sys.stderr
    return stream is not None and stream.isatty()


def replace_closed_descriptors() -> None:
    """Open /dev/null as stdin, stdout and stderr where they are closed (`>&-`).

    The next file to be opened, maybe the image, would get such a number, and what a C library
    logs would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number


def _columns(stream: TextIO | None) -> int:
    """How wide the terminal is; 80 where that is not known."""
    try:
        return os.get_terminal_size((stream or sys.stderr).fileno()).columns or 80
    except (AttributeError, OSError, ValueError):  # no stream, no terminal, a test's
        return 80


def _try_to_write(text: str, stream: TextIO | None) -> None:
    stream = stream or sys.stderr
    if stream is None:
        return
    try:
        _write(stream, text)
    except (OSError, ValueError):  # a full disk under a log must not end the run
        with contextlib.suppress(OSError, ValueError):
            _redirect_to_devnull(stream)


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


def _redirect_to_devnull(stream: TextIO) -> None:
    """Let what the stream still buffers go to /dev/null; else its flush fails when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
