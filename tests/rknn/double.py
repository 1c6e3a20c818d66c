"""A strict double of rknn-toolkit-lite2's class RKNNLite, for hosts that have no NPU.

It behaves as the class of version 2.5.0 does on an RK3588, its faults included; `lite_semantics`
holds the cases that show the agreement. A function stands in the place of the network, and the
environment variable NPU_FAULT makes the "driver" fail, as in the stand-in librknnrt of tests/board.
"""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lcmcore.errors import BundleError
from runtimes.rknn.file import RknnFile

Array = NDArray[Any]
Function = Callable[[Sequence[Array]], Sequence[Array]]  # NCHW, in the file's order

CORE_MASKS = {0, 1, 2, 3, 4, 7, 0xFFFF}
DTYPES = {"float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"}
ERRORS = {
    -1: "RKNN_ERR_FAIL",
    -4: "RKNN_ERR_MALLOC_FAIL",
    -5: "RKNN_ERR_PARAM_INVALID",
    -6: "RKNN_ERR_MODEL_INVALID",
    -7: "RKNN_ERR_INPUT_INVALID",
    -8: "RKNN_ERR_OUTPUT_INVALID",
}

logger = logging.getLogger("acuityLogger")
logger.propagate = False
if not logger.handlers:
    logger.addHandler(logging.NullHandler())


def double_of(function: Function) -> Callable[[], RKNNLiteDouble]:
    """A stand-in for the class, whose every network computes `function`."""
    return lambda: RKNNLiteDouble(function)


class RKNNLiteDouble:
    """One instance is one network."""

    def __init__(self, function: Function) -> None:
        self.rknn_data: bytes | None = None
        self.rknn_runtime: _Driver | None = None
        self.released = False
        self.core_mask = 0
        self._function = function
        self._path = Path()

    def load_rknn(self, path: str) -> int:
        """0 for whatever file is there; -1 for a missing one."""
        if not Path(path).exists():
            logger.error("Invalid RKNN model path: %s", path)
            return -1
        self._path, self.rknn_data = Path(path), Path(path).read_bytes()
        return 0

    def init_runtime(self, target: str | None = None, core_mask: int = 0) -> int:
        """-1 for every failure; the reason is in the log alone."""
        assert target is None, "on the board, no target"
        self.core_mask = core_mask
        if self.rknn_data is None:
            logger.error(
                "Model is not loaded yet, this interface should be called after load_rknn!"
            )
            return -1
        try:
            self.rknn_runtime = _Driver(self._path, self._function)
        except Exception:
            logger.error("Catch exception when init runtime!")
            logger.error(traceback.format_exc())
            return -1
        try:
            self.rknn_runtime.set_core_mask(core_mask)
        except Exception:
            logger.error("Catch exception when set npu core mode.")
            return -1
        return 0

    def inference(self, inputs: Any, data_format: str | None = None) -> list[Array] | None:
        """None where the inputs are refused, a list of arrays else: also if the run failed."""
        if self.rknn_runtime is None:
            logger.error(
                "Runtime environment is not inited, please call init_runtime to init it first!"
            )
            return None
        try:
            self.rknn_runtime.set_inputs(inputs, data_format)
        except Exception:
            logger.error("Catch exception when setting inputs.")
            logger.error(traceback.format_exc())
            return None
        self.rknn_runtime.run()
        try:
            return self.rknn_runtime.outputs()
        except Exception:
            logger.error("Catch exception when getting outputs.")
            logger.error(traceback.format_exc())
            return None

    def release(self) -> None:
        """Twice does no harm."""
        self.rknn_runtime = None
        self.released = True


class _Driver:
    def __init__(self, path: Path, function: Function) -> None:
        self._function = function
        _raise_for(_fault("init"), "RKNN init failed")
        try:
            self._file = RknnFile.read(path)
        except BundleError:
            _raise_for(-6, "RKNN init failed")
        if not self._file.inputs:
            _raise_for(-6, "RKNN init failed")
        shapes = [tensor.shape for tensor in self._file.outputs]
        self._results: list[Array] = [np.zeros(shape, np.float32) for shape in shapes]
        self._inputs: list[Array] = []

    def set_core_mask(self, core_mask: int) -> None:
        if core_mask:
            _raise_for(-5 if core_mask not in CORE_MASKS else _fault("core"), "Set core mask")

    def set_inputs(self, inputs: Any, data_format: str | None) -> None:
        if not isinstance(inputs, list) or len(inputs) != len(self._file.inputs):
            raise ValueError(f"The input must be a list of {len(self._file.inputs)} arrays")
        if data_format not in {None, "nhwc", "nchw"}:
            raise ValueError(f"data_format {data_format} is not supported")
        for index, tensor in enumerate(self._file.inputs):
            array = inputs[index]
            if array.ndim != len(tensor.shape) or array.dtype.name not in DTYPES:
                raise ValueError(f"inputs[{index}]: {array.ndim} dimensions of {array.dtype}")
            if array.ndim == 4 and data_format == "nchw":
                inputs[index] = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        _raise_for(_fault("inputs"), "Set inputs failed")
        self._inputs = [
            _from_bytes(array, tensor.shape)
            for array, tensor in zip(inputs, self._file.inputs, strict=True)
        ]

    def run(self) -> int:
        if code := _fault("run"):
            return code  # which nobody looks at
        results = self._function(self._inputs)
        self._results = [np.array(result, np.float32) for result in results]
        return 0

    def outputs(self) -> list[Array]:
        _raise_for(_fault("outputs"), "Get outputs failed")
        results = [result.copy() for result in self._results]
        filling = {"nan": np.nan, "inf": np.inf, "constant": 0.5}
        fault = os.environ.get("NPU_FAULT", "")
        if fault in filling:
            results[0][...] = filling[fault]
        return results[:-1] if fault == "missing" else results


def _from_bytes(array: Array, shape: tuple[int, ...]) -> Array:
    """What the NPU reads: bytes, four-dimensional ones as NHWC whatever they were."""
    if array.ndim != 4:
        return array.reshape(shape)
    batch, channels, height, width = shape
    return array.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


def _fault(call: str) -> int:
    name, _, code = os.environ.get("NPU_FAULT", "").partition(":")
    return int(code) if name == call else 0


def _raise_for(code: int, what: str) -> None:
    if code:
        raise RuntimeError(f"{what}. error code: {ERRORS.get(code, code)}")
