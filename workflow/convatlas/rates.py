"""How sure a rate is."""

from __future__ import annotations

from math import nan, sqrt
from statistics import NormalDist

_Z = NormalDist().inv_cdf(0.975)  # of both tails 5 %


def interval(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate after Wilson; nan for a rate of no trials.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    Written out because importing SciPy's takes most of a second in every job that needs it.
    """
    if not trials:
        return nan, nan
    rate, weight = hits / trials, _Z**2 / trials
    centre = rate + weight / 2
    reach = _Z * sqrt((rate * (1 - rate) + weight / 4) / trials)
    low, high = (centre - reach) / (1 + weight), (centre + reach) / (1 + weight)
    return max(low, 0.0) if hits else 0.0, min(high, 1.0) if hits < trials else 1.0
