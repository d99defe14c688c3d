"""A cell, which is one model on one task with one seed: its key, and everything that the plan resolved for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.base import Settings, UnsupportedError
from ..adapters.model_code import MODEL_CODE
from ..results.record import DataIdentity, Failure, Scalar
from ..tasks.data.own_rows import LOCAL

if TYPE_CHECKING:
    from ..adapters.backbone import Backbone
    from ..adapters.spec import ModelSpec
    from ..tasks.base import Task
    from .weights.locate import Weights


_PLACE = "file"
"""The task's setting that says where data of the user's are."""


@dataclass(frozen=True)
class Cell:
    """All that can change a cell's numbers.

    Attributes:
        model: Canonical model spec.
        backbone: Name of the backbone.
        task: Name of the task, with the settings that belong to the name.
        task_version: Version of the task.
        recipe: Name of the recipe.
        scale: `smoke`, `small` or `paper`: the source of the default settings.
        seed: Seed of the run.
        limit: Largest number of test rows; None for all.
        device: `cpu` or `cuda`, resolved.
        dtype: `float32` or `bfloat16`, resolved.
        settings: Settings of task, backbone and stages, resolved.
        data: The data that it reads.
        scoring: Hash of the code that turns predictions into numbers.
        machine: Name of the processor if the task measures time; empty otherwise.
        weights: Fingerprint or revision of a pretrained backbone; empty for a backbone trained from scratch.
        model_code: Version of the code that builds, trains, converts and runs models.
        own_code: Digest of the mechanism if it is a plugin's or was made in a Python session; empty, and no part of the
            key, otherwise.
    """

    model: str
    backbone: str
    task: str
    task_version: int
    recipe: str
    scale: str
    seed: int
    limit: int | None
    device: str
    dtype: str
    settings: Mapping[str, Settings]
    data: DataIdentity
    scoring: str
    machine: str = ""
    weights: str = ""
    model_code: int = MODEL_CODE
    own_code: str = ""

    @property
    def key(self) -> str:
        """Hash of the cell, 16 hex digits: its id and the name of its file."""
        return self._hash(without=() if self.own_code else ("own_code",))

    @property
    def peer_key(self) -> str:
        """Hash of everything but model and seed: cells with equal peer keys compare models."""
        return self._hash(without=("model", "seed", "own_code"))

    @property
    def title(self) -> str:
        """The cell's name in messages."""
        return f"{self.model} / {self.backbone} / {self.task} / seed {self.seed}"

    def flat_settings(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Every setting as `group.key`, for the record, which names local data without their folder."""
        place = {f"task.{_PLACE}": Path(str(self.settings["task"][_PLACE])).name} if self._has_local_data else {}
        return {
            **{f"{group}.{key}": value for group, values in self.settings.items() for key, value in values.items()},
            **place,
        }

    @property
    def _has_local_data(self) -> bool:
        """Whether a setting says where the data are; their fingerprint has the content."""
        return self.data.source in LOCAL and bool(self.settings["task"].get(_PLACE))

    def _hash(self, without: tuple[str, ...]) -> str:
        """Hash of the fields; the place of the data and the rows of their splits do not count."""
        fields = {name: value for name, value in asdict(self).items() if name not in without}
        del fields["data"]["splits"], fields["data"]["source"]
        if self._has_local_data:
            del fields["settings"]["task"][_PLACE]
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PlannedCell:
    """A cell with everything that the plan resolved for it, so that its worker resolves nothing again.

    It is pickled with the names of its task and model, which every process registers: objects of plugins may hold
    values that cannot be pickled.

    Attributes:
        cell: The cell.
        task: Its task.
        spec: Its model.
        backbone: Its backbone.
        weights: Location of the backbone's weights; None for a backbone trained from scratch, or if none were found.
        problem: Why the cell cannot run; None if it can.
    """

    cell: Cell
    task: Task
    spec: ModelSpec
    backbone: Backbone
    weights: Weights | None = None
    problem: Failure | None = None

    @property
    def unsupported(self) -> bool:
        """Whether the problem is that the model cannot do the task here, rather than an error."""
        return self.problem is not None and self.problem.type == UnsupportedError.__name__

    def __reduce__(self) -> tuple[Callable[..., PlannedCell], tuple[object, ...]]:
        return _of_names, (self.cell, self.task.info.name, self.backbone, self.weights, self.problem)


def _of_names(cell: Cell, name: str, *others: Any) -> PlannedCell:
    from ..adapters.spec import parse_spec
    from . import registry
    from .task_spec import task_of

    task = task_of(name, cell.settings.get("task", {}), cell.data if cell.data.id else None, trust_code=True)
    return PlannedCell(cell, task, parse_spec(cell.model, registry.mechanisms().get), *others)


def unlike_backbones(planned: Sequence[PlannedCell]) -> Iterator[str]:
    """A message for each task on which models that name no backbone are on others than those that name one."""
    for task in dict.fromkeys(p.cell.task for p in planned):
        cells = [p for p in planned if p.cell.task == task]
        named = {p.backbone.name for p in cells if p.spec.backbone}
        others = {(p.spec.canonical, p.backbone.name) for p in cells if not p.spec.backbone}
        if named and {backbone for _, backbone in others} - named:
            told = ", ".join(f"{model} is on {backbone}" for model, backbone in sorted(others))
            yield (
                f"{task}: {told} and not on {', '.join(sorted(named))}, and scores on different backbones are not "
                "compared; --backbone NAME sets that of all models that name none"
            )
