"""Optimized graphs, built once and kept on the disk, with weights that are mapped from there.

There is one entry for each path of a model, rebuilt when the model, this package, ONNX Runtime or
the CPU has changed. Whatever goes wrong here, the model is opened without an optimized graph.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import lcmcore
from lcmcore.util.files import sha256
from runtimes.onnx.graph import external_files

try:
    import fcntl
except ImportError:  # Windows: without locks there is no cache
    fcntl = None  # type: ignore[assignment]

GRAPH, WEIGHTS = "model.onnx", "model.weights"
MIN_BYTES = 2**25  # bytes; smaller models open as fast without
_ENTRY = "entry.json"
_PACKAGE = Path(__file__).parent
# What an entry depends on: of this package, these files and what they import of it.
_SOURCES = (
    "graph.py",
    "graph_cache.py",
    "optimize.py",
    "protobuf.py",
    "rewrites/*.py",
    "sampling.py",
)

log = logging.getLogger("lcmcore.runtimes.onnx")


@contextmanager
def optimized(
    source: Path, version: str, build: Callable[[Path, Path], None]
) -> Iterator[Path | None]:
    """The optimized graph of a model, or None; it is locked against replacement while in use.

    `build(source, folder)` writes it if this `version` of ONNX Runtime has no entry yet.
    """
    graph = None
    with ExitStack() as stack:
        try:
            entry = _entry(source)
            if fcntl is not None and (entry.is_dir() or _worth_caching(source)):
                entry.parent.mkdir(parents=True, exist_ok=True)
                lock = os.open(f"{entry}.lock", os.O_RDONLY | os.O_CREAT, 0o600)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_SH)
                if not _is_current(entry, source, version):
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_current(entry, source, version):  # another process may have built it
                    log.info("%s: optimizing the graph, once, into %s", source, entry)
                    _replace(entry, source, version, build)
                graph = entry / GRAPH
                log.info("%s: optimized graph %s", source, graph)
            else:
                log.info(
                    "%s: no optimized graph: the model is small, or files have no locks", source
                )
        except Exception as error:  # the disk's or ONNX Runtime's; opening the model reports more
            log.info("%s: no optimized graph: %s", source, error)
        yield graph


def discard(graph: Path) -> None:
    """Remove the entry of a graph that cannot be opened; it is rebuilt when asked for again."""
    shutil.rmtree(graph.parent, ignore_errors=True)


def state(source: Path, version: str) -> str:
    """A line about the entry of a model, for `lcm info`."""
    try:
        entry = _entry(source)
        if entry.is_dir():
            size = sum(map(_size, entry.iterdir())) / 2**20
            age = "current" if _is_current(entry, source, version) else "outdated"
            return f"optimized graph: {size:.1f} MiB, {age}, {entry}"
        reason = " yet" if _worth_caching(source) else ", the model is small"
        return f"optimized graph: none{reason}"
    except (OSError, RuntimeError) as error:
        return f"optimized graph: none, {error}"


def _entry(source: Path) -> Path:
    own, shared = os.environ.get("LCM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    root = Path(own or f"{shared or '~/.cache'}/lcmcore").expanduser() / "onnx"
    return root / hashlib.sha256(os.fsencode(source.absolute())).hexdigest()[:20]


def _worth_caching(source: Path) -> bool:
    return sum(_size(path) for path in source.parent.iterdir() if path.is_file()) >= MIN_BYTES


def _is_current(entry: Path, source: Path, version: str) -> bool:
    """Whether an entry is complete, built from these files by this software for this CPU."""
    try:
        built = json.loads((entry / _ENTRY).read_text())
        return (
            built["by"] == _build_key(version)
            and all(_size(entry / name) == size for name, size in built["sizes"])
            and all(_is_same(source.parent / name, *known) for name, *known in built["from"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_same(path: Path, status: list[int], digest: str) -> bool:
    """Whether a file is what it was; it is read only where size, time or inode differ."""
    return _status(path) == status or sha256(path) == digest


def _replace(entry: Path, source: Path, version: str, build: Callable[[Path, Path], None]) -> None:
    """Build in a folder beside, then rename it: what a crash leaves behind is never an entry."""
    for remains in (*entry.parent.glob(f"{entry.name}.*/"), entry):
        shutil.rmtree(remains, ignore_errors=True)
    files = external_files(source)
    if shutil.disk_usage(entry.parent).free < 1.1 * sum(map(_size, files)):
        raise OSError(f"not enough room in {entry.parent}")
    names = [(path.relative_to(source.parent), path) for path in files]
    known = [(str(name), _status(path), sha256(path)) for name, path in names]
    with tempfile.TemporaryDirectory(prefix=f"{entry.name}.", dir=entry.parent) as folder:
        stage = Path(folder) / "entry"
        stage.mkdir()
        build(source, stage)
        for path in stage.iterdir():  # boards lose their power
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sizes = [(path.name, _size(path)) for path in stage.iterdir()]
        built = {"by": _build_key(version), "sizes": sizes, "from": known}
        (stage / _ENTRY).write_text(json.dumps(built))
        stage.rename(entry)


def _status(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


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
