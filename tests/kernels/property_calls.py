"""Small calls of every attention kernel, drawn by hypothesis: sizes and spreads as strategies, numbers by seed.

Every mechanism takes the same call, so that a property is stated once and holds for all of them.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn
from hedgebench.kernels.hybrid.attention import hybrid_attention
from hedgebench.kernels.maps.learned import HEDGEHOG_MAPS, hedgehog_features

repeatable = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
"""The same examples on every machine, whatever its pace."""

GARBAGE = (float("nan"), float("inf"), -float("inf"), 1e30, -1e30)

TOKENS = st.one_of(st.integers(1, 9), st.integers(126, 132))
"""Within one chunk of 128 tokens, or about the border to the next."""


class Call(NamedTuple):
    """What any mechanism is computed from; float64.

    Attributes:
        q: [b h n d].
        k: [b hk n d].
        v: [b hk n dv].
        q_weight: [h d w].
        k_weight: [hk d w].
        gate_log: [h], read by the hybrid.
        mask: [b n], true at real tokens.
        window: read by the hybrid.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_weight: Tensor
    k_weight: Tensor
    gate_log: Tensor
    mask: Tensor | None
    window: int

    def span(self, start: int, stop: int) -> "Call":
        """The tokens from start to stop."""
        q, k, v = (x[:, :, start:stop] for x in self[:3])
        return self._replace(q=q, k=k, v=v, mask=None if self.mask is None else self.mask[:, start:stop])

    def with_tensors(self, tensors: Iterable[Tensor]) -> "Call":
        """The same mask and window with other numbers, q to gate_log."""
        return Call._make((*tensors, self.mask, self.window))

    def features(self, feature_map: str) -> tuple[Tensor, Tensor]:
        """Features of queries and keys."""
        return (
            hedgehog_features(self.q, self.q_weight, None, map=feature_map),
            hedgehog_features(self.k, self.k_weight, None, map=feature_map),
        )


@st.composite
def calls(draw: DrawFn, tokens: SearchStrategy[int] = TOKENS, masked: bool | None = None, batch: int = 2) -> Call:
    """Draws a call; logits reach hundreds of nats. `masked` asks for a padding mask, or for none."""
    b, hk, groups, n = draw(st.integers(1, batch)), draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(tokens)
    d, w, dv = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    spread, window = draw(st.sampled_from([1.0, 20.0, 100.0])), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    with_mask = draw(st.booleans()) if masked is None else masked
    return Call(
        q=normal(b, hk * groups, n, d) * spread,
        k=normal(b, hk, n, d) * spread,
        v=normal(b, hk, n, dv),
        q_weight=normal(hk * groups, d, w),
        k_weight=normal(hk, d, w),
        gate_log=normal(hk * groups),
        mask=torch.rand(b, n, generator=generator) > 0.3 if with_mask else None,
        window=window,
    )


def _hedgehog(feature_map: str) -> Callable[[Call], Tensor]:
    def attend(call: Call) -> Tensor:
        return chunk_hedgehog_attn(*call[:5], feature_map=feature_map, key_padding_mask=call.mask).output

    return attend


def _features(call: Call) -> Tensor:
    return chunk_linear_attn(call.q.abs(), call.k.abs(), call.v, key_padding_mask=call.mask).output


def _log_features(call: Call) -> Tensor:
    return chunk_linear_attn(call.q, call.k, call.v, log_space=True, key_padding_mask=call.mask).output


def _hybrid(feature_map: str) -> Callable[[Call], Tensor]:
    def attend(call: Call) -> Tensor:
        batch, _, tokens, _ = call.q.shape
        return hybrid_attention(
            *call[:3],
            call.features(feature_map)[0],
            lambda keys, _: hedgehog_features(keys, call.k_weight, None, map=feature_map),
            window=call.window,
            gate_log=call.gate_log,
            positions=torch.arange(tokens).repeat(batch, 1),
            key_padding_mask=call.mask,
            log_space=feature_map == "exp",
            shift_window=feature_map != "exp",
        ).output

    return attend


MECHANISMS: dict[str, Callable[[Call], Tensor]] = {
    **{feature_map: _hedgehog(feature_map) for feature_map in HEDGEHOG_MAPS},
    "features": _features,
    "log_features": _log_features,
    "hybrid": _hybrid("softmax"),
    "hybrid_log": _hybrid("exp"),
}
"""Causal attention [b h n dv] by each of the public calls."""

IN_LOG_SPACE = ("exp", "log_features", "hybrid_log")


def seen_rows(call: Call) -> Tensor:
    """Gives [b n], true where a query sees a key at all."""
    if call.mask is None:
        return torch.ones(call.q.shape[0], call.q.shape[2], dtype=torch.bool)
    return call.mask.cumsum(1) > 0
