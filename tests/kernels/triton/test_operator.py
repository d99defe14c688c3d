"""The fields of a call are the parameters of its operators, and come back as they went in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hedgebench.kernels.distillation.call import DistillationCall
from hedgebench.kernels.distillation.op import distillation
from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.op import fused_backward, fused_decode, fused_decode_, fused_forward
from hedgebench.kernels.hybrid.call import HybridCall
from hedgebench.kernels.hybrid.op import fused_hybrid, fused_hybrid_backward
from hedgebench.kernels.triton.operator import Arguments

RESULTS = {
    fused_backward: ("grad", "grad_kv", "grad_k", "output", "norms", "scale", "sums", "key_sums", "peaks"),
    fused_hybrid_backward: ("grad", "output", "norms", "shifts", "peaks"),
}
"""What gradients take before the call."""


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        *((operator, Call) for operator in (fused_forward, fused_backward, fused_decode, fused_decode_)),
        *((operator, HybridCall) for operator in (fused_hybrid, fused_hybrid_backward)),
        (distillation, DistillationCall),
    ],
)
def test_an_operator_takes_the_fields_of_its_call_in_their_order(operator: Any, value: type[Arguments]) -> None:
    names = tuple(argument.name for argument in operator._opoverload._schema.arguments)
    assert names == (*RESULTS.get(operator, ()), *value.__match_args__)
    assert set(value.DIFFERENTIABLE) <= set(value.__match_args__)


def test_a_call_comes_back_from_its_arguments() -> None:
    q = torch.ones(1, 2, 3, 4)
    call = Call(q, q, q, mask=torch.ones(1, 3, dtype=torch.bool), feature_map="exp", eps=0.5, form="chunk")
    again = Call(*call.flatten())
    assert all(one is other for one, other in zip(call.flatten(), again.flatten(), strict=True))
    assert list(call.differentiable()) == ["q", "k", "v"]


def test_gradients_take_the_places_of_their_tensors() -> None:
    q = torch.ones(1, 2, 3, 4)
    call = Call(q, q, q, initial_kv=torch.ones(1, 2, 4, 4), initial_k=torch.ones(1, 2, 4))
    gradients = [torch.full((), float(index)) for index in range(5)]
    placed = dict(zip(call.__match_args__, call.in_order(call.flatten(), gradients), strict=True))
    given = {name: float(x) for name, x in placed.items() if x is not None}
    assert given == {"q": 0.0, "k": 1.0, "v": 2.0, "initial_kv": 3.0, "initial_k": 4.0}
