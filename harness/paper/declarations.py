"""Declarations of the paper's reproduction: studies that are measured, and artefacts that are drawn from them.

A study is a set of models on a set of tasks under one recipe, whose sizes depend on the scale alone. Several artefacts
may draw from one study, so that no cell is measured twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TEACHER_SCALES = ("small", "paper")
"""Scales at which students run only if their softmax model has learned: at `smoke` no model does."""


@dataclass(frozen=True)
class StudyScale:
    """A study's sizes at one scale.

    Attributes:
        tasks: Tasks with their settings, one for each of the study's columns, in the same order; several for one
            column are never needed, as a task has many metrics.
        backbone: Backbone; None for each task's own.
        seeds: Number of seeds, from 0 on.
        settings: Settings as `--set` takes them.
        models: The models, if they are fewer than the study's at other scales.
    """

    tasks: tuple[str, ...]
    backbone: str | None = None
    seeds: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """Models measured on tasks under one recipe.

    Attributes:
        name: Its name, in claims and artefacts.
        columns: What the paper measured on, in the names of `results/reference/hedgehog.json`.
        models: Model specs in the order of the tables.
        recipe: The recipe, the same at every scale; None for tasks that train nothing.
        scales: Its sizes by scale; at a scale that is missing, the study does not run, for the reason in `gaps`.
        gaps: Why a scale is missing.
        illustrates: Scales at which its budget is too small for a claim to rest on it.
    """

    name: str
    columns: tuple[str, ...]
    models: tuple[str, ...]
    recipe: str | None
    scales: Mapping[str, StudyScale]
    gaps: Mapping[str, str] = field(default_factory=dict)
    illustrates: tuple[str, ...] = ()

    def models_at(self, scale: str) -> tuple[str, ...]:
        """The models that run at a scale."""
        return self.scales[scale].models or self.models

    def tasks_at(self, scale: str) -> dict[str, str]:
        """The task that stands for each column at a scale."""
        return dict(zip(self.columns, self.scales[scale].tasks, strict=True))


@dataclass(frozen=True)
class Fact:
    """One fact of how the paper measured.

    Attributes:
        stated: What a source says; empty if none does.
        same_if: A part of our own text by which it is the same, such as a backbone's name; empty if it never is.
    """

    stated: str = ""
    same_if: str = ""


@dataclass(frozen=True)
class Unstated:
    """A hyper-parameter of the paper that no source states.

    Attributes:
        what: Its name in words.
        settings: Our settings in its place, as `--set` takes them.
    """

    what: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setup:
    """How the paper measured an artefact, and what of that is not known."""

    backbone: Fact = Fact()
    data: Fact = Fact()
    steps: Fact = Fact()
    hardware: Fact = Fact()
    unstated: tuple[Unstated, ...] = ()


@dataclass(frozen=True)
class Artefact:
    """A table or a figure of the paper, or our table of ablations.

    Attributes:
        id: Such as `table-7`: also the id of the paper's numbers in `results/reference/hedgehog.json`.
        title: What it shows.
        studies: Names of the studies that it is drawn from.
        setup: How the paper measured it.
        metrics: Metrics that its table shows; empty for each task's main metric.
        models: Models that its table shows; empty for all of its studies.
        plots: Kinds of plots of its studies that it shows; see `results/plots/make.py`.
        has_table: Whether it has a table, or plots alone.
        note: What a reader must know.
    """

    id: str
    title: str
    studies: tuple[str, ...]
    setup: Setup = Setup()
    metrics: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()
    has_table: bool = True
    note: str = ""
