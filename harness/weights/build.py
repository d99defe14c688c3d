"""Builds the model of a cell, or its attention layer alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...adapters.base import Capability, ModelShape
from ...adapters.mechanisms.native import NATIVE
from ...adapters.spec import parse_spec
from ...results.tables.row import REFERENCE_MODEL
from ...tasks.base import Sources
from .. import registry
from ..cell import PlannedCell
from ..recipes import RECIPES
from .locate import materialise

if TYPE_CHECKING:
    from ...adapters.attention.alone import AttentionAlone
    from ...adapters.model_adapter import ModelAdapter
    from ...adapters.precision import Precision


def build_model(
    planned: PlannedCell, shape: ModelShape, precision: Precision, sources: Sources, trust_code: bool
) -> ModelAdapter[Any]:
    """The model before any stage of its recipe.

    Args:
        planned: The cell.
        shape: Inputs and outputs that the task needs.
        precision: Device and types.
        sources: Where checkpoints are looked for.
        trust_code: Whether code of the checkpoint may run.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        UnsupportedError: The model cannot do what the shape needs.
    """
    cell, backbone = planned.cell, planned.backbone
    settings, mechanisms = cell.settings["backbone"], registry.mechanisms().get
    if planned.weights is None:
        from ...adapters.scratch.build import build_scratch

        softmax = parse_spec(REFERENCE_MODEL, mechanisms)
        spec = softmax if RECIPES[cell.recipe].trains_teacher else planned.spec
        return build_scratch(spec, backbone, settings, shape, cell.seed, precision)
    folder = materialise(planned.weights, sources)
    options: dict[str, Any] = {"seed": cell.seed, "precision": precision, "trust_remote_code": trust_code}
    if planned.spec.mechanism.name == NATIVE.name:
        from ...adapters.native.build import build_native

        return build_native(folder, backbone, settings, shape, **options)
    from ...adapters.pretrained.adapter import build_pretrained

    in_blocks = bool(cell.settings.get("distill", {}).get("block_layers"))
    return build_pretrained(folder, backbone, settings, shape, mechanisms, in_host_memory=in_blocks, **options)


def build_layer(
    planned: PlannedCell, length: int, sizes: Mapping[str, int], precision: Precision, sources: Sources
) -> AttentionAlone:
    """An attention layer of the cell's model.

    Args:
        planned: The cell.
        length: Longest sequence in tokens.
        sizes: Sizes of the layer instead of the backbone's.
        precision: Device and types.
        sources: Where checkpoints are looked for.
    """
    from ...adapters.attention.alone import build_alone
    from ...adapters.attention.shape import shape_of_config, shape_of_settings
    from ...adapters.pretrained.weight_files import read_config

    cell = planned.cell
    if planned.weights is None:
        shape = shape_of_settings(cell.settings["backbone"], length, cell.seed)
    else:
        folder = materialise(planned.weights, sources)
        shape = shape_of_config(read_config(folder), str(folder / "config.json"), length, cell.seed)
    own: dict[str, Any] = dict(sizes)
    decodes = Capability.LANGUAGE_MODEL in planned.backbone.capabilities
    return build_alone(planned.spec, replace(shape, **own), precision, causal=decodes)
