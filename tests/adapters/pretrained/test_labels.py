from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from hedgebench.adapters.pretrained.labels import match_head
from hedgebench.adapters.pretrained.load import load_pretrained

from ..tiny_models import tiny_config, tiny_tokenizer

MNLI = ("entailment", "neutral", "contradiction")


def named(*names: str) -> dict[str, Any]:
    return {"id2label": {str(place): name for place, name in enumerate(names)}}


@pytest.mark.parametrize(
    ("names", "labels", "order"),
    [
        (("contradiction", "entailment", "neutral"), MNLI, (1, 2, 0)),
        (("CONTRADICTION", "Neutral", "ENTAIL"), MNLI, (2, 1, 0)),
        (("NEGATIVE", "POSITIVE"), ("neg", "pos"), (0, 1)),
        (("POSITIVE", "NEGATIVE"), ("negative", "positive"), (1, 0)),
        (("not entailment", "entailment"), ("entailment", "not_entailment"), (1, 0)),
        (("LABEL_0", "LABEL_1"), ("no", "yes"), (0, 1)),
        (("0", "1"), ("no", "yes"), (0, 1)),
        (("cat", "dog"), (), (0, 1)),
        (("cat", "dog"), ("negative", "positive"), None),
        (("entailment", "entailment"), ("entailment", "not_entailment"), None),
        (("crane", "wren", "crane"), ("wren", "crane", "crane"), (1, 0, 2)),
    ],
)
def test_classes_are_matched_by_name_where_both_sides_have_names(
    names: tuple[str, ...], labels: tuple[str, ...], order: tuple[int, ...] | None
) -> None:
    assert match_head(named(*names), labels, len(names)).order == order


def test_a_checkpoint_that_names_no_classes_is_taken_by_place_and_says_so() -> None:
    head = match_head({}, MNLI, 3)
    assert head.order == (0, 1, 2)
    assert "by place" in head.note
    assert match_head(named("score"), (), 1).note == ""


def classifier(folder: Path, *names: str) -> Any:
    config: Any = tiny_config("bert")
    config.id2label, config.label2id = dict(enumerate(names)), {name: place for place, name in enumerate(names)}
    torch.manual_seed(0)
    model: Any = BertForSequenceClassification(config)
    model.eval()
    model.save_pretrained(folder)
    tiny_tokenizer("bert").save(str(folder / "tokenizer.json"))
    return model


def loaded(folder: Path, labels: tuple[str, ...]) -> Any:
    return load_pretrained(
        folder,
        num_classes=len(labels),
        labels=labels,
        weights_dtype=torch.float32,
        device=torch.device("cpu"),
        seed=5,
    )


def test_a_head_in_another_order_gives_each_class_its_own_logit(tmp_path: Path) -> None:
    """Three outputs in another order scored 0.0 on MNLI where 1.0 is right."""
    theirs = classifier(tmp_path, "contradiction", "entailment", "neutral")
    ours = loaded(tmp_path, MNLI)
    ids = torch.arange(5, 17).view(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids).logits, theirs(ids).logits[:, [1, 2, 0]])
    assert ours.has_own_head
    assert ours.head_note.endswith("matched by name: entailment=1, neutral=2, contradiction=0")
    assert ours.model.config.id2label == dict(enumerate(MNLI))


def test_the_head_of_another_task_with_as_many_classes_is_drawn_anew(tmp_path: Path) -> None:
    theirs = classifier(tmp_path, "cat", "dog", "bird")
    ours = loaded(tmp_path, MNLI)
    assert not ours.has_own_head
    assert "the checkpoint's head is for the classes cat, dog, bird" in ours.head_note
    assert ours.head_note.endswith("a new head was drawn")
    assert not torch.equal(ours.model.classifier.weight, theirs.classifier.weight)
    assert torch.equal(ours.model.classifier.weight, loaded(tmp_path, MNLI).model.classifier.weight)
    assert torch.equal(ours.model.bert.pooler.dense.weight, theirs.bert.pooler.dense.weight)
