"""Run a traced network and see the value of any layer at the moment it is made."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor, fx

from convatlas.graph.tracing import Graph


class Execution(fx.Interpreter):
    """Run a graph up to some of its nodes.

    Only the nodes that the wanted ones depend on are run, and each value is dropped
    after its last use.

    Parameters
    ----------
    graph : the traced network.
    wanted : the nodes whose values are asked for.
    keep : keep all values until the run ends, for a backward pass.
    """

    def __init__(self, graph: Graph, wanted: Collection[fx.Node], keep: bool = False) -> None:
        super().__init__(graph.module, garbage_collect_values=False)
        self.extra_traceback = False
        self._wanted = set(wanted)
        needed = ancestors(wanted)
        self._order = [n for n in graph.nodes if n in needed]
        self._last_use: dict[fx.Node, list[fx.Node]] = {}
        if not keep:
            last = {source: node for node in self._order for source in node.all_input_nodes}
            for source, node in last.items():
                self._last_use.setdefault(node, []).append(source)

    def values(self, batch: Tensor) -> Iterator[tuple[fx.Node, Tensor]]:
        """Yield each wanted node with its value, in execution order.

        A value holds until the next one is asked for: an in-place operation that
        follows may overwrite it then.
        """
        self.args_iter = iter((batch,))
        self.env = {}
        for node in self._order:
            self.env[node] = self.run_node(node)
            if node in self._wanted:
                yield node, self.env[node]
            for source in self._last_use.get(node, ()):
                del self.env[source]
        self.env = {}


def ancestors(nodes: Collection[fx.Node]) -> set[fx.Node]:
    """Return nodes and all that they depend on."""
    found: set[fx.Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found
