"""Opens model.onnx with ONNX Runtime, which is imported only then."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lcmcore.errors import ArgumentError, NetworkError, first_line
from lcmcore.runtime import Network, require_available, require_file
from runtimes.onnx.network import OnnxNetwork

if TYPE_CHECKING:
    import onnxruntime

_DEFAULT_PROVIDERS = ("CPUExecutionProvider",)
_ERRORS_ONLY = 4  # ONNX Runtime's log level: what matters comes as an exception


class OnnxRuntime:
    """ONNX Runtime sessions on the CPU, or on the execution providers that are asked for.

    Options: `threads`, the number of threads inside an operator (default: one a core), and
    `providers`, names of execution providers in order of preference.
    """

    name = "onnx"
    filename = "model.onnx"
    priority = 0
    options = frozenset({"threads", "providers"})

    def available(self) -> str | None:
        """None if onnxruntime is installed."""
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install 'lcmcore[onnx]'"
        return None

    def share(self, index: int, count: int) -> dict[str, int]:
        """An equal part of the CPU's cores for each of `count` workers."""
        return {"threads": max(1, _cpus() // count)}

    def open(self, component: str, folder: Path, options: Mapping[str, Any]) -> Network:
        """A session on folder/model.onnx; raises NetworkError or ArgumentError."""
        require_available(self)
        path = require_file(component, folder, self.filename)
        import onnxruntime

        providers = _providers(options.get("providers"), onnxruntime.get_available_providers())
        settings = _session_options(onnxruntime, options.get("threads"))
        try:
            session = onnxruntime.InferenceSession(path, settings, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise NetworkError(component, f"cannot open {path}: {first_line(error)}") from error
        return OnnxNetwork(component, session)


def _cpus() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _session_options(ort: Any, threads: Any) -> onnxruntime.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        if type(threads) is not int or not 1 <= threads <= 1024:
            raise ArgumentError(f"threads must be from 1 to 1024, not {threads!r}")
        options.intra_op_num_threads = threads
    return options


def _providers(asked: Any, available: Sequence[str]) -> list[str]:
    if asked is None:
        return list(_DEFAULT_PROVIDERS)
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, (list, tuple)) or not names:
        raise ArgumentError(f"providers must be a list of names, not {asked!r}")
    for name in names:
        if name not in available:
            raise ArgumentError(
                f"providers: {name!r} is not in this onnxruntime, which has {', '.join(available)}"
            )
    return list(names)
