"""Group normalization of large pictures by operations that ONNX Runtime spreads over threads.

Exporters write it as InstanceNormalization of groups, which has one thread, then a product and a
sum. Here a product and a sum, or both at once, are all that reads and writes the picture, but for
its moments; they are more exact, too (1.6e-7 and 1.1e-5 of the largest value for normal numbers at
512x512).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtimes.onnx.finder import Finder
from runtimes.onnx.graph import Graph, Node
from runtimes.onnx.nodes import Nodes

# Networks with more channels have small pictures, for which there is nothing to be gained.
_MOST = 512
# Moments are taken of pieces first, of so many rows of a channel, or else of one: the sum of many
# squares is not exact enough to subtract the square of the mean from it.
_ROWS = 8


class _Norm(NamedTuple):
    x: str
    epsilon: float
    groups: int
    gamma: NDArray[Any]
    beta: NDArray[Any]


def rewrite_group_norms(graph: Graph) -> int:
    """Replace every group normalization of pictures with few channels; returns how many."""
    finder = _Finder(graph)
    rewritten = {
        id(node): _rewritten(graph, norm, node.outputs[0])
        for node in graph.nodes
        if node.op == "Add" and (norm := finder.norm(node)) and norm.gamma.size <= _MOST
    }
    return graph.replace(rewritten)


class _Finder(Finder):
    def norm(self, add: Node) -> _Norm | None:
        """The normalization that an Add ends, if it does."""
        product, beta = self._by_channel(add)
        mul = self.made(product, "Mul")
        restored, gamma = self._by_channel(mul) if mul else ("", None)
        back = self.made(restored, "Reshape")
        norm = self.made(back.inputs[0], "InstanceNormalization") if back else None
        split = self.made(norm.inputs[0], "Reshape") if norm else None
        if back is None or norm is None or split is None or gamma is None or beta is None:
            return None
        shape = self.made(back.inputs[1], "Shape")
        part = shape and (shape.attributes.get("start", [0]), shape.attributes.get("end"))
        whole = shape is not None and shape.inputs == split.inputs[:1] and part == ([0], None)
        scale, bias = (self.graph.weight(name) for name in norm.inputs[1:])
        if scale is None or bias is None or (scale != 1).any() or bias.any():
            return None
        alike = gamma.shape == beta.shape and gamma.size % scale.size == 0
        if not whole or not alike or self.graph.numbers(split.inputs[1]) != [0, scale.size, -1]:
            return None
        epsilon = norm.attributes.get("epsilon", [1e-5])[0]
        return _Norm(split.inputs[0], epsilon, scale.size, gamma, beta)

    def _by_channel(self, node: Node) -> tuple[str, NDArray[Any] | None]:
        """Of two inputs: that which is made, and that which is a number for each channel."""
        for other, name in (node.inputs, node.inputs[::-1]):
            weight = self.graph.weight(name)
            if weight is not None and weight.ndim == 3 and weight.shape[1:] == (1, 1):
                return other, weight
        return "", None


def _rewritten(graph: Graph, norm: _Norm, output: str) -> list[Node]:
    """What takes the place of the last operation of a normalization."""
    nodes = Nodes(graph, output)
    make, constant = nodes.make, nodes.constant
    center, variance = _moments(graph, nodes, norm)
    least = constant(norm.epsilon, np.float32)
    deviation = make("Sqrt", [make("Max", [make("Add", [variance, least]), least])])
    gamma, beta = (
        constant(part.reshape(norm.groups, -1), np.float32) for part in (norm.gamma, norm.beta)
    )
    scale = make("Div", [gamma, deviation])  # [batch, groups, channels of each]
    shift = make("Sub", [beta, make("Mul", [center, scale])])
    batch = make("Gather", [make("Shape", [norm.x]), constant([0])])
    one = make("Equal", [batch, constant([1])])
    branches = {
        "then_branch": _applied_at_once(graph, norm, scale, shift, output),
        "else_branch": _applied(graph, norm, scale, shift, output),
    }
    return [*nodes.made, Node.make("If", [one], output, **branches)]


def _applied(graph: Graph, norm: _Norm, scale: str, shift: str, output: str) -> list[Node]:
    """A product and a sum, of pictures that have numbers of their own."""
    nodes = Nodes(graph, f"{output}/several")
    plane = nodes.constant([0, norm.gamma.size, 1, 1])
    factor, summand = (nodes.make("Reshape", [part, plane]) for part in (scale, shift))
    nodes.make("Add", [nodes.make("Mul", [norm.x, factor]), summand])
    return nodes.made


def _applied_at_once(graph: Graph, norm: _Norm, scale: str, shift: str, output: str) -> list[Node]:
    """Of one picture, by a Conv of 1x1 of each channel alone: it is read and written once."""
    nodes, channels = Nodes(graph, f"{output}/alone"), norm.gamma.size
    kernel = nodes.make("Reshape", [scale, nodes.constant([channels, 1, 1, 1])])
    bias = nodes.make("Reshape", [shift, nodes.constant([channels])])
    nodes.make("Conv", [norm.x, kernel, bias], group=channels, kernel_shape=[1, 1])
    return nodes.made


def _moments(graph: Graph, nodes: Nodes, norm: _Norm) -> tuple[str, str]:
    """Mean and variance of each group, [batch, groups, 1]."""
    make, constant = nodes.make, nodes.constant

    def mean(name: str) -> str:
        if graph.opset < 18:
            return make("ReduceMean", [name], axes=[-1])
        return make("ReduceMean", [name, constant([-1])])

    height, rows = make("Gather", [make("Shape", [norm.x]), constant([2])]), constant([_ROWS])
    whole = make("Equal", [make("Mod", [height, rows]), constant([0])])
    count = make("Where", [whole, make("Div", [height, rows]), height])
    cut = make("Concat", [constant([0, norm.gamma.size]), count, constant([1, -1])], axis=0)
    pieces = make("Reshape", [norm.x, cut])  # [batch, channels, count, 1, pixels]
    pixels = make("Gather", [make("Shape", [pieces]), constant([4])])
    squares = make("FusedMatMul", [pieces, pieces], transB=1)
    squares = make("Div", [squares, make("Cast", [pixels], to=1)])
    groups = constant([0, norm.groups, -1])
    means, squares = (make("Reshape", [part, groups]) for part in (mean(pieces), squares))
    # Variances within pieces and between them: nothing is lost by these differences.
    within = make("Sub", [squares, make("Mul", [means, means])])
    center = mean(means)
    offset = make("Sub", [means, center])
    return center, mean(make("Add", [within, make("Mul", [offset, offset])]))
