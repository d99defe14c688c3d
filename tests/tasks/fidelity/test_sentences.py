"""Attention fidelity of encoders: bidirectional rows, padded and joined, from scratch and converted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch

from hedgebench.adapters.base import AttentionMaps, ModelShape
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.harness.weights.backbone_names import backbone_from_name
from hedgebench.tasks.base import DataUnavailableError, Sources, TaskData
from hedgebench.tasks.fidelity.attention_fidelity import ATTENTION_FIDELITY_COLA as TASK
from hedgebench.tasks.fidelity.measures import MEASURES, compare_maps
from hedgebench.tasks.fidelity.sentences import SentenceSettings
from hedgebench.tasks.settings import as_settings, parse_settings

SETTINGS = as_settings(
    SentenceSettings(max_length=24, lengths=(24, 64), windows=2, texts=3, tokenizer="byte", train_rows=0)
)
Load = Callable[..., TaskData]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """CoLA of sentences of 4 to 23 letters, and MRPC of too few for a row of 64 tokens."""
    for config, rows in (("cola", 40), ("mrpc", 2)):
        folder = tmp_path / "mirror" / "datasets" / "nyu-mll" / "glue" / config
        folder.mkdir(parents=True)
        text = [chr(97 + i % 26) * (4 + i % 20) for i in range(rows)]
        frame = {"sentence": text, "sentence1": text, "sentence2": ["and so on"] * rows, "label": [0] * rows}
        for split in ("train", "validation"):
            pandas.DataFrame(frame).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return Sources(mirror=tmp_path / "mirror", cache=tmp_path / "cache", offline=True)


@pytest.fixture
def load(sources: Sources) -> Load:
    return lambda **changes: TASK.load({**SETTINGS, **changes}, sources)


def adapter(spec: str, context_length: int = 64) -> ModelAdapter[Transformer]:
    """A small encoder, not trained."""
    backbone = backbone_from_name("encoder", Sources(mirror=None, cache=Path("none"), offline=True))
    settings = {**backbone.sizes["smoke"], "layers": 2, "heads": 2, "kv_heads": 2, "width": 32, "mlp_width": 64}
    shape = ModelShape(context_length, vocab_size=257, num_classes=2)
    parsed = parse_spec(spec, registry.mechanisms().get)
    return build_scratch(parsed, backbone, settings, shape, 0, Precision.of("cpu", "float32"))


def test_windows_are_single_texts_and_joined_ones_of_each_data_set(load: Load) -> None:
    data = load()
    assert data.wants_teacher
    assert [(p.corpus, p.seq_len, len(p.windows)) for p in data.test.corpora] == [
        *(("cola", 24, 2), ("cola", 64, 2)),
        *(("mrpc", 24, 1), ("mrpc", 64, 0)),
    ]
    single, joined = data.test.corpora[0].windows, data.test.corpora[1].windows
    assert [len(window.inputs) for window in single] == [3, 3]
    assert all(window.mask is not None and (window.mask.sum(1) >= 8).all() for window in single)
    assert [(window.inputs.shape, window.mask.all()) for window in joined] == [((1, 64), True)] * 2
    assert "does not fill a row of 64 tokens" in data.test.corpora[3].reason
    assert 8 <= data.test.sample.inputs.shape[1] <= 16


def test_softmax_is_faithful_to_itself(load: Load) -> None:
    rows = TASK.predict(adapter("softmax"), load(), SETTINGS)
    found = {metric.name: metric.value for metric in TASK.score(rows, SETTINGS) if not metric.at}
    assert found["attention_kl"] == 0
    assert found["attention_entropy_ratio"] == pytest.approx(1)
    assert found["attention_monotonicity"] == pytest.approx(1, abs=1e-4)
    assert found["attention_overlap"] == pytest.approx(1, abs=1e-6)


def test_corpora_without_text_and_lengths_without_room_are_unsupported_points(load: Load) -> None:
    rows = TASK.predict(adapter("elu", context_length=24), load(), SETTINGS)
    status = {
        (m.at["corpus"], m.at["seq_len"]): m.status for m in TASK.score(rows, SETTINGS) if m.name == "attention_kl_at"
    }
    assert status == {
        ("cola", 24): "ok",
        ("cola", 64): "unsupported",
        ("mrpc", 24): "ok",
        ("mrpc", 64): "unsupported",
    }


@pytest.mark.parametrize("spec", ["elu", "hedgehog", "t2r", "cosformer"])
def test_padding_changes_no_measure(spec: str, load: Load) -> None:
    model, window = adapter(spec), load().test.corpora[0].windows[0]
    together: list[dict[str, torch.Tensor]] = []
    apart: list[dict[str, list[torch.Tensor]]] = [{name: [] for name in MEASURES} for _ in range(2)]
    tokens, mask = torch.as_tensor(window.inputs, dtype=torch.long), torch.as_tensor(window.mask)

    def visit(_: int, maps: AttentionMaps) -> None:
        together.append(compare_maps(maps, mask))

    def visit_alone(layer: int, maps: AttentionMaps) -> None:
        found = compare_maps(maps)
        for name in MEASURES:
            apart[layer][name].append(found[name] * maps.weights.shape[2])

    model.compare_attention(tokens, visit, mask)
    for row, real in zip(tokens, mask, strict=True):
        model.compare_attention(row[real][None], visit_alone)
    assert not mask.all()
    for found, expected in zip(together, apart, strict=True):
        for name in MEASURES:
            mean = torch.stack(expected[name]).sum(0) / mask.sum()
            torch.testing.assert_close(found[name], mean, rtol=1e-4, atol=1e-4)


def test_samples_are_squares_since_every_query_sees_every_key(load: Load) -> None:
    data = load()
    samples = [row for row in TASK.predict(adapter("elu"), data, SETTINGS) if "weights" in row]
    length = data.test.sample.inputs.shape[1]
    assert len(samples) == 4
    for row in samples:
        assert [len(values) for values in row["weights"]] == [length] * length


def test_other_test_splits_are_part_of_the_data_s_identity(sources: Sources) -> None:
    before = TASK.identify(SETTINGS, sources)
    assert sources.mirror is not None
    folder = sources.mirror / "datasets" / "nyu-mll" / "glue" / "mrpc"
    frame: dict[str, Any] = {"sentence1": ["other"], "sentence2": ["text"], "label": [1]}
    pandas.DataFrame(frame).to_parquet(folder / "validation-00000-of-00001.parquet")
    after = TASK.identify(SETTINGS, sources)
    assert after.fingerprint == before.fingerprint
    assert after.details["mrpc"] != before.details["mrpc"]


def test_data_that_is_missing_is_named(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match="nyu-mll/glue"):
        TASK.identify(SETTINGS, replace(sources, mirror=tmp_path))


@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_the_length_trained_on_is_compared_first_and_conversions_end_with_distillation(scale: str) -> None:
    chosen = TASK.info.scales[scale]
    settings = parse_settings(SentenceSettings, chosen.settings)
    assert settings.lengths[0] == settings.max_length < max(settings.lengths)
    assert {chosen.stages[stage]["steps"] for stage in ("finetune", "lora")} == {0}


@pytest.mark.parametrize(
    ("field", "value"), [("texts", 0), ("lengths", (64, 128)), ("max_length", 64), ("windows", 0), ("lengths", (8,))]
)
def test_settings_that_measure_nothing_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        SentenceSettings(**{field: value})  # type: ignore[arg-type]
