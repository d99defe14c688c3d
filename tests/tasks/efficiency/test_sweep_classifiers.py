"""Sweeps of classifiers, which see both ways and neither decode nor have a state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hedgebench.adapters.attention.alone import build_alone
from hedgebench.adapters.attention.core import Heads
from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.mechanisms.declaration import AttentionShape
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.tasks.base import Sources
from hedgebench.tasks.efficiency.memory import MEMORY
from hedgebench.tasks.efficiency.throughput import THROUGHPUT

CPU = Precision.of("cpu", "float32")
SIZES = {"layers": 1, "heads": 2, "kv_heads": 2, "width": 16, "mlp_width": 32}
QUICK: dict[str, Any] = {"seq_lens": (16, 32), "repeats": 1, "min_time_ms": 0.0, "warmup": 1, "min_warmup_ms": 0.0}


def rows_of(task: Any, settings: dict[str, Any], tmp_path: Any, backbone: str = "encoder") -> list[dict[str, Any]]:
    data = task.load(settings, Sources(None, tmp_path))
    chosen = BACKBONES[backbone]
    size = {**chosen.sizes["smoke"], **SIZES}
    adapter = build_scratch(parse_spec("hedgehog", mechanisms().get), chosen, size, data.shape, 0, CPU)
    found: list[dict[str, Any]] = task.predict(adapter, data, settings)
    return found


def test_an_encoder_is_timed_forward_and_in_training_and_does_not_decode(tmp_path: Any) -> None:
    settings = {**QUICK, "modes": "prefill+train+decode", "classes": 3}
    rows = [row for row in rows_of(THROUGHPUT, settings, tmp_path) if row["seq_len"]]
    statuses = {(row["mode"], row["seq_len"]): row["status"] for row in rows}
    assert {statuses[mode, length] for mode in ("prefill", "train") for length in (16, 32)} == {"ok"}
    assert {status for (mode, _), status in statuses.items() if mode == "decode"} == {"unsupported"}


def test_an_encoders_memory_is_counted_but_for_a_state(tmp_path: Any) -> None:
    rows = rows_of(MEMORY, {"seq_lens": (16, 32), "modes": "prefill+train+state", "classes": 2}, tmp_path)
    by_mode = {row["mode"]: row for row in rows}
    assert by_mode["train"]["activation_bytes"] > 0
    assert by_mode["prefill"]["peak_allocated_bytes"] > 0
    assert by_mode["state"]["status"] == "unsupported"


def test_an_encoder_is_no_language_model_unless_classes_are_asked_for(tmp_path: Any) -> None:
    with pytest.raises(UnsupportedError, match="encoder cannot be a language_model"):
        rows_of(THROUGHPUT, {**QUICK, "modes": "prefill"}, tmp_path)


def test_an_encoders_layer_attends_both_ways() -> None:
    spec = parse_spec("elu", mechanisms().get)
    shape = AttentionShape(heads=2, kv_heads=2, head_dim=8, context_length=32, seed=0)
    layer = build_alone(spec, shape, CPU, causal=False)
    inputs = layer.inputs(1, 32)
    assert layer.prefill(inputs, 32) is None
    assert [use.phase for use in layer.kernels_used()] == ["layer_forward"]
    both_ways, one_way = layer.cost("prefill", 1, 32), build_alone(spec, shape, CPU)
    one_way.prefill(inputs, 32)
    causal = one_way.cost("prefill", 1, 32)
    assert both_ways is not None
    assert causal is not None
    assert both_ways.flops < causal.flops  # no scores within chunks
    seen: list[bool] = []

    def forward(heads: Heads, causal: bool) -> torch.Tensor:
        seen.append(causal)
        return torch.zeros_like(heads.q)

    layer._forward = forward
    layer.train(inputs)
    assert seen == [False]
    for refused in (lambda: layer.state_bytes(1, 32), lambda: layer.decode(inputs, 0, None)):
        with pytest.raises(UnsupportedError, match="no state to decode from"):
            refused()


def test_a_mechanism_for_decoders_is_refused_in_an_encoders_layer() -> None:
    shape = AttentionShape(heads=2, kv_heads=2, head_dim=8, context_length=32, seed=0)
    with pytest.raises(UnsupportedError, match="exists only in decoders"):
        build_alone(parse_spec("hedgehog:window=4", mechanisms().get), shape, CPU, causal=False)
