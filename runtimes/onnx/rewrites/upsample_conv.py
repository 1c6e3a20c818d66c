"""A convolution after doubling the size becomes four of the size before, with 4 taps and not 9."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from runtimes.onnx.graph import Graph, Node

_NEAREST = {
    "mode": b"nearest", "coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor",
}  # fmt: skip
_PLAIN_3X3 = {
    "kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": [1],
}  # fmt: skip
# Rows (or columns) of a kernel that meet the same pixel before doubling, for even and odd ones
# of the result; even ones begin one pixel before.
TAPS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)


def fold_upsampling(graph: Graph) -> int:
    """Replace Resize (nearest, doubling) and Conv (3x3) where both are such; returns how many."""
    sources = doubled(graph)
    folded = {
        id(node): _folded(graph, node, sources[id(node)])
        for node in graph.nodes
        if id(node) in sources
    }
    return graph.replace(folded)


def doubled(graph: Graph) -> dict[int, str]:
    """By the id() of each such Conv, what is doubled for it."""
    makers = {name: node for node in graph.nodes for name in node.outputs}
    return {
        id(node): resize.inputs[0]
        for node in graph.nodes
        if _has(node, "Conv", _PLAIN_3X3)
        and graph.weight(node.inputs[1]) is not None
        and (resize := makers.get(node.inputs[0])) is not None
        and _has(resize, "Resize", _NEAREST)
        and graph.numbers(resize.inputs[-1]) == [1.0, 1.0, 2.0, 2.0]
    }


def _has(node: Node, op: str, attributes: dict[str, Any]) -> bool:
    return node.op == op and all(node.attributes.get(key) == attributes[key] for key in attributes)


def _folded(graph: Graph, conv: Node, source: str) -> list[Node]:
    """The convolutions for even and odd rows and columns, and what interleaves them."""
    output, weight = conv.outputs[0], graph.weight(conv.inputs[1])
    assert weight is not None
    nodes = []
    for down, right in product((0, 1), (0, 1)):
        part = f"{output}/{down}{right}"
        kernel = np.einsum("rh,oihw,cw->oirc", TAPS[down], weight, TAPS[right], optimize=True)
        inputs = [source, graph.add_weight(f"{part}/weight", kernel), *conv.inputs[2:]]
        pads = [1 - down, 1 - right, down, right]
        nodes.append(Node.make("Conv", inputs, part, pads=pads, kernel_shape=[2, 2]))
    parts = [node.outputs[0] for node in nodes]
    nodes.append(Node.make("Concat", parts, f"{output}/parts", axis=1))
    return [*nodes, Node.make("DepthToSpace", [f"{output}/parts"], output, blocksize=2)]
