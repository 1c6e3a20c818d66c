"""An item of the fuzz suite: the files of a folder, which a target is then given."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple, TypeAlias


class Link(NamedTuple):
    """A symbolic link, in an item."""

    target: str


Item: TypeAlias = "dict[str, bytes | Link]"  # by the path in the folder


def write(item: Item, folder: Path) -> None:
    """Write an item into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in item.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content.target)
        else:
            path.write_bytes(content)


def read(folder: Path) -> Item:
    """The item that `write` wrote."""
    item: Item = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            item[name] = Link(str(path.readlink()))
        elif path.is_file():
            item[name] = path.read_bytes()
    return item
