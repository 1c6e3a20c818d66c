"""Convolutions by Winograd's algorithm; those that must stay as they are."""

import pytest

from runtimes.onnx.graph import Graph
from runtimes.onnx.rewrites.upsample_conv import upsample_conv
from runtimes.onnx.rewrites.winograd_conv import winograd_conv
from tests.onnx.rewrites.graphs import SIZES, assert_same, convolution, op_types, upsampled


@pytest.mark.host  # minutes of arithmetic under emulation
@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{}, {"bias": False}, {"outs": 544, "ins": 528}, {"outs": 256, "ins": 128},
     {"pads": [2, 0, 0, 2]}, {"outs": 640, "ins": 832}, {"outs": 144, "ins": 3648}],
    ids=str,
)  # fmt: skip
def test_convolutions_are_transformed(change, tmp_path):
    """In 1, 2, 3 and 4 bands; the last two by F(2x2, 3x3)."""
    path = convolution(tmp_path / "model.onnx", **change)
    graph = Graph(path)
    assert winograd_conv(graph) == 1
    outs, ins = change.get("outs", 256), change.get("ins", 256)
    multiplications = 36 if outs * ins <= 2**19 else 16
    assert graph.initializer("y/filters").shape == (1, multiplications, outs, ins)
    graph.save(tmp_path / "changed.onnx")
    shapes = [(batch, ins, *size) for batch, *size in SIZES]
    assert_same(tmp_path / "changed.onnx", path, shapes)


@pytest.mark.parametrize(
    "change",
    [{"strides": [2, 2]}, {"pads": [0] * 4}, {"pads": [2, 1, 1, 1]}, {"dilations": [2, 2]},
     {"group": 2, "outs": 1024, "ins": 512}, {"kernel_shape": [1, 1], "pads": [0] * 4},
     {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1]}, {"outs": 64}, {"ins": 64},
     {"outs": 1280, "ins": 1040}],
    ids=str,
)  # fmt: skip
def test_other_convolutions_stay(change, tmp_path):
    assert winograd_conv(Graph(convolution(tmp_path / "model.onnx", **change))) == 0


@pytest.mark.host  # minutes of arithmetic under emulation
@pytest.mark.slow
@pytest.mark.parametrize(("channels", "tolerance"), [(128, 1e-5), (256, 1e-5), (510, 2e-5)])
def test_convolutions_after_upsampling_are_transformed(channels, tolerance, tmp_path):
    """With the doubling that comes before them."""
    path = upsampled(tmp_path / "model.onnx", channels=channels)
    graph = Graph(path)
    assert winograd_conv(graph) == 1
    graph.save(tmp_path / "changed.onnx")
    assert "Resize" not in op_types(tmp_path / "changed.onnx")
    shapes = [(batch, channels, *size) for batch, *size in SIZES]
    assert_same(tmp_path / "changed.onnx", path, shapes, tolerance)


@pytest.mark.slow
def test_large_weights_after_upsampling_are_folded_alone(tmp_path):
    """Transformed filters would be 11 times as large."""
    graph = Graph(upsampled(tmp_path / "model.onnx", channels=528))
    assert (winograd_conv(graph), upsample_conv(graph)) == (0, 1)
