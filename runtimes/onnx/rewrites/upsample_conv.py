"""A 3x3 convolution after doubling the size, as four 2x2 convolutions at the size before.

before:
    x - Resize x2 - Conv 3x3 - output

after:
    x -+- Conv 2x2 -+
       +- Conv 2x2 -+
       +- Conv 2x2 -+
       +- Conv 2x2 -+- Concat - DepthToSpace - output

After nearest-neighbour doubling, the nine taps of a 3x3 kernel meet only four different pixels:
which taps fall together depends on whether row and column are even or odd. Each of these four cases
is a 2x2 convolution with sums of taps: 16 multiplications for four pixels of the result in place of
36, and the enlarged image is never written.

Applies to Resize by exactly 2, nearest, asymmetric, rounded down, before a Conv of 3x3 with padding
1, stride 1, no dilation and one group, and constant weights. That is the upsampling of diffusers'
UNets and VAE decoders.

Aitken et al., "Checkerboard artifact free sub-pixel convolution", 2017, relates the two forms.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from runtimes.onnx.graph import Graph, GraphIndex, Node

_NEAREST = {
    "mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor",
}  # fmt: skip
_PLAIN_3X3 = {
    "kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": [1],
}  # fmt: skip
# [parity, 2, 3]: which rows (or columns) of the 3x3 kernel each of the 2 sums up, for even and odd
# rows of the result. Even ones begin one pixel earlier.
TAPS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def upsample_conv(graph: Graph) -> int:
    """Replace each Conv that follows a doubling Resize; returns how many."""
    sources = before_upsampling(graph)
    replacements = {
        id(node): _at_half_size(graph, node, sources[id(node)])
        for node in graph.nodes
        if id(node) in sources
    }
    return graph.replace(replacements)


def before_upsampling(graph: Graph) -> dict[int, str]:
    """For each such Conv, by its id(): the tensor that Resize doubles."""
    index = GraphIndex(graph)
    return {
        id(node): resize.inputs[0]
        for node in graph.nodes
        if _has(node, "Conv", _PLAIN_3X3)
        and graph.initializer(node.inputs[1]) is not None
        and (resize := index.producer(node.inputs[0], "Resize")) is not None
        and _has(resize, "Resize", _NEAREST)
        and graph.constant_values(resize.inputs[-1]) == [1.0, 1.0, 2.0, 2.0]
    }


def _has(node: Node, op_type: str, attributes: dict[str, Any]) -> bool:
    found = (node.attributes.get(key) == value for key, value in attributes.items())
    return node.op_type == op_type and all(found)


def _at_half_size(graph: Graph, conv: Node, source: str) -> list[Node]:
    """A Conv for each parity of row and column, and what interleaves their results."""
    output, weight = conv.outputs[0], graph.initializer(conv.inputs[1])
    assert weight is not None
    nodes = []
    for row, column in product((0, 1), (0, 1)):
        part = f"{output}/{row}{column}"
        kernel = np.einsum("rh,oihw,cw->oirc", TAPS[row], weight, TAPS[column], optimize=True)
        inputs = [source, graph.add_initializer(f"{part}/weight", kernel), *conv.inputs[2:]]
        pads = [1 - row, 1 - column, row, column]
        nodes.append(Node.make("Conv", inputs, part, pads=pads, kernel_shape=[2, 2]))
    parts = [node.outputs[0] for node in nodes]
    nodes.append(Node.make("Concat", parts, f"{output}/parts", axis=1))
    return [*nodes, Node.make("DepthToSpace", [f"{output}/parts"], output, blocksize=2)]
