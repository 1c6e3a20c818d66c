"""Graphs that ONNX Runtime optimized once, kept on the disk with weights that are mapped from it.

A session that opens one has nothing to optimize and holds no copy of the weights. There is one
entry for each path of a model; the entry of a model, ONNX Runtime or CPU that has changed is
replaced. Whatever goes wrong here, the model is opened as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lcmcore.files import sha256
from runtimes.onnx.graph import external_files

try:
    import fcntl
except ImportError:  # Windows: without locks there is no cache
    fcntl = None  # type: ignore[assignment]

GRAPH, WEIGHTS = "model.onnx", "model.weights"
SMALLEST = 2**25  # bytes; what is smaller opens as fast without
_FORMAT = 1  # of the entries, and of the changes that are made to graphs
_ENTRY = "entry.json"
_ROOM = 1.1  # of the model's size must be free

_log = logging.getLogger(__name__)
Builder = Callable[[Path, Path], None]  # from the source to a folder of GRAPH and WEIGHTS


def folder() -> Path:
    """$LCM_CACHE/onnx, else in $XDG_CACHE_HOME/lcmcore, else in ~/.cache/lcmcore."""
    own = os.environ.get("LCM_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or f"{shared}/lcmcore").expanduser() / "onnx"


@contextlib.contextmanager
def optimized(source: Path, version: str, build: Builder) -> Iterator[Path | None]:
    """The optimized graph, built if need be; None if there is none to be had.

    No other process replaces it while the context lasts; afterwards a session keeps its files.
    """
    graph = None
    with contextlib.ExitStack() as stack:
        try:
            entry = _Entry(source, version)
            if entry.path.is_dir() or entry.pays:
                graph = stack.enter_context(entry.locked(build))
        except Exception as error:  # the disk's and ONNX Runtime's: the plain graph tells better
            _log.info("%s: no optimized graph: %s", source, error)
        yield graph


def state(source: Path, version: str) -> str:
    """A line about the entry of a model, for `lcm info`."""
    try:
        entry = _Entry(source, version)
        if not entry.path.is_dir():
            later = "made when it is first used" if entry.pays else "none, the model is small"
            return f"optimized graph: {later}"
        size = sum(path.stat().st_size for path in entry.path.iterdir()) / 2**20
        age = "current" if entry.is_current() else "outdated"
    except (OSError, ValueError, RuntimeError) as error:
        return f"optimized graph: none, {error}"
    return f"optimized graph: {size:.1f} MiB, {age}, {entry.path}"


def discard(graph: Path) -> None:
    """Remove the entry of a graph that cannot be opened; it is built anew the next time."""
    shutil.rmtree(graph.parent, ignore_errors=True)


class _Entry:
    """A folder with the graph, its weights, and what they were made from."""

    def __init__(self, source: Path, version: str) -> None:
        self._source = source.absolute()
        self._made_by = [_FORMAT, version, _cpu()]
        self.path = folder() / hashlib.sha256(os.fsencode(self._source)).hexdigest()[:20]

    @property
    def pays(self) -> bool:
        """Whether the model is large enough."""
        files = (path for path in self._source.parent.iterdir() if path.is_file())
        return fcntl is not None and sum(map(_size, files)) >= SMALLEST

    @contextlib.contextmanager
    def locked(self, build: Builder) -> Iterator[Path]:
        """The graph's path, while nobody else changes the entry."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{self.path}.lock", os.O_RDONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if not self.is_current():
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not self.is_current():  # another process may have been faster
                    self._replace(build)
            yield self.path / GRAPH
        finally:
            os.close(lock)

    def is_current(self) -> bool:
        """Whether the entry is whole and made of these files, by this software, for this CPU."""
        try:
            made = json.loads((self.path / _ENTRY).read_text())
            return (
                made["by"] == self._made_by
                and all(_size(self.path / name) == size for name, size in made["sizes"].items())
                and all(_is_same(self._source.parent / name, *of) for name, of in made["from"])
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def _replace(self, build: Builder) -> None:
        """Build beside, then rename; nothing that a crash leaves behind looks like an entry."""
        for remains in self.path.parent.glob(f"{self.path.name}.*/"):
            shutil.rmtree(remains, ignore_errors=True)
        discard(self.path / GRAPH)
        files = external_files(self._source)
        needed = _ROOM * sum(map(_size, files))
        if shutil.disk_usage(self.path.parent).free < needed:
            raise OSError(f"{needed / 2**30:.1f} GiB are needed in {self.path.parent}")
        known = [(str(path.relative_to(self._source.parent)), _known(path)) for path in files]
        prefix = f"{self.path.name}."
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self.path.parent) as name:
            stage = Path(name) / "entry"
            stage.mkdir()
            build(self._source, stage)
            sizes = {path.name: _on_disk(path) for path in stage.iterdir()}
            entry = {"by": self._made_by, "sizes": sizes, "from": known}
            (stage / _ENTRY).write_text(json.dumps(entry))
            stage.rename(self.path)


def _known(path: Path) -> list[Any]:
    """What tells whether a file is the same: at a glance, and for certain."""
    return [_glance(path), sha256(path)]


def _is_same(path: Path, glance: list[int], digest: str) -> bool:
    return _glance(path) == glance or sha256(path) == digest


def _glance(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _size(path: Path) -> int:
    return path.stat().st_size


def _on_disk(path: Path) -> int:
    """The size of a file that a loss of power does not take any more."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _size(path)


@cache
def _cpu() -> str:
    """What the layout of weights depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = [line for line in lines if line.startswith(("flags", "Features"))]
    return hashlib.sha256("".join(features[:1]).encode()).hexdigest()[:16] + platform.machine()
