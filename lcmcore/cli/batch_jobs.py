"""The tasks of a file of jobs: one for each line."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.cli.batch_lines import MAX_LINE, LineFile, open_lines
from lcmcore.cli.batch_tasks import BadTask, Task, Tasks
from lcmcore.errors import ArgumentError, LcmError, first_line
from lcmcore.jobs.job import Request
from lcmcore.util.files import is_folder, is_within

_PATHS = ("init_image", "mask", "output")
_KEYS = (*_PATHS, *(field.name for field in fields(Request)))


def tasks_of_file(
    path: Path,
    inits: Path,
    out: Path,
    request: Request,
    stopped: Callable[[], bool] = lambda: False,
    mask: Path | None = None,
) -> Tasks:
    """A task for each line, a JSON object with any of a Request's fields.

    More keys: `init_image` and `mask`, paths relative to the folder `inits`, and `output`, a name
    in the folder `out` (default: the init image's). Fields that a line lacks are taken from
    `request`; an init image that has no mask gets `mask`. A line that is not right gives a BadTask,
    as does one that would overwrite the output of a line before it, an init image or a mask.
    Raises BundleError if the file cannot be read, ArgumentError if it is empty, and
    KeyboardInterrupt once `stopped` returns True meanwhile.
    """
    tasks = _TasksOfLines(path, open_lines(path, stopped), inits, out, request, mask)
    tasks.count(stopped)
    if not len(tasks):
        raise ArgumentError(f"{path}: contains no jobs")
    return tasks


class _TasksOfLines:
    """Reads each line twice: first to count them and to find what is written twice, and then
    when its turn comes. Of a million lines it keeps two numbers each.
    """

    def __init__(
        self,
        path: Path,
        lines: LineFile,
        inits: Path,
        out: Path,
        request: Request,
        mask: Path | None,
    ) -> None:
        self._path, self._lines = path, lines
        self._inits, self._out, self._request, self._mask = inits, out, request, mask
        self._fold = ignores_case(out)
        self._real_folder = lru_cache(maxsize=1024)(os.path.realpath)
        self._count = 0
        self._repeated: set[int] = set()
        self._read_keys: set[int] = set()

    def count(self, stopped: Callable[[], bool]) -> None:
        """Read all lines for the first time."""
        written, read = array("Q"), array("Q")
        for _, line in self._lines:
            if stopped():
                raise KeyboardInterrupt
            self._count += 1
            try:
                task = self._read(line)
            except LcmError:
                continue
            written.append(self._key(task.output))
            for image in (task.init, task.mask):
                if image is not None:
                    read.append(self._key(_followed(image)))
        keys, counts = np.unique(np.frombuffer(written, np.uint64), return_counts=True)
        self._repeated = set(keys[counts > 1].tolist())
        self._read_keys = set(np.intersect1d(keys, np.frombuffer(read, np.uint64)).tolist())

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Task | BadTask]:
        writers: dict[int, str] = {}
        for number, line in self._lines:
            yield self._task(f"{self._path}:{number}", line, writers)

    def _task(self, place: str, line: bytes | None, writers: dict[int, str]) -> Task | BadTask:
        try:
            task = self._read(line)
            self._check(task, place, writers)
        except LcmError as error:
            return BadTask(place, error)
        return task

    def _read(self, line: bytes | None) -> Task:
        """Raises ArgumentError, whatever the line holds."""
        return _task_of(_decoded(line), self._inits, self._out, self._request, self._mask)

    def _check(self, task: Task, place: str, writers: dict[int, str]) -> None:
        key = self._key(task.output)
        if key in self._read_keys:
            raise ArgumentError(
                f"{task.output} is the init image or mask of a job and would be overwritten:"
                " choose another output"
            )
        if key in self._repeated and writers.setdefault(key, place) != place:
            raise ArgumentError(
                f"{writers[key]} is written to {task.output} already:"
                " give the jobs different outputs"
            )

    def _key(self, path: Path) -> int:
        """A number for a file, by its name: equal ones for two names in a million are unlikely."""
        name = os.path.join(self._real_folder(os.fspath(path.parent)), path.name)  # noqa: PTH118
        content = os.fsencode(name.casefold() if self._fold else name)
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _followed(path: Path) -> Path:
    """The file that a symbolic link leads to; another path as it is.

    `Path.is_symlink` raises for a name that is too long.
    """
    return Path(os.path.realpath(path)) if os.path.islink(path) else path  # noqa: PTH114


def ignores_case(folder: Path) -> bool:
    """Whether A and a are one file there, as on exFAT; asks the disk of the nearest folder."""
    while not is_folder(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(prefix=".lcm-a", dir=folder) as probe:
            path = Path(probe.name)
            return path.with_name(path.name.swapcase()).exists()
    except OSError:  # reported when the first image is written
        return False


def _decoded(line: bytes | None) -> Any:
    if line is None:
        raise ArgumentError(f"longer than {MAX_LINE >> 20} MiB")
    try:
        return _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise ArgumentError(f"not valid UTF-8: {first_line(error)}") from error
    except json.JSONDecodeError as error:
        raise ArgumentError(f"not valid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"not valid JSON: {first_line(error)}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice} comes twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def _task_of(line: Any, inits: Path, out: Path, request: Request, mask: Path | None) -> Task:
    if not isinstance(line, dict):
        raise ArgumentError(f"expected a JSON object, found {type(line).__name__}")
    for key in line:
        if key not in _KEYS:
            raise ArgumentError(f"unknown key {key}; known keys are {', '.join(_KEYS)}")
    for key in ("prompt", *_PATHS):
        if not isinstance(line.get(key, ""), str):
            raise ArgumentError(f"{key} must be text, not {type(line[key]).__name__}")
    for key in _PATHS:
        _require_file_name(key, line.get(key, ""))
    request = replace(request, **{key: line[key] for key in line if key not in _PATHS})
    if not isinstance(request.prompt, str):
        raise ArgumentError("no prompt in this line, nor on the command line")
    request.check()
    init = inits / line["init_image"] if "init_image" in line else None
    mask = inits / line["mask"] if "mask" in line else mask if init is not None else None
    output = out / _output(line)
    # The output folder's links are the user's, to be used by no stranger's line.
    if output.parent != out and not is_within(output.parent, [Path(os.path.realpath(out))]):
        raise ArgumentError(
            f"output must be within the output folder: a link leads out of it: {output}"
        )
    return Task(request, init, output, mask)


def _require_file_name(key: str, name: str) -> None:
    """Lone surrogates are no characters, but \\udc80 and such, which stand for a name's bytes."""
    try:
        possible = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ArgumentError(f"{key} holds a character that no file's name can: {name!r}")


def _output(line: Mapping[str, str]) -> str:
    name = line.get("output") or Path(line.get("init_image", "")).stem
    if not name:
        raise ArgumentError("output is missing, and there is no init_image to name the file after")
    path = Path(name)
    if path.anchor or ".." in path.parts:
        raise ArgumentError(f"output must be within the output folder: {name}")
    if not path.name or name.endswith("/"):
        raise ArgumentError(f"output must name a file, not a folder: {name}")
    return name if name.lower().endswith(".png") else f"{name}.png"
