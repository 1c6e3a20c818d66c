"""A MatMul whose result is split, as one MatMul for each part, by a part of the weight.

before:
    x - MatMul W - Add b -+- Slice [:n] - first part
                          +- Slice [n:] - second part

after:
    x -+- MatMul W[:, :n] - Add b[:n] - first part
       +- MatMul W[:, n:] - Add b[n:] - second part

GEGLU projections in the feed-forward layers of transformers are of this kind: one half is
multiplied by GELU of the other. Each Slice copies its half of the result, which is as large as any
tensor of the layer; the weight is split once, when the graph is optimized.

Applies where the weight and the bias are constants, nothing takes the result but Slices of the last
axis (and Shape, of which they make their limits), and the limits follow from the weight's width.

Shazeer, "GLU Variants Improve Transformer", 2020 (GEGLU).
"""

from __future__ import annotations

from collections.abc import Callable
from operator import add, floordiv, mul
from typing import NamedTuple

import numpy as np

from runtimes.onnx.graph import Graph, GraphIndex, Node, NodeBuilder

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {"Add": add, "Mul": mul, "Div": floordiv}


class _Projection(NamedTuple):
    """x @ weight + bias, [..., width]; names of tensors."""

    x: str
    weight: str
    bias: str
    width: int


def split_matmul(graph: Graph) -> int:
    """Replace each such Slice by a MatMul and an Add; returns how many Slices."""
    matcher = _Matcher(graph)
    replacements: dict[int, list[Node]] = {}
    for name, consumers in matcher.consumers.items():
        projection = matcher.projection(name)
        if projection is None or not {node.op_type for node in consumers} <= {"Slice", "Shape"}:
            continue
        slices = [node for node in consumers if node.op_type == "Slice"]
        parts = [matcher.part(node, projection.width) for node in slices]
        for node, part in zip(slices, parts, strict=True):
            if part is not None and None not in parts:
                replacements[id(node)] = _project(graph, projection, part, node.outputs[0])
    return graph.replace(replacements)


def _project(graph: Graph, projection: _Projection, part: slice, output: str) -> list[Node]:
    """The MatMul and the Add that make one part."""
    weight, bias = graph.initializer(projection.weight), graph.initializer(projection.bias)
    assert weight is not None
    assert bias is not None
    names = [
        graph.add_initializer(f"{output}/{name}", np.ascontiguousarray(array[..., part]))
        for name, array in (("weight", weight), ("bias", bias))
    ]
    builder = NodeBuilder(graph, output)
    unbiased = builder.make("MatMul", [projection.x, names[0]])
    return [*builder.nodes, Node.make("Add", [unbiased, names[1]], output)]


class _Matcher(GraphIndex):
    def projection(self, name: str) -> _Projection | None:
        """The MatMul and Add that make a tensor, if nothing else takes the MatMul's result."""
        node = self.producer(name, "Add")
        for unbiased, bias in (node.inputs, node.inputs[::-1]) if node else ():
            matmul, vector = self.producer(unbiased, "MatMul"), self.graph.initializer(bias)
            weight = self.graph.initializer(matmul.inputs[1]) if matmul else None
            if matmul is None or vector is None or weight is None:
                continue
            alone = len(self.consumers[unbiased]) == 1
            if alone and weight.ndim == 2 and vector.shape == weight.shape[1:]:
                return _Projection(matmul.inputs[0], matmul.inputs[1], bias, len(vector))
        return None

    def part(self, node: Node, width: int) -> slice | None:
        """What a Slice takes of a last axis of this width; None if that is not known."""
        tensor, *limits = node.inputs
        if len(limits) not in (3, 4):  # before opset 10 they are attributes
            return None
        start, end, *rest = (self._integer(name, tensor, width) for name in limits)
        axis_and_step = rest in ([-1], [-1, 1])
        if not axis_and_step or start is None or end is None:
            return None
        return slice(start, end) if 0 <= start < min(end, width) else None

    def _integer(self, name: str, tensor: str, width: int) -> int | None:
        """The value of a constant, or of what is computed from the width of `tensor`."""
        values, node = self.graph.constant_values(name), self.producers.get(name)
        if values is not None or node is None:
            integers = values is not None and [type(value) for value in values] == [int]
            return values[0] if values and integers else None
        if node.op_type == "Gather":
            shape = self.producer(node.inputs[0], "Shape")
            whole = shape is not None and shape.inputs == [tensor] and "end" not in shape.attributes
            last = self.graph.constant_values(node.inputs[1]) == [-1]
            return width if whole and last else None
        if node.op_type == "Unsqueeze":
            return self._integer(node.inputs[0], tensor, width)
        if node.op_type not in _ARITHMETIC:
            return None
        first, second = (self._integer(each, tensor, width) for each in node.inputs)
        if first is None or first < 0 or not second or second < 0:
            return None
        return _ARITHMETIC[node.op_type](first, second)
