"""Convolutions of 3x3 by Winograd's algorithm F(4x4, 3x3): 36 products where there were 144.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. What is convolved is cut
into tiles of 6x6 that overlap by 2; transformed tiles are multiplied by transformed weights, place
by place, with the sum over channels in a product of matrices; results, of 4x4, are put together.
Likewise 2x2, which upsampling.py makes: tiles of 5x5, 25 products where there were 64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtimes.onnx.graph import Graph, Node

_PLAIN = {"strides": [1, 1], "dilations": [1, 1], "group": [1]}
_SIZES = ([2, 2], [3, 3])
# Fewer channels are not worth moving tiles about. Weights become 4 times as large, and where they
# are many, and pixels few, reading them is what takes the time.
_FEWEST, _MOST = 128, 2**19  # input channels or output channels; their product
# Points at which polynomials are evaluated, and infinity: with 1/2 and -2 the error is a third of
# that with 2 and -2 (Barabasz et al., "Error Analysis and Improving the Accuracy of Winograd
# Convolution for Deep Neural Networks", 2020).
_POINTS = (0, 1, -1, -2, 0.5)
_SIDE = 4  # of the tiles of a result
# Where channels are few, pictures are large; tiles, 2.25 times as large, are made of a part of it
# at a time: of 1 / n of the rows if 1 / n of so many channels are worked on.
_BANDED = 512
_Make: TypeAlias = Callable[..., str]  # adds a node, returns its output


def transform_convolutions(graph: Graph) -> int:
    """Replace Conv of 3x3 or 2x2 with stride 1 where channels are many; returns how many."""
    tiles = _Tiles(graph)
    replaced = {
        id(node): tiles.convolved(node, weight)
        for node in graph.nodes
        if _is_plain(node) and (weight := graph.weight(node.inputs[1])) is not None
        if min(weight.shape[:2]) >= _FEWEST and weight.shape[0] * weight.shape[1] <= _MOST
    }
    graph.nodes = [new for node in graph.nodes for new in replaced.get(id(node), [node])]
    return len(replaced)


def _is_plain(node: Node) -> bool:
    known = node.attributes
    size, pads = known.get("kernel_shape"), known.get("pads", [])
    return (
        node.op == "Conv"
        and size in _SIZES
        and [sum(pads[::2]), sum(pads[1::2])] == [size[0] - 1, size[1] - 1]  # input's size stays
        and all(known.get(key, value) == value for key, value in _PLAIN.items())
    )


def _evaluations(coefficients: int, points: int) -> NDArray[Any]:
    """[points, coefficients], the values of polynomials at the points, infinity the last."""
    finite = np.vander(np.array(_POINTS[: points - 1]), coefficients, increasing=True)
    return np.vstack([finite, np.eye(1, coefficients, coefficients - 1)])


def _planar(matrix: NDArray[Any]) -> NDArray[Any]:
    """[a * a, b * b] of [a, b]: rows and columns are treated alike."""
    return np.kron(matrix, matrix)


class _Tiles:
    """Cuts, multiplies and joins tiles in a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: set[str] = set()

    def convolved(self, conv: Node, weight: NDArray[Any]) -> list[Node]:
        """What takes the place of a Conv; weight is [outs, ins, taps, taps]."""
        output, (outs, ins, taps, _) = conv.outputs[0], weight.shape
        side, bands = taps + _SIDE - 1, max(1, _BANDED // min(outs, ins))
        nodes: list[Node] = []

        def make(op: str, inputs: list[str], **attributes: Any) -> str:
            nodes.append(Node.make(op, inputs, f"{output}/{len(nodes)}", **attributes))
            return nodes[-1].outputs[0]

        kernels, parts = self._kernels(output, weight, side), []
        for image, pads, inside in self._bands(make, conv, side, bands):
            tiles, count = self._cut(make, image, ins, side, pads)
            whole = self._join(make, make("MatMul", [kernels, tiles]), count, outs, side)
            parts.append(make("Slice", [whole, *inside, self._plane()]))
        if any(conv.inputs[2:]):
            bias = make("Reshape", [conv.inputs[2], self._integers([outs, 1, 1])])
            parts = [make("Add", [part, bias]) for part in parts]
        result = make("Concat", parts, axis=2) if len(parts) > 1 else parts[0]
        return [*nodes, Node.make("Identity", [result], output)]

    def _bands(
        self, make: _Make, conv: Node, side: int, bands: int
    ) -> list[tuple[str, list[int], list[str]]]:
        """Of each band: its image, what Conv is to pad that with, and what of the result counts."""
        image, (top, left, bottom, right) = conv.inputs[0], conv.attributes["pads"]
        bottom, right = bottom + _SIDE - 1, right + _SIDE - 1  # to whole tiles
        size = make("Gather", [make("Shape", [image]), self._plane()])
        if bands == 1:
            return [(image, [top, left, bottom, right], [self._integers([0, 0]), size])]
        always = [0, 0, top, left, 0, 0, side - _SIDE - top, right]
        tables = self._shared_out(make, size, always, bands)
        found = []
        for band in range(bands):
            pads, *inside = (make("Gather", [table, self._integers(band)]) for table in tables)
            found.append((make("Pad", [image, pads]), [0] * 4, inside))
        return found

    def _shared_out(
        self, make: _Make, size: str, pads: list[int], bands: int
    ) -> tuple[str, str, str]:
        """A row for each band: how to pad the image, and starts and ends [row, column] of a Slice.

        All have as many rows of tiles; where rows cannot be shared out, the last bands overlap.
        `pads` are those of an image without height; negative ones cut off.
        """
        integers = self._integers
        height = make("Gather", [size, integers([0])])
        tiles = make("Div", [make("Add", [height, integers([_SIDE - 1])]), integers([_SIDE])])
        each = make("Div", [make("Add", [tiles, integers([bands - 1])]), integers([bands])])
        due = make("Mul", [each, integers([[band] for band in range(bands)])])
        first = make("Min", [due, make("Sub", [tiles, each])])
        last = make("Sub", [make("Mul", [make("Add", [first, each]), integers([_SIDE])]), height])
        above = make("Mul", [first, integers([0, 0, -_SIDE, 0, 0, 0, 0, 0])])
        below = make("Mul", [last, integers([0, 0, 0, 0, 0, 0, 1, 0])])
        padded = make("Add", [make("Add", [above, below]), integers(pads)])
        starts = make("Mul", [make("Sub", [due, first]), integers([_SIDE, 0])])
        ends = make("Sub", [size, make("Mul", [first, integers([_SIDE, 0])])])
        return padded, starts, ends

    def _cut(
        self, make: _Make, image: str, ins: int, side: int, pads: list[int]
    ) -> tuple[str, str]:
        """Transformed tiles [batch, side * side, ins, count], and their count [rows, columns].

        One Conv, of each channel for itself.
        """
        window = {"kernel_shape": [side, side], "strides": [_SIDE, _SIDE], "pads": pads}
        kernel = _planar(np.linalg.inv(_evaluations(side, side)).T).reshape(-1, 1, side, side)
        kernel = np.tile(kernel, (ins, 1, 1, 1)).astype(np.float32)
        cutter = self._constant(f"cutter{ins}x{side}", kernel)
        cut = make("Conv", [image, cutter], group=ins, **window)
        places = self._integers([0, ins, side**2, -1])
        tiles = make("Transpose", [make("Reshape", [cut, places])], perm=[0, 2, 1, 3])
        return tiles, make("Gather", [make("Shape", [cut]), self._plane()])

    def _kernels(self, output: str, weight: NDArray[Any], side: int) -> str:
        """Transformed weights [side * side, outs, ins]."""
        outs, ins, taps, _ = weight.shape
        kernels = _planar(_evaluations(taps, side)) @ weight.reshape(-1, taps**2).T
        kernels = kernels.reshape(side**2, outs, ins).astype(np.float32)
        return self._graph.add_weight(f"{output}/kernels", kernels)

    def _join(self, make: _Make, products: str, count: str, outs: int, side: int) -> str:
        """[batch, outs, 4 * rows, 4 * columns] of products [batch, side * side, outs, count]."""
        flat = self._integers([0, side**2, -1])
        back = _planar(_evaluations(_SIDE, side)).astype(np.float32)
        summands = [make("Reshape", [products, flat]), self._constant(f"back{side}", back)]
        tiles = make("FusedMatMul", summands, transA=1)  # [batch, outs * count, 16]
        channels = self._integers([-1, outs])
        edges = self._integers([_SIDE, _SIDE])
        split = make("Concat", [channels, count, edges], axis=0)
        tiles = make("Transpose", [make("Reshape", [tiles, split])], perm=[0, 1, 2, 4, 3, 5])
        joined = make("Concat", [channels, make("Mul", [count, edges])], axis=0)
        return make("Reshape", [tiles, joined])

    def _plane(self) -> str:
        return self._integers([2, 3])

    def _integers(self, values: Any) -> str:
        name = str(values).replace(" ", "")
        return self._constant(f"integers{name}", np.array(values, np.int64))

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        """A weight that all share who ask for it by this name."""
        name = f"winograd/{name}"
        if name not in self._known:
            self._known.add(name)
            self._graph.add_weight(name, array)
        return name
