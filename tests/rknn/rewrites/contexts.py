"""Networks as a rewrite gets them, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, Node
from runtimes.rknn import shapes
from runtimes.rknn.onnxfile import OnnxFile
from runtimes.rknn.prepare import _shapes
from runtimes.rknn.rewrites.context import Context

MAX_ERROR = 1e-4  # of an exact rewrite, relative to the largest value


# The converter comes with 1.26 (extra rknn-build). 1.17, the oldest that runs networks, cannot fold
# one that has its weights in another file.
folds_external_weights = pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 20),
    reason="this ONNX Runtime is older than any that the converter is used with",
)


def folded(bundle: Path, component: str, size: shapes.Size, folder: Path) -> Path:
    """A network of a bundle at one size, in `folder`."""
    file = OnnxFile.read(component, bundle / component / "model.onnx")
    return file.fold(folder, file.shapes(shapes.input_shapes(component, bundle, size)))


def context(path: Path, component: str = "unet", timesteps: Sequence[int] = (999,)) -> Context:
    """A rewrite's context for an ONNX file; only timesteps can be measured."""

    def measure(nodes: Sequence[Node], names: Sequence[str]) -> Iterator[dict[str, Array]]:
        assert [node.inputs for node in nodes] == [["timestep"]]
        for timestep in timesteps:
            yield dict.fromkeys(names, np.array([timestep]))

    return Context(component, Graph(path), _shapes(path), measure, {})


def rewritten(path: Path, rewrite: Callable[[Context], str], **options: Any) -> tuple[Path, str]:
    """The file that a rewrite makes of one, beside it, and what the rewrite says."""
    given = context(path, **options)
    line = rewrite(given)
    changed = path.with_name(f"{rewrite.__name__}.onnx")
    given.graph.save(changed)
    return changed, line


def run(path: Path, feed: dict[str, Array]) -> Array:
    """The first output."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, feed)[0]
    return found


def feed(path: Path, timestep: int = 499) -> dict[str, Array]:
    """Random inputs of a network with known shapes."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    return {
        value.name: np.array([timestep], np.float32 if "float" in value.type else np.int64)
        if value.name == "timestep"
        else random.standard_normal(value.shape, np.float32)
        for value in session.get_inputs()
    }


def op_types(path: Path) -> list[str]:
    """The operators of a graph, in their order."""
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def relative_error(got: Array, expected: Array) -> float:
    """The largest difference by the largest value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())
