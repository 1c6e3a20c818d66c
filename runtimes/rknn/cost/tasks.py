"""What each task of the NPU reads, writes and multiplies, by the registers that it sets.

The registers are those of the Rockchip NPU's units as the RK3588's technical reference manual and
the open driver (rocket, in Linux and Mesa) name them; where the manual is silent, they were told
from programs whose shapes are known.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtimes.rknn.cost.flatbuffer import DamagedError

Counts = NDArray[np.float64]

# Values of a task's `units`: which of the NPU's units take part.
_CONVOLUTION = (0x0D, 0x1D)
_CONVOLUTION_AND_ADDITION = 0x1D  # a second operand is read by the DPU's own reader (RDMA)
_ELEMENTWISE = 0x18
_POOLING = 0x60

# Convolution: CNA (0x1xxx) and CORE (0x3xxx). Data processing: DPU (0x4xxx), its reader (0x5xxx).
_CONV_CON1, _CBUF_CON0 = 0x100C, 0x1040
_DATA_SIZE0, _DATA_SIZE1 = 0x1020, 0x1024
_WEIGHT_SIZE0, _WEIGHT_SIZE2 = 0x1030, 0x1038
_CORE_SIZE0 = 0x3014
_DST_WIDTH, _DST_HEIGHT, _DST_CHANNEL = 0x4030, 0x4034, 0x403C
_RDMA_WIDTH, _RDMA_HEIGHT, _RDMA_CHANNEL, _RDMA_ERDMA = 0x500C, 0x5010, 0x5014, 0x5034
_POOL_IN, _POOL_OUT = (0x600C, 0x6010, 0x6014), (0x6018, 0x601C, 0x6020)

# Bytes of an element by the precision in CONV_CON1: int8, int16, float16, bfloat16, int32, float32,
# int4, tf32.
_BYTES = np.array([1, 2, 2, 2, 4, 4, 0.5, 4])
_HALF = 2  # bytes of what goes between layers
_DEPTHWISE = 3
# The full-size decoder for 512x512 sends 7 million words, some 40 a task. Tasks can share them, so
# that a small file can announce any number.
_MAX_WORDS = 1 << 24
_MAX_WORDS_OF_TASK = 1 << 12
_PIECE = 1 << 9  # tasks whose words are looked at together
_DECODED = np.zeros(1 << 16, bool)  # by register: whether it is looked at here
_DECODED[
    [
        *(_CONV_CON1, _CBUF_CON0, _DATA_SIZE0, _DATA_SIZE1, _WEIGHT_SIZE0, _WEIGHT_SIZE2),
        *(_CORE_SIZE0, _DST_WIDTH, _DST_HEIGHT, _DST_CHANNEL),
        *(_RDMA_WIDTH, _RDMA_HEIGHT, _RDMA_CHANNEL, _RDMA_ERDMA, *_POOL_IN, *_POOL_OUT),
    ]
] = True


class TaskCosts(NamedTuple):
    """One number for each task."""

    layer: NDArray[np.int64]  # position in Program.layers
    bytes: Counts  # read from and written to memory
    macs: Counts  # multiplications with an addition
    is_thin: NDArray[np.bool_]  # one pixel: of its channels, 16 bytes are read at a time


def task_costs(tasks: NDArray[Any], words: NDArray[np.uint64]) -> TaskCosts:
    """Decode what one core is given; raises DamagedError for words that are not there."""
    registers = _Registers(tasks, words)
    units = tasks["units"]
    count = len(tasks)
    read, written, macs = np.zeros(count), np.zeros(count), np.zeros(count)
    thin = np.zeros(count, bool)
    for mask, decode in (
        (np.isin(units, _CONVOLUTION), _convolution),
        (units == _ELEMENTWISE, _elementwise),
        (units == _POOLING, _pooling),
    ):
        read[mask], written[mask], macs[mask], thin[mask] = (
            np.broadcast_to(values, count)[mask] for values in decode(registers, units)
        )
    return TaskCosts(tasks["layer"].astype(np.int64), read + written, macs, thin)


class _Registers:
    """The value of each register when a task starts."""

    def __init__(self, tasks: NDArray[Any], words: NDArray[np.uint64]) -> None:
        first = (tasks["offset"] // 8).astype(np.int64)
        lengths = tasks["words"].astype(np.int64)
        if (first + lengths).max() > len(words):
            raise DamagedError("its tasks send words that are not there")
        if lengths.sum() > _MAX_WORDS or lengths.max() > _MAX_WORDS_OF_TASK:
            raise DamagedError(f"its tasks send {lengths.sum()} words")
        self._count = len(tasks)
        pieces = [
            _sent(start, first[start : start + _PIECE], lengths[start : start + _PIECE], words)
            for start in range(0, len(tasks), _PIECE)
        ]
        self._task, self._register, self._value = map(np.concatenate, zip(*pieces, strict=True))

    def __call__(self, register: int, low: int = 0, bits: int = 32) -> NDArray[np.int64]:
        """The bits of a register, for every task; 0 before it is written."""
        places = np.flatnonzero(self._register == register)
        if not len(places):
            return np.zeros(self._count, np.int64)
        last = np.searchsorted(self._task[places], np.arange(self._count), side="right") - 1
        values = self._value[places].astype(np.int64)
        return np.where(last < 0, 0, values[np.maximum(last, 0)]) >> low & ((1 << bits) - 1)


def _sent(
    start: int, first: NDArray[np.int64], lengths: NDArray[np.int64], words: NDArray[np.uint64]
) -> tuple[NDArray[np.int32], NDArray[np.uint16], NDArray[np.uint32]]:
    """Task, register and value of each word that sets one of `_DECODED`, in their order.

    `start` is the number of the first task; the two arrays say where the words of each task are.
    """
    task = np.repeat(np.arange(len(first)), lengths)
    place = np.arange(len(task)) - np.repeat(np.cumsum(lengths) - lengths - first, lengths)
    sent = words[place]
    kept = _DECODED[sent & np.uint64(0xFFFF)] & (sent >> np.uint64(48) != 0)  # no unit: padding
    sent = sent[kept]
    return (
        (task[kept] + start).astype(np.int32),
        (sent & np.uint64(0xFFFF)).astype(np.uint16),
        (sent >> np.uint64(16) & np.uint64(0xFFFFFFFF)).astype(np.uint32),
    )


def _convolution(at: _Registers, units: NDArray[Any]) -> tuple[Any, Any, Any, Any]:
    """Read, written, MACs and whether it is thin; data or weights may be in the buffer already."""
    width, height = at(_DATA_SIZE0, 16, 11), at(_DATA_SIZE0, 0, 11)
    channels = at(_DATA_SIZE1, 0, 16)
    data = width * height * channels * _BYTES[at(_CONV_CON1, 4, 3)]
    data = np.where(at(_CBUF_CON0, 12, 1), 0, data)
    weights = np.where(at(_CBUF_CON0, 13, 1), 0, at(_WEIGHT_SIZE0))
    output = _volume(at, (_DST_WIDTH, _DST_HEIGHT, _DST_CHANNEL)) * _HALF
    adds = (units == _CONVOLUTION_AND_ADDITION) & (at(_RDMA_ERDMA, 0, 1) == 0)
    kernel = at(_WEIGHT_SIZE2, 16, 5) * at(_WEIGHT_SIZE2, 24, 5)
    kernels = np.where(at(_CONV_CON1, 0, 4) == _DEPTHWISE, 1, at(_WEIGHT_SIZE2, 0, 14))
    pixels = (at(_CORE_SIZE0, 0, 16) + 1) * (at(_CORE_SIZE0, 16, 16) + 1)
    macs = 1.0 * pixels * kernels * channels * kernel
    return data + weights + np.where(adds, output, 0), output, macs, width * height == 1


def _elementwise(at: _Registers, units: NDArray[Any]) -> tuple[Any, Any, Any, Any]:
    shape = (_RDMA_WIDTH, _RDMA_HEIGHT, _RDMA_CHANNEL)
    operand = _volume(at, shape) * _HALF
    second = np.where(at(_RDMA_ERDMA, 0, 1), 0, operand)
    output = _volume(at, (_DST_WIDTH, _DST_HEIGHT, _DST_CHANNEL)) * _HALF
    return operand + second, output, 0.0, _is_one_pixel(at, shape)


def _pooling(at: _Registers, units: NDArray[Any]) -> tuple[Any, Any, Any, Any]:
    read, written = (_volume(at, shape) * _HALF for shape in (_POOL_IN, _POOL_OUT))
    return read, written, 0.0, _is_one_pixel(at, _POOL_IN)


def _volume(at: _Registers, shape: tuple[int, int, int]) -> Counts:
    """Elements by registers of width, height and channels, each less one in 13 bits."""
    volume = np.ones(1)
    for register in shape:
        volume = volume * (at(register, 0, 13) + 1)
    return volume


def _is_one_pixel(at: _Registers, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    width, height, _ = shape
    one: NDArray[np.bool_] = (at(width, 0, 13) == 0) & (at(height, 0, 13) == 0)
    return one
