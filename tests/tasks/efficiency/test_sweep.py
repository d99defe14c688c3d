"""Tests of tasks/efficiency/sweep.py."""

from __future__ import annotations

from typing import Any

import pytest

from hedgebench.tasks.efficiency.sweep import SweepSettings


def test_impossible_sweeps_are_refused() -> None:
    with pytest.raises(ValueError, match="seq_lens is \\(\\)"):
        SweepSettings(seq_lens=(), modes="prefill").check(("prefill",))
    with pytest.raises(ValueError, match="modes holds 'decod'; join any of prefill, decode"):
        SweepSettings(seq_lens=(1,), modes="prefill+decod").check(("prefill", "decode"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 1000}, "tokens is 1000; it must be a multiple of every length, and is not of 256"),
        ({"batch_sizes": (1, 0)}, "batch_sizes is \\(1, 0\\)"),
        ({"layer_heads": -1}, "layer_heads is -1"),
        ({"point_timeout_s": 0.0}, "point_timeout_s is 0"),
        ({"largest_batch": "prefil"}, "modes holds 'prefil'"),
    ],
)
def test_numbers_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepSettings(seq_lens=(256, 512), modes="prefill", **settings).check(("prefill",))


def test_a_constant_number_of_tokens_makes_batches_smaller_as_lengths_grow() -> None:
    settings = SweepSettings(seq_lens=(256, 512, 1024), tokens=2048)
    (batch_of,) = settings.batches()
    assert [batch_of(length) for length in settings.seq_lens] == [8, 4, 2]
    row = {"seq_len": 512, "batch_size": 4, "role": "sweep"}
    assert settings.at(row) == {"seq_len": 512, "tokens_per_step": 2048}


def test_each_batch_size_is_a_sweep_of_its_own() -> None:
    assert [batch_of(256) for batch_of in SweepSettings(batch_sizes=(1, 8)).batches()] == [1, 8]
    assert [batch_of(256) for batch_of in SweepSettings(batch_size=3).batches()] == [3]


def test_a_layer_of_other_heads_has_as_many_keys_unless_told_otherwise() -> None:
    assert SweepSettings(layer_heads=32, layer_head_dim=128).layer_sizes() == {
        "heads": 32,
        "kv_heads": 32,
        "head_dim": 128,
    }
    assert SweepSettings(layer_heads=32, layer_kv_heads=8).layer_sizes() == {"heads": 32, "kv_heads": 8}
    assert SweepSettings().layer_sizes() == {}
