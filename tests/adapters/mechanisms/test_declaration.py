from __future__ import annotations

import inspect
from typing import Any, get_args, get_type_hints

import pytest

from hedgebench.adapters.attention.core import AttentionCore, LayerMixer, build_attention
from hedgebench.adapters.base import UnsupportedError
from hedgebench.adapters.mechanisms.declaration import AttentionShape, Mechanism, Option, load_attribute
from hedgebench.harness.registry import mechanisms
from hedgebench.kernels.maps.feature_map import FeatureMap

FIXED = {
    *("softmax", "elu", "relu", "performer", "cosformer", "t2r", "taylor", "exp"),
    *("hedgehog", "t2r_hh", "identity_linear", "none", "window"),
}
ALL = sorted(mechanisms().items.values(), key=lambda mechanism: mechanism.name)
EACH = pytest.mark.parametrize("mechanism", ALL, ids=lambda mechanism: mechanism.name)


def kinds_of(attention: str | type) -> tuple[type, ...]:
    """What a declaration's attention is: a class, or what a function builds."""
    built: Any = load_attribute(attention)
    if not isinstance(built, type):
        built = get_type_hints(built)["return"]
    return get_args(built) or (built,)


def parameters_of(attention: str | type) -> set[str]:
    return set(inspect.signature(load_attribute(attention)).parameters)


def test_the_names_that_are_fixed_exist() -> None:
    assert set(mechanisms().items) >= FIXED


@EACH
def test_a_declaration_names_code_that_exists_and_says_where_it_is_from(mechanism: Mechanism) -> None:
    for attention in (mechanism.attention, *(variant.attention for variant in mechanism.variants.values())):
        assert all(issubclass(kind, AttentionCore | LayerMixer) for kind in kinds_of(attention))
    assert mechanism.feature_map is None or issubclass(load_attribute(mechanism.feature_map), FeatureMap)
    assert mechanism.summary
    assert mechanism.source


@pytest.mark.parametrize("name", [mechanism.name for mechanism in ALL if mechanism.name != "native"])
def test_what_reads_heads_alone_can_stand_in_a_layer_that_passes_nothing_else_on(name: str) -> None:
    mechanism = mechanisms().get(name)
    try:
        build_attention(mechanism, mechanism.resolve({}), AttentionShape(2, 2, 8, 16, width=None))
        is_built = True
    except UnsupportedError:
        is_built = False
    assert is_built == mechanism.reads_heads


@EACH
def test_every_option_of_a_map_or_an_attention_is_one_its_constructor_takes(mechanism: Mechanism) -> None:
    takes = {
        "attention": {"tied"} if mechanism.feature_map else set(),
        "map": set(),
        "recipe": {"distill", "continued"},
    }
    for attention in (mechanism.attention, *(variant.attention for variant in mechanism.variants.values())):
        takes["attention"] |= parameters_of(attention)
    if mechanism.feature_map:
        takes["map"] = set(inspect.signature(load_attribute(mechanism.feature_map).__init__).parameters)
    for key, option in mechanism.options.items():
        assert key in takes[option.read_by], f"{mechanism.name}:{key}"


@EACH
def test_defaults_are_values_that_could_be_given(mechanism: Mechanism) -> None:
    for key, option in mechanism.options.items():
        if option.default is not None:
            text = str(option.default).lower() if option.kind is bool else str(option.default)
            assert option.parse(key, text) == option.default


def test_options_are_told_apart_by_who_reads_them_and_those_left_open_are_left_out() -> None:
    hedgehog = mechanisms().get("hedgehog")
    values = hedgehog.resolve({"tied": "true"})
    assert hedgehog.options_for("attention", values) == {"tied": True}
    assert hedgehog.options_for("map", values) == {"map": "exp", "negate": True, "bias": False, "init": "identity"}
    assert hedgehog.options_for("recipe", values) == {"distill": True}


def test_an_option_with_a_variant_changes_the_attention_and_where_it_exists_only_when_given() -> None:
    hedgehog, window = mechanisms().get("hedgehog"), mechanisms().get("window")
    plain, hybrid = hedgehog.resolve({}), hedgehog.resolve({"window": "16"})
    assert hedgehog.attention_for(plain) == hedgehog.attention
    assert hedgehog.attention_for(hybrid) == "hedgebench.adapters.attention.hybrid:HybridAttention"
    assert not hedgehog.is_causal_only(plain)
    assert hedgehog.is_causal_only(hybrid)
    assert hedgehog.options_for("attention", hybrid) == {"tied": False, "window": 16}
    assert window.is_causal_only(window.resolve({}))


@EACH
def test_variants_belong_to_options_that_are_off_unless_given(mechanism: Mechanism) -> None:
    for key in mechanism.variants:
        assert mechanism.options[key].default is None
        assert mechanism.options[key].read_by == "attention"


def test_cosformer_takes_its_length_from_the_layer_unless_told() -> None:
    cosformer = mechanisms().get("cosformer")
    assert cosformer.map_arguments(AttentionShape(2, 2, 8, 16)) == {"length": 16}


@pytest.mark.parametrize(("kind", "text", "value"), [(int, "3", 3), (float, "3", 3.0), (str, "3", "3")])
def test_an_option_converts_to_its_own_type(
    kind: type[str] | type[int] | type[float], text: str, value: str | float
) -> None:
    parsed = Option(kind, None, "help").parse("key", text)
    assert parsed == value
    assert type(parsed) is kind
