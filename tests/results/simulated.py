"""Runs drawn from known distributions, to see how often a comparison is right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hedgebench.results.compare.snapshot import Snapshot
from hedgebench.results.record import SCHEMA_VERSION, DataIdentity, Metric, Record

MODELS = ("softmax", "elu", "hedgehog")
DOCUMENTS, ROWS, PROCESSES, TIMINGS = 60, 1_000, 5, 15
"""Sample sizes that the rates are stated for: documents and rows per model, processes and timings in each."""


@dataclass(frozen=True)
class World:
    """What two runs share, and how a run varies around it.

    Attributes:
        document_spread: Standard deviation, over documents, of the change of nats per token from one training to
            another with nothing changed.
        flips: Share of rows whose prediction such a retraining changes.
        process_spread: Standard deviation of the logarithm of a median time from process to process.
        timing_spread: The same within a process.
    """

    document_spread: float = 0.01
    flips: float = 0.02
    process_spread: float = 0.03
    timing_spread: float = 0.05

    def run(self, seed: int, worse_nats: float = 0.0, slower: float = 0.0) -> Snapshot:
        """One run, measured on the documents and rows that every run is."""
        rng = np.random.default_rng(seed)
        records: list[Record] = []
        samples: dict[str, Sequence[Mapping[str, Any]]] = {}
        for model in MODELS:
            texts = self._texts(rng, worse_nats)
            answers = self._answers(rng)
            for task, metric, rows in (
                ("wikitext2", _perplexity(texts), texts),
                ("recall", _accuracy(answers), answers),
            ):
                record = make_record(model, task, 0, (metric,))
                records.append(record)
                samples[record.cell_id] = rows
            for process in range(PROCESSES):
                centre = math.log1p(slower) + rng.normal(0, self.process_spread)
                ms = np.exp(centre + rng.normal(0, self.timing_spread, TIMINGS))
                latency = Metric("prefill_ms", float(np.median(ms)), "ms", False, None, TIMINGS, samples=tuple(ms))
                records.append(make_record(model, "throughput", process, (latency,)))
        return Snapshot(f"run{seed}", tuple(records), samples)

    def _texts(self, rng: np.random.Generator, worse_nats: float) -> list[dict[str, float]]:
        fixed = np.random.default_rng(0)
        tokens = fixed.integers(200, 4_000, DOCUMENTS)
        nats = fixed.normal(3.2, 0.4, DOCUMENTS) + rng.normal(worse_nats, self.document_spread, DOCUMENTS)
        pairs = enumerate(zip(tokens.tolist(), (tokens * nats).tolist(), strict=True))
        return [{"document": i, "tokens": count, "nll_nats": nll} for i, (count, nll) in pairs]

    def _answers(self, rng: np.random.Generator) -> list[dict[str, Any]]:
        right = np.random.default_rng(1).random(ROWS) < 0.85
        flipped = np.where(rng.random(ROWS) < self.flips, rng.random(ROWS) < 0.85, right)
        return [{"row": i, "correct": bool(value)} for i, value in enumerate(flipped)]


def _perplexity(rows: Sequence[Mapping[str, float]]) -> Metric:
    value = math.exp(sum(row["nll_nats"] for row in rows) / sum(row["tokens"] for row in rows))
    return Metric("perplexity", value, "1", False, None, len(rows))


def _accuracy(rows: Sequence[Mapping[str, Any]]) -> Metric:
    return Metric("accuracy", sum(row["correct"] for row in rows) / len(rows), "1", True, None, len(rows))


def make_record(model: str, task: str, seed: int, metrics: tuple[Metric, ...], **changes: Any) -> Record:
    """A record with nothing special about it."""
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run_id": "run",
        "cell_id": f"{model}-{task}-{seed}",
        "model": model,
        "backbone": "gpt",
        "task": task,
        "recipe": "scratch",
        "scale": "small",
        "seed": seed,
        "status": "ok",
        "main_metric": metrics[0].name if metrics else "perplexity",
        "metrics": metrics,
        "settings": {"train.lr": 0.01},
        "timings_s": {"train": 1.0},
        "kernels": (),
        "data": DataIdentity(task, "1", "f00d", "embedded"),
        "environment": {"device": "cpu", "dtype": "float32", "cpu": "a", "threads": 1},
    }
    return Record(**{**fields, **changes})
