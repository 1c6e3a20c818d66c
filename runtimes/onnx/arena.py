"""One arena of memory for all sessions of the process: the next network takes what the last left.

If each session has one of its own, or gives it back after each run, every run touches its gigabytes
for the first time, and the kernel takes up to a tenth of a picture's time to hand them out.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lcmcore.util.memory import anonymous_bytes
from runtimes.onnx.graph import Node, write

if TYPE_CHECKING:
    import onnxruntime

SMALLEST = 2**28  # bytes
_FLOAT, _IR_VERSION, _OPSET = 1, 8, 13


def share(ort: Any, options: onnxruntime.SessionOptions) -> None:
    """Have the session of these options take its memory from the arena."""
    _make(ort)
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Or it asks for all memory of a run in one piece, and what is free is in several.
    options.enable_mem_pattern = False


def give_back(ort: Any) -> None:
    """Return to the system what no run is using: a run of nothing ends with that.

    Not if the whole process has little, or if that is unknown: a small model's picture takes no
    longer than handing its memory out again.
    """
    if anonymous_bytes() < SMALLEST:
        return
    shrink = ort.RunOptions()
    shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _idle(ort).run(None, {"x": np.zeros(1, np.float32)}, shrink)


@cache
def _idle(ort: Any) -> Any:
    """A session that does nothing, in the arena."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    share(ort, options)
    return ort.InferenceSession(_nothing(), options, providers=["CPUExecutionProvider"])


@cache
def _make(ort: Any) -> None:
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    with contextlib.suppress(Exception):  # the program around us has made one, which serves as well
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(0, -1, -1, -1))


def _nothing() -> bytes:
    """A model that returns its input, one number."""
    shape = write([(1, 2, write([(1, 0, 1)]))])
    kind = write([(1, 2, write([(1, 0, _FLOAT), (2, 2, shape)]))])
    x, y = (write([(1, 2, name), (2, 2, kind)]) for name in (b"x", b"y"))
    node = write(Node.make("Identity", ["x"], "y").fields)
    graph = write([(1, 2, node), (2, 2, b"nothing"), (11, 2, x), (12, 2, y)])
    return write([(1, 0, _IR_VERSION), (8, 2, write([(2, 0, _OPSET)])), (7, 2, graph)])
