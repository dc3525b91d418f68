"""Train a network on the images of a data set."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from convatlas.device import choose_device, fixed_threads, seed_everything
from convatlas.errors import ConfigError, DataError, ModelError
from convatlas.files import write_csv
from convatlas.job import log, progress
from convatlas.models.architectures import ARCHITECTURES
from convatlas.models.checkpoints import save_weights
from convatlas.models.load import (
    LoadedModel,
    Normalization,
    build,
    trained_options,
    write_model,
)
from convatlas.store import NO_RECIPE, Images, Recipe

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]

_IN_MEMORY = 1 << 30  # bytes of images held at once
_READ = 1 << 20  # bytes of neighbouring images read in one go
_WARM_UP = 0.25  # share of training in which the learning rate rises
_THREADS = 2  # as the rule asks for; fixed for the same reason as the next
_TEST_BATCH = 256  # fixed, since results depend on it in their last bits


@dataclass(frozen=True)
class Epoch:
    """One row of the training history; losses are mean cross-entropies in nats.

    The training values are taken on the way, with dropout and while the weights change;
    the test values with the weights at the epoch's end, empty without test images.
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_loss: float | str
    test_accuracy: float | str
    learning_rate: float  # at the epoch's end


def train_model(
    architecture: str,
    options: Mapping[str, Any],
    images: str | os.PathLike[str],
    test: str | os.PathLike[str] | None,
    *,
    classes: int | None = None,
    normalize: Normalization | None = None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    snapshots: Sequence[int] = (),
    weights_out: str | os.PathLike[str],
    card_out: str | os.PathLike[str],
    history_out: str | os.PathLike[str],
    snapshots_out: Sequence[str | os.PathLike[str]] = (),
    recipe: Recipe = NO_RECIPE,
) -> None:
    """Train a network from random weights, and write it, its history and snapshots of it.

    AdamW (Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization) on the
    cross-entropy, under one cycle of the learning rate (Smith & Topin 2018,
    Super-Convergence): up along a cosine for the first quarter, then down to zero along
    another. Weight decay applies to weights, not to biases or normalisation. Images are
    taken as they are: flips or shifts would change what some of them mean.

    Memory doesn't grow with the number of images, see `ShuffledImages`.

    Parameters
    ----------
    architecture, options : see `convatlas.models.load.build`. The number of outputs, and
        for our own architectures the size of the images, are added where they're missing.
    images, test : paths of the images to train on and of others to test with, or None.
    classes : number of classes; None takes the largest label and one.
    normalize : mean and standard deviation of each channel, pixels in 0..1; None takes
        those of the images.
    batch_size : images in a step, at most.
    learning_rate : the largest of the cycle.
    seed : of the first weights, the order of the images, and dropout.
    snapshots : epochs at whose end the weights are kept too; 0 is before training.
    snapshots_out : a path for each of them.
    recipe : what the model is made from; goes into its card.

    Raises
    ------
    ConfigError
        if a snapshot's epoch lies outside the training.
    DataError
        if an image has no label, or a label is beyond the classes.
    ModelError
        if the network can't take the images, has too few outputs, or diverges.
    """
    kept = _snapshot_paths(snapshots, snapshots_out, epochs)
    seed_everything(seed)
    with fixed_threads(_THREADS), Images(images) as train_set:
        labels = _labels(train_set, images, classes)
        classes = classes or int(labels.max()) + 1
        if normalize is None:
            normalize = {"mean": list(train_set.mean / 255), "std": list(train_set.std / 255)}
        options = trained_options(architecture, options, classes, train_set.size)
        model = _new_model(architecture, options, normalize, seed)
        _check_outputs(model, train_set.size, classes, architecture)
        settings = {
            "images": len(train_set),
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "seed": seed,
        }
        trainer = _Trainer(
            model,
            ShuffledImages(train_set, labels, seed),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
        )
        history = _train(trainer, test, classes, kept)
    columns = {f.name: [getattr(row, f.name) for row in history] for f in fields(Epoch)}
    write_csv(history_out, columns)
    last = asdict(history[-1])
    write_model(
        model.module,
        architecture=architecture,
        options=options,
        weights="trained",
        normalize=normalize,
        training=settings | {k: v for k, v in last.items() if k.endswith("accuracy") and v != ""},
        weights_out=weights_out,
        card_out=card_out,
        recipe=recipe,
    )


# ------------------------------------------------------------------ what goes in


def _snapshot_paths(
    snapshots: Sequence[int], paths: Sequence[str | os.PathLike[str]], epochs: int
) -> dict[int, Path]:
    outside = [epoch for epoch in snapshots if not 0 <= epoch <= epochs]
    if outside:
        raise ConfigError(
            f"train: snapshots: {outside} lie outside the training, which has {epochs} epochs. "
            f"Choose among 0 (before training) to {epochs}, or train longer."
        )
    return dict(zip(snapshots, map(Path, paths), strict=True))


def _labels(images: Images, path: str | os.PathLike[str], classes: int | None) -> NDArray[np.int64]:
    labels = images.labels().astype(np.int64)
    unlabelled = np.flatnonzero(labels < 0)
    if len(unlabelled):
        raise DataError(
            f"{len(unlabelled)} of {len(labels)} images in {path} have no label (the first is "
            f"{images.name(unlabelled[0])}). Training needs one for each: label them or leave "
            "them out of the data set."
        )
    if classes is not None and labels.max() >= classes:
        first = int(np.argmax(labels >= classes))
        raise DataError(
            f"{images.name(first)} in {path} has the label {labels[first]}, but there are "
            f"{classes} classes, 0 to {classes - 1}. Correct the label or the list of classes."
        )
    return labels


def _new_model(
    architecture: str, options: Mapping[str, Any], normalize: Normalization, seed: int
) -> LoadedModel:
    mean, std = (
        torch.tensor(normalize[key], dtype=torch.float32).view(1, 3, 1, 1)
        for key in ("mean", "std")
    )
    if not bool((std > 0).all()):
        raise DataError(
            f"a colour channel is the same in all pixels of all images (std {normalize['std']}), "
            "so they can't be normalised. Check the images, or give `normalize`."
        )
    module = build(architecture, options, seed)
    if architecture in ARCHITECTURES:  # others may reshape in ways that need rows first
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(module, mean, std, {}).to(choose_device())


def _check_outputs(
    model: LoadedModel, size: tuple[int, int], classes: int, architecture: str
) -> None:
    blank = np.zeros((2, *size, 3), dtype=np.uint8)
    try:
        with torch.no_grad():
            outputs = model.module.eval()(model.prepare(blank))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(
            f"{architecture} can't take images of {size[0]}x{size[1]} pixels: {error}. "
            "Check `options`, or the size of the data set's images."
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        what = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(
            f"{architecture} returns {what} for two images; it must return their logits, "
            f"of the shape (2, {classes})."
        )
    if outputs.shape[1] < classes:
        raise ModelError(
            f"{architecture} has {outputs.shape[1]} outputs, but there are {classes} classes. "
            "Build it with as many outputs as classes."
        )


class ShuffledImages:
    """The images of a data set in a new random order each epoch, in bounded memory.

    Where all fit into `memory` they are read once and shuffled as a whole. Otherwise
    runs of neighbouring images are drawn at random until they fill it, and shuffled
    together; then the next ones.

    Parameters
    ----------
    images : open for as long as this is used.
    labels : (N,) int.
    seed : of the orders.
    memory : in bytes.
    """

    def __init__(
        self, images: Images, labels: NDArray[np.int64], seed: int, memory: int = _IN_MEMORY
    ) -> None:
        self._images = images
        self._labels = labels
        self._random = np.random.default_rng(seed)
        each = 3 * math.prod(images.size)
        self._run = max(1, _READ // each)
        self._runs = max(1, memory // (each * self._run))
        whole = len(images) <= self._run * self._runs
        self._all = images.block(0, len(images)) if whole else None

    def __len__(self) -> int:
        return len(self._labels)

    def epoch(self, batch_size: int) -> Iterator[Batch]:
        """Yield every image once, in batches of nearly the same size.

        A batch is images (n,H,W,3) uint8 and labels (n,) int, n up to `batch_size`.
        """
        for images, labels in self._parts():
            order = self._random.permutation(len(labels))
            # Of nearly the same size, since batch normalisation can't do with a single image.
            for chosen in np.array_split(order, math.ceil(len(order) / batch_size)):
                yield images[chosen], labels[chosen]

    def _parts(self) -> Iterator[Batch]:
        if self._all is not None:
            yield self._all, self._labels
            return
        starts = self._random.permutation(range(0, len(self), self._run))
        for i in range(0, len(starts), self._runs):
            spans = [(start, start + self._run) for start in starts[i : i + self._runs]]
            yield (
                np.concatenate([self._images.block(*span) for span in spans]),
                np.concatenate([self._labels[slice(*span)] for span in spans]),
            )


# ----------------------------------------------------------------------- training


class _Trainer:
    """A network, its optimiser and where in the cycle of the learning rate it is."""

    def __init__(
        self,
        model: LoadedModel,
        images: ShuffledImages,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        self.model = model
        self.images = images
        self.epochs = epochs
        self.batch_size = batch_size
        self._peak = learning_rate
        self._seen = 0
        trained = [p for p in model.module.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=learning_rate,
            fused=True,
        )
        self.learning_rate = one_cycle(0.0, learning_rate)

    def epoch(self, number: int) -> tuple[float, float]:
        """Train for one epoch and return the mean loss and the accuracy on the way."""
        self.model.module.train()
        total = math.ceil(len(self.images) / self.batch_size)
        batches = progress(
            self.images.epoch(self.batch_size), total, f"epoch {number} of {self.epochs}"
        )
        loss = correct = 0.0
        for images, labels in batches:
            step_loss, step_correct = self._step(images, labels)
            if not math.isfinite(step_loss):
                raise ModelError(
                    f"training diverged in epoch {number}: the loss is {step_loss} at a learning "
                    f"rate of {self.learning_rate:.3g}. Try a tenth of `learning_rate` "
                    f"({self._peak:g}), and check `normalize`."
                )
            loss += step_loss * len(labels)
            correct += step_correct
        return loss / len(self.images), correct / len(self.images)

    def _step(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[float, int]:
        self._seen += len(labels)
        progressed = self._seen / (self.epochs * len(self.images))
        self.learning_rate = one_cycle(progressed, self._peak)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        target = torch.from_numpy(labels).to(self.model.mean.device)
        outputs = self.model.module(self.model.prepare(images))
        loss = F.cross_entropy(outputs, target)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.item(), int((outputs.argmax(1) == target).sum())


def one_cycle(progressed: float, peak: float) -> float:
    """Return the learning rate after a share of the training, 0 to 1.

    It rises from a 25th of `peak` to it, and falls to zero, each along half a cosine.
    """
    if progressed < _WARM_UP:
        low, high, share = peak / 25, peak, progressed / _WARM_UP
    else:
        low, high, share = 0.0, peak, (1 - progressed) / (1 - _WARM_UP)
    return low + (high - low) * (1 - math.cos(math.pi * share)) / 2


def _train(
    trainer: _Trainer,
    test: str | os.PathLike[str] | None,
    classes: int,
    kept: Mapping[int, Path],
) -> list[Epoch]:
    """Run all epochs, writing the snapshots on the way."""
    began = time.monotonic()
    history: list[Epoch] = []
    evaluate = _evaluator(trainer.model, test, classes)
    if 0 in kept:
        save_weights(trainer.model.module, kept[0])
    for number in range(1, trainer.epochs + 1):
        loss, accuracy = trainer.epoch(number)
        test_loss, test_accuracy = evaluate()
        row = Epoch(number, loss, accuracy, test_loss, test_accuracy, trainer.learning_rate)
        history.append(row)
        if number in kept:
            save_weights(trainer.model.module, kept[number])
        left = (time.monotonic() - began) / number * (trainer.epochs - number)
        log.info("%s; about %.0f s left", _in_words(row), left)
    return history


def _in_words(row: Epoch) -> str:
    words = f"epoch {row.epoch}: loss {row.loss:.3f}, {row.train_accuracy:.1%} right"
    if isinstance(row.test_accuracy, float):
        words += f"; on test images loss {row.test_loss:.3f}, {row.test_accuracy:.1%} right"
    return words


def _evaluator(
    model: LoadedModel, test: str | os.PathLike[str] | None, classes: int
) -> Callable[[], tuple[float, float] | tuple[str, str]]:
    if test is None:
        return lambda: ("", "")
    with Images(test) as images:
        _labels(images, test, classes)
    return lambda: evaluate(model, test)


def evaluate(model: LoadedModel, path: str | os.PathLike[str]) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy of a network on labelled images."""
    loss, correct = 0.0, 0
    model.module.eval()
    with Images(path) as images, torch.no_grad():
        labels = torch.from_numpy(images.labels().astype(np.int64)).to(model.mean.device)
        for start in range(0, len(images), _TEST_BATCH):
            target = labels[start : start + _TEST_BATCH]
            outputs = model.module(model.prepare(images.block(start, start + len(target))))
            loss += F.cross_entropy(outputs, target, reduction="sum").item()
            correct += int((outputs.argmax(1) == target).sum())
        return loss / len(images), correct / len(images)
