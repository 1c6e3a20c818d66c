"""The tasks of `lcm batch`: one for each image of a folder, or for each line of a file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from lcmcore.errors import ArgumentError, ImageError, first_line
from lcmcore.jobs.job import Request
from lcmcore.util.configfile import read_text

_KEYS = ("init_image", "output", *(field.name for field in fields(Request)))


@dataclass(frozen=True)
class Task:
    """One image to generate: request, file of the init image (None: txt2img), output file."""

    request: Request
    init: Path | None
    output: Path

    @property
    def name(self) -> str:
        """The file that messages name."""
        return str(self.output if self.init is None else self.init)


def tasks_of_folder(folder: Path, out: Path, request: Request) -> list[Task]:
    """The same request for every image in a folder, in the order of their names.

    Images are the files with a suffix that Pillow reads. The output of NAME.SUFFIX is NAME.png, or
    NAME.SUFFIX.png where two names differ in the suffix alone. Raises ImageError if there are none.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.is_file()]
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read: {first_line(error)}") from error
    Image.init()
    suffixes = {suffix for suffix, name in Image.EXTENSION.items() if name in Image.OPEN}
    paths = [path for path in paths if path.suffix.lower() in suffixes and path.name[0] != "."]
    if not paths:
        raise ImageError(f"{folder}: contains no images")
    tasks = [
        Task(request, path, out / name) for path, name in zip(paths, _names(paths), strict=True)
    ]
    return _checked(tasks, [path.name for path in paths])


def tasks_of_file(path: Path, inits: Path, out: Path, request: Request) -> list[Task]:
    """A task for each line, a JSON object with any of a Request's fields.

    Two more keys: `init_image`, a path relative to the folder `inits`, and `output`, a name in the
    folder `out` (default: the init image's). Fields that a line lacks are taken from `request`.
    Raises BundleError if the file cannot be read, and ArgumentError that names a bad line.
    """
    tasks, places = [], []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        places.append(f"{path}:{number}")
        try:
            tasks.append(_task_of_line(json.loads(line), inits, out, request))
        except (ArgumentError, ValueError, RecursionError) as error:
            raise ArgumentError(f"{places[-1]}: {first_line(error)}") from error
    if not tasks:
        raise ArgumentError(f"{path}: contains no jobs")
    return _checked(tasks, places)


def _task_of_line(line: Any, inits: Path, out: Path, request: Request) -> Task:
    if not isinstance(line, dict):
        raise ArgumentError(f"expected a JSON object, found {type(line).__name__}")
    for key in line:
        if key not in _KEYS:
            raise ArgumentError(f"unknown key {key}; known keys are {', '.join(_KEYS)}")
    for key in ("prompt", "init_image", "output"):
        if not isinstance(line.get(key, ""), str):
            raise ArgumentError(f"{key} must be text, not {line[key]!r}")
    request = replace(request, **{key: line[key] for key in line if key not in _KEYS[:2]})
    if not isinstance(request.prompt, str):
        raise ArgumentError("no prompt in this line, nor on the command line")
    init = inits / line["init_image"] if "init_image" in line else None
    return Task(request, init, out / _output(line))


def _output(line: Mapping[str, str]) -> str:
    name = line.get("output") or Path(line.get("init_image", "")).stem
    if not name:
        raise ArgumentError("output is missing, and there is no init_image to name the file after")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ArgumentError(f"output must be within the output folder: {name}")
    return name if name.lower().endswith(".png") else f"{name}.png"


def _names(paths: list[Path]) -> list[str]:
    """Names of the PNGs, distinct also on file systems that ignore case."""
    names = {path.name.casefold() for path in paths}
    stems = Counter(path.stem.casefold() for path in paths)
    unique = [
        stems[path.stem.casefold()] == 1 and path.stem.casefold() not in names for path in paths
    ]
    return [
        f"{path.stem if alone else path.name}.png"
        for path, alone in zip(paths, unique, strict=True)
    ]


def _checked(tasks: list[Task], places: list[str]) -> list[Task]:
    """Raise ArgumentError for tasks that would overwrite each other's output or an init image."""
    writers: dict[Path, str] = {}
    for task, place in zip(tasks, places, strict=True):
        output = task.output.resolve()
        if output in writers:
            raise ArgumentError(
                f"{place} and {writers[output]} would both be written to {task.output}:"
                " give them different outputs"
            )
        writers[output] = place
    for task, place in zip(tasks, places, strict=True):
        if task.init is not None and task.init.resolve() in writers:
            raise ArgumentError(
                f"{place}: {task.init} would be overwritten: choose another output folder"
            )
    return tasks
