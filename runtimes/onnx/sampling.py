"""Networks that draw random numbers inside their graph, so that seeds do not reproduce images.

Older exporters write VAE encoders so: they return a sample of their distribution (mean + deviation
* noise), where newer ones return the moments, from which the core draws with the seeds of a call.
Such a graph is cut: the moments become its output. An operator's own `seed` is no help: ONNX
Runtime goes on drawing with every run of a session.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, Node, all_inputs, branches
from runtimes.onnx.model_files import read_model
from runtimes.onnx.protobuf import (
    AttributeProto,
    Dimension,
    FunctionProto,
    NodeProto,
    TensorProto,
    TensorShapeProto,
    TypeProto,
    TypeProtoTensor,
    ValueInfoProto,
)

log = logging.getLogger("lcmcore.runtimes.onnx")

_NORMAL = ("RandomNormal", "RandomNormalLike")
_RANDOM = (*_NORMAL, "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_DROPOUT = "Dropout"
# An operator's type, in branches and functions too, as a node holds it: field 4, length, text.
_OPERATOR = re.compile(
    b"|".join(b'"%c%b' % (len(name), name.encode()) for name in (*_RANDOM, _DROPOUT))
)
_OUTPUTS = ("latent_parameters", "last_hidden_state")  # preferred to the first, as in the core
_CHANNELS = 4  # of the latents
_MAX_TAIL = 64  # nodes between the moments and the output
_DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.FLOAT16: np.dtype("<f2"),
}
_LOG_VARIANCES = (-30, 20)  # to which diffusers, and the core, clip
_REPRODUCED = "cut before it, so that seeds reproduce images"
_NOT_REPRODUCED = (
    "seeds do not reproduce images; export it again, e.g. with `lcm build onnx`, to change that"
)


def random_operators(model: Path | bytes) -> list[str]:
    """The types of a model's operators that draw; raises ValueError, OSError.

    They may be in branches, loops and functions. Dropout draws only where it is told to.
    """
    proto, graph = read_model(model)
    parts = [graph.all("node")]
    parts += [FunctionProto(each).all("node") for each in proto.all("functions")]
    found = {
        bytes(match[0][2:]).decode()
        for nodes in parts
        for node in nodes
        for match in _OPERATOR.finditer(node)
    }
    if _DROPOUT in found:
        constants = map(TensorProto, graph.all("initializer"))
        false = {tensor.text("name") for tensor in constants if _is_false(tensor)}
        if not any(_trains(nodes, false) for nodes in parts):
            found.remove(_DROPOUT)
    return sorted(found)


def prepared(path: Path, ort: Any) -> Path | bytes:
    """What to open of a model: itself, or a copy without its draw; warns where that still draws.

    The copy has its weights inside, for ONNX Runtime would look for them elsewhere.
    """
    model: Path | bytes = path
    try:
        operators = random_operators(path)
        if operators:
            with suppress(ValueError, OSError):  # its weights cannot be taken into it
                model = without_draw(path, ort) or path
            if model != path:
                log.info("%s: %s: %s", path, _drawing(operators), _REPRODUCED)
            warn(path, random_operators(model))
    except Exception as error:  # opening the model reports more
        log.info("%s: not searched for random operators: %s", path, error)
    return model


def without_draw(path: Path, ort: Any) -> bytes | None:
    """A model that draws, cut, its weights inside; None if that is not possible.

    Its output has no type. Raises ValueError, OSError.
    """
    graph = Graph(path)
    if not cut_before_draw(graph, ort):
        return None
    graph.embed_weights()
    return bytes(graph)


def warn(path: Path, operators: Sequence[str]) -> None:
    """Warn, once in a process, of a model with operators that draw."""
    if operators:
        _warn_once(f"{path}: {_drawing(operators)}: {_NOT_REPRODUCED}")


def state(path: Path, ort: Any) -> Iterator[str]:
    """A line about a model that draws, for `lcm info`; none about others."""
    try:
        operators = random_operators(path)
        if operators:
            graph = Graph(path)
            is_cut = cut_before_draw(graph, ort) and not random_operators(bytes(graph))
            yield f"{_drawing(operators)}: {_REPRODUCED if is_cut else _NOT_REPRODUCED}"
    except (ValueError, OSError):
        return


def cut_before_draw(graph: Graph, ort: Any) -> int:
    """Let the moments be the output of a graph that returns a sample; returns how often, 0 or 1.

    The moments are the tensor from which alone, beside noise and constants, the output follows.
    What lies between is not compared with known forms, but run: it must compute what diffusers'
    DiagonalGaussianDistribution does. Anything else, e.g. a factor that follows, is left as it is.
    Raises ValueError, OSError.
    """
    draws = [node for node in graph.nodes if node.op_type in _RANDOM]
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
        mean, logvar = np.split(given[moments].astype(np.float64), 2, axis=1)
        drawn = np.exp(logvar / 2) * given[draw.outputs[0]]
        is_half = np.float16 in (got.dtype, _DTYPES[kind])
        relative, absolute = (1e-2, 1e-6) if is_half else (1e-4, 1e-12)
        allowed = relative * (abs(mean) + abs(drawn)) + absolute
        if got.shape == shape and (abs(got - (mean + drawn)) <= allowed).all():
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
        if node.op_type not in _RANDOM and constants.keys() >= set(all_inputs(node)):
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


def _trains(nodes: Sequence[Any], false: Collection[str]) -> bool:
    """Whether Dropout is in training mode, for all that is known, in nodes or their branches."""
    parsed = [Node(NodeProto(each)) for each in nodes]
    false = {*false, *(node.outputs[0] for node in parsed if _is_false_constant(node))}
    return any(
        (node.op_type == _DROPOUT and not {*node.inputs[2:3]} <= {"", *false})
        or any(_trains(branch.all("node"), false) for branch in branches(node))
        for node in parsed
    )


def _is_false_constant(node: Node) -> bool:
    values = [each for each in map(AttributeProto, node.proto.all("attribute")) if each.all("t")]
    return node.op_type == "Constant" and any(
        _is_false(TensorProto(each.all("t")[0])) for each in values
    )


def _is_false(tensor: TensorProto) -> bool:
    if tensor.integer("data_type") != TensorProto.BOOL or tensor.all("external_data"):
        return False
    values = [bytes(each) for each in (*tensor.all("raw_data"), *tensor.all("int32_data"))]
    return not any(map(any, values))


def _value(name: str, kind: int, shape: Sequence[int]) -> ValueInfoProto:
    dims = TensorShapeProto(dim=[Dimension(dim_value=dim) for dim in shape])
    tensor = TypeProtoTensor(elem_type=kind, shape=dims)
    return ValueInfoProto(name=name, type=TypeProto(tensor_type=tensor))


def _drawing(operators: Sequence[str]) -> str:
    return f"draws noise inside the graph ({', '.join(operators)})"


@cache
def _warn_once(message: str) -> None:
    log.warning(message)
