"""Builds adapters of pretrained models as they are."""

from __future__ import annotations

from pathlib import Path

from ..backbone import Backbone
from ..base import Capability, ModelShape, Settings, UnsupportedError
from ..model_adapter import ModelAdapter
from ..precision import DTYPES, Precision
from ..pretrained.adapter import check_inputs, separator_of, with_positions
from ..pretrained.converted import conversion_of
from ..pretrained.load import load_pretrained
from ..pretrained.weight_files import release
from .model import NativeModel


def build_native(
    folder: Path,
    backbone: Backbone,
    settings: Settings,
    shape: ModelShape,
    *,
    seed: int,
    precision: Precision,
    trust_remote_code: bool = False,
) -> ModelAdapter[NativeModel]:
    """A pretrained model as transformers runs it; arguments are those of `build_pretrained`.

    Raises:
        CheckpointError: The checkpoint cannot be loaded.
        UnsupportedError: The model cannot do what the shape needs, the folder holds a converted model, or the release
            of transformers is older than 5.
    """
    backbone.check(shape)
    if release() < 5:
        raise UnsupportedError("native reads the caches of transformers 5, and an older release is installed")
    if converted := conversion_of(folder):
        raise UnsupportedError(f"{folder} is a converted model; measure it as {converted['model']}, not as native")
    inner, head_note, has_own_head = load_pretrained(
        folder,
        num_classes=shape.num_classes,
        labels=shape.labels,
        weights_dtype=DTYPES[str(settings["weights"])],
        device=precision.device,
        seed=seed,
        trust_remote_code=trust_remote_code,
    )
    is_decoder = Capability.LANGUAGE_MODEL in backbone.capabilities
    model = NativeModel(inner, is_decoder, None if is_decoder else separator_of(folder, inner.config))
    shape = with_positions(shape, inner)
    check_inputs(inner, model.last_position, backbone, shape)
    capabilities = backbone.capabilities - {Capability.ATTENTION_WEIGHTS}
    return ModelAdapter(model.eval(), capabilities, shape, precision, head_note=head_note, has_own_head=has_own_head)
