"""The command line as scripts and CI see it: exit codes, messages, and how quickly it answers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hedgebench
from hedgebench.harness import arguments, cli
from hedgebench.results.report.write import RENDERERS

BenchProcess = Callable[..., Any]
HEAVY = ("torch", "transformers", "datasets", "pandas", "matplotlib", "lm_eval", "triton")
RUN = ("run", "--models", "elu", "--tasks", "associative_recall")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "sofmax", "--tasks", "stdlib"), "unknown model 'sofmax'; did you mean softmax"),
        (("--models", "elu", "--tasks", "stdlb"), "unknown task 'stdlb'; did you mean stdlib"),
        (("--models", "taylor:features=8", "--tasks", "stdlib"), "'features'; did you mean feature_dim"),
        (("--models", "performer:feature_dim=x", "--tasks", "stdlib"), "option feature_dim is 'x'; allowed: int"),
        (("--models", "hedgehog:negate=yes", "--tasks", "stdlib"), "option negate is 'yes'; allowed: true, false"),
        ((*RUN[1:], "--seeds", "x"), "seeds are 'x'; allowed: whole numbers from 0"),
        ((*RUN[1:], "--set", "vocabsize=4"), "unknown setting 'vocabsize'; did you mean vocab_size"),
        ((*RUN[1:], "--set", "lr=0.1"), "unknown setting 'lr'; did you mean train.lr?"),
        (("--models", "elu", "--tasks", "lm_eval/none.yaml"), "there is no file 'none.yaml'"),
        ((*RUN[1:], "--set", "train.steps=many"), "setting train.steps is 'many'; allowed: int"),
        ((*RUN[1:], "--set", "train.steps=none"), "setting train.steps is 'none'; allowed: int"),
        ((*RUN[1:], "--set", "train.warmup=50"), "train.warmup is 50.0; allowed: from 0 to 1, a share of the steps"),
        ((*RUN[1:], "--set", "backbone.heads=3"), "backbone gpt: width 64 is not a multiple of heads 3"),
        ((*RUN[1:], "--set", "backbone.layers=0"), "backbone gpt: layers is 0; allowed: 1 or more"),
        (
            ("--models", "elu", "--tasks", "wikitext2", "--backbone", "gpt2", "--set", "backbone.weights=float16"),
            "unknown backbone.weights 'float16'; did you mean bfloat16",
        ),
        ((*RUN[1:], "--set", "length=7"), "task associative_recall: length is 7; it takes an even number from 4"),
        ((*RUN[1:], "--output", "/dev/null/out"), "cannot write results to /dev/null/out"),
        ((*RUN[1:], "--mirror", "nowhere"), "mirror 'nowhere' is not a folder"),
        ((*RUN[1:], "--limit", "0"), "limit is 0"),
        (("--models", "", "--tasks", ""), "models is an empty list"),
        (("--models", "elu"), "no tasks given: pass --tasks"),
        (("--config", "none.toml"), "cannot read configuration 'none.toml'"),
        ((*RUN[1:], "--seds", "1"), "unknown flag '--seds'; did you mean --seeds"),
    ],
)
def test_a_wrong_command_ends_with_2_and_one_line_that_helps(
    bench: BenchProcess, arguments: tuple[str, ...], message: str
) -> None:
    finished = bench("run", *arguments)
    assert finished.code == 2
    assert finished.err.startswith("bench: error: ")
    assert message in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not Path("results").exists()


@pytest.mark.parametrize(
    "arguments", [(), ("rnu",), ("list",), ("list", "model"), ("report",), (*RUN, "--limit", "x"), (*RUN, "what")]
)
def test_what_the_parser_refuses_ends_with_2(bench: BenchProcess, arguments: tuple[str, ...]) -> None:
    finished = bench(*arguments)
    assert finished.code == 2
    assert "usage: bench" in finished.err


def test_hidden_flags_are_not_suggested(bench: BenchProcess) -> None:
    told = bench(*RUN, "--calller=1").err
    assert "unknown flag '--calller'" in told
    assert "--caller" not in told.replace("--calller", "")


def test_flags_stand_anywhere(bench: BenchProcess) -> None:
    in_order = bench("list", "models", "elu", "--json")
    assert in_order.code == 0
    assert bench("list", "--json", "models", "elu").out == bench("list", "models", "--json", "elu").out == in_order.out
    claims = ("paper", "claims", "--scale", "smoke", "--output", "none", "table-9", "--json")
    assert bench(*claims).out == bench("paper", "claims", "table-9", *claims[2:6], "--json").out


def test_a_bad_file_ends_with_2_and_says_where(bench: BenchProcess, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("models = [\n", encoding="utf-8")
    assert "cannot read configuration" in bench("run", "--config", "run.toml").err
    (tmp_path / "run.toml").write_text("model = 'elu'\n", encoding="utf-8")
    finished = bench("run", "--config", "run.toml")
    assert finished.code == 2
    assert "in 'run.toml': unknown key 'model'; did you mean models" in finished.err


def test_flags_win_over_the_file(bench: BenchProcess, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("models='elu'\ntasks='stdlib'\nscale='huge'\n[set]\na='1'\n", encoding="utf-8")
    assert "unknown scale 'huge'" in bench("run", "--config", "run.toml").err
    finished = bench("run", "--config", "run.toml", "--scale", "smoke", "--set", "length=8")
    assert "unknown setting 'a'" in finished.err


def test_missing_data_ends_with_3_and_says_where_it_was_looked_for_and_what_to_do(
    bench: BenchProcess, tmp_path: Path
) -> None:
    (tmp_path / "mirror").mkdir()
    finished = bench("run", "--models", "elu", "--tasks", "wikitext2", "--mirror", "mirror", "--output", "out")
    assert finished.code == 3
    for part in (
        "Salesforce/wikitext (wikitext-2-v1) is not available",
        f"mirror {tmp_path / 'mirror'}/datasets/Salesforce/wikitext: there is no folder wikitext-2-v1",
        "hub: not asked, because offline was chosen (HF_HUB_OFFLINE=1)",
        "Pass --mirror DIR (or set HEDGEBENCH_MIRROR)",
        "1 of 1 cells have no result: 1 error",
    ):
        assert part in finished.out
    told, began = finished.out.index("1 of 1 cells cannot run (wikitext2): Salesforce"), finished.out.index("[1/1]")
    assert told < began


def test_data_without_a_test_split_are_refused_with_what_to_do(bench: BenchProcess, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
    own = ("run", "--models", "softmax", "--output", "out", "--tasks")
    finished = bench(*own, "classification:file=own")
    assert finished.code == 2
    for part in (f"unknown split of {tmp_path}/own, given as test_split, 'test' (allowed: train)",
                 "divide them into a train and a test file", "test_split=NAME:train_split=none"):  # fmt: skip
        assert part in finished.err
    untrained = bench(*own, "classification:file=own:test_split=train:train_split=none")
    assert (untrained.code, "choose a pretrained one" in untrained.err) == (2, True)


def test_models_on_different_backbones_by_accident_are_told_before_anything_starts(bench: BenchProcess) -> None:
    lost = ("run", "--tasks", "wikitext2", "--output", "out", "--models")
    told = "wikitext2: elu is on gpt and not on encoder, and scores on different backbones are not compared"
    assert told in bench(*lost, "softmax@encoder,elu").out.partition("[1/")[0]
    for models in (("softmax@gpt,elu",), ("softmax@encoder,elu", "--backbone", "gpt"), ("softmax@encoder,elu@gpt",)):
        assert "not compared" not in bench(*lost, *models).out


def test_a_model_that_cannot_do_a_task_ends_with_3_and_the_reason(bench: BenchProcess) -> None:
    finished = bench(*RUN, "--backbone", "encoder", "--output", "out")
    assert finished.code == 3
    assert "unsupported: backbone encoder cannot do what associative_recall needs: language_model" in finished.out


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("list", "models"), ("list", "tasks", "--json")])
def test_help_and_listings_answer_from_any_folder_as_a_process(
    bench_process: BenchProcess, arguments: tuple[str, ...]
) -> None:
    finished = bench_process(*arguments)
    assert (finished.code, finished.err) == (0, "")
    assert len(finished.out) > 200
    if "--json" in arguments:
        assert {"task", "data", "licence"} <= set(json.loads(finished.out)[0])


WITHOUT_NUMBERS = [["--help"], ["run", "--help"], *(["list", what] for what in arguments.LISTINGS)]
QUICK = [
    *WITHOUT_NUMBERS,
    *(["report", "run"], ["run", "--models", "sofmax", "--tasks", "stdlib"]),
    *(["list", "tasks", "stdlib"], ["list", "models", "hedgehog"]),
]


def test_quick_commands_import_nothing_heavy(tmp_path: Path) -> None:
    """One after another in one process, which starts once; the first that imports something heavy is named."""
    (tmp_path / "run" / "cells").mkdir(parents=True)
    script = (
        "import sys\nfrom hedgebench.harness.cli import main\n"
        f"for arguments in {QUICK!r}:\n    try:\n        main(arguments)\n    except SystemExit:\n        pass\n"
        f"    heavy = set({HEAVY!r}) | ({{'numpy'}} if arguments in {WITHOUT_NUMBERS!r} else set())\n"
        "    heavy &= set(sys.modules)\n"
        "    print('heavy:', *heavy, *(arguments if heavy else ()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    told = [line.strip() for line in done.stdout.splitlines() if line.startswith("heavy:")]
    assert told == ["heavy:"] * len(QUICK)


def test_the_version_is_that_of_the_package(bench_process: BenchProcess) -> None:
    assert bench_process("--version").out == f"bench {hedgebench.__version__}\n"


def test_a_listing_takes_not_much_longer_than_python_itself() -> None:
    def seconds(*arguments: str) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds("-m", "hedgebench", "list", "models") < 100 * seconds("-c", "pass")


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m hedgebench list models --json | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_env_tells_versions_and_where_data_would_come_from(bench: BenchProcess, tmp_path: Path) -> None:
    (tmp_path / "mirror" / "datasets" / "org" / "name").mkdir(parents=True)
    finished = bench("env", "--json", "--mirror", "mirror")
    report = json.loads(finished.out)
    assert finished.code == 0
    assert report["host"]["torch"]
    assert report["device"]["device"] in ("cpu", "cuda")
    assert report["sources"]["mirror data sets"] == ["org/name"]
    assert report["sources"]["hub"] == "off (HF_HUB_OFFLINE=1)"
    assert report["plugins"]["broken"] == {}
    assert "mirror data sets: org/name" in bench("env", "--mirror", "mirror").out


def test_what_the_parser_offers_is_what_exists() -> None:
    assert tuple(RENDERERS) == arguments.FORMATS
    commands = next(action.choices for action in cli.make_parser()._actions if action.dest == "command")
    assert {"run", "list", "report", "env"} <= set(commands or ())
