"""Group normalization in the layout of the convolutions, safe in half precision.

before:
    x - Reshape - InstanceNormalization - Reshape - Mul gamma - Add beta - output

after, in "one pass":
    x - Mul 1/s -+- GlobalAveragePool - Conv (mean of groups) - m
                 +- square - GlobalAveragePool - Conv (mean of groups) - q
                 +- Mul - Add - output
                    scale: Conv of r = (q - m*m + epsilon/s^2)^-0.5, shift: Conv of m*r

after, "mean first":
    x - Mul 1/s - Sub m -+- square - GlobalAveragePool - Conv (mean of groups) - v
                         +- Mul - Add beta - output
                            scale: Conv of r = (v + epsilon/s^2)^-0.5

rknn-toolkit2 compiles InstanceNormalization of groups into means by thousands of tiny tasks, in a
layout of their own; here all stays in that of the convolutions, and what is computed of groups are
convolutions of one pixel, with gamma and beta in their weights.

Half precision ends at 65504, so the square of an activation above 255 is infinite. So the squares
are taken in a domain that a power of two, s, divides: exact, and never undone, for the result does
not depend on it. Each layer's s comes from its activations on real inputs. "One pass" subtracts
squares of nearly equal size where a group's mean is large beside its deviation: there the mean is
subtracted first, which costs a pass over the image.

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
from runtimes.rknn.rewrites.context import Context

ONE_PASS, MEAN_FIRST = "one pass", "mean first"
# A group's squared mean by its variance, from which the mean is subtracted first.
MAX_RATIO = 8.0
# The root mean square in the divided domain: 16 of its squares are far from half precision's
# smallest numbers, and a peak of 60 times it has a finite square.
TARGET_RMS = 4.0
MIN_EPSILON = 2.0**-14  # half precision's smallest normal number


class GroupNorm(NamedTuple):
    """A group normalization of x, [1, channels, ...], found in a graph."""

    x: str
    output: str
    add: Node  # the last of its nodes
    epsilon: float
    groups: int
    gamma: Array  # [channels]
    beta: Array


class Statistics(NamedTuple):
    """What a normalization's input was on the calibration's inputs."""

    rms: float
    peak: float
    ratio: float  # the largest of a group's squared mean by its variance


def group_norm(context: Context) -> str:
    """Rewrite all group normalizations of the usual form."""
    graph = context.graph
    norms = find(graph)
    if not norms:
        return ""
    statistics = measure(context, norms)
    choices = {norm.output: choose(each) for norm, each in zip(norms, statistics, strict=True)}
    graph.replace({id(norm.add): _nodes(context, norm, *choices[norm.output]) for norm in norms})
    context.record["group_norms"] = [
        f"{name}: {form}, scale {scale:g}" for name, (form, scale) in choices.items()
    ]
    left = sum(node.op_type == "InstanceNormalization" for node in graph.nodes) - len(norms)
    return _summary(list(choices.values())) + (f"; {left} not recognized" if left else "")


def find(graph: Graph) -> list[GroupNorm]:
    """The group normalizations, as both of torch's exporters write them."""
    index = GraphIndex(graph)
    found = (_match(index, node) for node in graph.nodes if node.op_type == "Add")
    return [norm for norm in found if norm is not None]


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
        split.inputs[0], add.outputs[0], add, epsilon, scale.size, gamma.ravel(), beta.ravel()
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


def choose(statistics: Statistics) -> tuple[str, float]:
    """The form of a normalization, and its scale."""
    form = MEAN_FIRST if statistics.ratio > MAX_RATIO else ONE_PASS
    return form, scale_for(statistics.rms)


def scale_for(rms: float) -> float:
    """The power of two that divides activations of this root mean square."""
    return 2.0 ** round(math.log2(max(rms, 1e-6) / TARGET_RMS))


def _summary(choices: Sequence[tuple[str, float]]) -> str:
    forms = Counter(form for form, _ in choices)
    scales = [scale for _, scale in choices]
    listed = ", ".join(f"{count} {form}" for form, count in forms.items())
    return f"{len(choices)} group norms: {listed}; scales {min(scales):g} to {max(scales):g}"


def _nodes(context: Context, norm: GroupNorm, form: str, scale: float) -> list[Node]:
    """The nodes in place of the last Add; what comes before it is no longer needed."""
    shape = context.shapes[norm.x]
    builder = NodeBuilder(context.graph, norm.output)
    x = norm.x
    if len(shape) != 4:
        x = builder.make("Reshape", [x, builder.constant([1, norm.gamma.size, 1, -1])])
    if scale != 1:
        x = builder.make("Mul", [x, builder.constant(1 / scale, np.float32)])
    make = _one_pass if form == ONE_PASS else _mean_first
    scaled, shift = make(builder, norm, x, max(norm.epsilon / scale**2, MIN_EPSILON))
    if len(shape) != 4:
        result = builder.make("Add", [scaled, shift])
        to_shape = builder.constant(list(shape))
        return [*builder.nodes, Node.make("Reshape", [result, to_shape], norm.output)]
    return [*builder.nodes, Node.make("Add", [scaled, shift], norm.output)]


def _one_pass(
    builder: NodeBuilder, norm: GroupNorm, x: str, epsilon: float
) -> tuple[str, str]:
    """What the last Add takes: the scaled x and the shift of each channel."""
    make = builder.make
    mean = _mean_of_groups(builder, norm, x)
    square = _mean_of_groups(builder, norm, make("Mul", [x, x]))
    variance = make("Relu", [make("Sub", [square, make("Mul", [mean, mean])])])
    factor = _inverse_root(builder, variance, epsilon)
    spread = _spread(norm) * norm.gamma.reshape(-1, 1, 1, 1)
    scale = _conv(builder, factor, spread)
    shift = _conv(builder, make("Mul", [mean, factor]), -spread, norm.beta)
    return make("Mul", [x, scale]), shift


def _mean_first(
    builder: NodeBuilder, norm: GroupNorm, x: str, epsilon: float
) -> tuple[str, str]:
    """As `_one_pass`."""
    make = builder.make
    mean = _conv(builder, _mean_of_groups(builder, norm, x), _spread(norm))
    centered = make("Sub", [x, mean])
    variance = _mean_of_groups(builder, norm, make("Mul", [centered, centered]))
    factor = _inverse_root(builder, variance, epsilon)
    scale = _conv(builder, factor, _spread(norm) * norm.gamma.reshape(-1, 1, 1, 1))
    beta = builder.constant(norm.beta.reshape(1, -1, 1, 1), np.float32)
    return make("Mul", [centered, scale]), beta


def _mean_of_groups(builder: NodeBuilder, norm: GroupNorm, x: str) -> str:
    """[1, groups, 1, 1]"""
    size = norm.gamma.size // norm.groups
    gather = _spread(norm).transpose(1, 0, 2, 3) / size
    return _conv(builder, builder.make("GlobalAveragePool", [x]), gather)


def _spread(norm: GroupNorm) -> Array:
    """The kernel [channels, groups, 1, 1] that gives each channel the number of its group."""
    size = norm.gamma.size // norm.groups
    return np.kron(np.eye(norm.groups), np.ones((size, 1)))[..., None, None].astype(np.float32)


def _inverse_root(builder: NodeBuilder, variance: str, epsilon: float) -> str:
    """(variance + epsilon)**-0.5, of the forms of which Pow alone stays on the NPU."""
    exponent = builder.constant(-0.5, np.float32)
    summand = builder.constant(np.full((1, 1, 1, 1), epsilon), np.float32)
    return builder.make("Pow", [builder.make("Add", [variance, summand]), exponent])


def _conv(builder: NodeBuilder, x: str, kernel: Array, bias: Array | None = None) -> str:
    """A convolution of one pixel."""
    inputs = [x, builder.constant(kernel, np.float32)]
    inputs += [] if bias is None else [builder.constant(bias, np.float32)]
    return builder.make("Conv", inputs, kernel_shape=[1, 1])
