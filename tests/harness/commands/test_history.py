"""`bench history` on runs, baselines and folders of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hedgebench.harness.cli import main
from hedgebench.results.compare.baseline import write_baseline
from hedgebench.results.compare.snapshot import Snapshot
from hedgebench.results.record import Metric

from ...results.simulated import make_record


@pytest.fixture
def baselines(tmp_path: Path) -> Path:
    """A folder of three baselines whose names are not in the order of their commits."""
    folder = tmp_path / "baselines"
    for name, month, value in (("c", 1, 20.0), ("a", 2, 21.0), ("b", 3, 21.0)):
        facts = {"git_commit": name * 40, "git_commit_date": f"2026-0{month}-01T00:00:00+00:00", "cpu": "a processor"}
        record = make_record("elu", "wikitext2", 0, (Metric("perplexity", value, "1", False, None, 9),))
        record = make_record("elu", "wikitext2", 0, record.metrics, environment=facts)
        write_baseline(Snapshot(name, (record,)), folder / f"{name}.json")
    return folder


def test_a_folder_of_baselines_is_drawn_in_the_order_of_commits(
    baselines: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["history", str(baselines), "-o", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert "3 runs, from ccccccc 2026-01-01 to bbbbbbb 2026-03-01" in printed
    assert "▁██" in printed
    assert "regressed at aaaaaaa 2026-02-01: elu / gpt / wikitext2: perplexity" in printed
    assert "regressed at aaaaaaa" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_regression_is_red(
    baselines: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["history", str(baselines)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "▁██" in line)
    assert "\x1b[31m" in line


def test_json_is_all_that_is_printed(baselines: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [str(baselines / f"{name}.json") for name in "ab"]
    assert main(["history", *files, "--json", "-o", str(tmp_path / "plot.svg")]) == 0
    assert len(json.loads(capsys.readouterr().out)["versions"]) == 2
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there are 1"),
        (["--metric", "perplexty"], "did you mean perplexity"),
        (["-o", "plot.png"], "ends in '.png'; allowed: .html, .svg"),
    ],
)
def test_bad_input_is_named(
    baselines: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [str(baselines)] if arguments else [str(baselines / "a.json")]
    assert main(["history", *where, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["history", str(tmp_path)]) == 2
    assert "holds neither baselines (NAME.json) nor folders of runs" in capsys.readouterr().err
