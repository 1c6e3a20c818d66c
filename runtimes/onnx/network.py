"""One ONNX Runtime session as a Network of the core."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.errors import NetworkError, first_line
from lcmcore.runtime import Network, TensorSpec, as_declared, core_spec
from lcmcore.util.arrays import Array
from runtimes.onnx.graph_cache import WEIGHTS, discard
from runtimes.onnx.pages import UNMAP_LOCK, drop_pages

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


class OnnxNetwork(Network):
    """Takes and returns what the core does, whatever shapes and dtypes the exporter declared.

    A timestep that the file declares with rank 0, or one for each batch item, is [1] to the core;
    arrays are cast to what the file declares (float32 to float16, int64 to int32 or float32).
    `graph` is the cache's, if the session is on one: then its weights are mapped from the disk, and
    `plain` opens a session on the model itself, once, if a run fails that may be the cache's fault.
    """

    def __init__(
        self,
        component: str,
        session: Any,
        graph: Path | None = None,
        plain: Callable[[], Any] | None = None,
    ) -> None:
        self._component = component
        self._session: Any = session
        self._graph, self._plain = graph, plain
        self._fallback_lock = threading.Lock()  # `run` may be called concurrently
        self._declared = [_spec(component, node) for node in session.get_inputs()]
        self.inputs = [core_spec(spec) for spec in self._declared]
        self.outputs = [_spec(component, node) for node in session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs, float32; raises NetworkError."""
        session = self._session
        if session is None:
            raise NetworkError(self._component, "the network is closed")
        batch = max(len(array) for array in inputs.values())
        feed = {spec.name: as_declared(spec, inputs[spec.name], batch) for spec in self._declared}
        try:
            outputs = self._run(session, feed)
            failed = self._graph is not None and not _all_finite(outputs)
        except NetworkError:
            if self._graph is None:
                raise
            failed = True
        if failed:
            outputs = self._run_plain(feed)
        names = [spec.name for spec in self.outputs]
        return {
            name: array.astype(np.float32, copy=False)
            for name, array in zip(names, outputs, strict=True)
        }

    def _run(self, session: Any, feed: Mapping[str, Array]) -> list[Array]:
        try:
            outputs: list[Array] = session.run(None, feed)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            message = f"ONNX Runtime failed: {first_line(error)}"
            raise NetworkError(self._component, message) from error
        return outputs

    def _run_plain(self, feed: Mapping[str, Array]) -> list[Array]:
        """Go over to the model itself; the cache's entry is removed unless that fails as well."""
        with self._fallback_lock:
            graph, plain = self._graph, self._plain
            if plain is not None:  # else another thread was first
                session = plain()
                with UNMAP_LOCK:
                    self._session = session
                self._graph = self._plain = None
            session = self._session
        outputs = self._run(session, feed)
        if graph is not None and _all_finite(outputs):
            discard(graph.parent)
        return outputs

    def trim(self) -> None:
        """Drop the pages of mapped weights, until they are used again.

        In a thread: gigabytes take a twentieth of a second, in which the next network can work.
        """
        graph = self._graph
        if graph is not None:
            weights = graph.with_name(WEIGHTS).resolve()
            threading.Thread(target=drop_pages, args=(weights,)).start()

    def close(self) -> None:
        """Drop the session and its weights."""
        with UNMAP_LOCK:
            self._session = None


def _spec(component: str, node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise NetworkError(component, f"{node.name} is of a type not supported: {node.type}")
    shape = tuple(dim if isinstance(dim, int) else None for dim in node.shape)
    return TensorSpec(node.name, shape, _DTYPES[node.type])


def _all_finite(arrays: Iterable[Array]) -> bool:
    return all(np.isfinite(array).all() for array in arrays)
