"""Objects of a session and commands in processes of their own: names, errors, progress, ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import hedgebench
from hedgebench.harness import registry
from hedgebench.harness.config import make_config
from hedgebench.harness.plan import make_plan
from hedgebench.harness.python import notebook, runs, session
from hedgebench.harness.python.called import MARK
from hedgebench.results.store import RunStore

TINY = {"train.steps": 2, "train_samples": 32, "validation_samples": 8, "test_samples": 8, "vocab_size": 8, "length": 8}
SCRIPT = f"""
import hedgebench
from dataclasses import replace
from hedgebench.harness.registry import tasks
from torch.nn import functional as F

class SoftplusMap(hedgebench.FeatureMap):
    def forward(self, x, positions=None):
        return F.softplus(x)

class Recall:
    def __init__(self, task):
        self.task, self.info = task, replace(task.info, name="my_recall")
        self.identify, self.load, self.predict = task.identify, task.load, task.predict

    def score(self, rows, settings):
        return [replace(metric, value=0.25) for metric in self.task.score(rows, settings)]

MINE = hedgebench.Mechanism(name="mine", summary="", source="", feature_map=SoftplusMap)
task = Recall(tasks().get("associative_recall"))
results = hedgebench.run(["softmax", MINE], task, set={TINY!r}, output="out")
print({{record.model: (record.status, record.main().value) for record in results.records}})
"""
"""A script without a main guard, with a mechanism and a task of its own."""


@pytest.fixture(autouse=True)
def _own() -> Iterator[None]:
    """Objects that a test registers are forgotten after it."""
    yield
    registry._own.clear()
    registry.mechanisms.cache_clear()
    registry.tasks.cache_clear()


def mechanism(name: str = "mine", **fields: Any) -> hedgebench.Mechanism:
    return hedgebench.Mechanism(name=name, summary="", source="", feature_map=hedgebench.EluMap, **fields)


def test_a_script_without_a_main_guard_runs_its_own_mechanism_and_task(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 cells, 0 already done" in done.stdout
    assert done.stdout.splitlines()[-1] == "{'mine': ('ok', 0.25), 'softmax': ('ok', 0.25)}"


def test_a_mechanism_whose_code_has_changed_is_measured_again_beside_the_same_peers() -> None:
    cells = []
    for beta in (1.0, 1.0, 2.0):
        hedgebench.register(mechanism(map_arguments=lambda _, beta=beta: {"seed": int(beta)}))
        config = make_config({"models": ("softmax", "mine"), "tasks": ("associative_recall",)})
        cells.append([planned.cell for planned in make_plan(config)])
    (softmax, first), (_, same), (softmax_then, changed) = cells
    assert softmax.key == softmax_then.key
    assert first.key == same.key != changed.key
    assert softmax.peer_key == changed.peer_key


def test_names_of_lists_and_objects_become_one_text() -> None:
    assert session.names_of("softmax,elu") == "softmax,elu"
    assert session.names_of(["softmax", mechanism(), "mine@gpt"]) == "softmax,mine,mine@gpt"
    assert "mine" in hedgebench.list_models()
    assert hedgebench.list_models("hedge*") == ["hedgehog"]
    assert "glue/cola" in hedgebench.list_tasks("glue/*")


def test_a_registered_object_replaces_an_own_one_and_no_other() -> None:
    hedgebench.register(mechanism(options={"tied": hedgebench.Option(bool, False, "", read_by="attention")}))
    assert hedgebench.Attention("mine:tied=true", heads=1, head_dim=4).spec == "mine:tied=true"
    before = registry.mechanisms().code["mine"]
    hedgebench.register(mechanism())
    assert registry.mechanisms().code["mine"] != before
    with pytest.raises(hedgebench.UsageError, match="model 'elu' exists already"):
        hedgebench.register(mechanism("elu"))
    with pytest.raises(TypeError, match="neither a Mechanism nor a task"):
        hedgebench.register("elu")  # type: ignore[arg-type]
    lock = threading.Lock()
    with pytest.raises(hedgebench.UsageError, match="cannot be handed to the processes of a run"):
        hedgebench.register(mechanism(map_arguments=lambda _, lock=lock: {"lock": lock}))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"models": "hedghog", "tasks": "associative_recall"}, ValueError, "did you mean hedgehog"),
        ({"models": "elu", "tasks": "stdlib", "set": {"train.stps": 1}}, ValueError, "did you mean train.steps"),
        ({"models": "elu", "tasks": "stdlib", "scal": "smoke"}, TypeError, "did you mean scale"),
        ({"models": "elu", "tasks": "stdlib", "scale": "smal"}, ValueError, "did you mean small"),
        ({"models": "elu"}, ValueError, "no tasks given"),
    ],
)
def test_wrong_arguments_are_told_as_on_the_command_line(
    arguments: dict[str, Any], error: type[Exception], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=message):
        hedgebench.run(**arguments)
    assert "bench: error" not in capsys.readouterr().out


def test_options_become_flags_those_of_a_file_too_and_false_wins_over_its_true(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr(runs, "call_bench", lambda arguments, **_: called.append(arguments))
    monkeypatch.setattr(hedgebench.Results, "of_plan", lambda folder: folder)
    path = tmp_path / "run.toml"
    path.write_text("fresh = true\noffline = true\ntimeout = 9\n[set.train]\nlr = 0.5\n", encoding="utf-8")
    more: Any = {"fresh": False, "log": ["mlflow", "wandb"], "set": {"train": {"steps": 2}}, "output": "out"}
    hedgebench.run("elu", "stdlib", config=path, quiet=True, **more)
    assert set(called[0]) == {
        *("run", "--models=elu", "--tasks=stdlib", "--offline", "--timeout=9", "--log=mlflow,wandb", "--output=out"),
        *("--set=train.lr=0.5", "--set=train.steps=2", "--quiet"),
    }
    hedgebench.run("elu", "stdlib", set=["train.steps=2", "train.lr=1"])  # type: ignore[arg-type]
    assert {"--set=train.steps=2", "--set=train.lr=1"} <= set(called[1])
    hedgebench.convert("elu", "gpt2", "stdlib", "made", set={"train": {"steps": 2}}, offline=False)
    assert called[2] == [
        *("convert", "--set=train.steps=2", "--model=elu", "--base=gpt2", "--data=stdlib", "--to=made", "--seed=0")
    ]


def test_own_objects_are_refused_on_a_cluster() -> None:
    with pytest.raises(hedgebench.UsageError, match="mine exists in this session only"):
        hedgebench.run([mechanism()], "associative_recall", executor="ray")


def test_a_command_ends_with_the_session_that_started_it() -> None:
    command = [sys.executable, "-m", "hedgebench", "run", "--models=elu", "--tasks=stdlib", "--output=out"]
    process = subprocess.Popen(
        [*command, "--set=train.steps=100000", "--caller=script"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert "0 already done" in process.stdout.readline()
    process.stdin.close()
    process.stdout.read()
    process.stdout.close()
    assert process.wait() == 130


def test_an_interrupt_ends_the_command_and_is_raised() -> None:
    script = "import hedgebench; hedgebench.run('elu', 'stdlib', set={'train.steps': 100000}, output='out')"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "0 already done" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.rstrip().endswith("KeyboardInterrupt")
    with RunStore(Path("out")).held():  # the command has left the folder
        pass


class _Handle:
    def __init__(self) -> None:
        self.pages: list[str] = []

    def update(self, shown: notebook.NotebookProgress) -> None:
        self.pages.append(shown._repr_html_())


def test_a_notebook_shows_events_and_prints_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handle, display = _Handle(), ModuleType("IPython.display")
    display.display = lambda shown, display_id: handle  # type: ignore[attr-defined]
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(notebook, "EVERY_S", -1.0)
    assert notebook.is_notebook()
    progress = notebook.NotebookProgress()
    events = [
        {"total": 2},
        {"cell": "a", "title": "elu <b>"},
        {"cell": "a", "phase": "train", "done": 3, "total": 9, "loss": 0.5},
        {"cell": "a", "status": "ok"},
    ]
    lines = [f"{MARK}{json.dumps(event)}\n" for event in events]
    tail = session._show(iter(["2 cells\n", *lines, "bench: error: no\n"]), sys.stdout, progress)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "2 cells\n"
    assert tail == ["2 cells\n", "bench: error: no\n"]
    assert "elu &lt;b&gt;: starting" in handle.pages[1]
    assert 'value="3" max="9"' in handle.pages[2]
    assert "3/9, loss 0.500" in handle.pages[2]
    assert "1 of 2 cells" in handle.pages[3]
    assert "elu" not in handle.pages[3]
