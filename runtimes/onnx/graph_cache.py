"""Optimized graphs, built once and kept on the disk, with weights that are mapped from there.

There is one entry for each path of a model, rebuilt when the model, this package, ONNX Runtime or
the CPU has changed. An entry is used if nobody else can have written it, and if its checksums are
right: all of them are compared once after each boot, and when a file's status has changed, which a
stamp beside the entry records. Whatever goes wrong here, the model is opened without an optimized
graph.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import lcmcore
from lcmcore.errors import OutputError
from lcmcore.util.files import read_regular, sha256, write_whole
from lcmcore.util.private_folder import (
    UntrustedError,
    cache_folder,
    make_private,
    require_private,
    require_trusted,
)
from lcmcore.util.temporary import remove_leftovers, temporary_folder
from runtimes.onnx.cache_locks import HAS_LOCKS, exclusive, opened_lock, take_shared
from runtimes.onnx.checksums import boot_id, checksums, is_intact, status
from runtimes.onnx.model_files import external_files

GRAPH, WEIGHTS = "model.onnx", "model.weights"
Files = Callable[[Path], list[Path]]  # a model's file, and those with its weights
MIN_BYTES = 2**25  # bytes; smaller models open as fast without
_CACHE = "onnx"  # the folder of ONNX Runtime's
_ENTRY = "entry.json"
_MAX_JSON = 2**24  # bytes
_ROOM = 2.5  # of the model's size: the work folder holds its weights, then the entry is written
_PACKAGE = Path(__file__).parent
# What an entry depends on: of this package, these files and what they import of it.
_SOURCES = (
    *("cache_locks.py", "checksums.py", "graph.py", "graph_cache.py", "model_files.py"),
    *("optimize.py", "protobuf.py", "rewrites/*.py", "sampling.py"),
)
_warned: set[str] = set()

log = logging.getLogger("lcmcore.runtimes.onnx")


@contextmanager
def optimized(
    source: Path,
    version: str,
    build: Callable[[Path, Path], None],
    cache: str = _CACHE,
    files: Files = external_files,
    least: int | None = None,
) -> Iterator[Path | None]:
    """The entry with a model's optimized graph, or None; locked against replacement while in use.

    `build(source, folder)` writes it if this `version` of the runtime's library has no entry yet in
    the folder `cache`; `files(source)` are all that the model consists of. Those of fewer than
    `least` bytes, by default MIN_BYTES, get none.
    """
    found = None
    with ExitStack() as stack:
        try:
            entry = _entry(source, cache)
            if HAS_LOCKS and (entry.is_dir() or _worth_caching(source, least)):
                stack.enter_context(_usable(entry, source, version, build, files))
                found = entry
                log.info("%s: optimized graph %s", source, entry)
            else:
                log.info(
                    "%s: no optimized graph: the model is small, or files have no locks", source
                )
        except (UntrustedError, TimeoutError) as error:
            if str(error) not in _warned:  # one line, not one for each network
                log.warning("%s: no optimized graph: %s", source, error)
            _warned.add(str(error))
        except Exception as error:  # the disk's or ONNX Runtime's; opening the model reports more
            log.info("%s: no optimized graph: %s", source, error)
        yield found


def discard(entry: Path) -> None:
    """Remove an entry whose graph failed; it is rebuilt when asked for again."""
    log.warning("optimized graph %s failed: it is removed, and the model used without it", entry)
    _remove(entry)


def folders(prefix: str) -> list[str]:
    """The names, for `cache`, of the folders that begin with `prefix`; raises no error."""
    return sorted(path.name for path in cache_folder(_CACHE).parent.glob(f"{prefix}-*/"))


def state(source: Path, version: str, cache: str = _CACHE, least: int | None = None) -> str:
    """A line about the entry of a model, for `lcm info`."""
    try:
        entry = _entry(source, cache)
        if not (entry.is_dir() or _worth_caching(source, least)):
            return "optimized graph: none, the model is small"
        require_private(entry.parent)
        if entry.is_dir():
            size = sum(map(_size, entry.iterdir())) / 2**20
            age = "current" if _is_current(_read(entry), source, version) else "outdated"
            return f"optimized graph: {size:.1f} MiB, {age}, {entry}"
        return "optimized graph: none yet"
    except UntrustedError as error:
        return f"optimized graph: not used: {error}"
    except (OSError, RuntimeError) as error:
        return f"optimized graph: none, {error}"


def check(source: Path, cache: str = _CACHE) -> str | None:
    """Read a model's entry whole, for `lcm info --check`; a damaged one is removed.

    Returns a line about it; None if there is no entry.
    """
    try:
        entry = _entry(source, cache)
        if not entry.is_dir():
            return None
        require_private(entry.parent)
        built = _read(entry)
        if built is not None and _is_whole(built, entry):
            return "optimized graph: checked, whole"
        _remove(entry)
        return "optimized graph: DAMAGED; removed, it is rebuilt when the model is opened"
    except UntrustedError as error:
        return f"optimized graph: not checked, not used: {error}"
    except (OSError, RuntimeError) as error:
        return f"optimized graph: not checked, {error}"


def _entry(source: Path, cache: str = _CACHE) -> Path:
    return cache_folder(cache) / hashlib.sha256(os.fsencode(source.absolute())).hexdigest()[:20]


def _worth_caching(source: Path, least: int | None) -> bool:
    files = source.parent.rglob("*")  # weights may be in folders below
    size = sum(_size(path) for path in files if path.is_file())
    return size >= (MIN_BYTES if least is None else least)


@contextmanager
def _usable(
    entry: Path,
    source: Path,
    version: str,
    build: Callable[[Path, Path], None],
    files: Files,
) -> Iterator[None]:
    """The entry, verified or rebuilt, and held against replacement; raises whatever goes wrong."""
    make_private(entry.parent)
    remove_leftovers(entry.parent)
    with opened_lock(entry.with_name(f"{entry.name}.lock")) as lock:
        take_shared(lock, entry)
        if not _is_stamped(entry, source, version):
            with exclusive(lock, entry):
                if not _is_stamped(entry, source, version):  # nor by the process waited for
                    _verify_or_build(entry, source, version, build, files)
        yield


def _verify_or_build(
    entry: Path,
    source: Path,
    version: str,
    build: Callable[[Path, Path], None],
    files: Files,
) -> None:
    built = _read(entry)
    if built is not None and _is_current(built, source, version):
        if _is_verified(built, entry, source):
            return
        log.warning("%s: the optimized graph %s is damaged: it is rebuilt", source, entry)
    log.info("%s: optimizing the graph, once, into %s", source, entry)
    built = _replace(entry, source, version, build, files)
    _write_stamp(entry, _stamp(entry, built, source))


def _read(entry: Path) -> dict[str, Any] | None:
    """What an entry says of itself; None if there is none, or a part of one.

    Raises UntrustedError.
    """
    try:
        require_trusted(entry)
        require_trusted(*entry.iterdir())
        built: dict[str, Any] = json.loads(read_regular(entry / _ENTRY, _MAX_JSON))
        complete = all(_size(entry / name) == size for name, size, _ in built["files"])
        return built if complete and built["by"] and built["from"] else None
    except UntrustedError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_current(built: dict[str, Any] | None, source: Path, version: str) -> bool:
    """Whether an entry is built from these files by this software for this CPU."""
    try:
        return (
            built is not None
            and built["by"] == _build_key(version)
            and all(_is_same(source.parent / name, *known) for name, *known in built["from"])
        )
    except (OSError, ValueError, TypeError):
        return False


def _is_same(path: Path, known: list[int], digest: str) -> bool:
    """Whether a file is what it was; it is read only where size, times or inode differ."""
    return status(path) == known or sha256(path) == digest


def _is_stamped(entry: Path, source: Path, version: str) -> bool:
    """Whether an entry was verified since the machine has started, and nothing has changed since.

    Raises UntrustedError.
    """
    built = _read(entry)
    try:
        if built is None or built["by"] != _build_key(version):
            return False
        stamp = _stamp(entry, built, source)
        return stamp["boot"] is not None and stamp == _read_stamp(entry)
    except (OSError, ValueError, TypeError):
        return False


def _is_verified(built: dict[str, Any], entry: Path, source: Path) -> bool:
    """Compare an entry with its checksums, and stamp it.

    Where it cannot be stamped, or nothing tells whether the machine was restarted, a sample of it
    is compared each time: to read gigabytes at every start would cost too much.
    """
    now, last = _stamp(entry, built, source), _read_stamp(entry)
    same_files = last.get("files") == now["files"]
    same_boot = last.get("boot") == now["boot"] is not None
    if not (same_files and same_boot):  # else only the model's files have other dates
        sampled = not _write_stamp(entry, {}) or (same_files and now["boot"] is None)
        if not _is_whole(built, entry, sampled):
            return False
    _write_stamp(entry, now)
    return True


def _is_whole(built: dict[str, Any], entry: Path, sampled: bool = False) -> bool:
    """Whether checksums are right; False, too, where the disk cannot read what it holds."""
    try:
        return all(is_intact(entry / name, known, sampled) for name, _, known in built["files"])
    except OSError:
        return False


def _stamp(entry: Path, built: dict[str, Any], source: Path) -> dict[str, Any]:
    """What must be as it was for an entry to be used unread; raises OSError, TypeError."""
    return {
        "boot": boot_id(),
        "files": [
            status(entry / name) for name in (_ENTRY, *(name for name, *_ in built["files"]))
        ],
        "from": [status(source.parent / name) for name, *_ in built["from"]],
    }


def _read_stamp(entry: Path) -> dict[str, Any]:
    """The stamp of the last verification; empty without one."""
    try:
        stamp = json.loads(read_regular(_stamp_path(entry), _MAX_JSON))
    except (OSError, ValueError, RecursionError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _write_stamp(entry: Path, stamp: dict[str, Any]) -> bool:
    """Whether it could be written."""
    try:
        write_whole(_stamp_path(entry), json.dumps(stamp).encode())
    except OutputError:
        return False
    return True


def _stamp_path(entry: Path) -> Path:
    return entry.with_name(f"{entry.name}.stamp")


def _remove(entry: Path) -> None:
    with suppress(OSError):
        _stamp_path(entry).unlink()
    shutil.rmtree(entry, ignore_errors=True)


def _replace(
    entry: Path,
    source: Path,
    version: str,
    build: Callable[[Path, Path], None],
    files: Files,
) -> dict[str, Any]:
    """Build in a folder beside, then rename it: what a crash leaves behind is never an entry."""
    for remains in entry.parent.glob(f"{entry.name}.*/"):
        shutil.rmtree(remains, ignore_errors=True)
    _remove(entry)
    parts = files(source)
    if shutil.disk_usage(entry.parent).free < _ROOM * sum(map(_size, parts)):
        raise OSError(f"not enough room in {entry.parent}")
    names = [(path.relative_to(source.parent), path) for path in parts]
    known = [(str(name), status(path), sha256(path)) for name, path in names]
    with temporary_folder(entry.parent) as folder:
        stage = folder / "entry"
        stage.mkdir(0o700)
        build(source, stage)
        for path in stage.iterdir():
            path.chmod(0o600)  # whatever the umask is
            with path.open("rb") as file:
                os.fsync(file.fileno())  # boards lose their power
        written = sorted(stage.iterdir())
        built = {
            "by": _build_key(version),
            "files": [(path.name, _size(path), checksums(path)) for path in written],
            "from": known,
        }
        write_whole(stage / _ENTRY, json.dumps(built).encode())
        (stage / _ENTRY).chmod(0o600)
        stage.rename(entry)
    return built


def _size(path: Path) -> int:
    return path.stat().st_size


def _build_key(version: str) -> list[str]:
    """What an optimized graph depends on, but for the model."""
    return [lcmcore.__version__, _sources_digest(_PACKAGE), version, _cpu()]


@cache
def _sources_digest(package: Path) -> str:
    """SHA-256 of the source files that decide how a graph is optimized; raises OSError.

    A frozen program has no such files: there the package's version alone identifies them.
    """
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in package.glob(pattern)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _cpu() -> str:
    """The architecture, and a digest of the CPU's features: the layout of weights depends on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {hashlib.sha256(features.encode()).hexdigest()[:16]}"
