"""Every form of linear attention against the naive one: outputs and gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgebench.kernels.chunk.attention import linear_attention_chunk, linear_attention_recurrent
from hedgebench.kernels.linear.naive import linear_attention_naive

Draw = Callable[..., tuple[Tensor, Tensor, Tensor]]


FORMS: dict[str, Callable[..., tuple[Tensor, Any]]] = {
    "recurrent": linear_attention_recurrent,
    "chunk_5": partial(linear_attention_chunk, chunk_size=5),
    "chunk_8": partial(linear_attention_chunk, chunk_size=8),
    "chunk_64": partial(linear_attention_chunk, chunk_size=64),
}

CASES: dict[str, dict[str, int]] = {
    "square": {"f": 3, "dv": 3},
    "odd": {"n": 17, "f": 5, "dv": 2},
    "grouped": {"h": 4, "hk": 2, "n": 11},
    "one_kv_head": {"h": 3, "hk": 1, "n": 6, "m": 13},
    "one_token": {"n": 1},
}


def padding(b: int, m: int) -> Tensor:
    mask = torch.rand(b, m, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[0, : m // 2] = False
    mask[-1] = torch.arange(m) < max(1, m - 3)
    return mask


def outputs_and_gradients(attention: Callable[..., Any], tensors: tuple[Tensor, ...], **options: Any) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = attention(*leaves, **options)
    output = output[0] if isinstance(output, tuple) else output
    cotangent = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(2))
    return [output, *torch.autograd.grad(output, leaves, cotangent)]


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(got[0], expected[0], rtol=1e-12, atol=1e-12)
    for gradient, reference in zip(got[1:], expected[1:], strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-12 + 1e-9 * float(reference.abs().max()))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", FORMS)
def test_form_matches_naive_in_log_space(qkv: Draw, form: str, case: str, causal: bool, masked: bool) -> None:
    for spread in (1.0, 200.0):
        tensors = qkv(**CASES[case], spread=spread)
        options: dict[str, Any] = {"causal": causal, "log_space": True}
        options["key_padding_mask"] = padding(2, tensors[1].shape[2]) if masked else None
        expected = outputs_and_gradients(linear_attention_naive, tensors, **options)
        assert_same(outputs_and_gradients(FORMS[form], tensors, **options), expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", FORMS)
def test_form_matches_naive_on_plain_features(qkv: Draw, form: str, case: str, causal: bool, masked: bool) -> None:
    q, k, v = qkv(**CASES[case])
    options: dict[str, Any] = {"causal": causal, "key_padding_mask": padding(2, k.shape[2]) if masked else None}
    tensors = (q.exp(), k.exp(), v)
    expected = outputs_and_gradients(linear_attention_naive, tensors, **options)
    assert_same(outputs_and_gradients(FORMS[form], tensors, **options), expected)


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_form_matches_naive_without_the_normaliser(qkv: Draw, form: str, causal: bool, log_space: bool) -> None:
    tensors = qkv(h=4, hk=2)
    options: dict[str, Any] = {
        "causal": causal,
        "log_space": log_space,
        "normalize": False,
        "key_padding_mask": padding(2, 13),
    }
    expected = outputs_and_gradients(linear_attention_naive, tensors, **options)
    assert_same(outputs_and_gradients(FORMS[form], tensors, **options), expected)


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("form", ["recurrent", "chunk_5"])
def test_gradients_through_a_carried_state_match_the_whole(qkv: Draw, form: str, log_space: bool) -> None:
    def in_two_parts(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        first, state = FORMS[form](q[:, :, :6], k[:, :, :6], v[:, :, :6], **options)
        second, _ = FORMS[form](q[:, :, 6:], k[:, :, 6:], v[:, :, 6:], initial_state=state, **options)
        return torch.cat([first, second], dim=2)

    q, k, v = qkv(h=4, hk=2, spread=20.0 if log_space else 1.0)
    tensors = (q, k, v) if log_space else (q.exp(), k.exp(), v)
    options: dict[str, Any] = {"causal": True, "log_space": log_space}
    expected = outputs_and_gradients(linear_attention_naive, tensors, **options)
    assert_same(outputs_and_gradients(in_two_parts, tensors, **options), expected)


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", ["recurrent", "chunk_5"])
def test_gradcheck(qkv: Draw, form: str, causal: bool, log_space: bool) -> None:
    q, k, v = qkv(b=1, h=2, hk=1, n=7, f=2, dv=2, spread=2.0 if log_space else 1.0)
    tensors = (q, k, v) if log_space else (q.exp(), k.exp(), v)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def attention(*leaves: Tensor) -> Tensor:
        return FORMS[form](*leaves, causal=causal, log_space=log_space)[0]

    assert torch.autograd.gradcheck(attention, leaves)


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", ["naive", *FORMS])
def test_rows_without_keys_are_zero_with_finite_gradients(qkv: Draw, form: str, causal: bool, log_space: bool) -> None:
    tensors = qkv(dtype=torch.float32)
    mask = torch.zeros(2, 13, dtype=torch.bool)
    mask[1, 6:] = True
    attention = FORMS.get(form, linear_attention_naive)
    got = outputs_and_gradients(
        attention, tensors, causal=causal, log_space=log_space, key_padding_mask=mask, normalize=log_space
    )
    assert got[0][0].abs().max() == 0
    assert not causal or got[0][1, :, :6].abs().max() == 0
    assert got[0][1, :, 6:].abs().min() > 0
    assert all(tensor.isfinite().all() for tensor in got)


@pytest.mark.parametrize("form", ["naive", *FORMS])
def test_features_that_are_all_zero_give_zero_with_finite_gradients(qkv: Draw, form: str) -> None:
    q, k, v = qkv(dtype=torch.float32)
    got = outputs_and_gradients(FORMS.get(form, linear_attention_naive), (q.relu() * 0, k.relu(), v), causal=True)
    assert got[0].abs().max() == 0
    assert all(tensor.isfinite().all() for tensor in got)


@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("form", ["naive", *FORMS])
def test_constant_values_come_out_as_they_went_in(qkv: Draw, form: str, log_space: bool) -> None:
    q, k, v = qkv(n=40, dtype=torch.float32)
    tensors = (q, k, torch.ones_like(v)) if log_space else (q.exp(), k.exp(), torch.ones_like(v))
    output = FORMS.get(form, linear_attention_naive)(*tensors, causal=True, log_space=log_space)
    output = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(output, torch.ones_like(output), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("log_space", [False, True])
@pytest.mark.parametrize("form", ["naive", *FORMS])
def test_half_precision_is_summed_in_float32(qkv: Draw, form: str, log_space: bool, dtype: torch.dtype) -> None:
    q, k, v = (tensor.to(dtype) for tensor in qkv(n=300, f=8, dv=4))
    tensors = (q, k, v) if log_space else (q.exp(), k.exp(), v)
    output = FORMS.get(form, linear_attention_naive)(*tensors, causal=True, log_space=log_space)
    output = output[0] if isinstance(output, tuple) else output
    doubles = tuple(tensor.double() for tensor in tensors)
    expected = linear_attention_naive(*doubles, causal=True, log_space=log_space)
    assert output.dtype == dtype
    torch.testing.assert_close(output, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_padding_with_nonsense_changes_nothing(qkv: Draw, form: str) -> None:
    q, k, v = qkv(n=9)
    expected = FORMS[form](q, k, v, causal=True, log_space=True)[0]
    mask = torch.zeros(2, 14, dtype=torch.bool)
    mask[:, 3:12] = True
    padded = []
    for tensor in (q, k, v):
        wide = torch.full((2, 4, 14, tensor.shape[-1]), torch.nan, dtype=torch.float64)
        wide[:, :, 3:12] = tensor
        padded.append(wide)
    padded[0] = padded[0].nan_to_num()
    output = FORMS[form](*padded, causal=True, log_space=True, key_padding_mask=mask)[0]
    torch.testing.assert_close(output[:, :, 3:12], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_strided_inputs_are_read_as_they_stand(qkv: Draw, form: str) -> None:
    q, k, v = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in qkv(h=4, hk=2))
    output = FORMS[form](q, k, v, causal=True, log_space=True)[0]
    expected = FORMS[form](q.contiguous(), k.contiguous(), v.contiguous(), causal=True, log_space=True)[0]
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
