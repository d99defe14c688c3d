"""A training that was interrupted, or whose checkpoints are damaged or refused, gives the numbers of a whole one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.training.loop import History, train

from .tiny_trainings import CPU, Build, Interrupted, examples, interrupt_after, same, settings_of, weights_of


@pytest.mark.parametrize(
    ("spec", "dropout", "stops"),
    [
        ("softmax", 0.0, [1]),
        ("softmax", 0.3, [5]),
        ("hedgehog", 0.0, [5]),
        ("hedgehog", 0.3, [3, 7, 12]),
        ("t2r", 0.3, [2, 3]),
    ],
)
def test_a_resumed_run_equals_one_that_was_never_interrupted_to_the_bit(
    build: Build, tmp_path: Path, spec: str, dropout: float, stops: list[int]
) -> None:
    data, validation, checkpoint = examples(padded=True), examples(5, seed=1), tmp_path / "deep" / "run.pt"
    whole = build(spec, dropout=dropout)
    expected = train(whole.model, data, validation, settings_of(lr=0.05), seed=3, precision=CPU)
    for stop in stops:
        torch.manual_seed(99)
        with pytest.raises(Interrupted):
            resume(build(spec, dropout=dropout, seed=stop if checkpoint.exists() else 0), checkpoint, stop)
    resumed = build(spec, dropout=dropout, seed=50 if checkpoint.exists() else 0)
    torch.manual_seed(98)
    history = train(resumed.model, data, validation, settings_of(lr=0.05), seed=3, precision=CPU, checkpoint=checkpoint)
    assert history == expected
    assert same(weights_of(resumed), weights_of(whole))


def resume(adapter: ModelAdapter[Transformer], checkpoint: Path, stop: int) -> History:
    return train(
        adapter.model,
        examples(padded=True),
        examples(5, seed=1),
        settings_of(lr=0.05),
        seed=3,
        precision=CPU,
        checkpoint=checkpoint,
        progress=interrupt_after(stop),
    )


def test_a_resumed_run_remembers_how_long_validation_has_not_improved(build: Build, tmp_path: Path) -> None:
    run = settings_of(steps=60, eval_every=5, patience=3, lr=0.03)
    data, validation, checkpoint = examples(4), examples(6, seed=1), tmp_path / "run.pt"
    whole, resumed = build(), build()
    expected = train(whole.model, data, validation, run, seed=0, precision=CPU)
    stop = expected.kept_step + 8
    with pytest.raises(Interrupted):
        train(
            build().model,
            data,
            validation,
            run,
            seed=0,
            precision=CPU,
            checkpoint=checkpoint,
            progress=interrupt_after(stop),
        )
    assert train(resumed.model, data, validation, run, seed=0, precision=CPU, checkpoint=checkpoint) == expected
    assert same(weights_of(resumed), weights_of(whole))


def test_a_damaged_checkpoint_is_set_aside_and_training_starts_over_with_the_same_numbers(
    build: Build, tmp_path: Path
) -> None:
    data, validation, checkpoint = examples(padded=True), examples(5, seed=1), tmp_path / "run.pt"
    whole, again = build("hedgehog", dropout=0.3), build("hedgehog", dropout=0.3)
    expected = train(whole.model, data, validation, settings_of(lr=0.05), seed=3, precision=CPU)
    with pytest.raises(Interrupted):
        resume(build("hedgehog", dropout=0.3), checkpoint, 5)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    run: dict[str, Any] = {"seed": 3, "precision": CPU, "checkpoint": checkpoint}
    found = train(again.model, data, validation, settings_of(lr=0.05), **run)
    (note,) = found.notes
    assert re.fullmatch(r"training started over: .*run\.pt is damaged .*; set aside as run\.pt\.corrupt", note)
    assert replace(found, notes=()) == expected
    assert same(weights_of(again), weights_of(whole))
    assert {path.name for path in tmp_path.iterdir()} == {"run.pt", "run.pt.corrupt"}


def test_training_goes_on_where_checkpoints_cannot_be_written(build: Build, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run: dict[str, Any] = {"seed": 0, "precision": CPU}
    expected = train(build().model, examples(), None, settings_of(), **run)
    found = train(build().model, examples(), None, settings_of(), checkpoint=tmp_path / "file" / "run.pt", **run)
    assert found.notes == ("checkpoints could not be written from step 1: File exists",)
    assert replace(found, notes=()) == expected


def test_a_finished_run_is_not_trained_again(build: Build, tmp_path: Path) -> None:
    run: dict[str, Any] = {"seed": 0, "precision": CPU, "checkpoint": tmp_path / "run.pt"}
    trained, again = build("hedgehog"), build("hedgehog", seed=1)
    data, validation, quick = examples(), examples(5, seed=1), settings_of(patience=1, lr=0.05)
    history = train(trained.model, data, validation, quick, **run)
    assert train(again.model, data, validation, quick, progress=interrupt_after(1), **run) == history
    assert same(weights_of(again), weights_of(trained))
