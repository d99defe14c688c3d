from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.chunk.attention import linear_attention_recurrent
from hedgebench.kernels.linear.naive import linear_attention_naive
from hedgebench.kernels.state import LinearState

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


@pytest.mark.parametrize("log_space", [False, True])
def test_decoding_token_by_token_equals_the_whole(qkv: Draw, log_space: bool) -> None:
    q, k, v = qkv(h=4, hk=2, spread=30.0 if log_space else 1.0)
    if not log_space:
        q, k = q.exp(), k.exp()
    state: LinearState | None = None
    outputs = []
    for token in range(q.shape[2]):
        given = (x[:, :, token : token + 1] for x in (q, k, v))
        output, state = linear_attention_recurrent(*given, causal=True, log_space=log_space, initial_state=state)
        outputs.append(output)
    expected = linear_attention_naive(q, k, v, causal=True, log_space=log_space)
    torch.testing.assert_close(torch.cat(outputs, dim=2), expected, rtol=1e-12, atol=1e-12)


def test_the_state_is_the_sum_over_keys(qkv: Draw) -> None:
    q, k, v = qkv()
    _, state = linear_attention_recurrent(q, k, v, causal=True, normalize=False)
    torch.testing.assert_close(state.kv, k.mT @ v)
    torch.testing.assert_close(state.k, k.sum(2))
    assert state.log_scale is None
