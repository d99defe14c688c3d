"""A task of lm-eval on our models gives lm-eval's own numbers, from data in a mirror, and again from its rows alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgebench.adapters.base import Capability, UnsupportedError
from hedgebench.results.record import Metric
from hedgebench.results.stats.scores import sample_scores
from hedgebench.tasks.base import BackboneTokenizer, DataUnavailableError, Row, Sources, TaskFamily
from hedgebench.tasks.lm_eval.config import TaskConfig
from hedgebench.tasks.lm_eval.task import LM_EVAL, LmEvalTask

from ..lm_eval_tiny import adapter_of, convert_to, peer, save_checkpoint, write_task, write_words

PERPLEXITY = [
    {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
    {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
]
KINDS: Mapping[str, Mapping[str, Any]] = {
    "choice": {},
    "completion": {"output_type": "loglikelihood", "doc_to_target": " {{choices[label]}}", "metric_list": PERPLEXITY},
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": None,
    },
    "grammar": {"metric_list": [{"metric": "mcc"}], "doc_to_choice": ["no", "yes"], "doc_to_target": "{{label % 2}}"},
    "answer": {
        "output_type": "generate_until",
        "doc_to_choice": None,
        "doc_to_target": "{{choices[label]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {"name": "strict", "filter": [{"function": "take_first"}]},
            {"name": "first", "filter": [{"function": "regex", "regex_pattern": "(.)"}, {"function": "take_first"}]},
        ],
    },
    "shown": {"num_fewshot": 1, "fewshot_split": "train"},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("gpt2", tmp_path_factory.mktemp("gpt2") / "model")


@pytest.fixture
def here(sources: Sources, checkpoint: Path) -> Sources:
    """Sources with the tiny data, and the checkpoint's tokenizer."""
    assert sources.mirror is not None
    write_words(sources.mirror, ("test", "train"))
    return replace(sources, tokenizer=BackboneTokenizer("tiny", "x", checkpoint))


def task_in(file: Path) -> LmEvalTask:
    task = LM_EVAL.get(f"lm_eval/{file}")
    assert isinstance(task, LmEvalTask)
    return task


def settings_of(task: LmEvalTask, **changed: Any) -> dict[str, Any]:
    return {**task.info.scales["smoke"].settings, "batch_size": 3, **changed}


def run(task: LmEvalTask, here: Sources, folder: Path, limit: int | None = None, **changed: Any) -> list[Row]:
    settings = settings_of(task, **changed)
    rows = task.predict(adapter_of(folder), task.load(settings, here, limit), settings)
    stored: list[Row] = json.loads(json.dumps(rows))
    return stored


def score(task: LmEvalTask, rows: list[Row], **changed: Any) -> dict[str, Metric]:
    return {metric.name: metric for metric in task.score(rows, settings_of(task, **changed))}


def lm_evals(folder: Path, name: str, tasks: Path, mirror: Path, draws: int, **options: Any) -> dict[str, Any]:
    """What lm-eval's own model and evaluation give for the same file."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    data = mirror / "datasets/tiny/words/plain"
    files = {split: str(data / f"{split}-00000-of-00001.parquet") for split in ("test", "train")}
    task = {"task": name, "dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    own: Any = manager.task_index[name].cfg
    evaluate: Any = evaluator.simple_evaluate
    results = evaluate(
        peer(folder), tasks=[{**own, **task}], task_manager=manager, bootstrap_iters=draws, log_samples=False, **options
    )
    return dict(results["results"][name])


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_standard_errors_are_lm_evals(
    kind: str, here: Sources, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # it asks pip, which takes a second
    assert here.mirror is not None
    draws = 1000 if kind == "completion" else 100
    task = task_in(write_task(tmp_path / "tasks", kind, **KINDS[kind]))
    ours = score(task, run(task, here, checkpoint, bootstrap_iters=draws), bootstrap_iters=draws)
    theirs = lm_evals(checkpoint, kind, tmp_path / "tasks", here.mirror, draws)
    for key, value in theirs.items():
        metric, _, filtered_by = key.partition(",")
        if not filtered_by:
            continue
        of = ours[metric.removesuffix("_stderr") + ("" if filtered_by == "none" else f".{filtered_by}")]
        if value == "N/A":  # lm-eval has none for ratios of sums; ours is there all the same
            assert of.name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
            assert of.stderr is not None
            assert of.stderr > 0
        elif "_stderr" in metric:
            assert of.stderr == pytest.approx(value, rel=1e-5)
        else:
            assert of.value == pytest.approx(value, rel=1e-6)
    assert task.info.main_metric in ours
    assert all(metric.n == 12 for metric in ours.values())


def test_the_directions_are_those_of_the_task(tmp_path: Path) -> None:
    rows: list[Row] = [{"document": i, "acc": 1.0, "odd": -float(i), "values": {}} for i in range(2)]
    task = task_in(
        write_task(tmp_path, "odd", metric_list=[{"metric": "acc"}, {"metric": "odd", "aggregation": "mean"}])
    )
    assert {m.name: m.higher_is_better for m in task.score(rows, settings_of(task))} == {"acc": True, "odd": None}


def test_rows_are_one_per_document_and_serve_comparisons(here: Sources, checkpoint: Path, tmp_path: Path) -> None:
    task = task_in(write_task(tmp_path, "choice"))
    rows = run(task, here, checkpoint, limit=5)
    assert [row["document"] for row in rows] == list(range(5))
    assert all(len(row["responses"]) == len(row["input"]) == 4 for row in rows)
    metric = score(task, rows)["acc"]
    assert metric.n == 5
    scores = sample_scores(metric, rows)
    assert scores is not None
    assert len(scores.labels) == 5


def test_a_converted_model_runs_in_a_task_too(here: Sources, checkpoint: Path, tmp_path: Path) -> None:
    folder = convert_to(checkpoint, "hedgehog", tmp_path / "converted")
    task = task_in(write_task(tmp_path, "completion", **KINDS["completion"]))
    converted, plain = (score(task, run(task, here, place)) for place in (folder, checkpoint))
    assert converted["perplexity"].value != plain["perplexity"].value


def test_a_template_and_an_instruction_stand_in_the_prompt(here: Sources, checkpoint: Path, tmp_path: Path) -> None:
    task = task_in(write_task(tmp_path, "choice"))
    prompt = run(task, here, checkpoint, 1, chat_template=True)[0]["input"][0][0]
    assert prompt == "<user>Which follows the cat sat 0?<assistant>"
    told = run(task, here, checkpoint, 1, system_instruction="Be brief.")[0]["input"][0][0]
    assert told.startswith("Be brief.")


def test_the_identity_says_which_data_release_version_and_examples(here: Sources, tmp_path: Path) -> None:
    task = task_in(write_task(tmp_path, "choice"))
    identity = task.identify(settings_of(task), here)
    assert (identity.id, identity.source, identity.splits) == ("tiny/words/plain", "mirror", {"test": 12})
    assert {key: identity.details[key] for key in ("lm_eval", "task_version", "num_fewshot")} == {
        "lm_eval": "0.4.13",
        "task_version": "3.0",
        "num_fewshot": 0,
    }
    shown = task.identify(settings_of(task, num_fewshot=2), here)
    assert shown.splits == {"test": 12, "train": 12}
    assert shown.details["num_fewshot"] == 2


def test_the_identity_follows_every_file_that_the_task_is_made_of(here: Sources, tmp_path: Path) -> None:
    """The task's own file, one that is included there, one that is included by that, and the modules of functions."""
    write_task(tmp_path, "base", include="deeper.yaml")
    (tmp_path / "deeper.yaml").write_text("process_docs: !function steps.shared.keep\nrepeats: 1\n", encoding="utf-8")
    (tmp_path / "own.yaml").write_text(
        "include: base.yaml\ntask: own\ndoc_to_target: !function utils.target\n", encoding="utf-8"
    )
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "shared.py").write_text("def keep(docs):\n    return docs\n", encoding="utf-8")
    (tmp_path / "utils.py").write_text("def target(doc):\n    return doc['label']\n", encoding="utf-8")
    task = task_in(tmp_path / "own.yaml")
    assert [file.name for file in task.config.files()] == [
        "own.yaml",
        "utils.py",
        "base.yaml",
        "deeper.yaml",
        "shared.py",
    ]

    def identity() -> Any:
        return task.identify(settings_of(task), here).details["task_file"]

    before = identity()
    assert before == identity()
    for file in task.config.files():
        text = file.read_text(encoding="utf-8")
        file.write_text(f"{text}\n", encoding="utf-8")
        assert identity() != before, file
        file.write_text(text, encoding="utf-8")
    (tmp_path / "unrelated.py").write_text("", encoding="utf-8")
    assert identity() == before


def test_modules_of_the_release_are_not_among_the_files_but_those_of_others_are(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "task: x\na: !function lm_eval.utils.handle_stop_sequences\nb: !function json.decoder.JSONDecoder\n",
        encoding="utf-8",
    )
    assert [file.name for file in TaskConfig(tmp_path / "x.yaml", {}).files()] == ["x.yaml", "decoder.py"]


def test_examples_that_a_task_fixes_at_none_stay_none_and_the_record_says_so(here: Sources, tmp_path: Path) -> None:
    task = task_in(write_task(tmp_path, "fixed", num_fewshot=0))
    settings = settings_of(task, num_fewshot=5)
    assert task.identify(settings, here).details["num_fewshot"] == 0
    assert task.load(settings, here, 1).notes == ("num_fewshot stays 0, not 5: the task's configuration fixes it",)


def test_only_the_splits_that_are_read_need_be_there(sources: Sources, checkpoint: Path, tmp_path: Path) -> None:
    assert sources.mirror is not None
    write_words(sources.mirror, ("test",))
    here = replace(sources, tokenizer=BackboneTokenizer("tiny", "x", checkpoint))
    task = task_in(write_task(tmp_path, "choice"))
    assert len(run(task, here, checkpoint, 2)) == 2
    with pytest.raises(DataUnavailableError, match=r"mirror .*tiny/words: it has test but no train"):
        task.identify(settings_of(task, num_fewshot=1), here)


def test_missing_data_are_named_with_the_places_looked_at(here: Sources, tmp_path: Path) -> None:
    task = task_in(write_task(tmp_path, "choice", dataset_path="other/thing"))
    with pytest.raises(DataUnavailableError) as raised:
        task.identify(settings_of(task), here)
    text = str(raised.value)
    assert "other/thing (plain) is not available" in text
    assert f"mirror {here.mirror}/datasets/other/thing: there is no such folder" in text
    assert "hub: not asked, because offline was chosen" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"doc_to_image": "text"}, "it reads images or sound"),
        ({"unsafe_code": True}, "set unsafe_code=true if you accept that"),
    ],
)
def test_a_task_that_cannot_run_says_why(values: dict[str, Any], message: str, here: Sources, tmp_path: Path) -> None:
    task = task_in(write_task(tmp_path, "odd", **values))
    with pytest.raises(UnsupportedError, match=message):
        task.identify(settings_of(task), here)


def test_a_backbone_from_scratch_is_refused(sources: Sources, tmp_path: Path) -> None:
    task = task_in(write_task(tmp_path, "choice"))
    with pytest.raises(UnsupportedError, match="tasks of lm-eval need a pretrained backbone"):
        task.identify(settings_of(task), sources)


def test_the_declaration_follows_the_file(tmp_path: Path) -> None:
    assert isinstance(LM_EVAL, TaskFamily)
    task = task_in(write_task(tmp_path, "answer", **KINDS["answer"]))
    assert task.info.main_metric == "exact_match.strict"
    assert task.info.needs == {Capability.LANGUAGE_MODEL, Capability.GENERATE}
    assert "version 3.0" in task.info.citation


def test_a_metric_of_one_document_has_no_standard_error(tmp_path: Path) -> None:
    task = task_in(write_task(tmp_path, "choice"))
    (metric,) = task.score([{"document": 0, "acc": 1.0, "values": {}}], settings_of(task))
    assert (metric.value, metric.stderr, metric.n) == (1.0, None, 1)


def test_a_file_that_changes_between_two_runs_of_one_process_is_read_anew(tmp_path: Path) -> None:
    assert task_in(write_task(tmp_path, "choice")).config.version == "3.0"
    assert task_in(write_task(tmp_path, "choice", metadata={"version": 4.0})).config.version == "4.0"
