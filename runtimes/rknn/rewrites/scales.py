"""Activations divided by powers of two, at no cost: the weights around them take the factor.

Sums, concatenations and enlargements are linear, so what lies between convolutions and linear
layers, a region, can be divided by a number: the weights that make it are divided, those that take
it multiplied. A group normalization takes any scale. In half precision a power of two changes no
digit of a weight that stays within its range.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, GraphIndex, Node

# Operators whose output has the scale of these many first inputs (None: of all).
_LINEAR = {"Add": None, "Concat": None, "Identity": 1, "Reshape": 1, "Resize": 1, "Slice": 1,
           "Split": 1, "Squeeze": 1, "Transpose": 1, "Unsqueeze": 1}  # fmt: skip
_WEIGHTED = ("Conv", "Gemm", "MatMul")  # the second input is the weights, the third a bias
_MAX_ROUNDING = 4e-4  # of weights in half precision, by root mean square; it is 2e-4 in its range


class Regions:
    """The regions of a graph; `ends` are nodes that take any scale."""

    def __init__(self, graph: Graph, ends: Iterable[Node]) -> None:
        self._graph = graph
        self._ends = {id(node) for node in ends}
        self._parents: dict[str, str] = {}
        for node in graph.nodes:
            if self._is_linear(node):
                first, *others = [*self._scaled(node), *node.outputs]
                for name in others:
                    self._unite(first, name)
        self._pinned = {self.of(name) for name in self._fixed_tensors()}

    def of(self, name: str) -> str:
        """The region that a tensor is in, by the name of one of its tensors."""
        while name in self._parents:
            name = self._parents[name]
        return name

    def divide(self, scales: Mapping[str, float]) -> dict[str, float]:
        """Divide regions by powers of two; returns those that were, for which it is exact."""
        left = {name: s for name, s in scales.items() if s != 1 and name not in self._pinned}
        while True:
            inexact = {
                region
                for node, weights, _ in self._weighted(left)
                if _rounding(weights) > _MAX_ROUNDING
                for region in (self.of(node.inputs[0]), self.of(node.outputs[0]))
            }
            if not inexact & left.keys():
                break
            left = {name: scale for name, scale in left.items() if name not in inexact}
        replacements = {}
        for node, weights, out in self._weighted(left):
            constants = [weights, *(self._constant(name) / out for name in node.inputs[2:])]
            replacements[id(node)] = [self._with_constants(node, constants)]
        for node in self._graph.nodes:
            scale = left.get(self.of(node.outputs[0]), 1.0) if self._is_linear(node) else 1.0
            if scale != 1:
                replacements[id(node)] = [self._divided_sum(node, scale)]
        self._graph.replace(replacements)
        return left

    def _unite(self, one: str, other: str) -> None:
        one, other = self.of(one), self.of(other)
        if one != other:
            self._parents[other] = one

    def _is_linear(self, node: Node) -> bool:
        return node.op_type in _LINEAR and id(node) not in self._ends and bool(self._scaled(node))

    def _scaled(self, node: Node) -> list[str]:
        """The inputs of a linear operator that have its output's scale, without constants."""
        inputs = node.inputs[: _LINEAR[node.op_type]]
        return [name for name in inputs if self._graph.initializer(name) is None]

    def _is_weighted(self, node: Node) -> bool:
        constants = (self._graph.initializer(name) for name in node.inputs[1:])
        return node.op_type in _WEIGHTED and all(array is not None for array in constants)

    def _fixed_tensors(self) -> Iterator[str]:
        """Tensors whose scale cannot be changed."""
        index = GraphIndex(self._graph)
        yield from self._graph.outputs
        for node in self._graph.nodes:
            free = id(node) in self._ends or self._is_weighted(node)
            if not self._is_linear(node):
                yield from [] if self._is_weighted(node) else node.outputs
                yield from [] if free else node.inputs
            else:
                yield from set(node.inputs) - set(self._scaled(node))
            yield from (name for name in node.inputs if name not in index.producers)

    def _weighted(self, scales: Mapping[str, float]) -> Iterator[tuple[Node, Array, float]]:
        """Each node that takes or makes a divided tensor: its new weights, its output's scale."""
        for node in self._graph.nodes:
            if self._is_weighted(node):
                taken, made = (
                    scales.get(self.of(name), 1.0) for name in (node.inputs[0], node.outputs[0])
                )
                if taken != 1 or made != 1:
                    yield node, self._constant(node.inputs[1]) * np.float32(taken / made), made

    def _divided_sum(self, node: Node, scale: float) -> Node:
        """A linear node, the constants that it adds or appends divided."""
        inputs = list(node.inputs)
        for index, name in enumerate(node.inputs[: _LINEAR[node.op_type]]):
            array = self._graph.initializer(name)
            if array is not None:
                divided = f"{node.outputs[0]}/{name}/divided"
                inputs[index] = self._graph.add_initializer(
                    divided, (array / scale).astype(np.float32)
                )
        return node.with_inputs(inputs)

    def _with_constants(self, node: Node, constants: Iterable[Array]) -> Node:
        names = [
            self._graph.add_initializer(
                f"{node.outputs[0]}/{name}/divided", array.astype(np.float32)
            )
            for name, array in zip(node.inputs[1:], constants, strict=True)
        ]
        return node.with_inputs([node.inputs[0], *names])

    def _constant(self, name: str) -> Array:
        array = self._graph.initializer(name)
        assert array is not None
        return array


def _rounding(weights: Array) -> float:
    """How far weights are from themselves in half precision, relative, by root mean square."""
    with np.errstate(over="ignore", invalid="ignore"):
        lost = weights.astype(np.float16).astype(np.float32) - weights
        return float(np.linalg.norm(lost)) / max(float(np.linalg.norm(weights)), 1e-30)
