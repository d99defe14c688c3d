"""How much worse a number has become, and with what uncertainty.

A change is measured as a worsening: positive is worse, whichever direction the metric has. Fractions such as accuracy,
where higher is better, change in points; everything else changes by its ratio, on the logarithm. Both are read as
percent: 0.01 is one point, or about one percent.

Methods, from the most certain to the least:

    paired       the same samples on both sides: a bootstrap that resamples them jointly, plus the spread over seeds
    Welch        several seeds on both sides and no samples: Welch's t-test of the seeds' values
    timings      raw repeated measurements: the ratio of medians. Its error within a process is bootstrapped; the error
                 between processes is measured over seeds, each of which ran in its own process, or is assumed
    unpaired     two numbers with standard errors, as the leaderboard has them: their errors add up
    tolerance    none of these: the change alone
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TypeVar

import numpy as np

from ..record import Metric
from .agreement import multiplicities
from .scores import SampleScores
from .statistics import SEED, Floats

_K = TypeVar("_K", bound=Hashable)

ALPHA = 0.05
"""A change is significant if its p-value, after Holm's adjustment, is below this."""

QUALITY_UNITS = frozenset({"1", "nats", "bits", "bits/byte"})
"""Units of a model's quality; numbers in any other unit depend on the machine."""

DRAWS = 2_000
_KEPT_SAMPLES = 2_000
PAIRED = "paired bootstrap"
RUN_TO_RUN = 0.03
"""Standard deviation between processes of the logarithm of a median time, assumed for fewer than three processes."""


@dataclass(frozen=True)
class Change:
    """A worsening and its error.

    Attributes:
        worse: Points or logarithm of a ratio; positive is worse.
        stderr: Standard error; None if only a tolerance can judge.
        freedom: Degrees of freedom of the error.
        method: `paired bootstrap`, `Welch`, `unpaired`, `ratio of medians`, `tolerance`, `the same values` or
            `the same timings`.
        n: Samples, seeds or timings per side.
    """

    worse: float
    stderr: float | None
    freedom: float
    method: str
    n: int

    @property
    def p_value(self) -> float | None:
        """Two-sided p-value of no change; None without a standard error.

        Where all samples change alike, a bootstrap gives no error: the p-value is then that of an exact test by signs.
        """
        from scipy.special import stdtr

        if self.stderr is None:
            return None
        if self.stderr == 0:
            return 1.0 if self.worse == 0 else 2.0 ** (1 - self.n) if self.method == PAIRED else 0.0
        return float(2 * stdtr(self.freedom, -abs(self.worse) / self.stderr))

    def half_width(self, alpha: float = 0.05) -> float:
        """Half of the two-sided interval of confidence 1 - alpha; 0 without a standard error."""
        from scipy.special import stdtrit

        return float(stdtrit(self.freedom, 1 - alpha / 2)) * self.stderr if self.stderr else 0.0


def paired_change(metric: Metric, baseline: Sequence[SampleScores], candidate: Sequence[SampleScores]) -> Change:
    """The change over samples that both sides scored, averaged over seeds.

    Args:
        metric: Gives the direction and the scale of changes.
        baseline: Scores of each seed, all over the same samples.
        candidate: The same, in the same order of seeds.
    """
    return paired_changes(metric, {0: baseline, 1: candidate})[0, 1]


def paired_changes(metric: Metric, models: Mapping[_K, Sequence[SampleScores]]) -> dict[tuple[_K, _K], Change]:
    """`paired_change` from each model to each one after it; all have the same samples and seeds.

    The variance of a difference is the sum of two: over joint resamples of the samples, and over seeds.
    """
    n = len(next(iter(models.values()))[0].labels)

    def values(weights: Floats) -> dict[_K, Floats]:
        """The metric `[s r]` of each model's seeds in each resample."""
        return {key: np.array([score.resampled(weights) for score in scores]) for key, scores in models.items()}

    exact = values(np.ones((1, n)))
    with np.errstate(all="ignore"):
        parts = [values(weights) for weights in resamples(n)]
        drawn = {key: np.concatenate([part[key] for part in parts], axis=1) for key in models}
        return {
            (one, other): _paired(worsening(metric, exact[one], exact[other])[:, 0], replicates, n)
            for one, other in combinations(models, 2)
            for replicates in [np.mean(worsening(metric, drawn[one], drawn[other]), axis=0)]
        }


def _paired(by_seed: Floats, replicates: Floats, n: int) -> Change:
    """A paired change, from the change of each seed and the mean change over seeds in each resample of n samples."""
    rows = float(np.nanvar(replicates, ddof=1)) * n / (n - 1)
    seeds = float(by_seed.var(ddof=1)) / len(by_seed) if len(by_seed) > 1 else 0.0
    freedom = satterthwaite([(rows, n - 1), (seeds, len(by_seed) - 1)])
    return Change(float(by_seed.mean()), math.sqrt(rows + seeds), freedom, PAIRED, n)


def seeds_change(metric: Metric, baseline: Sequence[float], candidate: Sequence[float]) -> Change:
    """The change of the mean over seeds, with Welch's error; two seeds or more on each side."""
    before, after = np.asarray(baseline, np.float64), np.asarray(candidate, np.float64)
    if not in_points(metric):
        before, after = np.log(before), np.log(after)
    first, last = (after, before) if metric.higher_is_better else (before, after)
    worse = float(last.mean() - first.mean())
    parts = [(float(side.var(ddof=1)) / side.size, side.size - 1) for side in (before, after)]
    stderr = math.sqrt(sum(part for part, _ in parts))
    return Change(worse, stderr, satterthwaite(parts), "Welch", min(before.size, after.size))


def timings_change(metric: Metric, baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]]) -> Change:
    """The ratio of medians of raw measurements.

    Args:
        metric: Gives the direction.
        baseline: Measurements of each process.
        candidate: The same.
    """
    rng = np.random.default_rng(SEED)
    sides = [_median_of_processes(side, rng) for side in (baseline, candidate)]
    worse = (sides[1][0] - sides[0][0]) * (-1 if metric.higher_is_better else 1)
    stderr = math.sqrt(sum(variance for _, variance, _ in sides))
    freedom = satterthwaite([(variance, freedom) for _, variance, freedom in sides])
    n = min(sum(len(process) for process in side) for side in (baseline, candidate))
    return Change(worse, stderr, freedom, "ratio of medians", n)


def plain_change(metric: Metric, baseline: float, candidate: float) -> Change:
    """The change alone, for a tolerance to judge."""
    worse = float(worsening(metric, np.array([baseline]), np.array([candidate]))[0])
    return Change(worse, None, math.inf, "tolerance", 1)


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, for `unpaired_change`.

    Attributes:
        value: A mean over seeds.
        stderr: Its standard error; None, if it is not known, counts as zero.
        seeds: Seeds; over several, the error is the spread over them.
    """

    value: float
    stderr: float | None
    seeds: int = 1


def unpaired_change(metric: Metric, baseline: Estimate, candidate: Estimate) -> Change:
    """The change between two independent numbers in the metric's own unit; over several seeds, with Welch's error."""
    sides = (baseline, candidate)
    parts = [((side.stderr or 0.0) ** 2, side.seeds - 1 if side.seeds > 1 else math.inf) for side in sides]
    worse = 0.0 if baseline.value == candidate.value else baseline.value - candidate.value
    freedom = satterthwaite(parts) if all(variance < math.inf for variance, _ in parts) else math.inf
    stderr = math.sqrt(sum(variance for variance, _ in parts))
    return Change(worse if metric.higher_is_better else -worse, stderr, freedom, "unpaired", 1)


def worsening(metric: Metric, baseline: Floats, candidate: Floats) -> Floats:
    """How much worse `candidate` is: in points for fractions, else as the logarithm of a ratio."""
    if in_points(metric):
        return np.asarray(baseline - candidate)
    return np.asarray((np.log(candidate) - np.log(baseline)) * (-1 if metric.higher_is_better else 1))


def adjusted(p_values: Mapping[_K, float]) -> dict[_K, float]:
    """p-values after Holm's adjustment: any false alarm among all comparisons is as unlikely as in a single one.

    One that is not a number, of an error that is not finite, counts as 1.
    """
    result: dict[_K, float] = {}
    highest = 0.0
    known = {key: 1.0 if math.isnan(p_value) else p_value for key, p_value in p_values.items()}
    for rank, (key, p_value) in enumerate(sorted(known.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p_value * (len(p_values) - rank)))
        result[key] = highest
    return result


def is_measurable(metric: Metric, *values: float) -> bool:
    """Whether a change from or to each of these values is defined."""
    return all(math.isfinite(value) and (in_points(metric) or value > 0) for value in values)


def in_points(metric: Metric) -> bool:
    """Whether changes of a metric are in points: those of fractions, of which more is better."""
    return metric.unit == "1" and bool(metric.higher_is_better)


def _median_of_processes(processes: Sequence[Sequence[float]], rng: np.random.Generator) -> tuple[float, float, float]:
    """The mean log median, its variance and degrees of freedom."""
    logs = np.array([math.log(float(np.median(process))) for process in processes])
    if logs.size >= 3:
        return float(logs.mean()), float(logs.var(ddof=1)) / logs.size, logs.size - 1
    within = 0.0
    for process in processes:
        values = np.asarray(process, np.float64)
        drawn = np.median(values[rng.integers(0, values.size, size=(DRAWS, values.size))], axis=1)
        within += float(np.log(drawn).var(ddof=1))
    return float(logs.mean()), (within / logs.size + RUN_TO_RUN**2) / logs.size, math.inf


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum, from the variance and the degrees of freedom of each summand."""
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / freedom for variance, freedom in parts if variance > 0)
    return total**2 / spread if spread > 0 else math.inf


def resamples(n: int) -> Iterator[Floats]:
    """How often each resample holds each of n samples, `[r n]`, in parts that fit in memory."""
    if n <= _KEPT_SAMPLES:
        yield _kept_resamples(n)
        return
    rng = np.random.default_rng(SEED)
    size = max(1, DRAWS * _KEPT_SAMPLES // n)
    for start in range(0, DRAWS, size):
        yield multiplicities(rng.integers(0, n, size=(min(size, DRAWS - start), n)))


@lru_cache(maxsize=4)
def _kept_resamples(n: int) -> Floats:
    """One set of resamples for all metrics over equally many samples: drawing it takes far longer than using it."""
    return multiplicities(np.random.default_rng(SEED).integers(0, n, size=(DRAWS, n)))
