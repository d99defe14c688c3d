"""Chunks in cache, with gradients written by hand: against steps that autograd follows, and finite differences."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.chunk.attention import linear_attention_chunk
from hedgebench.kernels.chunk.call import ChunkedCall
from hedgebench.kernels.chunk.steps import attend_by_steps, first_carry
from hedgebench.kernels.linear.spaces import HEADROOM
from hedgebench.kernels.linear.sums import state_from_carry
from hedgebench.kernels.maps.hedgehog_tokens import HedgehogTokens
from hedgebench.kernels.state import EMPTY_LOG, LinearState

B, H, HK, N, D, F, DV = 2, 4, 2, 21, 3, 6, 5
CHUNK = 8


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def by_autograd(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, LinearState]:
    """The same through the steps that autograd follows."""
    call = ChunkedCall(q, k, v, **options)
    outputs, carry = attend_by_steps(call, first_carry(call), call.division.output)
    state = state_from_carry(carry, v.shape[1], log_space=call.log_space)
    return torch.cat(outputs, dim=1).view(*q.shape[:3], v.shape[3]), state


def features(*shape: int, seed: int, log_space: bool) -> Tensor:
    drawn = draw(*shape, seed=seed).detach()
    return (drawn * 3 if log_space else drawn.exp()).requires_grad_()


def assert_same_numbers(leaves: list[Tensor], attend: Callable[[Any], tuple[Tensor, LinearState]]) -> None:
    """Compares outputs, states and all gradients, the state's own cotangents included."""
    results = []
    for attention in (linear_attention_chunk, by_autograd):
        output, state = attend(attention)
        outputs = (output, state.kv, state.k)
        cotangents = [draw(*x.shape, seed=90 + index).detach() for index, x in enumerate(outputs)]
        found = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True)
        results.append([*outputs, state.log_scale, *found])
    assert any("InCache" in type(node).__name__ for node in _graph(attend(linear_attention_chunk)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-11)


def _graph(x: Tensor) -> list[Any]:
    nodes, found = [x.grad_fn], []
    while nodes:
        node = nodes.pop()
        if node is not None and node not in found:
            found.append(node)
            nodes += [parent for parent, _ in node.next_functions]
    return found


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("log_space", [False, True])
def test_outputs_states_and_gradients_are_those_of_autograd(
    log_space: bool, causal: bool, stateful: bool, padded: bool, normalize: bool
) -> None:
    q = features(B, H, N, F, seed=0, log_space=log_space)
    k = features(B, HK, N + 11, F, seed=1, log_space=log_space)  # 11 keys come before the first query
    v = draw(B, HK, N + 11, DV, seed=2)
    kv, sums = draw(B, HK, F, DV, seed=3), draw(B, HK, F, seed=4).detach().exp().requires_grad_()
    scale = k.detach()[:, :, :3].amax(2) + 0.3 if log_space else None
    mask = torch.ones(B, N + 11, dtype=torch.bool)
    mask[0, :5] = mask[1, 13:30] = False
    options: dict[str, Any] = {"causal": causal, "log_space": log_space, "chunk_size": CHUNK, "normalize": normalize}
    options |= {"key_padding_mask": mask if padded else None}
    options |= {"initial_state": LinearState(kv, sums, scale) if stateful else None}
    leaves = [q, k, v, *([kv, sums] if stateful else [])]
    assert_same_numbers(leaves, lambda attention: attention(q, k, v, **options))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("variant", ["exp", "softmax", "softmax_joint"])
def test_gradients_of_hedgehogs_map_are_those_of_autograd(variant: str, negate: bool, bias: bool, causal: bool) -> None:
    q, k, v = draw(B, H, N, D, seed=0), draw(B, HK, N, D, seed=1), draw(B, HK, N, DV, seed=2)
    biases = [draw(heads, F, seed=heads) if bias else None for heads in (H, HK)]
    maps = (
        HedgehogTokens(draw(H, D, F, seed=5), biases[0], variant, negate),
        HedgehogTokens(draw(HK, D, F, seed=6), biases[1], variant, negate),
    )
    options: dict[str, Any] = {"causal": causal, "log_space": variant == "exp", "chunk_size": CHUNK, "maps": maps}
    leaves = [q, k, v, *maps[0].parameters, *maps[1].parameters]
    assert_same_numbers(leaves, lambda attention: attention(q, k, v, **options))


@pytest.mark.parametrize("log_space", [False, True])
def test_tensors_may_lie_in_memory_as_projections_leave_them(log_space: bool) -> None:
    """A projection gives [b n h d], which attention sees transposed."""
    q, k = (features(B, N, heads, F, seed=heads, log_space=log_space) for heads in (H, HK))
    v = draw(B, N, HK, DV, seed=2)
    options: dict[str, Any] = {"causal": True, "log_space": log_space, "chunk_size": CHUNK}
    turned = [x.transpose(1, 2) for x in (q, k, v)]
    assert_same_numbers([q, k, v], lambda attention: attention(*turned, **options))


@pytest.mark.parametrize("padded", [False, True])
def test_keys_above_the_headroom_have_the_gradients_of_autograd(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADROOM, torch.float64, 0.5)
    q, k = (features(B, heads, N, F, seed=heads, log_space=True) for heads in (H, HK))
    v = draw(B, HK, N, DV, seed=2)
    mask = torch.arange(N) >= torch.tensor([[3], [17]])
    options: dict[str, Any] = {"causal": True, "log_space": True, "chunk_size": CHUNK}
    options |= {"key_padding_mask": mask if padded else None}
    assert_same_numbers([q, k, v], lambda attention: attention(q, k, v, **options))


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_finite_differences(causal: bool) -> None:
    q, k, v = draw(1, 2, 9, D, seed=0), draw(1, 1, 9, D, seed=1), draw(1, 1, 9, 2, seed=2)
    weights = draw(2, D, 2, seed=3), draw(1, D, 2, seed=4)
    kv, sums = draw(1, 1, 4, 2, seed=5), draw(1, 1, 4, seed=6).detach().exp().requires_grad_()

    def attend(*x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, state = linear_attention_chunk(
            x[0], x[1], x[2], causal=causal, log_space=True, chunk_size=4,
            maps=(HedgehogTokens(x[3]), HedgehogTokens(x[4])),
            initial_state=LinearState(x[5], x[6], torch.zeros_like(x[6]).detach()),
        )  # fmt: skip
        # State entries are relative to a scale that follows the keys: only their product with it is a function of them.
        assert state.log_scale is not None
        return output, state.kv * state.log_scale[..., None].exp(), state.k * state.log_scale.exp()

    assert torch.autograd.gradcheck(lambda *x: attend(*x)[0], (q, k, v, *weights, kv, sums))


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("keys", [0, 5, 20])
def test_without_queries_there_is_a_state(keys: int, causal: bool, log_space: bool) -> None:
    q, k, v = draw(1, 2, 0, F, seed=0), draw(1, 2, keys, F, seed=1), draw(1, 2, keys, DV, seed=2)
    output, state = linear_attention_chunk(q, k, v, causal=causal, log_space=log_space, chunk_size=CHUNK)
    assert output.shape == (1, 2, 0, DV)
    weights = (k - k.amax(2, keepdim=True)).exp() if log_space and keys else k
    torch.testing.assert_close(state.kv, weights.mT @ v)


def test_a_query_that_sees_no_key_gives_zero_and_no_gradient() -> None:
    q, k = (features(1, 1, N, F, seed=seed, log_space=True) for seed in (0, 1))
    v = draw(1, 1, N, DV, seed=2)
    mask = torch.arange(N)[None] >= 10
    output, state = linear_attention_chunk(
        q, k, v, causal=True, log_space=True, chunk_size=CHUNK, key_padding_mask=mask
    )
    assert not output[:, :, :10].any()
    found = torch.autograd.grad(output.sum(), (q, k, v))
    assert all(torch.isfinite(x).all() and not x[:, :, :10].any() for x in found)
    assert state.log_scale is not None
    assert (state.log_scale > EMPTY_LOG / 2).all()


def test_bfloat16_gradients_are_as_near_as_its_inputs_allow() -> None:
    q, k, v = (draw(1, 2, 40, 8, seed=seed).detach().bfloat16().requires_grad_() for seed in range(3))
    weights = [draw(2, 8, 8, seed=seed).detach().float().requires_grad_() for seed in (3, 4)]
    leaves = [q, k, v, *weights]
    doubles = [x.detach().double().requires_grad_() for x in leaves]
    results = []
    for x in (leaves, doubles):
        maps = HedgehogTokens(x[3]), HedgehogTokens(x[4])
        output, _ = linear_attention_chunk(*x[:3], causal=True, log_space=True, chunk_size=CHUNK, maps=maps)
        assert output.dtype == x[2].dtype
        results.append([output, *torch.autograd.grad(output.double().sin().sum(), x)])
    for got, exact, leaf in zip(results[0], results[1], [v, *leaves], strict=True):
        assert got.dtype == leaf.dtype
        assert (got.double() - exact).norm() <= 0.01 * exact.norm()


def test_far_less_is_kept_than_autograd_keeps() -> None:
    n, d = 1024, 32
    x = [draw(1, 2, n, d, seed=seed).float().detach().requires_grad_() for seed in range(3)]
    maps = [HedgehogTokens(torch.eye(d).repeat(2, 1, 1).requires_grad_()) for _ in range(2)]
    kept = []
    for attention in (linear_attention_chunk, by_autograd):
        elements = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal elements
            elements += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            attention(*x, causal=True, log_space=True, maps=(maps[0], maps[1]))
        kept.append(elements)
    assert kept[0] < kept[1] / 4


def test_the_last_state_alone_has_gradients() -> None:
    q, k = (features(1, 1, N, F, seed=seed, log_space=True) for seed in (0, 1))
    v = draw(1, 1, N, DV, seed=2)
    options: dict[str, Any] = {"causal": True, "log_space": True, "chunk_size": CHUNK}
    results = [attention(q, k, v, **options)[1].kv.sin().sum() for attention in (linear_attention_chunk, by_autograd)]
    found, expected = (torch.autograd.grad(result, (k, v)) for result in results)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_of_gradients_are_finite_differences(causal: bool) -> None:
    q, k, v, weight = (draw(1, 1, *size, seed=seed) for seed, size in enumerate([(6, 2), (6, 2), (6, 2), (2, 2)]))

    def attend(*x: Tensor) -> Tensor:
        maps = HedgehogTokens(x[3][0]), HedgehogTokens(x[3][0])
        return linear_attention_chunk(*x[:3], causal=causal, log_space=True, chunk_size=4, maps=maps)[0]

    assert torch.autograd.gradgradcheck(attend, (q, k, v, weight))


def test_an_input_changed_before_its_gradient_is_an_error() -> None:
    q, k, v = (draw(1, 1, N, size, seed=size) for size in (F, F, DV))
    changed = q * 2
    output, _ = linear_attention_chunk(changed, k, v, causal=True, log_space=True, chunk_size=CHUNK)
    changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(output.sum(), v)
