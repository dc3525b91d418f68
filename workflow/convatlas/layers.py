"""The layers of a network as `layers.json` tells of them: names, boxes, choices.

Without torch, so that ranking patches and drawing figures start quickly. The file
is made by `convatlas.graph.describe`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import DamagedFile, LayerError, did_you_mean
from convatlas.files import read_json

WEIGHTED = ("conv", "linear", "conv_transpose")  # kinds with weights that mix channels
_AUTO_AT_MOST = 8  # more rows than a reader takes in


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes
    ----------
    name : as in torchvision's feature extraction.
    kind : what it does, e.g. ``conv`` or ``relu``.
    units : feature maps, or neurons of a vector.
    shape : (U,H,W), or (U,) for a vector.
    size, stride, start : of the receptive field, each [y, x] in input pixels; cell i
        sees ``start + i * stride`` and the ``size - 1`` pixels after it. Where there are
        `intervals`, the size is the largest cell's and the stride a rounded mean of at
        least one. A stride of zero: every cell sees all.
    exact : whether the field is exact or an upper bound; at the border only the part
        of a cell's field that lies on the image is seen, or a little less of it.
    intervals : where the field isn't regular, for y and x the first and last pixel
        that each cell sees.
    inputs : names of the layers that feed it.
    deconvnet : why the deconvnet isn't defined from here down, or None if it is.
    weight : name of its weights in the state dict, if it has any.
    groups : of a convolution, in which each unit sees its own share of the channels alone.
    stage_end, code, output : whether it is the last layer of its resolution, the one
        whose values serve as the image's code, the one that holds the class scores.
    """

    name: str
    kind: str
    units: int
    shape: tuple[int, ...]
    size: tuple[int, int]
    stride: tuple[int, int]
    start: tuple[int, int]
    exact: bool
    intervals: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]] | None = None
    inputs: tuple[str, ...] = ()
    deconvnet: str | None = None
    weight: str | None = None
    groups: int = 1
    stage_end: bool = False
    code: bool = False
    output: bool = False

    @property
    def is_map(self) -> bool:
        """Whether it has more than one cell, so that a unit's answer has a place."""
        return len(self.shape) == 3 and self.shape[1] * self.shape[2] > 1

    def as_json(self) -> dict[str, Any]:
        """Return the layer's entry in `layers.json`."""
        entry: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "units": self.units,
            "shape": list(self.shape),
            "inputs": list(self.inputs),
            "receptive_field": {
                "size": list(self.size),
                "stride": list(self.stride),
                "start": list(self.start),
                "exact": self.exact,
            },
            "deconvnet": self.deconvnet,
            "stage_end": self.stage_end,
            "code": self.code,
            "output": self.output,
        }
        if self.weight is not None:
            entry["weight"] = self.weight
        if self.groups != 1:
            entry["groups"] = self.groups
        if self.intervals is not None:
            entry["intervals"] = {"y": self.intervals[0], "x": self.intervals[1]}
        return entry

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Layer:
        """Read an entry of `layers.json`."""
        field = entry["receptive_field"]
        intervals = entry.get("intervals")
        return cls(
            name=entry["name"],
            kind=entry["kind"],
            units=entry["units"],
            shape=tuple(entry["shape"]),
            size=tuple(field["size"]),
            stride=tuple(field["stride"]),
            start=tuple(field["start"]),
            exact=field["exact"],
            intervals=(intervals["y"], intervals["x"]) if intervals else None,
            inputs=tuple(entry["inputs"]),
            deconvnet=entry["deconvnet"],
            weight=entry.get("weight"),
            groups=entry.get("groups", 1),
            stage_end=entry["stage_end"],
            code=entry["code"],
            output=entry["output"],
        )

    @property
    def centre(self) -> tuple[int, int]:
        """Row and column of the cell in the middle, of two the later."""
        rows, columns = self.shape[1:] if len(self.shape) == 3 else (1, 1)
        return rows // 2, columns // 2

    def boxes(self, locations: NDArray[Any]) -> NDArray[np.int64]:
        """Return the boxes that cells see.

        Parameters
        ----------
        locations : (...,2) row and column in the feature map.

        Returns
        -------
        (...,4) top, left, bottom, right in input pixels, bottom and right excluded.
        All boxes of a layer are equally large; at the border they reach outside.
        """
        cells = np.asarray(locations, dtype=np.int64)
        if self.intervals is None:
            corner = np.asarray(self.start) + cells * np.asarray(self.stride)
        else:
            first = [np.asarray(axis)[:, 0] for axis in self.intervals]
            corner = np.stack([first[0][cells[..., 0]], first[1][cells[..., 1]]], axis=-1)
        return np.concatenate([corner, corner + np.asarray(self.size)], axis=-1)

    def edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return for y and x where on the image the cells lie, each by the centre of its field.

        A cell reaches half-way to its neighbours. Cells that see the same share the place
        of one, as those of an enlarged map do. A cell alone along an axis is as long as its
        stride, and cells that all see everything lie on all of it.

        Returns
        -------
        two (n+1,) ascending, cell i from edge i to i + 1, in pixels from the image's top
        left corner, so that pixel p reaches from p to p + 1.
        """
        y, x = (self._edges(axis) for axis in (0, 1))
        return y, x

    def _edges(self, axis: int) -> NDArray[np.float64]:
        cells = np.arange(self.shape[1 + axis] if len(self.shape) == 3 else 1)
        if self.intervals is None:
            twice = 2 * (self.start[axis] + cells * self.stride[axis]) + self.size[axis]
        else:  # of its own field, which may be smaller than its box
            twice = np.asarray(self.intervals[axis]).sum(1) + 1
        places, sharing = np.unique(twice / 2, return_counts=True)
        if len(places) > 1:
            between = (places[1:] + places[:-1]) / 2
            ends = (places[0] + places[0] - between[0], places[-1] + places[-1] - between[-1])
            edges = np.array([ends[0], *between, ends[1]])
        else:
            reach = (self.stride[axis] or self.size[axis]) / 2
            edges = places[0] + np.array([-reach, reach])
        parts = [
            low + (high - low) * np.arange(count) / count
            for low, high, count in zip(edges[:-1], edges[1:], sharing, strict=True)
        ]
        return np.concatenate([*parts, edges[-1:]])


def read_layers(path: str | os.PathLike[str]) -> list[Layer]:
    """Read `layers.json`."""
    try:
        return [Layer.from_json(entry) for entry in read_json(path)]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(path, f"is not a whole layers.json ({error!r})") from error


def find_layer(layers: Sequence[Layer], name: str) -> Layer:
    """Return the layer of that name.

    Raises
    ------
    LayerError
        if there is none; the message offers the nearest names.
    """
    for layer in layers:
        if layer.name == name:
            return layer
    raise LayerError(_no_such(name, layers))


def select_layers(layers: Sequence[Layer], wanted: str | Sequence[str]) -> list[str]:
    """Return the names of the layers that a config asks for, in execution order.

    `wanted` is ``auto`` (the ends of the stages), a glob such as ``layer4.*``, or a
    list of names and globs.

    Raises
    ------
    LayerError
        for a name or a glob that fits no layer; the message offers the nearest names.
    """
    if wanted == "auto":
        ends = [layer.name for layer in layers if layer.stage_end]
        if len(ends) <= _AUTO_AT_MOST:
            return ends
        places = np.linspace(0, len(ends) - 1, _AUTO_AT_MOST).round().astype(int)
        return [ends[i] for i in places]
    chosen: set[str] = set()
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        fits = {layer.name for layer in layers if layer.name == pattern} or {
            layer.name for layer in layers if fnmatchcase(layer.name, pattern)
        }
        if not fits:
            raise LayerError(_no_such(pattern, layers))
        chosen |= fits
    return [layer.name for layer in layers if layer.name in chosen]


def stored_layers(layers: Sequence[Layer], wanted: Sequence[str]) -> list[Layer]:
    """Return the layers whose activations are stored: `wanted`, the code and the output."""
    names = set(select_layers(layers, wanted))
    return [layer for layer in layers if layer.name in names or layer.code or layer.output]


def pick_units(layer: Layer, wanted: int | Sequence[int], seed: int) -> NDArray[np.int64]:
    """Return the units of a layer to show.

    `wanted` lists them in the order of showing, or says how many: then a random pick
    by `seed`, ascending, in which those picked for a smaller number are contained.

    Raises
    ------
    LayerError
        if a listed unit doesn't exist.
    """
    if isinstance(wanted, int):
        order = np.random.default_rng(seed).permutation(layer.units)
        return np.sort(order[:wanted])
    for unit in wanted:
        if not 0 <= unit < layer.units:
            raise LayerError(
                f"layer {layer.name!r} has no unit {unit}; its units are 0 to {layer.units - 1}. "
                "Correct `units`, or give a number of units to be picked."
            )
    return np.asarray(wanted, dtype=np.int64)


def code_layer(layers: Sequence[Layer]) -> str:
    """Return the layer whose values serve as codes: what the classifier itself reads."""
    return next(layer.name for layer in layers if layer.code)


def first_filters(layers: Sequence[Layer]) -> str | None:
    """Return the first convolution, whose filters can be looked at as pictures, if any."""
    return next((x.name for x in layers if x.kind == "conv" and x.weight), None)


def filter_layers(layers: Sequence[Layer], chosen: Sequence[str]) -> list[str]:
    """Return the convolutions whose filters are shown, in execution order.

    These are the network's first, and those behind the chosen layers: each layer itself, if
    it is one, or else those that feed it through no other layer with weights of its kind,
    several where branches join. One that feeds another of them is left out, as the block
    before is where a shortcut goes round a block.
    """
    by_name = {layer.name: layer for layer in layers}
    found = {first_filters(layers)}
    for name in chosen:
        ends, waiting, seen = [], [name], set()
        while waiting:
            layer = by_name[waiting.pop()]
            if layer.name in seen:
                continue
            seen.add(layer.name)
            if layer.kind not in WEIGHTED:
                waiting += layer.inputs
            elif layer.kind == "conv" and layer.weight:
                ends.append(layer)
        behind = _upstream(by_name, [source for layer in ends for source in layer.inputs])
        found |= {layer.name for layer in ends} - behind
    return [layer.name for layer in layers if layer.name in found]


def _upstream(layers: Mapping[str, Layer], names: Sequence[str]) -> set[str]:
    """Return layers and all that feeds them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += layers[name].inputs
    return found


def has_spectrum(layers: Sequence[Layer], name: str) -> bool:
    """Say whether a layer's weights lie on the image's pixels, on no fewer than 3 x 3."""
    layer = find_layer(layers, name)
    above = [find_layer(layers, source) for source in layer.inputs]
    return min(layer.size) >= 3 and all(x.size == x.stride == (1, 1) for x in above)


def output_layer(layers: Sequence[Layer]) -> Layer:
    """Return the layer that holds the class scores."""
    return next(layer for layer in layers if layer.output)


def last_map(layers: Sequence[Layer]) -> str:
    """Return the last stage end that is made of maps: Zeiler & Fergus's layer 5.

    Raises
    ------
    LayerError
        if there is none.
    """
    ends = [layer.name for layer in layers if layer.stage_end and layer.is_map]
    if ends:
        return ends[-1]
    raise LayerError(
        f"there are no feature maps before the output {output_layer(layers).name!r}; "
        "set the analysis `occlusion`'s `layer`."
    )


def layer_table(layers: Sequence[Layer]) -> str:
    """Return the layers as a table of text, one a line, with what `layers: auto` picks marked."""
    auto = select_layers(layers, "auto")
    rows = [("layer", "kind", "shape", "field", "stride", "start", "notes")]
    for layer in layers:
        notes = [note for note, holds in _notes(layer, auto).items() if holds]
        rows.append(
            (
                layer.name,
                layer.kind,
                " x ".join(map(str, layer.shape)),
                ("" if layer.exact else "<= ") + _extent(layer.size),
                _extent(layer.stride),
                _extent(layer.start),
                ", ".join(notes),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _notes(layer: Layer, auto: Sequence[str]) -> dict[str, bool]:
    return {
        "auto": layer.name in auto,
        "code": layer.code,
        "output": layer.output,
        layer.deconvnet or "": layer.deconvnet is not None and layer.name in auto,
    }


def _extent(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} x {pair[1]}"


def _no_such(name: str, layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers]
    hint = did_you_mean(name, names) or f" The layers are {', '.join(names[:5])}, ..., {names[-1]}."
    return (
        f"there is no layer {name!r}.{hint} `snakemake --cores 1 describe`, or in Python "
        "`receptive_fields`, lists them all."
    )
