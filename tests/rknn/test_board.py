"""What the board is, and which versions it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtimes.rknn import board


def test_paths() -> None:
    assert str(board.DEVICE_TREE) == "/proc/device-tree/compatible"
    assert str(board.DRIVER_VERSION) == "/sys/kernel/debug/rknpu/version"
    assert [str(folder) for folder in board.LIBRARY_FOLDERS] == [
        *("/usr/lib", "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib"),
    ]


@pytest.mark.parametrize(
    ("names", "platform"),
    [
        (b"rockchip,rk3588\0", "rk3588"),
        (b"rockchip,rk3588-evb\0", "rk3588"),
        (b"rockchip,rk3583\0", "rk3588"),
        (b"radxa,rock-5c\0rockchip,rk3582\0", "rk3588"),
        (b"rockchip,rk3568-evb1\0rockchip,rk3568\0", "rk3568"),
        (b"rockchip,rk3562\0", "rk3562"),
        (b"rockchip,rk3566\0", "rk3566"),
        (b"rockchip,rk3576\0", "rk3576"),
        (b"rockchip,rk3566\0rockchip,rk3588\0", "rk3588"),  # the SoC comes after the board
        (b"rockchip,rk3588\0rockchip,rk3399\0", "rk3588"),  # and the last that has such an NPU
        (b"myrockchip,rk3588\0", None),
        (b"rockchip,rk358\0", None),
        (b"\xff\xfe\0rockchip,rk3588\0", "rk3588"),
        (b"", None),
    ],
)
def test_platform(tmp_path: Path, names: bytes, platform: str | None) -> None:
    (tmp_path / "compatible").write_bytes(names)
    assert board.platform(tmp_path / "compatible") == platform


def test_hidden_device_tree(tmp_path: Path) -> None:
    """Docker mounts an empty folder over /sys/firmware; a single file is masked by /dev/null."""
    tree = tmp_path / "compatible"
    assert board.device_tree_is_hidden(tree)
    tree.write_bytes(b"")
    assert board.device_tree_is_hidden(tree)
    tree.write_bytes(b"raspberrypi,5-model-b\0")
    assert not board.device_tree_is_hidden(tree)


@pytest.mark.parametrize(
    ("platform", "cores"),
    [("rk3588", 3), ("rk3576", 2), ("rk3568", 1), ("rk3566", 1), ("rk3562", 1), (None, 1)],
)
def test_cores(platform: str | None, cores: int) -> None:
    assert board.cores(platform) == cores


@pytest.mark.parametrize(
    ("built_for", "here", "runs"),
    [
        (("rk3588",), "rk3588", True),
        (("rk3562", "rk3588"), "rk3588", True),
        (("rk3588",), "rk3576", False),
        (("rk3566",), "rk3568", True),
        (("rk3568",), "rk3566", True),
        (("rk3566",), "rk3588", False),
        (("rk3588",), "rk3568", False),
        ((), "rk3588", False),
    ],
)
def test_runs(built_for: tuple[str, ...], here: str, runs: bool) -> None:
    assert board.runs(built_for, here) is runs


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (b"RKNPU driver: v0.9.8\n", "0.9.8"),
        (b"v0.10\n", "0.10"),
        (b"7\n", None),
        (b"\xff v1.2.3.4", "1.2.3.4"),
        (b"", None),
    ],
)
def test_driver_version(tmp_path: Path, text: bytes, version: str | None) -> None:
    (tmp_path / "version").write_bytes(text)
    assert board.driver_version(tmp_path / "version") == version


def test_driver_version_that_cannot_be_read(tmp_path: Path) -> None:
    assert board.driver_version(tmp_path / "version") is None


def test_library_is_the_first_in_its_folders(tmp_path: Path) -> None:
    folders = (tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert board.library(folders) is None
    for folder in folders[1:]:
        folder.mkdir()
        (folder / "librknnrt.so").write_bytes(b"")
    assert board.library(folders) == tmp_path / "b" / "librknnrt.so"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "librknnrt.so").mkdir()  # no file
    assert board.library(folders) == tmp_path / "b" / "librknnrt.so"


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (b"\x7fELF\0librknnrt version: 2.3.2 (429f97ae6b@2025-04-09)\0", "2.3.2"),
        (b"librknnrt version: 10.20", "10.20"),
        (b"librknnrt version: 2", None),
        (b"librknnrt version 2.3.2", None),
        (b"", None),  # an empty file cannot be mapped
    ],
)
def test_library_version(tmp_path: Path, content: bytes, version: str | None) -> None:
    (tmp_path / "librknnrt.so").write_bytes(content)
    assert board.library_version(tmp_path / "librknnrt.so") == version


def test_library_version_of_no_file(tmp_path: Path) -> None:
    assert board.library_version(tmp_path / "librknnrt.so") is None
