"""Values that share memory: what an operation in place changes besides its own input."""

from __future__ import annotations

from typing import Any

from torch import fx

from convatlas.graph.tracing import Graph

# Operations whose result may be the memory of their input.
_VIEWS = frozenset(
    ["identity", "detach", "dropout", "reshape", "permute", "transpose", "chunk", "item"]
)


def seen_through_views(graph: Graph, closed: bool = False) -> str | None:
    """Return what is changed in place and seen through another name later, or None.

    fx keeps the two apart though they are one memory; where values are copied on the way,
    the other name would show them unchanged.

    Parameters
    ----------
    closed : whether to count modules that are kept closed, of which it isn't known whether
        they change what they are given.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        operation = graph.operations[node]
        is_closed = closed and operation.kind == "other" and node.op == "call_module"
        if not operation.in_place and not is_closed:
            continue
        behind = {node}  # what goes on from the changed value itself
        for later in graph.nodes[order[node] :]:
            if behind & set(later.all_input_nodes):
                behind.add(later)
        changed = node.all_input_nodes if is_closed else node.args[:1]
        for alias in {alias for source in changed for alias in _aliases(graph, source)}:
            if alias in behind:
                continue
            for user in alias.users:
                if order[user] > order[node]:
                    name, other = (graph.names.get(n, n.name) for n in (node, user))
                    might = "may change" if is_closed else "changes"
                    return f"{name} {might} in place what {other} sees"
    return None


def _aliases(graph: Graph, node: Any) -> set[fx.Node]:
    """Return the nodes whose values may share a node's memory; pieces of a cut don't."""
    found: set[fx.Node] = set()
    stack = [node]
    while stack:
        one = stack.pop()
        if one in found or not isinstance(one, fx.Node):
            continue
        found.add(one)
        if graph.operations[one].kind in _VIEWS:
            stack.extend(n for n in one.all_input_nodes if n.op != "get_attr")
        if graph.operations[one].kind != "chunk":
            stack.extend(u for u in one.users if graph.operations[u].kind in _VIEWS)
    return found
