"""lcmcore on OpenVINO, installed."""

from .with_lcmcore import load, open_all

__all__ = ["PACKAGES", "load", "open_all"]

PACKAGES = ("openvino", "numpy", "Pillow")
