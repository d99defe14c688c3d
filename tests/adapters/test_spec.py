from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgebench.adapters.mechanisms.declaration import Mechanism, Option, OptionError
from hedgebench.adapters.spec import ModelSpec, SpecError, parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.results.names import UnknownNameError


def parse(text: str) -> ModelSpec:
    return parse_spec(text, mechanisms().get)


def texts_of(option: Option) -> st.SearchStrategy[str]:
    smallest = option.minimum or 0
    if option.choices:
        return st.sampled_from(option.choices)
    if option.kind is bool:
        return st.sampled_from(["true", "false"])
    if option.kind is int:
        return st.integers(int(smallest), 10**6).map(str)
    return st.floats(float(smallest), 1e6, allow_nan=False).map(repr)


@st.composite
def specs(draw: st.DrawFn) -> str:
    mechanism: Mechanism = draw(st.sampled_from(list(mechanisms().items.values())))
    pairs = [f":{k}={draw(texts_of(o))}" for k, o in mechanism.options.items() if draw(st.booleans())]
    return mechanism.name + "".join(draw(st.permutations(pairs)))


@settings(max_examples=60, deadline=None)
@given(specs())
def test_the_canonical_form_names_the_same_model_and_is_stable(text: str) -> None:
    spec = parse(text)
    again = parse(spec.canonical)
    assert again.mechanism is spec.mechanism
    assert again.options == spec.options
    assert again.canonical == spec.canonical


@pytest.mark.parametrize("name", sorted(mechanisms().items))
def test_a_bare_name_is_its_own_canonical_form_and_takes_every_default(name: str) -> None:
    spec = parse(name)
    assert spec.canonical == name
    assert spec.options == {key: option.default for key, option in spec.mechanism.options.items()}
    assert spec.backbone is None


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("hedgehog:map=exp:tied=false", "hedgehog"),
        ("hedgehog:tied=true:map=softmax", "hedgehog:map=softmax:tied=true"),
        ("hedgehog:map=softmax:bias=true", "hedgehog:bias=true:map=softmax"),
        ("exp:t=1", "exp"),
        ("exp:t=2.0", "exp:t=2"),
        ("exp:t=0.1234567891", "exp:t=0.1234567891"),
        ("window:window=064", "window"),
        ("hedgehog:window=16:map=softmax", "hedgehog:map=softmax:window=16"),
        (" elu ", "elu"),
        ("hedgehog:keep=5+0+05:map=softmax", "hedgehog:keep=0+5:map=softmax"),
        ("none:layers=10+9+2", "none:layers=2+9+10"),
        ("elu:keep=sliding+every4+0", "elu:keep=0+every4+sliding"),
    ],
)
def test_defaults_are_dropped_and_options_sorted(text: str, canonical: str) -> None:
    assert parse(text).canonical == canonical


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hedgehog:keep=a", "keep of model spec 'hedgehog:keep=a' names 'a'; allowed, joined by +: indices of layers"),
        ("hedgehog:keep=every1", "names 'every1'"),
        ("hedgehog:keep=-1", "names '-1'"),
        ("hedgehog:layers=1++2", "names ''"),
        ("hedgehog:keep=0:layers=1", "has both keep and layers"),
    ],
)
def test_a_choice_of_layers_that_cannot_be_read_is_refused(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=re.escape(told)):
        parse(text)


@pytest.mark.parametrize("name", ["softmax", "native"])
def test_what_is_one_model_as_a_whole_has_no_choice_of_layers(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"option of model {name}"):
        parse(f"{name}:keep=0")


@pytest.mark.parametrize(
    ("choice", "kept"),
    [("keep=0+5", (0, 5)), ("layers=1+2+3+4", (0, 5)), ("keep=every3", (2, 5)), ("keep=sliding+0", (0, 1, 3))],
)
def test_layers_are_kept_by_index_by_step_and_by_window(choice: str, kept: tuple[int, ...]) -> None:
    assert parse(f"hedgehog:{choice}").kept_layers([False, True, False, True, False, False]) == kept


@pytest.mark.parametrize(
    ("text", "backbone"), [("softmax@gpt", "gpt"), ("softmax@hf:org/name", "hf:org/name"), ("exp:t=2@vit", "vit")]
)
def test_the_backbone_follows_the_at_sign_and_is_no_part_of_the_canonical_form(text: str, backbone: str) -> None:
    spec = parse(text)
    assert spec.backbone == backbone
    assert "@" not in spec.canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "NAME"),
        (":", "NAME"),
        ("@gpt", "NAME"),
        ("elu@", "NAME"),
        ("elu:", "KEY=VALUE"),
        ("hedgehog:map", "KEY=VALUE"),
        ("hedgehog:map=", "KEY=VALUE"),
        ("hedgehog:=exp", "KEY=VALUE"),
        ("exp:t=1:t=2", "sets t twice"),
    ],
)
def test_a_malformed_spec_is_refused_with_the_form_it_should_have(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hedgehogg", "unknown model 'hedgehogg'; did you mean hedgehog"),
        ("hedgehog:maps=exp", "unknown option of model hedgehog 'maps'; did you mean map"),
        ("elu:map=exp", "allowed: kernels"),
    ],
)
def test_an_unknown_name_answers_with_the_nearest(text: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hedgehog:map=softmaxx", "did you mean softmax"),
        ("hedgehog:tied=yes", "allowed: true, false"),
        ("hedgehog:feature_dim=x", "'x'; allowed: int"),
        ("hedgehog:feature_dim=0", "int of at least 1"),
        ("hedgehog:window=0", "option window is 0; allowed: int of at least 1"),
        ("exp:t=-1", "float of at least 0"),
        ("exp:t=nan", "finite"),
        ("exp:t=inf", "finite"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused_with_those_it_can(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "causal_only"), [("hedgehog", False), ("hedgehog:window=16", True), ("window", True), ("softmax", False)]
)
def test_a_window_makes_a_model_one_for_decoders_alone(text: str, causal_only: bool) -> None:
    assert parse(text).is_causal_only is causal_only
