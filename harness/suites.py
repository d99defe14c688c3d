"""Suites: named sets of models and tasks that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """A named set of models and tasks.

    Attributes:
        name: Name for `bench run --suite` and of its output folder.
        summary: One line for `bench list suites`.
        models: Model specs.
        tasks: Tasks, each with its scale.
        workers: Default number of cells at a time.
        recipes: Recipes of tasks for which it is not their own first.
        settings: Settings of tasks at the suite's scales, as `--set` takes them.
    """

    name: str
    summary: str
    models: tuple[str, ...]
    tasks: Mapping[str, str]
    workers: int = 1
    recipes: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


IN_CONTEXT = ("mqar", "icl_regression", "icl_boolean", "icl_parity", "regular_languages", "modular_arithmetic", "maze")
"""Tasks of learning in context: their answers are in the prompt or follow from it."""

SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            "quickstart",
            "what a bare `bench run` does: no download, 2 minutes on 2 cores",
            ("softmax", "elu", "hedgehog"),
            {
                "associative_recall": "small",  # a softmax model recalls, and still does as Hedgehog, but not as 1+ELU
                "attention_fidelity_digits": "smoke",  # attention maps of converted models side by side
                "throughput": "smoke",
                "memory": "smoke",
            },
            workers=2,
            recipes=dict.fromkeys(("associative_recall", "attention_fidelity_digits"), "scratch-conversion"),
            settings={
                "associative_recall": {"train.steps": "600", "finetune.steps": "100"},
                "memory": {"modes": "prefill+state"},
            },
        ),
        Suite(
            "icl",
            "learning in context: recall, regression, functions, languages, mazes",
            ("softmax", "elu", "hedgehog"),
            dict.fromkeys(IN_CONTEXT, "small"),
        ),
    )
}
