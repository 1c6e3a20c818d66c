"""A 3x3 convolution after doubling the size, as two 2x3 convolutions before the rows are doubled.

before:
    x - Resize x2 - Conv 3x3 - output

after:
    x - Resize x2 in width -+- Conv 2x3 -+
                            +- Conv 2x3 -+- Concat in width - Reshape - output

After nearest-neighbour doubling, the three rows of a kernel meet only two different rows, the same
two for even and for odd rows of the result up to a shift: sums of taps, 6 multiplications in place
of 9. On an NPU these convolutions wait for the multiplications. An even row followed by the odd one
is a row of twice the width, so that the Reshape moves nothing.

Four 2x2 convolutions (runtimes/onnx/rewrites/upsample_conv.py) would be 4 multiplications, but
rknn-toolkit2 makes a dense transposed convolution of the DepthToSpace after them: docs/npu.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from runtimes.onnx.graph import GraphIndex, Node, NodeBuilder
from runtimes.onnx.rewrites.upsample_conv import TAPS
from runtimes.rknn.rewrites.context import Context

# Of the result: with fewer, a convolution waits for its weights, and two have more of them.
MIN_PIXELS = 128
MIN_CHANNELS = 128  # with half of them, Concat costs what the multiplications save
_NEAREST = {
    "mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor",
}  # fmt: skip
_PLAIN_3X3 = {
    "kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": [1],
}  # fmt: skip


def upsample_conv(context: Context) -> str:
    """Replace each Conv that follows a doubling Resize, where that is faster."""
    index = GraphIndex(context.graph)
    replacements = {
        id(conv): _in_rows(context, conv, resize.inputs[0])
        for conv in context.graph.nodes
        if _has(conv, "Conv", _PLAIN_3X3)
        and (resize := index.producer(conv.inputs[0], "Resize")) is not None
        and _has(resize, "Resize", _NEAREST)
        and _is_faster(context, resize, conv)
    }
    count = context.graph.replace(replacements)
    what = "convolution" if count == 1 else "convolutions"
    return f"upsampling: {count} {what} of 3x3 as two of 2x3" if count else ""


def _has(node: Node, op_type: str, attributes: dict[str, Any]) -> bool:
    found = (node.attributes.get(key) == value for key, value in attributes.items())
    return node.op_type == op_type and all(found)


def _is_faster(context: Context, resize: Node, conv: Node) -> bool:
    """Whether the size doubles, and the multiplications are what takes time."""
    before, after = (context.shapes.get(name, ()) for name in (resize.inputs[0], resize.outputs[0]))
    if len(before) != 4 or after != (*before[:2], 2 * before[2], 2 * before[3]):
        return False
    return (
        context.graph.initializer(conv.inputs[1]) is not None
        and before[1] >= MIN_CHANNELS
        and math.prod(after[2:]) >= MIN_PIXELS
    )


def _in_rows(context: Context, conv: Node, source: str) -> list[Node]:
    """A Conv for even and for odd rows of the result, and what interleaves them."""
    output, weight = conv.outputs[0], context.graph.initializer(conv.inputs[1])
    assert weight is not None
    builder = NodeBuilder(context.graph, f"{output}/rows")
    scales = builder.constant([1, 1, 1, 2], np.float32)
    wide = builder.make(
        "Resize", [source, "", scales],
        mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    parts = []
    for row, taps in enumerate(TAPS):
        kernel = builder.constant(np.einsum("rh,oihw->oirw", taps, weight), np.float32)
        inputs = [wide, kernel, *conv.inputs[2:]]
        parts.append(builder.make("Conv", inputs, pads=[1 - row, 1, row, 1], kernel_shape=[2, 3]))
    both = builder.make("Concat", parts, axis=3)
    shape = builder.constant(context.shapes[output])
    return [*builder.nodes, Node.make("Reshape", [both, shape], output)]
