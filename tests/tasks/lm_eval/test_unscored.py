"""Requests that lm-eval's own model fails at: such documents have no score and are told, and the others keep theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.adapters.base import UnsupportedError
from hedgebench.results.stats.scores import sample_scores
from hedgebench.tasks.base import BackboneTokenizer, Sources
from hedgebench.tasks.lm_eval.scores import leave_out
from hedgebench.tasks.lm_eval.task import LM_EVAL
from hedgebench.tasks.lm_eval.text import TextModel

from ..lm_eval_tiny import (
    adapter_of,
    merge_letters,
    peer,
    requests,
    save_checkpoint,
    text_model_of,
    write_data,
    write_task,
)

GREEDY = {"until": ["\n"], "max_gen_toks": 4, "do_sample": False}
COVERED = "a continuation has no token of its own: one that belongs to the context covers it"
NO_PREFIX = "the tokenizer has neither a BOS nor an EOS token, of which one stands before a text without context"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merge_letters(save_checkpoint("gpt2", tmp_path_factory.mktemp("merged") / "model"))


def collecting(folder: Path) -> TextModel:
    return replace(text_model_of(folder), unscored={})


def without_special_tokens(folder: Path, **kept: str) -> TextModel:
    model = collecting(folder)
    model.tokenizer.bos_token = kept.get("bos")
    model.tokenizer.eos_token = kept.get("eos")
    return model


def scores(model: TextModel, *pairs: tuple[str, str]) -> list[float]:
    return [score for score, _ in model.loglikelihood(requests("loglikelihood", *pairs))]


def test_a_continuation_that_a_token_of_the_context_covers_has_no_score_and_the_others_do(folder: Path) -> None:
    model = collecting(folder)
    found = scores(model, ("the cat", " sat"), ("ax", "y"), ("ax", "yz"), ("a", ""), ("b", "c" * 65))
    assert model.unscored == {
        1: COVERED,
        3: "a continuation is empty",
        4: "a continuation has more than 64 tokens, the most that the model reads",
    }
    fine = requests("loglikelihood", ("the cat", " sat"), ("ax", "yz"))
    theirs = [score for score, _ in peer(folder).loglikelihood(fine, disable_tqdm=True)]
    assert [found[0], found[2]] == [pytest.approx(score, rel=1e-6) for score in theirs]
    with pytest.raises(UnsupportedError, match="document 1 cannot be scored: a continuation has no token of its own"):
        scores(text_model_of(folder), ("the cat", " sat"), ("ax", "y"))


def test_a_context_of_spaces_belongs_to_the_continuation(folder: Path) -> None:
    model = collecting(folder)
    asked = requests("loglikelihood", ("", "  \nsat"))
    ((expected, _),) = peer(folder).loglikelihood(asked, disable_tqdm=True)
    assert scores(model, ("the", " cat"), ("  \n", "sat"))[1] == pytest.approx(expected, rel=1e-6)
    assert (model.unscored, model.without_context) == ({}, {1})
    with pytest.raises(AssertionError):
        peer(folder).loglikelihood(requests("loglikelihood", ("  ", "sat")), disable_tqdm=True)


def test_a_tokenizer_without_a_token_that_begins_texts_scores_what_has_a_context(folder: Path) -> None:
    model = without_special_tokens(folder)
    assert scores(model, ("the cat", " sat"), ("", "sat"))[0] == scores(collecting(folder), ("the cat", " sat"))[0]
    assert model.unscored == {1: NO_PREFIX}
    assert model.loglikelihood_rolling(requests("loglikelihood_rolling", ("text",))) == [0]
    assert model.unscored == {0: NO_PREFIX, 1: NO_PREFIX}
    model.unscored = None
    with pytest.raises(UnsupportedError, match=f"document 0 cannot be scored: {NO_PREFIX}"):
        model.loglikelihood_rolling(requests("loglikelihood_rolling", ("text",)))


def test_texts_are_not_generated_without_a_token_that_ends_them_nor_after_nothing(folder: Path) -> None:
    with pytest.raises(UnsupportedError, match="the tokenizer has no EOS token"):
        without_special_tokens(folder).generate_until(requests("generate_until", ("a", GREEDY)))
    model = collecting(folder)
    empty, cat = model.generate_until(requests("generate_until", ("", GREEDY), ("the cat", GREEDY)))
    assert (empty, model.unscored) == ("", {0: "a prompt has no token"})
    assert [cat] == peer(folder).generate_until(requests("generate_until", ("the cat", GREEDY)), disable_tqdm=True)


def test_what_rouge_drops_of_targets_and_answers_is_noted() -> None:
    rows = [
        {"document": 0, "target": "Öl 5", "responses": [["Al 5"]], "values": {}, "rouge1": 0.5},
        {"document": 1, "target": ["ab", "你好"], "responses": [["ab"]], "values": {}, "rouge1": 1.0},
    ]
    noted = leave_out(rows, {}, ())
    assert noted[0]["notes"] == [
        "rouge1: ROUGE's default tokenizer drops 3 of 12 letters and digits of targets and answers (25.00%), all but "
        "a-z and 0-9; they count only if the task's own code splits texts otherwise"
    ]
    assert noted[1] == rows[1]
    assert leave_out([{**row, "target": "oil", "responses": []} for row in rows], {}, ())[0].keys() == rows[0].keys()
    other = [{**{key: value for key, value in row.items() if key != "rouge1"}, "acc": 1} for row in rows]
    assert leave_out(other, {}, ()) == other


def write_questions(mirror: Path, documents: Sequence[int]) -> None:
    """Of twelve questions these; an answer to the fourth is covered, and the sixth is a space."""
    texts = ["x" if i == 3 else " " if i == 5 else f"Q{i}" for i in range(12)]
    rows: dict[str, list[Any]] = {
        "text": [texts[i] for i in documents],
        "label": [i % 3 for i in documents],
        "choices": [["y", "no way", f"{i}"] for i in documents],
    }
    write_data(mirror, "tiny/words", "plain", "test", rows)


def test_a_task_counts_and_names_what_it_cannot_score(folder: Path, sources: Sources, tmp_path: Path) -> None:
    assert sources.mirror is not None
    here = replace(sources, tokenizer=BackboneTokenizer("tiny", "x", folder))
    task: Any = LM_EVAL.get(
        f"lm_eval/{write_task(tmp_path, 'odd', doc_to_text='{{text}}', target_delimiter='', training_split=None)}"
    )
    settings = {**task.info.scales["smoke"].settings, "batch_size": 3}

    def run(documents: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        write_questions(sources.mirror or tmp_path, documents)
        rows = task.predict(adapter_of(folder), task.load(settings, here), settings)
        return rows, {metric.name: metric for metric in task.score(rows, settings)}

    rows, metrics = run(range(12))
    fine, expected = run([i for i in range(12) if i != 3])
    assert rows[0]["notes"] == [
        f"1 of 12 documents (3) are unscored: {COVERED}",
        "1 of 12 documents (5) are scored without context, where lm-eval's own model fails: "
        "their context is white space alone",
    ]
    assert (rows[3]["unscored"], "acc" in rows[3], len(rows)) == (COVERED, False, 12)
    assert (metrics["unscored"].value, metrics["unscored"].n, metrics["acc"].n) == (1, 12, 11)
    assert "unscored" not in expected
    assert [metrics[name].value for name in ("acc", "acc_norm")] == [
        expected[name].value for name in ("acc", "acc_norm")
    ]
    assert [row["acc"] for row in rows if "acc" in row] == [row["acc"] for row in fine]
    paired = sample_scores(metrics["acc"], rows)
    assert paired is not None
    assert len(paired.labels) == 11
    with pytest.raises(UnsupportedError, match="none of the 1 documents can be scored: a continuation has no token"):
        run([3])
