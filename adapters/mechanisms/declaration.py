"""Declarations of attention mechanisms: they name their code, which is loaded when a layer is built.

Nothing here imports torch. Third parties declare mechanisms in the same way, and publish them as entry points of the
group `hedgebench.adapters`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ...results.names import UsageError, unknown_name

OptionValue: TypeAlias = str | int | float | bool | None


class OptionError(UsageError):
    """An option does not allow a value; the message lists the allowed ones."""


@dataclass(frozen=True)
class AttentionShape:
    """The sizes of an attention layer.

    Attributes:
        heads: Query heads.
        kv_heads: Key and value heads; divides `heads`.
        head_dim: Width of each query and key.
        context_length: Longest sequence in tokens.
        layer: Index of the layer, from 0.
        seed: Seed for mechanisms that draw random numbers.
        width: Width of the layer's input; None where a model gives queries, keys and values alone.
        grid: Rows and columns of an image's patches, which a class token precedes; None for sequences.
    """

    heads: int
    kv_heads: int
    head_dim: int
    context_length: int
    layer: int = 0
    seed: int = 0
    width: int | None = None
    grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class Option:
    """One option of a mechanism, settable in a model spec as `NAME:KEY=VALUE`.

    Attributes:
        kind: Type of the value.
        default: Value if none is given; None lets the mechanism choose from the layer's shape.
        help: Description in one line.
        choices: Allowed values; empty for any value of the type.
        minimum: Smallest allowed number, or None.
        read_by: The part that reads the option: the feature map (`map`), the attention core (`attention`) or the recipe
            of training (`recipe`).
    """

    kind: type[str] | type[int] | type[float] | type[bool]
    default: OptionValue
    help: str
    choices: tuple[str, ...] = ()
    minimum: int | float | None = None
    read_by: Literal["map", "attention", "recipe"] = "map"

    def parse(self, key: str, text: str) -> OptionValue:
        """The value that `text` stands for; `key` names the option in messages.

        Raises:
            OptionError: The text is not of the option's type, or the value is not allowed.
        """
        value = self._convert(key, text)
        if self.choices and value not in self.choices:
            raise OptionError(str(unknown_name(f"value of option {key}", text, self.choices)))
        if isinstance(value, float) and not math.isfinite(value):
            raise OptionError(f"option {key} is {text}; allowed: finite numbers")
        if self.minimum is not None and isinstance(value, int | float) and not value >= self.minimum:
            raise OptionError(f"option {key} is {text}; allowed: {self.kind.__name__} of at least {self.minimum:g}")
        return value

    def _convert(self, key: str, text: str) -> OptionValue:
        if self.kind is bool:
            if text not in ("true", "false"):
                raise OptionError(f"option {key} is {text!r}; allowed: true, false")
            return text == "true"
        try:
            return self.kind(text)
        except ValueError:
            raise OptionError(f"option {key} is {text!r}; allowed: {self.kind.__name__}") from None


@dataclass(frozen=True)
class Variant:
    """The change that an option makes to a mechanism if it has a value.

    Attributes:
        attention: `module:class` of the attention core that replaces the mechanism's own.
        causal_only: Whether the changed mechanism exists only in decoders.
    """

    attention: str
    causal_only: bool = False


@dataclass(frozen=True)
class Mechanism:
    """The declaration of an attention mechanism.

    Attributes:
        name: Name in model specs.
        summary: One line for `bench list models`.
        source: Paper or code that defines it.
        attention: The attention core (see `attention.core.AttentionCore`), or what stands in the place of a whole layer
            (`attention.core.LayerMixer`), as `module:class`, as `module:function` that builds it, or the class itself.
        feature_map: The feature map of a linear attention, as `module:class` or the class itself.
        options: Options in a model spec.
        variants: Variants by the name of their option; the first whose option has a value chooses the attention core.
        map_arguments: Constructor arguments of the feature map that follow from the layer's shape.
        attention_arguments: Those of the attention core.
        normalize: Whether outputs are divided by the sum of the weights.
        causal_only: Whether it exists only in decoders.
        encoder_only: Whether it exists only in encoders.
        reads_heads: Whether queries, keys and values are all that it reads, so that it can be put into any model.
        distilled: Whether conversion trains its map by attention distillation by default.
    """

    name: str
    summary: str
    source: str
    attention: str | type = "hedgebench.adapters.attention.linear:LinearAttention"
    feature_map: str | type | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    map_arguments: Callable[[AttentionShape], dict[str, Any]] = field(default=lambda _: {})
    attention_arguments: Callable[[AttentionShape], dict[str, Any]] = field(default=lambda _: {})
    normalize: bool = True
    causal_only: bool = False
    encoder_only: bool = False
    reads_heads: bool = True
    distilled: bool = False

    def resolve(self, given: Mapping[str, str]) -> dict[str, OptionValue]:
        """Every option's value, the given ones parsed.

        Raises:
            UnknownNameError: The mechanism does not have an option.
            OptionError: An option does not allow its value.
        """
        for key in given:
            if key not in self.options:
                raise unknown_name(f"option of model {self.name}", key, self.options)
        return {
            key: option.parse(key, given[key]) if key in given else option.default
            for key, option in self.options.items()
        }

    def options_for(self, reader: str, values: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
        """The options that `reader` reads and that have a value, from the resolved `values`."""
        return {k: v for k, v in values.items() if self.options[k].read_by == reader and v is not None}

    def attention_for(self, values: Mapping[str, OptionValue]) -> str | type:
        """The attention core with these resolved options."""
        return next((variant.attention for variant in self._chosen(values)), self.attention)

    def is_causal_only(self, values: Mapping[str, OptionValue]) -> bool:
        """Whether the mechanism exists only in decoders with these resolved options."""
        return self.causal_only or any(variant.causal_only for variant in self._chosen(values))

    def _chosen(self, values: Mapping[str, OptionValue]) -> list[Variant]:
        return [variant for key, variant in self.variants.items() if values[key] is not None]


KERNELS = Option(
    str, None, "peer: another package's kernels behind the same feature map", choices=("fla",), read_by="attention"
)
"""The option that chooses the kernels of another package; None for our own kernels."""

FLA_KERNELS = Variant("hedgebench.adapters.attention.fla:FlaLinearAttention", causal_only=True)
"""The variant of `KERNELS`."""


def load_attribute(named: str | type) -> Any:
    """The object named by `module:attribute`; a class stands for itself."""
    if not isinstance(named, str):
        return named
    module, _, attribute = named.partition(":")
    return getattr(importlib.import_module(module), attribute)
