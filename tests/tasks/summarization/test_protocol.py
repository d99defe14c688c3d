"""Tests of tasks/summarization/protocol.py: texts to rows to scores, with models of known answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pandas
import pytest
import torch
from torch import Tensor

pytest.importorskip("rouge_score")

from rouge_score.rouge_scorer import RougeScorer

from hedgebench.adapters.base import IGNORED, Adapter, Capability, ModelShape, UnsupportedError
from hedgebench.results.stats.scores import sample_scores
from hedgebench.tasks.base import INPUT, Sources, Task
from hedgebench.tasks.settings import as_settings, parse_settings
from hedgebench.tasks.summarization.protocol import SAMSUM, SUMMARIZATION, Summarization
from hedgebench.tasks.summarization.rouge import KINDS, split_sentences
from hedgebench.tasks.summarization.settings import AnyDataSettings, SummarizationSettings

TASKS = (SAMSUM, SUMMARIZATION)
BYTES = SummarizationSettings(
    context_length=64, max_new_tokens=24, prompt="Text: {source} Sum: ", tokenizer="byte", batch_size=3
)
FIRST = ("Ann", "Bob", "Eve", "Tom")
END = 256
STOP = "a summary ends at token 256, <|endoftext|>, or at max_new_tokens"


def dialogues(rows: int, salt: int = 0) -> dict[str, list[str]]:
    names = [FIRST[(i + salt) % 4] for i in range(rows)]
    return {
        "id": [f"d{salt}{i}" for i in range(rows)],
        "dialogue": [f"{name}: hi {'x' * (i % 6 * 4)}" for i, name in enumerate(names)],
        "summary": [f"{name} said hi. All are well." for name in names],
    }


def write(sources: Sources, repo: str, splits: Mapping[str, dict[str, list[str]]], config: str = "samsum") -> None:
    assert sources.mirror is not None
    folder = sources.mirror / "datasets" / repo / config
    folder.mkdir(parents=True, exist_ok=True)
    for split, columns in splits.items():
        pandas.DataFrame(columns).to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def samsum(sources: Sources) -> Sources:
    splits = {"train": dialogues(20), "validation": dialogues(6, 1), "test": dialogues(8, 2)}
    write(sources, "knkarthick/samsum", splits)
    return sources


class Reader:
    """Writes the name that the prompt begins with, and stops; its prompts are kept."""

    device = torch.device("cpu")

    def __init__(self, after: str = " said hi. All are well.") -> None:
        self.after = after
        self.prompts: list[str] = []

    def generate(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, max_new_tokens: int, **_: Any
    ) -> Tensor:
        mask = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask
        rows = []
        for ids, real in zip(input_ids, mask, strict=True):
            text = "".join(map(chr, ids[real].tolist()[1:]))
            self.prompts.append(text)
            rows.append([*(text[6:9] + self.after).encode(), *[END] * 60][:max_new_tokens])
        return torch.tensor(rows)


class Encoder:
    device = torch.device("cpu")

    def generate(self, *_: Any, **__: Any) -> Tensor:
        raise UnsupportedError("this model cannot do generate; it can do: classifier")


def predict(sources: Sources, model: Any, task: Summarization = SAMSUM, **changes: Any) -> list[dict[str, Any]]:
    settings = as_settings(replace(BYTES, **changes))
    return task.predict(cast(Adapter, model), task.load(settings, sources), settings)


@pytest.mark.parametrize("task", TASKS)
def test_declarations_hang_together(task: Summarization) -> None:
    assert isinstance(task, Task)
    assert task.info.main_metric == "rouge1"
    assert task.info.needs == {Capability.LANGUAGE_MODEL, Capability.GENERATE}
    assert task.info.recipes[0] == "pretrained-conversion-lora"
    kind = SummarizationSettings if task.data else AnyDataSettings
    for scale in task.info.scales.values():
        chosen = parse_settings(kind, scale.settings)
        assert chosen.temperature == 0
        assert set(scale.settings) == set(vars(chosen))
    paper = parse_settings(kind, task.info.scales["paper"].settings)
    assert (paper.train_rows, paper.test_rows, paper.context_length) == (None, None, 1024)
    assert not task.info.scales["paper"].stages


def test_data_for_a_model(samsum: Sources) -> None:
    data = SAMSUM.load(as_settings(BYTES), samsum)
    assert data.shape == ModelShape(context_length=64, vocab_size=257)
    assert data.train is not None
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test.prompts)) == (20, 6, 8)
    assert data.train.inputs.shape[1] <= 64
    answers = {"".join(map(chr, row[row != IGNORED][:-1])) for row in data.train.targets}
    assert answers == {f"{name} said hi. All are well." for name in FIRST}
    assert {int(row[row != IGNORED][-1]) for row in data.train.targets} == {END}


def test_the_token_that_ends_a_summary_and_how_much_was_cut_are_told(samsum: Sources) -> None:
    assert SAMSUM.load(as_settings(BYTES), samsum).notes == (
        STOP,
        "1 of 8 test texts were cut at their end to fit context_length",
        "3 of 20 training texts were cut at their end to fit context_length",
        "1 of 6 validation texts were cut at their end to fit context_length",
    )
    assert SAMSUM.load(as_settings(replace(BYTES, context_length=100)), samsum).notes == (STOP,)


def test_rows_hold_texts_and_scores_in_the_order_of_the_data(samsum: Sources) -> None:
    rows = predict(samsum, Reader(), max_new_tokens=30, context_length=100)
    assert [row["id"] for row in rows] == [f"d2{i}" for i in range(8)]
    assert [row["row"] for row in rows] == list(range(8))
    assert all(row["prediction"] == row["reference"] for row in rows)
    assert rows[1][INPUT] == "Text: Tom: hi xxxx Sum: "
    assert {kind: rows[0][kind] for kind in KINDS} == dict.fromkeys(KINDS, 1.0)
    assert (rows[0]["generated_tokens"], rows[0]["finished"], rows[0]["truncated"]) == (26, 1, 0)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_model_is_given_what_the_rows_say_whatever_the_batch_size(samsum: Sources, batch_size: int) -> None:
    model = Reader()
    rows = predict(samsum, model, batch_size=batch_size)
    assert sorted(model.prompts) == sorted(row[INPUT] for row in rows)
    assert [row["truncated"] for row in rows] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert all(row[INPUT].startswith("Text: ") and row[INPUT].endswith(" Sum: ") for row in rows)


def test_scores_are_those_of_rouge_score_on_the_saved_texts(samsum: Sources) -> None:
    rows = predict(samsum, Reader(" said hi twice! All went well."))
    texts_alone = [{key: value for key, value in row.items() if key not in (INPUT, *KINDS)} for row in rows]
    metrics = {metric.name: metric for metric in SAMSUM.score(texts_alone, {})}
    plain = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    by_line = RougeScorer(["rougeLsum"], use_stemmer=True)
    for kind in KINDS:
        expected = [
            by_line.score(split_sentences(row["reference"]), split_sentences(row["prediction"]))[kind].fmeasure
            if kind == "rougeLsum"
            else plain.score(row["reference"], row["prediction"])[kind].fmeasure
            for row in rows
        ]
        assert [row[kind] for row in rows] == expected
        assert metrics[kind].value == pytest.approx(sum(expected) / 8, rel=1e-15)
        assert 0 < expected[0] < 1
    assert all(metric.n == 8 for metric in metrics.values())


def test_what_bears_on_the_texts_is_described(samsum: Sources) -> None:
    rows = predict(samsum, Reader("x" * 30))
    metrics = {metric.name: metric for metric in SAMSUM.score(rows, {})}
    assert (metrics["generated_tokens"].value, metrics["finished"].value) == (24, 0)
    assert metrics["truncated"].value == 1 / 8
    assert metrics["truncated"].stderr == pytest.approx((7 / 64 / 7) ** 0.5)


def test_two_runs_can_be_compared_document_by_document(samsum: Sources) -> None:
    rows = predict(samsum, Reader(" said hi twice! All went well."))
    for metric in SAMSUM.score(rows, {}):
        if metric.name in KINDS:
            scores = sample_scores(metric, rows)
            assert scores is not None
            assert scores.labels[0] == "id=d20 row=0"


def test_limit_keeps_the_first_test_rows_and_all_training_rows(samsum: Sources) -> None:
    data = SAMSUM.load(as_settings(BYTES), samsum, limit=2)
    assert [pair.id for pair in data.test.pairs] == ["d20", "d21"]
    assert data.train is not None
    assert len(data.train) == 20


def test_without_training_nothing_but_the_test_split_is_needed(sources: Sources) -> None:
    write(sources, "knkarthick/samsum", {"test": dialogues(4)})
    settings = as_settings(replace(BYTES, train_rows=0))
    assert SAMSUM.identify(settings, sources).splits == {"test": 4}
    data = SAMSUM.load(settings, sources)
    assert (data.train, data.validation) == (None, None)
    with pytest.raises(ValueError, match="tokenizer bpe:300 needs training text"):
        SAMSUM.identify({**settings, "tokenizer": "bpe:300"}, sources)


def test_a_tokenizer_can_be_trained_on_the_texts(samsum: Sources) -> None:
    settings = as_settings(replace(BYTES, tokenizer="bpe:300"))
    data = SAMSUM.load(settings, samsum)
    tokenizer = data.test.tokenizer
    assert tokenizer.decode(tokenizer.encode(["Ann said hi. Ünï"])[0].tolist()) == "Ann said hi. Ünï"
    assert SAMSUM.identify(settings, samsum).details["tokenizer"] == "bpe:300"


def test_any_data_set_is_named_by_settings(sources: Sources) -> None:
    columns = dialogues(5)
    renamed = {"article": columns["dialogue"], "abstract": columns["summary"]}
    write(sources, "org/papers", {"train": renamed, "test": {k: v[:3] for k, v in renamed.items()}}, "data")
    settings = {
        **as_settings(AnyDataSettings(**vars(BYTES))),
        "dataset": "org/papers",
        "source": "article",
        "target": "abstract",
        "validation_split": None,
    }
    identity = SUMMARIZATION.identify(settings, sources)
    assert (identity.id, identity.splits) == ("org/papers/data", {"train": 5, "test": 3})
    rows = SUMMARIZATION.predict(cast(Adapter, Reader()), SUMMARIZATION.load(settings, sources), settings)
    assert [row["reference"] for row in rows] == columns["summary"][:3]
    with pytest.raises(
        ValueError, match="unknown column of org/papers in split train, given as source, 'articel'; did you mean arti"
    ):
        SUMMARIZATION.identify({**settings, "source": "articel"}, sources)
    with pytest.raises(ValueError, match="dataset is not set"):
        SUMMARIZATION.identify({**settings, "dataset": ""}, sources)


def test_a_text_scores_by_the_best_of_its_summaries(sources: Sources) -> None:
    columns = dialogues(5)
    tested = {"dialogue": columns["dialogue"][:3], "a": ["None", "x", "y"], "b": columns["summary"][:3]}
    write(sources, "org/talks", {"train": columns, "test": tested}, "data")
    settings = {
        **as_settings(AnyDataSettings(**vars(BYTES))),
        **{"dataset": "org/talks", "source": "dialogue", "target": "summary", "test_target": "a+b"},
        **{"validation_split": None, "max_new_tokens": 30, "context_length": 100},
    }
    data = SUMMARIZATION.load(settings, sources)
    rows = SUMMARIZATION.predict(cast(Adapter, Reader()), data, settings)
    assert [row["reference"] for row in rows] == [list(each) for each in zip(tested["a"], tested["b"], strict=True)]
    metrics = {metric.name: metric.value for metric in SUMMARIZATION.score(rows, settings)}
    assert metrics["rouge1"] == 1.0
    alone = SUMMARIZATION.score([{**row, "reference": row["reference"][0]} for row in rows], settings)
    assert {metric.name: metric.value for metric in alone}["rouge1"] == 0.0


def test_letters_that_rouge_does_not_see_are_told_and_can_be_counted(sources: Sources) -> None:
    texts = {**dialogues(4), "summary": ["Öl 5", "Кошка", "all is well", "ok"]}
    write(sources, "knkarthick/samsum", {"test": texts})
    settings = as_settings(replace(BYTES, train_rows=0))
    assert SAMSUM.load(settings, sources).notes[0] == (
        "rouge_tokenizer=default: ROUGE's default tokenizer drops 6 of 19 letters and digits of the references "
        "(31.58%), all but a-z and 0-9; set rouge_tokenizer=unicode to count them"
    )
    by_words = {**settings, "rouge_tokenizer": "unicode"}
    assert SAMSUM.load(by_words, sources).notes == (STOP,)
    assert "words of regex" in str(SAMSUM.identify(by_words, sources).details["rouge"])
    rows = [{"reference": "Кошка", "prediction": "Кошка", "generated_tokens": 1, "finished": 1, "truncated": 0}]
    found = [{m.name: m.value for m in SAMSUM.score(rows, each)}["rouge1"] for each in (settings, by_words)]
    assert found == [0.0, 1.0]
    with pytest.raises(ValueError, match="rouge_tokenizer 'unicod'; did you mean unicode"):
        replace(BYTES, rouge_tokenizer="unicod")


def test_the_identity_follows_the_data_and_says_how_it_is_scored(samsum: Sources) -> None:
    identity = SAMSUM.identify(as_settings(BYTES), samsum)
    assert identity.splits == {"train": 20, "validation": 6, "test": 8}
    assert (identity.details["padding"], identity.details["source"]) == ("left", "dialogue")
    assert str(identity.details["rouge"]).startswith("rouge-score ")
    write(samsum, "knkarthick/samsum", {"test": dialogues(7)})
    assert SAMSUM.identify(as_settings(BYTES), samsum).fingerprint != identity.fingerprint


def test_a_model_that_cannot_generate_is_refused(samsum: Sources) -> None:
    with pytest.raises(UnsupportedError, match="cannot do generate"):
        predict(samsum, Encoder())


def test_a_split_of_empty_rows_is_refused(samsum: Sources) -> None:
    write(samsum, "knkarthick/samsum", {"test": {**dialogues(2), "summary": ["", " "]}})
    with pytest.raises(ValueError, match="split test of knkarthick/samsum has no row"):
        SAMSUM.load(as_settings(BYTES), samsum)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "Summarize."}, "prompt is 'Summarize.'; it takes {source} once"),
        ({"prompt": "{source}{source}"}, "it takes {source} once"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; allowed: 1 or more, such as 128"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"test_rows": 0}, "test_rows is 0"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BYTES, **change)


def test_real_splits_have_their_known_sizes(real_mirror: Any, sources: Sources) -> None:
    identity = SAMSUM.identify({"tokenizer": "byte"}, replace(sources, mirror=real_mirror))
    assert identity.splits == {"train": 14_731, "validation": 818, "test": 819}
