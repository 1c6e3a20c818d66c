"""Group normalization by operators that run on all threads; what must stay as it is."""

import numpy as np
import pytest
from onnx import helper

from runtimes.onnx.graph import Graph
from runtimes.onnx.rewrites.group_norm import group_norm
from tests.onnx.rewrites.graphs import (
    assert_same_network,
    folded,
    op_types,
    opened,
    run,
    save_model,
)
from tests.parity.bundles import TINY


def exported_norm(path, **change):
    """Group normalization as exporters write it, with one thing changed in its parts."""
    parts = {
        "split": [0, 4, -1], "ones": [1] * 4, "zeros": [0] * 4, "channels": 8, "axes": 2,
        "of": "x", "of_beta": 8, "opset": 14,
    } | change  # fmt: skip
    random = np.random.default_rng(0)
    ones = [1] * parts["axes"]
    constants = {
        "split": np.array(parts["split"]),
        "ones": np.array(parts["ones"], np.float32),
        "zeros": np.array(parts["zeros"], np.float32),
        "gamma": random.normal(size=(parts["channels"], *ones)).astype(np.float32),
        "beta": random.normal(size=(parts["of_beta"], *ones)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["grouped"]),
        helper.make_node("InstanceNormalization", ["grouped", "ones", "zeros"], ["even"],
                         epsilon=0.25),
        helper.make_node("Shape", [parts["of"]], ["shape"]),
        helper.make_node("Reshape", ["even", "shape"], ["back"]),
        helper.make_node("Mul", ["back", "gamma"], ["scaled"]),
        helper.make_node("Add", ["beta", "scaled"], ["y"]),
    ]  # fmt: skip
    shape = ["b", parts["channels"], *["h", "w"][: parts["axes"]]]
    inputs = dict.fromkeys(sorted({"x", parts["of"]}), shape)
    return save_model(path, nodes, inputs, constants, opset=parts["opset"])


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 3), (24, 16)], ids=str)
@pytest.mark.parametrize("mean", [0, 30])
@pytest.mark.parametrize("opset", [14, 18])
def test_group_norms_are_rewritten(opset, mean, size, tmp_path):
    """With whole pieces of rows or not; exact where deviations are small beside the mean.

    Several images take Mul and Add, one image takes a depthwise Conv.
    """
    path = exported_norm(tmp_path / "model.onnx", opset=opset)
    graph = Graph(path)
    assert group_norm(graph) == 1
    graph.save(tmp_path / "changed.onnx")
    assert "InstanceNormalization" not in op_types(tmp_path / "changed.onnx")
    sessions = opened(tmp_path / "changed.onnx"), opened(path)
    for batch in (1, 2):
        x = np.random.default_rng(1).normal(size=(batch, 8, *size)) + mean
        feed = {"x": x.astype(np.float32)}
        got, expected = (session.run(None, feed)[0] for session in sessions)
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-4 if mean else 2e-6)


def test_a_group_norm_of_one_color(tmp_path):
    """What rounding leaves of its variance does not show."""
    path = exported_norm(tmp_path / "model.onnx")
    graph = Graph(path)
    group_norm(graph)
    graph.save(tmp_path / "changed.onnx")
    feed = {"x": np.full((2, 8, 16, 16), 1234.567, np.float32)}
    got, expected = run(tmp_path / "changed.onnx", feed), run(path, feed)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [{"split": [0, 2, -1], "ones": [1] * 2, "zeros": [0] * 2, "channels": 520, "of_beta": 520},
     {"ones": [1, 1, 1, 2]}, {"zeros": [0, 0, 0, 1]}, {"axes": 1}, {"of_beta": 1}, {"of": "other"},
     {"split": [-1, 4, 32]}],
    ids=str,
)  # fmt: skip
def test_other_normalization_stays(change, tmp_path):
    assert group_norm(Graph(exported_norm(tmp_path / "model.onnx", **change))) == 0


@pytest.mark.host  # minutes of arithmetic under emulation
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "count"),
    [("lcm/unet", 21), ("lcm/vae_encoder", 13), ("lcm/vae_decoder", 21), ("taesd/vae_decoder", 0)],
)
def test_group_norms_of_optimum(network, count, tmp_path):
    source = TINY / network / "model.onnx"
    graph = folded(source, tmp_path / "folded.onnx")
    assert group_norm(graph) == count
    graph.save(tmp_path / "changed.onnx")
    assert_same_network(tmp_path / "changed.onnx", source)
