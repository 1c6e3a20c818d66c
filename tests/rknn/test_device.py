"""The NPU's device node: found by sysfs, and why it does not open."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtimes.rknn import device
from tests.rknn.conftest import Npu

GROUPS = "sudo usermod -aG render,video $USER, then log in again; or run as root"
PASS = "in a container: docker run --device /dev/dri"
DMESG = "see dmesg | grep -i rknpu"


def refuse(monkeypatch: pytest.MonkeyPatch, node: Path, number: int) -> list[int]:
    """Let the kernel answer with this error; the list is the flags of each attempt."""
    attempts: list[int] = []

    def refused(path: Any, flags: int, *more: Any) -> int:
        if Path(path) != node:
            return int(real(path, flags, *more))
        attempts.append(flags)
        raise OSError(number, os.strerror(number))

    real = os.open
    monkeypatch.setattr(os, "open", refused)
    return attempts


def test_the_node_is_that_of_the_driver(npu: Npu) -> None:
    assert device.nodes() == [npu.node]
    assert device.fault() is None
    assert device.is_there()


def test_nodes_are_opened_for_reading_and_writing_and_closed(
    npu: Npu, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = refuse(monkeypatch, npu.node, errno.EACCES)
    device.fault()
    assert attempts == [os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC]
    monkeypatch.undo()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        device.fault(npu.dev, npu.sys)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    ("number", "words", "remedy"),
    [
        (errno.EACCES, "Permission denied", GROUPS),
        (errno.EPERM, "Operation not permitted", PASS),
        (errno.ENXIO, "No such device or address", DMESG),
    ],
)
def test_a_node_that_does_not_open(
    npu: Npu, monkeypatch: pytest.MonkeyPatch, number: int, words: str, remedy: str
) -> None:
    refuse(monkeypatch, npu.node, number)
    what = f"the NPU's device node {npu.node} cannot be opened: {words}"
    assert device.fault() == (what, remedy)


def test_a_node_that_the_container_was_not_given(npu: Npu) -> None:
    """/sys is the host's in a container, /dev its own; the GPU's node is no help."""
    npu.node.unlink()
    assert device.fault() == (f"the NPU's device node {npu.node} is missing", PASS)
    assert device.is_there()


def test_one_node_that_opens_is_enough(npu: Npu) -> None:
    folder = npu.sys / "class" / "drm" / "renderD129"
    shutil.copytree(folder, folder.with_name("renderD130"))
    (npu.dev / "dri" / "renderD130").write_bytes(b"")
    npu.node.unlink()
    assert device.fault() is None
    (npu.dev / "dri" / "renderD130").unlink()
    assert device.fault() == (f"the NPU's device node {npu.node} is missing", PASS)


def test_a_kernel_without_the_driver(npu: Npu) -> None:
    """The GPU's render node is there, and mainline's rocket is no DRM driver of this name."""
    (npu.sys / "class" / "drm" / "renderD129" / "device" / "uevent").write_text("DRIVER=rocket\n")
    assert device.nodes() == []
    assert not device.is_there()
    what, remedy = device.fault() or ("", "")
    assert what == "no NPU driver: sysfs has no device of the driver RKNPU"
    assert remedy == (
        "boot a kernel of Rockchip's (5.10, 6.1) with the driver rknpu;"
        " mainline's rocket is another"
    )


def test_a_driver_without_a_device(npu: Npu) -> None:
    """The device tree has the NPU disabled, as for an RK3582."""
    shutil.rmtree(npu.sys / "class" / "drm" / "renderD129")
    (npu.sys / "module" / "rknpu").mkdir(parents=True)
    assert device.fault() == ("the driver rknpu is loaded, but has no device", DMESG)


def test_a_uevent_that_cannot_be_read_is_passed_over(npu: Npu) -> None:
    (npu.sys / "class" / "drm" / "renderD127" / "device" / "uevent").mkdir(parents=True)
    assert device.nodes() == [npu.node]


def test_the_older_node(npu: Npu) -> None:
    shutil.rmtree(npu.sys / "class" / "drm" / "renderD129")
    (npu.dev / "rknpu").write_bytes(b"")
    assert device.nodes() == [npu.dev / "rknpu"]
    assert device.fault() is None
    assert not device.is_there()
    (npu.dev / "rknpu").unlink()
    (npu.sys / "class" / "misc" / "rknpu").mkdir(parents=True)
    assert device.is_there()
    assert device.fault() == (
        f"the NPU's device node {npu.dev / 'rknpu'} is missing",
        "in a container: docker run --device /dev/rknpu --device /dev/dma_heap",
    )


def test_a_stray_file_is_not_the_node_where_sysfs_names_one(npu: Npu) -> None:
    (npu.dev / "rknpu").write_bytes(b"")
    assert device.nodes() == [npu.node]


def test_without_sysfs_any_render_node_may_be_it(npu: Npu) -> None:
    shutil.rmtree(npu.sys)
    assert device.nodes() == [npu.dev / "dri" / "renderD128", npu.node]
    assert device.fault() is None
    shutil.rmtree(npu.dev)
    what, remedy = device.fault() or ("", "")
    assert what == "no device node of the NPU, neither /dev/dri/renderD* nor /dev/rknpu"
    assert remedy.startswith(f"{PASS}; else boot a kernel of Rockchip's")


@pytest.mark.parametrize(
    "reason",
    [
        "E RKNN: [20:08:59.051] failed to open rknpu module, need to insmod rknpu dirver!",
        "E RKNN: [20:08:59.051] failed to open rknn device!",
        "Exception: RKNN init failed. error code: RKNN_ERR_FAIL",
        "Exception: RKNN init failed. error code: RKNN_ERR_DEVICE_UNAVAILABLE",
    ],
)
def test_reasons_get_the_remedy(npu: Npu, reason: str) -> None:
    npu.node.unlink()
    assert device.hint(reason) == f"; the NPU's device node {npu.node} is missing: {PASS}"


def test_a_hint_where_the_node_opens(npu: Npu) -> None:
    assert device.hint("RKNN_ERR_FAIL") == ""
    opened = device.hint("failed to open rknpu module")
    assert opened == f"; the NPU's driver was not reached: {DMESG}"


def test_other_reasons_have_no_hint(npu: Npu) -> None:
    npu.node.unlink()
    assert device.hint("Exception: RKNN init failed. error code: RKNN_ERR_MODEL_INVALID") == ""


def test_the_real_folders() -> None:
    assert [str(device.DEV), str(device.SYS)] == ["/dev", "/sys"]
