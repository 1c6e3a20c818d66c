"""Nodes in the making, that are to replace another one."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtimes.onnx.graph import Graph, Node


class Nodes:
    """Nodes for a graph; their outputs, and constants for them, are numbered after a name."""

    def __init__(self, graph: Graph, name: str) -> None:
        self._graph, self._name = graph, name
        self._constants = 0
        self.made: list[Node] = []

    def make(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node; returns its output."""
        self.made.append(Node.make(op, inputs, f"{self._name}/{len(self.made)}", **attributes))
        return self.made[-1].outputs[0]

    def constant(self, values: Any, kind: Any = np.int64) -> str:
        """Give the graph a constant; returns its name."""
        self._constants += 1
        name = f"{self._name}/constant{self._constants}"
        return self._graph.add_weight(name, np.array(values, kind))
