"""The board's SoC, and the versions of the NPU's driver and library."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

DEVICE_TREE = Path("/proc/device-tree/compatible")
DRIVER_VERSION = Path("/sys/kernel/debug/rknpu/version")
LIBRARY = "librknnrt.so"
LIBRARY_ADDRESS = (
    "https://github.com/airockchip/rknn-toolkit2/raw/master"
    "/rknpu2/runtime/Linux/librknn_api/aarch64/librknnrt.so"
)
LIBRARY_FOLDERS = tuple(
    map(Path, ("/usr/lib", "/usr/lib64", "/usr/lib/aarch64-linux-gnu", "/usr/local/lib"))
)

# SoC by its name in the device tree -> platform that its models are built for.
_PLATFORMS = {
    "rk3588": "rk3588",
    "rk3583": "rk3588",
    "rk3582": "rk3588",
    "rk3576": "rk3576",
    "rk3568": "rk3568",
    "rk3566": "rk3566",
    "rk3562": "rk3562",
}
_CORES = {"rk3588": 3, "rk3576": 2}  # NPU cores; the others have one
_SAME_NPU = frozenset({"rk3566", "rk3568"})


def platform(device_tree: Path = DEVICE_TREE) -> str | None:
    """The platform to build for, e.g. "rk3588"; None if this is not a board with such an NPU."""
    try:
        names = device_tree.read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return None
    for name in reversed(names):  # reversed, for the SoC comes after the board
        found = re.match(r"rockchip,(rk\d{4})", name)
        if found and found[1] in _PLATFORMS:
            return _PLATFORMS[found[1]]
    return None


def device_tree_is_hidden(device_tree: Path = DEVICE_TREE) -> bool:
    """Whether there is no device tree to read, as in a container: Docker masks /sys/firmware.

    PCs have none either.
    """
    try:
        return not device_tree.read_bytes()
    except OSError:
        return True


def cores(platform: str | None) -> int:
    """How many cores the platform's NPU has."""
    return _CORES.get(platform or "", 1)


def runs(built_for: tuple[str, ...], board: str) -> bool:
    """Whether a model for one of these platforms runs on that board."""
    return board in built_for or (board in _SAME_NPU and not _SAME_NPU.isdisjoint(built_for))


def driver_version(file: Path = DRIVER_VERSION) -> str | None:
    """The kernel driver's version, e.g. "0.9.8"; None if unknown (only root may read it)."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if found else None


def library(folders: tuple[Path, ...] = LIBRARY_FOLDERS) -> Path | None:
    """The path of librknnrt.so in one of its usual folders; None if it is not there."""
    return next((folder / LIBRARY for folder in folders if (folder / LIBRARY).is_file()), None)


def library_version(path: Path) -> str | None:
    """The version string in librknnrt.so, e.g. "2.3.2"; None if there is none."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = re.search(rb"librknnrt version: (\d+(?:\.\d+)+)", data)
            return found[1].decode("ascii") if found else None
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
