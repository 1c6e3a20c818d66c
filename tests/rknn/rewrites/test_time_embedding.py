"""Timesteps whose sines are looked up, beside those that are computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lcmcore.bundle import demo_dir
from runtimes.rknn.rewrites.time_embedding import time_embedding
from tests.parity.bundles import TINY
from tests.rknn.rewrites.contexts import (
    MAX_ERROR,
    feed,
    folded,
    folds_external_weights,
    op_types,
    relative_error,
    rewritten,
    run,
)

EXPORTS = {
    "torch dynamo": (demo_dir(), (64, 64)),
    "optimum": (TINY / "lcm", (48, 32)),
    "optimum, no guidance embedding": (TINY / "sd", (48, 32)),
}


@folds_external_weights
@pytest.mark.parametrize("export", EXPORTS)
def test_networks_stay_the_same_at_all_timesteps(export: str, tmp_path: Path) -> None:
    bundle, size = EXPORTS[export]
    path = folded(bundle, "unet", size, tmp_path)
    changed, line = rewritten(path, time_embedding)
    assert line == "sines of the timestep: a table of 1000 rows"
    assert not {"Sin", "Cos", "Cast"} & set(op_types(changed))
    for timestep in (0, 1, 259, 999):
        inputs = feed(path, timestep)
        assert relative_error(run(changed, inputs), run(path, inputs)) <= MAX_ERROR


@folds_external_weights
def test_the_table_is_the_embedding_of_diffusers(tmp_path: Path) -> None:
    path = folded(demo_dir(), "unet", (64, 64), tmp_path)
    changed, _ = rewritten(path, time_embedding)
    model = onnx.load(changed)
    gather = next(node for node in model.graph.node if node.op_type == "Gather")
    assert list(gather.input)[1] == "timestep"
    (table,) = (
        numpy_helper.to_array(each)
        for each in model.graph.initializer
        if each.name == gather.input[0]
    )
    # diffusers' Timesteps(80, flip_sin_to_cos=True, downscale_freq_shift=0), in float64
    angles = np.arange(1000)[:, None] * np.exp(-np.log(10000) * np.arange(40) / 40)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(table, expected, atol=1e-4)


def sines(
    path: Path, kind: int = TensorProto.INT64, source: str = "timestep", also: bool = False
) -> Path:
    """y = the sine and cosine of `source` times 0.5 and 1.5."""
    nodes = [
        helper.make_node("Cast", [source], ["t"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["t", "frequencies"], ["angles"]),
        helper.make_node("Sin", ["angles"], ["sin"]),
        helper.make_node("Cos", ["angles"], ["cos"]),
        helper.make_node("Concat", ["sin", "cos"], ["embedding"], axis=1),
        helper.make_node("Add", ["embedding", "sample"], ["y0"]),
        helper.make_node("Add", ["y0", "angles" if also else "y0"], ["y"]),
    ]
    frequencies = numpy_helper.from_array(np.float32([[0.5, 1.5]]), "frequencies")
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("timestep", kind, [1]),
            helper.make_tensor_value_info("sample", TensorProto.FLOAT, [1, 2 if also else 4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2 if also else 4])],
        [frequencies],
    )
    if also:
        del graph.node[3], graph.node[3]
        graph.node[3].input[0] = "sin"
    imports = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=imports), path)
    return path


def test_a_timestep_in_float32_becomes_a_row_number(tmp_path: Path) -> None:
    path = sines(tmp_path / "model.onnx", TensorProto.FLOAT)
    changed, _ = rewritten(path, time_embedding)
    assert op_types(changed) == ["Cast", "Gather", "Add", "Add"]
    inputs = {"timestep": np.float32([999]), "sample": np.zeros((1, 4), np.float32)}
    assert relative_error(run(changed, inputs), run(path, inputs)) <= MAX_ERROR


def test_a_longer_schedule_has_more_rows(tmp_path: Path) -> None:
    path = sines(tmp_path / "model.onnx")
    changed, line = rewritten(path, time_embedding, timesteps=(1999, 19))
    assert line.endswith("a table of 2000 rows")
    inputs = {"timestep": np.array([1999]), "sample": np.zeros((1, 4), np.float32)}
    assert relative_error(run(changed, inputs), run(path, inputs)) <= MAX_ERROR


@pytest.mark.parametrize("change", [{"source": "sample"}, {"also": True}], ids=str)
def test_other_sines_stay(change: dict[str, object], tmp_path: Path) -> None:
    path = sines(tmp_path / "model.onnx", **change)  # type: ignore[arg-type]
    changed, line = rewritten(path, time_embedding)
    assert line == ""
    assert op_types(changed) == op_types(path)


@pytest.mark.parametrize("component", ["text_encoder", "vae_encoder", "vae_decoder"])
def test_networks_without_a_timestep_stay(component: str, tmp_path: Path) -> None:
    path = folded(TINY / "lcm", component, (48, 32), tmp_path)
    changed, line = rewritten(path, time_embedding, component=component)
    assert line == ""
    assert op_types(changed) == op_types(path)


def test_a_network_of_float16_stays(tmp_path: Path) -> None:
    path = sines(tmp_path / "model.onnx")
    model = onnx.load(path)
    half = helper.make_node("Cast", ["embedding"], ["half"], to=TensorProto.FLOAT16)
    model.graph.node.insert(5, half)
    model.graph.node[6].input[0] = "half"
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    changed, line = rewritten(path, time_embedding)
    assert line == ""
    assert op_types(changed) == op_types(path)
