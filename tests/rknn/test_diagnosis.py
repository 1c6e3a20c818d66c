"""What `lcm doctor` finds on boards with several kinds of faults."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runtimes.rknn import board, diagnosis
from runtimes.rknn.diagnosis import diagnose
from tests.rknn import fixtures
from tests.rknn.conftest import Npu
from tests.rknn.test_file import with_graph


def reported(root: Path | None, here: str | None, level: str) -> str:
    return "\n".join(
        f"{text} -> {remedy}" for kind, text, remedy in diagnose(root, here) if kind == level
    )


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, npu: Npu) -> Path:
    """A board with driver, device node and library; the path of the library."""
    library = tmp_path / "librknnrt.so"
    library.write_bytes(b"\x7fELF\0librknnrt version: 2.5.0 (74ea630ce@2026-09-29T14:54:20)\0")
    monkeypatch.setattr(board, "library", lambda: library)
    return library


def test_host_has_no_errors(tiny: Path) -> None:
    findings = list(diagnose(tiny, None))
    assert {level for level, _, _ in findings} == {"ok"}
    assert "not a Rockchip board" in findings[0][1]
    assert ("ok", "images of 48x32", "") in findings


@pytest.mark.parametrize(
    ("newest", "words"),
    [
        (sys.version_info[:2], "is not installed -> pip install 'lcmcore[rknn]'"),
        ((3, 9), "has no wheel for this Python -> use Python 3.9"),
    ],
)
def test_board_without_software(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, newest: tuple[int, int], words: str
) -> None:
    monkeypatch.setattr(board, "library", lambda: None)
    monkeypatch.setattr(diagnosis, "_NEWEST_PYTHON", newest)
    errors = reported(tiny, "rk3588", "error")
    assert f"rknn-toolkit-lite2 {words}" in errors
    assert "no librknnrt.so in /usr/lib -> copy it from" in errors


def test_healthy_board(tiny: Path, healthy: Path, lites: list[object]) -> None:
    assert reported(tiny, "rk3588", "error") == reported(tiny, "rk3588", "warning") == ""
    assert "librknnrt.so 2.5.0" in reported(tiny, "rk3588", "ok")


def test_old_library(tiny: Path, healthy: Path) -> None:
    healthy.write_bytes(healthy.read_bytes().replace(b"2.5.0", b"1.6.0"))
    assert "librknnrt.so 1.6.0 is older than toolkit 2.5.0" in reported(tiny, "rk3588", "warning")


def test_other_board(tiny: Path, healthy: Path) -> None:
    errors = reported(tiny, "rk3568", "error")
    assert "unet: built for rk3588, this board is rk3568 -> rebuild it" in errors


def test_broken_and_old_files(tiny: Path) -> None:
    path = tiny / "unet" / "model.rknn"
    path.write_bytes(path.read_bytes()[:1000])
    path = tiny / "vae_decoder" / "model.rknn"
    path.write_bytes(with_graph(path.read_bytes(), version="2.1.0"))
    errors = reported(tiny, None, "error")
    assert "unet: " in errors
    assert "cut" in errors
    assert "vae_decoder: built by rknn-toolkit2 2.1.0, too old" in errors


def test_networks_of_different_sizes(tiny: Path) -> None:
    data = fixtures.read("unet").replace(b"[1, 4, 4, 6]", b"[1, 4, 8, 6]")
    data = data.replace(b'"size":[1,4,4,6]', b'"size":[1,4,8,6]')
    (tiny / "unet" / "model.rknn").write_bytes(data)
    assert "unet 6x8, vae_decoder 6x4, vae_encoder 6x4" in reported(tiny, None, "error")


def test_memory(tiny: Path, healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimes.rknn.diagnosis.available_bytes", lambda: 2**20)
    assert "0.0 GiB is free" in reported(tiny, "rk3588", "warning")


@pytest.mark.parametrize(
    ("names", "platform"),
    [
        (b"xunlong,orangepi-5\0rockchip,rk3588s\0", "rk3588"),
        (b"radxa,rock-5b\0rockchip,rk3588\0", "rk3588"),
        (b"firefly,roc-rk3576\0rockchip,rk3576\0", "rk3576"),
        (b"pine64,quartz64-a\0rockchip,rk3566\0", "rk3566"),
        (b"pine64,rockpro64\0rockchip,rk3399\0", None),
        (b"raspberrypi,5-model-b\0brcm,bcm2712\0", None),
    ],
)
def test_platform_of_a_device_tree(tmp_path: Path, names: bytes, platform: str | None) -> None:
    tree = tmp_path / "compatible"
    tree.write_bytes(names)
    assert board.platform(tree) == platform


def test_no_device_tree(tmp_path: Path) -> None:
    assert board.platform(tmp_path / "compatible") is None


def test_rk3566_and_rk3568_are_one_npu() -> None:
    assert board.runs(("rk3566",), "rk3568")
    assert not board.runs(("rk3566",), "rk3588")
