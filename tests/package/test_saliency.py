"""Three ways back from the predicted class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from figure_artifacts import pixels_of, write_exhibit
from studies import Study
from torch import nn

from convatlas import store
from convatlas.figures.saliency import on_object, plot_saliency
from convatlas.files import read_csv
from convatlas.graph.tracing import trace
from convatlas.models.load import load_model
from convatlas.saliency import record_saliency, scores_of
from convatlas.store import Exhibit, Recipe, Saliency, read, write


def recorded(study: Study) -> tuple[Saliency, np.ndarray]:
    """Record one image of a study; return it, and the image."""
    exhibit, output = study.folder / "exhibit.h5", study.folder / "saliency.h5"
    write(exhibit, Exhibit(study.pixels[3], 3, 1, "3.png"), Recipe())
    record_saliency(
        exhibits=[exhibit],
        card=study.card,
        weights=study.weights,
        outputs=[output],
        recipes=[Recipe()],
    )
    return read(Saliency, output), study.pixels[3]


def test_the_data_gradient_is_autograds(make_study: Callable[..., Study]) -> None:
    study = make_study("inplace")
    found, pixels = recorded(study)
    model = load_model(study.card, study.weights)
    leaf = model.prepare(pixels[None]).requires_grad_()
    scores = model.module(leaf)[0]
    (gradient,) = torch.autograd.grad(scores.max(), leaf)
    assert found.predicted == int(scores.argmax())
    assert found.score == pytest.approx(float(scores.max()), rel=1e-5)
    assert found.probability == pytest.approx(float(scores.softmax(0).max()), rel=1e-5)
    scale = float(gradient.abs().max())
    np.testing.assert_allclose(found.gradient, gradient[0], atol=1e-6 * scale)
    for signal in (found.guided, found.deconvnet):
        assert signal is not None
        assert np.abs(signal - found.gradient).max() > 0.1 * scale


def test_what_isnt_defined_is_left_out_and_the_reason_told(
    make_study: Callable[..., Study],
) -> None:
    found, _ = recorded(make_study("gated"))
    assert found.gradient is not None
    assert found.guided is None
    assert found.deconvnet is None
    assert found.why_not_guided == "guided backpropagation isn't defined for silu (silu)"
    assert "deconvnet isn't defined for silu (silu)" in found.why_not_deconvnet


def test_what_cant_be_followed_back_is_left_out(make_study: Callable[..., Study]) -> None:
    found, _ = recorded(make_study("through_view"))
    for rule in ("gradient", "guided", "deconvnet"):
        assert getattr(found, rule) is None
        assert "changes in place what next sees" in getattr(found, f"why_not_{rule}")


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1), nn.Identity()])
def test_the_score_is_taken_before_a_softmax(end: nn.Module) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout(), end)
    graph = trace(model, (3, 2, 2))
    node, softmax = scores_of(graph)
    assert softmax == {nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax"}.get(type(end), "")
    assert graph.names[node] in (("1", "2") if softmax else ("2", "3"))


@pytest.mark.parametrize("function", ["softmaxed", "log_softmaxed"])
def test_probabilities_of_a_network_that_ends_in_a_softmax(
    function: str, make_study: Callable[..., Study]
) -> None:
    study = make_study(function)
    found, pixels = recorded(study)
    model = load_model(study.card, study.weights)
    with torch.no_grad():
        out = model.module(model.prepare(pixels[None]))[0]
    likely = out if function == "softmaxed" else out.exp()
    assert found.probability == pytest.approx(float(likely.max()), rel=1e-5)
    assert 0.2 < found.probability < 1
    assert found.score != pytest.approx(found.probability)


# ---------------------------------------------------------------------------- figure


def test_the_share_on_the_object() -> None:
    signal = np.zeros((3, 2, 2), np.float32)
    signal[:, 0, 0] = [1, -2, 0]
    signal[0, 1, 1] = 9
    mask = np.array([[1, 0], [1, 0]])
    assert on_object(signal, mask) == pytest.approx(3 / 12)
    assert np.isnan(on_object(0 * signal, mask))


@pytest.mark.parametrize("size", [(32, 32), (8, 90), (90, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_figure_and_its_numbers(tmp_path: Path, size: tuple[int, int], masked: bool) -> None:
    mask = np.zeros(size, np.uint8)
    mask[: size[0] // 2] = 1
    write_exhibit(tmp_path / "e.h5", size, label=2, mask=mask if masked else None)
    signal = np.zeros((3, *size), np.float32)
    signal[:, : size[0] // 2] = 0.5
    reason = "the deconvnet isn't defined for silu (features.3.block.with.a.long.name.silu_7)"
    artifact = Saliency(1, 3.5, 0.75, signal, -signal, None, why_not_deconvnet=reason)
    store.write(tmp_path / "s.h5", artifact, Recipe())
    plot_saliency(tmp_path / "e.h5", tmp_path / "s.h5", output=tmp_path / "s.png")
    pixels = pixels_of(tmp_path / "s.png")
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    black, grey = ((pixels == value).all(-1).mean() for value in (0, 128))
    assert black > 0.005  # the gradient where it is zero, and the negative signal
    assert grey > 0.005  # the signed one where it is zero
    table = read_csv(tmp_path / "s.csv")
    assert table["method"] == ["gradient", "guided", "deconvnet"]
    assert table["scale"] == ["0.5", "0.5", ""]
    assert table["minimum"] == ["0", "-0.5", ""]
    assert table["reason"] == ["", "", reason]
    assert table["on_object"] == (["1", "1", ""] if masked else ["", "", ""])
    assert table["object_area"] == (["0.5"] * 3 if masked else [""] * 3)
