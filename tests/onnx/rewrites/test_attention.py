"""MultiHeadAttention in place of MatMul, Softmax, MatMul; attention that must stay as it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import lcmcore
from runtimes.onnx.graph import Graph
from runtimes.onnx.rewrites.attention import attention
from runtimes.onnx.rewrites.upsample_conv import upsample_conv
from tests.onnx.rewrites.graphs import assert_same_network, folded, op_types, run, save_model
from tests.parity.bundles import TINY

DEMO = lcmcore.demo_dir()


@pytest.mark.host  # minutes of arithmetic under emulation
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "attentions", "upsamplings"),
    [("lcm/unet", 8, 1), ("sd/unet", 8, 1), ("lcm/vae_encoder", 1, 0), ("lcm/vae_decoder", 1, 3)],
)
def test_exports_of_optimum(network, attentions, upsamplings, tmp_path):
    source = TINY / network / "model.onnx"
    graph = folded(source, tmp_path / "folded.onnx")
    assert attention(graph) == attentions
    assert upsample_conv(graph) == upsamplings
    graph.save(tmp_path / "changed.onnx")
    assert_same_network(tmp_path / "changed.onnx", source)


def test_exports_of_torch_dynamo(tmp_path):
    source = Path(shutil.copytree(DEMO / "unet", tmp_path / "unet")) / "model.onnx"
    assert attention(folded(source, source.with_name("folded.onnx"))) == 22


def test_a_mask_stays(tmp_path):
    source = TINY / "lcm" / "text_encoder" / "model.onnx"
    assert attention(folded(source, tmp_path / "folded.onnx")) == 0


def exported_attention(path, change):
    """Attention over [batch, n, 8] as exporters write it, with one thing changed in its parts."""
    parts = {
        "query": ["query", "shape"], "key": ["key", "shape"], "value": ["value", "shape"],
        "query_perm": [0, 2, 1, 3], "key_perm": [0, 2, 3, 1], "axis": -1,
        "shape": [2, -1, 2, 4], "key_shape": None, "scale": 0.5, "mask": False,
        "also": False, "back": [0, 2, 1, 3],
    } | change  # fmt: skip
    constants = {"shape": np.array(parts["shape"]), "scale": np.float32(parts["scale"])}
    constants["key_shape"] = np.array(parts["key_shape"] or parts["shape"])
    constants["mask"] = np.tril(np.ones((5, 5), np.float32))
    nodes = [
        helper.make_node("Reshape", ["query", "shape"], ["q4"]),
        helper.make_node("Reshape", ["key", "key_shape"], ["k4"]),
        helper.make_node("Reshape", ["value", "shape"], ["v4"]),
        helper.make_node("Transpose", ["q4"], ["q"], perm=parts["query_perm"]),
        helper.make_node("Transpose", ["k4"], ["k"], perm=parts["key_perm"]),
        helper.make_node("Transpose", ["v4"], ["v"], perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Mul", ["scores", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked" if parts["mask"] else "scaled"], ["weights"],
                         axis=parts["axis"]),
        helper.make_node("MatMul", ["weights", "v"], ["attended"]),
        helper.make_node("Transpose", ["attended"], ["output"], perm=parts["back"]),
    ]  # fmt: skip
    nodes = nodes if parts["mask"] else [node for node in nodes if node.output != ["masked"]]
    outputs = ["output", "weights"] if parts["also"] else ["output"]
    inputs = {name: ["b", 5, 8] for name in ("query", "key", "value")}
    return save_model(path, nodes, inputs, constants, outputs)


FUSED = ({}, {"scale": 0.25}, {"shape": [2, 5, 4, 2]})
SIMILAR = {
    "another axis": {"axis": 2},
    "a mask": {"mask": True},
    "keys not transposed": {"key_perm": [0, 2, 1, 3], "shape": [2, 5, 2, 4],
                            "query_perm": [0, 2, 3, 1], "back": [0, 1, 2, 3]},
    "keys of another batch": {"shape": [2, 5, 2, 4], "key_shape": [1, 10, 2, 4]},
    "not transposed back": {"back": [0, 1, 2, 3]},
    "tokens and heads exchanged": {"query_perm": [0, 1, 2, 3], "key_perm": [0, 1, 3, 2]},
}  # fmt: skip


@pytest.mark.parametrize("change", FUSED, ids=str)
def test_attention_is_fused(change, tmp_path):
    path = exported_attention(tmp_path / "model.onnx", change)
    graph = Graph(path)
    assert attention(graph) == 1
    graph.save(tmp_path / "changed.onnx")
    assert op_types(tmp_path / "changed.onnx").count("Softmax") == 0
    random = np.random.default_rng(0)
    shapes = dict.fromkeys(("query", "key", "value"), (2, 5, 8))
    feed = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.testing.assert_allclose(run(tmp_path / "changed.onnx", feed), run(path, feed), atol=1e-6)


@pytest.mark.parametrize("change", SIMILAR.values(), ids=SIMILAR)
def test_other_graphs_of_that_kind_stay(change, tmp_path):
    graph = Graph(exported_attention(tmp_path / "model.onnx", change))
    before = [bytes(node.proto) for node in graph.nodes]
    assert attention(graph) == 0
    assert [bytes(node.proto) for node in graph.nodes] == before
