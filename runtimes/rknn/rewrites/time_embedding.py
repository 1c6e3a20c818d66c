"""The sines and cosines of a timestep, looked up in a table of all timesteps.

before:
    timestep - Cast - Mul by frequencies -+- Sin -+- Concat - ... - output
                                          +- Cos -+
after:
    timestep - Gather from the table - output

rknn-toolkit2 leaves Sin, Cos and Cast to the CPU, between which the NPU waits, and multiplies the
timestep by the frequencies in half precision: an angle of 999 is then off by up to .25. The table
is computed in float32. Gather also runs on the CPU, but copies one row.

Vaswani and others, "Attention Is All You Need", 2017, section 3.5, has the embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lcmcore.util.arrays import Array
from runtimes.onnx.graph import Graph, Node
from runtimes.onnx.protobuf import TensorProto, ValueInfoProto
from runtimes.rknn.rewrites.context import Context

_INPUT = "timestep"
_INDEX = f"{_INPUT}/index"
_MIN_ROWS = 1000  # timesteps that Stable Diffusion is trained on
# What exporters make the sines of: no weights, a few numbers a timestep.
_OPERATORS = {
    "Cast", "Concat", "Cos", "Expand", "Identity", "Mul", "Reshape", "Sin", "Slice", "Squeeze",
    "Unsqueeze",
}  # fmt: skip

_DTYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32"}


def time_embedding(context: Context) -> str:
    """Replace sines and cosines of the timestep by a table."""
    nodes = _of_timestep(context.graph)
    output = _output(context.graph, nodes)
    shape = context.shapes.get(output, ())
    if context.shapes.get(_INPUT) != (1,) or len(shape) != 2 or shape[0] != 1:
        return ""
    rows = max(_MIN_ROWS, 1 + max(_timesteps(context)))
    table, dtype = _table(context.graph, nodes, output, rows)
    if table.dtype != np.float32:
        return ""  # a network of float16
    name = context.graph.add_initializer(f"{output}/table", table)
    cast = [Node.make("Cast", [_INPUT], _INDEX, to=TensorProto.INT64)] if dtype.kind == "f" else []
    gather = Node.make("Gather", [name, _INDEX if cast else _INPUT], output, axis=0)
    last = next(node for node in nodes if output in node.outputs)
    context.graph.replace({id(last): [*cast, gather]})
    return f"sines of the timestep: a table of {rows} rows"


def _of_timestep(graph: Graph) -> list[Node]:
    """The nodes that compute from the timestep and constants only; [] if none is a sine."""
    constants, found = set(graph.initializers), {_INPUT}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = {name for name in node.inputs if name} - constants
        if node.op_type in _OPERATORS and inputs and inputs <= found:
            found.update(node.outputs)
            nodes.append(node)
    return nodes if {"Sin", "Cos"} <= {node.op_type for node in nodes} else []


def _output(graph: Graph, nodes: list[Node]) -> str:
    """The one tensor of theirs that other nodes take; "" if there is not one."""
    inside = {id(node) for node in nodes}
    made = {name for node in nodes for name in node.outputs}
    taken = {name for node in graph.nodes if id(node) not in inside for name in node.inputs}
    used = sorted(made & (taken | set(graph.outputs)))
    return used[0] if len(used) == 1 else ""


def _timesteps(context: Context) -> list[int]:
    """Those of the calibration's inputs, which span the model's schedule."""
    name = f"{_INPUT}/measured"
    node = Node.make("Identity", [_INPUT], name)
    return [int(run[name].item()) for run in context.measure([node], [name])]


def _table(graph: Graph, nodes: list[Node], output: str, rows: int) -> tuple[Array, np.dtype[Any]]:
    """The output for each timestep, [rows, width]; and what numbers the network takes them as."""
    import onnxruntime

    model = graph.submodel(nodes, [graph.input(_INPUT)], ValueInfoProto(name=output))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    dtype = np.dtype(_DTYPES.get(session.get_inputs()[0].type, "float32"))
    found = (session.run([output], {_INPUT: np.array([t], dtype)})[0] for t in range(rows))
    return np.concatenate(list(found)), dtype
