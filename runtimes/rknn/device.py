"""The device node through which librknnrt reaches the NPU, and why it cannot be opened.

Rockchip's kernel driver registers a DRM render node, /dev/dri/renderD*, or, built with
CONFIG_ROCKCHIP_RKNPU_DMA_HEAP, the node /dev/rknpu. Which render node is the NPU's differs from
board to board; sysfs tells it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DEV = Path("/dev")
SYS = Path("/sys")

_DRIVER = "DRIVER=RKNPU"  # a line of the device's uevent
_IN_CONTAINER = "in a container: docker run --device /dev/dri"
_MISC_IN_CONTAINER = "in a container: docker run --device /dev/rknpu --device /dev/dma_heap"
_KERNEL = "a kernel of Rockchip's (5.10, 6.1) with the driver rknpu; mainline's rocket is another"
_GROUPS = "sudo usermod -aG render,video $USER, then log in again; or run as root"
_DMESG = "see dmesg | grep -i rknpu"
# What librknnrt and RKNNLite say when the driver was not reached, among other cases.
_UNREACHED = ("failed to open rkn", "RKNN_ERR_FAIL", "RKNN_ERR_DEVICE_UNAVAILABLE")


class Fault(NamedTuple):
    """What keeps the NPU from being reached, and what to do."""

    what: str
    remedy: str


def nodes(dev: Path = DEV, sys: Path = SYS) -> list[Path]:
    """Where the NPU's device nodes should be, by sysfs; without sysfs, every candidate there is."""
    found = [dev / name for name in _names(sys)]
    if not found and (dev / "rknpu").exists():
        return [dev / "rknpu"]
    if not found and not (sys / "class" / "drm").is_dir():
        return sorted((dev / "dri").glob("renderD*"))
    return found


def is_there(sys: Path = SYS) -> bool:
    """Whether the kernel drives an NPU, by sysfs, which containers see too."""
    return bool(_names(sys))


def fault(dev: Path = DEV, sys: Path = SYS) -> Fault | None:
    """Why the NPU cannot be reached; None if one of its nodes opens for reading and writing."""
    faults: list[Fault] = []
    for node in nodes(dev, sys):
        found = _fault_of(node)
        if found is None:
            return None
        faults.append(found)
    return faults[0] if faults else _no_driver(sys)


def hint(reason: str) -> str:
    """For an error with this reason: what keeps the NPU from being reached, if that is known."""
    if not any(words in reason for words in _UNREACHED):
        return ""
    found = fault()
    if found is not None:
        return f"; {found.what}: {found.remedy}"
    return f"; the NPU's driver was not reached: {_DMESG}" if _UNREACHED[0] in reason else ""


def _names(sys: Path) -> list[str]:
    """The NPU's device nodes below /dev, by sysfs."""
    uevents = sorted((sys / "class" / "drm").glob("renderD*/device/uevent"))
    names = [f"dri/{each.parts[-3]}" for each in uevents if _DRIVER in _lines(each)]
    return [*names, "rknpu"] if (sys / "class" / "misc" / "rknpu").exists() else names


def _fault_of(node: Path) -> Fault | None:
    try:
        os.close(os.open(node, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError:
        remedy = _MISC_IN_CONTAINER if node.name == "rknpu" else _IN_CONTAINER
        return Fault(f"the NPU's device node {node} is missing", remedy)
    except OSError as error:
        what = f"the NPU's device node {node} cannot be opened: {error.strerror}"
        # EPERM is what the device rules of a container's control group answer.
        remedies = {errno.EACCES: _GROUPS, errno.EPERM: _IN_CONTAINER}
        return Fault(what, remedies.get(error.errno or 0, _DMESG))
    return None


def _no_driver(sys: Path) -> Fault:
    if (sys / "module" / "rknpu").exists():
        return Fault("the driver rknpu is loaded, but has no device", _DMESG)
    if (sys / "class" / "drm").is_dir():
        return Fault("no NPU driver: sysfs has no device of the driver RKNPU", f"boot {_KERNEL}")
    what = "no device node of the NPU, neither /dev/dri/renderD* nor /dev/rknpu"
    return Fault(what, f"{_IN_CONTAINER}; else boot {_KERNEL}")


def _lines(file: Path) -> Iterator[str]:
    try:
        yield from file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
