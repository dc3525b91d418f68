"""The plain loop: the whole network for every position of the occluder, in batches.

It is what the incremental engine is measured against, and what runs a network that
can't be traced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from convatlas.errors import LayerError, did_you_mean
from convatlas.graph.execution import Execution
from convatlas.graph.tracing import Graph, like
from convatlas.occlusion.positions import Positions

BATCH = 16  # larger ones are slower: their maps don't fit into the processor's cache


class Plain:
    """Runs a network under every position of an occluder, all of it each time.

    Parameters
    ----------
    model : the network, or its graph.
    probe : a node of the graph, or the path of a module, whose maps are summed under each
        position; None for none.
    most : positions a batch at most.
    dtype : to compute in; None for the network's own.
    paired : whether a single image is run twice, for networks that fail on one.

    Raises
    ------
    LayerError
        if there is no module with that path.
    """

    def __init__(
        self,
        model: nn.Module | Graph,
        probe: fx.Node | str | None = None,
        most: int | None = None,
        dtype: torch.dtype | None = None,
        paired: bool = False,
    ) -> None:
        self._paired = paired
        module = model.module if isinstance(model, Graph) else model
        own = like(module)
        self._own, self._dtype, self._device = own.dtype, dtype or own.dtype, own.device
        self._most = most or BATCH
        # A graph takes any layout; of a module it isn't known.
        by_graph = isinstance(model, Graph)
        self._layout = torch.channels_last if by_graph else torch.contiguous_format
        self._run: Callable[[Tensor], tuple[Tensor, Tensor | None]]
        if isinstance(model, Graph):
            assert not isinstance(probe, str)
            self._run = partial(_run_graph, model, probe)
        else:
            assert not isinstance(probe, fx.Node)
            if probe is not None and probe not in dict(module.named_modules()):
                paths = [path for path, _ in module.named_modules() if path]
                raise LayerError(f"there is no module {probe!r}.{did_you_mean(probe, paths)}")
            self._run = partial(_run_module, model, probe)

    @torch.inference_mode()
    def look(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run the network on an image as it is, as `Incremental.look` does."""
        self._image = image.clone()  # a network may change what it is given
        scores, maps = self._scores(image[None].clone())
        return scores[0], None if maps is None else maps[0]

    @torch.inference_mode()
    def occlude(
        self, positions: Positions, shown: Tensor, unit: int, advance: Callable[[float], None]
    ) -> tuple[Tensor, Tensor | None]:
        """Run the network under every position, as `Incremental.occlude` does."""
        boxes, scores, sums = positions.boxes().tolist(), [], []
        other = shown[:, None, None] if shown.dim() == 1 else shown
        other = other.to(self._image).expand_as(self._image)
        for first in range(0, len(boxes), self._most):
            part = boxes[first : first + self._most]
            batch = self._image.repeat(len(part), 1, 1, 1)
            for occluded, (top, left, bottom, right) in zip(batch, part, strict=True):
                occluded[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            found, maps = self._scores(batch.contiguous(memory_format=self._layout))
            scores.append(found)
            if maps is not None:
                sums.append(maps[:, unit].sum((1, 2), dtype=torch.float64).float().cpu())
            advance(len(part) / len(boxes))
        return torch.cat(scores), torch.cat(sums) if sums else None

    def _scores(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._paired and len(batch) == 1:
            scores, maps = self._scores(batch.repeat(2, 1, 1, 1))
            return scores[:1], None if maps is None else maps[:1]
        reduced = self._dtype != self._own
        with torch.autocast(self._device.type, self._dtype, enabled=reduced):
            scores, maps = self._run(batch.to(self._own))
        return (scores.float() if reduced else scores), maps


def _run_graph(graph: Graph, probe: fx.Node | None, batch: Tensor) -> Any:
    nodes = [graph.output] + ([probe] if probe else [])
    overwriting = any(operation.in_place for operation in graph.operations.values())
    # Cloned where a later operation in place, perhaps on a view, could change it.
    found = {
        node: value.clone() if overwriting else value
        for node, value in Execution(graph, nodes).values(batch)
    }
    return found[graph.output], found[probe] if probe else None


def _run_module(model: nn.Module, probe: str | None, batch: Tensor) -> Any:
    if probe is None:
        return model(batch), None
    caught: list[Tensor] = []
    module = model.get_submodule(probe)
    handle = module.register_forward_hook(lambda m, i, o: caught.append(_kept(o)))
    try:
        scores = model(batch)
    finally:
        handle.remove()
    if not caught or not isinstance(caught[-1], Tensor):
        raise LayerError(
            f"module {probe!r} gives no feature maps to be summed; choose one that does."
        )
    return scores, caught[-1]


def _kept(value: Any) -> Any:
    """Return a value that no operation in place can change any more."""
    return value.clone() if isinstance(value, Tensor) else value
