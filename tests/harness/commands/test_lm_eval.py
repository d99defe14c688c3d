"""Both ways between hedgebench and lm-eval on the command line: its tasks on our models, our models in its command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

from hedgebench.harness import registry
from hedgebench.harness.commands.lm_eval import register
from hedgebench.harness.commands.lm_eval_model import HedgebenchLM
from hedgebench.harness.commands.reporting import rescore
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan
from hedgebench.harness.registry import Registry
from hedgebench.harness.running.runner import make_job
from hedgebench.harness.running.worker import run_job
from hedgebench.results.names import UnknownNameError, UsageError
from hedgebench.results.store import RunStore

from ...tasks.lm_eval_tiny import convert_to, peer, requests, save_checkpoint, write_task, write_words

Bench = Callable[..., Any]
PAIRS = (("the cat", " sat on the mat"), ("", "no context"), ("a ", "b"), ("a question of some length", " a"))


@pytest.fixture(autouse=True)
def _quick_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.__main__.setup_logging", lambda: None)  # its handler would outlive a test's streams
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # it asks pip, which takes a second


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint("gpt2", tmp_path_factory.mktemp("gpt2") / "model")


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    write_words(tmp_path / "mirror", ("test",))
    return tmp_path / "mirror"


def test_a_task_of_lm_eval_runs_and_scores_again_from_its_rows(checkpoint: Path, mirror: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "tiny")
    config = make_config(
        {
            "models": ("softmax", "hedgehog"),
            "tasks": ("lm_eval/tiny.yaml",),
            "backbone": f"hf:{checkpoint}",
            "mirror": str(mirror),
            "limit": 8,
            "batch_size": "4",
        }
    )
    store = RunStore(tmp_path / "out")
    store.create()
    for planned in make_plan(config):
        assert planned.problem is None
        outcome = run_job(make_job(config, store, planned), lambda _: None)
        record, rows = outcome.record, outcome.rows
        assert record.status == "ok", record.error
        store.write_samples(record.cell_id, rows)
        main = record.main()
        assert main is not None
        assert (record.task, main.name, main.n, main.higher_is_better) == ("lm_eval/tiny.yaml", "acc", 8, True)
        assert record.data is not None
        assert record.data.details["task_version"] == "3.0"
        assert record.settings["task.batch_size"] == 4
        again = {metric.name: metric for metric in rescore(record, store).metrics}
        assert again == {metric.name: metric for metric in record.metrics}
        assert "state_bytes" not in again


def test_tasks_of_one_model_share_a_process_and_each_has_its_own_record(
    bench: Bench, checkpoint: Path, mirror: Path, tmp_path: Path
) -> None:
    for name, more in (("one", {}), ("two", {}), ("broken", {"doc_to_target": "{{ 1 // 0 }}"})):
        write_task(tmp_path, name, **more)
    tasks = ",".join(f"lm_eval/{name}" for name in ("one.yaml", "two.yaml", "one.yaml:max_length=32", "broken.yaml"))
    arguments = ("--models", "softmax,elu", "--backbone", f"hf:{checkpoint}", "--tasks", tasks, "--mirror", mirror)
    done = bench("run", *arguments, "--output", tmp_path / "run", "--quiet")
    assert done.code == 3, done.err
    found = {(record.model, record.task): record for record in RunStore(tmp_path / "run").records().records}
    for model in ("softmax", "elu"):
        one, two, short, broken = (found[model, f"lm_eval/{name}"] for name in tasks.replace("lm_eval/", "").split(","))
        assert [record.status for record in (one, two, short, broken)] == ["ok", "ok", "ok", "error"]
        assert [any("loaded once" in note for note in record.notes) for record in (one, two, short)] == [
            False,
            True,
            False,
        ]
        assert one.metrics == two.metrics
        assert one.kernels == two.kernels != ()
        assert one.timings_s["build"] > two.timings_s["build"]


def test_an_unknown_setting_and_a_recipe_that_trains_are_wrong_usage(
    bench: Bench, checkpoint: Path, mirror: Path, tmp_path: Path
) -> None:
    write_task(tmp_path, "tiny")
    command = ("run", "--models", "hedgehog", "--tasks", "lm_eval/tiny.yaml", "--mirror", mirror)
    odd = bench(*command, "--backbone", f"hf:{checkpoint}", "--set", "num_fewshots=1")
    assert (odd.code, "did you mean num_fewshot" in odd.err) == (2, True)
    trained = bench(*command, "--backbone", f"hf:{checkpoint}", "--recipe", "pretrained-conversion-lora")
    assert (trained.code, "convert the model with bench convert" in trained.err) == (2, True)


def test_a_task_that_cannot_run_is_unsupported_and_the_others_run(
    checkpoint: Path, mirror: Path, tmp_path: Path
) -> None:
    write_task(tmp_path, "tiny")
    write_task(tmp_path, "seen", doc_to_image="text")
    write_task(tmp_path, "code", unsafe_code=True)
    config = make_config(
        {
            "models": (f"softmax@hf:{checkpoint}", "softmax@gpt"),
            "tasks": ("lm_eval/tiny.yaml", "lm_eval/seen.yaml", "lm_eval/code.yaml"),
            "mirror": str(mirror),
        }
    )
    runs, *refused = make_plan(config)
    assert (runs.problem, len(refused)) == (None, 5)
    reasons = [planned.problem.message.partition(";")[0] for planned in refused if planned.problem]
    assert all(planned.unsupported for planned in refused)
    assert reasons == [
        "tasks of lm-eval need a pretrained backbone, such as smollm2-135m or hf:ID_OR_FOLDER",
        *["it reads images or sound, and our language models read text"] * 2,
        *["it runs code that the model writes"] * 2,
    ]


def test_families_are_listed_and_made_from_names(tmp_path: Path) -> None:
    write_task(tmp_path, "tiny")
    known = registry.tasks()
    assert "lm_eval/" in known.families
    assert known.get("lm_eval/tiny.yaml").info.name == "lm_eval/tiny.yaml"
    assert registry.task_names("lm_eval/tiny.yaml") == ["lm_eval/tiny.yaml"]
    assert not any(name.startswith("lm_eval/") for name in registry.task_names("*"))
    with pytest.raises(UnknownNameError, match="unknown task 'lm_eval'; did you mean lm_eval/NAME"):
        registry.task_names("lm_eval")


def test_a_registry_without_families_knows_its_items_alone() -> None:
    with pytest.raises(UnknownNameError, match="unknown thing 'c'"):
        Registry("thing", {"a": 1}).get("c")


def test_our_model_in_lm_eval_scores_as_its_own(checkpoint: Path) -> None:
    model = HedgebenchLM(backbone=str(checkpoint), device="cpu", batch_size=2)
    ours = model.loglikelihood(requests("loglikelihood", *PAIRS))
    theirs = peer(checkpoint, 2).loglikelihood(requests("loglikelihood", *PAIRS), disable_tqdm=True)
    assert [score for score, _ in ours] == [pytest.approx(score, rel=1e-6) for score, _ in theirs]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_our_model_answers_in_bfloat16_as_lm_evals_own(kind: str, tmp_path: Path) -> None:
    folder = save_checkpoint(kind, tmp_path / "model")
    ours = HedgebenchLM(backbone=str(folder), device="cpu", dtype="bfloat16", batch_size=3, share_context=False)
    theirs = peer(folder, 3, "bfloat16")
    settings = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    texts = ("short", "the quick brown fox jumps over the lazy dog " * 4, "a", "two words", "and so on and on")
    asked: dict[str, list[Any]] = {
        "loglikelihood": requests("loglikelihood", *PAIRS),
        "loglikelihood_rolling": requests("loglikelihood_rolling", *((text,) for text in texts)),
        "generate_until": requests("generate_until", *((text, settings) for text in texts)),
    }
    for method, of_kind in asked.items():
        assert getattr(ours, method)(of_kind) == getattr(theirs, method)(of_kind, disable_tqdm=True), method
    assert ours.get_model_info()["model_dtype"] == "bfloat16"
    exact = HedgebenchLM(backbone=str(folder), device="cpu", dtype="float32", batch_size=3)
    assert exact.loglikelihood(asked["loglikelihood"]) != ours.loglikelihood(asked["loglikelihood"])


def test_a_task_answers_in_bfloat16_as_lm_evals_own_model(checkpoint: Path, mirror: Path, tmp_path: Path) -> None:
    write_task(tmp_path, "tiny")
    asked = {"models": ("softmax",), "tasks": ("lm_eval/tiny.yaml",), "backbone": f"hf:{checkpoint}"}
    others = {"dtype": "bfloat16", "batch_size": "4", "set": {"share_context": "false"}}
    config = make_config({**asked, "mirror": str(mirror), **others})
    (planned,) = make_plan(config)
    assert planned.cell.settings["backbone"]["weights"] == "bfloat16"
    store = RunStore(tmp_path / "out")
    store.create()
    outcome = run_job(make_job(replace(config, log_samples=True), store, planned), lambda _: None)
    record, rows = outcome.record, outcome.rows
    assert record.status == "ok", record.error
    asked_of_theirs = requests("loglikelihood", *(tuple(pair) for row in rows for pair in row["input"]))
    theirs = peer(checkpoint, 4, "bfloat16").loglikelihood(asked_of_theirs, disable_tqdm=True)
    assert [tuple(answer) for row in rows for (answer,) in row["responses"]] == theirs


@pytest.mark.parametrize("spec", ["", "hedgehog"])
def test_a_converted_folder_scores_in_a_batch_as_alone(checkpoint: Path, tmp_path: Path, spec: str) -> None:
    folder = convert_to(checkpoint, "hedgehog", tmp_path / "converted")
    asked = requests("loglikelihood", *PAIRS)
    together, alone = (
        HedgebenchLM(spec=spec, backbone=str(folder), device="cpu", batch_size=size).loglikelihood(asked)
        for size in (8, 1)
    )
    assert [score for score, _ in together] == [pytest.approx(score, rel=1e-5) for score, _ in alone]
    plain = HedgebenchLM(backbone=str(checkpoint), device="cpu").loglikelihood(asked)
    assert [score for score, _ in together] != [pytest.approx(score, rel=1e-5) for score, _ in plain]


def test_the_model_says_what_it_is(checkpoint: Path) -> None:
    model = HedgebenchLM(
        spec="hedgehog:window=4", backbone=f"hf:{checkpoint}", device="cpu", batch_size="auto", max_batch_size=16
    )
    model.loglikelihood(requests("loglikelihood", *PAIRS))
    told = model.get_model_info()
    assert (told["hedgebench_model"], told["max_length"], model.batch_size) == ("hedgehog:window=4", 64, 16)
    assert told["kernels"]
    assert (told["tokenizer_source"], told["prefix_token"]) == ("folder", "<|endoftext|>")
    assert model.chat_template(True) == model.tokenizer.chat_template


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "scratch"}, "recipe is 'scratch'; allowed is zero-shot"),
        ({"backbone": "gpt"}, "backbone gpt is trained from scratch"),
        ({"mirror": "/nowhere"}, "mirror '/nowhere' is not a folder"),
    ],
)
def test_what_lm_eval_cannot_measure_is_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HedgebenchLM(**arguments)  # type: ignore[arg-type]


def test_the_model_is_known_to_lm_eval_by_name_and_entry_point() -> None:
    from lm_eval.api.registry import get_model

    register()
    register()
    assert get_model("hedgebench") is HedgebenchLM


def test_lm_evals_command_line_passes_its_exit_code_on(bench: Bench) -> None:
    helped = bench("lm-eval", "--help")
    assert (helped.code, "lm-eval run" in helped.out) == (0, True)
    assert bench("lm-eval", "run", "--no-such-flag", "1").code == 2
    assert "lm-eval" in bench("--help").out


def test_lm_evals_command_line_runs_our_model(
    bench: Bench, checkpoint: Path, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks._index import TaskIndex

    files = {"test": str(mirror / "datasets/tiny/words/plain/test-00000-of-00001.parquet")}
    file = write_task(
        tmp_path / "tasks",
        "tiny",
        dataset_path="parquet",
        dataset_name=None,
        dataset_kwargs={"data_files": files},
        training_split=None,
    )
    build = TaskIndex.build  # without lm-eval's own 14,000 files, which take seconds
    monkeypatch.setattr(
        TaskIndex, "build", staticmethod(lambda paths: build([p for p in paths if tmp_path in p.parents]))
    )
    ran = bench(
        *("lm-eval", "run", "--model", "hedgebench", "--tasks", "tiny", "--include_path", file.parent, "--limit", "4"),
        *("--model_args", f"spec=hedgehog:window=4,backbone={checkpoint}", "--device", "cpu", "--output_path", "out"),
    )
    assert ran.code == 0, ran.err
    (results,) = (tmp_path / "out").rglob("results_*.json")
    content = json.loads(results.read_text(encoding="utf-8"))
    assert content["config"]["hedgebench_model"] == "hedgehog:window=4"
    assert "acc,none" in content["results"]["tiny"]
