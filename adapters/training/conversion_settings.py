"""Settings of the stages of a conversion, without torch: a plan names and checks them before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..base import Settings


@dataclass(frozen=True)
class DistillSettings:
    """What distillation minimises, beside the settings of its training.

    Attributes:
        attention_factor: Factor on the cross-entropy of attention weights.
        output_factor: Factor on the mean squared error of attention outputs; 1000 in LoLCATs.
        block_layers: Layers distilled at a time, the rest of the model left in host memory; 0 for all at once.
    """

    attention_factor: float = 1.0
    output_factor: float = 0.0
    block_layers: int = 0

    @classmethod
    def of(cls, values: Settings) -> DistillSettings:
        """Settings from plain values; keys that are not of this class are left to others.

        Raises:
            ValueError: A negative number, or nothing to minimise.
        """
        chosen = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})  # type: ignore[arg-type]
        for field in fields(cls):
            if not getattr(chosen, field.name) >= 0:
                raise ValueError(f"distill.{field.name} is {getattr(chosen, field.name)}; allowed: 0 or more")
        if not chosen.attention_factor and not chosen.output_factor:
            raise ValueError("distill.attention_factor and distill.output_factor are both 0; allowed: one above 0")
        return chosen


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters; the defaults are the paper's (appendix B.5).

    Attributes:
        rank: Rank of each update.
        alpha: Updates are scaled by `alpha / rank`.
        dropout: Dropout on the input of each update.
        train_maps: Train feature maps too; a map that was not distilled would otherwise never be.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    train_maps: bool = True

    @classmethod
    def of(cls, values: Settings) -> LoraSettings:
        """Settings from plain values; keys that are not of this class are left to others.

        Raises:
            ValueError: A rank or an alpha below 1, or a dropout outside 0 to 1.
        """
        chosen = cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})  # type: ignore[arg-type]
        if chosen.rank < 1 or chosen.alpha < 1 or not 0 <= chosen.dropout < 1:
            raise ValueError(
                f"lora.rank is {chosen.rank}, lora.alpha {chosen.alpha} and lora.dropout {chosen.dropout}; "
                "allowed: at least 1, at least 1, and from 0 to below 1"
            )
        return chosen
