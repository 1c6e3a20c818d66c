"""The lines of a file of jobs, or of a pipe, one at a time and each of a bounded length."""

from __future__ import annotations

import os
import select
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from lcmcore.errors import BundleError, first_line
from lcmcore.util.files import open_regular

MAX_LINE = 2**20  # bytes
_MAX_FILE = 2**30
_CHUNK = 2**16
_POLL_SECONDS = 0.5
_BOM = b"\xef\xbb\xbf"  # Windows' editors write it


class LineFile:
    """A file whose lines can be read several times; what is appended meanwhile is left out."""

    def __init__(self, file: BinaryIO) -> None:
        weakref.finalize(self, file.close)
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        r"""Number, from 1, and content of each line that is not blank.

        None is the content of a line longer than MAX_LINE. Lines end with \n alone: JSON may hold
        other characters that end a line of text, such as U+2028.
        """
        self._file.seek(0)
        number, left = 0, self._size
        while left > 0 and (line := self._file.readline(min(left, MAX_LINE + 1))):
            number += 1
            left -= len(line)
            if len(line) > MAX_LINE:
                left -= self._skip_line(line)
                yield number, None
            elif content := line.removeprefix(_BOM if number == 1 else b"").strip():
                yield number, content

    def _skip_line(self, part: bytes) -> int:
        """Read on to the end of the line that begins with `part`; how many bytes that were."""
        skipped = 0
        while part and not part.endswith(b"\n"):
            part = self._file.readline(_CHUNK)
            skipped += len(part)
        return skipped


def open_lines(path: Path, stopped: Callable[[], bool] = lambda: False) -> LineFile:
    """A file, or what comes from a pipe, which is copied to a temporary file.

    Raises BundleError that names it: for devices, which may never end, and for more than 1 GiB.
    Raises KeyboardInterrupt once `stopped` returns True while a pipe is waited for.
    """
    try:
        if stat.S_ISFIFO(path.stat().st_mode):
            return LineFile(_copy_of_pipe(path, stopped))
        file = open_regular(path)
    except FileNotFoundError:
        raise BundleError(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, first_line(error)) from error
    if os.fstat(file.fileno()).st_size > _MAX_FILE:
        file.close()
        raise _unreadable(path, _too_large())
    return LineFile(file)


def _copy_of_pipe(path: Path, stopped: Callable[[], bool]) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed with its LineFile
    # Without O_NONBLOCK, `open` would wait for a writer, whatever signal comes.
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while chunk := _next_chunk(pipe, stopped):
            copy.write(chunk)
            if copy.tell() > _MAX_FILE:
                raise _unreadable(path, _too_large())
        copy.flush()
    except BaseException:
        copy.close()
        raise
    finally:
        os.close(pipe)
    return copy


def _next_chunk(pipe: int, stopped: Callable[[], bool]) -> bytes:
    while not select.select([pipe], [], [], _POLL_SECONDS)[0]:
        if stopped():
            raise KeyboardInterrupt
    return os.read(pipe, _CHUNK)


def _unreadable(path: Path, reason: str) -> BundleError:
    return BundleError(f"{path}: cannot be read: {reason}")


def _too_large() -> str:
    return f"larger than {_MAX_FILE >> 20} MiB: split it into several files"
