"""Hedgehog and its variants: learned maps that mimic softmax attention."""

from __future__ import annotations

from .declaration import FLA_KERNELS, KERNELS, Mechanism, Option, Variant

_MAPS = "hedgebench.kernels.maps.learned"

HEDGEHOG = Mechanism(
    name="hedgehog",
    summary="[exp(Wx), exp(-Wx)], per head and layer, distilled from softmax attention",
    source="Hedgehog paper, arXiv:2402.04347, section 4; map=softmax and window: LoLCATs, arXiv:2410.10254, section 3 "
    "and appendix A",
    feature_map=f"{_MAPS}:HedgehogMap",
    distilled=True,
    options={
        "map": Option(
            str,
            "exp",
            "exp is the paper's equation; exp_max subtracts a maximum per token; softmax is LoLCATs' form; "
            "softmax_joint is one softmax over [2y, -2y]",
            choices=("exp", "exp_max", "softmax", "softmax_joint"),
        ),
        "negate": Option(bool, True, "use the half of -Wx beside the half of Wx"),
        "bias": Option(bool, False, "give the map a bias"),
        "feature_dim": Option(int, None, "features of each half (default: the head dim)", minimum=1),
        "init": Option(
            str,
            "identity",
            "initial matrix of the map; random is the control without the identity",
            choices=("identity", "random"),
        ),
        "tied": Option(bool, False, "one map for queries and keys", read_by="attention"),
        "window": Option(
            int,
            None,
            "keys that softmax sees; linear attention sees earlier keys, with one normaliser for both (LoLCATs)",
            minimum=1,
            read_by="attention",
        ),
        "distill": Option(bool, True, "train the map by attention distillation in conversions", read_by="recipe"),
        "kernels": KERNELS,
    },
    variants={
        "kernels": FLA_KERNELS,
        "window": Variant("hedgebench.adapters.attention.hybrid:HybridAttention", causal_only=True),
    },
)

T2R_HH = Mechanism(
    name="t2r_hh",
    summary="the map of t2r, trained by Hedgehog's distillation",
    source="Hedgehog paper, arXiv:2402.04347, section 5 (T2R-HH)",
    feature_map=f"{_MAPS}:T2RMap",
    distilled=True,
    options={"feature_dim": Option(int, None, "features (default: the head dim)", minimum=1)},
)
