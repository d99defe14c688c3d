"""Tests of the declarations in harness/paper: studies, artefacts and claims fit together and name what exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgebench.adapters.backbone import BACKBONES, SCALES
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness import registry
from hedgebench.harness.paper.artefacts import ARTEFACTS
from hedgebench.harness.paper.claims import CLAIMS, Claim
from hedgebench.harness.paper.declarations import Artefact, Study
from hedgebench.harness.paper.studies import STUDIES
from hedgebench.harness.recipes import RECIPES, STAGE_DEFAULTS
from hedgebench.harness.task_spec import parse_task_spec
from hedgebench.results.reference.load import load_reference

REFERENCE = load_reference()
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_study_names_models_tasks_and_recipes_that_exist(study: Study) -> None:
    for model in study.models:
        assert parse_spec(model, registry.mechanisms().get).canonical == model
    assert study.recipe is None or study.recipe in RECIPES
    for scale in SCALES:
        if scale not in study.scales:
            assert study.gaps[scale]
            continue
        assert set(study.models_at(scale)) <= set(study.models)
        for task in study.tasks_at(scale).values():
            spec = parse_task_spec(task)
            info = registry.tasks().get(spec.name).info
            assert study.recipe is None or study.recipe in info.recipes


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_softmax_comes_first_and_every_study_is_drawn(study: Study) -> None:
    assert study.models[0] == "softmax"
    assert any(study.name in artefact.studies for artefact in ARTEFACTS.values())


@pytest.mark.parametrize("artefact", ARTEFACTS.values(), ids=ARTEFACTS)
def test_an_artefact_is_drawn_from_studies_in_the_columns_that_the_paper_prints(artefact: Artefact) -> None:
    assert all(name in STUDIES for name in artefact.studies)
    assert artefact.has_table or artefact.plots
    models = {model for name in artefact.studies for model in STUDIES[name].models}
    assert set(artefact.models) <= models
    printed = {table.id: table for table in REFERENCE.tables}.get(artefact.id)
    if printed is None:
        assert artefact.id.startswith(("figure", "ablations"))
        return
    names = {column.name for column in printed.columns} - {"average", "mean", "percent_recovered", "attention_kl"}
    ours = {*artefact.metrics, *(column for name in artefact.studies for column in STUDIES[name].columns)}
    assert names <= ours
    assert {row.model for row in printed.measured} <= models


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_claim_belongs_to_an_artefact_and_is_about_models_of_its_study(claim: Claim) -> None:
    assert claim.artefact in ARTEFACTS
    assert (claim.contrasts is None) != (claim.tracked_by is None)
    for contrast in claim.contrasts(True) if claim.contrasts else ():
        for name in (*contrast.top, *contrast.bottom):
            model, _, other = name.partition("@")
            assert model in STUDIES[other or claim.study].models


def test_tables_one_to_eleven_and_the_figures_are_there() -> None:
    tables = [f"table-{number}" for number in range(1, 12)]
    assert [id for id in ARTEFACTS if id.startswith("table")] == tables
    figures = [int(id.removeprefix("figure-")) for id in ARTEFACTS if id.startswith("figure")]
    assert figures == [2, 3, 4, 6, 7, 8, 9]
    assert all(REFERENCE.figure(number).values == "not known" for number in figures)


def test_hyper_parameters_that_no_source_states_are_told_for_every_artefact_and_in_the_docs() -> None:
    docs = " ".join((ROOT / "docs" / "paper.md").read_text(encoding="utf-8").split())
    for artefact in ARTEFACTS.values():
        assert artefact.setup.unstated or artefact.id == "ablations"
        for each in artefact.setup.unstated:
            assert each.what in docs
            assert set(each.settings) <= known_settings(artefact)


def known_settings(artefact: Artefact) -> set[str]:
    """Settings of every stage, of backbones from scratch, and of the artefact's tasks at scale `paper`."""
    groups = {stage: scales["paper"] for stage, scales in STAGE_DEFAULTS.items()}
    names = {f"{group}.{key}" for group, settings in groups.items() for key in settings}
    names |= {f"backbone.{key}" for key in BACKBONES["gpt"].sizes["paper"]}
    for study in (STUDIES[name] for name in artefact.studies):
        for task in study.tasks_at("paper").values():
            info = registry.tasks().get(parse_task_spec(task).name).info
            names |= {f"task.{key}" for key in info.scales["paper"].settings}
    return names
