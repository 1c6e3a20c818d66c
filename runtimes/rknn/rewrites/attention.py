"""Keys and values of every second token in height and width, where attention costs most.

before:
    x -+- MatMul - ... - query -+
       +- MatMul - ... - key ---+- MatMul - Softmax -+
       +- MatMul - ... - value ----------------------+- MatMul - output

after:
    x -+------------------------------------ MatMul - ... - query -+
       +- Reshape - Slice - Reshape -+------ MatMul - ... - key ---+- MatMul - Softmax -+
                                     +------ MatMul - ... - value ----------------------+- MatMul

As compiled, attention moves 17 times its matrix (QK^T), and nothing exact was found that costs
less: docs/npu.md. The queries keep all tokens; keys and values come from every second one in height
and width, and the matrix is a quarter of what it was. Neighbours are most alike where the
resolution is highest, so only that level changes. The result is another one, near the first.

Smith, Saxena and Saha, "ToDo: Token Downsampling for Efficient Generation of High-Resolution
Images", 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from runtimes.onnx.graph import GraphIndex, Node, NodeBuilder
from runtimes.rknn.rewrites.context import Context
from runtimes.rknn.shapes import Shape

FACTOR = 2  # in height and in width
_MAX_LEVELS = 8  # at which a UNet may have halved its latents


class _Branch(NamedTuple):
    """How keys or values are made of hidden states: a projection, and what follows it."""

    projection: Node  # MatMul of the hidden states, [1, tokens, channels], and a constant
    reshapes: list[tuple[Node, int]]  # with the axis that their outputs have the tokens on

    @property
    def source(self) -> str:
        """The hidden states."""
        return self.projection.inputs[0]


class _SelfAttention(NamedTuple):
    """Keys and values that come from the same hidden states as their queries."""

    key: _Branch
    value: _Branch


def downsample_keys(context: Context) -> str:
    """Downsample the keys and values of self-attention at the UNet's highest resolution."""
    if context.component != "unet":
        return ""
    attentions = list(_Matcher(context).self_attentions())
    tokens = [context.shapes[each.key.source][1] for each in attentions]
    highest = max(tokens, default=0)
    size = _height_width(context, highest)
    if size is None:
        return ""
    pairs = zip(attentions, tokens, strict=True)
    changed = [attention for attention, count in pairs if count == highest]
    for attention in changed:
        _downsample(context, attention, size)
    context.graph.forget_shapes()
    fewer = f"{_downsampled(size)} tokens instead of {highest}"
    return f"keys and values of {fewer}: {len(changed)} self-attentions"


class _Matcher(GraphIndex):
    """Finds self-attention as both of torch's exporters write it."""

    def __init__(self, context: Context) -> None:
        super().__init__(context.graph)
        self._shapes = context.shapes
        self._constants = set(context.graph.initializers)

    def self_attentions(self) -> Iterator[_SelfAttention]:
        """All that are recognized."""
        for node in self.graph.nodes:
            if node.op_type == "Softmax" and (found := self._around(node)) is not None:
                yield found

    def _around(self, softmax: Node) -> _SelfAttention | None:
        weighted = self.consumers[softmax.outputs[0]]
        scores = self._past_mul(softmax.inputs[0])
        if scores is None or [each.op_type for each in weighted] != ["MatMul"]:
            return None
        query, key = (self._branch(name) for name in scores.inputs)
        value = self._branch(weighted[0].inputs[1])
        if query is None or key is None or value is None:
            return None
        same = query.source == key.source == value.source
        return _SelfAttention(key, value) if same else None

    def _past_mul(self, name: str) -> Node | None:
        """The MatMul that a tensor comes from, through Mul by constants."""
        while (node := self.producer(name, "Mul")) is not None:
            name = self._computed(node)
        return self.producer(name, "MatMul")

    def _branch(self, name: str) -> _Branch | None:
        """Go back to the projection; None if what is in between is not to be changed."""
        nodes: list[Node] = []
        while (node := self.producers.get(name)) is not None:
            name = self._computed(node)
            if not name or len(self.consumers[node.outputs[0]]) != 1:
                return None
            if node.op_type == "MatMul":
                return self._forward(node, nodes[::-1]) if name == node.inputs[0] else None
            if node.op_type not in ("Reshape", "Transpose", "Mul", "Add"):
                return None
            nodes.append(node)
        return None

    def _forward(self, projection: Node, nodes: list[Node]) -> _Branch | None:
        """Follow the axis of the tokens from the projection on."""
        source = self._shapes.get(projection.inputs[0], ())
        if len(source) != 3 or source[0] != 1:
            return None
        axis, reshapes = 1, []
        for node in nodes:
            if node.op_type == "Transpose":
                axis = node.attributes["perm"].index(axis)
            elif node.op_type == "Reshape":
                before, after = (self._shapes.get(x, ()) for x in (node.inputs[0], *node.outputs))
                axes = _starts(after, before[axis], math.prod(before[:axis])) if before else []
                if not axes:
                    return None
                axis = axes[0]
                reshapes.append((node, axis))
        return _Branch(projection, reshapes)

    def _computed(self, node: Node) -> str:
        """The one input that is not a constant, "" if there are more."""
        names = [name for name in node.inputs if name not in self._constants]
        return names[0] if len(names) == 1 else ""


def _starts(shape: Shape, length: int, stride: int) -> list[int]:
    """The axes of this length behind so many elements."""
    return [
        axis
        for axis, found in enumerate(shape)
        if found == length and math.prod(shape[:axis]) == stride
    ]


def _height_width(context: Context, tokens: int) -> tuple[int, int] | None:
    """Of the level that has so many tokens: the latents', halved some times."""
    sample = context.shapes.get("sample", ())
    height, width = sample[2:] if len(sample) == 4 else (0, 0)
    for _ in range(_MAX_LEVELS):
        if height * width == tokens > 0:
            return height, width
        height, width = -(-height // 2), -(-width // 2)
    return None


def _downsampled(size: tuple[int, int]) -> int:
    """How many tokens are left."""
    return math.prod(-(-length // FACTOR) for length in size)


def _downsample(context: Context, attention: _SelfAttention, size: tuple[int, int]) -> None:
    """Let keys and values come from fewer tokens."""
    graph, source = context.graph, attention.key.source
    channels = context.shapes[source][-1]
    builder = NodeBuilder(graph, f"{attention.key.projection.outputs[0]}/downsampled")
    image = builder.make("Reshape", [source, builder.constant([1, *size, channels])])
    limits = ([0, 0], size, [1, 2], [FACTOR, FACTOR])  # starts, ends, axes, steps
    image = builder.make("Slice", [image, *map(builder.constant, limits)])
    fewer = builder.make("Reshape", [image, builder.constant([1, _downsampled(size), channels])])
    replacements: dict[int, list[Node]] = {}
    for projection, reshapes in attention:
        inputs = [fewer, projection.inputs[1]]
        replacements[id(projection)] = [Node.make("MatMul", inputs, projection.outputs[0])]
        for node, axis in reshapes:
            shape = list(context.shapes[node.outputs[0]])
            shape[axis] = _downsampled(size)
            inputs = [node.inputs[0], builder.constant(shape)]
            replacements[id(node)] = [Node.make("Reshape", inputs, node.outputs[0])]
    first = next(id(node) for node in graph.nodes if id(node) in replacements)
    replacements[first] = [*builder.nodes, *replacements[first]]
    graph.replace(replacements)
