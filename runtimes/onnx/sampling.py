"""Networks that draw random numbers inside their graph, so that seeds do not reproduce images.

VAE encoders of older exporters are cut before the draw (rewrites/cut_before_draw.py); of others the
user is warned. An operator's own `seed` is no help: ONNX Runtime goes on drawing with every run of
a session.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from runtimes.onnx.graph import Graph, Node, branches
from runtimes.onnx.model_files import read_model
from runtimes.onnx.protobuf import AttributeProto, FunctionProto, NodeProto, TensorProto
from runtimes.onnx.rewrites.cut_before_draw import RANDOM, cut_before_draw

log = logging.getLogger("lcmcore.runtimes.onnx")

_DROPOUT = "Dropout"
# An operator's type, in branches and functions too, as a node holds it: field 4, length, text.
_OPERATOR = re.compile(
    b"|".join(b'"%c%b' % (len(name), name.encode()) for name in (*RANDOM, _DROPOUT))
)
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


def _drawing(operators: Sequence[str]) -> str:
    return f"draws noise inside the graph ({', '.join(operators)})"


@cache
def _warn_once(message: str) -> None:
    log.warning(message)
