"""What the seeds say: intervals, tests over the rows of a table, and the verdicts that follow by rule."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import t as student

LEVEL = 0.05  # of the verdicts, over all rows of a table together
RESAMPLES = 10_000
FEWEST = 3  # seeds of a test: of two, any that happen to agree would decide

Verdict = Literal["helps", "harms", "undecided"]


class Interval(NamedTuple):
    """A mean and the half width of its 95 % interval.

    Attributes:
        mean: The mean.
        half: Half the width, by Student's t; nan for a single value, which says nothing about spread.
        seeds: Number of values.
    """

    mean: float
    half: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval | None:
        """The interval of some values; None of none."""
        if not values:
            return None
        count = len(values)
        half = half_width(statistics.stdev(values), count) if count > 1 else math.nan
        return cls(statistics.fmean(values), half, count)


def half_width(deviation: float, count: int) -> float:
    """Half the 95 % interval of a mean of some values of a given standard deviation, by Student's t."""
    return float(student.ppf(0.975, count - 1)) * deviation / math.sqrt(count)


class Comparison(NamedTuple):
    """A row against the baseline, seed by seed.

    Attributes:
        difference: Mean difference and its interval by Student's t.
        low: Lower end of the bootstrap's 95 % interval; nan for a single seed.
        high: Its upper end.
        p: Of the paired t-test; nan for fewer than three seeds.
        adjusted: The same after Holm's correction over the rows of the table.
        verdict: "helps" or "harms" where ``adjusted`` is below ``LEVEL``, else "undecided".
    """

    difference: Interval
    low: float
    high: float
    p: float
    adjusted: float
    verdict: Verdict


def compare(differences: Mapping[str, Sequence[float]]) -> dict[str, Comparison]:
    """Compares the rows of one table with its baseline.

    Args:
        differences: Of every row, the differences to the baseline of the seeds that both have; rows without any are
            left out of the result.
    """
    known = {row: list(values) for row, values in differences.items() if values}
    raw = {row: paired_p(values) for row, values in known.items()}
    adjusted = holm(raw)
    found = {}
    for row, values in known.items():
        interval = Interval.of(values)
        assert interval is not None
        verdict: Verdict = "undecided"
        if adjusted[row] < LEVEL:
            verdict = "helps" if interval.mean > 0 else "harms"
        found[row] = Comparison(interval, *bootstrap(values), raw[row], adjusted[row], verdict)
    return found


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of the t-test that the mean difference is zero; nan for fewer than three, which are not tested."""
    if len(differences) < FEWEST:
        return math.nan
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * float(student.sf(abs(mean) / deviation * math.sqrt(len(differences)), len(differences) - 1))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values after Holm's step-down correction; those that are nan stay so and do not count."""
    known = sorted((value, name) for name, value in p.items() if not math.isnan(value))
    adjusted, least = dict.fromkeys(p, math.nan), 0.0
    for place, (value, name) in enumerate(known):
        least = max(least, min(1.0, (len(known) - place) * value))
        adjusted[name] = least
    return adjusted


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of the means of resampled values, always of the same draws; nan for a single value."""
    if len(values) < 2:
        return math.nan, math.nan
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.asarray(values, dtype=float)[drawn].mean(1), (0.025, 0.975))
    return float(low), float(high)
