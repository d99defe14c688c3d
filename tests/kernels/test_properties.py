"""Properties that every attention kernel keeps, whatever the sizes: one call is drawn, changed, and compared."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from .property_calls import GARBAGE, IN_LOG_SPACE, MECHANISMS, Call, calls, repeatable, seen_rows

every_mechanism = pytest.mark.parametrize("name", MECHANISMS)


def assert_same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def gradients(name: str, call: Call) -> list[Tensor]:
    """Gives the gradients of everything that has one, under a fixed cotangent."""
    leaves = [x.detach().clone().requires_grad_() for x in call[:6]]
    output = MECHANISMS[name](call.with_tensors(leaves))
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=output.dtype)
    return list(torch.autograd.grad(output, leaves, cotangent, allow_unused=True, materialize_grads=True))


@every_mechanism
@repeatable
@given(call=calls(), data=st.data())
def test_the_future_does_not_change_one_bit_of_the_past(name: str, call: Call, data: st.DataObject) -> None:
    """Single precision too, in which the torch forms promise it as well."""
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    cut = data.draw(st.integers(0, call.q.shape[2] - 1))
    call = call.with_tensors(x.to(dtype) for x in call[:6])
    changed = call._replace(k=call.k.clone(), v=call.v.clone(), q=call.q.clone())
    changed.q[:, :, cut:] *= -1.0
    changed.k[:, :, cut:] = changed.k[:, :, cut:] * 1.5 + 60.0
    changed.v[:, :, cut:] -= 5.0
    before, after = MECHANISMS[name](call), MECHANISMS[name](changed)
    assert torch.equal(after[:, :, :cut], before[:, :, :cut])
    assert after.isfinite().all()


@every_mechanism
@repeatable
@given(call=calls(masked=False), left=st.integers(0, 3), right=st.integers(0, 3), garbage=st.sampled_from(GARBAGE))
def test_garbage_in_padding_changes_no_real_row(name: str, call: Call, left: int, right: int, garbage: float) -> None:
    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0, left, right), value=garbage)

    tokens = call.q.shape[2]
    mask = torch.zeros(call.q.shape[0], left + tokens + right, dtype=torch.bool)
    mask[:, left : left + tokens] = True
    q, k, v = (padded(x) for x in call[:3])
    output = MECHANISMS[name](call._replace(q=q, k=k, v=v, mask=mask))
    assert_same(output[:, :, left : left + tokens], MECHANISMS[name](call))


@every_mechanism
@repeatable
@given(call=calls(masked=True))
def test_padded_keys_and_values_get_no_gradient(name: str, call: Call) -> None:
    assert call.mask is not None
    found = gradients(name, call)
    for gradient in found[1:3]:
        assert not gradient.transpose(1, 2)[~call.mask].any()
    assert all(gradient.isfinite().all() for gradient in found)


@every_mechanism
@repeatable
@given(call=calls())
def test_values_of_one_give_one_and_rows_without_keys_zero(name: str, call: Call) -> None:
    """Outside log space a row sum near eps would be less than one: there logits stay small."""
    if name not in IN_LOG_SPACE:
        call = call._replace(q=call.q.clamp(-0.5, 0.5), k=call.k.clamp(-0.5, 0.5))
    output = MECHANISMS[name](call._replace(v=torch.ones_like(call.v))).transpose(1, 2)
    seen = seen_rows(call)
    torch.testing.assert_close(output[seen], torch.ones_like(output[seen]), rtol=0, atol=1e-7)
    assert not output[~seen].any()


@every_mechanism
@repeatable
@given(call=calls())
def test_two_calls_give_the_same_bits(name: str, call: Call) -> None:
    assert torch.equal(MECHANISMS[name](call), MECHANISMS[name](call))
    for one, other in zip(gradients(name, call), gradients(name, call), strict=True):
        assert torch.equal(one, other)


@every_mechanism
@repeatable
@given(call=calls())
def test_strided_inputs_are_read_as_they_stand(name: str, call: Call) -> None:
    """Tokens before heads in memory, as projections leave them; values as every second column of a wider tensor."""
    q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in call[:2])
    v = call.v.repeat_interleave(2, dim=-1)[..., ::2]
    assert_same(MECHANISMS[name](call._replace(q=q, k=k, v=v)), MECHANISMS[name](call))


@every_mechanism
@repeatable
@given(call=calls())
def test_grouped_queries_are_repeated_keys_and_values(name: str, call: Call) -> None:
    groups = call.q.shape[1] // call.k.shape[1]
    repeated = call._replace(
        k=call.k.repeat_interleave(groups, 1),
        v=call.v.repeat_interleave(groups, 1),
        k_weight=call.k_weight.repeat_interleave(groups, 0),
    )
    assert_same(MECHANISMS[name](repeated), MECHANISMS[name](call))


@every_mechanism
@repeatable
@given(call=calls(batch=3))
def test_an_entry_of_a_batch_is_that_entry_alone(name: str, call: Call) -> None:
    alone = []
    for entry in range(call.q.shape[0]):
        q, k, v = (x[entry : entry + 1] for x in call[:3])
        mask = None if call.mask is None else call.mask[entry : entry + 1]
        alone.append(MECHANISMS[name](call._replace(q=q, k=k, v=v, mask=mask)))
    assert_same(MECHANISMS[name](call), torch.cat(alone))
