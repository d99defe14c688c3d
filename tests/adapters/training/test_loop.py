from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hedgebench.adapters.base import IGNORED, Examples
from hedgebench.adapters.training.loop import (
    batch_rows,
    evaluate_loss,
    learning_rate,
    make_optimizer,
    train,
)
from hedgebench.adapters.training.objective import CROSS_ENTROPY

from .tiny_trainings import CPU, Build, examples, same, settings_of, weights_of


class Constant(nn.Module):
    """A language model of one free logit per entry, whatever it is given."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32))

    def forward(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        return self.logits.expand(*inputs.shape, -1)


def constants(*targets: int) -> Examples:
    row = np.array([targets], dtype=np.int32)
    return Examples(np.zeros_like(row), row)


def test_the_rate_rises_to_its_peak_and_falls_by_half_a_cosine() -> None:
    schedule = settings_of(steps=100, lr=2.0, warmup=0.1, final_lr=0.1)
    known = {0: 0.2, 4: 1.0, 9: 2.0, 54: 1.1, 99: 0.2}
    assert {step: learning_rate(step, schedule) for step in known} == pytest.approx(known)
    rates = [learning_rate(step, schedule) for step in range(10, 100)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.2, rel=0.01)


def test_the_rate_starts_at_its_peak_without_warm_up_and_stays_there_when_it_ends_there() -> None:
    assert learning_rate(0, settings_of(warmup=0.0, lr=3.0)) == 3.0
    flat = settings_of(warmup=0.0, final_lr=1.0, lr=3.0)
    assert [learning_rate(step, flat) for step in range(12)] == pytest.approx([3.0] * 12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 3))
def test_batches_cover_each_epoch_exactly_once(rows: int, batch_size: int, seed: int) -> None:
    steps = -(-3 * rows // batch_size)
    stream = np.concatenate([batch_rows(rows, step, batch_size, seed) for step in range(steps)])
    assert len(stream) == steps * batch_size
    for epoch in range(3):
        assert sorted(stream[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = (batch_rows(50, epoch, 50, 0).tolist() for epoch in (0, 1))
    assert first != second
    assert first != batch_rows(50, 0, 50, 1).tolist()
    assert first == batch_rows(50, 0, 50, 0).tolist()


def test_the_loss_of_a_uniform_model_is_the_logarithm_of_its_vocabulary() -> None:
    assert evaluate_loss(Constant(0, 0, 0), constants(0, 2, 1), settings_of(), CPU) == pytest.approx(math.log(3))


def test_ignored_targets_count_neither_as_loss_nor_as_targets() -> None:
    model, data = Constant(0, 1, 2), constants(2, IGNORED, 0, IGNORED)
    log_probs = torch.tensor([0.0, 1.0, 2.0]).log_softmax(0)
    total = -float(log_probs[2] + log_probs[0])
    assert float(CROSS_ENTROPY.loss(model, data, np.array([0]), CPU.device).detach()) == pytest.approx(total)
    assert evaluate_loss(model, data, settings_of(), CPU) == pytest.approx(total / 2)


def test_validation_takes_the_first_rows_in_batches_and_leaves_the_mode_alone(build: Build) -> None:
    model, data = build(dropout=0.5).model.train(), examples(10)
    expected = evaluate_loss(model, examples(10), settings_of(eval_rows=7, eval_batch_size=7), CPU)
    head = Examples(data.inputs[:7], data.targets[:7])
    assert evaluate_loss(model, data, settings_of(eval_rows=7, eval_batch_size=3), CPU) == pytest.approx(expected)
    assert evaluate_loss(model, head, settings_of(), CPU) == pytest.approx(expected)
    assert model.training


@pytest.mark.parametrize("padded", [False, True])
def test_accumulated_parts_equal_one_big_batch(build: Build, padded: bool) -> None:
    models = [build("hedgehog") for _ in range(2)]
    losses = []
    for adapter, parts in zip(models, (1, 4), strict=True):
        run = settings_of(accumulate=parts, steps=3, eval_every=0)
        losses.append(train(adapter.model, examples(padded=padded), None, run, seed=0, precision=CPU).curves)
    assert [p.value for p in losses[0]] == pytest.approx([p.value for p in losses[1]], rel=1e-5)
    left, right = (weights_of(adapter) for adapter in models)
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=1e-5)


def test_accumulated_gradients_equal_those_of_one_big_batch(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Tensor]] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: seen.append(gradients(self)))
    for parts in (1, 2, 4):
        run = settings_of(accumulate=parts, steps=1, clip_norm=0.0)
        train(build("t2r").model, examples(), None, run, seed=0, precision=CPU)
    for accumulated in seen[1:]:
        torch.testing.assert_close(accumulated, seen[0], rtol=1e-5, atol=1e-6)


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]


@pytest.mark.parametrize(("clip_norm", "largest"), [(0.01, 0.01), (0.0, math.inf)])
def test_gradients_are_clipped_to_the_norm_asked_for(
    build: Build, monkeypatch: pytest.MonkeyPatch, clip_norm: float, largest: float
) -> None:
    seen: list[float] = []
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: seen.append(math.hypot(*(float(g.norm()) for g in gradients(self))))
    )
    run = settings_of(steps=3, clip_norm=clip_norm)
    train(build().model, examples(), None, run, seed=0, precision=CPU)
    assert len(seen) == 3
    assert all(0.009 < norm <= largest * 1.001 for norm in seen)
    assert clip_norm or max(seen) > 0.1


def test_decay_is_on_matrices_and_embeddings_and_not_on_biases_norms_and_feature_maps(build: Build) -> None:
    model = build("hedgehog:bias=true").model
    model.norm.weight.requires_grad_(False)
    decayed, plain = make_optimizer(model, settings_of(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    for name in (names[id(p)] for p in decayed["params"]):
        assert name.endswith(".weight")
        assert "norm" not in name
        assert "core" not in name
    left_out = [names[id(p)] for p in plain["params"]]
    assert sum("core" in name for name in left_out) == 2 * 2 * 2
    assert all("core" in name or "norm" in name or name.endswith(".bias") for name in left_out)
    assert len(decayed["params"]) + len(plain["params"]) == len(names) - 1


def test_the_best_weights_are_kept_when_validation_gets_worse(build: Build) -> None:
    adapter = build()
    data, validation = examples(4), examples(6, seed=1)
    run = settings_of(steps=60, eval_every=5, patience=3, lr=0.03)
    history = train(adapter.model, data, validation, run, seed=0, precision=CPU)
    losses = {p.step: p.value for p in history.curves if p.split == "validation"}
    assert history.stopped_early
    assert history.steps == history.kept_step + 3 * 5 < 60
    assert history.kept_step == min(losses, key=lambda step: losses[step])
    assert history.kept_loss == losses[history.kept_step]
    assert evaluate_loss(adapter.model, validation, run, CPU) == history.kept_loss
    last = train((other := build()).model, data, validation, replace(run, keep_last=True), seed=0, precision=CPU)
    assert (last.kept_step, last.kept_lowest) == (history.steps, False)
    assert history.kept_loss < last.kept_loss == evaluate_loss(other.model, validation, run, CPU)


def test_without_validation_the_last_weights_are_kept(build: Build) -> None:
    history = train(build().model, examples(), None, settings_of(), seed=0, precision=CPU)
    assert (history.steps, history.kept_step, history.stopped_early) == (12, 12, False)
    assert math.isnan(history.kept_loss)
    assert [p.step for p in history.curves] == list(range(1, 13))


def test_without_an_interval_validation_comes_once_at_the_end(build: Build) -> None:
    history = train(build().model, examples(), examples(), settings_of(eval_every=0), seed=0, precision=CPU)
    assert [p.step for p in history.curves if p.split == "validation"] == [12]


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(build: Build) -> None:
    trained = []
    for seed in (0, 0, 1):
        adapter = build(dropout=0.2)
        train(adapter.model, examples(), None, settings_of(), seed=seed, precision=CPU)
        trained.append(weights_of(adapter))
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


@pytest.mark.parametrize("backbone", ["gpt", "encoder", "vit"])
@pytest.mark.parametrize("spec", ["softmax", "hedgehog"])
def test_training_learns_a_separable_problem(build: Build, backbone: str, spec: str) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 24, dtype=np.int32)
    rows = generator.integers(0, 11, (24, 6), dtype=np.int32)
    if backbone == "vit":
        images = generator.normal(labels[:, None, None, None] - 1, 0.5, (24, 2, 8, 8))
        data = Examples(images.astype(np.float32), labels)
    elif backbone == "encoder":
        rows[:, :3] = labels[:, None]
        data = Examples(rows, labels, np.arange(6) < generator.integers(3, 7, (24, 1)))
    else:
        data = Examples(rows, (rows + 1) % 11)
    model = build(spec, backbone).model
    run = settings_of(steps=20, batch_size=24, lr=0.03, eval_every=0)
    before = evaluate_loss(model, data, run, CPU)
    history = train(model, data, data, run, seed=0, precision=CPU)
    assert history.kept_loss < 0.5 * before


def test_a_loss_that_is_not_finite_stops_training_at_once(build: Build) -> None:
    model = build().model
    torch.nn.init.constant_(model.norm.weight, math.nan)
    with pytest.raises(FloatingPointError, match="training loss is nan at step 0"):
        train(model, examples(), None, settings_of(), seed=0, precision=CPU)


def test_no_examples_are_refused(build: Build) -> None:
    with pytest.raises(ValueError, match="no training examples"):
        train(build().model, examples(0), None, settings_of(), seed=0, precision=CPU)


def test_progress_hears_of_every_step(build: Build) -> None:
    heard: list[tuple[int, int]] = []
    history = train(
        build().model,
        examples(),
        None,
        settings_of(steps=4),
        seed=0,
        precision=CPU,
        progress=lambda step, steps, loss: heard.append((step, steps)),
    )
    assert heard == [(step, 4) for step in range(1, 5)]
    assert history.steps == 4
