"""A product that is cut into parts becomes a product for each, by a part of the weight.

So gated units have no copies made of their two halves.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import add, floordiv, mul
from typing import NamedTuple

import numpy as np

from runtimes.onnx.finder import Finder
from runtimes.onnx.graph import Graph, Node
from runtimes.onnx.nodes import Nodes

_ARITHMETIC: dict[str, Callable[[int, int], int]] = {"Add": add, "Mul": mul, "Div": floordiv}


class _Biased(NamedTuple):
    """A product x W with a bias, as wide as that."""

    x: str
    weight: str
    bias: str
    width: int


def cut_weights(graph: Graph) -> int:
    """Replace every Slice of the last axis, where nothing else needs the product; how many."""
    finder = _Finder(graph)
    replaced: dict[int, list[Node]] = {}
    for name, users in finder.users.items():
        product = finder.biased(name)
        if product is None or not {node.op for node in users} <= {"Slice", "Shape"}:
            continue
        slices = [node for node in users if node.op == "Slice"]
        parts = [finder.part(node, product.width) for node in slices]
        for node, part in zip(slices, parts, strict=True):
            if part is not None and None not in parts:
                replaced[id(node)] = _product(graph, product, part, node.outputs[0])
    return graph.replace(replaced)


def _product(graph: Graph, product: _Biased, part: slice, output: str) -> list[Node]:
    """What takes the place of a Slice."""
    weight, bias = graph.weight(product.weight), graph.weight(product.bias)
    assert weight is not None
    assert bias is not None
    names = [
        graph.add_weight(f"{output}/{name}", np.ascontiguousarray(array[..., part]))
        for name, array in (("weight", weight), ("bias", bias))
    ]
    nodes = Nodes(graph, output)
    unbiased = nodes.make("MatMul", [product.x, names[0]])
    return [*nodes.made, Node.make("Add", [unbiased, names[1]], output)]


class _Finder(Finder):
    def biased(self, name: str) -> _Biased | None:
        """The product with a bias of this name, if it is one that nothing needs without it."""
        node = self.made(name, "Add")
        for product, bias in (node.inputs, node.inputs[::-1]) if node else ():
            matmul, vector = self.made(product, "MatMul"), self.graph.weight(bias)
            weight = self.graph.weight(matmul.inputs[1]) if matmul else None
            if matmul is None or vector is None or weight is None or len(self.users[product]) > 1:
                continue
            if weight.ndim == 2 and vector.shape == weight.shape[1:]:
                return _Biased(matmul.inputs[0], matmul.inputs[1], bias, len(vector))
        return None

    def part(self, node: Node, width: int) -> slice | None:
        """What a Slice takes of a last axis of this width, if that can be told."""
        tensor, *limits = node.inputs
        if len(limits) not in (3, 4):  # before opset 10 they are attributes
            return None
        start, end, *rest = (self._number(name, tensor, width) for name in limits)
        if rest not in ([-1], [-1, 1]) or start is None or end is None:
            return None
        return slice(start, end) if 0 <= start < min(end, width) else None

    def _number(self, name: str, tensor: str, width: int) -> int | None:
        """An integer that follows from the width of a tensor's last axis."""
        numbers, node = self.graph.numbers(name), self.makers.get(name)
        if numbers is not None or node is None:
            integers = numbers is not None and [type(number) for number in numbers] == [int]
            return numbers[0] if numbers and integers else None
        if node.op == "Gather":
            shape = self.made(node.inputs[0], "Shape")
            whole = shape is not None and shape.inputs == [tensor] and "end" not in shape.attributes
            return width if whole and self.graph.numbers(node.inputs[1]) == [-1] else None
        if node.op == "Unsqueeze":
            return self._number(node.inputs[0], tensor, width)
        if node.op not in _ARITHMETIC:
            return None
        first, second = (self._number(each, tensor, width) for each in node.inputs)
        if first is None or first < 0 or not second or second < 0:
            return None
        return _ARITHMETIC[node.op](first, second)
