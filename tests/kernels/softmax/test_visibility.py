import pytest
import torch
from torch import Tensor

from hedgebench.kernels.softmax.attention import visible_keys


def tokens(queries: int, keys: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    return torch.zeros(batch, 1, queries, 4), torch.zeros(batch, 1, keys, 4)


def test_queries_are_the_last_of_the_keys_tokens() -> None:
    assert visible_keys(*tokens(2, 4), causal=True)[0, 0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_a_window_counts_the_querys_own_token() -> None:
    assert visible_keys(*tokens(3, 3), causal=True, window=2)[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]


def test_padding_is_seen_by_nobody() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    assert visible_keys(*tokens(1, 2, batch=2), causal=False, key_padding_mask=mask).squeeze().int().tolist() == [
        [1, 0],
        [1, 1],
    ]


@pytest.mark.parametrize(("window", "causal"), [(0, True), (2, False)])
def test_a_window_that_cannot_be_is_an_error(window: int, causal: bool) -> None:
    with pytest.raises(ValueError, match=f"window={window}"):
        visible_keys(*tokens(2, 2), causal=causal, window=window)
