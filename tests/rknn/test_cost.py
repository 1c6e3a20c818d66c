"""Costs of a network, read from the NPU's program in its .rknn file.

The file is rknn-toolkit2's own (fixtures.group_norm); what is expected of it is counted by hand
from the shapes of its layers. tests/rknn/converter/test_cost.py compares layers with the compiler's
log.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcmcore.cli.main import main
from runtimes.rknn import RknnRuntime
from runtimes.rknn.cost import LayerCost, Prediction, predict, report
from runtimes.rknn.cost.flatbuffer import DamagedError, Table
from runtimes.rknn.cost.program import TASK, Layer, Program
from runtimes.rknn.cost.tasks import task_costs
from tests.rknn import fixtures

NORM = fixtures.read("group_norm")
ELEMENTS = 32 * 8 * 8  # of the network's arrays, of two bytes
BODY = 64


@pytest.fixture
def norm(tmp_path: Path) -> Path:
    path = tmp_path / "model.rknn"
    path.write_bytes(NORM)
    return path


def predicted(path: Path) -> Prediction:
    prediction = predict(path)
    assert prediction is not None
    return prediction


def of_operator(prediction: Prediction, operator: str) -> LayerCost:
    (found,) = (each for each in prediction.layers if each.layer.operator == operator)
    return found


def test_layers_and_their_shapes(norm: Path) -> None:
    layers = [each.layer for each in predicted(norm).layers]
    assert [layer.operator for layer in layers] == [
        "InputOperator", "Conv", "Reshape", "exNorm", "Reshape", "BatchNormalization",
        "OutputOperator",
    ]  # fmt: skip
    conv, norm_layer = layers[1], layers[3]
    assert conv == Layer(
        "Conv", "conv", True, ((1, 32, 8, 8), (32, 32, 3, 3), (32,)), ((1, 32, 8, 8),)
    )
    assert norm_layer.name == "norm#1"
    assert norm_layer.outputs == ((8, 256, 1, 1),)
    assert [layer.on_npu for layer in layers] == [False, True, True, True, True, True, False]


def test_a_convolution_is_counted(norm: Path) -> None:
    conv = of_operator(predicted(norm), "Conv")
    weights = 32 * 32 * 3 * 3
    assert conv.macs == 8 * 8 * weights
    assert conv.bytes == 2 * (ELEMENTS + weights + ELEMENTS)
    assert (conv.tasks, conv.thin_bytes) == (1, 0)
    assert conv.seconds == pytest.approx(max(conv.bytes / 9.5e9, conv.macs / 460.8e9))


def test_what_only_moves_reads_and_writes_each_element(norm: Path) -> None:
    scale = of_operator(predicted(norm), "BatchNormalization")
    assert (scale.bytes, scale.macs, scale.tasks) == (2 * 2 * ELEMENTS, 0, 1)


def test_a_group_norm_is_slow_because_of_its_thin_tasks(norm: Path) -> None:
    prediction = predicted(norm)
    found = of_operator(prediction, "exNorm")
    assert found.kind == "group norm"
    assert found.thin_bytes > 0.9 * found.bytes
    assert found.seconds >= found.thin_bytes / 1.05e9
    assert next(iter(prediction.shares())) == "group norm"


def test_the_sums_are_those_of_the_layers(norm: Path) -> None:
    prediction = predicted(norm)
    for name in ("tasks", "bytes", "thin_bytes", "macs", "seconds"):
        total = sum(getattr(each, name) for each in prediction.layers)
        assert getattr(prediction, name) == pytest.approx(total), name
    assert sum(prediction.shares().values()) == pytest.approx(1)
    assert prediction.on_cpu == 0


def test_registers_keep_their_values_between_tasks() -> None:
    """Two elementwise tasks, of which the second sets the width alone."""
    width, height, channels = 0x500C, 0x5010, 0x5014
    sent = [(width, 15), (height, 7), (channels, 63), (0x4030, 15), (0x4034, 7), (0x403C, 63)]
    words = [0x4001 << 48 | value << 16 | register for register, value in sent]
    words += [0, 0x4001 << 48 | 31 << 16 | width]  # padding between them sets nothing
    tasks = np.zeros(2, TASK)
    tasks["units"], tasks["layer"] = 0x18, (0, 1)
    tasks["words"], tasks["offset"] = (6, 1), (0, 7 * 8)
    program = Program((), tasks, np.array(words, np.uint64))
    costs = task_costs(program)
    volume = 16 * 8 * 64
    assert costs.bytes.tolist() == [2 * 3 * volume, 2 * (2 * 2 * volume + volume)]
    assert costs.is_thin.tolist() == [False, False]


def test_tasks_that_do_not_follow_each_other() -> None:
    tasks = np.zeros(2, TASK)
    tasks["offset"] = (8, 0)
    with pytest.raises(DamagedError, match="do not follow each other"):
        task_costs(Program((), tasks, np.zeros(4, np.uint64)))
    tasks["offset"], tasks["words"] = 0, 5
    with pytest.raises(DamagedError, match="do not follow each other"):
        task_costs(Program((), tasks, np.zeros(4, np.uint64)))


@pytest.mark.parametrize("component", fixtures.COMPONENTS)
def test_a_file_without_a_program_has_no_prediction(tmp_path: Path, component: str) -> None:
    fixtures.write_bundle(tmp_path)
    path = tmp_path / component / "model.rknn"
    assert predict(path) is None
    lines = list(RknnRuntime().describe(path))
    assert lines[-1] == "no prediction: the NPU's program in it is of an unknown form"
    assert RknnRuntime().predict(path) is None
    assert list(RknnRuntime().cost(path)) == []


def test_another_file_version_has_no_prediction(norm: Path) -> None:
    norm.write_bytes(NORM[:8] + (7).to_bytes(8, "little") + NORM[16:])
    assert predict(norm) is None


def test_a_file_that_is_cut_has_no_prediction(norm: Path) -> None:
    for kept in (0, 3, 63, 64, 100, 2000, len(NORM) // 2):
        norm.write_bytes(NORM[:kept])
        assert predict(norm) is None, kept


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_files_give_a_prediction_or_none(tmp_path_factory: Any, data: Any) -> None:
    """Whatever the bytes: no other exception, and no more than a moment."""
    damaged = bytearray(NORM)
    # The tables and the tasks are at the beginning and behind the weights.
    end = BODY + int.from_bytes(NORM[16:24], "little")
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(BODY, end - 4))
        value = data.draw(st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 2**31, 2**16])))
        struct.pack_into("<I", damaged, place, value)
    path = tmp_path_factory.mktemp("damaged") / "model.rknn"
    path.write_bytes(damaged)
    start = time.process_time()
    prediction = predict(path)
    assert time.process_time() - start < 5
    if prediction is not None:
        assert prediction.seconds >= 0
        assert list(report.table(prediction, ["rk3588"]))
        assert report.line(prediction, ["rk3588"])


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 30))
def test_a_table_of_any_bytes(data: bytes, field: int) -> None:
    try:
        table = Table.root(memoryview(data))
        table.byte(field)
        table.text(field)
        table.integers(field)
        list(table.tables(field))
    except DamagedError:
        pass


def test_the_line_of_lcm_info(norm: Path) -> None:
    line = list(RknnRuntime().describe(norm))[-1]
    prediction = predicted(norm)
    assert line == (
        "predicted 0.2 ms on one core of rk3588: 96% group norm, 2% convolution, 1% Reshape"
        f" ({prediction.tasks:,} tasks, 0.00 GB moved, 0.0 GMAC)"
    )


def test_another_platform_has_sums_and_no_seconds(norm: Path) -> None:
    prediction = predicted(norm)
    assert report.line(prediction, ["rk3566", "rk3568"]) == (
        f"no prediction: the speed of rk3566, rk3568 is unknown ({prediction.tasks} tasks,"
        " 0.00 GB moved, 0.0 GMAC)"
    )
    assert "seconds" not in report.figures(prediction, ["rk3566"])
    assert not any("." in line[:12] for line in report.table(prediction, ["rk3566"]))


def test_layers_on_the_cpu_are_named(norm: Path) -> None:
    layer = Layer("Sin", "sine", False, (), ((1, 160),))
    prediction = Prediction((*predicted(norm).layers, LayerCost(layer, 0, 0, 0, 0, 0.0)))
    assert "1 layers on the CPU not counted" in report.line(prediction, ["rk3588"])
    assert list(report.table(prediction, ["rk3588"]))[-1].endswith("Sin sine 1x160, on the CPU")


def test_lcm_info_lists_the_layers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fixtures.write_bundle(tmp_path)
    (tmp_path / "unet" / "model.rknn").write_bytes(NORM)
    assert main(["info", str(tmp_path)]) == 0
    plain = capfd.readouterr().out
    assert main(["info", str(tmp_path), "--cost"]) == 0
    out = capfd.readouterr().out
    assert "predicted 0.2 ms on one core of rk3588: 96% group norm" in plain
    added = [line for line in out.splitlines() if line not in plain.splitlines()]
    assert added[0].split() == ["predicted", "ms", "tasks", "MB", "MMAC", "operator"]
    conv = predicted(tmp_path / "unet" / "model.rknn").layers[1]
    assert added[2].split() == [
        f"{conv.seconds * 1e3:.3f}", "1", "0.03", "0.59", "Conv", "conv", "1x32x8x8",
    ]  # fmt: skip
