"""Graphs read from files and written again."""

import numpy as np
import onnx
import pytest

from runtimes.onnx.graph import Graph, Node
from runtimes.onnx.protobuf import ModelProto
from tests.onnx.rewrites.graphs import assert_same, convolution, folded, op_types
from tests.parity.bundles import TINY


def test_a_graph_is_written_as_it_was(tmp_path):
    """But for the order of its fields, which means nothing."""
    path, again = tmp_path / "model.onnx", tmp_path / "again.onnx"
    folded(TINY / "lcm" / "unet" / "model.onnx", path).save(again)
    before, after = onnx.load(path), onnx.load(again)
    assert after.graph == before.graph
    assert sorted(bytes(ModelProto(path.read_bytes()))) == sorted(path.read_bytes())


def test_what_only_a_branch_needs_is_saved(tmp_path):
    """And what nothing needs is not."""
    path = convolution(tmp_path / "model.onnx", outs=4, ins=4)
    graph = Graph(path)
    (conv,) = graph.nodes
    yes = graph.add_initializer("yes", np.array([1]))
    inside = Node.make("Identity", ["conv"], "inside")
    graph.nodes = [
        Node.make("Conv", conv.inputs, "conv", kernel_shape=[3, 3], pads=[1] * 4),
        Node.make("Neg", ["x"], "unneeded"),
        Node.make("Equal", [yes, yes], "is"),
        Node.make("If", ["is"], "y", then_branch=[inside], else_branch=[inside]),
    ]
    graph.save(tmp_path / "changed.onnx")
    assert op_types(tmp_path / "changed.onnx") == ["Conv", "Equal", "If"]
    assert_same(tmp_path / "changed.onnx", path, [(1, 4, 3, 5)])


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 40, b"\x3a\x7f\x00"], ids=["empty", "noise", "cut"]
)
def test_a_file_that_is_no_model(content, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"not a protobuf|only a part|empty"):
        Graph(tmp_path / "model.onnx")
