"""What a rewrite works on, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, Node
from runtimes.rknn.shapes import Shape


class Context(NamedTuple):
    """A network at one size, all shapes known.

    `shapes` has those of all tensors. `measure(nodes, names)` runs the network, with these nodes
    added to it, on each of the calibration's inputs, and yields the tensors of these names.
    `record` is what the rewrite leaves in the build record of lcm.toml.
    """

    component: str
    graph: Graph
    shapes: Mapping[str, Shape]
    measure: Callable[[Sequence[Node], Sequence[str]], Iterator[dict[str, Array]]]
    record: dict[str, Any]


class Rewrite(NamedTuple):
    """A rewrite of graphs.

    `apply` changes `context.graph` and returns a line that says what it did, "" if nothing.
    `revision` rises with what it makes of graphs: networks of another one are built again.
    One that is not `exact` changes the result by more than rounding.
    """

    name: str
    apply: Callable[[Context], str]
    revision: int = 1
    exact: bool = True
