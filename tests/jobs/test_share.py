"""The part of a machine that each of several workers gets."""

import os

import pytest

from lcmcore.jobs.process import WorkerSpec
from runtimes.onnx import OnnxRuntime
from runtimes.rknn import board
from runtimes.rknn.runtime import RknnRuntime


@pytest.mark.parametrize(("count", "threads"), [(1, 8), (2, 4), (3, 2), (9, 1)])
def test_cpu_threads(monkeypatch, count, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert OnnxRuntime().worker_options(0, count) == {"threads": threads}


@pytest.mark.parametrize(
    ("platform", "masks"),
    [("rk3588", ["0", "1", "2", "0"]), ("rk3576", ["0", "1", "0", "1"]), ("rk3566", [None] * 4)],
)
def test_npu_cores(monkeypatch, platform, masks):
    monkeypatch.setattr(board, "platform", lambda: platform)
    shares = [RknnRuntime().worker_options(index, 4) for index in range(4)]
    assert [share.get("core_mask") for share in shares] == masks


def test_a_worker_opens_with_its_options():
    with WorkerSpec().open(1, 2) as worker:
        assert worker.pipeline.networks.inputs("unet")
