"""What equal calls share, and what tells calls apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hedgebench.kernels.fused.call import Call
from hedgebench.kernels.fused.checks import check_call
from hedgebench.kernels.triton.tiles import Tiles


def call(tokens: int = 5, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Call:
    x = torch.ones(1, 2, tokens, 4, dtype=dtype, device=device)
    return Call(x, x, x)


def test_calls_share_results_if_options_shapes_types_and_devices_are_equal() -> None:
    one, equal = call(), call()
    assert one.results is not None
    assert one.results is equal.results
    assert one.constants is equal.constants


@pytest.mark.parametrize(
    "other",
    [
        call(tokens=6),
        call(dtype=torch.float16),
        call(device="meta"),
        replace(call(), eps=0.5),
        replace(call(), form="chunk"),
        replace(call(), tiles=Tiles(16, 16, 16, 4, 4, 1)),
        replace(call(), mask=torch.ones(1, 5, dtype=torch.bool)),
        replace(call(), initial_kv=torch.ones(1, 2, 4, 4), initial_k=torch.ones(1, 2, 4)),
    ],
    ids=["tokens", "type", "device", "eps", "form", "tiles", "mask", "state"],
)
def test_calls_that_differ_share_nothing(other: Call) -> None:
    assert other.results is not call().results


def test_a_call_is_refused_each_time() -> None:
    wrong = replace(call(), v=torch.ones(1, 2, 4, 4))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"v must be \[1, 2, 5, 4\]"):
            check_call(wrong)


def test_ends_on_the_host_are_copied_without_waiting_for_the_device() -> None:
    """torch waits for a copy from ordinary memory unless it is told not to."""
    copies: list[bool] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default:
                copies.append(kwargs.get("non_blocking", False))
            return func(*args, **(kwargs or {}))

    packed = replace(call(device="meta"), cu_seqlens=torch.tensor([0, 2, 5]))
    with Watch():  # type: ignore[no-untyped-call]
        assert packed.shared["ends"].device.type == "meta"
    assert copies == [True]
