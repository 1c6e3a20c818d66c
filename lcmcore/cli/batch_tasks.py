"""The tasks of `lcm batch`, and those of folders and files: one for each image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from lcmcore.cli.progress import count_of
from lcmcore.errors import ArgumentError, ImageError, LcmError, reason_of
from lcmcore.image_files.opening import image_suffixes
from lcmcore.jobs.job import Request
from lcmcore.util.files import is_file, is_folder

_HEIC = (".heic", ".heif", ".hif")
_SHOWN = 5  # names of files in a message


@dataclass(frozen=True)
class Task:
    """One image to generate: request, file of the init image (None: txt2img), output file.

    And the file of the mask, or None.
    """

    request: Request
    init: Path | None
    output: Path
    mask: Path | None = None

    @property
    def name(self) -> str:
        """The file that messages name."""
        return str(self.output if self.init is None else self.init)


class BadTask(NamedTuple):
    """What asks for no image that can be made: its place, e.g. "jobs.jsonl:7", and why."""

    name: str
    error: LcmError


class Tasks(Sized, Iterable["Task | BadTask"], Protocol):
    """What a Runner takes: a list, or something that reads each task when its turn comes."""


def tasks_of_inits(
    inits: Sequence[Path], out: Path, request: Request, mask: Path | None = None
) -> list[Task]:
    """The same request and mask for every init image: single files, and all in folders, by name.

    Images of a folder are the files with the suffix of a format that is read. The output of
    NAME.SUFFIX is NAME.png, or NAME.SUFFIX.png where two names differ in the suffix alone. Raises
    ImageError for a folder without images, and ArgumentError if an init image would be overwritten,
    or two have one name.
    """
    paths = []
    for init in inits:
        images, others = _images_and_others(init)
        if not images:
            raise ImageError("; ".join([f"{init}: contains no images", *passed_over(others)]))
        paths += images
    names = _names(paths)
    _require_distinct(paths, names)
    return _spare_init_images(
        [Task(request, path, out / name, mask) for path, name in zip(paths, names, strict=True)]
    )


def files_passed_over(inits: Sequence[Path]) -> list[str]:
    """Names of the files in folders that `tasks_of_inits` does not take, but for hidden ones.

    Raises ImageError.
    """
    return [name for init in inits for name in _images_and_others(init)[1]]


def passed_over(names: list[str]) -> list[str]:
    """What to say of files that were passed over: a line for those in HEIC, and one for others."""
    unread = frozenset(_HEIC) - image_suffixes()
    heic = [name for name in names if Path(name).suffix.lower() in unread]
    others = [name for name in names if Path(name).suffix.lower() not in unread]
    lines = []
    if heic:
        lines.append(
            f"passed over {_list(heic, 'HEIC image')}: install Pillow's plugin for them"
            " (pip install pillow-heif), or convert them to JPEG"
        )
    if others:
        lines.append(
            f"passed over {_list(others, 'file')}: only regular files are taken whose names end as"
            " those of images do (.jpg, .png, ...)"
        )
    return lines


def _list(names: list[str], noun: str) -> str:
    """ "1 file (a)", "7 files (a, b, c, ...)"."""
    shown = ", ".join([*names[:_SHOWN], *(["..."] if len(names) > _SHOWN else [])])
    return f"{count_of(len(names), noun)} ({shown})"


def _images_and_others(folder: Path) -> tuple[list[Path], list[str]]:
    """Files with a suffix of an image in the order of their names, and the names of the others.

    A single file is taken whatever its name.
    """
    if is_file(folder):
        return [folder], []
    try:
        paths = sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read: {reason_of(error)}") from error
    suffixes = image_suffixes()
    images, others = [], []
    for path in paths:
        if path.suffix.lower() in suffixes and is_file(path):
            images.append(path)
        elif not is_folder(path):
            others.append(path.name)
    return images, others


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


def _require_distinct(paths: list[Path], names: list[str]) -> None:
    """Raise ArgumentError for two init images of one name, from different folders."""
    first: dict[str, Path] = {}
    for path, name in zip(paths, names, strict=True):
        other = first.setdefault(name.casefold(), path)
        if other is not path:
            raise ArgumentError(f"{other} and {path} would both be written to {name}: rename one")


def _spare_init_images(tasks: list[Task]) -> list[Task]:
    """Raise ArgumentError for tasks that would overwrite an init image or a mask."""
    outputs = {os.path.realpath(task.output) for task in tasks}
    for path in (path for task in tasks for path in (task.init, task.mask)):
        if path is not None and os.path.realpath(path) in outputs:
            raise ArgumentError(f"{path} would be overwritten: choose another output folder")
    return tasks
