"""How sure a rate is."""

from __future__ import annotations

from scipy.stats import binomtest

_CONFIDENCE = 0.95


def interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate after Wilson; nan for a rate of no trials."""
    if not trials:
        return float("nan"), float("nan")
    found = binomtest(hits, trials).proportion_ci(_CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)
