from __future__ import annotations

import pytest

from hedgebench.adapters.backbone import BACKBONES, SCALES, Backbone
from hedgebench.adapters.base import Capability

EACH = pytest.mark.parametrize("backbone", BACKBONES.values(), ids=lambda backbone: backbone.name)


def test_the_names_are_those_of_the_command_line() -> None:
    assert set(BACKBONES) == {"gpt", "encoder", "vit"}
    assert SCALES == ("smoke", "small", "paper")


@EACH
def test_every_scale_has_a_size_of_the_same_settings(backbone: Backbone) -> None:
    assert tuple(backbone.sizes) == SCALES
    keys = {frozenset(size) for size in backbone.sizes.values()}
    assert len(keys) == 1
    assert keys.pop() >= {"layers", "heads", "kv_heads", "width", "mlp_width", "rope", "short_conv", "dropout"}


@EACH
def test_sizes_grow_with_scale_and_heads_divide_widths(backbone: Backbone) -> None:
    widths = []
    for size in backbone.sizes.values():
        width, heads = size["width"], size["heads"]
        assert isinstance(width, int)
        assert isinstance(heads, int)
        assert width % heads == 0
        widths.append(width)
    assert widths == sorted(set(widths))


@EACH
def test_a_backbone_is_a_language_model_or_a_classifier(backbone: Backbone) -> None:
    assert len(backbone.capabilities & {Capability.LANGUAGE_MODEL, Capability.CLASSIFIER}) == 1
    assert backbone.summary
