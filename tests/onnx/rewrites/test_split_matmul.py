"""MatMuls split with their weights, as GEGLU projections are; those that must stay whole."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from runtimes.onnx.graph import Graph
from runtimes.onnx.rewrites.split_matmul import split_matmul
from tests.onnx.rewrites.graphs import (
    assert_same,
    assert_same_network,
    folded,
    op_types,
    save_model,
)
from tests.parity.bundles import TINY


def gated(path, first=(0, "half"), second=("half", "all"), axis=-1, used=False, steps=None):
    """y = a tanh(b), a and b sliced from x W + bias, by limits as torch's exporter writes them."""
    random = np.random.default_rng(0)
    constants = {
        "weight": random.normal(size=(24, 12)).astype(np.float32),
        "bias": random.normal(size=12).astype(np.float32),
        **{str(number): np.array([number]) for number in (-1, 0, 1, 2, 3, 6, 12, 2**40)},
        **{text: np.array([float(text)], np.float32) for text in ("0.5", "1.0")},
    }
    node, rest = helper.make_node, [str(axis)] + ([str(steps)] if steps else [])
    nodes = [
        node("MatMul", ["x", "weight"], ["unbiased"]),
        node("Add", ["bias", "unbiased"], ["biased"]),
        node("Shape", ["biased"], ["shape"]),
        node("Gather", ["shape", "-1"], ["width"], axis=0),
        node("Add", ["width", "1"], ["more"]),
        node("Div", ["more", "2"], ["half"]),
        node("Mul", ["half", "2"], ["all"]),
        node("Slice", ["shape", "2", "3", "0"], ["by Slice"]),
        node("Cast", ["width"], ["float"], to=TensorProto.FLOAT),
        node("Mul", ["float", "0.5"], ["float half"]),
        node("Cast", ["float half"], ["by floats"], to=TensorProto.INT64),
        node("Slice", ["biased", *map(str, first), *rest], ["a"]),
        node("Slice", ["biased", *map(str, second), *rest], ["b"]),
        node("Tanh", ["b"], ["bent"]),
        node("Mul", ["a", "bent"], ["gated"]),
        node("Add", ["gated", "biased" if used else "1.0"], ["y"]),
    ]
    return save_model(path, nodes, {"x": ["b", "n", 24]}, constants, opset=14)  # optimum's


@pytest.mark.parametrize(
    "change",
    [{}, {"steps": 1}, {"first": (0, 6), "second": (6, 2**40)}, {"first": (6, 12)},
     {"first": (0, 3), "second": (3, 6)}],
    ids=str,
)  # fmt: skip
def test_weights_are_split_and_not_results(change, tmp_path):
    path = gated(tmp_path / "model.onnx", **change)
    graph = Graph(path)
    assert split_matmul(graph) == 2
    graph.save(tmp_path / "changed.onnx")
    nodes = op_types(tmp_path / "changed.onnx")
    assert (nodes.count("MatMul"), "Slice" in nodes, "Shape" in nodes) == (2, False, False)
    assert_same(tmp_path / "changed.onnx", path, [(1, 5, 24), (2, 3, 24)], 1e-6)


@pytest.mark.parametrize(
    "change",
    [{"axis": 1, "second": (0, 6)}, {"steps": 2}, {"first": (-1, 12), "second": (0, 1)},
     {"first": (2, 2), "second": (3, 3)}, {"first": (12, 2**40), "second": (12, 2**40)},
     {"first": (0, 6), "second": ("by floats", "width")},
     {"first": (0, 12), "second": (0, "by Slice")}],
    ids=str,
)  # fmt: skip
def test_other_matmuls_stay_whole(change, tmp_path):
    """Along another axis, in steps, counted from the end, empty, by limits that are not known."""
    assert split_matmul(Graph(gated(tmp_path / "model.onnx", **change))) == 0


def test_a_matmul_that_is_needed_whole_stays_whole(tmp_path):
    assert split_matmul(Graph(gated(tmp_path / "model.onnx", used=True))) == 0


def test_geglu_of_optimum(tmp_path):
    source = TINY / "lcm" / "unet" / "model.onnx"
    graph = folded(source, tmp_path / "folded.onnx")
    assert split_matmul(graph) == 8  # two for each of four
    graph.save(tmp_path / "changed.onnx")
    assert_same_network(tmp_path / "changed.onnx", source)
