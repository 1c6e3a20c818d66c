"""Graphs that ONNX Runtime optimized once, kept on the disk with weights that are mapped from it.

There is one entry for each path of a model; that of a model, ONNX Runtime or CPU that has changed
is replaced. Whatever goes wrong here, the model is opened as it is.
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
from pathlib import Path
from typing import Any

from lcmcore.util.files import sha256
from runtimes.onnx.graph import external_files

try:
    import fcntl
except ImportError:  # Windows: without locks there is no cache
    fcntl = None  # type: ignore[assignment]

GRAPH, WEIGHTS = "model.onnx", "model.weights"
SMALLEST = 2**25  # bytes; what is smaller opens as fast without
_FORMAT = 6  # of the entries, and of the changes that are made to graphs
_ENTRY = "entry.json"

_log = logging.getLogger(__name__)


@contextmanager
def optimized(
    source: Path, version: str, build: Callable[[Path, Path], None]
) -> Iterator[Path | None]:
    """The optimized graph, None if there is none to be had; while in use, nobody replaces it.

    `build` makes it of the source, in a folder, where `version` of ONNX Runtime has none yet.
    """
    graph = None
    with ExitStack() as stack:
        try:
            entry = _entry(source)
            if fcntl is not None and (entry.is_dir() or _pays(source)):
                entry.parent.mkdir(parents=True, exist_ok=True)
                lock = os.open(f"{entry}.lock", os.O_RDONLY | os.O_CREAT, 0o600)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_SH)
                if not _is_current(entry, source, version):
                    fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_current(entry, source, version):  # nor made meanwhile by another
                    _replace(entry, source, version, build)
                graph = entry / GRAPH
        except Exception as error:  # the disk's and ONNX Runtime's: the plain graph tells better
            _log.info("%s: no optimized graph: %s", source, error)
        yield graph


def discard(graph: Path) -> None:
    """Remove the entry of a graph that cannot be opened; it is built anew the next time."""
    shutil.rmtree(graph.parent, ignore_errors=True)


def state(source: Path, version: str) -> str:
    """A line about the entry of a model, for `lcm info`."""
    try:
        entry = _entry(source)
        if entry.is_dir():
            size = sum(map(_size, entry.iterdir())) / 2**20
            age = "current" if _is_current(entry, source, version) else "outdated"
            return f"optimized graph: {size:.1f} MiB, {age}, {entry}"
        return f"optimized graph: none{' yet' if _pays(source) else ', the model is small'}"
    except (OSError, RuntimeError) as error:
        return f"optimized graph: none, {error}"


def _entry(source: Path) -> Path:
    own, shared = os.environ.get("LCM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    root = Path(own or f"{shared or '~/.cache'}/lcmcore").expanduser() / "onnx"
    return root / hashlib.sha256(os.fsencode(source.absolute())).hexdigest()[:20]


def _pays(source: Path) -> bool:
    return sum(_size(path) for path in source.parent.iterdir() if path.is_file()) >= SMALLEST


def _is_current(entry: Path, source: Path, version: str) -> bool:
    """Whether an entry is whole and made of these files, by this software, for this CPU."""
    try:
        made = json.loads((entry / _ENTRY).read_text())
        return (
            made["by"] == _makers(version)
            and all(_size(entry / name) == size for name, size in made["sizes"])
            and all(_is_same(source.parent / name, *known) for name, *known in made["from"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_same(path: Path, glance: list[int], digest: str) -> bool:
    return _glance(path) == glance or sha256(path) == digest


def _replace(entry: Path, source: Path, version: str, build: Callable[[Path, Path], None]) -> None:
    """Build beside, then rename; nothing that a crash leaves behind looks like an entry."""
    for remains in (*entry.parent.glob(f"{entry.name}.*/"), entry):
        shutil.rmtree(remains, ignore_errors=True)
    files = external_files(source)
    if shutil.disk_usage(entry.parent).free < 1.1 * sum(map(_size, files)):
        raise OSError(f"not enough room in {entry.parent}")
    names = [(path.relative_to(source.parent), path) for path in files]
    known = [(str(name), _glance(path), sha256(path)) for name, path in names]
    with tempfile.TemporaryDirectory(prefix=f"{entry.name}.", dir=entry.parent) as folder:
        stage = Path(folder) / "entry"
        stage.mkdir()
        build(source, stage)
        for path in stage.iterdir():  # boards lose their power
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sizes = [(path.name, _size(path)) for path in stage.iterdir()]
        made = {"by": _makers(version), "sizes": sizes, "from": known}
        (stage / _ENTRY).write_text(json.dumps(made))
        stage.rename(entry)


def _glance(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _size(path: Path) -> int:
    return path.stat().st_size


def _makers(version: str) -> list[Any]:
    return [_FORMAT, version, _cpu()]


def _cpu() -> str:
    """What the layout of weights depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {hashlib.sha256(features.encode()).hexdigest()[:16]}"
