"""What can run a call is asked once, whichever public function it enters by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hedgebench.kernels import hedgehog
from hedgebench.kernels.dispatch import linear_attention
from hedgebench.kernels.fused import choose
from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.hedgehog import chunk_hedgehog_attn, chunk_linear_attn, fused_recurrent_hedgehog_attn
from hedgebench.kernels.mapped import mapped_linear_attention
from hedgebench.kernels.maps.fixed import EluMap
from hedgebench.kernels.maps.learned import HedgehogMap
from hedgebench.kernels.state import empty_state

Q = torch.ones(1, 2, 5, 4)
WEIGHT = torch.ones(2, 4, 4)


def recurrent() -> Any:
    state = empty_state(torch.ones(1, 2, 5, 8), Q, log_space=True)
    return fused_recurrent_hedgehog_attn(Q[:, :, :1], Q[:, :, :1], Q[:, :, :1], WEIGHT, WEIGHT, state=state)


def mapped(feature_map: Any) -> Any:
    with torch.no_grad():
        return mapped_linear_attention(Q, Q, Q, feature_map, feature_map, causal=True)


ENTRIES: dict[str, Callable[[], Any]] = {
    "map": lambda: chunk_hedgehog_attn(Q, Q, Q, WEIGHT, WEIGHT),
    "features": lambda: chunk_linear_attn(Q, Q, Q),
    "decoding": recurrent,
    "dispatch": lambda: linear_attention(Q, Q, Q, causal=True),
    "Hedgehog's map": lambda: mapped(HedgehogMap(2, 4)),
    "a fixed map": lambda: mapped(EluMap(2, 4)),
}


@pytest.mark.parametrize("answer", ["", "tensors are elsewhere"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_the_kernels_are_asked_once_for_a_call(entry: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def why_not(call: Any, **_: Any) -> str:
        asked.append(call)
        return answer

    monkeypatch.setattr(choose, "why_not_fused", why_not)
    monkeypatch.setattr(hedgehog, "why_not_fused", why_not)
    result = ENTRIES[entry]()
    assert len(asked) == 1
    assert (result.kernel.backend == "triton") == (answer == "")


@pytest.mark.parametrize(("tokens", "is_decoded"), [(8, True), (9, False)])
def test_few_tokens_after_a_state_are_decoded_one_by_one(
    tokens: int, is_decoded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "why_not_fused", lambda *_, **__: "")
    x = torch.ones(1, 1, tokens, 4)
    result = choose.fused_attention(Call.of(x, x, x, empty_state(x, x)))
    assert (result.kernel.form == "fused_recurrent") == is_decoded
