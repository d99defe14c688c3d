"""Contenders are held to the naive form: the same function passes, another one does not."""

from __future__ import annotations

import pytest
import torch

from hedgebench.tasks.kernel_speed.agreement import DisagreementError, relative_error
from hedgebench.tasks.kernel_speed.contenders import make_inputs
from hedgebench.tasks.kernel_speed.shapes import KernelShape
from hedgebench.tasks.kernel_speed.workloads import WORKLOADS

SHAPE, CPU = KernelShape(2, 300, 3, 16), torch.device("cpu")
CHECKED = [
    (work, name, call)
    for work, call in (("forward", "forward"), ("backward", "forward_backward"), ("backward", "backward"))
    for name in ("hedgehog", "hedgehog-exp", "softmax-flash", "softmax-naive")
]


@pytest.mark.parametrize(("work", "name", "call"), CHECKED)
def test_each_contender_agrees_with_the_naive_form(work: str, name: str, call: str) -> None:
    result, _ = WORKLOADS[work][name](SHAPE, CPU, torch.float32)[call]()
    error = relative_error(name, call, result, SHAPE, torch.float32)
    assert error is not None
    assert 0 < error < 1e-4


@pytest.mark.parametrize(("work", "call"), [("forward", "forward"), ("backward", "backward")])
def test_another_function_is_refused(work: str, call: str) -> None:
    result, _ = WORKLOADS[work]["softmax-naive"](SHAPE, CPU, torch.float32)[call]()
    with pytest.raises(DisagreementError, match=f"{call} is off by"):
        relative_error("hedgehog", call, result, SHAPE, torch.float32)


def test_what_is_not_a_number_is_refused() -> None:
    output = torch.full_like(make_inputs(SHAPE, CPU, torch.float32).q, torch.nan)
    with pytest.raises(DisagreementError):
        relative_error("hedgehog", "forward", output, SHAPE, torch.float32)


def test_decoding_and_losses_are_not_compared() -> None:
    assert relative_error("hedgehog", "decode", None, SHAPE, torch.float32) is None
