"""Measures of similarity between two attention maps, by row: divergence, spikiness, monotonicity and overlap.

The Hedgehog paper (arXiv 2402.04347, §3) argues from "spiky" and "monotonic" weights, shows both in plots and gives no
definition of either. Ours, for a query that sees n keys with weights w, softmax weights p and products s = q·k/√d:

    kl            Σ p log(p / w) in nats; a weight below 1e-12 counts as 1e-12, so that a weight of zero has a large but
                  finite cost; a divergence within 1e-6 of 0, which is rounding of float32 weights, counts as 0
    entropy       -Σ w log w in nats: 0 for one key, log n for n equal weights; its ratio to the entropy of p is below 1
                  if w is spikier than softmax
    monotonicity  Spearman's correlation of w and s over the keys, ties sharing their mean rank; 1 for softmax itself
    violations    share of steps from one key to the next, in the order of s, in which w falls; 0 for softmax itself
    overlap       share of the 8 keys with the largest s that are among the 8 with the largest w; keys that tie for the
                  last of these places have equal shares in them, and a key without weight has none

Where there is a teacher, the softmax model before conversion on the same text, with weights t:

    kl_from_teacher   Σ t log(t / w), as above
    teacher_entropy   -Σ t log t

A comparison with p measures a layer's feature maps alone, since p is softmax over the queries and keys that reach the
layer. A comparison with t measures the whole conversion: maps of earlier layers change what reaches later ones, and
fine-tuning moves p together with w.

Why these: the divergence is what distillation minimises, less the entropy of p, which no map can change; so its optimum
is 0. Entropy is the usual number for how few keys a row attends to; its ratio to softmax's compares across lengths. The
paper's monotonicity is that a larger product has a larger weight, whatever the curve. This is a statement on ranks, so
a rank correlation says how far it holds; the violations say how often it fails between neighbours, which a correlation
over many keys hides. Overlap is what retrieval needs: the map picks the keys that softmax picks.

Rows with fewer than 8 keys are left out, as ranks of a few keys mean little. A row without any weight, which ReLU can
produce, has entropy 0 and a divergence of 27.6 nats less the entropy of p. Rows with a negative weight are no
distributions, whatever their sum, and have none of these measures.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...adapters.base import AttentionMaps, UnsupportedError
from ..heavy import Tensor, torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

MIN_KEYS = 8
TOP_KEYS = 8
FLOOR = 1e-12
ROUNDING_NATS = 1e-6
MEASURES = ("kl", "entropy", "softmax_entropy", "monotonicity", "violations", "overlap")
TEACHER_MEASURES = ("kl_from_teacher", "teacher_entropy")
"""Further measures of maps that have a teacher."""


def compare_maps(maps: AttentionMaps, real: Bool[Tensor, "b n"] | None = None) -> dict[str, Float[Tensor, " h"]]:
    """`MEASURES` of each head, and `TEACHER_MEASURES` if there is a teacher: means over rows, in float64.

    Args:
        maps: Attention of one layer; each row of its weights is divided by its sum.
        real: True at tokens that are no padding; None where none is. Queries that are padding do not count.

    Raises:
        UnsupportedError: A weight is negative.
        ValueError: No row sees `MIN_KEYS` keys.
    """
    check_weights(maps.weights)
    p, w, s = maps.softmax.double(), maps.weights.double(), maps.products.double()
    w = w / w.sum(-1, keepdim=True).clamp(min=FLOOR)
    seen = s > -math.inf
    used = seen.sum(-1) >= MIN_KEYS
    if real is not None:
        used = used & real[:, None]
    if not bool(used.any()):
        raise ValueError(f"no query sees {MIN_KEYS} keys; give longer texts")
    rows = {
        "kl": _divergence(p, w),
        "entropy": _entropy(w),
        "softmax_entropy": _entropy(p),
        "monotonicity": _spearman(w, s, seen),
        "violations": _violations(w, s, seen),
        "overlap": _overlap(w, s, seen),
    }
    if maps.teacher is not None:
        t = maps.teacher.double()
        rows |= {"kl_from_teacher": _divergence(t, w), "teacher_entropy": _entropy(t)}
    counts = used.sum((0, 2)).clamp(min=1)
    return {name: row.double().masked_fill(~used, 0).sum((0, 2)) / counts for name, row in rows.items()}


def check_weights(weights: Float[Tensor, "b h n n"]) -> None:
    """Refuses weights that no scaling of rows makes distributions.

    Raises:
        UnsupportedError: A weight is negative.
    """
    if (least := float(weights.min())) < 0:
        raise UnsupportedError(
            f"an attention weight is {least:.3g}; measures of distributions need weights of zero or more"
        )


def _divergence(p: Tensor, w: Tensor) -> Tensor:
    kl = (p * (p.clamp(min=FLOOR).log() - w.clamp(min=FLOOR).log())).sum(-1)
    return kl.masked_fill(kl.abs() < ROUNDING_NATS, 0)


def _entropy(w: Tensor) -> Tensor:
    return -(w * w.clamp(min=FLOOR).log()).sum(-1)


def _ranks(values: Tensor, seen: Tensor) -> Tensor:
    """Ranks among the keys that are seen, ties sharing their mean; 0 elsewhere."""
    hidden = torch.where(seen, values, math.inf)
    ordered = hidden.sort(-1).values.contiguous()
    low = torch.searchsorted(ordered, hidden.contiguous(), right=False)
    high = torch.searchsorted(ordered, hidden.contiguous(), right=True)
    return torch.where(seen, (low + high + 1) / 2, 0.0)


def _spearman(w: Tensor, s: Tensor, seen: Tensor) -> Tensor:
    """Correlation of ranks; 0 if all keys of either side are equal."""
    n = seen.sum(-1, keepdim=True)
    x, y = ((_ranks(side, seen) - (n + 1) / 2) * seen for side in (w, s))
    scale = ((x * x).sum(-1) * (y * y).sum(-1)).sqrt()
    return (x * y).sum(-1) / scale.masked_fill(scale == 0, math.inf)


def _violations(w: Tensor, s: Tensor, seen: Tensor) -> Tensor:
    """Share of neighbours in the order of s whose weights fall, by more than rounding in float32."""
    order = s.argsort(-1)
    sorted_w, sorted_s, both = w.gather(-1, order), s.gather(-1, order), seen.gather(-1, order)
    pairs = both[..., :-1] & both[..., 1:] & (sorted_s[..., 1:] > sorted_s[..., :-1])
    falls = pairs & (sorted_w[..., 1:] < sorted_w[..., :-1] * (1 - 1e-6))
    return falls.sum(-1) / pairs.sum(-1).clamp(min=1)


def _overlap(w: Tensor, s: Tensor, seen: Tensor) -> Tensor:
    shares = [_top_shares(side.masked_fill(~seen, -math.inf)) for side in (w, s)]
    return (shares[0] * (w > 0)).minimum(shares[1]).sum(-1) / TOP_KEYS


def _top_shares(values: Tensor) -> Tensor:
    """Each key's share in the `TOP_KEYS` largest values: 1, 0, or between if it ties for the last of them."""
    last = values.topk(TOP_KEYS, dim=-1).values[..., -1:]
    above, tied = values > last, values == last
    return above + tied * (TOP_KEYS - above.sum(-1, keepdim=True)) / tied.sum(-1, keepdim=True)
