from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.base import ModelShape, WithMlps
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.tasks.base import TaskData
from hedgebench.tasks.language.activation_sparsity import ACTIVATION_SPARSITY, shares
from hedgebench.tasks.language.by_position import Windows

from ...adapters.swapped import built, inputs_of


def test_shares_of_known_activations() -> None:
    neurons = torch.zeros(1, 2, 10)
    neurons[0, 0, 0] = 5.0  # one of ten
    neurons[0, 1, :4] = torch.tensor([1.0, -1.0, 1.0, 0.005])  # three of ten, and one below the threshold
    assert shares(neurons, 0.01) == pytest.approx(((1 + 3) / 20, (1 + 3) / 20))
    assert shares(torch.ones(1, 1, 10), 0.01) == pytest.approx((1.0, 0.9))


def test_a_model_of_relu_that_never_fires_is_told_by_layer() -> None:
    """The first of two layers has eight neurons of sixteen whose bias keeps them at 0."""
    sizes = {**BACKBONES["gpt"].sizes["smoke"], "width": 16, "mlp_width": 16}
    adapter: Any = build_scratch(
        parse_spec("softmax", mechanisms().get),
        BACKBONES["gpt"],
        sizes,
        ModelShape(12, 11),
        0,
        Precision.of("cpu", "float32"),
    )
    for block in adapter.model.blocks:
        block.mlp[1] = torch.nn.ReLU()
        torch.nn.init.constant_(block.mlp[0].bias, 1e3)
    torch.nn.init.constant_(adapter.model.blocks[0].mlp[0].bias[:8], -1e3)
    windows = Windows(torch.randint(11, (3, 12)).numpy().astype("int32"), 0)
    settings = {"threshold": 0.01}
    rows = ACTIVATION_SPARSITY.predict(adapter, TaskData(adapter.shape, windows), settings)
    metrics = {(m.name, *m.at.values()): m for m in ACTIVATION_SPARSITY.score(rows, settings)}
    assert metrics["layer_active_share", 0].value == 0.5
    assert metrics["layer_active_share", 1].value == 1.0
    assert metrics["active_share",].value == 0.75
    assert metrics["energy_share",].value == pytest.approx((math.ceil(0.9 * 8) + math.ceil(0.9 * 16)) / 32)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "bert", "vit"])
def test_the_mlps_of_every_kind_of_model_are_found(model_type: str, tmp_path: Path) -> None:
    adapter = built(model_type, tmp_path)
    assert isinstance(adapter, WithMlps)
    seen: list[tuple[int, int]] = []
    adapter.visit_mlps(inputs_of(model_type)[0], lambda layer, neurons: seen.append((layer, neurons.shape[-1])))
    assert seen == [(0, 128 if model_type == "gpt2" else 64), (1, 128 if model_type == "gpt2" else 64)]
