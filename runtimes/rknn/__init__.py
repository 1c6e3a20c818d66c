"""Rockchip NPUs through rknn-toolkit-lite2, and rknn-toolkit2's simulator of them."""

from runtimes.rknn.runtime import RknnRuntime
from runtimes.rknn.simulator import RknnSimulator

__all__ = ["RknnRuntime", "RknnSimulator"]
