from __future__ import annotations

import pytest
import torch

from hedgebench.adapters.attention.kv_cache import KVCache


def draw(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 2, 3, tokens, 4, generator=generator)
    return keys, values, torch.rand(2, tokens, generator=generator) < 0.7


def test_an_empty_cache_holds_nothing() -> None:
    cache = KVCache.empty(torch.ones(2, 3, 5, 4))
    assert cache.keys.shape == cache.values.shape == (2, 3, 0, 4)
    assert cache.mask is None
    assert cache.bytes == 0


@pytest.mark.parametrize("steps", [[1] * 13, [5, 1, 7], [13], [1, 12]])
def test_many_small_steps_equal_one_big_one(steps: list[int]) -> None:
    keys, values, mask = draw(13)
    cache, start = KVCache.empty(keys), 0
    for step in steps:
        part = slice(start, start + step)
        cache = cache.append(keys[:, :, part], values[:, :, part], mask[:, part])
        start += step
    assert cache.length == 13
    assert cache.mask is not None
    assert torch.equal(cache.keys, keys)
    assert torch.equal(cache.values, values)
    assert torch.equal(cache.mask, mask)


def test_bytes_count_keys_and_values_seen_and_not_spare_room() -> None:
    keys, values, _ = draw(5)
    cache = KVCache.empty(keys).append(keys[:, :, :4], values[:, :, :4]).append(keys[:, :, 4:], values[:, :, 4:])
    assert cache.key_buffer.shape[2] == 8
    assert cache.bytes == 2 * (2 * 3 * 5 * 4) * 4
    half = KVCache.empty(keys.bfloat16()).append(keys.bfloat16(), values.bfloat16())
    assert half.bytes == cache.bytes // 2


def test_tokens_without_a_mask_are_real_before_and_after_those_with_one() -> None:
    keys, values, mask = draw(3)
    bare = KVCache.empty(keys).append(keys, values)
    assert bare.mask is None
    mixed = bare.append(keys, values, mask).append(keys, values)
    ones = torch.ones(2, 3, dtype=torch.bool)
    assert mixed.mask is not None
    assert torch.equal(mixed.mask, torch.cat([ones, mask, ones], dim=1))


def test_the_last_tokens_are_kept_and_the_buffers_stay_bounded() -> None:
    keys, values, mask = draw(40)
    cache = KVCache.empty(keys)
    for t in range(40):
        cache = cache.append(keys[:, :, t : t + 1], values[:, :, t : t + 1], mask[:, t : t + 1]).last(4)
        held = cache.length
        assert min(t + 1, 4) <= held < 8
        assert cache.key_buffer.shape[2] <= 8
        assert cache.mask is not None
        assert torch.equal(cache.keys, keys[:, :, t + 1 - held : t + 1])
        assert torch.equal(cache.values, values[:, :, t + 1 - held : t + 1])
        assert torch.equal(cache.mask, mask[:, t + 1 - held : t + 1])


def test_a_long_prompt_is_cut_at_once_and_its_memory_let_go() -> None:
    keys, values, _ = draw(40)
    cache = KVCache.empty(keys).append(keys, values).last(4)
    assert cache.length == cache.key_buffer.shape[2] == 4
    assert cache.key_buffer.untyped_storage().nbytes() == 2 * 3 * 4 * 4 * 4
    assert cache.mask is None
