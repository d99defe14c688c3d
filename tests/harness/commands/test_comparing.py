"""`bench compare` and `bench baseline` as commands: exit codes, files, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("junitparser")

from junitparser import JUnitXml

from hedgebench.results.store import RunStore

Bench = Callable[..., Any]


@pytest.fixture
def ran(finished: RunStore) -> Path:
    return finished.root


def rewritten(run: Path, to: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run with its records changed."""
    for file in [*run.glob("cells/*.json"), *run.glob("samples/*.jsonl")]:
        target = Path(to) / file.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text()
        if file.suffix == ".json":
            record = json.loads(text)
            change(record)
            text = json.dumps(record)
        target.write_text(text)
    return Path(to)


def test_a_run_its_baseline_and_itself_agree(bench: Bench, ran: Path) -> None:
    assert bench("compare", ran, ran).code == 0
    made = bench("baseline", ran, "-o", "baselines/tiny.json")
    assert (made.code, made.err) == (0, "")
    compared = bench("compare", "baselines/tiny.json", ran, "--junit", "junit.xml")
    assert compared.code == 0
    assert compared.out.startswith("**no regression**: 2 unchanged")
    assert "paired bootstrap, 8" in compared.out
    assert JUnitXml.fromfile("junit.xml").failures == 0


def test_a_loss_is_exit_code_1_and_goes_to_the_jobs_summary(
    bench: Bench, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(record: dict[str, Any]) -> None:
        record["metrics"][0]["value"] -= 0.2

    bad = rewritten(ran, "bad", worse)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    compared = bench("compare", ran, bad, "--format", "github")
    assert compared.code == 1
    assert compared.out.startswith("::error title=regressed")
    assert Path("summary.md").read_text().startswith("**regression**: 2 regressed")
    tolerant = bench("compare", ran, bad, "--tolerance", "accuracy=25")
    assert tolerant.code == 0
    assert Path("summary.md").read_text().endswith(tolerant.out)  # appended, whatever the format


def test_what_cannot_be_decided_is_exit_code_4(bench: Bench, ran: Path) -> None:
    def other_data(record: dict[str, Any]) -> None:
        record["data"]["fingerprint"] = "beef"

    compared = bench("compare", ran, rewritten(ran, "other", other_data), "--format", "json")
    assert compared.code == 4
    assert json.loads(compared.out)["counts"]["incomparable"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "out", "nowhere"), "'nowhere' does not exist"),
        (("compare", "out", "out", "--tolerance", "accuracy"), "is not METRIC=PERCENT"),
        (("compare", "out", "out", "--tolerance", "accuracy=-1"), "a percentage of 0 or more"),
        (("compare", "out", "out", "--tolerance", "acuracy=1"), "did you mean accuracy"),
        (("compare", "out", "out", "--junit", "no/such/folder.xml"), "cannot write no/such/folder.xml"),
        (("compare", "out", "broken.json"), "cannot read broken.json"),
        (("baseline", "nowhere", "-o", "b.json"), "'nowhere' does not exist"),
    ],
)
def test_bad_input_is_exit_code_2(bench: Bench, ran: Path, arguments: tuple[str, ...], message: str) -> None:
    assert ran.is_dir()
    Path("broken.json").write_text("{")
    answer = bench(*arguments)
    assert answer.code == 2
    assert message in answer.err


def test_comparing_does_not_import_torch(bench_process: Bench, ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("torch.py").write_text("raise ImportError('torch was imported')")
    monkeypatch.setenv("PYTHONPATH", f"{Path.cwd()}:{os.environ['PYTHONPATH']}")
    assert bench_process("compare", ran, ran).code == 0
