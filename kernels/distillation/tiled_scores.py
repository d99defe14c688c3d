"""Linear attention's probabilities, and the gradients of its features, for one tile of query rows at a time.

Leading axis l: batch and kv head together; g: query heads of a kv head. A score s_ij is φ(q_i)·φ(k_j), and the total
S_i of a row is Σ_j s_ij. The slopes of a tile, S_i ∂L/∂s_ij, give its part of the gradients of the features. Tensors of
scores are [l gt s]: t rows of each of g heads, and s keys.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..linear.spaces import HEADROOM
from ..linear.spill import first_seen, query_weights
from ..state import EMPTY_LOG

_LEAF = 16
"""Side r of the squares on a steep tile's diagonal whose scores are summed by features, with r²·f exponentials."""


class FeatureGradients(NamedTuple):
    """Gradients of the queries' features [l g n f], and of the keys' features from each query head [l g m f]."""

    queries: Tensor
    keys: Tensor


def tiled_scores(
    queries: Float[Tensor, "l g n f"], keys: Float[Tensor, "l m f"], *, causal: bool, eps: float, log_space: bool
) -> "FactoredScores | SteepScores":
    """The scores of these features, by products of features if one shift serves all rows, else tile by tile.

    The result computes the probabilities of one tile after another, and takes the slopes of the tile computed last.

    A shift per feature, taken off all keys, and one per row, taken off the query, turn logarithms into features and
    cancel. The shift is the keys' maximum or, in a causal call, the first real key, which all rows see. If a later key
    exceeds the first by more than `HEADROOM`, its features could overflow; then every tile has its own shifts.

    Args:
        queries: features, or their logarithms.
        keys: features, zero where masked; or their logarithms, `EMPTY_LOG` where masked.
        causal: a query sees the keys up to its own token; the queries are the last n tokens.
        eps: added to the row's total, outside log space.
        log_space: `queries` and `keys` are logarithms.
    """
    factors = factored(queries, keys, causal=causal, log_space=log_space)
    if factors is None:
        return SteepScores(queries, keys)
    return FactoredScores(*factors, causal=causal, eps=0.0 if log_space else eps, log_space=log_space)


def factored(
    queries: Float[Tensor, "l g n f"], keys: Float[Tensor, "l m f"], *, causal: bool, log_space: bool
) -> tuple[Tensor, Tensor] | None:
    """Features whose products are the scores up to a factor per row; None if no shift can hold all log features."""
    if not log_space:
        return queries, keys
    shift = first_seen(keys) if causal else keys.amax(-2, keepdim=True)
    if bool((keys - shift > HEADROOM[keys.dtype]).any()):
        return None
    weights, _ = query_weights(queries, shift[:, None])
    return weights, (keys - shift).exp()


class FactoredScores:
    """Scores that are products of non-negative features, with one shift for all rows."""

    def __init__(self, queries: Tensor, keys: Tensor, *, causal: bool, eps: float, log_space: bool) -> None:
        """Takes features [l g n f] and [l m f]; with `log_space` gradients are those of their logarithms."""
        self._queries, self._keys = queries, keys
        self._causal, self._eps, self._log_space = causal, eps, log_space

    def probabilities(self, start: int, stop: int) -> Float[Tensor, "l gt s"]:
        """The s_ij / S_i of query rows start to stop, over keys up to the last seen; zero at hidden keys."""
        groups, tokens = self._queries.shape[1:3]
        earlier = self._keys.shape[1] - tokens
        self._rows = slice(start, stop)
        self._seen = earlier + stop if self._causal else self._keys.shape[1]
        self._later = later_keys(stop - start, self._keys.device) if self._causal else None
        scores = self._queries[:, :, self._rows].flatten(1, 2) @ self._keys[:, : self._seen].mT
        hide_later(scores, groups, self._later, 0.0)
        total = scores.sum(-1, keepdim=True) + self._eps
        self._total = total.masked_fill_(total == 0, 1.0)
        return scores.div_(self._total)

    def add_gradient(self, slopes: Float[Tensor, "l gt s"], gradients: FeatureGradients) -> None:
        """Adds the part of the tile computed last to the gradients of the features; may overwrite the slopes."""
        groups = self._queries.shape[1]
        slopes = slopes.div_(self._total)
        hide_later(slopes, groups, self._later, 0.0)
        gradients.queries[:, :, self._rows] = torch.unflatten(slopes @ self._keys[:, : self._seen], 1, (groups, -1))
        by_head = torch.unflatten(slopes, 1, (groups, -1)).flatten(0, 1)
        rows = self._queries[:, :, self._rows].flatten(0, 1)
        gradients.keys.flatten(0, 1)[:, : self._seen].baddbmm_(by_head.mT, rows)

    def finish(self, gradients: FeatureGradients) -> None:
        """Turns the sums of all tiles into gradients, in place: in log space, multiplies them by the features."""
        if self._log_space:
            gradients.queries.mul_(self._queries)
            gradients.keys.mul_(self._keys[:, None])


class _Block(NamedTuple):
    """Scores of some rows against keys that all of them see: (weights·key_weightsᵀ)·exp(log_scale)."""

    rows: slice
    keys: slice
    weights: Tensor
    key_weights: Tensor
    log_scale: Tensor


class SteepScores:
    """Causal scores of log features of any range.

    Rows share a shift only over keys that all of them see. For a tile these are the keys before it. On its diagonal,
    blocks are halved: the rows of the right half share a shift over the keys of the left half. What remains are squares
    of `_LEAF` tokens, whose scores are summed feature by feature. The largest score of a row in a block is at least 1
    before scaling, so terms that underflow are far below `tiles.FLOOR`.
    """

    def __init__(self, queries: Tensor, keys: Tensor) -> None:
        """Takes log features [l g n f] and [l m f], `EMPTY_LOG` where masked."""
        self._queries, self._keys = queries, keys

    def probabilities(self, start: int, stop: int) -> Float[Tensor, "l gt s"]:
        """The s_ij / S_i of query rows start to stop, over keys up to the last seen; zero at hidden keys."""
        groups, tokens = self._queries.shape[1:3]
        self._start, self._stop = start, stop
        self._first = self._keys.shape[1] - tokens + start
        size = stop - start
        rectangles, self._leaves = _halved(0, size)
        if self._first:
            rectangles.append((slice(0, size), slice(-self._first, 0)))
        self._blocks = [self._block(rows, keys) for rows, keys in rectangles]
        logs = self._keys.new_full((self._keys.shape[0], groups, size, self._first + size), EMPTY_LOG)
        for block in self._blocks:
            scores = (block.weights @ block.key_weights.mT).log_() + block.log_scale
            logs[:, :, block.rows, block.keys] = torch.unflatten(scores, 1, (groups, -1))
        for leaf in self._leaves:
            logs[:, :, leaf, self._shifted(leaf)] = self._leaf_exponents(leaf).logsumexp(-1)
        self._log_total = logs.logsumexp(-1, keepdim=True)
        return logs.sub_(self._log_total).exp_().flatten(1, 2)

    def add_gradient(self, slopes: Float[Tensor, "l gt s"], gradients: FeatureGradients) -> None:
        """Adds the part of the tile computed last to the gradients of the log features."""
        groups = self._queries.shape[1]
        by_head = torch.unflatten(slopes, 1, (groups, -1))
        grad_q, grad_k = gradients.queries[:, :, self._start : self._stop], gradients.keys
        for block in self._blocks:
            scale = (torch.unflatten(block.log_scale, 1, (groups, -1)) - self._log_total[:, :, block.rows]).exp()
            part = by_head[:, :, block.rows, block.keys] * scale
            summed = (part.flatten(1, 2) @ block.key_weights).mul_(block.weights)
            grad_q[:, :, block.rows] += torch.unflatten(summed, 1, (groups, -1))
            weights = torch.unflatten(block.weights, 1, (groups, -1))
            grad_k[:, :, block.keys] += (part.mT @ weights).mul_(block.key_weights[:, None])
        for leaf in self._leaves:
            keys = self._shifted(leaf)
            exponents = self._leaf_exponents(leaf) - self._log_total[:, :, leaf, :, None]
            terms = exponents.exp_().mul_(by_head[:, :, leaf, keys, None])
            grad_q[:, :, leaf] += terms.sum(-2)
            grad_k[:, :, keys] += terms.sum(-3)

    def finish(self, gradients: FeatureGradients) -> None:
        """Does nothing: `add_gradient` gives gradients of the logarithms."""

    def _shifted(self, keys: slice) -> slice:
        """The positions, among all keys, of keys at these positions relative to the tile."""
        return slice(self._first + keys.start, self._first + keys.stop)

    def _block(self, rows: slice, relative: slice) -> _Block:
        keys = self._shifted(relative)
        queries = self._queries[:, :, self._start + rows.start : self._start + rows.stop].flatten(1, 2)
        shift = self._keys[:, keys].amax(-2, keepdim=True)
        weights, log_scale = query_weights(queries, shift)
        return _Block(rows, keys, weights, (self._keys[:, keys] - shift).exp(), log_scale)

    def _leaf_exponents(self, leaf: slice) -> Float[Tensor, "l g r r f"]:
        """The log φ(q_i) + log φ(k_j) of each feature in a square on the diagonal, `EMPTY_LOG` for later keys."""
        queries = self._queries[:, :, self._start + leaf.start : self._start + leaf.stop, None]
        later = later_keys(leaf.stop - leaf.start, queries.device)
        return (queries + self._keys[:, None, None, self._shifted(leaf)]).masked_fill_(later[..., None], EMPTY_LOG)


def later_keys(size: int, device: torch.device) -> Tensor:
    """A mask [t t] for t = `size`, true where a key of the tile comes after the query."""
    return torch.ones(size, size, dtype=torch.bool, device=device).triu_(1)


def hide_later(tile: Float[Tensor, "l gt s"], groups: int, later: Tensor | None, value: float) -> None:
    """Writes `value` where a key of the tile comes after the query; these keys are the last columns."""
    if later is not None:
        torch.unflatten(tile, 1, (groups, -1))[..., -later.shape[0] :].masked_fill_(later, value)


def _halved(start: int, stop: int) -> tuple[list[tuple[slice, slice]], list[slice]]:
    """Splits a square on the diagonal into rectangles (rows, keys) below it, and squares of at most `_LEAF`."""
    if stop - start <= _LEAF:
        return [], [slice(start, stop)]
    middle = (start + stop) // 2
    above, above_leaves = _halved(start, middle)
    below, below_leaves = _halved(middle, stop)
    return [(slice(middle, stop), slice(start, middle)), *above, *below], above_leaves + below_leaves
