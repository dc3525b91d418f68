"""The HDF5 layout of every artifact, known to this module alone.

An artifact is a frozen dataclass whose fields say on which axes they lie; `write`
and `read` do the rest. Axes carry dimension scales (as netCDF-4 has them), so that
xarray opens each file. Images and activations, which may be larger than memory,
have writers and readers of their own that go through them in blocks of rows.

Every file's attributes say what it was made from: ``convatlas_version``, ``made_by``
(the rule), ``subject`` (JSON: of which study, layer, exhibit), ``code`` (the digest of
the modules that made it), ``parameters`` and ``inputs`` (JSON), and ``digest``, which
identifies all of these together.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from convatlas import __version__
from convatlas.digest import file_digest
from convatlas.errors import DamagedFile, StoreError
from convatlas.files import check_room, files_in, replacing

Array = NDArray[Any]
A = TypeVar("A")

_SCALE_ONLY = "This is a netCDF dimension but not a netCDF variable. {:10d}"
_MISSING = "Unable to"  # how h5py's KeyErrors begin
_NAMED = 100  # files of one input whose digests all stand in an attribute
_COMPRESS_FROM = 1 << 16  # bytes; below, chunking costs more than compression saves


# ------------------------------------------------------------------- provenance


@dataclass(frozen=True)
class Recipe:
    """What an artifact was made from.

    `code` is the digest of the code, `parameters` a JSON-like mapping, `inputs` maps the
    name of each input artifact to its digest, `rule` is the rule that makes it, and
    `subject` what it is about, e.g. the study and the layer.
    """

    code: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    rule: str = ""
    subject: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, Any],
        rule: str = "",
        subject: Mapping[str, str] | None = None,
    ) -> Recipe:
        """Make a recipe from a job's parameters (with `code` among them) and input paths.

        Several files of one input are named ``name[0]`` and so on; where they are too many
        for that, the input has the digest of their digests, see `joined_digest`.
        """
        rest = {k: v for k, v in parameters.items() if k != "code"}
        digests: dict[str, str] = {}
        for name, paths in inputs.items():
            if isinstance(paths, str | os.PathLike):
                digests[name] = artifact_digest(paths)
                continue
            several = [artifact_digest(path) for path in paths]
            if len(several) <= _NAMED:
                digests |= {f"{name}[{i}]": digest for i, digest in enumerate(several)}
            else:
                digests[name] = joined_digest(several)
        return cls(str(parameters.get("code", "")), rest, digests, rule, dict(subject or {}))

    def attributes(self) -> dict[str, str]:
        """Return the attributes that an artifact carries."""
        plain = {
            "convatlas_version": __version__,
            "made_by": self.rule,
            "subject": json.dumps(dict(self.subject), sort_keys=True),
            "code": self.code,
            "parameters": json.dumps(self.parameters, sort_keys=True, default=str),
            "inputs": json.dumps(dict(self.inputs), sort_keys=True),
        }
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        return plain | {"digest": digest}


NO_RECIPE = Recipe()


def joined_digest(digests: Iterable[str]) -> str:
    """Return one digest for several, in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def artifact_digest(path: str | os.PathLike[str]) -> str:
    """Return the digest an HDF5 artifact carries, or that of another file's content.

    A folder has the digest of those of its files, by name, see `joined_digest`.
    """
    if Path(path).is_dir():
        return joined_digest(map(artifact_digest, files_in(path)))
    if Path(path).suffix == ".h5":
        with reading(path) as file:
            if "digest" in file.attrs:
                return str(file.attrs["digest"])
    return file_digest(path)


# ---------------------------------------------------------------- files and axes


@contextmanager
def creating(path: str | os.PathLike[str], recipe: Recipe) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that appears at `path` only when whole.

    HDF5's own locks are off, here and for reading: nobody sees a file before it is whole,
    nor is one changed afterwards, and not every shared file system has locks.
    """
    with (
        replacing(path) as temporary,
        h5py.File(temporary, "w", libver=("earliest", "v110"), locking=False) as file,
    ):
        for name, value in recipe.attributes().items():
            file.attrs[name] = value
        yield file


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Yield an HDF5 file for reading.

    Raises
    ------
    StoreError
        if it doesn't exist.
    DamagedFile
        if it is truncated, isn't HDF5, or lacks what is read from it.
    """
    if not Path(path).is_file():
        raise StoreError(f"{path} doesn't exist. Run the workflow again to make it.")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        if error.errno is not None:  # the system's: a disk that can't be read, no permission
            raise
        raise DamagedFile(path, f"is not a whole HDF5 file ({error})") from error
    with file:
        try:
            yield file
        except KeyError as error:
            if not str(error.args[0]).startswith(_MISSING):
                raise  # somebody else's, raised while the file was open
            raise DamagedFile(path, f"lacks a part that it should have ({error})") from error


class _Writer:
    """A context manager that makes a file piece by piece; without a whole one nothing appears."""

    _creating: AbstractContextManager[h5py.File]

    def _finish(self) -> None:
        """Write what is still to be written, at the end of a block that went well."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as failure:
                self._creating.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._creating.__exit__(kind, error, traceback)


def _scale(group: h5py.Group, name: str, length: int) -> h5py.Dataset:
    """Return the dimension scale `name` of a group, made if it isn't there."""
    if name not in group:
        scale = group.create_dataset(name, data=np.zeros(length, dtype="u1"))
        scale.make_scale(_SCALE_ONLY.format(length))
    elif not group[name].is_scale:
        group[name].make_scale(name)
    return group[name]


def _attach(group: h5py.Group, dataset: h5py.Dataset, axes: Sequence[str]) -> None:
    for i, axis in enumerate(axes):
        scale = _scale(group, axis, dataset.shape[i])
        if scale != dataset:
            dataset.dims[i].label = axis
            dataset.dims[i].attach_scale(scale)


def _add(group: h5py.Group, name: str, value: Any, compress: bool = True) -> h5py.Dataset:
    data = np.asarray(value)
    if data.dtype.kind in "UO":
        return group.create_dataset(name, data=data.astype(object), dtype=h5py.string_dtype())
    if data.dtype == np.bool_:
        data = data.astype("u1")
    if compress and data.nbytes >= _COMPRESS_FROM:
        return group.create_dataset(name, data=data, compression=4, shuffle=True)
    return group.create_dataset(name, data=data)


# ----------------------------------------------------------- artifacts, declared


def on(*axes: str) -> dict[str, tuple[str, ...]]:
    """Return a field's metadata that declares it an array on `axes`."""
    return {"axes": axes}


def _is_array(item: Field[Any]) -> bool:
    return "axes" in item.metadata


def write(path: str | os.PathLike[str], artifact: Any, recipe: Recipe) -> None:
    """Write an artifact: its array fields as datasets, the others as attributes."""
    with creating(path, recipe) as file:
        _write_into(file, artifact)


def _write_into(group: h5py.Group, artifact: Any) -> None:
    arrays = [f for f in fields(artifact) if _is_array(f) and getattr(artifact, f.name) is not None]
    for item in arrays:
        _add(group, item.name, getattr(artifact, item.name))
    for item in arrays:
        _attach(group, group[item.name], item.metadata["axes"])
    for item in fields(artifact):
        value = getattr(artifact, item.name)
        if not _is_array(item) and value is not None:
            group.attrs[item.name] = value


def read(kind: type[A], path: str | os.PathLike[str]) -> A:
    """Read an artifact of a kind that `write` wrote."""
    with reading(path) as file:
        return _read_from(kind, file)


def _read_from(kind: type[A], group: h5py.Group) -> A:
    values: dict[str, Any] = {}
    for item in fields(kind):  # type: ignore[arg-type]
        if _is_array(item):
            if item.name in group:
                values[item.name] = _load(group[item.name])
        elif item.name in group.attrs:
            value = group.attrs[item.name]
            values[item.name] = value.item() if isinstance(value, np.generic) else value
    try:
        return kind(**values)
    except TypeError as error:
        raise DamagedFile(
            group.file.filename, f"is not a {kind.__name__} artifact ({error})"
        ) from error


def _load(dataset: h5py.Dataset) -> Array:
    if h5py.check_string_dtype(dataset.dtype):
        return np.asarray(dataset.asstr()[()], dtype=object)
    return np.asarray(dataset[()])


@dataclass(frozen=True)
class Exhibit:
    """One image that is shown by itself."""

    image: Array = field(metadata=on("row", "column", "channel"))  # (H,W,3) uint8
    index: int  # row in images.h5
    label: int  # the network's output index, or -1
    name: str
    mask: Array | None = field(
        default=None, metadata=on("row", "column")
    )  # (H,W) uint8, 1 on the object


@dataclass(frozen=True)
class Patches:
    """The images that excite each unit of a layer most, strongest first.

    Ties go to the lower image index. An image counts once, at its strongest place.
    """

    unit: Array = field(metadata=on("unit"))  # (U,) int
    value: Array = field(
        metadata=on("unit", "rank")
    )  # (U,k) float32, descending; -inf where there is no image
    image: Array = field(
        metadata=on("unit", "rank")
    )  # (U,k) int, row in images.h5, -1 where there is none
    location: Array = field(
        metadata=on("unit", "rank", "yx")
    )  # (U,k,2) int, row and column in the feature map
    box: Array = field(
        metadata=on("unit", "rank", "edge")
    )  # (U,k,4) int: top, left, bottom, right in pixels
    outside: Array = field(
        metadata=on("unit", "rank")
    )  # (U,k) float32, share of the box that is padding
    dead: Array = field(metadata=on("unit"))  # (U,) 1 where the unit answers every image alike
    runner_up: Array = field(
        metadata=on("unit")
    )  # (U,) float32, the value of the best image that isn't among them; -inf if none
    layer: str = ""


@dataclass(frozen=True)
class Projections:
    """Deconvnet projections of the strongest patches of some units.

    A projection is the signed signal in the network's (normalised) input space,
    seeded with the activation's value as in Zeiler & Fergus (2014), and cropped to
    the patch's box.
    """

    unit: Array = field(metadata=on("unit"))  # (M,) int
    projection: Array = field(
        metadata=on("unit", "rank", "channel", "row", "column")
    )  # (M,k,3,h,w) float32
    value: Array = field(
        metadata=on("unit", "rank")
    )  # (M,k) float32, the activation found on the way
    image: Array = field(metadata=on("unit", "rank"))  # (M,k) int
    box: Array = field(metadata=on("unit", "rank", "edge"))  # (M,k,4) int
    # (M,k) float32, the activation had the maps gone on beyond their borders; nan if unknown
    continued: Array = field(metadata=on("unit", "rank"))
    border: Array = field(metadata=on("unit", "rank"))  # (M,k) 1 where the padding made it win
    layer: str = ""
    rule: str = "deconvnet"
    seed: str = "activation"


@dataclass(frozen=True)
class Neighbours:
    """The nearest images of each image by code, itself excluded, nearest first.

    Of more images than are embedded it is the sample that is, as if there were no others:
    `image` says which they are. The file then has the others, too, see `Others`.
    """

    code: Array = field(
        metadata=on("index", "component")
    )  # (N,D) float32, principal components of the codes
    neighbour: Array = field(metadata=on("index", "rank"))  # (N,K) int, rows of this artifact
    distance: Array = field(metadata=on("index", "rank"))  # (N,K) float32, Euclidean
    layer: str = ""
    # (N,) int, row in images.h5, ascending; absent where they are all images
    image: Array | None = field(default=None, metadata=on("index"))


@dataclass(frozen=True)
class Embedding:
    """A two-dimensional map of the images."""

    position: Array = field(metadata=on("index", "xy"))  # (N,2) float32
    layer: str = ""
    perplexity: float = 0.0  # used: less than asked for if there are too few images
    kl_divergence: float = 0.0  # of those that were embedded
    # (N,) uint8, 1 where t-SNE embedded the image, 0 where it was placed among those; absent
    # where all were embedded
    embedded: Array | None = field(default=None, metadata=on("index"))
    sampled: int | None = None  # how many were embedded, if not all


@dataclass(frozen=True)
class Quality:
    """How well maps of the images keep their neighbours, a number a map.

    Shares and accuracies are in 0..1; nan where they can't be told.
    """

    layer: Array = field(metadata=on("map"))  # (M,) text, whose codes are mapped
    perplexity: Array = field(metadata=on("map"))  # (M,) float64, used
    kl_divergence: Array = field(metadata=on("map"))  # (M,)
    trustworthiness: Array = field(metadata=on("map"))  # (M,)
    recall: Array = field(metadata=on("map"))  # (M,) share of the nearest by code near in the map
    map_accuracy: Array = field(metadata=on("map"))  # (M,) of a vote of the nearest in the map
    code_accuracy: Array = field(metadata=on("map"))  # (M,) of a vote of the nearest by code
    near: int  # neighbours that count as near
    images: int  # over which recall and accuracies are means: all, or a sample
    trusted: int  # a sample of so many images, among which trustworthiness is measured


@dataclass(frozen=True)
class Nearest:
    """The images nearest to an exhibit, itself excluded: by pixels, and by layers' codes."""

    compared: Array = field(metadata=on("space"))  # (S,) text, the layer, or "pixels"
    image: Array = field(metadata=on("space", "rank"))  # (S,K) int, row in images.h5
    distance: Array = field(metadata=on("space", "rank"))  # (S,K) float64, Euclidean
    index: int  # of the exhibit


@dataclass(frozen=True)
class Votes:
    """What the nearest labelled images of an image say of its class, leaving out itself."""

    image: Array = field(metadata=on("query"))  # (Q,) int, row in images.h5, ascending
    label: Array = field(metadata=on("query"))  # (Q,) int
    vote: Array = field(metadata=on("query"))  # (Q,) int, the commonest label of its neighbours
    twin: Array = field(metadata=on("query"))  # (Q,) 1 where another image has the same label
    neighbour: Array = field(metadata=on("query", "rank"))  # (Q,k) int, nearest first
    distance: Array = field(metadata=on("query", "rank"))  # (Q,k) float64, Euclidean
    labelled: int  # images that vote
    most: float  # share of the commonest class among them: what a constant answer gets right
    counted: int  # images with a twin: no vote can be right about the others
    right: int  # of these, where the vote is the label
    low: float  # of the accuracy's 95 % interval; nan if none is counted
    high: float
    layer: str = ""  # or "pixels"


@dataclass(frozen=True)
class Grid:
    """Images laid out without overlap so that near cells hold near codes."""

    image: Array = field(metadata=on("row", "column"))  # (R,C) int, -1 for an empty cell
    layer: str = ""
    sampled: int | None = None  # how many of the map's images were embedded, if not all


@dataclass(frozen=True)
class Occlusion:
    """What the network says while an occluder slides over an image."""

    row: Array = field(metadata=on("row"))  # (R,) int, top of the occluder in pixels
    column: Array = field(metadata=on("column"))  # (C,) int, left of the occluder in pixels
    probability: Array = field(metadata=on("row", "column", "class"))  # (R,C,K) float32
    map_sum: Array = field(metadata=on("row", "column"))  # (R,C) float32, sum of `unit`'s map
    clean_probability: Array = field(metadata=on("class"))  # (K,) float32, of the image as it is
    clean_map_sum: float
    size: Any  # height and width of the occluder in pixels
    stride: Any  # vertical and horizontal step in pixels
    fill: Any  # red, green and blue in 0..255
    layer: str  # whose feature map `map_sum` sums
    unit: int  # strongest unit of that layer on the image as it is
    value: float  # its activation there
    location: Any  # row and column of that activation
    label: int = -1


@dataclass(frozen=True)
class Strongest:
    """Projections of one unit's strongest answers: first to the exhibit, then to others."""

    image: Array = field(metadata=on("rank"))  # (K,) int, row in images.h5
    value: Array = field(metadata=on("rank"))  # (K,) float32
    box: Array = field(metadata=on("rank", "edge"))  # (K,4) int
    # (K,h,w,3) uint8, grey outside the image
    patch: Array = field(metadata=on("rank", "row", "column", "channel"))
    projection: Array = field(metadata=on("rank", "channel", "row", "column"))  # (K,3,h,w) float32
    layer: str = ""
    unit: int = -1


@dataclass(frozen=True)
class Saliency:
    """What each way back through the network sends from an exhibit's predicted class.

    Signed, in the network's (normalised) input space, seeded with one; a way that isn't
    defined for the network is missing, and the reason is told.
    """

    predicted: int
    score: float  # of the predicted class, before a softmax
    probability: float  # of the predicted class
    gradient: Array | None = field(
        default=None, metadata=on("channel", "row", "column")
    )  # (3,H,W) float32
    guided: Array | None = field(default=None, metadata=on("channel", "row", "column"))
    deconvnet: Array | None = field(default=None, metadata=on("channel", "row", "column"))
    why_not_gradient: str = ""
    why_not_guided: str = ""
    why_not_deconvnet: str = ""


@dataclass(frozen=True)
class Directions:
    """The images that excite random directions of a layer most, and how alike they are.

    `purity` is the share of a row's images that have its commonest label, `similarity` the
    mean cosine similarity of their codes in pairs; nan where a row has too few.
    """

    vector: Array = field(metadata=on("direction", "unit"))  # (D,U) float32, of unit length
    value: Array = field(metadata=on("direction", "rank"))  # (D,k) float32, descending
    image: Array = field(metadata=on("direction", "rank"))  # (D,k) int, -1 where there is none
    location: Array = field(metadata=on("direction", "rank", "yx"))  # (D,k,2) int
    box: Array = field(metadata=on("direction", "rank", "edge"))  # (D,k,4) int
    unit_purity: Array = field(metadata=on("unit"))  # (U,) of the units' own patches
    unit_similarity: Array = field(metadata=on("unit"))
    direction_purity: Array = field(metadata=on("direction"))  # (D,)
    direction_similarity: Array = field(metadata=on("direction"))
    shuffled_purity: Array = field(metadata=on("unit"))  # (U,) exchanged between the units
    shuffled_similarity: Array = field(metadata=on("unit"))
    layer: str = ""
    code_layer: str = ""  # whose means are the codes


@dataclass(frozen=True)
class EffectiveFields:
    """Where in its receptive field the central cell of each layer really looks.

    `mass` is the gradient's, which sums to one, or is zero throughout where no gradient
    arrives; `box` has the centre of `theory` and holds `share` of it.
    """

    name: Array = field(metadata=on("layer"))  # (L,) text
    mass: Array = field(metadata=on("layer", "row", "column"))  # (L,H,W) float32
    cell: Array = field(metadata=on("layer", "yx"))  # (L,2) int, row and column in the map
    theory: Array = field(
        metadata=on("layer", "edge")
    )  # (L,4) int, what the cell can see: top, left, bottom, right in pixels
    size: Array = field(metadata=on("layer", "yx"))  # (L,2) int, of `box`; 0 without a gradient
    box: Array = field(metadata=on("layer", "edge"))  # (L,4) int; empty without a gradient
    outside: Array = field(metadata=on("layer"))  # (L,) float64, share of the mass not in `theory`
    total: Array = field(metadata=on("layer"))  # (L,) float64, the mass before it was scaled
    share: float = 0.0
    images: int = 0  # over which the mass is a mean
    why_not: str = ""  # nothing was measured


@dataclass(frozen=True)
class Health:
    """How a layer's units answer to all images, see `convatlas.health`.

    A unit's answer to an image is its largest activation over the map; it is active on the
    image where that is above zero.
    """

    unit: Array = field(metadata=on("unit"))  # (U,) int
    frequency: Array = field(metadata=on("unit"))  # (U,) float64, share of images it's active on
    mean: Array = field(metadata=on("unit"))  # (U,) float64, of its answers, as the next three
    std: Array = field(metadata=on("unit"))
    minimum: Array = field(metadata=on("unit"))
    maximum: Array = field(metadata=on("unit"))
    lifetime: Array = field(metadata=on("unit"))  # (U,) float64, 0 to 1; nan if never active
    dead: Array = field(metadata=on("unit"))  # (U,) 1 where it is active on no image
    constant: Array = field(metadata=on("unit"))  # (U,) 1 where all answers are the same
    always_on: Array = field(metadata=on("unit"))  # (U,) 1 where it is active on every image
    # (B,) int, images by their population sparsity, in equal bins from 0 to 1
    population: Array = field(metadata=on("bin"))
    population_mean: float  # over the images that aren't silent; nan if there are none
    images: int
    silent: int  # images on which no unit is active, so that no sparsity is defined
    layer: str = ""


@dataclass(frozen=True)
class HealthHistory:
    """How healthy the units of some layers are after each of some epochs of training.

    Shares are of a layer's units. Quantiles are over its units; those of the lifetime
    sparsity over the ones that are active at all, nan if there are none.
    """

    epoch: Array = field(metadata=on("epoch"))  # (E,) int, ascending; 0 is before training
    layers: Array = field(metadata=on("layer"))  # (L,) names
    units: Array = field(metadata=on("layer"))  # (L,) int
    level: Array = field(metadata=on("level"))  # (Q,) of the quantiles, 0 to 1
    dead: Array = field(metadata=on("epoch", "layer"))  # (E,L) share active on no image
    always_on: Array = field(metadata=on("epoch", "layer"))  # (E,L) share active on all images
    frequency: Array = field(metadata=on("epoch", "layer", "level"))  # (E,L,Q) quantiles
    lifetime: Array = field(metadata=on("epoch", "layer", "level"))  # (E,L,Q) quantiles
    population: Array = field(metadata=on("epoch", "layer"))  # (E,L) mean over the images
    images: int


@dataclass(frozen=True)
class Firing:
    """What makes each unit of a layer fire, see `convatlas.firing`.

    Classes are the labels of the images; -1 where there is none. Parts of the firing range
    are counted from the strongest answers down.
    """

    unit: Array = field(metadata=on("unit"))  # (U,) int
    maximum: Array = field(metadata=on("unit"))  # (U,) float64, largest answer
    firing: Array = field(metadata=on("unit"))  # (U,) int, images on which it fires
    labelled: Array = field(metadata=on("unit"))  # (U,) int, those of them that have a label
    distinct: Array = field(metadata=on("unit"))  # (U,) int, classes among these
    frequent: Array = field(metadata=on("unit", "rank"))  # (U,F) int, the commonest classes
    times: Array = field(metadata=on("unit", "rank"))  # (U,F) int, their images among the firing
    selectivity: Array = field(metadata=on("unit"))  # (U,) float64, 0 to 1; nan if not defined
    best: Array = field(metadata=on("unit"))  # (U,) int, the class with the largest mean
    best_images: Array = field(metadata=on("unit"))  # (U,) int, how many that class has
    best_mean: Array = field(metadata=on("unit"))  # (U,) float64, of the activity on that class
    rest_mean: Array = field(metadata=on("unit"))  # (U,) float64, of the other classes' means
    value: Array = field(metadata=on("unit", "part"))  # (U,P) float32, nan where a part is empty
    image: Array = field(metadata=on("unit", "part"))  # (U,P) int, -1 where a part is empty
    location: Array = field(metadata=on("unit", "part", "yx"))  # (U,P,2) int
    box: Array = field(metadata=on("unit", "part", "edge"))  # (U,P,4) int
    threshold: float  # share of the largest answer from which a unit fires
    images: int
    labelled_images: int
    exact: int  # 1 if the boxes are the receptive fields, 0 if upper bounds
    layer: str = ""


@dataclass(frozen=True)
class Filters:
    """The kernels of a convolution, and what can be told of them without an image.

    Numbers of frequencies are those of the layer that reads the image, nan for any other and
    for a filter that is zero: `low`, `middle` and `high` are shares of the energy, `peak` is
    in cycles a pixel, `aliased` is the share beyond what the layer's stride can sample.
    """

    weight: Array = field(metadata=on("unit", "channel", "row", "column"))  # (U,C,h,w) float32
    rms: Array = field(metadata=on("unit"))  # (U,) float64, root mean square of the weights
    rms_pixels: Array = field(
        metadata=on("unit")
    )  # (U,) had the inputs been 0..255; nan if unknown
    low: Array = field(metadata=on("unit"))  # (U,) float64, below 1/8
    middle: Array = field(metadata=on("unit"))  # (U,) from 1/8 to 1/4
    high: Array = field(metadata=on("unit"))  # (U,) above 1/4
    peak: Array = field(metadata=on("unit"))  # (U,) where the power is largest
    aliased: Array = field(metadata=on("unit"))  # (U,)
    order: Array = field(metadata=on("unit"))  # (U,) int, units so that relatives stand together
    similarity: Array = field(metadata=on("unit", "other"))  # (U,U) float32, of cosines
    layer: str = ""
    groups: int = 1
    stride: Any = (1, 1)  # vertical and horizontal, of the layer that reads the image
    middle_peaks: float = float("nan")  # share of the filters whose peak is in the middle band
    mean_aliased: float = float("nan")


# -------------------------------------------------------------------- neighbours


class OthersWriter(_Writer):
    """Write the neighbours of a sample, and block by block those of all others among it.

    A context manager.

    Parameters
    ----------
    path, recipe : as for `write`.
    sample : what `read(Neighbours, path)` returns, with `image`.
    images : how many there are in all.
    kept : neighbours of each of the others.
    """

    _GROUP: ClassVar[str] = "others"

    def __init__(
        self,
        path: str | os.PathLike[str],
        recipe: Recipe,
        sample: Neighbours,
        images: int,
        kept: int,
    ) -> None:
        if sample.image is None:
            raise ValueError("a sample without the numbers of its images")
        self._creating = creating(path, recipe)
        self._sample, self._kept = sample, kept
        others = np.ones(images, bool)
        others[sample.image] = False
        self._image = np.flatnonzero(others)

    def __enter__(self) -> OthersWriter:
        file = self._creating.__enter__()
        _write_into(file, self._sample)
        self._group = file.create_group(self._GROUP)
        count, components = len(self._image), self._sample.code.shape[1]
        for name, dtype, axis, length in (
            ("code", "f4", "component", components),
            ("neighbour", "i4", "rank", self._kept),
            ("distance", "f4", "rank", self._kept),
        ):
            made = self._group.create_dataset(name, shape=(count, length), dtype=dtype)
            _attach(self._group, made, ("index", axis))
        _attach(self._group, _add(self._group, "image", self._image), ("index",))
        self._done = 0
        return self

    def append(self, code: Array, neighbour: Array, distance: Array) -> None:
        """Add the next others, by rising number of the image.

        `code` is (n,D), `neighbour` (n,kept) rows of the sample, `distance` (n,kept).
        """
        stop = self._done + len(code)
        for name, value in (("code", code), ("neighbour", neighbour), ("distance", distance)):
            self._group[name][self._done : stop] = value
        self._done = stop


class Others:
    """The images that aren't in the sample of a `Neighbours`, in blocks; a context manager.

    Attributes
    ----------
    image : (M,) int, rows in images.h5, ascending; none where the neighbours are of all.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._reading = reading(path)

    def __enter__(self) -> Others:
        file = self._reading.__enter__()
        try:
            self._group = file.get(OthersWriter._GROUP)
            self.image: Array = np.zeros(0, np.int64)
            if self._group is not None:
                self.image = np.asarray(self._group["image"][()])
        except BaseException:
            self._reading.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._reading.__exit__(*error)

    def blocks(self, names: Sequence[str], rows: int) -> Iterator[tuple[Array, dict[str, Array]]]:
        """Yield the images of each block and, by name, its ``code``, ``neighbour``, ``distance``.

        These are (n,D) float32, (n,k) int32, rows of the sample, and (n,k) float32.
        """
        for start in range(0, len(self.image), rows):
            part = slice(start, start + rows)
            yield self.image[part], {name: np.asarray(self._group[name][part]) for name in names}


# ------------------------------------------------------------------------ images


class ImageWriter(_Writer):
    """Write images one by one into an `images.h5`, as a context manager.

    Parameters
    ----------
    path : where the file appears once the block ends well.
    recipe : what it is made from.
    size : height and width of every image.
    """

    _BLOCK = 256
    _CHUNK = 1 << 14  # bytes
    _HELD = 1 << 22  # bytes at most that HDF5 holds back of what it was given before

    def __init__(self, path: str | os.PathLike[str], recipe: Recipe, size: tuple[int, int]) -> None:
        self._creating = creating(path, recipe)
        self._size = size
        self._rows: list[dict[str, Any]] = []
        self._attributes: list[str] | None = None
        self._sum = np.zeros(3, dtype=np.int64)  # exact, so the mean doesn't depend on blocks
        self._square = np.zeros(3, dtype=np.int64)
        self.count = 0

    def __enter__(self) -> ImageWriter:
        self._file = self._creating.__enter__()
        return self

    def append(
        self,
        image: Array,
        label: int,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        mask: Array | None = None,
    ) -> None:
        """Add one image.

        `image` is (H,W,3) uint8 RGB, `mask` (H,W) with 1 on the object. `attributes`
        are numbers, texts or fixed-size arrays; every image has the same ones.
        """
        if image.shape != (*self._size, 3) or image.dtype != np.uint8:
            raise ValueError(f"an image of {image.shape} {image.dtype} among {self._size} uint8")
        names = sorted(attributes or {})
        if self._attributes is None:
            self._attributes = names
        elif self._attributes != names:
            raise ValueError(f"attributes {names} after {self._attributes}")
        row = {f"attributes/{k}": v for k, v in (attributes or {}).items()}
        row |= {"image": image, "label": label, "name": name}
        if mask is not None:
            row["mask"] = mask.astype("u1")
        self._rows.append(row)
        if len(self._rows) == self._BLOCK:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        count = len(self._rows)
        each = self._rows[0]["image"].nbytes
        held = min(self._HELD, (self.count + count) * each)
        check_room(self._file.filename, count * each + held)
        for key in sorted(self._rows[0]):
            block = np.stack([np.asarray(row[key]) for row in self._rows])
            if block.dtype.kind in "UO":
                block = block.astype(object)
            if key == "label":
                block = block.astype(np.int64)
            if key not in self._file:
                dtype = h5py.string_dtype() if block.dtype == object else block.dtype
                rows = 1024
                if key in ("image", "mask"):  # one a chunk, unless they are small
                    rows = max(1, self._CHUNK // block[0].nbytes)
                self._file.create_dataset(
                    key,
                    shape=(0, *block.shape[1:]),
                    maxshape=(None, *block.shape[1:]),
                    chunks=(rows, *block.shape[1:]),
                    dtype=dtype,
                    compression=4 if key == "mask" else None,
                )
            dataset = self._file[key]
            if not np.can_cast(block.dtype, dataset.dtype, "same_kind"):
                raise ValueError(f"{key}: {block.dtype} among {dataset.dtype}")
            dataset.resize(self.count + count, axis=0)
            dataset[self.count :] = block
        pixels = np.stack([row["image"] for row in self._rows]).reshape(-1, 3).astype(np.int64)
        self._sum += pixels.sum(0)
        self._square += (pixels**2).sum(0)
        self.count += count
        self._rows.clear()

    def _finish(self) -> None:
        self._flush()
        if self.count == 0:
            raise StoreError("a data set without a single image; see the log for what was skipped.")
        pixels = self.count * self._size[0] * self._size[1]
        mean = self._sum / pixels
        self._file.attrs["mean"] = mean
        self._file.attrs["std"] = np.sqrt(np.maximum(self._square / pixels - mean**2, 0))
        _attach(self._file, self._file["image"], ("index", "row", "column", "channel"))
        if "mask" in self._file:
            _attach(self._file, self._file["mask"], ("index", "row", "column"))
        for key in ("label", "name"):
            _attach(self._file, self._file[key], ("index",))
        for name, dataset in self._file.get("attributes", {}).items():
            axes = ["index", *(f"{name}_{i}" for i in range(1, dataset.ndim))]
            _attach(self._file, dataset, axes)


class Images:
    """The images of a data set, read in blocks; a context manager.

    Attributes
    ----------
    size : height and width.
    mean, std : (3,) float64, over all pixels of all images, in 0..255.
    """

    _NAMES = 1 << 12  # read at a time

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._reading = reading(path)

    def __enter__(self) -> Images:
        self._file = self._reading.__enter__()
        self._image = self._file["image"]
        self.size: tuple[int, int] = self._image.shape[1:3]
        self.mean: Array = self._file.attrs["mean"]
        self.std: Array = self._file.attrs["std"]
        return self

    def __exit__(self, *error: Any) -> None:
        self._reading.__exit__(*error)

    def __len__(self) -> int:
        return int(self._image.shape[0])

    def block(self, start: int, stop: int) -> Array:
        """Return images `start` to `stop`, (n,H,W,3) uint8."""
        return np.asarray(self._image[start:stop])

    def rows(self, indices: Sequence[int] | Array) -> Array:
        """Return the images at `indices`, in their order and repeated as they are."""
        # One by one: h5py's selection of scattered rows takes a hundred times as long.
        found = [self._image[int(i)] for i in indices]
        return np.stack(found) if found else self.block(0, 0)

    def labels(self) -> Array:
        """Return the label of every image, (N,) int, -1 where there is none."""
        return np.asarray(self._file["label"][()])

    def names(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Return the names of images `start` to `stop`, of all if left out."""
        return [str(name) for name in self._file["name"].asstr()[start:stop]]

    def each_name(self) -> Iterator[str]:
        """Yield the name of every image; while the file is open."""
        for start in range(0, len(self), self._NAMES):
            yield from self.names(start, start + self._NAMES)

    def name(self, index: int) -> str:
        """Return the name of one image."""
        return str(self._file["name"].asstr()[index])

    def mask(self, index: int) -> Array | None:
        """Return the mask of an image, (H,W) uint8, or None where it isn't known."""
        return np.asarray(self._file["mask"][index]) if "mask" in self._file else None

    def attributes(self) -> dict[str, Array]:
        """Return every attribute, each (N,...)."""
        return {k: _load(v) for k, v in self._file.get("attributes", {}).items()}


# ------------------------------------------------------------------- activations


class ActivationWriter(_Writer):
    """Write per-unit summaries of consecutive images, as a context manager.

    Parameters
    ----------
    units : layer name -> number of units.
    start, stop : the images that this file holds.
    output : name of the layer that holds the network's outputs.
    """

    SUMMARIES: ClassVar[dict[str, tuple[str, tuple[int, ...]]]] = {
        "max": ("f4", ()),
        "argmax": ("i2", (2,)),
        "mean": ("f4", ()),
    }
    AXES = ("index", "unit", "yx")
    _HELD = 1 << 25  # bytes that wait to be written

    def __init__(
        self,
        path: str | os.PathLike[str],
        recipe: Recipe,
        units: Mapping[str, int],
        start: int,
        stop: int,
        output: str,
    ) -> None:
        self._creating = creating(path, recipe)
        self._units = dict(units)
        self._start, self._stop = start, stop
        self._output = output
        row = sum(
            count * np.dtype(dtype).itemsize * int(np.prod(tail))
            for count in self._units.values()
            for dtype, tail in self.SUMMARIES.values()
        )
        self._most = max(1, self._HELD // max(1, row))
        self._held: dict[str, list[Mapping[str, Array]]] = {layer: [] for layer in units}
        self._first = dict.fromkeys(units, start)  # image of those held
        self._next = dict.fromkeys(units, start)

    def __enter__(self) -> ActivationWriter:
        self._file = self._creating.__enter__()
        self._file.attrs["start"] = self._start
        self._file.attrs["output"] = self._output
        for layer, count in self._units.items():
            group = self._file.create_group(layer, track_order=True)
            for name, (dtype, tail) in self.SUMMARIES.items():
                shape = (self._stop - self._start, count, *tail)
                group.create_dataset(name, shape=shape, dtype=dtype)
            for name in self.SUMMARIES:
                _attach(group, group[name], self.AXES[: group[name].ndim])
        return self

    def _finish(self) -> None:
        for layer in self._units:
            self._flush(layer)

    def write(self, layer: str, start: int, summaries: Mapping[str, Array]) -> None:
        """Write the summaries of one layer for the images from `start` on.

        They are held back until there are enough of them to be worth a write.
        """
        if start != self._next[layer]:
            self._flush(layer)
            self._first[layer] = start
        self._held[layer].append(summaries)
        self._next[layer] = start + len(summaries["max"])
        if self._next[layer] - self._first[layer] >= self._most:
            self._flush(layer)

    def _flush(self, layer: str) -> None:
        held = self._held[layer]
        first, stop = (of[layer] - self._start for of in (self._first, self._next))
        for name in held[0] if held else ():
            parts = [summaries[name] for summaries in held]
            self._file[layer][name][first:stop] = np.concatenate(parts)
        held.clear()
        self._first[layer] = self._next[layer]


def gather_activations(
    shards: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str], recipe: Recipe
) -> None:
    """Join shards into one file of virtual datasets; nothing is copied.

    The shards are found relative to `path`, so the folder can move as a whole.
    `Activations` refuses to read the file where one of them isn't whole, or isn't the one
    that was gathered.
    """
    folder = Path(path).parent
    with creating(path, recipe) as file:
        opened: list[tuple[str, dict[str, dict[str, tuple[int, ...]]]]] = []
        digests: dict[str, str] = {}
        for shard in shards:
            with reading(shard) as part:
                shapes = {
                    g: {n: part[g][n].shape for n in ActivationWriter.SUMMARIES} for g in part
                }
                file.attrs["output"] = part.attrs["output"]
                name = os.path.relpath(shard, folder)
                digests[name] = str(part.attrs["digest"])
            opened.append((name, shapes))
        file.attrs["shards"] = json.dumps(digests)
        for layer in opened[0][1]:
            group = file.create_group(layer, track_order=True)
            for name, (dtype, tail) in ActivationWriter.SUMMARIES.items():
                lengths = [shapes[layer][name][0] for _, shapes in opened]
                units = opened[0][1][layer][name][1]
                layout = h5py.VirtualLayout((sum(lengths), units, *tail), dtype=dtype)
                layout.dcpl.set_obj_track_times(False)  # the time would differ between two runs
                first = 0
                for (source, shapes), length in zip(opened, lengths, strict=True):
                    if length:
                        shape = shapes[layer][name]
                        layout[first : first + length] = h5py.VirtualSource(
                            source, f"{layer}/{name}", shape=shape, dtype=dtype
                        )
                    first += length
                group.create_virtual_dataset(name, layout)
            for name in ActivationWriter.SUMMARIES:
                _attach(group, group[name], ActivationWriter.AXES[: group[name].ndim])


class Activations:
    """The per-unit summaries of every image, read in blocks; a context manager."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._reading = reading(path)

    def __enter__(self) -> Activations:
        self._file = self._reading.__enter__()
        try:
            self._check_shards()
            self.output = str(self._file.attrs["output"])
        except BaseException:
            self._reading.__exit__(*sys.exc_info())
            raise
        return self

    def _check_shards(self) -> None:
        """Open every shard once: HDF5 itself reads zeros where one is missing."""
        for name, digest in json.loads(self._file.attrs.get("shards", "{}")).items():
            path = Path(self._path).parent / name
            with reading(path) as shard:
                if shard.attrs["digest"] != digest:
                    raise StoreError(
                        f"{path} was made anew, but {self._path} is of the old one. Run the "
                        "workflow again."
                    )

    def __exit__(self, *error: Any) -> None:
        self._reading.__exit__(*error)

    def shape(self, layer: str) -> tuple[int, int]:
        """Return the number of images and of units of a layer."""
        images, units = self._file[layer]["max"].shape
        return int(images), int(units)

    def blocks(
        self, layer: str, names: Sequence[str], byte_limit: int = 1 << 24
    ) -> Iterator[tuple[int, dict[str, Array]]]:
        """Go through a layer in blocks of rows of at most about `byte_limit` bytes.

        Yields the first row's image index and, for each of the summaries `names`,
        the block's values.
        """
        datasets = {name: self._file[layer][name] for name in names}
        images, _ = self.shape(layer)
        row = sum(int(np.prod(d.shape[1:])) * d.dtype.itemsize for d in datasets.values())
        step = max(1, byte_limit // max(1, row))
        for start in range(0, images, step):
            block = {n: np.asarray(d[start : start + step]) for n, d in datasets.items()}
            yield start, block

    def block(self, layer: str, name: str, start: int, stop: int) -> Array:
        """Return a summary of a layer for images `start` to `stop`, (n,U,...)."""
        return np.asarray(self._file[layer][name][start:stop])

    def rows(self, layer: str, name: str, indices: Sequence[int] | Array) -> Array:
        """Return a summary of a layer for the images at `indices`, (n,U,...), in their order."""
        dataset = self._file[layer][name]
        found = [dataset[int(i)] for i in indices]
        return np.stack(found) if found else np.asarray(dataset[:0])


# -------------------------------------------------------------------------- maps


@dataclass(frozen=True)
class FeatureMaps:
    """The feature maps of one layer for one image."""

    map: Array = field(metadata=on("unit", "row", "column"))  # (U,H,W) float32


class MapWriter(_Writer):
    """Write whole feature maps of one image, layer by layer, as a context manager."""

    def __init__(self, path: str | os.PathLike[str], recipe: Recipe) -> None:
        self._creating = creating(path, recipe)

    def __enter__(self) -> MapWriter:
        self._file = self._creating.__enter__()
        return self

    def write(self, layer: str, maps: Array) -> None:
        """Add one layer's maps, (U,H,W) float32."""
        _write_into(self._file.create_group(layer), FeatureMaps(maps))


def read_maps(path: str | os.PathLike[str], layer: str) -> Array:
    """Return the maps of one layer, (U,H,W) float32."""
    with reading(path) as file:
        return _read_from(FeatureMaps, file[layer]).map
