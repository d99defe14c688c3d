"""Pages of `bench list` on one model or task: options, chance level, data, and times where they were measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hedgebench.harness import registry
from hedgebench.harness.commands.listing import listing
from hedgebench.harness.commands.pages import model_page, page_of, task_page
from hedgebench.harness.running.job import CellJob
from hedgebench.results.record import Metric
from hedgebench.results.store import RunStore


def task(name: str) -> str:
    return task_page(registry.tasks().get(name))


def test_a_model_has_every_option_with_its_values_its_default_and_its_help() -> None:
    page = model_page(registry.mechanisms().get("hedgehog"))
    assert "  map=exp|exp_max|softmax|softmax_joint (default: exp)\n    exp is the paper's equation" in page
    assert "  window=int, at least 1\n" in page
    assert "  negate=bool (default: true)\n" in page
    assert "options, as in hedgehog:map=exp_max" in page
    for name in registry.mechanisms().get("hedgehog").options:
        assert f"  {name}=" in page


def test_every_page_fits_80_columns_and_has_a_command_to_try() -> None:
    pages = [model_page(each) for each in registry.mechanisms().items.values()]
    pages += [task_page(each) for each in registry.tasks().items.values()]
    assert max(len(line) for page in pages for line in page.splitlines()) <= 80
    assert all("\nbench run " in page for page in pages)


def test_other_things_have_their_row_as_a_page() -> None:
    page = page_of("suites", listing("suites", "icl")[0][0])
    assert page.startswith("icl\n  learning in context: recall")
    assert "  models: softmax, elu, hedgehog\n" in page
    assert "  tasks: mqar=small, " in page


def test_a_task_says_what_it_is_its_data_licence_and_room() -> None:
    page = task("glue/cola")
    assert page.startswith("glue/cola\n  Is the sentence grammatical? (Matthews correlation)\n")
    assert "  chance: matthews 0\n" in page
    assert "  data: nyu-mll/glue/cola@bcdcba79…\n" in page
    assert "  licence: that of the original data set\n" in page
    assert "  room: tasks/classification\n" in page


def test_without_measurements_chance_follows_from_the_classes_and_no_time_is_claimed() -> None:
    page = task("glue/mnli")
    assert "  chance: accuracy 0.333 by guessing among 3 classes" in page
    assert "  time: not measured yet" in page


def test_every_task_says_what_needs_no_learning() -> None:
    """A page without it would let a score at chance look like one that was learned."""
    assert not [name for name, found in registry.tasks().items.items() if "  chance: " not in task_page(found)]


def test_times_and_chance_are_those_of_the_runs_in_this_folder(make_job: Callable[..., CellJob], naughty: Path) -> None:
    store = RunStore(Path("results", "runs", "mine"))
    store.create()
    found = replace(make_job().record("ok", None), task="glue/mnli", scale="smoke", main_metric="accuracy")
    metrics = tuple(Metric(name, value, "1", None, None, 1) for name, value in (("accuracy", 0.9), ("chance", 0.35)))
    for seed, seconds in enumerate((10.0, 30.0, 20.0)):
        store.write_record(
            replace(
                found, cell_id=f"cell{seed}", seed=seed, metrics=metrics, timings_s={"train": seconds, "predict": 1}
            )
        )
    store.write_record(replace(found, cell_id="other", task="glue/rte", timings_s={"train": 1e6}))
    (store.cells / "broken.json").write_text('{"task": "glue/mnli"', encoding="utf-8")
    page = task("glue/mnli")
    assert "  time: smoke: 21 s a model on cpu (median of 3); not measured yet at small,\n    paper\n" in page
    assert "  chance: accuracy 0.35 (chance) at scale smoke\n" in page
