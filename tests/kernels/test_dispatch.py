from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.choice import KernelChoice
from hedgebench.kernels.dispatch import NAIVE_TOKENS, linear_attention
from hedgebench.kernels.linear.naive import linear_attention_naive

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("form", ["auto", "naive", "recurrent", "chunk"])
def test_every_form_gives_the_same_answer(qkv: Draw, form: str, log_space: bool) -> None:
    q, k, v = qkv(n=40, h=4, hk=2)
    tensors = (q, k, v) if log_space else (q.exp(), k.exp(), v)
    result = linear_attention(*tensors, causal=True, log_space=log_space, form=form)
    expected = linear_attention_naive(*tensors, causal=True, log_space=log_space)
    torch.testing.assert_close(result.output, expected, rtol=1e-12, atol=1e-12)
    assert result.kernel.backend == "torch"
    assert form in ("auto", result.kernel.form)


@pytest.mark.parametrize(
    ("tokens", "options", "form"),
    [
        (NAIVE_TOKENS, {"causal": True}, "naive"),
        (NAIVE_TOKENS + 1, {"causal": True}, "chunk"),
        (20, {"causal": True, "log_space": True}, "chunk"),
        (20, {"causal": True, "return_state": True}, "chunk"),
        (20, {"causal": False}, "chunk"),
        (1, {"causal": True, "return_state": True}, "recurrent"),
    ],
)
def test_auto_picks_the_fastest_form_and_says_so(qkv: Draw, tokens: int, options: dict[str, Any], form: str) -> None:
    result = linear_attention(*qkv(n=tokens), **options)
    assert result.kernel == KernelChoice(form, "torch")
    assert (result.state is None) == (form == "naive")


def test_decoding_resumes_from_the_state_of_the_prompt(qkv: Draw) -> None:
    q, k, v = qkv(n=30)
    prompt = linear_attention(q[:, :, :29], k[:, :, :29], v[:, :, :29], causal=True, log_space=True, return_state=True)
    last = linear_attention(
        q[:, :, 29:], k[:, :, 29:], v[:, :, 29:], causal=True, log_space=True, initial_state=prompt.state
    )
    expected = linear_attention_naive(q, k, v, causal=True, log_space=True)[:, :, 29:]
    torch.testing.assert_close(last.output, expected, rtol=1e-12, atol=1e-12)
    assert last.kernel.form == "recurrent"


def test_the_naive_form_refuses_a_state(qkv: Draw) -> None:
    with pytest.raises(ValueError, match="neither takes nor gives a state"):
        linear_attention(*qkv(), causal=True, form="naive", return_state=True)


def test_unknown_names_answer_with_the_nearest(qkv: Draw) -> None:
    with pytest.raises(ValueError, match=r"'chunked'; did you mean chunk.*allowed: auto, chunk, naive, recurrent"):
        linear_attention(*qkv(), causal=True, form="chunked")
