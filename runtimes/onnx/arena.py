"""One memory arena for all sessions: each network reuses memory that the previous network freed.

With an arena for each session, or one that shrinks after each run, every run touches its gigabytes
for the first time: the kernel's page faults then take up to a tenth of an image's time.
"""

from __future__ import annotations

import contextlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lcmcore.util.memory import anonymous_bytes
from runtimes.onnx.graph import Node
from runtimes.onnx.protobuf import (
    Dimension,
    GraphProto,
    ModelProto,
    OperatorSetIdProto,
    TensorProto,
    TensorShapeProto,
    TypeProto,
    TypeProtoTensor,
    ValueInfoProto,
)

if TYPE_CHECKING:
    import onnxruntime

MIN_BYTES = 2**28  # bytes
_IR_VERSION, _OPSET = 8, 13


def use_shared_arena(ort: Any, options: onnxruntime.SessionOptions) -> None:
    """Have the session of these options allocate from the shared arena."""
    _create(ort)
    options.add_session_config_entry("session.use_env_allocators", "1")
    # With the memory pattern a run asks for one block as large as all that it needs; what is free
    # in the arena is in several.
    options.enable_mem_pattern = False


def shrink(ort: Any) -> None:
    """Return to the system what no run is using.

    ONNX Runtime does that at the end of a run only, so a session that does nothing is run. While
    the process has less than MIN_BYTES, or where that is unknown, the arena stays: to allocate it
    again takes as long as a small model's image.
    """
    if anonymous_bytes() < MIN_BYTES:
        return
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _identity(ort).run(None, {"x": np.zeros(1, np.float32)}, options)


@cache
def _identity(ort: Any) -> Any:
    """A session in the arena that only returns its input."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    use_shared_arena(ort, options)
    return ort.InferenceSession(_identity_model(), options, providers=["CPUExecutionProvider"])


@cache
def _create(ort: Any) -> None:
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    with contextlib.suppress(Exception):  # the application has registered one: it serves as well
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(0, -1, -1, -1))


def _identity_model() -> bytes:
    shape = TensorShapeProto(dim=Dimension(dim_value=1))
    tensor = TypeProtoTensor(elem_type=TensorProto.FLOAT, shape=shape)
    x, y = (ValueInfoProto(name=name, type=TypeProto(tensor_type=tensor)) for name in "xy")
    node = Node.make("Identity", ["x"], "y")
    graph = GraphProto(node=node.proto, name="identity", input=x, output=y)
    opset = OperatorSetIdProto(version=_OPSET)
    return bytes(ModelProto(ir_version=_IR_VERSION, opset_import=opset, graph=graph))
