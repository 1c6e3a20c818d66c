"""Weights kept as float16, which halves the file; what is computed stays float32.

Each large initializer becomes one of float16 and a Cast to float32, which runtimes fold when they
open the file. So no activation can exceed float16's range, and CPUs, whose kernels are for float32,
lose no time.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

_MIN_ELEMENTS = 1024  # fewer save nothing: biases and norms
_LARGEST = float(np.finfo(np.float16).max)


def halve_weights(model: ir.Model) -> None:
    """Store the float32 weights of a model as float16, but for those beyond its range.

    Tensors are converted one at a time, when the model is saved.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _MIN_ELEMENTS:
            continue
        if not np.abs(tensor.numpy()).max() <= _LARGEST:
            continue
        convert = partial(_half, tensor)
        half = ir.LazyTensor(convert, ir.DataType.FLOAT16, tensor.shape, name=f"{name}_float16")
        stored = ir.Value(
            name=half.name, shape=value.shape, type=ir.TensorType(half.dtype), const_value=half
        )
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
        graph.register_initializer(stored)
        cast.outputs[0].name, cast.outputs[0].type = name, value.type
        cast.outputs[0].shape = value.shape
        graph.insert_before(graph[0], cast)


def _half(tensor: ir.TensorProtocol) -> ir.Tensor:
    return ir.Tensor(tensor.numpy().astype(np.float16))
