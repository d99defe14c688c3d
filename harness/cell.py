"""A cell: one model on one task with one seed, fully resolved, and its key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..adapters.base import Settings
from ..results.record import DataIdentity, Scalar


@dataclass(frozen=True)
class Cell:
    """All that can change a cell's numbers.

    Attributes:
        model: Canonical model spec.
        backbone: Name of the backbone.
        task: Name of the task.
        task_version: Version of the task.
        recipe: Name of the recipe.
        scale: Where its defaults came from.
        seed: Seed of the run.
        limit: Most test rows, or None.
        device: `cpu` or `cuda`, resolved.
        dtype: `float32` or `bfloat16`, resolved.
        settings: Settings of task, backbone and stages, resolved.
        data: Which data it reads.
        scoring: Hash of the code that turns predictions into numbers.
        machine: Device name for tasks that measure time; empty for the others.
        weights: Fingerprint or revision of a pretrained backbone; empty for one trained from scratch.
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

    @property
    def key(self) -> str:
        """Hash of the cell, 16 hex digits: its id and the name of its file."""
        return _hash(self._canonical())

    @property
    def peer_key(self) -> str:
        """Hash of all but the model and the seed: cells with the same one compare models."""
        canonical = self._canonical()
        return _hash({k: v for k, v in canonical.items() if k not in ("model", "seed")})

    @property
    def title(self) -> str:
        """How the cell is called in messages."""
        return f"{self.model} / {self.backbone} / {self.task} / seed {self.seed}"

    def flat_settings(self) -> dict[str, Scalar | tuple[Scalar, ...]]:
        """Every setting as `group.key`, for the record."""
        return {f"{group}.{key}": value for group, values in self.settings.items() for key, value in values.items()}

    def as_dict(self) -> dict[str, Any]:
        """The cell as JSON-ready data."""
        return asdict(self)

    def _canonical(self) -> dict[str, Any]:
        canonical = asdict(self)
        del canonical["data"]["splits"], canonical["data"]["source"]
        if not self.weights:  # cells that were measured before backbones could be pretrained keep their keys
            del canonical["weights"]
        return canonical


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
