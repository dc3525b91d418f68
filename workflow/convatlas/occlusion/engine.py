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


@torch.inference_mode()
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
    overwriting = any(operation.in_place for operation in graph.operations.values())
    for first in range(0, len(boxes), batch_size):
        part = boxes[first : first + batch_size]
        batch = image.repeat(len(part), 1, 1, 1)
        for occluded, (top, left, bottom, right) in zip(batch, part, strict=True):
            occluded[:, top:bottom, left:right] = fill[:, None, None]
        # Cloned where a later operation in place, perhaps on a view, could change it.
        yield {n: v.clone() if overwriting else v for n, v in execution.values(batch)}
