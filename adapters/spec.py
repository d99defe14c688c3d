"""Model specs: `NAME[:KEY=VALUE]...[@BACKBONE]`, read and written in one canonical form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..results.names import UsageError
from .mechanisms.declaration import Mechanism, OptionValue


class SpecError(UsageError):
    """A model spec cannot be parsed; the message shows the form."""


@dataclass(frozen=True)
class ModelSpec:
    """A mechanism with its options, and the backbone asked for, if any.

    Attributes:
        mechanism: The declaration.
        options: Every option's value.
        backbone: Backbone named after `@`; None for that of the run or the task.
    """

    mechanism: Mechanism
    options: Mapping[str, OptionValue]
    backbone: str | None = None

    @property
    def canonical(self) -> str:
        """The spec without its backbone, with options sorted and defaults left out: equal models have equal names."""
        changed = [
            f":{key}={_write(value)}"
            for key, value in sorted(self.options.items())
            if value != self.mechanism.options[key].default
        ]
        return self.mechanism.name + "".join(changed)

    @property
    def is_causal_only(self) -> bool:
        """Whether the model exists only in decoders."""
        return self.mechanism.is_causal_only(self.options)

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
    return ModelSpec(mechanism, mechanism.resolve(given), backbone or None)


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
