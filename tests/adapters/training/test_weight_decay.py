from __future__ import annotations

import pytest

from hedgebench.adapters.pretrained.swap import CORE
from hedgebench.adapters.training.loop import make_optimizer
from hedgebench.adapters.training.settings import TrainSettings

from ..swapped import swapped
from ..tiny_models import MODEL_TYPES


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_matrix_outside_attention_cores_decays_in_each_model_type(model_type: str) -> None:
    model = swapped(model_type, "hedgehog:bias=true")
    decayed = {
        id(p)
        for p in make_optimizer(
            model, TrainSettings.of({"steps": 1, "batch_size": 1, "lr": 0.1, "weight_decay": 0.3})
        ).param_groups[0]["params"]
    }
    named = dict(model.named_parameters())
    assert {name for name, p in named.items() if id(p) in decayed} == {
        name for name, p in named.items() if p.ndim > 1 and CORE not in name
    }
    assert sum("core" in name for name in named) > 0
    # Two thirds of a GPT-2's matrices are of transformers' own class Conv1D.
    if model_type == "gpt2":
        assert any(name.endswith("c_fc.weight") and id(p) in decayed for name, p in named.items())
