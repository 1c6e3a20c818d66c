"""A VAE encoder that returns a sample, as one that returns the moments of its distribution.

before:
    x - ... - moments - Split -+- mean ---------------------------- Add - sample
                               +- log-variance - Exp ... - Mul noise -+

after:
    x - ... - moments

Older exporters write the first, with the noise drawn inside the graph; newer ones return the
moments, from which the core draws with the seeds of a call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, Node, all_inputs
from runtimes.onnx.protobuf import (
    Dimension,
    TensorProto,
    TensorShapeProto,
    TypeProto,
    TypeProtoTensor,
    ValueInfoProto,
)

_NORMAL = ("RandomNormal", "RandomNormalLike")
RANDOM = (*_NORMAL, "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_OUTPUTS = ("latent_parameters", "last_hidden_state")  # preferred to the first, as in the core
_CHANNELS = 4  # of the latents
_MAX_TAIL = 64  # nodes between the moments and the output
_DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.FLOAT16: np.dtype("<f2"),
}
_LOG_VARIANCES = (-30, 20)  # to which diffusers, and the core, clip


def cut_before_draw(graph: Graph, ort: Any) -> int:
    """Let the moments be the output of a graph that returns a sample; returns how often, 0 or 1.

    The moments are the tensor from which alone, beside noise and constants, the output follows.
    What lies between is not compared with known forms, but run: it must compute what diffusers'
    DiagonalGaussianDistribution does. Anything else, e.g. a factor that follows, is left as it is.
    Raises ValueError, OSError.
    """
    draws = [node for node in graph.nodes if node.op_type in RANDOM]
    output = next((name for name in _OUTPUTS if name in graph.outputs), graph.outputs[0])
    if not draws:
        return 0
    if output not in _dependents(graph, draws):  # what is drawn is for other outputs
        graph.set_outputs([output])
        return 1
    if len(draws) > 1 or not _is_standard_normal(draws[0]):
        return 0
    constants = _constants(graph)
    for moments, tail in _candidates(graph, output, draws[0].outputs[0], constants):
        nodes = [*_producers(tail, constants), *tail]
        if _is_sample(graph, moments, nodes, draws[0], output, ort):
            graph.set_outputs([ValueInfoProto(name=moments)])  # ONNX Runtime infers the type
            return 1
    return 0


def _candidates(
    graph: Graph, output: str, noise: str, constants: Collection[str]
) -> Iterator[tuple[str, list[Node]]]:
    """Each tensor from which, with the noise, the output follows, and the nodes between.

    Nodes are in an order in which they can run. Going back, all paths lead through a tensor if it
    alone is needed.
    """
    tail: list[Node] = []
    needed, is_drawn = {output}, False
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        if len(tail) == _MAX_TAIL:
            return
        tail.insert(0, node)
        names = set(all_inputs(node))
        is_drawn |= noise in names
        needed = (needed | names).difference(node.outputs, constants, ("", noise))
        if is_drawn and len(needed) == 1:
            yield next(iter(needed)), tail.copy()


def _is_sample(
    graph: Graph, moments: str, nodes: Sequence[Node], draw: Node, output: str, ort: Any
) -> bool:
    """Whether the nodes compute a sample of the distribution with these moments from the noise.

    They are run on random moments, whose deviations span what diffusers allows.
    """
    batch, _, height, width = draw.attributes.get("shape") or (2, _CHANNELS, 6, 4)
    shape = (batch, _CHANNELS, height, width)
    random = np.random.default_rng(0)
    mean = random.standard_normal(shape) * (np.arange(width) % 2)  # 0 shows small deviations
    logvar = random.uniform(*_LOG_VARIANCES, shape)
    noise = random.uniform(0.25, 1, shape) * random.choice([-1, 1], shape)
    for kind, noise_kind in product(_DTYPES, _DTYPES):
        given = {
            moments: np.concatenate([mean, logvar], axis=1).astype(_DTYPES[kind]),
            draw.outputs[0]: noise.astype(_DTYPES[noise_kind]),
        }
        inputs = [
            _value(moments, kind, (batch, 2 * _CHANNELS, height, width)),
            _value(draw.outputs[0], noise_kind, shape),
        ]
        model = graph.submodel(nodes, inputs, ValueInfoProto(name=output))
        got = _run(model, given, ort)
        if got is None:
            continue
        middle, log_variance = np.split(given[moments].astype(np.float64), 2, axis=1)
        drawn = np.exp(log_variance / 2) * given[draw.outputs[0]]
        is_half = np.float16 in (got.dtype, _DTYPES[kind])
        relative, absolute = (1e-2, 1e-6) if is_half else (1e-4, 1e-12)
        allowed = relative * (abs(middle) + abs(drawn)) + absolute
        if got.shape == shape and (abs(got - (middle + drawn)) <= allowed).all():
            return True
    return False


def _run(model: bytes, given: Mapping[str, Array], ort: Any) -> Array | None:
    """The output of a small model; None if ONNX Runtime does not take it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, dict(given))[0])
    except Exception:  # ONNX Runtime's exceptions share no base class
        return None


def _is_standard_normal(draw: Node) -> bool:
    shape = draw.attributes.get("shape")
    return (
        draw.op_type in _NORMAL
        and draw.attributes.get("mean", [0]) == [0]
        and draw.attributes.get("scale", [1]) == [1]
        and (shape is None or (len(shape) == 4 and shape[1] == _CHANNELS))
    )


def _dependents(graph: Graph, draws: Sequence[Node]) -> set[str]:
    """The tensors that depend on what is drawn."""
    dependents = {name for node in draws for name in node.outputs}
    for node in graph.nodes:
        if not dependents.isdisjoint(all_inputs(node)):
            dependents.update(node.outputs)
    return dependents


def _constants(graph: Graph) -> dict[str, Node | None]:
    """The tensors that depend on no input, by name; the nodes of those that are computed."""
    constants: dict[str, Node | None] = dict.fromkeys(("", *graph.initializers))
    for node in graph.nodes:
        if node.op_type not in RANDOM and constants.keys() >= set(all_inputs(node)):
            constants.update(dict.fromkeys(node.outputs, node))
    return constants


def _producers(nodes: Sequence[Node], constants: Mapping[str, Node | None]) -> list[Node]:
    """The nodes that compute the constants that these nodes take, in an order that works."""
    found: list[Node] = []
    for node in nodes:
        for name in all_inputs(node):
            producer = constants.get(name)
            if producer is not None and producer not in found:
                found += [*_producers([producer], constants), producer]
    return list(dict.fromkeys(found))


def _value(name: str, kind: int, shape: Sequence[int]) -> ValueInfoProto:
    dims = TensorShapeProto(dim=[Dimension(dim_value=dim) for dim in shape])
    tensor = TypeProtoTensor(elem_type=kind, shape=dims)
    return ValueInfoProto(name=name, type=TypeProto(tensor_type=tensor))
