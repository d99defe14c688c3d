"""Softmax attention, and controls that show how much attention matters."""

from __future__ import annotations

from .declaration import Mechanism, Option

CONTINUED = "continued"
"""Option of softmax in conversions that begin with training a teacher. Without it, the softmax model is that teacher,
which has taken fewer training steps than the models converted from it."""

SOFTMAX = Mechanism(
    name="softmax",
    summary="softmax attention, the reference every other mechanism is measured against",
    source="Vaswani et al. 2017, arXiv:1706.03762, equation 1",
    attention="hedgebench.adapters.attention.softmax:SoftmaxAttention",
    options={
        "backend": Option(
            str,
            "auto",
            "kernel: one backend of torch's scaled_dot_product_attention, or the naive form",
            choices=("auto", "naive", "sdpa_math", "sdpa_flash", "sdpa_efficient", "sdpa_cudnn"),
            read_by="attention",
        ),
        CONTINUED: Option(
            bool,
            False,
            "control in conversions with a teacher: train the teacher further, for as many steps as its students",
            read_by="recipe",
        ),
    },
)

WINDOW = Mechanism(
    name="window",
    summary="control: softmax attention over a sliding window alone",
    source="the window of LoLCATs, arXiv:2410.10254, section 3.2, without its linear part",
    attention="hedgebench.adapters.attention.softmax:SoftmaxAttention",
    causal_only=True,
    options={"window": Option(int, 64, "keys each query sees, its own included", minimum=1, read_by="attention")},
)

NONE = Mechanism(
    name="none",
    summary="control: attention removed, its output is zero",
    source="the zero-attention control of arXiv:2510.05901",
    attention="hedgebench.adapters.attention.softmax:NoAttention",
)
