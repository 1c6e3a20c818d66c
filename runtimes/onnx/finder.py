"""Looks around in a graph: what makes a tensor, and what uses it."""

from __future__ import annotations

from collections import defaultdict

from runtimes.onnx.graph import Graph, Node


class Finder:
    """`makers` has the node that makes each tensor, `users` the nodes that take it; as at first."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.makers = {name: node for node in graph.nodes for name in node.outputs}
        self.users: defaultdict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for name in node.inputs:
                self.users[name].append(node)

    def made(self, name: str, op: str) -> Node | None:
        """What makes a tensor, if that is such an operation."""
        node = self.makers.get(name)
        return node if node is not None and node.op == op else None
