"""Drives rknn-toolkit2, the converter and simulator, in a process of its own.

It may crash (version 2.5.0 does on some graphs), writes to stdout from C++, and wants versions of
libraries and gigabytes of memory that no caller should share: so its log goes to a file, its
results come through a pipe, and its end, however it comes, is an exception here.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.errors import NetworkError
from lcmcore.util.arrays import Array
from lcmcore.util.closeable import Closeable
from runtimes.rknn.vendorlog import gist, gist_lines

_CHILD = "runtimes.rknn.toolkit_child"
_PATIENCE = 2  # seconds that the child gets to end by itself; a busy one works for nobody


def missing() -> str | None:
    """None if rknn-toolkit2 can be used here, else why not and what to do."""
    if not sys.platform.startswith("linux"):
        return "rknn-toolkit2 runs on Linux only"
    if find_spec("rknn") is None:
        return "rknn-toolkit2 is not installed in this environment: docs/rk3588.md tells how"
    return None


class Toolkit(Closeable):
    """A network in rknn-toolkit2: built once, then exported, run in the simulator, or both.

    Every method raises NetworkError, with the converter's own words if it says any.
    """

    def __init__(self, component: str) -> None:
        self._component = component
        self._folder = tempfile.TemporaryDirectory(prefix="lcm-rknn-")
        self._log = Path(self._folder.name) / "log.txt"
        self._lock = threading.Lock()
        self._pipe, theirs = Pipe()
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _CHILD, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder.name,  # it leaves files where it runs
                pass_fds=[theirs.fileno()],
            )

    def build(
        self,
        model: Path,
        shapes: Mapping[str, Sequence[int]],
        platform: str,
        dataset: Path | None = None,
    ) -> None:
        """Convert an ONNX file at these input shapes; half precision, or by `dataset` int8."""
        path = str(dataset.resolve()) if dataset else None
        self._ask("build", str(model.resolve()), dict(shapes), platform, path)

    def export(self, path: Path) -> None:
        """Write what was built as a .rknn file."""
        self._ask("export", str(path.resolve()))

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run what was built in the simulator: arrays in the model's order, NCHW, float32 out."""
        results: list[Array] = self._ask("run", [np.ascontiguousarray(a) for a in arrays])
        return results

    def close(self) -> None:
        """End the process and remove its files; calling it twice does no harm."""
        self._pipe.close()  # the child's loop ends with its pipe
        try:
            self._process.wait(_PATIENCE if self._process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _ask(self, verb: str, *arguments: Any) -> Any:
        if self._pipe.closed:
            raise NetworkError(self._component, "the network is closed")
        try:
            with self._lock:
                self._pipe.send((verb, arguments))
                outcome, result = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death(verb) from None
        if outcome == "raised":
            raise NetworkError(self._component, f"rknn-toolkit2 failed to {verb}: {gist(result)}")
        if outcome == "refused":
            raise self._failure(f"rknn-toolkit2 refused to {verb}: {result}")
        return result

    def _death(self, verb: str) -> NetworkError:
        code = self._process.wait()
        if code >= 0:
            return self._failure(f"rknn-toolkit2 ended during {verb} with status {code}")
        name = signal.Signals(-code).name
        hint = ", probably for lack of memory" if -code == signal.SIGKILL else ""
        return self._failure(f"rknn-toolkit2 crashed during {verb} ({name}{hint})")

    def _failure(self, what: str) -> NetworkError:
        said = _complaint(self._log.read_text(encoding="utf-8", errors="replace"))
        return NetworkError(self._component, f"{what}; it said: {said}" if said else what)


def _complaint(log: str) -> str:
    """The last line that the converter marked as an error, else its last line."""
    lines = [line for line in gist_lines(log) if "rknn-toolkit2 version" not in line]
    errors = [line for line in lines if line.startswith("E ") or "Error:" in line]
    return (errors or lines or [""])[-1]
