"""The visit to a GPU, as far as it goes without one: its limits, its settings, and the page that it fills."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hedgebench.tasks.efficiency.throughput import _device_metrics
from hedgebench.tasks.kernel_speed.task import KernelSettings

from .gpu import publish, visit

COMMANDS = {"accuracy": visit.accuracy, "speed": visit.speed}


def test_a_step_that_takes_too_long_is_interrupted_and_the_next_is_left_out(tmp_path: Path) -> None:
    steps = [
        visit.Step("quick", (sys.executable, "-c", "print('here')"), 20),
        visit.Step("missing", ("no-such-tool",), 20, "no-such-tool"),
        visit.Step("endless", (sys.executable, "-c", "import time; time.sleep(60)"), 1),
    ]
    outcomes = visit.run_steps("some", steps, tmp_path, 60.0)
    assert [each.code for each in outcomes[:2]] == [0, None]
    assert outcomes[2].code not in (0, None)
    assert outcomes[2].note == "interrupted after 1 s"
    assert (tmp_path / "some-quick.log").read_text(encoding="utf-8") == "here\n"
    assert [each["name"] for each in json.loads((tmp_path / "some.json").read_text(encoding="utf-8"))] == [
        *("quick", "missing", "endless")
    ]
    (late,) = visit.run_steps("late", steps[:1], tmp_path, visit.GRACE_S)
    assert (late.code, late.note) == (None, "left out: no time was left")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("dry", [False, True])
def test_what_a_visit_names_exists(command: str, dry: bool, tmp_path: Path) -> None:
    steps = COMMANDS[command](tmp_path, dry)
    words = [word for step in steps for word in step.command]
    assert all((visit.ROOT / word).is_file() for word in words if word.endswith(".py"))
    for word in words:
        if word.startswith("shapes="):
            KernelSettings(word.partition("=")[2])
        if word.startswith("contenders="):
            KernelSettings(contenders=word.partition("=")[2])
    assert len({step.name for step in steps}) == len(steps)


def test_the_tests_for_a_gpu_are_found_by_name() -> None:
    assert "tests/kernels/test_gpu.py" in visit.gpu_tests()


@pytest.fixture
def left_behind(tmp_path: Path) -> Path:
    """What a visit leaves behind, in small."""
    out = tmp_path / "out"
    (out / "kernels" / "cells").mkdir(parents=True)
    (out / "accuracy.json").write_text(
        '[{"name": "bfloat16", "code": 1, "seconds": 61.2, "note": ""}]', encoding="utf-8"
    )
    (out / "bfloat16.xml").write_text(
        '<testsuites><testsuite><testcase name="one"/><testcase name="two"><failure/></testcase>'
        '<testcase name="three"><skipped/></testcase></testsuite></testsuites>',
        encoding="utf-8",
    )
    at = "batch_size=8;head_dim=64;heads=16;seq_len=1024"
    (out / "kernels" / "leaderboard.csv").write_text(
        "model,metric,at,value,stderr,unit,status\n"
        f"hedgehog,forward_ms,{at},0.25,0.004,ms,ok\n"
        f"hedgehog,forward_percent_of_roofline,{at},31.5,,%,ok\n"
        f"fla,forward_ms,{at},,,ms,oom\n",
        encoding="utf-8",
    )
    return out


def test_a_visit_is_published_as_runs_and_tables(left_behind: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "kernels.md"
    page.parent.mkdir()
    page.write_text(f"# Kernels\n\n{publish.BEGIN}\n\nNothing yet.\n\n{publish.END}\n\n## More\n", encoding="utf-8")
    assert publish.publish(left_behind, tmp_path) == 0
    told = page.read_text(encoding="utf-8")
    assert told.startswith("# Kernels\n")
    assert told.endswith("## More\n")
    assert "Nothing yet" not in told
    assert "| accuracy | bfloat16 | 61 | 1 |  |" in told
    assert "| bfloat16 | 1 | 1 | 1 |" in told
    assert "Failed: `two`." in told
    assert "| forward, B=8 H=16 d=64, ms | 1,024 |" in told
    assert "| hedgehog | 0.25 ± 0.004 |" in told
    assert "| hedgehog, % of roofline | 32 |" in told
    assert "| fla | oom |" in told
    assert (tmp_path / "results/published/h200-kernels/kernels/leaderboard.csv").is_file()


def test_models_are_published_with_the_energy_of_their_tokens(left_behind: Path) -> None:
    (metric,) = (each.name for each in _device_metrics(
        {"mode": "prefill", "telemetry": {"window_s": 2.0, "energy_j": 8.0}, "role": "sweep", "subject": "model",
         "samples_ms": [1.0, 1.0], "batch_size": 1, "seq_len": 4}, {}))  # fmt: skip
    folder = left_behind / "models"
    folder.mkdir()
    (folder / "leaderboard.csv").write_text(
        f"model,metric,at,value,stderr,unit,status\nsoftmax,{metric},batch_size=1;seq_len=4,1.0,,J,ok\n",
        encoding="utf-8",
    )
    assert f"| softmax | {metric} | 4 | 1 J |" in publish.models_table(publish.leaderboard(folder))


def test_nothing_is_published_from_a_folder_without_results(tmp_path: Path) -> None:
    assert publish.publish(tmp_path, tmp_path) == 2


def test_counters_stand_beside_counts() -> None:
    text = (
        '==PROF== connected\n"ID","Kernel Name","gpu__time_duration.sum","sm__inst_issued.sum"\n'
        '"","","nsecond","inst"\n"0","attend(...)","600,000","2,000,000"\n"1","elementwise","5","7"\n'
    )
    counted = {("attend", 0): {"replayed_ms": 0.4, "cycles": {"issue": 1000}, "programs": 400}}
    table = publish.counters_table(publish.read_counters(text), counted)
    assert "| `attend` | 0.600 | 0.400 | 1.50 | 2e+06 | 1.6e+06 | 1.25 |" in table
    assert "elementwise" not in table


def test_the_page_has_a_place_for_what_is_measured() -> None:
    page = (visit.ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
    assert page.index(publish.BEGIN) < page.index(publish.END)
