import pytest
import torch

from hedgebench.kernels.state import EMPTY_LOG, accumulator_dtype, empty_state


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_sums_are_held_in_float32_at_least(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert accumulator_dtype(torch.ones(1, dtype=dtype), torch.ones(1)) == expected


def test_an_empty_state_has_seen_nothing() -> None:
    state = empty_state(torch.ones(2, 3, 7, 5), torch.ones(2, 3, 7, 4), log_space=True)
    assert state.kv.shape == (2, 3, 5, 4)
    assert float(state.kv.abs().sum() + state.k.abs().sum()) == 0
    assert state.log_scale is not None
    assert (state.log_scale == EMPTY_LOG).all()


def test_a_state_of_64_by_128_takes_32_kib_and_its_normaliser() -> None:
    state = empty_state(torch.ones(1, 1, 1, 128), torch.ones(1, 1, 1, 64))
    assert state.kv.numel() * state.kv.element_size() == 32 * 1024
    assert state.bytes == 32 * 1024 + 128 * 4
