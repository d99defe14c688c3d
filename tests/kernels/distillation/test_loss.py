"""The distillation loss against its definition with full matrices in float64, and against answers known by hand."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hedgebench.kernels.distillation import loss as distillation
from hedgebench.kernels.distillation import op as distillation_op
from hedgebench.kernels.distillation import tiles as distillation_tiles
from hedgebench.kernels.distillation.call import DistillationCall
from hedgebench.kernels.distillation.loss import DistillationLoss, attention_distillation_loss
from hedgebench.kernels.distillation.tiles import FLOOR
from hedgebench.kernels.linear.sums import EPS

PADDINGS: dict[str, tuple[int, int] | None] = {"none": None, "left": (2, 0), "right": (0, 3), "both": (1, 2)}


def features(n: int, hk: int = 4, m: int | None = None, spread: float = 1.0, log_space: bool = True) -> list[Tensor]:
    """Draws q, k, phi_q and phi_k in float64: batch 2, 4 heads."""
    generator = torch.Generator().manual_seed(n)
    shapes = [(2, heads, tokens, size) for size in (5, 6) for heads, tokens in ((4, n), (hk, n if m is None else m))]
    q, k, phi_q, phi_k = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    if not log_space:
        phi_q, phi_k = phi_q.relu(), phi_k.relu()
    return [q, k, phi_q * spread, phi_k * spread]


def padding_mask(tokens: int, padding: tuple[int, int] | None) -> Tensor | None:
    """Hides tokens on both sides of the first sequence, but never all."""
    if padding is None:
        return None
    mask = torch.ones(2, tokens, dtype=torch.bool)
    mask[0, : min(padding[0], tokens - 1)] = False
    mask[0, tokens - min(padding[1], tokens - 1 - min(padding[0], tokens - 1)) :] = False
    return mask


def oracle(
    tensors: list[Tensor], *, causal: bool, log_space: bool, key_padding_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gives cross-entropy and divergence of each head from whole matrices, in float64 and with autograd."""
    q, k, phi_q, phi_k = (tensor.double() for tensor in tensors)
    groups, n, m = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
    k, phi_k = k.repeat_interleave(groups, 1), phi_k.repeat_interleave(groups, 1)
    seen = torch.ones(2, 1, n, m, dtype=torch.bool)
    real = torch.ones(2, 1, n, dtype=torch.bool)
    if causal:
        seen = seen.tril(m - n)
    if key_padding_mask is not None:
        seen, real = seen & key_padding_mask[:, None, None], key_padding_mask[:, None, m - n :]
    teacher = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~seen, -1e300).softmax(-1)
    if log_space:
        scores = (phi_q[..., :, None, :] + phi_k[..., None, :, :]).logsumexp(-1).masked_fill(~seen, -1e300)
        logs = scores.log_softmax(-1).clamp_min(math.log(FLOOR))
    else:
        scores = (phi_q @ phi_k.mT).masked_fill(~seen, 0.0)
        logs = (scores / (scores.sum(-1, keepdim=True) + EPS)).clamp_min(FLOOR).log()
    crossed = -(teacher * logs).sum(-1)
    entropy = -torch.xlogy(teacher, teacher).sum(-1)
    shares = real / real.sum().double()
    return (crossed * shares).sum((0, 2)), ((crossed - entropy) * shares).sum((0, 2))


def with_gradients(loss: Callable[[list[Tensor]], tuple[Tensor, Tensor]], tensors: list[Tensor]) -> list[Tensor]:
    """Gives cross-entropy, divergence and the gradients of both features, each head weighed differently."""
    leaves = [*tensors[:2], *(tensor.clone().requires_grad_() for tensor in tensors[2:])]
    cross_entropy, kl = loss(leaves)
    upstream = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=cross_entropy.dtype)
    return [cross_entropy.detach(), kl.detach(), *torch.autograd.grad(cross_entropy, leaves[2:], upstream)]


def assert_is_the_definition(
    tensors: list[Tensor], rtol: float, atol: float, *, tile: int | None = None, **options: Any
) -> None:
    def ours(leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
        loss = attention_distillation_loss(*leaves, **options, tile=tile)
        return loss.cross_entropy, loss.kl

    expected = with_gradients(lambda leaves: oracle(leaves, **options), [tensor.double() for tensor in tensors])
    for got, wanted in zip(with_gradients(ours, tensors), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("log_space", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [1, 3, 9])
def test_a_uniform_student_of_a_uniform_teacher_loses_the_log_of_the_keys_seen(
    n: int, causal: bool, log_space: bool
) -> None:
    q, k, phi_q, phi_k = features(n)
    alike = [torch.full_like(tensor, 0.7) for tensor in (phi_q, phi_k)]
    loss = attention_distillation_loss(torch.zeros_like(q), k, *alike, causal=causal, log_space=log_space)
    counts = range(1, n + 1) if causal else [n] * n
    expected = sum(math.log(count) for count in counts) / n
    assert loss.cross_entropy.tolist() == pytest.approx([expected] * 4, abs=1e-11)
    assert loss.kl.tolist() == pytest.approx([0.0] * 4, abs=1e-11)
    assert loss.rows == 2 * n


def test_a_row_known_by_hand() -> None:
    q, phi_q = torch.tensor([1.0]).view(1, 1, 1, 1), torch.tensor([1.0, 1.0]).view(1, 1, 1, 2)
    k = torch.tensor([math.log(3.0), 0.0]).view(1, 1, 2, 1)
    phi_k = torch.tensor([[1.0, 0.0], [3.0, 1.0]]).view(1, 1, 2, 2)
    loss = attention_distillation_loss(q, k, phi_q, phi_k, causal=False, scale=1.0)
    expected = -0.75 * math.log(0.2) - 0.25 * math.log(0.8)
    assert loss.cross_entropy.item() == pytest.approx(expected, rel=1e-6)
    assert loss.kl.item() == pytest.approx(expected + 0.75 * math.log(0.75) + 0.25 * math.log(0.25), rel=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_the_teachers_own_kernel_has_no_divergence_and_no_gradient(causal: bool) -> None:
    q, _, _, _ = features(50)
    choice = torch.randint(0, q.shape[-1], q.shape[:3], generator=torch.Generator().manual_seed(0))
    k = torch.nn.functional.one_hot(choice, q.shape[-1]).double()
    phi_q, phi_k = (q * 3.0).requires_grad_(), ((k - 1.0) * 1e4).requires_grad_()
    loss = attention_distillation_loss(q, k, phi_q, phi_k, causal=causal, scale=3.0, log_space=True)
    assert loss.kl.abs().max() < 1e-12
    assert loss.cross_entropy.min() > 1.0
    for gradient in torch.autograd.grad(loss.cross_entropy.sum(), (phi_q, phi_k)):
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("hk", [4, 2])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("log_space", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [1, 7, 33, 130])
def test_loss_and_gradients_are_those_of_the_definition(
    n: int, causal: bool, log_space: bool, padding: str, hk: int
) -> None:
    mask = padding_mask(n, PADDINGS[padding])
    tensors = features(n, hk, log_space=log_space)
    assert_is_the_definition(tensors, 1e-9, 1e-11, causal=causal, log_space=log_space, key_padding_mask=mask)


@pytest.mark.parametrize("padding", ["none", "both"])
@pytest.mark.parametrize("log_space", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_fewer_queries_than_keys_are_the_last_tokens(causal: bool, log_space: bool, padding: str) -> None:
    tensors = features(19, 2, 26, log_space=log_space)
    mask = padding_mask(26, PADDINGS[padding])
    assert_is_the_definition(tensors, 1e-9, 1e-11, causal=causal, log_space=log_space, key_padding_mask=mask, tile=8)


@pytest.mark.parametrize("padding", ["none", "both"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("spread", [10.0, 60.0, 200.0])
@pytest.mark.parametrize("n", [7, 130])
def test_log_features_of_hundreds_of_nats_stay_exact_in_float32(
    n: int, spread: float, causal: bool, padding: str
) -> None:
    tensors = [tensor.float() for tensor in features(n, 2, spread=spread)]
    mask = padding_mask(n, PADDINGS[padding])
    assert_is_the_definition(tensors, 1e-4, 2e-6, causal=causal, log_space=True, key_padding_mask=mask)


@pytest.mark.parametrize("spread", [1.0, 200.0])
@pytest.mark.parametrize("log_space", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tile", [1, 5, 64, 130, 500])
def test_the_tile_does_not_matter(tile: int, causal: bool, log_space: bool, spread: float) -> None:
    tensors = features(130, 2, spread=spread, log_space=log_space)
    mask = padding_mask(130, (3, 2))
    results = []
    for size in (None, tile):

        def ours(leaves: list[Tensor], size: int | None = size) -> tuple[Tensor, Tensor]:
            loss = attention_distillation_loss(
                *leaves, causal=causal, log_space=log_space, key_padding_mask=mask, tile=size
            )
            return loss.cross_entropy, loss.kl

        results.append(with_gradients(ours, tensors))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_handling_a_few_heads_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation_tiles, "CPU_TILE_ELEMENTS", 1)
    tensors = features(33, 2)
    mask = padding_mask(33, (3, 2))
    assert_is_the_definition(tensors, 1e-9, 1e-11, causal=True, log_space=True, key_padding_mask=mask, tile=16)


@pytest.mark.parametrize("spread", [1.0, 400.0])
@pytest.mark.parametrize("log_space", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_those_of_finite_differences(causal: bool, log_space: bool, spread: float) -> None:
    q, k, phi_q, phi_k = (tensor[:1, :2] for tensor in features(10, spread=0.5))
    phi_q, phi_k = phi_q[..., :3], phi_k[:, :1, :, :3] + spread * (torch.arange(10.0)[:, None] > 6) * log_space
    if not log_space:
        phi_q, phi_k = phi_q.exp(), phi_k.exp()

    def loss(phi_q: Tensor, phi_k: Tensor) -> Tensor:
        return attention_distillation_loss(
            q, k[:, :1], phi_q, phi_k, causal=causal, log_space=log_space, tile=4
        ).cross_entropy

    assert torch.autograd.gradcheck(loss, (phi_q.requires_grad_(), phi_k.requires_grad_()))


def test_a_row_of_zeros_has_the_loss_of_the_floor_and_no_gradient() -> None:
    q, k, phi_q, phi_k = features(6, log_space=False)
    phi_q = torch.zeros_like(phi_q).requires_grad_()
    phi_k.requires_grad_()
    loss = attention_distillation_loss(q, k, phi_q, phi_k, causal=True)
    assert loss.cross_entropy.tolist() == pytest.approx([-math.log(FLOOR)] * 4)
    for gradient in torch.autograd.grad(loss.cross_entropy.sum(), (phi_q, phi_k)):
        assert gradient.abs().max() == 0


@pytest.mark.parametrize("eps", [EPS, 0.0])
def test_a_single_score_of_zero_counts_as_the_floor(eps: float) -> None:
    q, k = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 2, 2)
    phi_q, phi_k = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.eye(2).view(1, 1, 2, 2)
    phi_q.requires_grad_()
    loss = attention_distillation_loss(q, k, phi_q, phi_k, causal=False, eps=eps)
    assert loss.cross_entropy.item() == pytest.approx(-0.5 * math.log(FLOOR))
    (gradient,) = torch.autograd.grad(loss.cross_entropy.sum(), phi_q)
    # The second feature only takes from the first key's share: L = -½ log(φ₁ / (φ₁ + φ₂)) + a constant.
    assert gradient.flatten().tolist() == pytest.approx([0.0, 0.5])


@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_the_future_does_not_move_earlier_queries(spread: float) -> None:
    gradients = []
    tensors = features(40, 2, spread=spread)
    for future in (0.0, 3.0):
        for tensor in tensors:
            tensor[:, :, 25:] += future
        leaves = [*tensors[:2], *(tensor.clone().requires_grad_() for tensor in tensors[2:])]
        loss = attention_distillation_loss(*leaves, causal=True, log_space=True, tile=16)
        gradients.append(torch.autograd.grad(loss.cross_entropy.sum(), leaves[2])[0])
    torch.testing.assert_close(gradients[0][:, :, :25], gradients[1][:, :, :25], rtol=1e-9, atol=1e-11)
    assert (gradients[0] - gradients[1])[:, :, 25:].abs().max() > 1e-3


@pytest.mark.parametrize("log_space", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_what_stands_in_padding_changes_nothing(causal: bool, log_space: bool) -> None:
    tensors = [tensor[:1] for tensor in features(11, 2, log_space=log_space)]
    padded = [torch.nn.functional.pad(tensor, (0, 0, 2, 3), value=math.nan) for tensor in tensors]
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[:, 2:13] = True
    results: list[tuple[DistillationLoss, tuple[Tensor, ...]]] = []
    for inputs, seen in ((tensors, None), (padded, mask)):
        leaves = [*inputs[:2], *(tensor.requires_grad_() for tensor in inputs[2:])]
        loss = attention_distillation_loss(*leaves, causal=causal, log_space=log_space, key_padding_mask=seen)
        results.append((loss, torch.autograd.grad(loss.cross_entropy.sum(), leaves[2:])))
    (loss, gradients), (padded_loss, padded_gradients) = results
    torch.testing.assert_close(padded_loss.cross_entropy, loss.cross_entropy)
    torch.testing.assert_close(padded_loss.kl, loss.kl)
    assert loss.rows == padded_loss.rows == 11
    for gradient, expected in zip(padded_gradients, gradients, strict=True):
        torch.testing.assert_close(gradient[:, :, 2:13], expected)
        assert gradient[:, :, :2].abs().max() == gradient[:, :, 13:].abs().max() == 0


def test_nothing_but_padding_is_a_loss_of_zero_over_no_rows() -> None:
    tensors = features(5)
    for tensor in tensors[2:]:
        tensor.requires_grad_()
    mask = torch.zeros(2, 5, dtype=torch.bool)
    loss = attention_distillation_loss(*tensors, causal=True, log_space=True, key_padding_mask=mask)
    assert loss.rows == 0
    assert loss.cross_entropy.abs().max() == 0
    assert all(not grad.any() for grad in torch.autograd.grad(loss.cross_entropy.sum(), tensors[2:]))


def test_only_the_student_gets_a_gradient_and_only_of_the_cross_entropy() -> None:
    tensors = [tensor.requires_grad_() for tensor in features(8)]
    loss = attention_distillation_loss(*tensors, causal=True, log_space=True)
    assert not loss.kl.requires_grad
    loss.cross_entropy.mean().backward()  # type: ignore[no-untyped-call]
    assert [tensor.grad is None for tensor in tensors] == [True, True, False, False]
    unlearning = attention_distillation_loss(*tensors[:2], *(tensor.detach() for tensor in tensors[2:]), causal=True)
    assert not unlearning.cross_entropy.requires_grad


def test_without_gradients_the_loss_is_the_same_and_nothing_is_computed_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = features(40)
    for tensor in tensors[2:]:
        tensor.requires_grad_()
    expected = attention_distillation_loss(*tensors, causal=True, log_space=True)
    monkeypatch.delattr(DistillationCall, "zero_gradients")
    with torch.no_grad():
        loss = attention_distillation_loss(*tensors, causal=True, log_space=True)
    assert torch.equal(loss.cross_entropy, expected.cross_entropy)


def test_half_precision_is_summed_in_float32_also_under_autocast() -> None:
    tensors = [tensor.bfloat16() for tensor in features(33)]
    assert_is_the_definition(tensors, 1e-2, 1e-5, causal=True, log_space=True)
    exact = attention_distillation_loss(*(tensor.float() for tensor in tensors), causal=True, log_space=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = attention_distillation_loss(*tensors, causal=True, log_space=True)
    assert loss.cross_entropy.dtype == torch.float32
    assert torch.equal(loss.cross_entropy, exact.cross_entropy)
    q, k, phi_q, phi_k = tensors
    loss = attention_distillation_loss(q, k, phi_q.requires_grad_(), phi_k, causal=True, log_space=True)
    assert torch.autograd.grad(loss.cross_entropy.sum(), phi_q)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("spread", [1.0, 200.0])
@pytest.mark.parametrize("causal", [True, False])
def test_it_never_holds_a_score_for_every_pair(causal: bool, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, phi_q, phi_k = (tensor[:1, :1].float() for tensor in features(2048, spread=spread))
    largest = 0

    class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.untyped_storage().nbytes() // out.element_size())
            return out

    # Inside an operator nothing would be seen.
    monkeypatch.setattr(distillation, "distillation", distillation_op.run_distillation)
    phi_q.requires_grad_()
    with Largest():  # type: ignore[no-untyped-call]
        loss = attention_distillation_loss(q, k, phi_q, phi_k, causal=causal, log_space=True, tile=128)
        loss.cross_entropy.sum().backward()  # type: ignore[no-untyped-call]
    assert 128 * 1024 < largest <= 128 * 2048


def test_errors_name_what_was_given() -> None:
    q, k, phi_q, phi_k = features(5)
    with pytest.raises(ValueError, match="3 kv heads do not divide 4"):
        attention_distillation_loss(q, k[:, :3], phi_q, phi_k[:, :3], causal=True)
    # The shapes checked in tests would speak first.
    unchecked = inspect.unwrap(attention_distillation_loss)
    with pytest.raises(ValueError, match=r"keys of the same.*\[2, 2, 5\] and \[2, 4, 5\]"):
        unchecked(q, k[:, :2], phi_q, phi_k, causal=True)
    with pytest.raises(ValueError, match="5 queries and 3 keys"):
        attention_distillation_loss(q, k[:, :, :3], phi_q, phi_k[:, :, :3], causal=True)
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="covers 3 keys and cannot say which of 5 queries"):
        attention_distillation_loss(q, k[:, :, :3], phi_q, phi_k[:, :, :3], causal=False, key_padding_mask=mask)
    with pytest.raises(ValueError, match="got 0"):
        attention_distillation_loss(q, k, phi_q, phi_k, causal=True, tile=0)
