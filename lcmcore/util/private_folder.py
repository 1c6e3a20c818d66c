"""Folders of the cache: where they are, and whether what they hold can be trusted."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UntrustedError(OSError):
    """Somebody else could have written what the cache holds."""


def cache_folder(name: str) -> Path:
    """Where what is of that kind is kept."""
    own, shared = os.environ.get("LCM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own or f"{shared or '~/.cache'}/lcmcore").expanduser() / name


def make_private(root: Path) -> None:
    """Create the cache's folder and its parents, for this user only.

    Raises OSError, and UntrustedError as `require_private` does.
    """
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(0o700, exist_ok=True)
    require_private(root)


def require_private(root: Path) -> None:
    """Raise UntrustedError for a cache that others could write to or replace; raises OSError.

    What is not there yet is no fault: `make_private` creates it.
    """
    with suppress(FileNotFoundError):
        parent = root.parent.stat()  # a link to it is the user's
        writable = parent.st_mode & _OTHERS_WRITE and not parent.st_mode & stat.S_ISVTX
        if writable or _is_foreign(parent):
            raise UntrustedError(_advice(root.parent))
        require_trusted(root)


def require_trusted(*paths: Path) -> None:
    """Raise UntrustedError for a link, or what others own or can write to; root is trusted."""
    for path in paths:
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        if (
            kind not in (stat.S_IFREG, stat.S_IFDIR)
            or status.st_mode & _OTHERS_WRITE
            or _is_foreign(status)
        ):
            raise UntrustedError(_advice(path))


def _is_foreign(status: os.stat_result) -> bool:
    return status.st_uid not in (os.geteuid(), 0)


def _advice(path: Path) -> str:
    return (
        f"{path} is a link, or others own it or can write to it: what it holds is not used;"
        " remove it (or chmod go-w), or set LCM_CACHE to a folder of your own"
    )
