"""Predictions as `attention_fidelity` keeps them, made up: a record with its metrics, and its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from hedgebench.results.record import Metric, Record

LAYERS, HEADS, TOKENS = 2, 2, 10


def fidelity_record(make_record: Callable[..., Record], model: str, kl: float, **changes: Any) -> Record:
    """A record with a divergence at two lengths of two corpora."""
    place: dict[str, str | int] = {"corpus": "wikitext2", "seq_len": 1}
    monotonicity = Metric("attention_monotonicity_at", 1.0, "1", None, None, 2, place)
    points = [
        Metric("attention_kl_at", kl * seq_len, "nats", None, 0.01, 2, {"corpus": corpus, "seq_len": seq_len})
        for corpus in ("wikitext2", "stdlib")
        for seq_len in (1, 2)
    ]
    metrics = (Metric("attention_kl", kl, "nats", False, None, 2), monotonicity, *points)
    return make_record(model, "attention_fidelity", metrics=metrics, **changes)


def measure_rows(kl: float, corpus: str = "wikitext2", seq_len: int = 128) -> list[dict[str, Any]]:
    """Measures of two windows: the divergence grows by one with each layer, head and window."""
    return [
        {
            **{"corpus": corpus, "seq_len": seq_len, "window": window, "status": "ok", "layer": layer, "head": head},
            **{"kl": kl + layer + head + window, "entropy": 2.0 + layer, "softmax_entropy": 1.0},
            **{"monotonicity": 0.5, "violations": 0.1, "overlap": 0.25},
        }
        for window in range(2)
        for layer in range(LAYERS)
        for head in range(HEADS)
    ]


def with_teacher(rows: Sequence[dict[str, Any]], kl: float) -> list[dict[str, Any]]:
    """The rows of a model that was converted: its divergence from the teacher grows by one with each layer."""
    return [
        {**row, "kl_from_teacher": kl + row["layer"], "teacher_entropy": 0.5 + row["layer"]}
        if row.get("status") == "ok"
        else row
        for row in rows
    ]


def weight_rows(temperature: float = 1.0) -> list[dict[str, Any]]:
    """Weights of causal heads of which the second is spikier; at a temperature other than 1 they are not softmax's."""
    rng = np.random.default_rng(0)
    rows = []
    for layer in range(LAYERS):
        for head in range(HEADS):
            products = [rng.normal(size=i + 1) * (1 + 3 * head) for i in range(TOKENS)]
            weights, softmax = (
                [(np.exp(s * factor) / np.exp(s * factor).sum()).tolist() for s in products]
                for factor in (temperature, 1.0)
            )
            values = {"weights": weights, "softmax": softmax, "products": [s.tolist() for s in products]}
            rows.append({"corpus": "wikitext2", "seq_len": TOKENS, "layer": layer, "head": head, **values})
    return rows


def sample_rows(kl: float, temperature: float = 1.0) -> list[dict[str, Any]]:
    """All the rows of a cell: of the corpus and length trained on, of others, and the weights."""
    return [*measure_rows(kl), *measure_rows(math.pi, "stdlib", 256), *weight_rows(temperature)]


def samples_of(rows: dict[str, list[dict[str, Any]]]) -> Callable[[Record], Iterable[dict[str, Any]]]:
    """The predictions of each model."""
    return lambda record: rows.get(record.model, [])
