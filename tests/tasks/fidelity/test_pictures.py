"""Attention fidelity on images, with small models that are not trained."""

from __future__ import annotations

import pytest

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.base import Settings
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.results.record import Metric
from hedgebench.tasks.base import Sources, TaskData
from hedgebench.tasks.fidelity.attention_fidelity import ATTENTION_FIDELITY_DIGITS as TASK
from hedgebench.tasks.fidelity.attention_fidelity import ATTENTION_FIDELITY_IMAGES
from hedgebench.tasks.images.digits import DIGITS

SETTINGS: Settings = {"windows": 3, "pictures": 4}


def adapter(spec: str, data: TaskData) -> ModelAdapter[Transformer]:
    """A small ViT with 16 patches and a class token."""
    size = {**BACKBONES["vit"].sizes["smoke"], "heads": 2, "kv_heads": 2, "width": 16, "patch_size": 2}
    parsed = parse_spec(spec, registry.mechanisms().get)
    return build_scratch(parsed, BACKBONES["vit"], size, data.shape, 0, Precision.of("cpu", "float32"))


def main(metrics: list[Metric]) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in metrics if not metric.at}


def test_softmax_is_faithful_to_itself_and_another_map_is_not(sources: Sources) -> None:
    data = TASK.load(SETTINGS, sources)
    assert data.wants_teacher
    found = {
        spec: main(TASK.score(TASK.predict(adapter(spec, data), data, SETTINGS), SETTINGS))
        for spec in ("softmax", "relu")
    }
    assert found["softmax"]["attention_kl"] == 0
    assert found["softmax"]["attention_monotonicity"] == pytest.approx(1, abs=1e-4)
    assert (found["relu"]["attention_kl"] or 0) > 0


def test_every_patch_and_the_class_token_are_positions_and_errors_are_over_windows(sources: Sources) -> None:
    data = TASK.load(SETTINGS, sources)
    rows = TASK.predict(adapter("elu", data), data, SETTINGS)
    measured = [row for row in rows if "weights" not in row]
    assert len(measured) == 3 * 2 * 2  # windows, layers, heads
    points = [metric for metric in TASK.score(rows, SETTINGS) if metric.name == "attention_kl_at"]
    assert [(point.at, point.n) for point in points] == [({"corpus": "digits", "seq_len": 17}, 3)]
    assert points[0].stderr is not None


def test_the_weights_of_one_picture_are_kept_for_plots_unless_it_is_large(sources: Sources) -> None:
    data = TASK.load(SETTINGS, sources)
    kept = [row for row in TASK.predict(adapter("elu", data), data, SETTINGS) if "weights" in row]
    assert [(row["layer"], row["head"]) for row in kept] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row in kept:
        assert [len(weights) for weights in row["weights"]] == [17] * 17
        assert [sum(weights) for weights in row["weights"]] == pytest.approx([1] * 17, abs=1e-2)
    few = {**SETTINGS, "sample_positions": 16}
    assert not [row for row in TASK.predict(adapter("elu", data), data, few) if "weights" in row]


def test_models_are_trained_and_pictures_read_as_by_the_task_itself(sources: Sources) -> None:
    settings = {**SETTINGS, "train_rows": 20, "test_rows": 5}
    data, own = TASK.load(settings, sources), DIGITS.load({"train_rows": 20, "test_rows": 5}, sources)
    assert data.train is not None
    assert own.train is not None
    assert (data.train.inputs == own.train.inputs).all()
    assert [len(window.inputs) for window in data.test] == [4, 1]
    assert (data.test[1].inputs == own.test.pixels[4:]).all()
    assert data.test[0].pixels == own.test.inputs
    assert [len(window.inputs) for window in TASK.load(settings, sources, limit=1).test] == [4]
    assert TASK.identify(settings, sources) == DIGITS.identify({}, sources)


def test_settings_of_either_kind_are_checked(sources: Sources) -> None:
    for settings, message in (
        ({"windows": 0}, "windows is 0"),
        ({"picture": 3}, "unknown setting of this task 'picture'"),
        ({"channels": 2}, "channels is 2"),
    ):
        with pytest.raises(ValueError, match=message):
            TASK.identify(settings, sources)
    with pytest.raises(ValueError, match="dataset is not set"):
        ATTENTION_FIDELITY_IMAGES.identify(ATTENTION_FIDELITY_IMAGES.info.scales["smoke"].settings, sources)
