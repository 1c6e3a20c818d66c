"""Products of a few tokens by a large weight have the weight first: it is read where it lies.

ONNX Runtime packs the second factor anew in each run, as weights that are mapped cannot be packed
beforehand; for 64 tokens that takes as long as the product.
"""

from __future__ import annotations

import numpy as np

from runtimes.onnx.graph import Graph, Node
from runtimes.onnx.nodes import Nodes

# Of a weight's sides, the smaller one. Networks have wide weights where tokens are few; and with
# some hundreds of tokens nothing is lost.
_NARROWEST = 768


def turn_products(graph: Graph) -> int:
    """Replace MatMul by a large weight, x W, by the transpose of W' x'; returns how many."""
    weights: dict[str, str] = {}
    turned = {
        id(node): _turned(graph, node, weights)
        for node in graph.nodes
        if node.op == "MatMul"
        and (weight := graph.weight(node.inputs[1])) is not None
        and weight.ndim == 2
        and min(weight.shape) >= _NARROWEST
    }
    return graph.replace(turned)


def _turned(graph: Graph, node: Node, weights: dict[str, str]) -> list[Node]:
    """What takes the place of a MatMul; `weights` has those that are transposed already.

    Tokens, of however many axes, are put into one: x may be of any rank.
    """
    (x, name), output = node.inputs, node.outputs[0]
    weight = graph.weight(name)
    assert weight is not None
    if name not in weights:
        weights[name] = graph.add_weight(f"{name}/turned", np.ascontiguousarray(weight.T))
    ins, outs = weight.shape
    nodes = Nodes(graph, output)
    make, constant = nodes.make, nodes.constant
    flat = make("Reshape", [x, constant([-1, ins])])
    # Not Gemm, which ONNX Runtime would turn back for the sake of the Transpose.
    product = make("FusedMatMul", [weights[name], flat], transB=1)
    back = make("Transpose", [product], perm=[1, 0])
    tokens = make("Slice", [make("Shape", [x]), constant([0]), constant([-1])])
    shape = make("Concat", [tokens, constant([outs])], axis=0)
    return [*nodes.made, Node.make("Reshape", [back, shape], output)]
