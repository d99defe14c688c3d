"""Tests of harness/costs: counts against what torch counts, and against published sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from hedgebench.adapters.base import ModelShape
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.spec import parse_spec
from hedgebench.adapters.training.settings import TrainSettings
from hedgebench.harness.cell import PlannedCell
from hedgebench.harness.config import RunConfig
from hedgebench.harness.costs.sizes import (
    PRETRAINED,
    TOKENS_PER_ROW,
    TRAIN_ROWS,
    TRAIN_WORDS,
    InputSizes,
    input_sizes,
    model_sizes,
    train_rows,
)
from hedgebench.harness.costs.training import NOTHING, RowCost, TrainingCost, map_sizes, training_cost, whole_cost
from hedgebench.harness.plan import make_plan
from hedgebench.harness.registry import mechanisms
from hedgebench.kernels.costs import feature_map_cost
from hedgebench.kernels.fused_costs import distillation_cost

BATCH = 4
ONE_ROW = {"steps": 1, "batch_size": 1, "eval_rows": 1}


def plan(task: str, *models: str, recipe: str = "scratch", backbone: str = "", **overrides: str) -> list[PlannedCell]:
    config = RunConfig(
        models=models,
        tasks=(task,),
        recipe=recipe,
        backbone=backbone or None,
        scale="small",
        overrides={name.replace("__", "."): value for name, value in overrides.items()},
    )
    return make_plan(config)


def row_cost(planned: PlannedCell) -> RowCost:
    sizes, inputs = model_sizes(planned.cell), input_sizes(planned.cell)
    assert sizes is not None
    assert inputs is not None
    return RowCost(sizes, inputs, None if planned.cell.model == "softmax" else planned.spec)


def measured_step(planned: PlannedCell, row: RowCost) -> tuple[int, int]:
    """FLOPs of a training step as torch counts them, and bytes that its forward pass keeps besides parameters."""
    sizes, length = row.sizes, row.inputs.length
    shape = (
        ModelShape(length, sizes.outputs) if sizes.causal else ModelShape(length, None, 10, image_size=8, channels=1)
    )
    backbone = planned.cell.settings["backbone"]
    model = build_scratch(planned.spec, planned.backbone, backbone, shape, 0, Precision.of("cpu", "float32")).model
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    inputs = torch.randint(0, sizes.outputs, (BATCH, length)) if sizes.causal else torch.rand(BATCH, 1, 8, 8)
    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(inputs).flatten(0, -2)
            loss = cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
        saved = sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in own)
        torch.autograd.backward(loss)
    return counter.get_total_flops(), saved


@pytest.mark.parametrize(
    ("task", "model"),
    [
        *(("associative_recall", model) for model in ("softmax", "elu", "hedgehog", "taylor", "rebased")),
        *(("stdlib", model) for model in ("softmax", "cosformer", "hedgehog", "performer")),
        *(("digits", model) for model in ("softmax", "hedgehog")),
    ],
)
def test_flops_and_kept_bytes_of_a_step_are_what_torch_counts(task: str, model: str) -> None:
    (planned,) = plan(task, model)
    row = row_cost(planned)
    flops, saved = measured_step(planned, row)
    assert BATCH * 3 * row.forward_flops == pytest.approx(flops, rel=0.15)
    assert 0.4 < BATCH * row.activation_bytes(4) / saved < 2.5


def test_a_stage_is_its_steps_and_its_validations() -> None:
    settings = {"train__batch_size": "8", "train__eval_rows": "10"}
    (short,) = plan("associative_recall", "softmax", train__steps="100", train__eval_every="50", **settings)
    row = row_cost(short)
    cost = training_cost(short)
    assert cost is not None
    assert cost.flops == (100 * 8 * 3 + 2 * 10) * row.forward_flops
    (long,) = plan("associative_recall", "softmax", train__steps="200", train__eval_every="50", **settings)
    twice = training_cost(long)
    assert twice is not None
    assert (twice.flops, twice.bytes) == (2 * cost.flops, cost.bytes)


def test_the_teacher_counts_once_and_a_student_by_its_own_stages() -> None:
    models = ("softmax", "softmax:continued=true", "hedgehog", "hedgehog:distill=false")
    costs: Mapping[str, TrainingCost | None] = {
        planned.cell.model: training_cost(planned)
        for planned in plan("associative_recall", *models, recipe="scratch-conversion")
    }
    flops = {model: cost.flops if cost else math.nan for model, cost in costs.items()}
    assert flops["softmax:continued=true"] == pytest.approx(0.25 * flops["softmax"], rel=0.15)
    assert flops["hedgehog"] > flops["hedgehog:distill=false"] > flops["softmax:continued=true"]


@pytest.mark.parametrize(("task", "keys"), [("stdlib", lambda n: n * (n + 1) // 2), ("digits", lambda n: n * n)])
def test_distillation_compares_each_query_with_the_keys_it_sees(task: str, keys: Callable[[int], int]) -> None:
    (planned,) = plan(task, "hedgehog", recipe="scratch-conversion")
    row, once = row_cost(planned), TrainSettings.of({**planned.cell.settings["distill"], **ONE_ROW})
    s, n = row.sizes, row.inputs.length
    both = row.stage_cost("distill", once, planned.cell.settings).flops  # a step, and a validation without gradients
    heads = s.heads + s.kv_heads
    maps = feature_map_cost(b=1, heads=heads, n=n, d=s.head_dim, width=s.head_dim, f=2 * s.head_dim).flops
    loss = distillation_cost(pairs=s.heads * keys(n), token_heads=n * s.heads, d=s.head_dim).flops
    assert both == pytest.approx(2 * replace(row, spec=None).forward_flops + 4 / 3 * s.layers * (loss + 3 * maps))


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        *(("elu", (0, 32)), ("cosformer", (0, 64)), ("performer", (32, 32)), ("t2r", (32, 32)), ("hedgehog", (32, 64))),
        *(("hedgehog:negate=false", (32, 32)), ("hedgehog:feature_dim=8", (8, 16)), ("taylor", (0, 1 + 32 + 528))),
        *(("taylor:feature_dim=16", (16, 153)), ("rebased:feature_dim=16", (16, 136))),
    ],
)
def test_matrix_and_features_of_a_map(model: str, sizes: tuple[int, int]) -> None:
    assert map_sizes(parse_spec(model, mechanisms().get), 32) == sizes


def test_a_picture_is_its_patches_and_a_class_token() -> None:
    (planned,) = plan("digits", "softmax")
    patch = int(str(planned.cell.settings["backbone"]["patch_size"]))
    tokens = (8 // patch) ** 2 + 1
    assert input_sizes(planned.cell) == InputSizes(1, tokens, tokens)


def test_nothing_trained_is_not_counted() -> None:
    (planned,) = plan("stdlib", "elu", recipe="zero-shot")
    assert training_cost(planned) is None
    assert whole_cost([planned]) == (NOTHING, 1)


def test_tasks_over_the_same_texts_have_the_same_sizes() -> None:
    for sizes in (TRAIN_ROWS, TOKENS_PER_ROW):
        assert sizes["attention_fidelity_cola"] == sizes["glue/cola"]
    assert TRAIN_WORDS["attention_fidelity"] == TRAIN_WORDS["wikitext2"]


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [("gpt2", 124), ("bert-base", 110), ("vit-b16", 86), ("smollm2-135m", 135), ("minilm-l6", 23)],
)
def test_sizes_of_pretrained_models_give_the_parameters_that_their_summaries_state(
    backbone: str, millions: float
) -> None:
    assert PRETRAINED[backbone].weights / 1e6 == pytest.approx(millions, rel=0.05)


def test_llama_has_its_published_parameters_but_for_its_norms() -> None:
    sizes = PRETRAINED["llama2-7b"]
    assert sizes.weights == 6_738_415_616 - (2 * sizes.layers + 1) * sizes.width


def test_rows_and_lengths_are_those_of_data_settings_and_official_splits() -> None:
    (recall,) = plan("associative_recall", "softmax")
    assert (train_rows(recall.cell), input_sizes(recall.cell)) == (10_000, row_cost(recall).inputs)
    (text,) = plan("lra/retrieval", "softmax")
    found = input_sizes(text.cell)
    assert found is not None
    assert (found.sequences, found.length) == (2, 1_000)
    (cola,) = plan("glue/cola", "softmax", recipe="finetuned-conversion", backbone="bert-base")
    assert train_rows(cola.cell) == 8_551


def test_hours_are_flops_at_a_share_of_the_device_s_peak() -> None:
    assert TrainingCost(0.3 * 989.5e12 * 3600, 0).gpu_hours == pytest.approx(1)
