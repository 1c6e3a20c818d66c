"""Upsampling in rows: the same result, with fewer multiplications where that is faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from runtimes.rknn.rewrites.upsample_conv import upsample_conv
from tests.onnx.rewrites.graphs import save_model
from tests.rknn.rewrites.contexts import (
    MAX_ERROR,
    context,
    feed,
    folded,
    folds_external_weights,
    op_types,
    relative_error,
    rewritten,
    run,
)

Shape = tuple[int, int, int, int]
ROWS = ["Resize", "Conv", "Conv", "Concat", "Reshape"]


def upsampling(
    path: Path,
    shape: Shape = (1, 128, 8, 12),
    scales: tuple[int, ...] = (1, 1, 2, 2),
    sizes: bool = False,
    mode: str = "nearest",
    bias: bool = True,
    **conv: Any,
) -> Path:
    """Resize of x, then Conv of 3x3."""
    options = {"kernel_shape": [3, 3], "pads": [1] * 4} | conv
    random = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "weight": random.normal(size=(6, shape[1], 3, 3)).astype(np.float32),
        "bias": random.normal(size=6).astype(np.float32),
        "scales": np.array(scales, np.float32),
    }
    inputs = ["x", "", "scales"]
    if sizes:
        constants["sizes"] = np.array(shape) * scales
        inputs = ["x", "", "", "sizes"]
        del constants["scales"]
    resize = helper.make_node(
        "Resize", inputs, ["enlarged"], mode=mode,
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    node = helper.make_node(
        "Conv", ["enlarged", "weight", "bias"][: 2 + bias], ["y"],
        **{"strides": [1, 1], "dilations": [1, 1], "group": 1} | options,
    )  # fmt: skip
    return Path(save_model(path, [resize, node], {"x": shape}, constants))


@pytest.mark.parametrize("change", [{}, {"sizes": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("shape", [(1, 128, 8, 12), (2, 128, 1, 32), (1, 129, 33, 1)], ids=str)
def test_results_stay_the_same(shape: Shape, change: dict[str, Any], tmp_path: Path) -> None:
    path = upsampling(tmp_path / "model.onnx", shape, **change)
    changed, line = rewritten(path, upsample_conv)
    assert line == "upsampling: 1 convolution of 3x3 as two of 2x3"
    assert op_types(changed) == ROWS
    inputs = feed(path)
    assert relative_error(run(changed, inputs), run(path, inputs)) <= MAX_ERROR


OTHERS = {
    "few pixels": {"shape": (1, 128, 3, 10)},
    "few channels": {"shape": (1, 127, 8, 12)},
    "three times": {"scales": (1, 1, 3, 3)},
    "in width only": {"scales": (1, 1, 1, 2)},
    "linear": {"mode": "linear"},
    "stride": {"strides": [2, 2]},
    "no padding": {"pads": [0] * 4},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_others_stay(change: dict[str, Any], tmp_path: Path) -> None:
    path = upsampling(tmp_path / "model.onnx", **change)
    changed, line = rewritten(path, upsample_conv)
    assert line == ""
    assert op_types(changed) == ["Resize", "Conv"]


@folds_external_weights
@pytest.mark.parametrize("component", ["unet", "vae_decoder"])
def test_networks_stay_the_same(component: str, tmp_path: Path) -> None:
    from lcmcore.bundle import demo_dir

    path = folded(demo_dir(), component, (256, 256), tmp_path)
    changed, line = rewritten(path, upsample_conv, component=component)
    assert line.startswith("upsampling: 1 ")
    inputs = feed(path)
    assert relative_error(run(changed, inputs), run(path, inputs)) <= MAX_ERROR


def test_without_shapes_nothing_is_done(tmp_path: Path) -> None:
    given = context(upsampling(tmp_path / "model.onnx"))
    assert upsample_conv(given._replace(shapes={})) == ""
