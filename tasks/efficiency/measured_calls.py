"""The calls that sweeps measure, on a whole model or on its attention layer alone, under the same names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ...adapters.base import Adapter, UnsupportedError
from .sweep_points import LAYER
from .sweep_settings import random_tokens

if TYPE_CHECKING:
    import torch

COMPILED = "compiled_"
"""What a mode's name starts with, after `layer_`, when torch.compile runs it."""


class Calls(Protocol):
    """What a sweep calls; `inputs` is what `inputs()` gave."""

    device: torch.device

    def inputs(self, batch_size: int, seq_len: int) -> Any:
        """Random inputs of `batch_size` sequences of `seq_len` tokens."""
        ...

    def prefill(self, inputs: Any, seq_len: int) -> Any:
        """Runs the first `seq_len` tokens and gives the state to decode from."""
        ...

    def decode(self, inputs: Any, position: int, state: Any) -> Any:
        """Runs the token at `position` and gives the new state."""
        ...

    def train(self, inputs: Any) -> object:
        """A forward and a backward pass."""
        ...


@dataclass(frozen=True)
class ModelInputs:
    """Token ids `[b, n]`, and those that follow them, or classes `[b]`."""

    tokens: Any
    targets: Any


@dataclass
class ModelCalls:
    """The calls of a whole model."""

    adapter: Adapter

    def __post_init__(self) -> None:
        self.device = self.adapter.device
        self._prefill: Callable[..., Any] = self._forward()
        self._train: Callable[..., Any] = self.adapter.training_step

    def compile(self) -> None:
        """Runs prefill and training through torch.compile from now on."""
        import torch

        self._prefill = torch.compile(self._forward(), dynamic=False)
        self._train = torch.compile(self.adapter.training_step, dynamic=False)

    def inputs(self, batch_size: int, seq_len: int) -> Any:
        """Token ids and targets."""
        tokens = random_tokens(self.adapter, batch_size, seq_len)
        classes = self.adapter.shape.num_classes
        return ModelInputs(tokens, tokens.roll(-1, dims=1) if classes is None else tokens[:, 0] % classes)

    def prefill(self, inputs: Any, seq_len: int) -> Any:
        """The state after the first tokens; a classifier has none."""
        made = self._prefill(inputs.tokens[:, :seq_len])
        return made[1] if self.adapter.shape.num_classes is None else None

    def decode(self, inputs: Any, position: int, state: Any) -> Any:
        """The state after one more token.

        Raises:
            UnsupportedError: The model is a classifier.
        """
        if self.adapter.shape.num_classes is not None:
            raise UnsupportedError("a classifier does not decode")
        return self.adapter.decode(inputs.tokens[:, position], state)[1]

    def train(self, inputs: Any) -> object:
        """Loss of the next tokens, or of the classes."""
        return self._train(inputs.tokens, inputs.targets)

    def _forward(self) -> Callable[..., Any]:
        return self.adapter.prefill if self.adapter.shape.num_classes is None else self.adapter.class_logits


@dataclass
class LayerCalls:
    """The calls of an attention layer alone, `adapters.attention.alone.AttentionAlone`; inputs are heads."""

    layer: Any

    def __post_init__(self) -> None:
        self.device = self.layer.device

    def compile(self) -> None:
        """Runs the layer through torch.compile from now on."""
        self.layer.compile()

    def inputs(self, batch_size: int, seq_len: int) -> Any:
        """Queries, keys and values."""
        return self.layer.inputs(batch_size, seq_len)

    def prefill(self, inputs: Any, seq_len: int) -> Any:
        """The state after the first tokens."""
        return self.layer.prefill(inputs.part(0, seq_len))

    def decode(self, inputs: Any, position: int, state: Any) -> Any:
        """The state after one more token."""
        return self.layer.decode(inputs.part(position, position + 1), state)

    def train(self, inputs: Any) -> object:
        """Gradients of queries, keys, values and maps."""
        return self.layer.training_step(inputs)


def calls_for(mode: str, subject: Any) -> tuple[Calls, str]:
    """The calls of a subject, compiled where the mode says so, and what is left of the mode's name."""
    calls: ModelCalls | LayerCalls = LayerCalls(subject) if mode.startswith(LAYER) else ModelCalls(subject)
    work = mode.removeprefix(LAYER)
    if work.startswith(COMPILED):
        _counters().clear()
        calls.compile()
    return calls, work.removeprefix(COMPILED)


@dataclass(frozen=True)
class Compiled:
    """What torch.compile made of a mode.

    Attributes:
        graphs: Graphs that it compiled; what was compiled again for another state of its objects counts again.
        breaks: How often it went back to plain Python between two graphs, by the reason.
        skipped: Functions that it could not compile at all, or not once more, and left to plain Python.
        untraced: What it met that it cannot follow, by the reason; where functions were skipped, theirs are among them.
    """

    graphs: int
    breaks: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0
    untraced: Mapping[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """In words, that parts of the mode ran as plain Python; nothing where none did."""
        said = []
        if self.breaks:
            said.append(f"with plain Python between them: {_listed(self.breaks)}")
        if self.skipped:
            said.append(f"and left {self.skipped} functions to plain Python: {_listed(self.untraced)}")
        return [f"torch.compile made {self.graphs} graphs, {', '.join(said)}"] if said else []


def check_compiled(mode: str) -> Compiled | None:
    """What torch.compile made of a mode, after that has run; None of a mode that is not compiled.

    Raises:
        UnsupportedError: It compiled nothing, so that what ran was the plain code.
    """
    if COMPILED not in mode:
        return None
    counters = _counters()
    if not counters["stats"]["unique_graphs"]:
        raise UnsupportedError(f"torch.compile compiled nothing of {mode}; without it, the mode is there too")
    return Compiled(
        counters["stats"]["unique_graphs"],
        _by_first_line(counters["graph_break"]),
        counters["frames"]["total"] - counters["frames"]["ok"],
        _by_first_line(counters["unimplemented"]),
    )


def compilations(mode: str) -> int:
    """How often torch.compile has set to work in a mode so far; 0 of one that is not compiled."""
    return int(_counters()["frames"]["total"]) if COMPILED in mode else 0


def _by_first_line(reasons: Mapping[str, int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason, count in reasons.items():
        if count:
            first = str(reason).splitlines()[0]
            counts[first] = counts.get(first, 0) + count
    return counts


def _listed(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{reason} ({count})" for reason, count in reasons.items())


def _counters() -> Any:
    """What torch.compile counts in this process, by kind."""
    return importlib.import_module("torch._dynamo.utils").counters
