"""The ONNX runtime: networks on any host through ONNX Runtime."""

import os

from runtimes.onnx.runtime import OnnxRuntime

# Read when onnxruntime is imported. Without it version 1.32 keeps a device id and a database of
# events in ~/.cache/Microsoft, and by its privacy page sends them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["OnnxRuntime"]
