"""A MatMul by a large weight with the weight as the first factor, where it is read as it is stored.

before:
    x - MatMul W - output

after:
    W' -------------+
    x --- Reshape --+- FusedMatMul: W' x' - Transpose - Reshape - output

ONNX Runtime's MatMul packs its second factor into the order in which the kernel reads it.
Prepacking is off (weights stay mapped), so the second factor would be packed in every run: with 64
tokens that takes as long as the multiplication itself. The first factor is not packed. x W is
(W' x')': then only the tokens are packed, and the result is transposed.

Applies where the weight is constant, with two axes, both of at least _MIN_WIDTH: networks have
such weights where tokens are few. With some hundreds of tokens nothing is gained, nor lost.
"""

from __future__ import annotations

import numpy as np

from runtimes.onnx.graph import Graph, Node, NodeBuilder

_MIN_WIDTH = 768


def transposed_matmul(graph: Graph) -> int:
    """Replace each MatMul by a large weight; returns how many."""
    transposed: dict[str, str] = {}
    replacements = {
        id(node): _weight_first(graph, node, transposed)
        for node in graph.nodes
        if node.op_type == "MatMul"
        and (weight := graph.initializer(node.inputs[1])) is not None
        and weight.ndim == 2
        and min(weight.shape) >= _MIN_WIDTH
    }
    return graph.replace(replacements)


def _weight_first(graph: Graph, node: Node, transposed: dict[str, str]) -> list[Node]:
    """The nodes for a MatMul; `transposed` has the weights that are transposed already, by name.

    x may be of any rank: all of its axes but the last become one.
    """
    (x, name), output = node.inputs, node.outputs[0]
    weight = graph.initializer(name)
    assert weight is not None
    if name not in transposed:
        array = np.ascontiguousarray(weight.T)
        transposed[name] = graph.add_initializer(f"{name}/transposed", array)
    ins, outs = weight.shape
    builder = NodeBuilder(graph, output)
    make, constant = builder.make, builder.constant
    tokens = make("Reshape", [x, constant([-1, ins])])
    # Not Gemm: ONNX Runtime would take the Transpose into it, with the weight second again.
    result = make("FusedMatMul", [transposed[name], tokens], transB=1)
    result = make("Transpose", [result], perm=[1, 0])
    axes = make("Slice", [make("Shape", [x]), constant([0]), constant([-1])])
    shape = make("Concat", [axes, constant([outs])], axis=0)
    return [*builder.nodes, Node.make("Reshape", [result, shape], output)]
