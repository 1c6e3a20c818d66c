"""ONNX graphs to read and to rewrite: Graph and Node; GraphIndex finds nodes, NodeBuilder adds."""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lcmcore.util.arrays import Array
from runtimes.onnx.model_files import external_data, external_path, read_external, read_model
from runtimes.onnx.protobuf import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    StringStringEntryProto,
    TensorProto,
    ValueInfoProto,
)

_DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.INT64: np.dtype("<i8"),
}
_MICROSOFT = "com.microsoft"
_CONTRIB_OPS = {"FusedMatMul", "MultiHeadAttention"}  # ONNX Runtime's own, in that domain
_MIN_EXTERNAL_BYTES = 1024  # of an initializer that goes into a file of its own
_MAX_MODEL_BYTES = 2**31 - 2**24  # protobuf's limit, less what a graph takes
_EXTERNAL_FIELDS = {TensorProto.NUMBERS[name] for name in ("external_data", "data_location")}
_MAX_VALUES = 8  # of a constant that is read as a list


class Node:
    """One operator; `attributes` has lists of numbers, and bytes for strings."""

    def __init__(self, proto: NodeProto) -> None:
        self.proto = proto
        self.op_type = proto.text("op_type")
        self.inputs, self.outputs = proto.texts("input"), proto.texts("output")
        attributes = map(AttributeProto, proto.all("attribute"))
        self.attributes = {each.text("name"): _attribute_value(each) for each in attributes}

    @classmethod
    def make(cls, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> Node:
        """A new one; attributes are numbers, lists of integers, strings, or a branch's nodes."""
        proto = NodeProto(
            input=inputs,
            output=output,
            op_type=op_type,
            domain=_MICROSOFT if op_type in _CONTRIB_OPS else "",
            name=f"{output}/{op_type}",
            attribute=[_attribute(*pair) for pair in attributes.items()],
        )
        return cls(proto)

    def with_inputs(self, inputs: Sequence[str]) -> Node:
        """A copy that takes these tensors."""
        return self._with("input", inputs)

    def with_name(self, name: str) -> Node:
        """A copy of this name; its outputs keep theirs."""
        return self._with("name", [name])

    def _with(self, field: str, values: Sequence[str]) -> Node:
        proto = NodeProto()
        proto.fields = self.proto.fields.copy()
        proto.remove(field)
        for value in values:
            proto.add(field, value)
        return Node(proto)


class Graph:
    """The graph of a model that ONNX Runtime has written; the rest of the model is kept.

    Raises ValueError for a file that is not an ONNX model, OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model, self._proto = read_model(path)
        self.nodes = [Node(NodeProto(each)) for each in self._proto.all("node")]
        tensors = map(TensorProto, self._proto.all("initializer"))
        self._initializers = {tensor.text("name"): tensor for tensor in tensors}

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators."""
        imports = map(OperatorSetIdProto, self._model.all("opset_import"))
        return next(each.integer("version") for each in imports if not each.text("domain"))

    def initializer(self, name: str) -> Array | None:
        """A constant, mapped if it is in another file; None unless it is float32 or int64."""
        tensor = self._initializers.get(name)
        dtype = _DTYPES.get(tensor.integer("data_type")) if tensor else None
        if tensor is None or dtype is None:
            return None
        raw, external, dims = tensor.all("raw_data"), external_data(tensor), tensor.all("dims")
        if external and not raw:
            path = self._path.parent / external["location"]
            size = math.prod(dims) * dtype.itemsize
            raw = [np.memmap(path, "B", "r", int(external.get("offset", 0)), size)]
        return np.frombuffer(raw[0], dtype).reshape(dims) if raw else None

    def constant_values(self, name: str) -> list[Any] | None:
        """The elements of a small constant; None if it is large, or not a constant."""
        array = self.initializer(name)
        return array.ravel().tolist() if array is not None and array.size <= _MAX_VALUES else None

    def add_initializer(self, name: str, array: Array) -> str:
        """Add a float32 or int64 constant, a large one in a file beside; returns its name."""
        kind = TensorProto.FLOAT if array.dtype == np.float32 else TensorProto.INT64
        tensor = TensorProto(dims=array.shape, data_type=kind, name=name)
        if array.nbytes < _MIN_EXTERNAL_BYTES:
            tensor.add("raw_data", array.tobytes())
        else:
            path = self._path.with_suffix(".added")
            with path.open("ab") as file:
                place = {"location": path.name, "offset": file.tell(), "length": array.nbytes}
                file.write(array.tobytes())
            for key, value in place.items():
                tensor.add("external_data", StringStringEntryProto(key=key, value=str(value)))
            tensor.add("data_location", TensorProto.EXTERNAL)
        self._proto.add("initializer", tensor)
        self._initializers[name] = tensor
        return name

    def replace(self, replacements: Mapping[int, Sequence[Node]]) -> int:
        """Put nodes in the place of each node whose id() is a key; returns of how many."""
        self.nodes = [new for node in self.nodes for new in replacements.get(id(node), [node])]
        return len(replacements)

    @property
    def initializers(self) -> list[str]:
        """The names of the graph's constants."""
        return list(self._initializers)

    def input(self, name: str) -> ValueInfoProto:
        """An input of the graph; raises KeyError."""
        inputs = map(ValueInfoProto, self._proto.all("input"))
        return {each.text("name"): each for each in inputs}[name]

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs."""
        return [ValueInfoProto(each).text("name") for each in self._proto.all("output")]

    def set_outputs(self, values: Sequence[ValueInfoProto | str]) -> None:
        """Let the graph have these outputs, which are new or names of present ones."""
        present = {ValueInfoProto(each).text("name"): each for each in self._proto.all("output")}
        self._proto.remove("output")
        for value in values:
            self._proto.add("output", present[value] if isinstance(value, str) else value)

    def forget_shapes(self) -> None:
        """Drop what the file says of shapes between nodes: ONNX Runtime fails where it is wrong."""
        self._proto.remove("value_info")

    def submodel(
        self, nodes: Sequence[Node], inputs: Sequence[ValueInfoProto], output: ValueInfoProto
    ) -> bytes:
        """A model of some of the nodes, and of the initializers that they take."""
        names = {name for node in nodes for name in all_inputs(node)}
        tensors = self._embedded(
            [tensor for name, tensor in self._initializers.items() if name in names]
        )
        graph = GraphProto(
            node=[node.proto for node in nodes], name="submodel", initializer=tensors, input=inputs,
            output=output,
        )  # fmt: skip
        return self._with_graph(graph)

    def embed_weights(self) -> None:
        """Take what is in other files into the model; raises ValueError, OSError."""
        embedded = self._embedded(list(self._initializers.values()))
        self._initializers = dict(zip(self._initializers, embedded, strict=True))
        self._proto.remove("initializer")
        for tensor in embedded:
            self._proto.add("initializer", tensor)

    def save(self, path: Path) -> None:
        """Write the model, without nodes and constants on which no output of it depends."""
        path.write_bytes(bytes(self))

    def __bytes__(self) -> bytes:
        """The model that `save` writes."""
        needed = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(all_inputs(node))
                kept.append(node)
        self._proto.remove("node")
        for node in reversed(kept):
            self._proto.add("node", node.proto)
        self._drop_initializers(needed)
        return self._with_graph(self._proto)

    def _drop_initializers(self, needed: set[str]) -> None:
        """Keep the constants that are needed only: unused ones may be gigabytes."""
        number = GraphProto.NUMBERS["initializer"]
        self._initializers = {
            name: tensor for name, tensor in self._initializers.items() if name in needed
        }
        self._proto.fields = [
            field
            for field in self._proto.fields
            if field[0] != number or TensorProto(field[2]).text("name") in self._initializers
        ]

    def _with_graph(self, graph: GraphProto) -> bytes:
        """The model with this graph; all else stays."""
        model = ModelProto()
        model.fields = self._model.fields.copy()
        model.remove("graph")
        model.add("graph", graph)
        imports = map(OperatorSetIdProto, model.all("opset_import"))
        if all(each.text("domain") != _MICROSOFT for each in imports):
            model.add("opset_import", OperatorSetIdProto(domain=_MICROSOFT, version=1))
        return bytes(model)

    def _embedded(self, tensors: Sequence[TensorProto]) -> list[TensorProto]:
        """The constants, each with its data inside; raises ValueError for too many bytes."""
        left = _MAX_MODEL_BYTES
        embedded = []
        for tensor in tensors:
            copy, place = tensor, external_data(tensor)
            if place:
                data = read_external(external_path(self._path, place["location"]), place, left)
                left -= len(data)
                copy = TensorProto(raw_data=data)
                copy.fields += [each for each in tensor.fields if each[0] not in _EXTERNAL_FIELDS]
            embedded.append(copy)
        return embedded


class GraphIndex:
    """Producer and consumers of each tensor, as of construction."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producers = {name: node for node in graph.nodes for name in node.outputs}
        self.consumers: defaultdict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for name in node.inputs:
                self.consumers[name].append(node)

    def producer(self, name: str, op_type: str) -> Node | None:
        """The node that makes a tensor, if it is of this type."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == op_type else None


class NodeBuilder:
    """Makes `nodes` for a graph, and constants for them, with names that begin with `prefix`."""

    def __init__(self, graph: Graph, prefix: str) -> None:
        self._graph, self._prefix = graph, prefix
        self._constants = 0
        self.nodes: list[Node] = []

    def make(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        output = f"{self._prefix}/{len(self.nodes)}"
        self.nodes.append(Node.make(op_type, inputs, output, **attributes))
        return output

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Add a constant to the graph; returns its name."""
        self._constants += 1
        name = f"{self._prefix}/constant{self._constants}"
        return self._graph.add_initializer(name, np.array(values, dtype))


def all_inputs(node: Node) -> list[str]:
    """The tensors that a node takes, those that its branches take included."""
    inner = [Node(NodeProto(each)) for branch in branches(node) for each in branch.all("node")]
    return node.inputs + [name for each in inner for name in all_inputs(each)]


def branches(node: Node) -> list[GraphProto]:
    """The graphs inside of a node: of If, Loop and Scan."""
    attributes = map(AttributeProto, node.proto.all("attribute"))
    return [GraphProto(each) for attribute in attributes for each in attribute.all("g")]


def _attribute_value(attribute: AttributeProto) -> Any:
    strings = attribute.all("s")
    if strings:
        return bytes(strings[0])
    floats = [number for data in attribute.all("f") for number in struct.unpack("<f", data)]
    return floats + attribute.all("i") + attribute.all("ints")


def _attribute(name: str, value: Any) -> AttributeProto:
    if isinstance(value, float):
        return AttributeProto(name=name, f=value, type=AttributeProto.FLOAT)
    if isinstance(value, int):
        return AttributeProto(name=name, i=value, type=AttributeProto.INT)
    if isinstance(value, str):
        return AttributeProto(name=name, s=value, type=AttributeProto.STRING)
    if value and isinstance(value[0], Node):
        return AttributeProto(name=name, g=_branch(name, value), type=AttributeProto.GRAPH)
    return AttributeProto(name=name, ints=value, type=AttributeProto.INTS)


def _branch(name: str, nodes: Sequence[Node]) -> GraphProto:
    """A branch of If: takes tensors of the graph around it, returns what the last node makes."""
    output = ValueInfoProto(name=nodes[-1].outputs[0])
    return GraphProto(node=[node.proto for node in nodes], name=name, output=output)
