from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.linear.naive import linear_attention_naive, linear_attention_weights

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


@pytest.mark.parametrize("log_space", [False, True])
def test_uniform_features_give_the_running_mean_of_values(qkv: Draw, log_space: bool) -> None:
    q, k, v = qkv()
    ones = torch.zeros_like if log_space else torch.ones_like
    output = linear_attention_naive(ones(q), ones(k), v, causal=True, log_space=log_space)
    mean = v.cumsum(2) / torch.arange(1, v.shape[2] + 1)[:, None]
    torch.testing.assert_close(output, mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("log_space", [False, True])
def test_weights_are_ratios_of_feature_products(qkv: Draw, causal: bool, log_space: bool) -> None:
    q, k, _ = qkv(hk=2)
    weights = linear_attention_weights(
        q if log_space else q.exp(), k if log_space else k.exp(), causal=causal, log_space=log_space
    )
    scores = torch.einsum("bhnf,bhmf->bhnm", q.exp(), k.exp().repeat_interleave(2, dim=1))
    scores = scores.tril() if causal else scores
    torch.testing.assert_close(weights, scores / scores.sum(-1, keepdim=True), rtol=1e-11, atol=1e-12)


def test_unnormalised_weights_are_the_products_themselves(qkv: Draw) -> None:
    q, k, _ = qkv()
    weights = linear_attention_weights(q, k, causal=False, normalize=False, log_space=True)
    torch.testing.assert_close(weights, q.exp() @ k.exp().mT)
    assert torch.equal(linear_attention_weights(q, k, causal=False, normalize=False), q @ k.mT)


def test_a_matrix_product_of_exponentials_agrees_with_scores_summed_one_by_one(qkv: Draw) -> None:
    q, k, _ = qkv(n=40, f=16, spread=10.0, dtype=torch.float32)
    fast = linear_attention_weights(q, k, causal=True, log_space=True)
    exact = linear_attention_weights(q, k, causal=True, log_space=True, exact=True)
    torch.testing.assert_close(fast, exact, rtol=0, atol=2e-5)


def test_weights_stay_exact_where_a_later_key_towers_over_the_first(qkv: Draw) -> None:
    q, k, _ = qkv(n=9, dtype=torch.float32)
    k[:, :, 6] = 200.0
    weights = linear_attention_weights(q, k, causal=True, log_space=True)
    expected = linear_attention_weights(q[:, :, :6].double(), k[:, :, :6].double(), causal=True, log_space=True)
    torch.testing.assert_close(weights[:, :, :6, :6].double(), expected, rtol=1e-5, atol=1e-7)


def test_scores_do_not_depend_on_the_block_they_are_summed_in(qkv: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv()
    whole = linear_attention_naive(q, k, v, causal=True, log_space=True)
    monkeypatch.setattr("hedgebench.kernels.linear.naive._BLOCK_ELEMENTS", 1)
    assert torch.equal(linear_attention_naive(q, k, v, causal=True, log_space=True), whole)


def test_query_heads_share_kv_heads_in_runs(qkv: Draw) -> None:
    q, k, v = qkv(h=6, hk=2)
    output = linear_attention_naive(q, k, v, causal=True, log_space=True)
    for head in range(6):
        kv = head // 3
        alone = linear_attention_naive(
            q[:, head : head + 1], k[:, kv : kv + 1], v[:, kv : kv + 1], causal=True, log_space=True
        )
        torch.testing.assert_close(output[:, head : head + 1], alone)


def test_errors_say_what_does_not_fit(qkv: Draw) -> None:
    q, k, v = qkv(h=4, hk=3)
    with pytest.raises(ValueError, match="3 kv heads do not divide 4"):
        linear_attention_naive(q, k, v, causal=True)
    q, k, v = qkv(n=5, m=4)
    with pytest.raises(ValueError, match="5 queries and 4 keys"):
        linear_attention_naive(q, k, v, causal=True)
