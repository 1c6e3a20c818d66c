"""Convolutions of 3x3 by Winograd's algorithm F(4x4, 3x3): 36 products where there were 144.

What is convolved is cut into tiles of 6x6 that overlap by 2; transformed tiles are multiplied by
transformed weights, place by place, with the sum over channels in a product of matrices; results,
of 4x4, are put together. Likewise after doubling the size: tiles of the size before give 8x8 each,
by 100 products and not 576. Large weights would become too large: for them F(2x2, 3x3), with 16
products where there were 36.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtimes.onnx.graph import Graph, Node
from runtimes.onnx.nodes import Nodes
from runtimes.onnx.rewrites.upsample_conv import doubled
from runtimes.onnx.rewrites.winograd_matrices import DOUBLE, SAME, SMALL, Algorithm

_PLAIN = {"strides": [1, 1], "dilations": [1, 1], "group": [1]}
# Fewer channels are not worth moving tiles about. Weights become 4 times as large, by small tiles
# 1.8 times, after doubling 11 times; and where they are many, and pixels few, reading them is what
# takes the time.
_FEWEST = 128  # input channels or output channels
_MOST, _MOST_AFTER_DOUBLING = 2**19, 2**18  # their product
_MOST_BY_SMALL_TILES = 5 * 2**18
# Where channels are few, pictures are large; tiles, 2.25 times as large, are made of a part of it
# at a time: of 1 / n of the rows if 1 / n of so many channels are worked on.
_BANDED = 512
_Make: TypeAlias = Callable[..., str]  # adds a node, returns its output


def transform_convolutions(graph: Graph) -> int:
    """Replace Conv of 3x3 with stride 1 where channels are many, and doubling before it.

    Returns how many.
    """
    tiles, sources = _Tiles(graph), doubled(graph)
    replaced = {
        id(node): tiles.convolved(node, weight, sources.get(id(node), node.inputs[0]), how)
        for node in graph.nodes
        if _is_plain(node)
        and (weight := graph.weight(node.inputs[1])) is not None
        and (how := _algorithm(weight, id(node) in sources)) is not None
    }
    return graph.replace(replaced)


def _algorithm(weight: NDArray[Any], doubling: bool) -> Algorithm | None:
    """The one that pays for so many channels, if any does."""
    outs, ins = weight.shape[:2]
    if min(outs, ins) < _FEWEST:
        return None
    limits = [(DOUBLE, _MOST_AFTER_DOUBLING)]
    if not doubling:
        limits = [(SAME, _MOST), (SMALL, _MOST_BY_SMALL_TILES)]
    return next((how for how, most in limits if outs * ins <= most), None)


def _is_plain(node: Node) -> bool:
    known = node.attributes
    pads = known.get("pads", [])
    return (
        node.op == "Conv"
        and known.get("kernel_shape") == [3, 3]
        and [sum(pads[::2]), sum(pads[1::2])] == [2, 2]  # input's size stays
        and all(known.get(key, value) == value for key, value in _PLAIN.items())
    )


class _Tiles:
    """Cuts, multiplies and joins tiles in a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: set[str] = set()

    def convolved(self, conv: Node, weight: NDArray[Any], image: str, how: Algorithm) -> list[Node]:
        """What takes the place of a Conv, where `image` is what it has, or what was doubled."""
        output, (outs, ins) = conv.outputs[0], weight.shape[:2]
        nodes = Nodes(self._graph, output)
        make = nodes.make
        kernels, wholes, limits = self._kernels(output, weight, how), [], []
        bands, scale = max(1, _BANDED // min(outs, ins)), self._integers([how.side // how.stride])
        size = make("Gather", [make("Shape", [image]), self._plane()])
        pads = conv.attributes["pads"]
        for part, around, inside in self._bands(make, image, size, pads, bands, how):
            cut = self._cut(make, part, ins, how, around)
            products = self._multiply(make, kernels, cut, ins, how)
            wholes.append(self._join(make, products, cut, outs, how))
            limits.append([make("Mul", [each, scale]) for each in inside])
        bias = make("Reshape", [self._bias(conv, outs), self._integers([outs, 1, 1])])
        left = make("Mod", [size, self._integers([bands * how.stride, how.stride])])
        exact = make("Equal", [make("ReduceSum", [left]), self._integers([[0]])])
        branches = {
            "then_branch": self._put_together(f"{output}/whole", wholes, [], bias),
            "else_branch": self._put_together(f"{output}/cropped", wholes, limits, bias),
        }
        return [*nodes.made, Node.make("If", [exact], output, **branches)]

    def _put_together(
        self, name: str, parts: list[str], limits: list[list[str]], bias: str
    ) -> list[Node]:
        """Bands become one, with what is within the limits, if there are any."""
        nodes = Nodes(self._graph, name)
        if limits:
            pairs = zip(parts, limits, strict=True)
            parts = [nodes.make("Slice", [part, *within, self._plane()]) for part, within in pairs]
        whole = nodes.make("Concat", parts, axis=2) if len(parts) > 1 else parts[0]
        nodes.make("Add", [whole, bias])
        return nodes.made

    def _bands(
        self, make: _Make, image: str, size: str, pads: list[int], bands: int, how: Algorithm
    ) -> list[tuple[str, list[int], list[str]]]:
        """Of each band: its image, what Conv is to pad that with, and what of the result counts."""
        top, left, bottom, right = pads
        bottom, right = bottom + how.stride - 1, right + how.stride - 1  # to whole tiles
        if bands == 1:
            return [(image, [top, left, bottom, right], [self._integers([0, 0]), size])]
        always = [0, 0, top, left, 0, 0, how.window - how.stride - top, right]
        tables = self._shared_out(make, size, always, bands, how.stride)
        found = []
        for band in range(bands):
            around, *inside = (make("Gather", [table, self._integers(band)]) for table in tables)
            found.append((make("Pad", [image, around]), [0] * 4, inside))
        return found

    def _shared_out(
        self, make: _Make, size: str, pads: list[int], bands: int, stride: int
    ) -> tuple[str, str, str]:
        """A row for each band: how to pad the image, and starts and ends [row, column] of a Slice.

        All have as many rows of tiles; where rows cannot be shared out, the last bands overlap.
        `pads` are those of an image without height; negative ones cut off.
        """
        integers = self._integers
        height = make("Gather", [size, integers([0])])
        tiles = make("Div", [make("Add", [height, integers([stride - 1])]), integers([stride])])
        each = make("Div", [make("Add", [tiles, integers([bands - 1])]), integers([bands])])
        due = make("Mul", [each, integers([[band] for band in range(bands)])])
        first = make("Min", [due, make("Sub", [tiles, each])])
        last = make("Sub", [make("Mul", [make("Add", [first, each]), integers([stride])]), height])
        above = make("Mul", [first, integers([0, 0, -stride, 0, 0, 0, 0, 0])])
        below = make("Mul", [last, integers([0, 0, 0, 0, 0, 0, 1, 0])])
        padded = make("Add", [make("Add", [above, below]), integers(pads)])
        starts = make("Mul", [make("Sub", [due, first]), integers([stride, 0])])
        ends = make("Sub", [size, make("Mul", [first, integers([stride, 0])])])
        return padded, starts, ends

    def _cut(self, make: _Make, image: str, ins: int, how: Algorithm, pads: list[int]) -> str:
        """Transformed tiles [batch, ins * places, rows, columns]: a Conv of each channel alone."""
        window = {"kernel_shape": [how.window] * 2, "strides": [how.stride] * 2, "pads": pads}
        kernel = how.cut.reshape(-1, 1, how.window, how.window).astype(np.float32)
        name = f"cutter{ins}x{how.products}"
        cutter = self._constant(name, lambda: np.tile(kernel, (ins, 1, 1, 1)))
        return make("Conv", [image, cutter], group=ins, **window)

    def _kernels(self, output: str, weight: NDArray[Any], how: Algorithm) -> str:
        """Transformed weights [1, places, outs, ins]."""
        outs, ins = weight.shape[:2]
        kernels = how.weigh @ weight.reshape(outs * ins, -1).T
        kernels = kernels.reshape(1, -1, outs, ins).astype(np.float32)
        return self._graph.add_weight(f"{output}/kernels", kernels)

    def _bias(self, conv: Node, outs: int) -> str:
        if any(conv.inputs[2:]):
            return conv.inputs[2]
        return self._constant(f"zeros{outs}", lambda: np.zeros(outs, np.float32))

    def _multiply(self, make: _Make, kernels: str, cut: str, ins: int, how: Algorithm) -> str:
        """Sums over channels [batch, places, outs, tiles].

        Tiles of several pictures are moved about for that; those of one need not be.
        """
        places = how.products
        batch = make("Gather", [make("Shape", [cut]), self._integers([0])])
        one = make("Equal", [batch, self._integers([1])])
        alone, several = (Nodes(self._graph, f"{cut}/{case}") for case in ("alone", "several"))
        tiles = alone.make("Reshape", [cut, self._integers([ins, 1, places, -1])])
        alone.make("FusedMatMul", [kernels, tiles], transBatchB=1)
        tiles = several.make("Reshape", [cut, self._integers([0, ins, places, -1])])
        tiles = several.make("Transpose", [tiles], perm=[0, 2, 1, 3])
        several.make("MatMul", [kernels, tiles])
        return make("If", [one], then_branch=alone.made, else_branch=several.made)

    def _join(self, make: _Make, products: str, cut: str, outs: int, how: Algorithm) -> str:
        """[batch, outs, side * rows, side * columns] of products [batch, places, outs, tiles]."""
        back = self._constant(f"back{how.side}", lambda: how.back.T.astype(np.float32))
        flat = make("Reshape", [products, self._integers([0, how.products, -1])])
        tiles = make("FusedMatMul", [flat, back], transA=1)  # [batch, outs * tiles, side * side]
        side, integers = how.side, self._integers
        shape = make("Shape", [cut])
        rows, columns = (make("Gather", [shape, integers([axis])]) for axis in (2, 3))
        height, width = (make("Mul", [count, integers([side])]) for count in (rows, columns))
        lines = make("Concat", [integers([-1]), rows, width, integers([side])], axis=0)
        order = self._by_line(make, width, side)
        tiles = make("Gather", [make("Reshape", [tiles, lines]), order], axis=2)
        joined = make("Concat", [integers([-1, outs]), height, width], axis=0)
        return make("Reshape", [tiles, joined])

    def _by_line(self, make: _Make, width: str, side: int) -> str:
        """In which order a row of tiles, line by line of each, is lines of a picture.

        For Gather, which ONNX Runtime spreads over threads, as it does not with Transpose.
        """
        integers = self._integers
        order = make("Range", [integers(0), make("Squeeze", [width]), integers(1)])
        by_tile = make("Reshape", [order, integers([-1, side])])
        return make("Reshape", [make("Transpose", [by_tile], perm=[1, 0]), integers([-1])])

    def _plane(self) -> str:
        return self._integers([2, 3])

    def _integers(self, values: Any) -> str:
        name = str(values).replace(" ", "")
        return self._constant(f"integers{name}", lambda: np.array(values, np.int64))

    def _constant(self, name: str, array: Callable[[], NDArray[Any]]) -> str:
        """A weight that all share who ask for it by this name."""
        name = f"winograd/{name}"
        if name not in self._known:
            self._known.add(name)
            self._graph.add_weight(name, array())
        return name
