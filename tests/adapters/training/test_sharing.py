"""Two processes that share every batch take the steps of one, up to rounding."""

from __future__ import annotations

import io
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hedgebench.adapters.base import IGNORED, Examples, UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.pretrained.adapter import checkpoint_activations
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.training.distillation import AttentionDistillation, freeze_all_but_maps
from hedgebench.adapters.training.loop import History, train
from hedgebench.adapters.training.lora import add_lora
from hedgebench.adapters.training.objective import TargetLoss
from hedgebench.adapters.training.settings import DistillSettings, LoraSettings
from hedgebench.adapters.training.sharing import read_copy, write_copy

from ..swapped import inputs_of, swapped
from .tiny_trainings import CPU, Build, Interrupted, examples, interrupt_after, same, settings_of, weights_of

RUN = settings_of(batch_size=6, accumulate=2, clip_norm=0.2, patience=1)
"""Three rows a part, so that the processes have two and one; gradients are clipped at every step."""


def trained(adapter: ModelAdapter[Transformer], devices: int, **how: object) -> History:
    """Rows of one to six targets, in each process others."""
    data, validation = examples(padded=True), examples(5, seed=1)
    data.targets[np.arange(9) > np.arange(10)[:, None]] = IGNORED
    return train(adapter.model, data, validation, RUN, seed=3, precision=CPU, devices=devices, **how)  # type: ignore[arg-type]


def check_same(
    ours: History, theirs: History, left: ModelAdapter[Transformer], right: ModelAdapter[Transformer]
) -> None:
    """Outputs stand for weights: a bias of keys changes no softmax, and Adam makes steps of what rounding gives it."""
    assert [(p.step, p.split, p.name) for p in ours.curves] == [(p.step, p.split, p.name) for p in theirs.curves]
    assert [p.value for p in ours.curves] == pytest.approx([p.value for p in theirs.curves], rel=1e-5)
    assert (ours.steps, ours.kept_step, ours.stopped_early) == (theirs.steps, theirs.kept_step, theirs.stopped_early)
    rows = torch.as_tensor(examples(20, seed=2).inputs).long()
    with torch.no_grad():
        outputs, expected = (adapter.model.eval()(rows, None) for adapter in (left, right))
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


def test_two_processes_train_as_one_does_and_go_on_from_its_checkpoint(build: Build, tmp_path: Path) -> None:
    alone, together, begun, checkpoint = build(), build(), build(), tmp_path / "run.pt"
    unused = torch.full((2, 2), 3.0)
    for adapter in (alone, together, begun):
        adapter.model.register_parameter("unused", nn.Parameter(unused.clone()))
    expected = trained(alone, 1)
    with pytest.raises(Interrupted):
        trained(begun, 1, checkpoint=checkpoint, progress=interrupt_after(2))
    history = trained(together, 2, checkpoint=checkpoint)
    check_same(history, expected, together, alone)
    assert history.stopped_early
    assert torch.equal(together.model.get_parameter("unused"), unused)  # no decay without a gradient
    assert not torch.distributed.is_initialized()


def test_two_processes_distil_as_one_does(build: Build) -> None:
    alone, together = build("hedgehog"), build("hedgehog")
    histories = []
    for adapter, devices in ((alone, 1), (together, 2)):
        settings = DistillSettings(output_factor=10.0)
        freeze_all_but_maps(adapter.model, settings)
        histories.append(trained(adapter, devices, objective=AttentionDistillation(adapter.model, settings)))
    check_same(histories[1], histories[0], together, alone)
    assert {"attention_kl", "output_error/layer 1"} <= {point.name for point in histories[0].curves}


@pytest.mark.slow
def test_a_shared_training_that_was_interrupted_draws_the_same_dropout_again(build: Build, tmp_path: Path) -> None:
    whole, resumed, checkpoint = build(dropout=0.3), build(dropout=0.3), tmp_path / "run.pt"
    expected = trained(whole, 2)
    with pytest.raises(Interrupted):
        trained(build(dropout=0.3), 2, checkpoint=checkpoint, progress=interrupt_after(5))
    assert trained(resumed, 2, checkpoint=checkpoint) == expected
    assert same(weights_of(resumed), weights_of(whole))


class _Failing(TargetLoss):
    """Fails in other processes than the first: at a step, or when it is read."""

    made_in: int
    at_step: bool

    def __init__(self, at_step: bool) -> None:
        super().__init__()
        vars(self).update(made_in=os.getpid(), at_step=at_step)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.fail(not self.at_step)

    def loss(self, model: nn.Module, examples: Examples, rows: NDArray[Any], device: torch.device) -> Tensor:
        self.fail(self.at_step)
        return super().loss(model, examples, rows, device)

    def fail(self, is_time: bool) -> None:
        if is_time and os.getpid() != self.made_in:
            raise KeyError("what went wrong there")


@pytest.mark.slow
@pytest.mark.parametrize("at_step", [False, True])
def test_an_error_of_the_other_process_ends_the_training(
    build: Build, capfd: pytest.CaptureFixture[str], at_step: bool
) -> None:
    with pytest.raises(RuntimeError, match="process 1 of the 2 that share the training ended with code 1"):
        trained(build(), 2, objective=_Failing(at_step))
    assert "what went wrong there" in capfd.readouterr().err


def test_what_cannot_be_shared_is_refused(build: Build) -> None:
    for kind, there in (("cuda", torch.cuda.device_count()), ("cpu", os.cpu_count() or 1)):
        precision = replace(CPU, device=torch.device(kind))
        with pytest.raises(UnsupportedError, match=f"devices is {there + 2}; allowed: up to {there}"):
            train(build().model, examples(), None, RUN, seed=0, precision=precision, devices=there + 2)
    adapter = build()
    adapter.model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(UnsupportedError, match=r"cannot be copied to other devices.*lock"):
        trained(adapter, 2)


@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_a_copy_of_a_converted_model_with_low_rank_adapters_computes_the_same(model_type: str) -> None:
    inputs, mask = inputs_of(model_type)
    model = swapped(model_type, "hedgehog")
    add_lora(model, LoraSettings(rank=2), seed=0)
    stream = io.BytesIO()
    write_copy((model, AttentionDistillation(model, DistillSettings())), stream)
    copy, objective = read_copy(stream.getvalue(), rank=1)
    assert objective.model is copy
    with torch.no_grad():
        assert torch.equal(copy.eval()(inputs, mask), model.eval()(inputs, mask))


@pytest.mark.slow
def test_two_processes_fine_tune_a_converted_model_that_recomputes_activations_as_one_does() -> None:
    inputs, mask = inputs_of("gpt2")
    assert mask is not None
    data = Examples(inputs.numpy().astype(np.int32), inputs.numpy().astype(np.int32), mask.numpy())
    histories = []
    for devices in (1, 2):
        model = swapped("gpt2", "hedgehog")
        checkpoint_activations(model.inner)
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        settings = settings_of(steps=4, batch_size=3)
        histories.append(train(model, data, data, settings, seed=0, precision=CPU, devices=devices))
    alone, together = ([point.value for point in history.curves] for history in histories)
    assert together == pytest.approx(alone, rel=1e-5)
