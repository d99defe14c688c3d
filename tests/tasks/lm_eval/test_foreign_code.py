"""What a task's file would run is found without running it, and templates reach nothing but their document."""

from __future__ import annotations

from pathlib import Path

import lm_eval
import pytest

from hedgebench.harness import registry
from hedgebench.harness.config import RunConfig
from hedgebench.harness.plan import make_plan
from hedgebench.harness.task_spec import parse_task_specs, task_of
from hedgebench.results.names import UsageError
from hedgebench.tasks.lm_eval.foreign_code import code_in, sandbox_templates

HARMLESS = """
task: own
dataset_path: json
doc_to_text: "{{question}} # !function in a text"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
RUNNING = {
    "process_docs: !function attack.run": "!function attack.run",
    "process_docs: !<!function> attack.run": "!function attack.run",
    "class: !function attack.Task": "!function attack.Task",
    "deep: [{a: [!function os.system]}]": "!function os.system",
    "metric_list: [{metric: !function attack.run}]": "!function attack.run",
    "metric_list: [{metric: ./attack}]": "metric ./attack of the package evaluate",
    "metric_list: [{metric: someone/metric}]": "metric someone/metric of the package evaluate",
    "metric_list: [{metric: acc, hf_evaluate: true}]": "metric acc of the package evaluate",
    "a: &a {metric_list: [{metric: ./attack}]}\n<<: *a": "metric ./attack of the package evaluate",
    "a: &a {include: other.yaml}\n<<: *a": "!function attack.deeper",
    "include: other.yaml": "!function attack.deeper",
    "include: [harmless.yaml, other.yaml]": "!function attack.deeper",
}


@pytest.fixture(autouse=True)
def _attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules and files beside the task; importing the module fails the test by leaving a file."""
    monkeypatch.chdir(tmp_path)
    Path("attack.py").write_text("from pathlib import Path\nPath('attacked').touch()\nrun = Task = deeper = 1\n")
    Path("harmless.yaml").write_text(HARMLESS)
    Path("other.yaml").write_text("include: harmless.yaml\nx: !function attack.deeper\n")


@pytest.mark.parametrize("line", RUNNING)
def test_a_file_that_would_run_code_is_refused_by_every_way_to_a_task(line: str) -> None:
    Path("own.yaml").write_text(f"task: own\n{line}\n")
    Path("tasks.toml").write_text('[own]\ntask = "lm_eval/own.yaml"\n')
    assert code_in(Path("own.yaml")) == [RUNNING[line]]
    told = "'lm_eval/own.yaml' runs code .*; read it, then pass --trust-remote-code"
    with pytest.raises(UsageError, match=told):
        registry.tasks().get("lm_eval/own.yaml")
    with pytest.raises(UsageError, match=told):
        make_plan(RunConfig(models=("softmax",), tasks=("lm_eval/own.yaml",)))
    with pytest.raises(UsageError, match=told):
        parse_task_specs("tasks.toml")
    with pytest.raises(UsageError, match=told):
        task_of("lm_eval/own.yaml", {})
    assert not Path("attacked").exists()


def test_harmless_files_and_those_of_lm_eval_need_no_trust() -> None:
    assert code_in(Path("harmless.yaml")) == []
    installed = Path(lm_eval.__file__).parent / "tasks"
    assert code_in(installed / "hellaswag" / "hellaswag.yaml") == []
    Path("own.yaml").write_text(f"task: own\ninclude: {installed / 'hellaswag' / 'hellaswag.yaml'}\n")
    assert code_in(Path("own.yaml")) == []
    assert registry.tasks().get("lm_eval/harmless.yaml").info.name == "lm_eval/harmless.yaml"


def test_a_trusted_file_is_read() -> None:
    Path("own.yaml").write_text(HARMLESS + "process_docs: !function attack.run\n")
    assert registry.tasks().get("lm_eval/own.yaml", trust_code=True).info.name == "lm_eval/own.yaml"


@pytest.mark.parametrize("content", [b"\xff", b"a: [", b"[" * 5000, b"x: &a [*a]\n", b"- 1", b""])
def test_a_file_that_is_no_task_is_refused(content: bytes) -> None:
    Path("own.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot read the task|is no task of lm-eval|is not the file of one"):
        registry.tasks().get("lm_eval/own.yaml")


def test_a_local_metric_is_refused_unless_trusted() -> None:
    Path("attack.py").write_text("raise SystemExit\n")
    given = {"more_metrics": "evaluate:./attack.py"}
    settings = RunConfig(models=("softmax",), tasks=("associative_recall",), overrides=given)
    with pytest.raises(UsageError, match=r"has the metric 'evaluate:\./attack\.py', a script that runs"):
        make_plan(settings)
    with pytest.raises(UsageError, match="a script that runs"):
        task_of("associative_recall", given)


def test_templates_cannot_leave_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    from jinja2.exceptions import SecurityError
    from lm_eval import utils

    monkeypatch.setattr(utils, "env", utils.env)
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    usual = "{{ words|join(' ') }}{% for i in range(2) %}{{ i }}{% endfor %}{{ 'a1'|regex_replace('[0-9]', '') }}\n"
    document = {"words": ["a", "b"]}
    before = utils.apply_template(usual, document)
    sandbox_templates()
    assert utils.apply_template(usual, document) == before == "a b01a\n"
    with pytest.raises(SecurityError):
        utils.apply_template(escape, document)
