"""The engines that run a network on an image under every position of an occluder.

An engine is a function of the signature of `Engine`. There is one: `plain`, which
runs the whole network for each position, in batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, fx

from convatlas.graph.execution import Execution
from convatlas.graph.tracing import Graph
from convatlas.occlusion.positions import Positions


class Engine(Protocol):
    """Yield, batch by batch of positions, the values of some nodes.

    Parameters
    ----------
    graph : the traced network.
    image : (C,H,W) normalised.
    positions : of the occluder.
    fill : (C,) the occluder's colour, in the image's space.
    nodes : whose values are wanted.
    batch_size : positions a forward pass.

    Yields
    ------
    dict
        from each node to its value for the next positions in the order of
        `positions.boxes()`.
    """

    def __call__(
        self,
        graph: Graph,
        image: Tensor,
        positions: Positions,
        fill: Tensor,
        nodes: list[fx.Node],
        batch_size: int,
    ) -> Iterator[dict[fx.Node, Tensor]]: ...


def plain(
    graph: Graph,
    image: Tensor,
    positions: Positions,
    fill: Tensor,
    nodes: list[fx.Node],
    batch_size: int,
) -> Iterator[dict[fx.Node, Tensor]]:
    """Run the whole network for each position."""
    boxes = positions.boxes()
    execution = Execution(graph, nodes)
    for first in range(0, len(boxes), batch_size):
        part = boxes[first : first + batch_size]
        batch = image.repeat(len(part), 1, 1, 1)
        for occluded, (top, left, bottom, right) in zip(batch, part, strict=True):
            occluded[:, top:bottom, left:right] = fill[:, None, None]
        with torch.inference_mode():
            yield {n: _kept(n, graph, v) for n, v in execution.values(batch)}


def _kept(node: fx.Node, graph: Graph, value: Tensor) -> Tensor:
    """Return a value that later in-place operations can't change."""
    followed = any(graph.operations[user].in_place for user in node.users)
    return value.clone() if followed else value
