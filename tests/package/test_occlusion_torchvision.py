"""The occlusion engine on torchvision's classifiers: one of each family, or all of them.

All of them take half an hour: ``CONVATLAS_ALL_NETWORKS=1 pytest -s`` with this file, which
also prints how far each is off, and what it runs on whole maps.
"""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor
from torchvisions import ALL, NAMES, SIZES, built

from convatlas.occlusion import Sweeper
from convatlas.occlusion.incremental import Incremental
from convatlas.occlusion.plain import Plain
from convatlas.occlusion.positions import Positions


def scores(engine: Incremental | Plain, image: Tensor, grid: Positions, fill: Tensor) -> Tensor:
    """Return the scores under every position."""
    engine.look(image)
    return engine.occlude(grid, fill, -1, lambda share: None)[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_are_the_plain_loops(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = built(name)
    if model is None:
        pytest.skip("too large")
    caplog.set_level(logging.INFO, logger="convatlas")
    sides = SIZES.get(name, (72, 88))
    image = torch.randn(3, *sides)
    fill = torch.tensor([0.5, -1.0, 2.0])
    size, stride = ((sides[0] * part // 9, sides[1] * part // 9) for part in (3, 4))
    grid = Positions.covering(sides, size, stride)
    assert len(grid) >= 9
    truth = None
    for dtype in (torch.float64, torch.float32):
        model, image, fill = model.to(dtype), image.to(dtype), fill.to(dtype)
        engine = Sweeper(model, image.shape)._engine
        assert isinstance(engine, Incremental)
        found = scores(engine, image, grid, fill)
        expected = scores(Sweeper(model, image.shape, engine="plain")._engine, image, grid, fill)
        truth = expected if truth is None else truth
        spread, moved = truth.std(), truth.std(0).max()  # the latter by the occluder
        assert moved > 1e-2 * spread
        top, left, bottom, right = grid.boxes()[-1].tolist()
        occluded = image.clone()
        occluded[:, top:bottom, left:right] = fill[:, None, None]
        with torch.inference_mode():
            last = model(occluded[None])[0]
        wrong = max((found - expected).abs().max(), (found[-1] - last).abs().max())
        rounding = (expected - truth).abs().max()  # of the plain loop
        if ALL:
            whole = [text for text in caplog.messages if "whole" in text]
            share = [float(value / spread) for value in (wrong, rounding, moved)]
            print(
                "\n@",
                name,
                dtype,
                "wrong {:.1e} rounding {:.1e} moved {:.2f}".format(*share),
                whole,
            )
        caplog.clear()
        if dtype == torch.float64:
            assert wrong < 1e-10 * moved
        else:
            assert wrong < max(1e-5 * spread, 2 * rounding)
