"""Attention as one operator, which never holds the whole attention matrix (QK^T).

before:
    query - Reshape - Transpose -+
    key --- Reshape - Transpose -+- MatMul - Mul - Softmax -+
    value - Reshape - Transpose ----------------------------+- MatMul - Transpose - output

after:
    query - Reshape -+
    key --- Reshape -+
    value - Reshape -+- MultiHeadAttention - Reshape - output

Exporters write attention as two MatMuls with Softmax between them. At 64x64 latents that writes and
reads a matrix of 4096 x 4096 for each head. ONNX Runtime's com.microsoft.MultiHeadAttention works
on blocks of it that stay in the CPU's cache.

Applies to attention with four axes [batch, heads, tokens, channels], a known number of heads, no
mask, and a scale that is constant or 1 / sqrt(channels).

Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from runtimes.onnx.graph import Graph, GraphIndex, Node

_AXES = (0, 1, 2, 3)
# How query, key and value are transposed from [batch, tokens, heads, channels].
_PERMS = [(0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)]


def attention(graph: Graph) -> int:
    """Replace attention by MultiHeadAttention where all of it is recognized; returns how many."""
    matcher = _Matcher(graph)
    replacements = {
        id(last): nodes
        for node in graph.nodes
        if node.op_type == "Softmax" and node.attributes.get("axis") in ([-1], [3])
        for last, nodes in matcher.replacements(node)
    }
    return graph.replace(replacements)


class _Matcher(GraphIndex):
    def replacements(self, softmax: Node) -> Iterator[tuple[Node, list[Node]]]:
        """The last node of the attention around a Softmax, and what replaces it, if anything."""
        scores, _, factors = self._source(softmax.inputs[0], ())
        matmul, weighted = self.producer(scores, "MatMul"), self.consumers[softmax.outputs[0]]
        if matmul is None or [node.op_type for node in weighted] != ["MatMul"]:
            return
        ends = self.consumers[weighted[0].outputs[0]]
        complete = weighted[0].inputs[0] == softmax.outputs[0] and len(ends) == 1
        if not complete or ends[0].attributes.get("perm") != [*_PERMS[0]]:
            return
        inputs = (*matmul.inputs, weighted[0].inputs[1])
        views, perms, scales = zip(*(self._source(name, _AXES) for name in inputs), strict=True)
        shapes = [self._dims(view) for view in views]
        # Queries may have other tokens; that keys and values have as many, MatMul has required.
        alike = len({str(shape[:1] + shape[2:]) for shape in shapes}) == 1
        heads = shapes[0][2] if alike and shapes[0] else None
        if isinstance(heads, int) and [*perms] == _PERMS and not scales[2]:
            scale = self._scale(factors + scales[0] + scales[1], shapes[0][3])
            if scale is not None:
                yield ends[0], self._fused(views, ends[0].outputs[0], heads, scale)

    def _source(self, name: str, axes: tuple[int, ...]) -> Any:
        """Go back from a tensor through Mul by one number and, with four axes, through Transpose.

        Returns the tensor found, its axes in the order of those given, and the factors.
        """
        factors: list[str] = []
        while (node := self.producers.get(name)) is not None:
            perm = node.attributes.get("perm", [])
            factor = next((each for each in node.inputs if self._factor(each)), "")
            if node.op_type == "Mul" and factor:
                factors.append(factor)
                name = node.inputs[node.inputs[0] == factor]
            elif axes and node.op_type == "Transpose" and len(perm) == 4:
                name, axes = node.inputs[0], tuple(perm[axis] for axis in axes)
            elif axes and (source := self._swapped(node)):
                name, axes = source, tuple((0, 1, 3, 2)[axis] for axis in axes)
            else:
                break
        return name, axes, factors

    def _swapped(self, node: Node) -> str | None:
        """The tensor whose last two of four axes Reshape, Transpose, this Reshape exchange."""
        swap = self.producer(node.inputs[0], "Transpose") if node.op_type == "Reshape" else None
        merge = self.producer(swap.inputs[0], "Reshape") if swap else None
        if swap is None or merge is None or swap.attributes["perm"] != [0, 2, 1]:
            return None
        merged, split = self._shape(merge.inputs[1]), self._shape(node.inputs[1])
        dims = self._dims(merge.inputs[0])
        if len(dims) != 4 or len(merged) != 3 or merged[1:] != dims[2:]:
            return None
        return merge.inputs[0] if split == [*dims[:2], dims[3], dims[2]] else None

    def _dims(self, tensor: str) -> list[Any]:
        """The four dimensions of a tensor that comes from a Reshape: integers, or keys.

        A key stands for a dimension known at run time only; equal keys are equal dimensions.
        """
        view, axes, _ = self._source(tensor, _AXES)
        node = self.producer(view, "Reshape")
        shape = self._shape(node.inputs[1]) if node else []
        if len(shape) != 4 or 0 in shape:
            return []
        return [(view, axis) if shape[axis] == -1 else shape[axis] for axis in axes]

    def _shape(self, name: str) -> list[Any]:
        """The elements of a tensor that holds a shape: integers where known, else keys."""
        values, node = self.graph.constant_values(name), self.producers.get(name)
        found: list[Any] = []
        if values is not None:
            return values
        if node is None:
            return [name]
        if node.op_type == "Concat":
            return [item for part in node.inputs for item in self._shape(part)]
        if node.op_type == "Shape" and node.attributes.get("start", [0]) == [0]:
            found = [] if "end" in node.attributes else self._dims(node.inputs[0])
        elif node.op_type == "Unsqueeze":
            found = self._shape(node.inputs[0])
        elif node.op_type in ("Gather", "Slice") and len(shape := self._shape(node.inputs[0])) == 4:
            limits = [self.graph.constant_values(part) or [] for part in node.inputs[1:]]
            if node.op_type == "Gather":
                found = [shape[index] for index in limits[0] if index < 4]
            elif limits[2:] in ([], [[0]], [[0], [1]]) and len(limits[0] + limits[1]) == 2:
                found = shape[slice(*limits[0], *limits[1])]
        return found or [name]

    def _factor(self, name: str) -> list[Any]:
        """The one number of a constant, or ("root", n) for sqrt(1 / sqrt(n)); [] for others."""
        values = self.graph.constant_values(name)
        if values is not None:
            return values if len(values) == 1 else []
        for op_type in ("Sqrt", "Div", "Sqrt", "Cast"):
            node = self.producer(name, op_type)
            divides = op_type == "Div" and node is not None
            if node is None or (divides and self.graph.constant_values(node.inputs[0]) != [1]):
                return []
            name = node.inputs[-1]
        return [("root", *self._shape(name))]

    def _scale(self, factors: list[str], channels: Any) -> float | None:
        """The product of the factors; 0 for 1 / sqrt(channels), None if it is not known."""
        found = [self._factor(name)[0] for name in factors]
        if found == [("root", channels)] * 2:
            return 0.0
        return float(prod(found)) if all(isinstance(each, float) for each in found) else None

    def _fused(self, views: Any, output: str, heads: int, scale: float) -> list[Node]:
        """MultiHeadAttention of [batch, tokens, heads * channels], and the same shape as before."""
        joined = self.graph.add_initializer(f"{output}/joined", np.array([0, 0, -1]))
        split = self.graph.add_initializer(f"{output}/split", np.array([0, 0, heads, -1]))
        names = [f"{output}/{part}" for part in ("query", "key", "value")]
        pairs = zip(views, names, strict=True)
        nodes = [Node.make("Reshape", [view, joined], name) for view, name in pairs]
        options = {"num_heads": heads, **({"scale": scale} if scale else {})}  # 1 / sqrt otherwise
        nodes.append(Node.make("MultiHeadAttention", names, f"{output}/all", **options))
        return [*nodes, Node.make("Reshape", [f"{output}/all", split], output)]
