"""Reading regular files of a bounded size, writing files atomically, checksums."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from lcmcore.errors import OutputError, first_line
from lcmcore.util.temporary import remove_leftovers, temporary_file

_BINARY = getattr(os, "O_BINARY", 0)  # of Windows, where it keeps line ends as they are
_MAX_HOLES = 2**30  # bytes of a file that were never written
_MAX_DIGESTED = 2**40  # bytes; /proc/kcore says that it has 2**47
_swept: set[Path] = set()  # folders that `write_whole` has cleared of leftovers


def require_writable(path: Path) -> None:
    """Raise OutputError if a file cannot be written there, before the work for it is done.

    Folders on the way to it need not exist: `make_folder` makes them.
    """
    if is_folder(path):
        raise OutputError(f"{path} is a folder: give the name of a file")
    parent = path.parent
    while not os.path.lexists(parent) and parent != parent.parent:
        parent = parent.parent
    if not is_folder(parent):
        raise OutputError(f"{parent} is no folder: {path.name} cannot be written below it")
    if is_deleted(parent):
        raise OutputError(f"folder {parent} was deleted: {path.name} cannot be written to it")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"folder {parent} is not writable")


def is_folder(path: Path) -> bool:
    """Like `path.is_dir()`, which raises for a name too long or a parent that cannot be read."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_within(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a path lies in one of the folders once its own links are resolved, not theirs."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(folder) for folder in folders)


def is_deleted(folder: Path) -> bool:
    """Whether the folder has no name any more, as the working directory of a process may."""
    try:
        return folder.stat().st_nlink == 0
    except OSError:
        return False


def is_file(path: Path) -> bool:
    """Like `path.is_file()`, which raises for the same paths."""
    try:
        return path.is_file()
    except OSError:
        return False


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading that is no FIFO or socket, which are waited for, and no device.

    Raises OSError; symbolic links are followed.
    """
    _require_regular(path.stat(), path)  # before it is opened: that alone can act on a device
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    file = os.fdopen(descriptor, "rb")
    try:
        _require_regular(os.fstat(descriptor), path)  # it may have been replaced meanwhile
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file; raises OSError for another, or one of more than `max_bytes`.

    Sparse files can be larger than the memory, and files of /proc longer than their size says.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= max_bytes:
            content: bytes | None = file.read(max_bytes + 1)
            if content is None:  # some of /proc, /proc/kmsg for one, wait for more to come
                raise BlockingIOError(errno.EAGAIN, "nothing to read", os.fspath(path))
            if len(content) <= max_bytes:
                return content
    raise OSError(errno.EFBIG, f"larger than {max_bytes / 2**20:g} MiB", os.fspath(path))


def open_solid(path: Path) -> BinaryIO:
    """Like `open_regular`, for files of any size: raises OSError for a sparse or endless one, too.

    To read 40 GB of holes takes a minute, and to store them one block of a stranger's disk.
    """
    file = open_regular(path)
    try:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_DIGESTED or (size > _MAX_HOLES and _holes(file.fileno(), size) > _MAX_HOLES):
            raise OSError(errno.EFBIG, "a sparse file: most of it was never written", str(path))
    except BaseException:
        file.close()
        raise
    return file


def _holes(descriptor: int, size: int) -> int:
    """Bytes of a file that are in no block of the disk; 0 where that is unknown."""
    if not hasattr(os, "SEEK_DATA"):  # on Windows
        return 0
    holes = position = 0
    try:
        while position < size and holes <= _MAX_HOLES:
            data = _next_data(descriptor, position, size)
            holes += data - position
            position = os.lseek(descriptor, data, os.SEEK_HOLE) if data < size else size
    except OSError:  # a file system that does not tell
        return 0
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return holes


def _next_data(descriptor: int, position: int, size: int) -> int:
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:  # the rest of the file is a hole
            raise
        return size


def _require_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def make_folder(folder: Path) -> None:
    """Create a folder and its parents unless they exist, to write to; raises OutputError.

    What a killed process has left there is removed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {folder} cannot be created: {first_line(error)}") from error
    remove_leftovers(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write to a temporary file, then rename it: `path` never holds half a file.

    The content is synced to the disk before the rename, for boards lose their power.
    Raises OutputError.
    """
    if path.parent not in _swept:  # once: the folder may hold a million images
        _swept.add(path.parent)
        remove_leftovers(path.parent)
    try:
        with temporary_file(path.parent) as temporary:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {first_line(error)}") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a regular file in hexadecimal; raises OSError for any other, as for a FIFO.

    What is appended meanwhile is left out: some files of /proc never end.
    """
    import hashlib  # takes longer to import than the rest of this file

    digest = hashlib.sha256()
    with open_solid(path) as file:
        left = os.fstat(file.fileno()).st_size
        while chunk := file.read(min(left, 2**20)):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def regular_files(
    folder: Path, onerror: Callable[[OSError], object] = lambda _: None
) -> Iterator[tuple[Path, int]]:
    """Each regular file in a folder and below, in a fixed order, and its size.

    Links are followed, but no folder is entered twice, so that a loop ends. What cannot be read is
    passed over, once `onerror` has been called.
    """
    entered: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        status = _status(Path(place), onerror)
        if status is None or (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders.sort()
        for path in (Path(place, name) for name in sorted(names)):
            status = _status(path, onerror)
            if status is not None and stat.S_ISREG(status.st_mode):
                yield path, status.st_size


def _status(path: Path, onerror: Callable[[OSError], object]) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError as error:  # it has gone, or is a link to nothing
        onerror(error)
        return None
