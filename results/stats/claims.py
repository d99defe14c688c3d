"""Verdicts on claims: contrasts of several models' metrics, held against thresholds over documents and seeds.

The error of a contrast has two parts, as that of `paired_changes`: documents are resampled jointly for all models and
seeds, and the spread over seeds is added; Student's t has Satterthwaite's degrees of freedom. Seeds themselves are not
resampled. Of 1,000 simulated gaps closed, with three seeds that vary more than documents do, the percentiles of a
bootstrap of both hold the true value in 76 %, and this interval in 94 %; where training does not vary, both in 99 %.
One seed says nothing of how training varies, so its interval is infinite.

The interval of a ratio is Fieller's (1954): the thresholds whose difference to the ratio is not significant. It is
infinite where the denominator may be zero. p-values are adjusted by Holm's method over all claims that are judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from ..names import unknown_name
from .changes import ALPHA, adjusted, resamples, satterthwaite
from .contrasts import Contrast, UndefinedContrastError
from .scores import SampleScores
from .statistics import Floats

ModelSeeds: TypeAlias = Sequence[SampleScores] | Sequence[float]
"""A model's metric for each seed: document by document, or values alone."""

ClaimVerdict: TypeAlias = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True)
class Effect:
    """A measured contrast.

    Attributes:
        contrast: Its name.
        top: Its numerator.
        bottom: Its denominator, above 0; 1 for a contrast that is not a ratio.
        covariance: Variance of the numerator, their covariance, and variance of the denominator.
        freedom: Degrees of freedom of the error; 0 with one seed.
        seeds: Seeds of each model, the fewest over tasks.
        documents: Documents over all tasks; 0 if the error is the spread over seeds alone.
    """

    contrast: str
    top: float
    bottom: float
    covariance: tuple[float, float, float]
    freedom: float
    seeds: int
    documents: int

    @property
    def value(self) -> float:
        """The contrast."""
        return self.top / self.bottom

    @property
    def stderr(self) -> float:
        """Its standard error, to first order in the errors of numerator and denominator."""
        tops, both, bottoms = self.covariance
        variance = tops - 2 * self.value * both + self.value**2 * bottoms
        return math.sqrt(max(0.0, variance)) / self.bottom

    def p_value(self, threshold: float) -> float:
        """Two-sided p-value of the contrast being `threshold`, never below that of a denominator of zero."""
        if not self.freedom:
            return 1.0
        return max(self._p_value(1.0, threshold), self._p_value(0.0, 1.0) if self.covariance[2] else 0.0)

    def interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """The thresholds whose p-value is not below alpha."""
        from scipy.special import stdtrit

        squared = float(stdtrit(self.freedom, 1 - alpha / 2)) ** 2 if self.freedom else math.inf
        tops, both, bottoms = self.covariance
        curvature = self.bottom**2 - squared * bottoms if bottoms else self.bottom**2
        if not self.freedom or curvature <= 0:
            return -math.inf, math.inf
        slope = squared * (self.value * bottoms - both)
        at_value = max(0.0, tops - 2 * self.value * both + self.value**2 * bottoms)
        half = math.sqrt(slope**2 + curvature * squared * at_value)
        return self.value + (slope - half) / curvature, self.value + (slope + half) / curvature

    def _p_value(self, top: float, bottom: float) -> float:
        """Two-sided p-value of `top` · numerator - `bottom` · denominator being zero."""
        from scipy.special import stdtr

        if math.isclose(top * self.top, bottom * self.bottom, rel_tol=1e-9, abs_tol=1e-12):
            return 1.0
        tops, both, bottoms = self.covariance
        variance = top**2 * tops - 2 * top * bottom * both + bottom**2 * bottoms
        if variance <= 0:
            return 0.0
        return float(2 * stdtr(self.freedom, -abs(top * self.top - bottom * self.bottom) / math.sqrt(variance)))


@dataclass(frozen=True)
class MeasuredClaim:
    """A claim that all of some contrasts are above a threshold.

    Attributes:
        id: Its name.
        effects: The measured contrasts; an order of models has several.
        threshold: In the contrasts' unit.
    """

    id: str
    effects: tuple[Effect, ...]
    threshold: float = 0.0


@dataclass(frozen=True)
class JudgedClaim:
    """A claim with its verdict.

    Attributes:
        claim: The claim.
        verdict: Whether the interval lies above the threshold, below it, or on both sides.
        effect: The contrast that decides: the least certain one or, if any is below the threshold, the surest of those.
        low: Lower end of the adjusted interval of `effect`.
        high: Its upper end.
        p_value: Adjusted.
    """

    claim: MeasuredClaim
    verdict: ClaimVerdict
    effect: Effect
    low: float
    high: float
    p_value: float


def judge(claims: Sequence[MeasuredClaim]) -> list[JudgedClaim]:
    """The verdict on each claim; one wrong verdict among all is as unlikely as it is on a single claim.

    An interval has the level at which Holm's method tests its claim: it leaves out the threshold if the adjusted
    p-value is below 0.05.
    """
    chosen = [_deciding(claim) for claim in claims]
    raw = {i: min(1.0, tests * effect.p_value(claims[i].threshold)) for i, (effect, tests) in enumerate(chosen)}
    p_values = adjusted(raw)
    decided = sum(p_value < ALPHA for p_value in p_values.values())
    judged: dict[int, JudgedClaim] = {}
    for rank, i in enumerate(sorted(raw, key=raw.__getitem__)):
        claim, (effect, tests) = claims[i], chosen[i]
        low, high = effect.interval(ALPHA / (len(claims) - min(rank, decided)) / tests)
        decision: ClaimVerdict = "holds" if effect.value > claim.threshold else "does not hold"
        verdict: ClaimVerdict = decision if p_values[i] < ALPHA else "undecided"
        judged[i] = JudgedClaim(claim, verdict, effect, low, high, p_values[i])
    return [judged[i] for i in range(len(claims))]


def _deciding(claim: MeasuredClaim) -> tuple[Effect, int]:
    """The contrast that decides, and how many it was picked from: only the surest needs an adjustment."""
    if not claim.effects:
        raise ValueError(f"claim {claim.id} has no contrast; give at least one")
    p_values = {i: effect.p_value(claim.threshold) for i, effect in enumerate(claim.effects)}
    below = [i for i, effect in enumerate(claim.effects) if effect.value < claim.threshold]
    if below:
        return claim.effects[min(below, key=p_values.__getitem__)], len(claim.effects)
    return claim.effects[max(p_values, key=p_values.__getitem__)], 1


def measure(contrast: Contrast, tasks: Sequence[Mapping[str, ModelSeeds]]) -> Effect:
    """A contrast of metrics, each averaged over seeds and tasks.

    Args:
        contrast: What to measure.
        tasks: The seeds of each model, by task. The models of a task have the same documents and the same seeds, in
            one order; tasks have nothing in common.

    Raises:
        UnknownNameError: A task lacks a model of the contrast.
        UndefinedContrastError: A metric is not finite, or the denominator is not positive.
        ValueError: The models of a task have other seeds or documents than each other.
    """
    models = list(dict.fromkeys([*contrast.top, *contrast.bottom]))
    weights = np.array([[side.get(model, 0.0) for model in models] for side in (contrast.top, contrast.bottom)])
    moments = [_moments(weights / len(tasks), _aligned(task, models), contrast.name) for task in tasks]
    top, bottom = np.sum([moment.means for moment in moments], axis=0).tolist()
    bottom = contrast.denominator(bottom)
    parts = [part for moment in moments for part in moment.parts]
    (tops, both), (_, bottoms) = np.sum([covariance for covariance, _ in parts], axis=0).tolist()
    along = np.array([1.0, -top / bottom])
    seeds = min(moment.seeds for moment in moments)
    freedom = satterthwaite([(float(along @ covariance @ along), freedom) for covariance, freedom in parts])
    documents = sum(moment.documents for moment in moments)
    return Effect(contrast.name, top, bottom, (tops, both, bottoms), freedom if seeds > 1 else 0.0, seeds, documents)


def _aligned(task: Mapping[str, ModelSeeds], models: Sequence[str]) -> list[ModelSeeds]:
    """The seeds of each model, once it is sure that they belong together."""
    if absent := [model for model in models if model not in task]:
        raise unknown_name("measured model", absent[0], task)
    found = [task[model] for model in models]
    kinds = {score.labels if isinstance(score, SampleScores) else () for seeds in found for score in seeds}
    counts = {model: len(seeds) for model, seeds in zip(models, found, strict=True)}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"seeds of each model: {counts}; give the same ones, at least one")
    if len(kinds) != 1:
        raise ValueError(f"{', '.join(models)} were not all measured on the same documents")
    return found


@dataclass(frozen=True)
class _Moments:
    """A contrast's numerator and denominator on one task: means `[2]`, and parts of their covariance with freedom."""

    means: Floats
    parts: list[tuple[Floats, float]]
    seeds: int
    documents: int


def _moments(weights: Floats, found: Sequence[ModelSeeds], name: str) -> _Moments:
    """The moments of the sums with `weights` `[2 k]` of the k models' metrics."""
    scores = [[score for score in seeds if isinstance(score, SampleScores)] for seeds in found]
    documents = len(scores[0][0].labels) if scores[0] else 0
    parts: list[tuple[Floats, float]] = []

    def sums(draws: Floats) -> Floats:
        """Both sums `[2 s r]` for each of s seeds in each of r resamples."""
        values = np.array([[score.resampled(draws) for score in seeds] for seeds in scores])
        return np.asarray(np.einsum("wk,ksr->wsr", weights, values))

    with np.errstate(all="ignore"):
        by_seed = sums(np.ones((1, documents)))[:, :, 0] if documents else weights @ np.asarray(found, np.float64)
        if not np.isfinite(by_seed).all():
            raise UndefinedContrastError(f"{name}: a metric is not finite")
        if documents > 1:
            drawn = np.concatenate([sums(draws).mean(axis=1) for draws in resamples(documents)], axis=1)
            spread = np.cov(drawn[:, np.isfinite(drawn).all(axis=0)])
            parts.append((spread * documents / (documents - 1), documents - 1))
    seeds = by_seed.shape[1]
    parts.append((np.cov(by_seed) / seeds, seeds - 1) if seeds > 1 else (np.zeros((2, 2)), 1))
    return _Moments(by_seed.mean(axis=1), parts, seeds, documents)
