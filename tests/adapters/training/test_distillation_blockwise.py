"""Distillation some layers at a time: the maps it gives are those of distilling all layers at once."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hedgebench.adapters.base import Examples, UnsupportedError
from hedgebench.adapters.pretrained.model import PretrainedModel
from hedgebench.adapters.pretrained.swap import swap_attention
from hedgebench.adapters.training.distillation import AttentionDistillation, freeze_all_but_maps
from hedgebench.adapters.training.distillation_blockwise import BlockwiseDistillation
from hedgebench.adapters.training.loop import train
from hedgebench.adapters.training.settings import DistillSettings, TrainSettings

from ..any_models import PROVEN, any_model
from ..swapped import CPU, inputs_of, spec, swapped
from ..tiny_models import MODEL_TYPES

SETTINGS = TrainSettings.of(
    {
        **{"steps": 6, "batch_size": 2, "lr": 0.01, "weight_decay": 0.0, "clip_norm": 0.0},
        **{"eval_rows": 3, "eval_batch_size": 2, "checkpoint_every_s": 0.0},
    }
)


def examples_of(model_type: str) -> Examples:
    inputs, mask = inputs_of(model_type)
    rows = inputs.numpy() if inputs.is_floating_point() else inputs.numpy().astype(np.int32)
    return Examples(rows, np.zeros(len(rows), np.int32), None if mask is None else mask.numpy())


def prepared(model_type: str) -> PretrainedModel:
    model = swapped(model_type, "hedgehog")
    freeze_all_but_maps(model, DistillSettings())
    return model


def maps(model: PretrainedModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if "_map." in name}


@pytest.mark.parametrize(("model_type", "layers"), [*((each, 1) for each in MODEL_TYPES), ("gpt2", 2)])
def test_blocks_give_the_maps_of_all_layers_at_once(model_type: str, layers: int, tmp_path: Path) -> None:
    data = examples_of(model_type)
    whole, apart = prepared(model_type).eval(), prepared(model_type)
    for part in whole.modules():  # blocks are trained without dropout, as their inputs are computed once
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    objective = AttentionDistillation(whole, DistillSettings())
    at_once = train(whole, data, data, SETTINGS, seed=0, precision=CPU, objective=objective)
    base = {name: value.clone() for name, value in apart.state_dict().items() if "_map." not in name}
    result = BlockwiseDistillation(
        apart, data, data, SETTINGS, DistillSettings(block_layers=layers), seed=0, precision=CPU, folder=tmp_path
    ).run()
    for name, value in maps(apart).items():
        torch.testing.assert_close(value, maps(whole)[name], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(apart.state_dict()[name], value) for name, value in base.items())
    assert result.history is not None
    assert result.history.kept_loss == pytest.approx(at_once.kept_loss, rel=1e-4)
    assert result.history.steps == SETTINGS.steps * (2 // layers)
    named = {point.name for point in result.history.curves}
    assert {"attention_kl/layer 0", "attention_kl/layer 1"} <= named
    assert result.after is not None
    assert result.before.shape == result.after.shape == (len(result.before), 2, 4)
    assert result.after.mean() < result.before.mean()
    assert not list(tmp_path.glob("distill-hidden-*"))


@pytest.mark.parametrize("model_type", [name for name in ("gemma3_text", "modernbert") if name in PROVEN])
def test_a_model_whose_layers_get_different_rotary_embeddings_is_refused(model_type: str, tmp_path: Path) -> None:
    inner = any_model(model_type)
    model = PretrainedModel(inner, swap_attention(inner, spec("hedgehog"), context_length=64))
    data = Examples(np.full((2, 4), 7, np.int32), np.zeros(2, np.int32))
    with pytest.raises(UnsupportedError, match="calls its layer 1 with other arguments than layer 0"):
        BlockwiseDistillation(
            model, data, data, SETTINGS, DistillSettings(block_layers=1), seed=0, precision=CPU, folder=tmp_path
        )
    assert not model.kernels


class Stopped(Exception):
    """Stands for a kill."""


def test_a_run_that_was_killed_goes_on_at_the_block_it_was_in(tmp_path: Path) -> None:
    data, distill = examples_of("llama"), DistillSettings(block_layers=1)
    whole, resumed = prepared("llama"), prepared("llama")
    expected = BlockwiseDistillation(
        whole, data, data, SETTINGS, distill, seed=0, precision=CPU, folder=tmp_path / "whole"
    ).run()

    def stop(done: int, total: int, loss: float) -> None:
        del total, loss
        if done == SETTINGS.steps + 2:
            raise Stopped

    folder = tmp_path / "killed"
    with pytest.raises(Stopped):
        BlockwiseDistillation(
            prepared("llama"), data, data, SETTINGS, distill, seed=0, precision=CPU, folder=folder, progress=stop
        ).run()
    told: list[int] = []
    result = BlockwiseDistillation(
        resumed, data, data, SETTINGS, distill, seed=0, precision=CPU, folder=folder,
        progress=lambda done, total, loss: told.append(done),
    ).run()  # fmt: skip
    assert min(told) > SETTINGS.steps
    for name, value in maps(resumed).items():
        assert torch.equal(value, maps(whole)[name])
    assert result.history is not None
    assert expected.history is not None
    assert result.history.kept_loss == expected.history.kept_loss
    assert np.array_equal(result.before, expected.before)


def test_a_killed_run_goes_on_past_blocks_that_a_hybrid_keeps(tmp_path: Path) -> None:
    data, distill = examples_of("llama"), DistillSettings(block_layers=1)

    def stop(*_: object) -> None:
        raise Stopped

    for progress in (stop, None):
        model = swapped("llama", "hedgehog:keep=0")
        freeze_all_but_maps(model, distill)
        run = BlockwiseDistillation(
            model, data, data, SETTINGS, distill, seed=0, precision=CPU, folder=tmp_path, progress=progress
        )
        with pytest.raises(Stopped) if progress else nullcontext():
            result = run.run()
    assert result.history is not None
    assert result.history.notes == ()
    assert not list(tmp_path.glob("*.corrupt*"))


@pytest.mark.parametrize("name", ["distill-block-0.json", "distill-block-0.pt", "distill-hidden-train-1.f32"])
def test_a_killed_run_whose_files_are_damaged_starts_over_with_the_same_numbers(name: str, tmp_path: Path) -> None:
    data, distill = examples_of("llama"), DistillSettings(block_layers=1)
    whole, resumed = prepared("llama"), prepared("llama")
    run: dict[str, Any] = {"distill": distill, "seed": 0, "precision": CPU}
    expected = BlockwiseDistillation(whole, data, data, SETTINGS, folder=tmp_path / "whole", **run).run()

    def stop(done: int, total: int, loss: float) -> None:
        del total, loss
        if done == SETTINGS.steps + 2:
            raise Stopped

    folder = tmp_path / "killed"
    with pytest.raises(Stopped):
        BlockwiseDistillation(prepared("llama"), data, data, SETTINGS, folder=folder, progress=stop, **run).run()
    damaged = folder / name
    damaged.write_bytes(damaged.read_bytes()[:-10])
    result = BlockwiseDistillation(resumed, data, data, SETTINGS, folder=folder, **run).run()
    for part, value in maps(resumed).items():
        assert torch.equal(value, maps(whole)[part])
    assert result.history is not None
    assert expected.history is not None
    assert result.history.notes[0].startswith(f"distillation started over: {name} is damaged")
    assert replace(result.history, notes=()) == expected.history


def test_maps_that_are_not_trained_are_only_measured(tmp_path: Path) -> None:
    model, data = prepared("bert"), examples_of("bert")
    before = maps(model)
    result = BlockwiseDistillation(
        model, None, data, SETTINGS, DistillSettings(block_layers=1), seed=0, precision=CPU, folder=tmp_path
    ).run()
    assert result.history is None
    assert result.after is None
    assert all(torch.equal(value, before[name]) for name, value in maps(model).items())


def test_nothing_to_measure_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no examples"):
        BlockwiseDistillation(
            prepared("bert"), None, None, replace(SETTINGS), DistillSettings(block_layers=1), seed=0, precision=CPU,
            folder=tmp_path,
        ).run()  # fmt: skip
