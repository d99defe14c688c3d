"""Tests of harness/memory/need.py: estimates beside what cells held, and what they grow with."""

from __future__ import annotations

from dataclasses import replace

from hedgebench.harness.config import RunConfig
from hedgebench.harness.memory.need import LIBRARY_BYTES, READER_BYTES, memory_need
from hedgebench.harness.plan import make_plan
from hedgebench.results.store import RunStore


def need(task: str, model: str = "softmax", **overrides: str) -> int | None:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    (planned,) = make_plan(RunConfig(models=(model,), tasks=(task,), scale="small", overrides=named))
    return memory_need(planned)


def counted(task: str, model: str = "softmax", **overrides: str) -> int:
    """The estimate without the libraries, for data that no library reads."""
    found = need(task, model, **overrides)
    assert found is not None
    return found - LIBRARY_BYTES


def test_estimates_are_off_by_a_factor_of_two_at_most(finished: RunStore) -> None:
    records = finished.records().records
    assert len(records) == 2
    for record in records:
        estimate, peak = (record.environment[f"memory_{name}_bytes"] for name in ("need", "peak"))
        assert isinstance(estimate, int)
        assert isinstance(peak, int)
        assert 0.5 < estimate / peak < 2


def test_activations_grow_with_the_batch_and_its_parts_share_the_memory() -> None:
    once, twice, thrice = (counted("stdlib", train__batch_size=size) for size in ("64", "128", "192"))
    assert thrice - twice == twice - once > 64 * 2**20
    assert counted("stdlib", train__batch_size="128", train__accumulate="2") == once


def test_weights_count_with_their_gradients_moments_and_best_copy() -> None:
    size = {"train__batch_size": "1", "backbone__width": "256", "backbone__mlp_width": "1024"}
    one, two = (counted("mqar", backbone__layers=layers, **size) for layers in ("8", "16"))
    weights = 4 * 8 * 12 * 256**2
    assert 5 * weights < two - one < 6 * weights


def test_generated_tasks_are_counted_at_their_longest_sequence() -> None:
    assert counted("mqar", task__test_lengths="32,64,64,128") > counted("mqar")


def test_data_that_a_library_reads_take_its_memory() -> None:
    assert counted("digits") > READER_BYTES > counted("mqar")


def test_each_process_that_shares_a_training_counts() -> None:
    planned = [
        make_plan(RunConfig(models=("softmax",), tasks=("stdlib",), scale="small", recipe=recipe))[0]
        for recipe in ("scratch", "zero-shot")
    ]
    assert [memory_need(each, 3) for each in planned] == [3 * (memory_need(planned[0]) or 0), memory_need(planned[1])]


def test_what_cannot_be_known_is_not_estimated() -> None:
    assert need("throughput") is None
    (planned,) = make_plan(RunConfig(models=("softmax",), tasks=("stdlib",), scale="small"))
    assert memory_need(replace(planned, cell=replace(planned.cell, device="cuda"))) is None
