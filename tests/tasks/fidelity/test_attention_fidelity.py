"""Attention fidelity of small models: softmax is perfect, others are not, and what does not fit says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hedgebench.adapters.base import ModelShape, UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.harness.weights.backbone_names import backbone_from_name
from hedgebench.results.record import DataIdentity, Metric
from hedgebench.results.stats.statistics import ratio_bootstrap
from hedgebench.tasks.base import Sources, TaskData
from hedgebench.tasks.data.documents import Document
from hedgebench.tasks.fidelity.attention_fidelity import ATTENTION_FIDELITY
from hedgebench.tasks.fidelity.protocol import AttentionFidelity
from hedgebench.tasks.fidelity.streams import StreamSettings
from hedgebench.tasks.language.perplexity import Perplexity
from hedgebench.tasks.settings import as_settings, parse_settings

SETTINGS = as_settings(StreamSettings(context_length=32, lengths=(32, 64), windows=2, tokenizer="byte", train_bytes=0))


Load = Callable[..., TaskData]


class Words:
    """A corpus of one document."""

    def identify(self, splits: object, sources: Sources) -> DataIdentity:
        return DataIdentity("words", "1", "f00d", "embedded")

    def documents(self, split: str, sources: Sources) -> list[Document]:
        return [Document("one", "the quick brown fox jumps over the lazy dog. " * 8)]


@pytest.fixture
def task() -> AttentionFidelity:
    words = Perplexity(ATTENTION_FIDELITY.info, Words())
    return replace(ATTENTION_FIDELITY, trained_on=("words", words), others=(("again", Words()),))


@pytest.fixture
def load(task: AttentionFidelity, tmp_path: Path) -> Load:
    """Loads the task's data with these settings changed."""
    sources = Sources(mirror=None, cache=tmp_path, offline=True)
    return lambda **changes: task.load({**SETTINGS, **changes}, sources)


@pytest.fixture
def data(load: Load) -> TaskData:
    return load()


def adapter(spec: str, context_length: int = 64) -> ModelAdapter[Transformer]:
    """A small decoder, not trained."""
    backbone = backbone_from_name("gpt", Sources(mirror=None, cache=Path("none"), offline=True))
    settings = {**backbone.sizes["smoke"], "layers": 2, "heads": 2, "kv_heads": 2, "width": 32, "mlp_width": 64}
    shape = ModelShape(context_length=context_length, vocab_size=257)
    parsed = parse_spec(spec, registry.mechanisms().get)
    return build_scratch(parsed, backbone, settings, shape, 0, Precision.of("cpu", "float32"))


def first(metrics: list[Metric]) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in metrics if not metric.at}


def test_softmax_is_faithful_to_itself(task: AttentionFidelity, data: TaskData) -> None:
    rows = task.predict(adapter("softmax"), data, SETTINGS)
    measured = [row for row in rows if "weights" not in row]
    assert len(measured) == 2 * 2 * 2 * 2 * 2  # corpora, lengths, windows, layers, heads
    found = first(task.score(rows, SETTINGS))
    assert found["attention_kl"] == 0
    assert found["attention_entropy_ratio"] == pytest.approx(1)
    assert found["attention_monotonicity"] == pytest.approx(1, abs=1e-4)
    assert found["attention_violations"] == 0
    assert found["attention_overlap"] == 1


def test_what_is_not_softmax_differs_and_the_map_that_softmax_was_made_from_differs_less(
    task: AttentionFidelity, data: TaskData
) -> None:
    found = {
        spec: first(task.score(task.predict(adapter(spec), data, SETTINGS), SETTINGS)) for spec in ("taylor", "relu")
    }
    assert 0 < (found["taylor"]["attention_kl"] or 0) < (found["relu"]["attention_kl"] or 0)
    assert (found["taylor"]["attention_monotonicity"] or 0) > (found["relu"]["attention_monotonicity"] or 0)


def test_lengths_that_a_model_has_no_place_for_are_unsupported_points(task: AttentionFidelity, data: TaskData) -> None:
    rows = task.predict(adapter("elu", context_length=32), data, SETTINGS)
    metrics = task.score(rows, SETTINGS)
    status = {(m.at["corpus"], m.at["seq_len"]): m.status for m in metrics if m.at and m.name == "attention_kl_at"}
    assert status == {
        ("words", 32): "ok",
        ("words", 64): "unsupported",
        ("again", 32): "ok",
        ("again", 64): "unsupported",
    }
    assert "do not fit" in next(row["reason"] for row in rows if row["status"] != "ok")


def test_rows_hold_the_weights_of_a_few_heads_over_the_first_tokens(task: AttentionFidelity, data: TaskData) -> None:
    rows = [row for row in task.predict(adapter("elu"), data, SETTINGS) if "weights" in row]
    assert [(row["layer"], row["head"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row in rows:
        assert {(row["corpus"], row["seq_len"])} == {("words", 16)}
        for name in ("weights", "softmax", "products"):
            assert [len(values) for values in row[name]] == list(range(1, 17))
        for weights, softmax, products in zip(row["weights"], row["softmax"], row["products"], strict=True):
            assert sum(weights) == pytest.approx(1, abs=1e-3)
            assert softmax == pytest.approx(torch.tensor(products).softmax(0).tolist(), abs=1e-3)
    assert len(json.dumps(rows)) < 20_000


def test_samples_can_be_left_out_and_change_no_score(task: AttentionFidelity, data: TaskData, load: Load) -> None:
    rows = task.predict(adapter("elu"), data, SETTINGS)
    without = task.predict(adapter("elu"), load(sample_tokens=0), SETTINGS)
    assert without == [row for row in rows if "weights" not in row]
    assert task.score(rows, SETTINGS) == task.score(without, SETTINGS)


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_the_length_trained_on_is_compared_first_and_conversions_end_with_distillation(scale: str) -> None:
    chosen = ATTENTION_FIDELITY.info.scales[scale]
    settings = parse_settings(StreamSettings, chosen.settings)
    assert settings.lengths[0] == settings.context_length < max(settings.lengths)
    assert {chosen.stages[stage]["steps"] for stage in ("finetune", "lora")} == {0}


def test_a_limit_keeps_so_many_windows(task: AttentionFidelity, tmp_path: Path) -> None:
    sources = Sources(mirror=None, cache=tmp_path, offline=True)
    data = task.load(SETTINGS, sources, limit=1)
    assert {row["window"] for row in task.predict(adapter("elu"), data, SETTINGS) if "window" in row} == {0}


def test_weights_that_are_negative_are_no_distribution(task: AttentionFidelity, data: TaskData) -> None:
    with pytest.raises(UnsupportedError, match="an attention weight is -"):
        task.predict(adapter("identity_linear"), data, SETTINGS)


def test_a_length_that_a_corpus_is_too_short_for_is_an_unsupported_point(task: AttentionFidelity, load: Load) -> None:
    rows = task.predict(adapter("elu", context_length=400), load(lengths=(32, 400)), SETTINGS)
    reasons = {(row["corpus"], row["seq_len"]): row["reason"] for row in rows if row.get("status") == "unsupported"}
    told = "the test text of {} has 360 tokens, fewer than a row of 400"
    assert reasons == {(corpus, 400): told.format(corpus) for corpus in ("words", "again")}
    lost = [(m.name, m.at["corpus"]) for m in task.score(rows, SETTINGS) if m.status == "unsupported"]
    assert lost == [("attention_kl_at", "words"), ("attention_kl_at", "again")]


def test_the_ratio_of_entropies_has_an_error_over_windows(task: AttentionFidelity, load: Load) -> None:
    rows = task.predict(adapter("elu"), load(windows=4), SETTINGS)
    ratios = [m for m in task.score(rows, SETTINGS) if m.name == "attention_entropy_ratio_at"]
    for ratio in ratios:
        here = [row for row in rows if (row["corpus"], row["seq_len"]) == (ratio.at["corpus"], ratio.at["seq_len"])]
        windows = sorted({row["window"] for row in here if "window" in row})
        own, softmax = (
            [sum(row[name] for row in here if row.get("window") == window) for window in windows]
            for name in ("entropy", "softmax_entropy")
        )
        assert ratio.n == len(windows) == 4
        assert ratio.value == pytest.approx(sum(own) / sum(softmax))
        assert ratio.stderr == pytest.approx(ratio_bootstrap(own, softmax, "ratio"))
        assert ratio.stderr is not None
        assert ratio.stderr > 0


def test_models_from_scratch_are_held_against_no_teacher(task: AttentionFidelity, data: TaskData) -> None:
    assert data.wants_teacher
    rows = task.predict(adapter("elu"), data, SETTINGS)
    assert not any("teacher" in name for row in rows for name in row)
    assert not any("teacher" in metric.name for metric in task.score(rows, SETTINGS))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("lengths", value) for value in ((8,), (), (512, 256), (256, 512, 512))),
        *(("windows", 0), ("sample_tokens", 257), ("context_length", 128)),
    ],
)
def test_settings_that_measure_nothing_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        StreamSettings(**{field: value})  # type: ignore[arg-type]
