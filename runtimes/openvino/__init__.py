"""The OpenVINO runtime: half precision where the processor, or a GPU, has it."""

from runtimes.openvino.runtime import OpenVINORuntime

__all__ = ["OpenVINORuntime"]
