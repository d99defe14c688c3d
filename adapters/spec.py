"""Model specs: `NAME[:KEY=VALUE]...[@BACKBONE]`, read and written in one canonical form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..results.names import UsageError
from .mechanisms.declaration import Mechanism, OptionValue


class SpecError(UsageError):
    """A model spec cannot be parsed; the message shows the form."""


KEEP, LAYERS = "keep", "layers"
"""Options of every mechanism but those in `_WHOLE`, of which a spec has at most one."""

_WHOLE = ("softmax", "native")

SLIDING = "sliding"
"""Stands for the layers with a sliding window of the model's own."""

_EVERY = "every"


@dataclass(frozen=True)
class LayerChoice:
    """The layers of a hybrid model: some have the mechanism, the others stay softmax.

    Attributes:
        option: `keep` if the parts name the layers that stay, `layers` if they name those that change.
        parts: Indices of layers; `every4` for the last of every four; `sliding`.
    """

    option: str
    parts: tuple[str, ...]

    @property
    def value(self) -> str:
        """The parts as a model spec writes them."""
        return "+".join(self.parts)

    def kept(self, is_sliding: Sequence[bool]) -> tuple[int, ...]:
        """The layers that stay, by index.

        Args:
            is_sliding: Whether each layer of the model has a sliding window of its own.

        Raises:
            SpecError: The model lacks a layer that is named, or has no layer left that changes or that stays.
        """
        layers = range(len(is_sliding))
        named: set[int] = set()
        for part in self.parts:
            found = [layer for layer in layers if _names(part, layer, is_sliding[layer])]
            if not found:
                have = f"layers 0 to {layers[-1]}" + ("" if any(is_sliding) else ", none with a sliding window")
                raise SpecError(f"{self.option}={self.value}: the model has no layer {part}; it has {have}")
            named.update(found)
        kept = tuple(layer for layer in layers if (layer in named) == (self.option == KEEP))
        if len(kept) in (0, len(layers)):
            which = "no layer" if not kept else "every layer"
            raise SpecError(
                f"{self.option}={self.value} keeps {which} of a model with {len(layers)}; leave the option out"
            )
        return kept


def _names(part: str, layer: int, is_sliding: bool) -> bool:
    if part == SLIDING:
        return is_sliding
    if part.startswith(_EVERY):
        every = int(part.removeprefix(_EVERY))
        return layer % every == every - 1
    return layer == int(part)


@dataclass(frozen=True)
class ModelSpec:
    """A mechanism with its options, and the backbone asked for, if any.

    Attributes:
        mechanism: The declaration.
        options: Every option's value.
        backbone: Backbone named after `@`; None for that of the run or the task.
        choice: The layers that have the mechanism, while the others stay softmax; None for all layers.
    """

    mechanism: Mechanism
    options: Mapping[str, OptionValue]
    backbone: str | None = None
    choice: LayerChoice | None = None

    @property
    def canonical(self) -> str:
        """The spec without its backbone, with options sorted and defaults left out: equal models have equal names."""
        defaults = self.mechanism.options
        changed = {key: _write(value) for key, value in self.options.items() if value != defaults[key].default}
        if self.choice is not None:
            changed[self.choice.option] = self.choice.value
        return self.mechanism.name + "".join(f":{key}={text}" for key, text in sorted(changed.items()))

    @property
    def is_causal_only(self) -> bool:
        """Whether the model exists only in decoders."""
        return self.mechanism.is_causal_only(self.options)

    def kept_layers(self, is_sliding: Sequence[bool]) -> tuple[int, ...]:
        """The layers of a model that stay softmax, by index; arguments and errors are those of `LayerChoice.kept`."""
        return () if self.choice is None else self.choice.kept(is_sliding)

    @property
    def is_distilled(self) -> bool:
        """Whether conversion trains the model's feature maps by attention distillation."""
        return self.mechanism.distilled and self.options.get("distill") is not False


Mechanisms: TypeAlias = Callable[[str], Mechanism]
"""Returns the mechanism of a name, or raises `UnknownNameError`."""


def parse_spec(text: str, mechanisms: Mechanisms) -> ModelSpec:
    """The model that `text` names.

    Raises:
        SpecError: The text does not have the form of a spec.
        UnknownNameError: The mechanism or an option is unknown.
        OptionError: An option does not allow the value.
    """
    body, at, backbone = text.strip().partition("@")
    name, *pairs = body.split(":")
    if not name or (at and not backbone):
        raise SpecError(f"model spec {text!r} is not of the form NAME[:KEY=VALUE]...[@BACKBONE]")
    given = parse_pairs(pairs, f"model spec {text!r}")
    mechanism = mechanisms(name)
    choice = _take_choice(given, text) if mechanism.name not in _WHOLE else None
    return ModelSpec(mechanism, mechanism.resolve(given), backbone or None, choice)


def _take_choice(given: dict[str, str], text: str) -> LayerChoice | None:
    """The choice of layers among the given options, which loses it."""
    found = {option: given.pop(option) for option in (KEEP, LAYERS) if option in given}
    if not found:
        return None
    if len(found) > 1:
        raise SpecError(f"model spec {text!r} has both keep and layers; give those that stay, or those that change")
    ((option, value),) = found.items()
    parts = dict.fromkeys(_part(part, option, text) for part in value.split("+"))
    return LayerChoice(option, tuple(sorted(parts, key=lambda part: (not part.isdigit(), len(part), part))))


def _part(part: str, option: str, text: str) -> str:
    digits = part.removeprefix(_EVERY)
    if part == SLIDING or (digits.isascii() and digits.isdigit() and (digits == part or int(digits) > 1)):
        return part if not digits.isdigit() else part.replace(digits, str(int(digits)))
    raise SpecError(
        f"{option} of model spec {text!r} names {part!r}; allowed, joined by +: indices of layers from 0, every2, "
        f"every3, ... (the last of so many) and {SLIDING}"
    )


def parse_pairs(pairs: Iterable[str], where: str) -> dict[str, str]:
    """Values by key, from texts `KEY=VALUE`; `where` names their place in messages.

    Raises:
        SpecError: A text has another form, or a key is set twice.
    """
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals or not value:
            raise SpecError(f"{pair!r} in {where} is not of the form KEY=VALUE")
        if key in given:
            raise SpecError(f"{where} sets {key} twice")
        given[key] = value
    return given


def _write(value: OptionValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)
