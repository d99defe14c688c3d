"""The settings of the paper's protocols are those of `protocols.txt`, which a reviewer reads.

Of the smaller scales it has what differs: published records and the paper's own runs have these settings in their keys.

After a change that is meant, write the file anew and look at its difference:

    HEDGEBENCH_WRITE_PROTOCOLS=1 python -m pytest tests/harness/test_protocols.py
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.harness import recipes, registry
from hedgebench.harness.paper.studies import STUDIES
from hedgebench.tasks.base import TaskScale

FILE = Path(__file__).with_name("protocols.txt")
COMMAND = "HEDGEBENCH_WRITE_PROTOCOLS=1 python -m pytest tests/harness/test_protocols.py"
SHARES = ("DISTILL_SHARE", "FINETUNE_SHARE", "FINETUNE_RATE")
INFO = ("version", "main_metric", "data", "backbone", "recipes")
"""Fields of a task's declaration that are part of its protocol, besides the settings."""

Sections = Iterator[tuple[str, Mapping[str, object]]]


def sections() -> Sections:
    """Everything that the protocols are made of, by what it belongs to."""
    for name, recipe in recipes.RECIPES.items():
        yield f"recipe {name}", {"stages": recipe.stages}
    for stage, scales in recipes.STAGE_DEFAULTS.items():
        yield f"stage {stage}", {**scales["paper"], **_smaller(scales)}
    yield "students of scratch-conversion", {name.lower(): getattr(recipes, name) for name in SHARES}
    for name, backbone in BACKBONES.items():
        source = backbone.checkpoint
        weights = {"repo": source.repo, "revision": source.revision} if source else {}
        yield f"backbone {name}", {**backbone.sizes["paper"], **weights, **_smaller(backbone.sizes)}
    for name, study in STUDIES.items():
        if at := study.scales.get("paper"):
            set_to = {f"set.{key}": value for key, value in at.settings.items()}
            sizes = {"models": study.models_at("paper"), "tasks": at.tasks, "backbone": at.backbone, "seeds": at.seeds}
            yield f"study {name}", {"recipe": study.recipe, **sizes, **set_to}
    for name, task in registry.tasks().items.items():
        if type(task).__module__.startswith("hedgebench.") and "paper" in task.info.scales:
            own = {at: _settings(scale) for at, scale in task.info.scales.items()}
            info = {key: getattr(task.info, key) for key in INFO}
            yield f"task {name}", {**info, **own["paper"], **_smaller(own)}


def _settings(scale: TaskScale) -> dict[str, object]:
    groups = {"task": scale.settings, "train": scale.train, **scale.stages, "backbone": scale.backbone}
    return {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}


def _smaller(scales: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """A line for each smaller scale: what is not as it is at scale `paper`."""
    paper = scales["paper"].items()
    odd = {name: [pair for pair in own.items() if pair not in paper] for name, own in scales.items()}
    told = {name: "; ".join(f"{key}: {_written(value)}" for key, value in pairs) for name, pairs in odd.items()}
    return {f"at {name}": text for name, text in told.items() if text}


def text() -> str:
    """A paragraph for each section, with a line for each of its values."""
    return "\n".join(
        "\n".join([title, *(f"  {key} = {_written(value)}" for key, value in values.items()), ""])
        for title, values in sections()
    )


def _written(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def test_the_paper_s_protocols_are_those_that_a_reviewer_read() -> None:
    found = text()
    if os.environ.get("HEDGEBENCH_WRITE_PROTOCOLS"):
        FILE.write_text(found, encoding="utf-8")
    kept = FILE.read_text(encoding="utf-8").splitlines()
    if changes := list(difflib.unified_diff(kept, found.splitlines(), FILE.name, "now", lineterm="")):
        told = "\n".join(changes)
        pytest.fail(f"protocols changed; if that is meant, write them anew: {COMMAND}\n{told}", pytrace=False)
