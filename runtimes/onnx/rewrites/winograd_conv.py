"""3x3 convolutions by Winograd's minimal filtering: a quarter of the multiplications.

before:
    x - Conv 3x3 - output                     or: x - Resize x2 - Conv 3x3 - output

after:
    transformed filters -----------------+
    x - depthwise Conv: input transform -+- MatMul -+
    +-----------------------------------------------+
    +- MatMul: output transform - Gather: lines of tiles to lines of the image - Add bias - output

The image is divided into tiles of 6x6 that overlap by 2, and a depthwise Conv transforms them.
Transformed tiles and filters are multiplied element by element and summed over input channels,
which is one MatMul [outs, ins] x [ins, tiles] for each of the 36 elements. The output transform
makes 4x4 results of each tile, with 36 multiplications where there were 144: F(4x4, 3x3). With
Resize, tiles are those of the image before it: 100 multiplications make 8x8 results, not 576.
Filters that would become too large are transformed for F(2x2, 3x3): 16 multiplications, not 36.

Applies to Conv with stride 1, no dilation, one group, constant weights and padding that keeps the
image's size, with at least _MIN_CHANNELS channels, where the transformed filters are not too large.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, Node, NodeBuilder
from runtimes.onnx.rewrites.upsample_conv import before_upsampling
from runtimes.onnx.rewrites.winograd_matrices import F2X2, F4X4, UPSAMPLE_F4X4, Algorithm

_PLAIN = {"strides": [1, 1], "dilations": [1, 1], "group": [1]}
# With fewer channels the transforms take longer than the MatMuls save.
_MIN_CHANNELS = 128  # input channels or output channels
# Filters become 4 times as large by F4X4, 1.8 times by F2X2, 11 times by UPSAMPLE_F4X4; where they
# are large, and images small, reading them is what takes the time.
_MAX_F4X4, _MAX_F2X2, _MAX_UPSAMPLE = 2**19, 5 * 2**18, 2**18  # inputs * outputs
# Where channels are few, images are large, and their tiles together are 2.25 times as large: then
# only a band of rows is worked on at a time. This is the number of bands times the channels.
_BANDS_BY_CHANNELS = 512
_Make: TypeAlias = Callable[..., str]  # adds a node, returns its output


def winograd_conv(graph: Graph) -> int:
    """Replace each such Conv, with the upsampling before it, if any; returns how many."""
    writer, upsampled = _Writer(graph), before_upsampling(graph)
    replacements = {
        id(node): writer.convolution(
            node, weight, upsampled.get(id(node), node.inputs[0]), algorithm
        )
        for node in graph.nodes
        if _is_plain(node)
        and (weight := graph.initializer(node.inputs[1])) is not None
        and (algorithm := _algorithm(weight, id(node) in upsampled)) is not None
    }
    return graph.replace(replacements)


def _algorithm(weight: Array, upsampled: bool) -> Algorithm | None:
    """The fastest one for these channels; None if the plain Conv is faster."""
    outs, ins = weight.shape[:2]
    if min(outs, ins) < _MIN_CHANNELS:
        return None
    limits = [(UPSAMPLE_F4X4, _MAX_UPSAMPLE)]
    if not upsampled:
        limits = [(F4X4, _MAX_F4X4), (F2X2, _MAX_F2X2)]
    return next((algorithm for algorithm, most in limits if outs * ins <= most), None)


def _is_plain(node: Node) -> bool:
    attributes = node.attributes
    pads = attributes.get("pads", [])
    return (
        node.op_type == "Conv"
        and attributes.get("kernel_shape") == [3, 3]
        and [sum(pads[::2]), sum(pads[1::2])] == [2, 2]  # the image keeps its size
        and all(attributes.get(key, value) == value for key, value in _PLAIN.items())
    )


class _Writer:
    """Writes the nodes of convolutions; they share constants."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: set[str] = set()

    def convolution(
        self, conv: Node, weight: Array, image: str, algorithm: Algorithm
    ) -> list[Node]:
        """The nodes for a Conv; `image` is its input, or what was upsampled to be that."""
        output, (outs, ins) = conv.outputs[0], weight.shape[:2]
        builder = NodeBuilder(self._graph, output)
        make = builder.make
        filters, bands, crops = self._filters(output, weight, algorithm), [], []
        count = max(1, _BANDS_BY_CHANNELS // min(outs, ins))
        scale = self._integers([algorithm.output_tile // algorithm.stride])
        size = make("Gather", [make("Shape", [image]), self._height_and_width()])
        whole_pads = conv.attributes["pads"]
        for part, pads, crop in self._bands(make, image, size, whole_pads, count, algorithm):
            tiles = self._transform_input(make, part, ins, algorithm, pads)
            results = self._multiply(make, filters, tiles, ins, algorithm)
            bands.append(self._transform_output(make, results, tiles, outs, algorithm))
            crops.append([make("Mul", [limit, scale]) for limit in crop])
        bias = make("Reshape", [self._bias(conv, outs), self._integers([outs, 1, 1])])
        whole = [count * algorithm.stride, algorithm.stride]
        remainder = make("Mod", [size, self._integers(whole)])
        fits = make("Equal", [make("ReduceSum", [remainder]), self._integers([[0]])])
        branches = {
            "then_branch": self._assemble(f"{output}/whole", bands, [], bias),
            "else_branch": self._assemble(f"{output}/cropped", bands, crops, bias),
        }
        return [*builder.nodes, Node.make("If", [fits], output, **branches)]

    def _assemble(
        self, name: str, bands: list[str], crops: list[list[str]], bias: str
    ) -> list[Node]:
        """Join the bands, cropped if there are `crops` (starts and ends), and add the bias."""
        builder = NodeBuilder(self._graph, name)
        if crops:
            axes = self._height_and_width()
            pairs = zip(bands, crops, strict=True)
            bands = [builder.make("Slice", [band, *crop, axes]) for band, crop in pairs]
        whole = builder.make("Concat", bands, axis=2) if len(bands) > 1 else bands[0]
        builder.make("Add", [whole, bias])
        return builder.nodes

    def _bands(
        self, make: _Make, image: str, size: str, pads: list[int], count: int, algorithm: Algorithm
    ) -> list[tuple[str, list[int], list[str]]]:
        """For each band: its image, the pads of its Conv, and which of its results count.

        The last are starts and ends [row, column] of a Slice, in pixels of the input.
        """
        top, left, bottom, right = pads
        stride = algorithm.stride
        bottom, right = bottom + stride - 1, right + stride - 1  # to whole tiles
        if count == 1:
            return [(image, [top, left, bottom, right], [self._integers([0, 0]), size])]
        pads_without_height = [0, 0, top, left, 0, 0, algorithm.tile - stride - top, right]
        tables = self._band_tables(make, size, pads_without_height, count, stride)
        bands = []
        for band in range(count):
            band_pads, *crop = (make("Gather", [table, self._integers(band)]) for table in tables)
            bands.append((make("Pad", [image, band_pads]), [0] * 4, crop))
        return bands

    def _band_tables(
        self, make: _Make, size: str, pads: list[int], count: int, stride: int
    ) -> tuple[str, str, str]:
        """A row for each band: the pads of Pad, and starts and ends [row, column] of a Slice.

        All bands have as many rows of tiles; if these cannot be divided evenly, the last bands
        start above their `first_row`, and overlap. `pads` are those of an image without height;
        negative ones crop.
        """
        integers = self._integers
        height = make("Gather", [size, integers([0])])
        tiles = make("Div", [make("Add", [height, integers([stride - 1])]), integers([stride])])
        rows = make("Div", [make("Add", [tiles, integers([count - 1])]), integers([count])])
        first_row = make("Mul", [rows, integers([[band] for band in range(count)])])
        start = make("Min", [first_row, make("Sub", [tiles, rows])])
        end = make("Mul", [make("Add", [start, rows]), integers([stride])])
        excess = make("Sub", [end, height])
        above = make("Mul", [start, integers([0, 0, -stride, 0, 0, 0, 0, 0])])
        below = make("Mul", [excess, integers([0, 0, 0, 0, 0, 0, 1, 0])])
        padded = make("Add", [make("Add", [above, below]), integers(pads)])
        starts = make("Mul", [make("Sub", [first_row, start]), integers([stride, 0])])
        ends = make("Sub", [size, make("Mul", [start, integers([stride, 0])])])
        return padded, starts, ends

    def _transform_input(
        self, make: _Make, image: str, ins: int, algorithm: Algorithm, pads: list[int]
    ) -> str:
        """Transformed tiles [batch, ins * multiplications, rows, columns], by a depthwise Conv."""
        side, stride = algorithm.tile, algorithm.stride
        window = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": pads}
        kernel = algorithm.input_transform.reshape(-1, 1, side, side).astype(np.float32)
        name = f"input_transform{ins}x{algorithm.multiplications}"
        transform = self._constant(name, lambda: np.tile(kernel, (ins, 1, 1, 1)))
        return make("Conv", [image, transform], group=ins, **window)

    def _filters(self, output: str, weight: Array, algorithm: Algorithm) -> str:
        """Transformed filters [1, multiplications, outs, ins]."""
        outs, ins = weight.shape[:2]
        filters = algorithm.filter_transform @ weight.reshape(outs * ins, -1).T
        filters = filters.reshape(1, -1, outs, ins).astype(np.float32)
        return self._graph.add_initializer(f"{output}/filters", filters)

    def _bias(self, conv: Node, outs: int) -> str:
        if any(conv.inputs[2:]):
            return conv.inputs[2]
        return self._constant(f"zeros{outs}", lambda: np.zeros(outs, np.float32))

    def _multiply(
        self, make: _Make, filters: str, tiles: str, ins: int, algorithm: Algorithm
    ) -> str:
        """Sums over input channels [batch, multiplications, outs, tiles].

        With several images, tiles must be transposed for that; those of one image need not be.
        """
        count = algorithm.multiplications
        batch = make("Gather", [make("Shape", [tiles]), self._integers([0])])
        is_one = make("Equal", [batch, self._integers([1])])
        one, several = (NodeBuilder(self._graph, f"{tiles}/{name}") for name in ("one", "several"))
        columns = one.make("Reshape", [tiles, self._integers([ins, 1, count, -1])])
        one.make("FusedMatMul", [filters, columns], transBatchB=1)
        columns = several.make("Reshape", [tiles, self._integers([0, ins, count, -1])])
        columns = several.make("Transpose", [columns], perm=[0, 2, 1, 3])
        several.make("MatMul", [filters, columns])
        return make("If", [is_one], then_branch=one.nodes, else_branch=several.nodes)

    def _transform_output(
        self, make: _Make, results: str, tiles: str, outs: int, algorithm: Algorithm
    ) -> str:
        """The image [batch, outs, height, width] of [batch, multiplications, outs, tiles]."""
        side, integers = algorithm.output_tile, self._integers
        matrix = algorithm.output_transform.T.astype(np.float32)
        transform = self._constant(f"output_transform{side}", lambda: matrix)
        flat = make("Reshape", [results, integers([0, algorithm.multiplications, -1])])
        pixels = make("FusedMatMul", [flat, transform], transA=1)  # [batch, outs * tiles, side**2]
        shape = make("Shape", [tiles])
        rows, columns = (make("Gather", [shape, integers([axis])]) for axis in (2, 3))
        height, width = (make("Mul", [count, integers([side])]) for count in (rows, columns))
        lines = make("Concat", [integers([-1]), rows, width, integers([side])], axis=0)
        order = self._line_order(make, width, side)
        pixels = make("Gather", [make("Reshape", [pixels, lines]), order], axis=2)
        image = make("Concat", [integers([-1, outs]), height, width], axis=0)
        return make("Reshape", [pixels, image])

    def _line_order(self, make: _Make, width: str, side: int) -> str:
        """The indices that make lines of an image of a row of tiles, each with its own lines.

        For Gather, which ONNX Runtime spreads over threads, as it does not with Transpose.
        """
        integers = self._integers
        order = make("Range", [integers(0), make("Squeeze", [width]), integers(1)])
        by_tile = make("Reshape", [order, integers([-1, side])])
        return make("Reshape", [make("Transpose", [by_tile], perm=[1, 0]), integers([-1])])

    def _height_and_width(self) -> str:
        return self._integers([2, 3])

    def _integers(self, values: Any) -> str:
        name = str(values).replace(" ", "")
        return self._constant(f"integers{name}", lambda: np.array(values, np.int64))

    def _constant(self, name: str, array: Callable[[], Array]) -> str:
        """An initializer that all nodes of this name's constant share."""
        name = f"winograd/{name}"
        if name not in self._known:
            self._known.add(name)
            self._graph.add_initializer(name, array())
        return name
