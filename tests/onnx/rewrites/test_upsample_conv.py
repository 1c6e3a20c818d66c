"""Convolutions after upsampling, at the size before; those that must stay as they are."""

import numpy as np
import pytest

from runtimes.onnx.graph import Graph
from runtimes.onnx.rewrites.upsample_conv import upsample_conv
from tests.onnx.rewrites.graphs import run, upsampled


def test_upsampling_is_folded(tmp_path):
    path = upsampled(tmp_path / "model.onnx")
    graph = Graph(path)
    assert upsample_conv(graph) == 1
    graph.save(tmp_path / "changed.onnx")
    feed = {"x": np.random.default_rng(1).normal(size=(2, 4, 5, 3)).astype(np.float32)}
    np.testing.assert_allclose(run(tmp_path / "changed.onnx", feed), run(path, feed), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"scales": (1, 1, 2, 3)}, {"mode": "linear"}, {"rounding": "ceil"}, {"pads": [0] * 4},
     {"strides": [2, 2]}, {"dilations": [2, 2]}],
    ids=str,
)  # fmt: skip
def test_other_upsampling_stays(change, tmp_path):
    assert upsample_conv(Graph(upsampled(tmp_path / "model.onnx", **change))) == 0
