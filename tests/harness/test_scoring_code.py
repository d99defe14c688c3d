"""The key of a cell covers all of our code that makes its numbers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hedgebench.harness import code_digest, registry
from hedgebench.harness.registry import ROOT
from hedgebench.harness.scoring_code import mechanism_code, scoring_files, scoring_fingerprint


def covered(name: str) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in scoring_files(registry.tasks().get(name))}


@pytest.mark.parametrize(("task", "files"), [
    ("throughput", "efficiency/metrics efficiency/scaling measuring/machine measuring/timing"),
    ("kernels/backward", "kernel_speed/metrics kernel_speed/workloads ../kernels/fused_costs"),
    ("wikitext2", "language/wikitext language/perplexity"),
    ("samsum", "summarization/protocol summarization/rouge ../results/stats/statistics"),
    ("glue/cola", "classification/glue classification/text_classification metrics/classification"),
    ("lra/image", "lra/images lra/protocol"),
])  # fmt: skip
def test_metrics_are_followed_into_the_modules_where_they_live(task: str, files: str) -> None:
    wanted = {f"tasks/{file}.py".replace("tasks/../", "") for file in files.split()}
    assert wanted | {"results/stats/statistics.py"} <= covered(task)


def test_models_are_covered_by_their_version_and_kernels_where_they_are_what_is_measured() -> None:
    for name in registry.tasks().items:
        files = covered(name)
        assert {file for file in files if file.startswith(("adapters/", "harness/"))} == set()
        measures = name.startswith("kernels/")
        assert ("kernels/hedgehog.py" in files) == measures
        assert measures or {file for file in files if file.startswith("kernels/")} <= {"kernels/costs.py"}


def _forget() -> None:
    for cached in (code_digest._parsed, code_digest._imports, code_digest._read):
        cached.cache_clear()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose task scores in a second module of its own, which takes a module of ours."""
    folder = tmp_path / "a_plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "task.py").write_text(
        "from a_plugin.declared import NAME\nclass Its:\n    def score(self):\n        from .metrics import mean\n",
        encoding="utf-8",
    )
    (folder / "declared.py").write_text("import json\nNAME = 'its'\n", encoding="utf-8")
    (folder / "metrics.py").write_text("from hedgebench.tasks.summarization import rouge\nmean = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("a_plugin", "a_plugin.task", "a_plugin.declared"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    _forget()
    return folder


def test_a_plugin_is_followed_within_its_package_and_into_ours(plugin: Path) -> None:
    its = importlib.import_module("a_plugin.task").Its()
    files = scoring_files(its)
    assert {file.name for file in files if file.parent == plugin} == {"task.py", "declared.py", "metrics.py"}
    assert ROOT / "tasks/summarization/rouge.py" in files
    before = scoring_fingerprint(its)
    _forget()
    (plugin / "metrics.py").write_text("from hedgebench.tasks.summarization import rouge\nmean = 2\n", encoding="utf-8")
    assert scoring_fingerprint(its) != before


def test_a_plugins_mechanism_has_a_digest_of_its_modules_and_ours_has_none(
    add_plugin: Callable[[str, str, str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = "from hedgebench.adapters.mechanisms.declaration import Mechanism\nONE = Mechanism({0})\n"
    maps = tmp_path / "one_map.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    add_plugin(
        "one_plugin",
        "hedgebench.adapters",
        "one_plugin:ONE",
        declared.format("'one', '', '', feature_map='one_map:Map'"),
    )

    def code(source: str, name: str = "one") -> str:
        _forget()
        maps.write_text(source, encoding="utf-8")
        return mechanism_code(name)

    first = code("class Map:\n    t = 1\n")
    assert len(first) == 16
    assert code("class Map:\n    # the same\n    t = 1\n") == first != code("class Map:\n    t = 2\n")
    assert code("", "hedgehog") == ""


def test_whoever_else_holds_a_task_does_not_change_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    task = registry.tasks().get("throughput")
    before, a_script = scoring_fingerprint(task), ModuleType("a_script")
    a_script.__dict__.update(TASK=task, __file__=__file__)
    monkeypatch.setitem(sys.modules, "a_script", a_script)
    assert scoring_fingerprint(task) == before
