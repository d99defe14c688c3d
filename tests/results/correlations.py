"""The correlations that `results/stats/agreement.py` bootstraps, of all samples taken once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hedgebench.results.stats import agreement


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    left, right = (agreement._standardised(np.asarray(side, np.float64)) for side in (x, y))
    return float(agreement._pearson(np.ones((1, left.size)), left, right)[0])


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    left, right = (agreement._groups(np.asarray(side, np.float64)) for side in (x, y))
    return float(agreement._spearman(np.ones((1, left.size)), left, right)[0])
