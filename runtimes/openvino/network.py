"""One compiled model of OpenVINO as a Network of the core."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.errors import NetworkError
from lcmcore.runtime import Network, TensorSpec, as_declared, core_spec
from lcmcore.util.arrays import Array
from lcmcore.util.memory import return_freed
from runtimes.onnx.pages import UNMAP_LOCK, drop_pages
from runtimes.openvino.package import reason_of

_DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "f64": "float64",
    "i64": "int64",
    "i32": "int32",
}
# A port keeps the names of all tensors that OpenVINO has found to be the same.
_NAMES = (
    *("input_ids", "sample", "timestep", "encoder_hidden_states", "timestep_cond"),
    *("latent_sample", "last_hidden_state", "out_sample", "latent_parameters"),
)


class OpenVINONetwork(Network):
    """Takes and returns what the core does, whatever shapes and dtypes the exporter declared.

    Runs of several threads follow each other: they share one request, which holds the memory that a
    run needs. `blob` is the cache's file, if the model came from there: it is mapped.
    """

    def __init__(self, component: str, compiled: Any, blob: Path | None = None) -> None:
        self._component = component
        self._compiled: Any = compiled
        self._blob = blob
        self._lock = threading.Lock()
        self._declared, self.outputs = declared(component, compiled)
        self.inputs = [core_spec(spec) for spec in self._declared]
        self._request: Any = compiled.create_infer_request()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs, float32; raises NetworkError."""
        batch = max(len(array) for array in inputs.values())
        feed = [as_declared(spec, inputs[spec.name], batch) for spec in self._declared]
        with self._lock:
            if self._request is None:
                raise NetworkError(self._component, "the network is closed")
            try:
                results = self._request.infer(feed, share_inputs=True, share_outputs=True)
                # Copies: the next run overwrites what the request has returned.
                outputs = [np.array(results[port], np.float32) for port in range(len(self.outputs))]
            except Exception as error:  # OpenVINO raises RuntimeError and more
                message = f"OpenVINO failed: {reason_of(error)}"
                raise NetworkError(self._component, message) from error
        return {spec.name: array for spec, array in zip(self.outputs, outputs, strict=True)}

    def trim(self) -> None:
        """Give back what was freed, and the pages of the mapped file: OpenVINO has its own.

        The latter in a thread.
        """
        return_freed()
        if self._blob is not None:
            threading.Thread(target=drop_pages, args=(self._blob.resolve(),)).start()

    def close(self) -> None:
        """Drop the compiled model, its weights and its request."""
        with self._lock, UNMAP_LOCK:
            self._request = self._compiled = None


def declared(component: str, model: Any) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The inputs and outputs of a model, compiled or not; raises NetworkError."""
    inputs = [_spec(component, port, "input") for port in model.inputs]
    return inputs, [_spec(component, port, "output") for port in model.outputs]


def _spec(component: str, port: Any, what: str) -> TensorSpec:
    kind = port.element_type.get_type_name()
    known = [name for name in _NAMES if name in port.names]
    name = known[0] if known else min(port.names, default=f"{what}{port.index}")
    if kind not in _DTYPES:
        raise NetworkError(component, f"{name} is of a type not supported: {kind}")
    shape = tuple(None if dim.is_dynamic else dim.get_length() for dim in port.partial_shape)
    return TensorSpec(name, shape, _DTYPES[kind])
