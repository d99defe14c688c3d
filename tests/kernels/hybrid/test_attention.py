"""The hybrid of a softmax window and linear attention, against its definition over full matrices in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hedgebench.kernels.chunk.attention import linear_attention_chunk
from hedgebench.kernels.hybrid.attention import HYBRID, hybrid_attention, hybrid_attention_weights
from hedgebench.kernels.softmax.attention import softmax_attention_weights

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]

GATE = torch.tensor([0.1, 0.9, 0.5, 0.01], dtype=torch.float64)
BOTH_SPACES = pytest.mark.parametrize("log_space", [False, True])


def log_map(x: Tensor, positions: Tensor) -> Tensor:
    """Log features that depend on the token's position too, as a rotation of keys would."""
    return torch.cat([x, -x], dim=-1) + positions[:, None, :, None].to(x.dtype).sin()


def bounded_map(x: Tensor, positions: Tensor) -> Tensor:
    """Features between 0 and 1."""
    return log_map(x, positions).softmax(-1)


def attend(q: Tensor, k: Tensor, v: Tensor, *, log_space: bool, gate: Tensor = GATE, **options: Any) -> Any:
    positions = options.pop("positions", torch.arange(k.shape[2]).expand(len(k), -1))
    feature_map = log_map if log_space else bounded_map
    phi_q = feature_map(q, positions[:, -q.shape[2] :])
    return hybrid_attention(
        q,
        k,
        v,
        phi_q,
        feature_map,
        gate_log=gate[: q.shape[1]].log().to(q.dtype),
        positions=positions,
        log_space=log_space,
        shift_window=not log_space,
        **options,
    )


def oracle_weights(
    q: Tensor,
    k: Tensor,
    *,
    window: int,
    log_space: bool,
    gate: Tensor = GATE,
    key_padding_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The definition, pair by pair: γ exp(z - c) near, φ(q)·φ(k) far, divided by their sum."""
    n, m, groups = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    positions = torch.arange(m).expand(len(q), -1)
    distance = torch.arange(m - n, m)[:, None] - torch.arange(m)
    real = (
        torch.ones(len(q), 1, 1, m, dtype=torch.bool) if key_padding_mask is None else key_padding_mask[:, None, None]
    )
    near, far = (distance >= 0) & (distance < window) & real, (distance >= window) & real
    z = q @ k.repeat_interleave(groups, 1).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    c = 0 if log_space else z.masked_fill(~near, -torch.inf).amax(-1, keepdim=True)
    feature_map: Any = log_map if log_space else bounded_map
    phi_q, phi_k = feature_map(q, positions[:, -n:]), feature_map(k, positions).repeat_interleave(groups, 1)
    if log_space:
        phi_q, phi_k = phi_q.exp(), phi_k.exp()
    near_weights = gate[: q.shape[1], None, None] * (z - c).masked_fill(~near, -torch.inf).exp()
    weights = near_weights + (phi_q @ phi_k.mT).masked_fill(~far, 0.0)
    normalised: Tensor = weights / weights.sum(-1, keepdim=True)
    return normalised


def oracle(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    return oracle_weights(q, k, **options) @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)


@BOTH_SPACES
def test_three_tokens_by_hand(log_space: bool) -> None:
    q = k = torch.zeros(1, 1, 3, 1, dtype=torch.float64)
    v = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64).view(1, 1, 3, 1)
    half = torch.tensor([0.5], dtype=torch.float64)
    positions = torch.zeros(1, 3, dtype=torch.long)
    output = attend(q, k, v, window=1, log_space=log_space, gate=half, positions=positions).output.flatten()
    # Every score is exp(0) times 1/2; features are two ones, or two halves: φ·φ is 2, or 1/2.
    far = 2.0 if log_space else 0.5
    expected = [1.0, (0.5 * 10 + far) / (0.5 + far), (0.5 * 100 + far * 11) / (0.5 + 2 * far)]
    assert output.tolist() == pytest.approx(expected, rel=1e-12)


@BOTH_SPACES
@pytest.mark.parametrize("hk", [4, 2, 1])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (13, 13), (4, 17), (131, 131), (70, 139)])
@pytest.mark.parametrize("window", [1, 3, 16, 64])
def test_it_matches_the_definition_in_outputs_and_gradients(
    qkv: Draw, window: int, n: int, m: int, hk: int, log_space: bool
) -> None:
    options: dict[str, Any] = {"window": window, "log_space": log_space, "scale": 0.3 if hk == 1 else None}
    results = []
    for attention in (oracle, lambda *tensors, **options: attend(*tensors, **options).output):
        leaves = [tensor.clone().requires_grad_() for tensor in (*qkv(n=n, m=m, hk=hk, f=4), GATE)]
        output = attention(*leaves[:3], gate=leaves[3], **options)
        gradients = torch.autograd.grad(output.sin().sum(), leaves, materialize_grads=True)
        results.append([output, *gradients])
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)
    assert bool(results[1][-1].abs().max() > 1e-4) == (m > window)


@BOTH_SPACES
def test_padded_keys_that_are_not_numbers_reach_no_gradient(qkv: Draw, log_space: bool) -> None:
    q, k, v = qkv(n=21, hk=2, f=4)
    hidden = torch.arange(21) < torch.tensor([[6], [0]])
    matrix = torch.eye(4, dtype=torch.float64, requires_grad=True)

    def learned(x: Tensor, positions: Tensor) -> Tensor:
        return (log_map if log_space else bounded_map)(x @ matrix, positions)

    found = []
    for filling in (1.0, torch.nan):
        keys, values = (x.masked_fill(hidden[:, None, :, None], filling) for x in (k, v))
        positions = torch.arange(21).expand(2, -1)
        output = hybrid_attention(
            q, keys, values, learned(q, positions), learned, gate_log=GATE.log(), positions=positions, window=4,
            log_space=log_space, shift_window=not log_space, key_padding_mask=~hidden,
        ).output  # fmt: skip
        with torch.no_grad():
            alone = hybrid_attention(
                q, keys, values, learned(q, positions), learned, gate_log=GATE.log(), positions=positions, window=4,
                log_space=log_space, shift_window=not log_space, key_padding_mask=~hidden,
            ).output  # fmt: skip
        found.append([output, alone, torch.autograd.grad(output.sin().sum(), matrix)[0]])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


@BOTH_SPACES
@pytest.mark.parametrize("window", [1, 4, 30])
def test_weights_match_the_definition_and_give_the_output(qkv: Draw, window: int, log_space: bool) -> None:
    q, k, v = qkv(n=21, hk=2, f=4)
    mask = torch.arange(21) >= torch.tensor([[6], [0]])
    positions = torch.arange(21).expand(2, -1)
    feature_map = log_map if log_space else bounded_map
    weights = hybrid_attention_weights(
        q,
        k,
        feature_map(q, positions),
        feature_map(k, positions),
        window=window,
        gate_log=GATE.log(),
        key_padding_mask=mask,
        log_space=log_space,
        shift_window=not log_space,
    )
    expected = oracle_weights(q, k, window=window, log_space=log_space, key_padding_mask=mask)
    torch.testing.assert_close(weights[0, :, 6:], expected[0, :, 6:], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(weights[1], expected[1], rtol=1e-11, atol=1e-12)
    assert not weights[0, :, :6].any()
    output = attend(q, k, v, window=window, log_space=log_space, key_padding_mask=mask).output
    torch.testing.assert_close(output, weights @ v.repeat_interleave(2, 1), rtol=1e-11, atol=1e-12)


@BOTH_SPACES
def test_a_window_that_holds_every_key_is_softmax_attention_and_asks_for_no_features(
    qkv: Draw, log_space: bool
) -> None:
    q, k, v = qkv(n=21)
    for window in (21, 22, 500):
        output = attend(q, k, v, window=window, log_space=log_space).output
        torch.testing.assert_close(output, softmax_attention_weights(q, k, causal=True) @ v, rtol=1e-12, atol=1e-12)
    q, k, v = (tensor[:, :, :20] for tensor in (q, k, v))

    def never(*_: Tensor) -> Tensor:
        raise AssertionError("no key left the window")

    positions = torch.arange(20).expand(2, -1)
    hybrid_attention(q, k, v, q, never, window=20, gate_log=GATE.log(), positions=positions)


@BOTH_SPACES
def test_a_gate_of_nothing_leaves_delayed_linear_attention_alone(qkv: Draw, log_space: bool) -> None:
    q, k, v = qkv(n=21, f=4)
    gate = torch.full((4,), 1e-200, dtype=torch.float64)
    positions = torch.arange(21).expand(2, -1)
    feature_map = log_map if log_space else bounded_map
    phi_q, phi_k = feature_map(q, positions), feature_map(k, positions)
    expected, _ = linear_attention_chunk(
        phi_q[:, :, 5:], phi_k[:, :, :-5], v[:, :, :-5], causal=True, log_space=log_space
    )
    output = attend(q, k, v, window=5, log_space=log_space, gate=gate).output
    torch.testing.assert_close(output[:, :, 5:], expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(output[:, :, :5], oracle(q, k, v, window=5, log_space=log_space)[:, :, :5])


@BOTH_SPACES
def test_without_the_linear_branch_the_window_is_renormalised(qkv: Draw, log_space: bool) -> None:
    q, k, v = qkv(n=40, hk=2)
    expected = softmax_attention_weights(q, k, causal=True, window=6) @ v.repeat_interleave(2, 1)
    alone = attend(q, k, v, window=6, log_space=log_space, linear_branch=False, return_state=True)
    torch.testing.assert_close(alone.output, expected, rtol=1e-12, atol=1e-12)
    assert alone.state.linear is None
    both = attend(q, k, v, window=6, log_space=log_space).output
    assert (both - alone.output)[:, :, 6:].abs().amax((0, 2, 3)).min() > 0.05


@BOTH_SPACES
@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_constant_values_come_out_as_they_went_in(qkv: Draw, log_space: bool, spread: float) -> None:
    q, k, v = qkv(n=150, spread=spread, dtype=torch.float32)
    output = attend(q, k, torch.ones_like(v), window=7, log_space=log_space).output
    torch.testing.assert_close(output, torch.ones_like(output), rtol=0, atol=1e-6)


@BOTH_SPACES
@pytest.mark.parametrize("cut", [3, 64, 97])
def test_the_future_does_not_change_one_bit_of_the_past(qkv: Draw, cut: int, log_space: bool) -> None:
    tensors = qkv(n=150, dtype=torch.float32)
    before = attend(*tensors, window=10, log_space=log_space).output
    for tensor in tensors:
        tensor[:, :, cut:] = 50.0
    after = attend(*tensors, window=10, log_space=log_space).output
    assert torch.equal(after[:, :, :cut], before[:, :, :cut])
    assert not torch.equal(after[:, :, cut:], before[:, :, cut:])


@pytest.mark.parametrize("padded", [1, 9, 40])
@BOTH_SPACES
def test_padding_on_the_left_changes_nothing(qkv: Draw, padded: int, log_space: bool) -> None:
    tensors = qkv(n=50, hk=2)
    expected = attend(*tensors, window=8, log_space=log_space).output
    wide = [torch.nn.functional.pad(tensor, (0, 0, padded, 0), value=9.0) for tensor in tensors]
    mask = torch.arange(50 + padded).expand(2, -1) >= padded
    positions = (torch.arange(50 + padded) - padded).clamp(min=0).expand(2, -1)
    output = attend(*wide, window=8, log_space=log_space, key_padding_mask=mask, positions=positions).output
    torch.testing.assert_close(output[:, :, padded:], expected, rtol=1e-11, atol=1e-12)
    assert not output[:, :, :padded].any()


def test_log_space_stays_finite_and_right_where_exponentials_overflow(qkv: Draw) -> None:
    q, k, v = qkv(n=60, f=4, spread=15.0)
    tensors = [tensor.float().requires_grad_() for tensor in (q, k, v)]
    output = attend(*tensors, window=5, log_space=True).output
    exact = oracle(q, k, v, window=5, log_space=True)
    assert (q @ k.mT / 2).max() > 700
    assert exact.isfinite().float().mean() > 0.9  # float64 overflows for the others
    fine = exact.isfinite()
    torch.testing.assert_close(output.double()[fine], exact[fine], rtol=0, atol=2e-3)
    assert output.isfinite().all()
    gradients = torch.autograd.grad(output.square().sum(), tensors)
    assert all(gradient.isfinite().all() for gradient in gradients)
    huge = attend(*(tensor.detach() * 100 for tensor in tensors), window=5, log_space=True).output
    assert huge.isfinite().all()


def test_a_shift_of_the_logarithms_is_no_shift_of_the_model(qkv: Draw) -> None:
    q, k, v = qkv(n=30, f=4)
    expected = attend(q, k, v, window=5, log_space=True).output

    def moved(x: Tensor, positions: Tensor) -> Tensor:
        return log_map(x, positions) - 800

    positions = torch.arange(30).expand(2, -1)
    output = hybrid_attention(
        q,
        k,
        v,
        log_map(q, positions) + 800,
        moved,
        window=5,
        gate_log=GATE.log(),
        positions=positions,
        log_space=True,
        shift_window=False,
    ).output
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-11)


def test_bounded_features_meet_a_window_whose_largest_score_is_taken_off(qkv: Draw) -> None:
    q, k, v = qkv(n=30, f=4, spread=20.0)
    expected = oracle(q, k, v, window=5, log_space=False)
    torch.testing.assert_close(attend(q, k, v, window=5, log_space=False).output, expected, rtol=1e-10, atol=1e-11)
    positions = torch.arange(30).expand(2, -1)
    unshifted = hybrid_attention(
        q,
        k,
        v,
        bounded_map(q, positions),
        bounded_map,
        window=5,
        gate_log=GATE.log(),
        positions=positions,
        shift_window=False,
    ).output
    assert (unshifted - expected).abs().max() > 0.1


@BOTH_SPACES
def test_half_precision_is_summed_in_float32_under_autocast_too(qkv: Draw, log_space: bool) -> None:
    q, k, v = (tensor.bfloat16() for tensor in qkv(n=100, f=4))
    exact = oracle(q.double(), k.double(), v.double(), window=8, log_space=log_space)
    positions = torch.arange(100).expand(2, -1)
    feature_map = log_map if log_space else bounded_map
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = hybrid_attention(
            q,
            k,
            v,
            feature_map(q.float(), positions),
            lambda keys, positions: feature_map(keys.float(), positions),
            window=8,
            gate_log=GATE.float().log(),
            positions=positions,
            log_space=log_space,
            shift_window=not log_space,
        )
    assert result.output.dtype == torch.bfloat16
    torch.testing.assert_close(result.output, exact.bfloat16(), rtol=2**-7, atol=1e-4)


def test_it_never_holds_a_score_for_every_pair(qkv: Draw) -> None:
    q, k, v = qkv(b=1, h=1, hk=1, n=2048, f=4, dtype=torch.float32)
    largest = 0

    class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    with Largest():  # type: ignore[no-untyped-call]
        attend(q, k, v, window=64, log_space=True, return_state=True)
    assert largest <= 128 * 128


def test_what_ran_is_told(qkv: Draw) -> None:
    assert attend(*qkv(), window=4, log_space=True).kernel == HYBRID
    assert (HYBRID.form, HYBRID.backend) == ("hybrid", "torch")
