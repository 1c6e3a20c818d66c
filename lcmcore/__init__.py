"""Latent Consistency Model image generation on small machines; image-to-image above all."""

from lcmcore.bundle import demo_dir
from lcmcore.call import Result, Step
from lcmcore.errors import (
    ArgumentError,
    BundleError,
    Cancelled,
    DeadlineExceeded,
    ImageError,
    LcmError,
    NetworkError,
    OutputError,
    QueueFull,
    RuntimeUnavailableError,
    WorkerDied,
)
from lcmcore.pipeline import Pipeline, load

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "BundleError",
    "Cancelled",
    "DeadlineExceeded",
    "ImageError",
    "LcmError",
    "NetworkError",
    "OutputError",
    "Pipeline",
    "QueueFull",
    "Result",
    "RuntimeUnavailableError",
    "Step",
    "WorkerDied",
    "demo_dir",
    "load",
]
