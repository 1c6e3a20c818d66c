"""Layers that are read from a .rknn file are those of the compiler's own table in its log."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from runtimes.rknn.cost import predict
from runtimes.rknn.toolkit import Toolkit
from tests.rknn import fixtures

# ID, operator, type, target, shapes of inputs and of outputs; then cycles and the name.
ROW = re.compile(r"D RKNN: \[[\d:.]+\] (\d+)\s+(\S+)\s+(\S+)\s+(NPU|CPU)\s+(\S+)\s+(\S+)")


def shapes(text: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, each.split(","))) for each in re.findall(r"\(([\d,]+)\)", text)]


def test_layers_are_those_of_the_compilers_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKNN_LOG_LEVEL", "3")
    model, compiled = tmp_path / "model.onnx", tmp_path / "model.rknn"
    onnx.save_model(fixtures.group_norm(), model)
    with Toolkit("group_norm") as toolkit:
        toolkit.build(model, {"x": (1, 32, 8, 8)}, "rk3588")
        toolkit.export(compiled)
        log = toolkit._log.read_text(errors="replace")
    table = log.rpartition("Network Layer Information Table")[2]
    rows = [found.groups() for found in map(ROW.match, table.splitlines()) if found]
    prediction = predict(compiled)
    assert prediction is not None
    layers = [each.layer for each in prediction.layers]
    assert [row[1] for row in rows] == [layer.operator for layer in layers]
    assert [row[3] == "NPU" for row in rows] == [layer.on_npu for layer in layers]
    for (*_, inputs, outputs), layer in zip(rows, layers, strict=True):
        listed = shapes(inputs)  # of a tensor in two forms, only one
        assert list(layer.inputs[:1]) == listed[:1], layer
        assert set(layer.inputs) == set(listed), layer
        assert list(layer.outputs) == shapes(outputs), layer
