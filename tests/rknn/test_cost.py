"""Costs of a network, read from the NPU's program in its .rknn file.

The file is rknn-toolkit2's own (fixtures.group_norm); what is expected of it is counted by hand
from the shapes of its layers. tests/rknn/converter/test_cost.py compares layers with the compiler's
log.
"""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcmcore.cli.main import main
from runtimes.rknn import RknnRuntime
from runtimes.rknn.cost import LayerCost, Prediction, predict, predict_all, report
from runtimes.rknn.cost.flatbuffer import DamagedError, Table
from runtimes.rknn.cost.program import TASK, Layer
from runtimes.rknn.cost.tasks import task_costs
from tests.rknn import fixtures, programs

NORM = fixtures.read("group_norm")
ELEMENTS = 32 * 8 * 8  # of the network's arrays, of two bytes
BODY = 64


@pytest.fixture
def norm(tmp_path: Path) -> Path:
    path = tmp_path / "model.rknn"
    path.write_bytes(NORM)
    return path


def predicted(path: Path, cores: int = 1) -> Prediction:
    prediction = predict(path, cores)
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


@pytest.mark.parametrize(
    ("cores", "tasks"), [(1, [1, 1, 120, 1, 1]), (2, [4, 1, 122, 1, 1]), (3, [6, 1, 120, 1, 1])]
)
def test_programs_of_several_cores_are_one_layer_shared(
    norm: Path, cores: int, tasks: list[int]
) -> None:
    """Each core computes a part of the channels of the convolution; the rest is not shared out."""
    alone, prediction = predicted(norm), predicted(norm, cores)
    assert prediction.cores == cores
    layers = prediction.layers[1:-1]  # without input and output
    assert [each.tasks for each in layers] == tasks
    assert [each.layer for each in layers] == [each.layer for each in alone.layers[1:-1]]
    conv, whole = layers[0], of_operator(alone, "Conv")
    assert conv.macs == whole.macs
    weights = 2 * 32 * 32 * 3 * 3
    assert conv.bytes - conv.thin_bytes >= weights + 2 * ELEMENTS


def test_two_cores_halve_a_group_norm_and_three_do_not(norm: Path) -> None:
    """The compiler's program for three cores leaves norms to the first of them."""
    one, two, three = (of_operator(predicted(norm, cores), "exNorm").seconds for cores in (1, 2, 3))
    assert two < 0.6 * one
    assert three == pytest.approx(one)


def test_a_file_of_one_core_has_no_programs_for_more(tmp_path: Path) -> None:
    path = tmp_path / "model.rknn"
    path.write_bytes(programs.shared())
    assert list(predict_all(path)) == [1]
    assert predict(path, 2) is None


def test_a_core_without_tasks_waits_for_the_other(tmp_path: Path) -> None:
    path = tmp_path / "model.rknn"
    path.write_bytes(programs.shared(tasks=5, second=2))
    assert [each.tasks for each in predict_all(path).values()] == [3, 2]


def elementwise_tasks(*words: tuple[int, int]) -> Any:
    """Elementwise tasks with the place of their words and how many these are."""
    tasks = np.zeros(len(words), TASK)
    tasks["units"], tasks["layer"] = 0x18, range(len(words))
    tasks["offset"] = [8 * first for first, _ in words]
    tasks["words"] = [count for _, count in words]
    return tasks


WIDTH, HEIGHT, CHANNELS = 0x500C, 0x5010, 0x5014
SENT = [(WIDTH, 15), (HEIGHT, 7), (CHANNELS, 63), (0x4030, 15), (0x4034, 7), (0x403C, 63)]
VOLUME = 16 * 8 * 64  # of what these registers describe


def words(*sent: tuple[int, int]) -> list[int]:
    return [0x4001 << 48 | value << 16 | register for register, value in sent]


def test_registers_keep_their_values_between_tasks() -> None:
    """Of two elementwise tasks, the second sets the width alone."""
    sent = [*words(*SENT), 0, *words((WIDTH, 31))]  # padding sets nothing
    costs = task_costs(elementwise_tasks((0, 6), (7, 1)), np.array(sent, np.uint64))
    assert costs.bytes.tolist() == [2 * 3 * VOLUME, 2 * (2 * 2 * VOLUME + VOLUME)]
    assert costs.is_thin.tolist() == [False, False]


def test_registers_follow_the_order_of_the_tasks_and_not_of_the_words() -> None:
    """Programs of several cores send words of each other."""
    sent = [*words((WIDTH, 31)), *words(*SENT)]
    costs = task_costs(elementwise_tasks((1, 6), (0, 1)), np.array(sent, np.uint64))
    assert costs.bytes.tolist() == [2 * 3 * VOLUME, 2 * (2 * 2 * VOLUME + VOLUME)]


def test_registers_are_kept_from_piece_to_piece() -> None:
    """Words are looked at for some thousands of tasks together."""
    tasks = elementwise_tasks((0, 6), *[(0, 0)] * 5000)
    costs = task_costs(tasks, np.array(words(*SENT), np.uint64))
    assert set(costs.bytes.tolist()) == {2 * 3 * VOLUME}


def test_words_that_are_not_there() -> None:
    for first, count in ((4, 1), (0, 5), (2**60, 0)):
        with pytest.raises(DamagedError, match="not there"):
            task_costs(elementwise_tasks((first, count)), np.zeros(4, np.uint64))


@pytest.mark.parametrize("lengths", [[4096] * 4097, [4097]])
def test_more_words_than_a_program_has(lengths: list[int]) -> None:
    tasks = elementwise_tasks(*[(0, length) for length in lengths])
    with pytest.raises(DamagedError, match=f"send {sum(lengths)} words"):
        task_costs(tasks, np.zeros(5000, np.uint64))


@pytest.mark.parametrize("component", fixtures.COMPONENTS)
def test_a_file_without_a_program_has_no_prediction(tmp_path: Path, component: str) -> None:
    fixtures.write_bundle(tmp_path)
    path = tmp_path / component / "model.rknn"
    assert predict(path) is None
    lines = list(RknnRuntime().describe(path))
    assert lines[-1] == "no prediction: the NPU's program in it is of an unknown form"
    assert not any("predicted" in line for line in lines)
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
    """Whatever the bytes: no other exception, no warning, and no more than a moment."""
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
    found = predict_all(path)
    assert time.process_time() - start < 5
    assert list(report.lines(found, ["rk3588"]))
    if 1 in found:
        assert found[1].seconds >= 0
        assert list(report.table(found[1]))
        assert json.loads(json.dumps(report.figures(found)))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_damaged_tasks_and_registers_give_a_prediction(tmp_path_factory: Any, data: Any) -> None:
    """Any values where the numbers of the layers and tasks are left as they are."""
    damaged = bytearray(NORM)
    body = memoryview(NORM)[BODY : BODY + int.from_bytes(NORM[16:24], "little")]
    words_, _ = (table.span(0) for table in Table.root(body).tables(20, last=2))
    for _ in range(data.draw(st.integers(1, 30))):
        place = BODY + words_.start + 8 * data.draw(st.integers(0, words_.length // 8 - 1))
        struct.pack_into("<I", damaged, place + 2, data.draw(st.integers(0, 2**32 - 1)))
    path = tmp_path_factory.mktemp("damaged") / "model.rknn"
    path.write_bytes(damaged)
    found = predict_all(path)
    assert list(found) == [1, 2, 3]
    for each in found.values():
        assert 0 <= each.seconds < float("inf")
        assert each.bytes >= 0


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize(
    "counts",
    [
        {"layers": 5_000, "sides": 5_000},
        {"layers": 5_000, "text": 100_000},
        {"layers": 5_000, "sides": 100_000, "rank": 100_000},
        {"layers": 1_000_000},
        {"tasks": 30_000, "words": 100_000},
        {"tasks": 1_000_000, "words": 1},
        {"tasks": 3_000_000, "words": 0},
    ],
)
def test_small_files_that_announce_much_take_little(
    tmp_path: Path, counts: dict[str, int], memory: bool
) -> None:
    """Vectors of a FlatBuffer, and the words of tasks, can all be the same bytes."""
    path = tmp_path / "model.rknn"
    path.write_bytes(programs.shared(**counts))
    if not memory:
        start = time.process_time()
        predict_all(path)
        assert time.process_time() - start < 5
        return
    tracemalloc.start()  # which makes it slow
    try:
        predict_all(path)
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


def test_the_largest_program_that_is_read(tmp_path: Path) -> None:
    """As many layers as it may have, each of them with a task."""
    path = tmp_path / "model.rknn"
    path.write_bytes(programs.shared(layers=16_384))
    assert len(predicted(path).layers) == 16_384
    path.write_bytes(programs.shared(layers=16_385))
    assert predict(path) is None


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


def test_the_lines_of_lcm_info(norm: Path) -> None:
    prediction = predicted(norm)
    lines = list(RknnRuntime().describe(norm))[-2:]
    assert lines == [
        "predicted 0.2 ms on one core of rk3588: 96% group norm, 2% convolution, 1% Reshape"
        f" ({prediction.tasks:,} tasks, 0.00 GB moved, 0.0 GMAC)",
        "predicted 0.1 ms on 2 cores and 0.2 ms on 3 cores, if these do not wait for the memory",
    ]


def test_a_program_of_one_core_has_one_line(norm: Path) -> None:
    (line,) = report.lines({1: predicted(norm)}, ["rk3588"])
    assert line.startswith("predicted 0.2 ms on one core")


def test_several_cores_that_gain_nothing_are_said_to(norm: Path) -> None:
    one = predicted(norm)
    (_, line) = report.lines({1: one, 2: one}, ["rk3588"])
    assert line.endswith(" on 2 cores, if these do not wait for the memory: one core does as well")


def test_programs_of_other_platforms_are_not_understood(tmp_path: Path) -> None:
    """Their registers are others: read as those of rk3588, a convolution would move nothing."""
    path = tmp_path / "model.rknn"
    path.write_bytes(fixtures.read("group_norm_rk3566"))
    assert predict_all(path) == {}
    assert list(RknnRuntime().describe(path))[-1] == (
        "no prediction: the NPU's program in it is for rk3566, only rk3588 is known"
    )
    assert RknnRuntime().predict(path) is None
    assert list(RknnRuntime().cost(path)) == []


def test_layers_on_the_cpu_are_named(norm: Path) -> None:
    layer = Layer("Sin", "sine", False, (), ((1, 160),))
    prediction = Prediction(1, (*predicted(norm).layers, LayerCost(layer, 0, 0, 0, 0, 0.0)))
    (line,) = report.lines({1: prediction}, ["rk3588"])
    assert "1 layers on the CPU not counted" in line
    assert list(report.table(prediction))[-1].endswith("Sin sine 1x160, on the CPU")


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
