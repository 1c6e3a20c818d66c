"""Runs rknn-toolkit2, the converter and simulator, in a process of its own.

It may crash (version 2.5.0 does on some graphs), writes to stdout from C++, and needs gigabytes of
memory. So its log goes to a file, its results come through a pipe, and a crash is an exception.
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
from runtimes.rknn.vendorlog import informative_lines, summary

PACKAGE = "rknn-toolkit2==2.5.0"  # without its own needs: the extra rknn-build has what it imports
INSTALL = f"pip install 'lcmcore[rknn-build]', then pip install --no-deps {PACKAGE}"
_NEWEST_PYTHON = (3, 12)  # for which it has wheels
_CHILD = "runtimes.rknn.toolkit_child"
_EXIT_TIMEOUT = 2  # seconds; a child that is still busy then is killed


def missing() -> str | None:
    """None if rknn-toolkit2 can be used here, else the reason and the remedy."""
    if not sys.platform.startswith("linux"):
        return "rknn-toolkit2 runs on Linux only"
    if find_spec("rknn") is None and sys.version_info[:2] > _NEWEST_PYTHON:
        newest = ".".join(map(str, _NEWEST_PYTHON))
        return f"rknn-toolkit2 has no wheel for this Python: with Python {newest}, {INSTALL}"
    if find_spec("rknn") is None:
        return f"rknn-toolkit2 is not installed in this environment: {INSTALL}"
    return None


class Toolkit(Closeable):
    """A network in rknn-toolkit2: built once, then exported, run in the simulator, or both.

    Every method raises NetworkError, which quotes the converter's log.
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
                cwd=self._folder.name,  # it writes files to its working directory
                pass_fds=[theirs.fileno()],
            )

    def build(
        self,
        model: Path,
        shapes: Mapping[str, Sequence[int]],
        platform: str,
        dataset: Path | None = None,
        single_core: bool = True,
    ) -> None:
        """Convert an ONNX file at these input shapes to half precision, with `dataset` to int8.

        Unless `single_core`, the file has programs for two and three cores beside that for one,
        and nearly twice the size.
        """
        path = str(dataset.resolve()) if dataset else None
        self._request("build", str(model.resolve()), dict(shapes), platform, path, single_core)

    def export(self, path: Path) -> None:
        """Write the built network as a .rknn file."""
        self._request("export", str(path.resolve()))

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run the built network in the simulator on NCHW arrays in its order; returns float32."""
        results: list[Array] = self._request("run", [np.ascontiguousarray(a) for a in arrays])
        return results

    def close(self) -> None:
        """Stop the process and remove its files; a second call does nothing."""
        self._pipe.close()  # upon which the child exits
        try:
            self._process.wait(_EXIT_TIMEOUT if self._process.poll() is None else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _request(self, verb: str, *arguments: Any) -> Any:
        if self._pipe.closed:
            raise NetworkError(self._component, "the network is closed")
        try:
            with self._lock:
                self._pipe.send((verb, arguments))
                outcome, result = self._pipe.recv()
        except (EOFError, OSError):
            raise self._crash(verb) from None
        if outcome == "raised":
            raise NetworkError(
                self._component, f"rknn-toolkit2 failed to {verb}: {summary(result)}"
            )
        if outcome == "refused":
            raise self._failure(f"rknn-toolkit2 refused to {verb}: {result}")
        return result

    def _crash(self, verb: str) -> NetworkError:
        code = self._process.wait()
        if code >= 0:
            return self._failure(f"rknn-toolkit2 exited during {verb} with status {code}")
        name = signal.Signals(-code).name
        hint = ", probably the OOM killer" if -code == signal.SIGKILL else ""
        return self._failure(f"rknn-toolkit2 crashed during {verb} ({name}{hint})")

    def _failure(self, what: str) -> NetworkError:
        line = _error_line(self._log.read_text(encoding="utf-8", errors="replace"))
        return NetworkError(self._component, f"{what}; its log says: {line}" if line else what)


def _error_line(log: str) -> str:
    """The last line that the converter marked as an error, else the last line."""
    lines = [line for line in informative_lines(log) if "rknn-toolkit2 version" not in line]
    errors = [line for line in lines if line.startswith("E ") or "Error:" in line]
    return (errors or lines or [""])[-1]
