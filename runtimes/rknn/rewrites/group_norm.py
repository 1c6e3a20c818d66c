"""Group normalization in the layout of the convolutions, safe in half precision.

before:
    x - Reshape - InstanceNormalization - Reshape - Mul gamma - Add beta - output

after, in "one pass", m and q being of groups, scale and shift of channels:
    x -+- GlobalAveragePool - Conv - m -------------+- variance = q - m*m
       +- Mul x - GlobalAveragePool - Conv - q -----+- r = (variance + epsilon)^-0.5
       +- depthwise Conv - output                     scale = gamma*r, shift = beta - gamma*m*r

after, with the "mean first":
    x - Sub m - c -+- Mul c - GlobalAveragePool - Conv - variance - r = (variance + epsilon)^-0.5
                   +- depthwise Conv - output         scale = gamma*r, shift = beta

rknn-toolkit2 compiles InstanceNormalization of groups into means by thousands of tiny tasks, in a
layout of their own. Here all stays in that of the convolutions; what is computed of groups are
convolutions of one pixel, with gamma and beta in their weights. The last one has weights that are
computed, too (rknn-toolkit2 takes them since 1.6.0), and reads and writes the image once; the
activation after it is compiled into it.

Half precision ends at 65504, so the square of an activation above 255 is infinite, and that of one
below 0.008 is not a normal number. Where activations on the calibration's inputs are not well
within that, x is divided by a power of two, which the result does not depend on: by the weights
around it where that is possible (rewrites/scales.py), else by a Mul. "One pass" subtracts squares
of nearly equal size where a group's mean is large beside its deviation: there the mean is
subtracted first, which costs another pass over the image.

Wu and He, "Group Normalization", 2018.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, GraphIndex, Node, NodeBuilder
from runtimes.onnx.rewrites.group_norm import GroupNorm as OfImage
from runtimes.onnx.rewrites.group_norm import replacement
from runtimes.rknn.cost.prediction import GROUP_NORM
from runtimes.rknn.rewrites.context import Context
from runtimes.rknn.rewrites.scales import Regions
from runtimes.rknn.shapes import Shape

ONE_PASS, MEAN_FIRST = "one pass", "mean first"
# A group's squared mean by its variance, from which the mean is subtracted first.
MAX_RATIO = 8.0
# The root mean square of x that is aimed at, the range that is left as it is, and its largest
# value: the square of one twice as large as any of the calibration's is still finite.
TARGET_RMS, MIN_RMS, MAX_RMS, MAX_PEAK = 4.0, 0.25, 16.0, 120.0
MIN_VARIANCE = 2.0**-14  # half precision's smallest normal number
MAX_POOLED, _POOL = 2**17, 8  # pixels that one pooling takes the mean of; the side of a first one


class GroupNorm(NamedTuple):
    """A group normalization of x, [1, channels, ...], found in a graph.

    Where it stands in an attention block, the output may be [1, channels, pixels] of an image x.
    """

    x: str
    output: str
    split: Node  # the first of its nodes
    add: Node  # the last of them
    epsilon: float
    groups: int
    gamma: Array  # [channels]
    beta: Array


class Statistics(NamedTuple):
    """What a normalization's input was on the calibration's inputs."""

    rms: float
    peak: float
    ratio: float  # the largest of a group's squared mean by its variance


class Choice(NamedTuple):
    """How a normalization is computed."""

    form: str
    folded: float  # what divides x in the weights around it
    explicit: float  # what divides it once more, by a pass over the image

    def __str__(self) -> str:
        by_pass = f", {self.explicit:g} by a pass" if self.explicit != 1 else ""
        return f"{self.form}, scale {self.folded * self.explicit:g}{by_pass}"


def group_norm(context: Context) -> str:
    """Rewrite all group normalizations of the usual form."""
    graph = context.graph
    norms = find(graph)
    if not norms:
        return ""
    statistics = measure(context, norms)
    divided = divide_regions(graph, norms, statistics)
    choices = [choose(*each) for each in zip(statistics, divided, strict=True)]
    graph.replace(
        {
            id(norm.add): _nodes(context, norm, choice)
            for norm, choice in zip(norms, choices, strict=True)
        }
    )
    context.record["group_norms"] = [
        f"{norm.output}: {choice}" for norm, choice in zip(norms, choices, strict=True)
    ]
    left = sum(node.op_type == "InstanceNormalization" for node in graph.nodes) - len(norms)
    return _summary(choices) + (f"; {left} not recognized" if left else "")


def find(graph: Graph) -> list[GroupNorm]:
    """The group normalizations, as both of torch's exporters write them."""
    index = GraphIndex(graph)
    found = (_match(index, node) for node in graph.nodes if node.op_type == "Add")
    return [norm for norm in found if norm is not None]


def exact(graph: Graph, shapes: Mapping[str, Shape]) -> int:
    """Compute group normalizations of images as the runtime of hosts does; returns how many.

    ONNX Runtime's InstanceNormalization is off by 1e-5 at 512x512, which a network may enlarge to
    more than a rewrite is allowed to change.
    """
    images = [norm for norm in find(graph) if len(shapes[norm.x]) == len(shapes[norm.output]) == 4]
    return graph.replace(
        {
            id(norm.add): replacement(
                graph,
                OfImage(norm.x, norm.epsilon, norm.groups, norm.gamma, norm.beta),
                norm.output,
            )
            for norm in images
        }
    )


def _match(index: GraphIndex, add: Node) -> GroupNorm | None:
    """The group normalization that ends with this Add, if there is one."""
    scaled, beta = _by_channel(index.graph, add)
    mul = index.producer(scaled, "Mul")
    normalized, gamma = _by_channel(index.graph, mul) if mul else ("", None)
    merge = index.producer(normalized, "Reshape")
    norm = index.producer(merge.inputs[0], "InstanceNormalization") if merge else None
    split = index.producer(norm.inputs[0], "Reshape") if norm else None
    if norm is None or split is None or gamma is None or beta is None:
        return None
    scale, bias = (index.graph.initializer(name) for name in norm.inputs[1:])
    if scale is None or bias is None or (scale != 1).any() or bias.any():
        return None
    if gamma.shape != beta.shape or gamma.size % scale.size:
        return None
    epsilon = norm.attributes.get("epsilon", [1e-5])[0]
    return GroupNorm(
        split.inputs[0],
        add.outputs[0],
        split,
        add,
        epsilon,
        scale.size,
        gamma.ravel(),
        beta.ravel(),
    )


def _by_channel(graph: Graph, node: Node) -> tuple[str, Array | None]:
    """The inputs of a Mul or Add: the computed one, and the constant [channels, 1, ...]."""
    for other, name in (node.inputs, node.inputs[::-1]):
        array = graph.initializer(name)
        if array is not None and array.ndim > 1 and array.size == max(array.shape[:2]):
            return other, array
    return "", None


def measure(context: Context, norms: Sequence[GroupNorm]) -> list[Statistics]:
    """The statistics of each normalization's input, reduced inside the graph."""
    nodes: list[Node] = []
    names: list[str] = []
    for norm in norms:
        prefix = f"{norm.output}/statistics"
        mean, square, peak = (f"{prefix}/{name}" for name in ("mean", "square", "peak"))
        nodes += [
            Node.make("GlobalAveragePool", [norm.x], mean),
            Node.make("Mul", [norm.x, norm.x], f"{square}s"),
            Node.make("GlobalAveragePool", [f"{square}s"], square),
            Node.make("Abs", [norm.x], f"{peak}s"),
            Node.make("ReduceMax", [f"{peak}s"], peak, keepdims=0),
        ]
        names += [mean, square, peak]
    runs = list(context.measure(nodes, names))
    return [
        _combined(_statistics(norm, *(run[name] for name in names[3 * index : 3 * index + 3]))
                  for run in runs)
        for index, norm in enumerate(norms)
    ]  # fmt: skip


def _statistics(norm: GroupNorm, mean: Array, square: Array, peak: Array) -> Statistics:
    means, squares = (
        array.astype(np.float64).reshape(norm.groups, -1).mean(axis=1) for array in (mean, square)
    )
    variances = np.maximum(squares - means**2, 0) + norm.epsilon
    ratio = float((means**2 / variances).max())
    return Statistics(float(squares.mean()) ** 0.5, float(peak), ratio)


def _combined(runs: Iterable[Statistics]) -> Statistics:
    """The largest of each number."""
    return Statistics(*(max(each) for each in zip(*runs, strict=True)))


def divide_regions(
    graph: Graph, norms: Sequence[GroupNorm], statistics: Sequence[Statistics]
) -> list[float]:
    """By what each normalization's input is divided now, by weights around it."""
    regions = Regions(graph, (norm.split for norm in norms))
    of_norms = [regions.of(norm.x) for norm in norms]
    unfit = {region for region, each in zip(of_norms, statistics, strict=True) if not fits(each)}
    scales = {
        region: scale_for(
            max(each.rms for of, each in zip(of_norms, statistics, strict=True) if of == region)
        )
        for region in unfit
    }
    divided = regions.divide(scales)
    return [divided.get(region, 1.0) for region in of_norms]


def choose(statistics: Statistics, folded: float) -> Choice:
    """The form of a normalization whose input the weights around it divide by `folded`."""
    form = MEAN_FIRST if statistics.ratio > MAX_RATIO else ONE_PASS
    explicit = 1.0 if fits(statistics, folded) else scale_for(statistics.rms / folded)
    return Choice(form, folded, explicit)


def fits(statistics: Statistics, scale: float = 1.0) -> bool:
    """Whether squares of what is divided by `scale` are well within half precision."""
    return MIN_RMS <= statistics.rms / scale <= MAX_RMS and statistics.peak / scale <= MAX_PEAK


def scale_for(rms: float) -> float:
    """The power of two that divides activations of this root mean square."""
    return float(2.0 ** round(math.log2(max(rms, 1e-6) / TARGET_RMS)))


def _summary(choices: Sequence[Choice]) -> str:
    forms = Counter(choice.form for choice in choices)
    scales = [choice.folded * choice.explicit for choice in choices]
    passes = sum(choice.explicit != 1 for choice in choices)
    listed = ", ".join(f"{count} {form}" for form, count in forms.items())
    return f"{len(choices)} group norms: {listed}; scales {min(scales):g} to {max(scales):g}" + (
        f", {passes} of them by a pass of its own" if passes else ", in the weights"
    )


def _nodes(context: Context, norm: GroupNorm, choice: Choice) -> list[Node]:
    """The nodes in place of the last Add; what comes before it is no longer needed."""
    prefix = norm.output + GROUP_NORM
    builder, channels = NodeBuilder(context.graph, prefix.rstrip("/")), norm.gamma.size
    taken, returned, x = context.shapes[norm.x], context.shapes[norm.output], norm.x
    if len(taken) != 4:
        x = builder.make("Reshape", [x, builder.constant([1, channels, 1, -1])])
    if choice.explicit != 1:
        x = builder.make("Mul", [x, builder.constant(1 / choice.explicit, np.float32)])
    epsilon = norm.epsilon / (choice.folded * choice.explicit) ** 2
    form = _one_pass if choice.form == ONE_PASS else _mean_first
    x, scale, shift = form(builder, norm, x, _size(taken), epsilon)
    kernel = builder.make("Reshape", [scale, builder.constant([channels, 1, 1, 1])])
    inputs, attributes = [x, kernel, shift], {"group": channels, "kernel_shape": [1, 1]}
    if len(returned) == len(taken) == 4:
        last = Node.make("Conv", inputs, norm.output, **attributes)
    else:
        result = builder.make("Conv", inputs, **attributes)
        shape = builder.constant(list(returned))
        last = Node.make("Reshape", [result, shape], norm.output)
    return [*builder.nodes, last.with_name(f"{prefix}last")]


def _size(shape: Shape) -> Shape:
    """Height and width of an image, 1 and the pixels where these are one dimension."""
    return shape[2:] if len(shape) == 4 else (1, math.prod(shape[2:]))


def _one_pass(
    builder: NodeBuilder, norm: GroupNorm, x: str, size: Shape, epsilon: float
) -> tuple[str, str, str]:
    """What the last convolution takes: the image, the scale and the shift of each channel."""
    make = builder.make
    mean = _mean_of_groups(builder, norm, x, size)
    square = _mean_of_groups(builder, norm, make("Mul", [x, x]), size)
    variance = make("Sub", [square, make("Mul", [mean, mean])])
    factor = _inverse_root(builder, variance, epsilon)
    spread = _spread(norm) * norm.gamma.reshape(-1, 1, 1, 1)
    shift = _conv(builder, make("Mul", [mean, factor]), -spread, norm.beta)
    by_channel = builder.constant([norm.gamma.size])
    return x, _conv(builder, factor, spread), make("Reshape", [shift, by_channel])


def _mean_first(
    builder: NodeBuilder, norm: GroupNorm, x: str, size: Shape, epsilon: float
) -> tuple[str, str, str]:
    """As `_one_pass`."""
    make = builder.make
    mean = _conv(builder, _mean_of_groups(builder, norm, x, size), _spread(norm))
    centered = make("Sub", [x, mean])
    variance = _mean_of_groups(builder, norm, make("Mul", [centered, centered]), size)
    factor = _inverse_root(builder, variance, epsilon)
    scale = _conv(builder, factor, _spread(norm) * norm.gamma.reshape(-1, 1, 1, 1))
    return centered, scale, builder.constant(norm.beta, np.float32)


def _mean_of_groups(builder: NodeBuilder, norm: GroupNorm, x: str, size: Shape) -> str:
    """[1, groups, 1, 1]; `size` is the image's height and width.

    Of a large image in two steps: float32 loses digits in sums of so many, in ONNX Runtime.
    """
    if math.prod(size) > MAX_POOLED and not any(side % _POOL for side in size):
        pool = {"kernel_shape": [_POOL, _POOL], "strides": [_POOL, _POOL]}
        x = builder.make("AveragePool", [x], **pool)
    gather = _spread(norm).transpose(1, 0, 2, 3) / (norm.gamma.size // norm.groups)
    return _conv(builder, builder.make("GlobalAveragePool", [x]), gather)


def _spread(norm: GroupNorm) -> Array:
    """The kernel [channels, groups, 1, 1] that gives each channel the number of its group."""
    size = norm.gamma.size // norm.groups
    return np.kron(np.eye(norm.groups), np.ones((size, 1)))[..., None, None].astype(np.float32)


def _inverse_root(builder: NodeBuilder, variance: str, epsilon: float) -> str:
    """(variance + epsilon)**-0.5, of whose forms Pow alone stays on the NPU.

    Rounding may leave a variance below 0; it is MIN_VARIANCE at least.
    """
    make, constant = builder.make, builder.constant
    above, least = (np.full((1, 1, 1, 1), value) for value in (-MIN_VARIANCE, MIN_VARIANCE))
    excess = make("Relu", [make("Add", [variance, constant(above, np.float32)])])
    total = make("Add", [excess, constant(least + epsilon, np.float32)])
    return make("Pow", [total, constant(-0.5, np.float32)])


def _conv(builder: NodeBuilder, x: str, kernel: Array, bias: Array | None = None) -> str:
    """A convolution of one pixel."""
    inputs = [x, builder.constant(kernel, np.float32)]
    inputs += [] if bias is None else [builder.constant(bias, np.float32)]
    return builder.make("Conv", inputs, kernel_shape=[1, 1])
