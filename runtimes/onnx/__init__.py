"""The ONNX runtime: networks on any host through ONNX Runtime."""

from runtimes.onnx.runtime import OnnxRuntime

__all__ = ["OnnxRuntime"]
