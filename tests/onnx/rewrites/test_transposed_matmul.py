"""MatMuls with a large weight as the first factor; those that must stay as they are."""

import numpy as np
import pytest
from onnx import helper

from runtimes.onnx.graph import Graph
from runtimes.onnx.rewrites.transposed_matmul import transposed_matmul
from tests.onnx.rewrites.graphs import assert_same_network, folded, op_types, run, save_model
from tests.parity.bundles import TINY


def two_matmuls(path, shape=(768, 784), first=False, constant=True, axes=("b", "n")):
    """y = x W + tanh(x) W."""
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nodes = [
        helper.make_node("Tanh", ["x"], ["bent"]),
        helper.make_node("MatMul", ["weight", "x"] if first else ["x", "weight"], ["one"]),
        helper.make_node("MatMul", ["weight", "bent"] if first else ["bent", "weight"], ["two"]),
        helper.make_node("Add", ["one", "two"], ["y"]),
    ]
    inputs = {"x": [*axes, 768]} | ({} if constant else {"weight": shape})
    constants = {"weight": weight} if constant else {}
    return save_model(path, nodes, inputs, constants, opset=14)  # optimum's


@pytest.mark.parametrize("size", [(5,), (2, 5), (2, 3, 4)], ids=str)
def test_large_weights_come_first(size, tmp_path):
    path = two_matmuls(tmp_path / "model.onnx", axes=[f"axis{i}" for i in range(len(size))])
    graph = Graph(path)
    assert transposed_matmul(graph) == 2
    graph.save(tmp_path / "changed.onnx")
    added = tmp_path / "model.added"
    assert added.stat().st_size == 768 * 784 * 4  # once, of the weight of both
    feed = {"x": np.random.default_rng(1).normal(size=(*size, 768)).astype(np.float32)}
    got, expected = run(tmp_path / "changed.onnx", feed), run(path, feed)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    folded(tmp_path / "changed.onnx", tmp_path / "all.onnx", "ORT_ENABLE_ALL")
    operators = op_types(tmp_path / "all.onnx")
    assert operators.count("FusedMatMul") == operators.count("Transpose") == 2


@pytest.mark.parametrize(
    "change",
    [{"shape": (768, 760)}, {"shape": (2, 768, 784)}, {"first": True}, {"constant": False}],
    ids=str,
)  # fmt: skip
def test_other_matmuls_stay(change, tmp_path):
    """By a narrow weight, by several, by one that is first already, or is not a constant."""
    assert transposed_matmul(Graph(two_matmuls(tmp_path / "model.onnx", **change))) == 0


@pytest.mark.host  # minutes of arithmetic under emulation
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "count"), [("lcm/text_encoder", 12), ("lcm/unet", 41), ("lcm/vae_decoder", 4)]
)
def test_matmuls_of_optimum(network, count, tmp_path, monkeypatch):
    monkeypatch.setattr("runtimes.onnx.rewrites.transposed_matmul._MIN_WIDTH", 8)
    source = TINY / network / "model.onnx"
    graph = folded(source, tmp_path / "folded.onnx")
    assert transposed_matmul(graph) == count
    graph.save(tmp_path / "changed.onnx")
    assert_same_network(tmp_path / "changed.onnx", source)
