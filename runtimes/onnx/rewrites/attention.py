"""MatMul, Softmax, MatMul become one operation that never holds the matrix of all scores."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from runtimes.onnx.finder import Finder
from runtimes.onnx.graph import Graph, Node

_FOUR = (0, 1, 2, 3)
_WAYS = [(0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)]  # of query, key, value from [b, n, heads, c]


def fuse_attention(graph: Graph) -> int:
    """Replace every attention without a mask that is fully recognized; returns how many.

    The operation is com.microsoft.MultiHeadAttention, which ONNX Runtime has on the CPU.
    """
    matcher = _Matcher(graph)
    fused = {
        id(end): nodes
        for node in graph.nodes
        if node.op == "Softmax" and node.attributes.get("axis") in ([-1], [3])
        for end, nodes in matcher.replacements(node)
    }
    return graph.replace(fused)


class _Matcher(Finder):
    def replacements(self, softmax: Node) -> Iterator[tuple[Node, list[Node]]]:
        """The last node of the attention around a Softmax, and what takes its place, if any."""
        scores, _, factors = self._source(softmax.inputs[0], ())
        product, weighted = self.made(scores, "MatMul"), self.users[softmax.outputs[0]]
        if product is None or [node.op for node in weighted] != ["MatMul"]:
            return
        ends = self.users[weighted[0].outputs[0]]
        whole = weighted[0].inputs[0] == softmax.outputs[0] and len(ends) == 1
        if not whole or ends[0].attributes.get("perm") != [*_WAYS[0]]:
            return
        sources = [self._source(name, _FOUR) for name in (*product.inputs, weighted[0].inputs[1])]
        views, ways, scales = zip(*sources, strict=True)
        shapes = [self._dims(view) for view in views]
        # Tokens may differ: products see to it that keys and values have as many.
        alike = len({str(shape[:1] + shape[2:]) for shape in shapes}) == 1
        heads = shapes[0][2] if alike and shapes[0] else None
        if isinstance(heads, int) and [*ways] == _WAYS and not scales[2]:
            scale = self._scale(factors + scales[0] + scales[1], shapes[0][3])
            if scale is not None:
                yield ends[0], self._fused(views, ends[0].outputs[0], heads, scale)

    def _source(self, name: str, axes: tuple[int, ...]) -> Any:
        """What a tensor is made of by moving axes (all four, or none), and factors on the way."""
        factors: list[str] = []
        while (node := self.makers.get(name)) is not None:
            perm = node.attributes.get("perm", [])
            factor = next((n for n in node.inputs if self._factor(n)), "")
            if node.op == "Mul" and factor:
                factors.append(factor)
                name = node.inputs[node.inputs[0] == factor]
            elif axes and node.op == "Transpose" and len(perm) == 4:
                name, axes = node.inputs[0], tuple(perm[axis] for axis in axes)
            elif axes and (turned := self._turned(node)):
                name, axes = turned, tuple((0, 1, 3, 2)[axis] for axis in axes)
            else:
                break
        return name, axes, factors

    def _turned(self, node: Node) -> str | None:
        """What a Reshape ends to exchange the last two of four axes in the guise of three."""
        turn = self.made(node.inputs[0], "Transpose") if node.op == "Reshape" else None
        merge = self.made(turn.inputs[0], "Reshape") if turn else None
        if turn is None or merge is None or turn.attributes["perm"] != [0, 2, 1]:
            return None
        merged, split = self._shape(merge.inputs[1]), self._shape(node.inputs[1])
        dims = self._dims(merge.inputs[0])
        if len(dims) != 4 or len(merged) != 3 or merged[1:] != dims[2:]:
            return None
        return merge.inputs[0] if split == [*dims[:2], dims[3], dims[2]] else None

    def _dims(self, tensor: str) -> list[Any]:
        """Dimensions of a tensor that a Reshape to four made; numbers, or what tells them apart."""
        view, axes, _ = self._source(tensor, _FOUR)
        node = self.made(view, "Reshape")
        shape = self._shape(node.inputs[1]) if node else []
        if len(shape) != 4 or 0 in shape:
            return []
        return [(view, axis) if shape[axis] == -1 else shape[axis] for axis in axes]

    def _shape(self, name: str) -> list[Any]:
        """The elements of a shape: numbers where they are known, else what tells them apart."""
        numbers, node = self.graph.numbers(name), self.makers.get(name)
        found: list[Any] = []
        if numbers is not None:
            return numbers
        if node is None:
            return [name]
        if node.op == "Concat":
            return [item for part in node.inputs for item in self._shape(part)]
        if node.op == "Shape" and node.attributes.get("start", [0]) == [0]:
            found = [] if "end" in node.attributes else self._dims(node.inputs[0])
        elif node.op == "Unsqueeze":
            found = self._shape(node.inputs[0])
        elif node.op in ("Gather", "Slice") and len(shape := self._shape(node.inputs[0])) == 4:
            limits = [self.graph.numbers(part) or [] for part in node.inputs[1:]]
            if node.op == "Gather":
                found = [shape[index] for index in limits[0] if index < 4]
            elif limits[2:] in ([], [[0]], [[0], [1]]) and len(limits[0] + limits[1]) == 2:
                found = shape[slice(*limits[0], *limits[1])]
        return found or [name]

    def _factor(self, name: str) -> list[Any]:
        """One number; or n for the square root of 1 / sqrt(n), where n is known at run time."""
        numbers = self.graph.numbers(name)
        if numbers is not None:
            return numbers if len(numbers) == 1 else []
        for op in ("Sqrt", "Div", "Sqrt", "Cast"):
            node = self.made(name, op)
            if node is None or (op == "Div" and self.graph.numbers(node.inputs[0]) != [1]):
                return []
            name = node.inputs[-1]
        return [("root", *self._shape(name))]

    def _scale(self, factors: list[str], channels: Any) -> float | None:
        """Of the scores; 0 for ONNX Runtime's own, 1 / sqrt(channels)."""
        found = [self._factor(name)[0] for name in factors]
        if found == [("root", channels)] * 2:
            return 0.0
        return float(prod(found)) if all(isinstance(each, float) for each in found) else None

    def _fused(self, views: Any, output: str, heads: int, scale: float) -> list[Node]:
        joined = self.graph.add_weight(f"{output}/joined", np.array([0, 0, -1]))
        split = self.graph.add_weight(f"{output}/split", np.array([0, 0, heads, -1]))
        names = [f"{output}/{part}" for part in ("query", "key", "value")]
        pairs = zip(views, names, strict=True)
        nodes = [Node.make("Reshape", [view, joined], name) for view, name in pairs]
        options = {"num_heads": heads, **({"scale": scale} if scale else {})}
        nodes.append(Node.make("MultiHeadAttention", names, f"{output}/all", **options))
        return [*nodes, Node.make("Reshape", [f"{output}/all", split], output)]
