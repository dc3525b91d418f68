"""Occlusion sweeps: the probability of every class for every position of an occluder.

Zeiler & Fergus (2014), section 4.2 and figure 7.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from convatlas.errors import LayerError, MethodError, ModelError
from convatlas.graph.describe import layers_of
from convatlas.graph.tracing import Graph, evaluating, like, trace
from convatlas.job import log, reporting
from convatlas.models.load import LoadedModel, load_model
from convatlas.occlusion.incremental import Incremental
from convatlas.occlusion.network import mixes_images, squeezes_batch, why_not_incremental
from convatlas.occlusion.occluders import Extent, blurred, pixels, shown
from convatlas.occlusion.plain import Plain
from convatlas.occlusion.positions import Positions
from convatlas.store import Exhibit, Images, Occlusion, Recipe, read, write

AnyPath = str | os.PathLike[str]

GREY = 128  # the grey of Zeiler & Fergus's occluder, in 0..255
ENGINES = ("incremental", "plain")
OUTPUTS = ("auto", "scores", "probabilities")
# How far an engine may be off from the network itself, as a share of the scores' spread;
# rounding takes far less.
_TOLERANCE = {torch.float16: 0.2, torch.bfloat16: 0.5}
_ELSE = 1e-3


class Engine(Protocol):
    """Runs a network on an image, and under every position of an occluder on it."""

    def look(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the scores (K,) of an image (C,H,W), and the probe's maps (U,h,w)."""

    def occlude(
        self, positions: Positions, shown: Tensor, unit: int, advance: Callable[[float], None]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the scores (P,K) under each position, and the sums (P,) of a probe's map."""


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """What the network says under every position of the occluder.

    Attributes
    ----------
    row : (R,) top of the occluder, column : (C,) its left, in pixels.
    probability : (R,C,K) float32, of every class.
    clean_probability : (K,) float32, of the image as it is.
    size, stride : of the occluder, height and width in pixels.
    map_sum : (R,C) float32, sum over space of one unit's feature map; None unless a
        layer was asked for.
    clean_map_sum : that sum on the image as it is.
    unit, value, location : the unit, unless chosen the layer's strongest on the image as
        it is, its largest activation there, and that one's row and column in the map.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    probability: NDArray[np.float32]
    clean_probability: NDArray[np.float32]
    size: tuple[int, int]
    stride: tuple[int, int]
    map_sum: NDArray[np.float32] | None = None
    clean_map_sum: float = 0.0
    unit: int = -1
    value: float = 0.0
    location: tuple[int, int] = (0, 0)

    def __repr__(self) -> str:
        rows, columns, classes = self.probability.shape
        return (
            f"<Sweep of {classes} classes at {rows} x {columns} positions of "
            f"{self.size[0]} x {self.size[1]} pixels>"
        )

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class at each position, (R,C)."""
        return np.asarray(self.probability.argmax(-1))

    @property
    def drop(self) -> NDArray[np.float32]:
        """How far the probability of every class falls at each position, (R,C,K)."""
        return np.asarray(self.clean_probability - self.probability)


class Sweeper:
    """A network made ready for sweeps over images of one size.

    What doesn't depend on the image is done once: tracing, the order of the weights, the
    batches of positions. The weights are those of that time; make another sweeper when they
    have changed.

    At the first sweep one position is also run by the network itself, alone. Should the two
    differ, the whole network is run at each position from then on, and the log says so; an
    operation that mixes the images of a batch is found by that, too.

    Parameters
    ----------
    model : a classifier that returns one tensor (N,classes), or its traced graph. One that
        can't be traced is run by the plain loop, and the log says so.
    size : (C,H,W) of the images.
    layer : a layer of which a feature map is summed under each position.
    unit : which of its maps; the strongest on the image as it is unless given.
    batch_size : positions a batch at most. Unless given it is chosen by the size of the
        maps and the memory; on CUDA it is halved when the memory runs out.
    engine : ``incremental``, or ``plain`` for the whole network at each position.
    dtype : to compute in, `torch.float16` or `torch.bfloat16`; the network's own unless
        given.
    outputs : what the network returns: ``scores``, which a softmax makes probabilities, or
        ``probabilities`` as they are; ``auto`` takes them for probabilities if the network
        ends in a softmax.

    Raises
    ------
    LayerError
        if the layer or the unit doesn't exist or the layer isn't made of maps.
    ModelError
        if the network's output isn't one score per class, or it fails on images of that size.
    MethodError
        for an option that isn't one of those.
    """

    def __init__(
        self,
        model: nn.Module | Graph,
        size: Sequence[int],
        *,
        layer: str | None = None,
        unit: int | None = None,
        batch_size: int | None = None,
        engine: str = "incremental",
        dtype: torch.dtype | None = None,
        outputs: str = "auto",
    ) -> None:
        _check_options(model, size, layer, unit, batch_size, engine, dtype, outputs)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        channels, height, width = size
        self.size = (channels, height, width)
        self._module = model.module if isinstance(model, Graph) else model
        self._dtype, self._unit = dtype, unit
        self._are_probabilities = {"scores": False, "probabilities": True}.get(outputs)
        self._is_checked = self._paired = False
        modules = dict(self._module.named_modules())

        def plainly(most: int | None) -> Plain:
            """Return the plain loop: of the network itself wherever it knows the layer.

            A graph may not know of what is changed in place through a view.
            """
            by_graph = isinstance(model, Graph) or (layer is not None and layer not in modules)
            if graph is not None and by_graph:
                return Plain(graph, probe, most, dtype, self._paired)
            return Plain(self._module, layer, most, dtype, self._paired)

        self._engine: Engine
        with evaluating(self._module):
            graph = model if isinstance(model, Graph) else self._traced(model)
            probe, reason = None, None
            if graph is not None:
                layers = {found.name: found for found in layers_of(graph)}
                head = next(found for found in layers.values() if found.output)
                if self._are_probabilities is None:
                    self._are_probabilities = head.kind == "softmax"
                probe = _probe(graph, layer, layers) if layer is not None else None
                reason = why_not_incremental(graph)
                self._paired = squeezes_batch(graph) is not None
            if graph is not None and engine == "incremental" and reason is None:
                self._engine = Incremental(graph, probe, batch_size, dtype)
                self._alternatives = [partial(plainly, batch_size), partial(plainly, 1)]
                return
            if reason and engine == "incremental":
                log.warning("occlusion runs the whole network at each position: %s", reason)
            alone = graph is not None and mixes_images(graph)
            self._engine = plainly(1 if alone else batch_size)
            self._alternatives = [partial(plainly, 1)]

    def _traced(self, model: nn.Module) -> Graph | None:
        try:
            return trace(model, self.size)
        except ModelError as error:
            like = next(model.parameters(), torch.zeros(()))
            try:
                with torch.inference_mode():
                    model(torch.zeros(1, *self.size).to(like))
            except Exception:  # whatever a network raises: it isn't the tracing that fails
                raise error from None
            log.warning("occlusion runs the whole network at each position: %s", error)
            return None

    def sweep(
        self,
        image: Tensor,
        size: Extent = 16,
        stride: Extent = 8,
        fill: Any = 0.0,
        *,
        progress: bool = True,
    ) -> Sweep:
        """Slide an occluder over an image; see `sweep`."""
        (result,) = self.sweeps(image, [size], stride, fill, progress=progress)
        return result

    def sweeps(
        self,
        image: Tensor,
        sizes: Sequence[Extent],
        stride: Extent = 8,
        fill: Any = 0.0,
        *,
        progress: bool = True,
    ) -> list[Sweep]:
        """Slide occluders of several sizes over an image, which itself is run once."""
        if tuple(image.shape) != self.size:
            raise MethodError(
                f"the image has the shape {tuple(image.shape)}; this sweeper takes {self.size}."
            )
        if not image.is_floating_point():
            raise MethodError(
                f"the image is of {image.dtype}; give it as the network takes it: normalised, in "
                "floating point."
            )
        sides = self.size[1:]
        step = pixels("stride", stride, sides)
        grids = [Positions.covering(sides, pixels("size", size, sides), step) for size in sizes]
        occluder = shown(fill, image)
        with evaluating(self._module):
            scores, maps = self._engine.look(image)
            if scores.dim() != 1:
                raise ModelError(
                    f"the network's output has the shape (N, {', '.join(map(str, scores.shape))})"
                    ", not (N, classes). Wrap it so that it returns class scores."
                )
            if not bool(torch.isfinite(scores).all()):
                raise ModelError(
                    "the network's scores for this image aren't finite numbers; look at its "
                    "weights and the image's normalisation."
                )
            if self._are_probabilities is None:  # of a network that can't be traced
                total = float(scores.double().sum())
                self._are_probabilities = bool((scores >= 0).all()) and abs(total - 1) < 1e-3
            clean = self._probability(scores[None])[0]
            strongest = _Strongest.of(maps, self._unit)
            found = []
            for positions in grids:
                report = reporting("positions of the occluder") if progress else nullcontext(_quiet)
                with report as advance:
                    swept, sums = self._engine.occlude(positions, occluder, strongest.unit, advance)
                if not self._holds(image, positions, occluder, swept):
                    return self.sweeps(image, sizes, stride, fill, progress=progress)
                shape = (len(positions.row), len(positions.column))
                found.append(
                    Sweep(
                        row=positions.row,
                        column=positions.column,
                        probability=self._probability(swept).reshape(*shape, -1),
                        clean_probability=clean,
                        size=positions.size,
                        stride=step,
                        map_sum=None if sums is None else sums.numpy().reshape(shape),
                        clean_map_sum=strongest.total,
                        unit=strongest.unit,
                        value=strongest.value,
                        location=strongest.location,
                    )
                )
        return found

    @torch.inference_mode()
    def _holds(self, image: Tensor, positions: Positions, occluder: Tensor, swept: Tensor) -> bool:
        """Say whether the engine gives what the network itself does; if not, exchange it.

        Looked at once, at the position in the middle.
        """
        if self._is_checked:
            return True
        at = len(positions) // 2
        alone = Plain(self._module, None, 1, self._dtype, self._paired)
        alone.look(image)
        scores, _ = alone.occlude(positions.only(at), occluder, -1, _quiet)
        spread = float(scores.float().std()) or float(scores.abs().max())
        off = float((scores[0].float() - swept[at].float()).abs().max())
        self._is_checked = off <= _TOLERANCE.get(self._dtype or scores.dtype, _ELSE) * spread
        if self._is_checked or not self._alternatives:
            return True
        log.warning(
            "occlusion runs the whole network at each position: what is run in parts gives "
            "other scores than the network itself (%.0f %% of their spread)",
            100 * off / spread,
        )
        self._engine = self._alternatives.pop(0)()
        return False

    def _probability(self, scores: Tensor) -> NDArray[np.float32]:
        """Return class probabilities from the network's output, (N,K)."""
        if not self._are_probabilities:
            scores = torch.softmax(scores, dim=1)
        return np.asarray(scores.float().cpu().numpy())


def sweep(
    model: nn.Module | Graph,
    image: Tensor,
    size: Extent = 16,
    stride: Extent = 8,
    fill: Any = 0.0,
    *,
    layer: str | None = None,
    unit: int | None = None,
    batch_size: int | None = None,
    engine: str = "incremental",
    dtype: torch.dtype | None = None,
    outputs: str = "auto",
    progress: bool = True,
) -> Sweep:
    """Slide an occluder over an image and run the network under each position.

    The windows cover the whole image: their corners are multiples of the stride from
    0 up to the first window that reaches the far border, where it is cut. Only what the
    occluder changes is computed, so this takes a fraction of the plain loop's time; the
    result is the same up to rounding.

    Parameters
    ----------
    model : a classifier, or its traced graph. It is run in evaluation mode, and left in the
        mode that it was in.
    image : (C,H,W) normalised as the network takes it, on the network's device.
    size, stride : of the occluder: pixels, or below one a share of the image's side; one
        number, or height and width.
    fill : what the occluder shows, in the space of `image`: one number, one a channel, or
        another image (C,H,W) that is seen through it, such as ``blurred(image)``.
    layer, unit, batch_size, engine, dtype, outputs : as for `Sweeper`, which is made for one
        image here.
    progress : whether to log how far it is, at the level INFO of the logger ``convatlas``.

    Raises
    ------
    LayerError, ModelError
        as `Sweeper` does.
    MethodError
        if an argument isn't what it may be.

    Examples
    --------
    >>> import torch
    >>> from torchvision.models import squeezenet1_1
    >>> from convatlas.occlusion import sweep
    >>> result = sweep(squeezenet1_1(), torch.randn(3, 64, 64), size=16, stride=16)
    >>> result.probability.shape, result.row.tolist()
    ((4, 4, 1000), [0, 16, 32, 48])
    """
    if not isinstance(image, Tensor) or image.dim() != 3:
        what = f"has the shape {tuple(np.shape(image))}"
        if not isinstance(image, Tensor):
            what = f"is a {type(image).__name__}"
        raise MethodError(f"the image {what}; a sweep takes one image, a tensor (C,H,W).")
    sweeper = Sweeper(
        model,
        image.shape,
        layer=layer,
        unit=unit,
        batch_size=batch_size,
        engine=engine,
        dtype=dtype,
        outputs=outputs,
    )
    return sweeper.sweep(image, size, stride, fill, progress=progress)


@dataclass(frozen=True)
class _Strongest:
    """The unit of a layer with the largest activation, or one that was chosen."""

    unit: int = -1
    value: float = 0.0
    total: float = 0.0
    location: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, maps: Tensor | None, unit: int | None = None) -> _Strongest:
        """Return the strongest of maps (U,h,w), the first of equals, or the chosen one."""
        if maps is None:
            return cls()
        if maps.dim() != 3:
            raise LayerError("the layer has no feature maps to be summed; choose one that has.")
        if unit is not None and not 0 <= unit < len(maps):
            raise LayerError(f"the layer has no unit {unit}; its units are 0 to {len(maps) - 1}.")
        if unit is None:
            unit = int(maps.amax((1, 2)).argmax())
        strongest = maps[unit].float()
        place = int(strongest.argmax())
        return cls(
            unit,
            float(strongest.max()),
            float(strongest.double().sum()),
            (place // maps.shape[2], place % maps.shape[2]),
        )


def _check_options(
    model: Any,
    size: Any,
    layer: Any,
    unit: Any,
    batch_size: Any,
    engine: Any,
    dtype: Any,
    outputs: Any,
) -> None:
    """Raise a `MethodError` for an option that isn't what it may be."""
    problems = {
        f"the model is a {type(model).__name__}; a sweep takes a torch.nn.Module, or its "
        "graph": not isinstance(model, nn.Module | Graph),
        f"the size is {tuple(size)}; it must be channels, height and width": len(size) != 3,
        f"there is no engine {engine!r}; there are {', '.join(ENGINES)}": engine not in ENGINES,
        f"outputs are {outputs!r}; they can be {', '.join(OUTPUTS)}": outputs not in OUTPUTS,
        f"the batch size is {batch_size!r}; it must be a whole number, at least one": batch_size
        is not None
        and not (isinstance(batch_size, int) and batch_size >= 1),
        f"unit {unit!r} is of no layer; give the layer, and a whole number": unit is not None
        and not (isinstance(unit, int) and layer is not None),
    }
    for problem, holds in problems.items():
        if holds:
            raise MethodError(f"{problem}.")
    module = model.module if isinstance(model, Graph) else model
    own = like(module).dtype
    if dtype not in (None, own, torch.float16, torch.bfloat16):
        raise MethodError(
            f"dtype is {dtype}; it can be torch.float16, torch.bfloat16, or the network's own "
            f"{own}."
        )


def _quiet(share: float) -> None:
    """Take no notice of progress."""


def _probe(graph: Graph, name: str, layers: dict[str, Any]) -> fx.Node:
    node = graph.node(name)  # raises a LayerError that offers the nearest names
    if name not in layers or len(layers[name].shape) != 3:
        raise LayerError(f"layer {name!r} has no feature maps to be summed; choose one that has.")
    return node


def sweep_occlusion(
    *,
    exhibits: Sequence[AnyPath],
    images: AnyPath,
    card: AnyPath,
    weights: AnyPath,
    outputs: Sequence[AnyPath],
    recipes: Sequence[Recipe],
    size: Extent,
    stride: Extent,
    fill: str | Sequence[float],
    layer: str,
    unit: int | str = "auto",
) -> None:
    """Write the occlusion sweep of each of some exhibits.

    `fill` is what `occluder` takes. `layer` is the layer of which a map is summed: that of
    `unit`, or the one that is strongest on the exhibit.
    """
    with Images(images) as data:
        mean = data.mean
    model = load_model(card, weights)
    sweeper: Sweeper | None = None
    for exhibit, output, recipe in zip(exhibits, outputs, recipes, strict=True):
        picked = read(Exhibit, exhibit)
        if sweeper is None:
            sides = picked.image.shape[:2]
            chosen = None if isinstance(unit, str) else unit
            sweeper = Sweeper(model.module, (3, *sides), layer=layer, unit=chosen)
        image = model.prepare(picked.image[None])[0]
        log.info("%s: occluder of %s at stride %s, map of %s", picked.name, size, stride, layer)
        result = sweeper.sweep(image, size, stride, occluder(fill, image, model, mean))
        write(
            output,
            Occlusion(
                row=result.row,
                column=result.column,
                probability=result.probability,
                map_sum=np.asarray(result.map_sum),
                clean_probability=result.clean_probability,
                clean_map_sum=result.clean_map_sum,
                size=result.size,
                stride=result.stride,
                fill=colour(fill, model, mean),
                layer=layer,
                unit=result.unit,
                value=result.value,
                location=result.location,
                label=picked.label,
            ),
            recipe,
        )


def colour(
    fill: str | Sequence[float], model: LoadedModel, mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the colour of an occluder, (3,) in 0..255; NaN for one that shows the image blurred.

    Parameters
    ----------
    fill : ``mean`` (of the data set's pixels, per channel), ``training_mean`` (which the
        network's normalisation subtracts), ``zero`` (black), ``grey`` (128), ``blur``, or
        [r, g, b] in 0..255.
    mean : of the data set's pixels, (3,) in 0..255.
    """
    if not isinstance(fill, str):
        return np.asarray(fill, dtype=np.float64)
    return {
        "mean": mean,
        "training_mean": model.mean.flatten().double().cpu().numpy() * 255,
        "zero": np.zeros(3),
        "grey": np.full(3, float(GREY)),
        "blur": np.full(3, np.nan),
    }[fill]


def occluder(
    fill: str | Sequence[float], image: Tensor, model: LoadedModel, mean: NDArray[np.float64]
) -> Tensor:
    """Return what an occluder shows in the space of an image: a colour (3,), or the image blurred.

    `fill` and `mean` are as in `colour`.
    """
    if fill == "blur":
        return blurred(image)
    pixel = torch.as_tensor(colour(fill, model, mean), dtype=torch.float32, device=image.device)
    return (pixel / 255 - model.mean.flatten()) / model.std.flatten()
