"""What sweeps measure: calls on a whole model or on its attention layer alone, plain or through torch.compile."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from ...adapters.base import Adapter, UnsupportedError
from ..heavy import Tensor, torch
from .points import LAYER, Point

VOCAB_SIZE = 256
"""Entries of the vocabulary: few, so that the output layer takes little of the time."""

COMPILED = "compiled_"
"""Prefix of modes that torch.compile runs, after `layer_`."""


@dataclass(frozen=True)
class ModelInputs:
    """Token ids `[b, n]`, and as targets the next token ids `[b, n]`, or classes `[b]` for a classifier."""

    tokens: Tensor
    targets: Tensor


@dataclass
class ModelCalls:
    """The calls of a whole model; prefill and training run through torch.compile if `is_compiled`."""

    adapter: Adapter
    is_compiled: bool = False

    def __post_init__(self) -> None:
        self.device = self.adapter.device
        self.classes = self.adapter.shape.num_classes
        forward = self.adapter.prefill if self.classes is None else self.adapter.class_logits
        self._forward, self._train = (self._compiled(call) for call in (forward, self.adapter.training_step))

    def inputs(self, batch_size: int, seq_len: int) -> ModelInputs:
        """Random token ids and their targets."""
        tokens = random_tokens(self.adapter, batch_size, seq_len)
        return ModelInputs(tokens, tokens.roll(-1, dims=1) if self.classes is None else tokens[:, 0] % self.classes)

    def prefill(self, inputs: ModelInputs, seq_len: int) -> Any:
        """Runs the first `seq_len` tokens; returns the state to decode from, None for a classifier."""
        found = self._forward(inputs.tokens[:, :seq_len])
        return found[1] if self.classes is None else None

    def decode(self, inputs: ModelInputs, position: int, state: Any) -> Any:
        """Runs the token at `position`; returns the new state.

        Raises:
            UnsupportedError: The model is a classifier.
        """
        if self.classes is not None:
            raise UnsupportedError("a classifier does not decode")
        return self.adapter.decode(inputs.tokens[:, position], state)[1]

    def train(self, inputs: ModelInputs) -> object:
        """Runs a forward and a backward pass of the loss on the next tokens, or on the classes."""
        return self._train(inputs.tokens, inputs.targets)

    def _compiled(self, call: Callable[..., Any]) -> Callable[..., Any]:
        if not self.is_compiled:
            return call
        compiled: Callable[..., Any] = torch.compile(call, dynamic=False)
        return compiled


class Calls(Protocol):
    """The calls that are measured, of `ModelCalls` or of an attention layer alone."""

    device: torch.device

    def inputs(self, batch_size: int, seq_len: int) -> Any:
        """Random inputs."""
        ...

    def prefill(self, inputs: Any, seq_len: int) -> Any:
        """Runs the first `seq_len` tokens; returns the state."""
        ...

    def decode(self, inputs: Any, position: int, state: Any) -> Any:
        """Runs the token at `position`; returns the new state."""
        ...

    def train(self, inputs: Any) -> object:
        """Runs a forward and a backward pass."""
        ...


def calls_for(mode: str, subject: Any) -> tuple[Calls, str]:
    """The calls on a subject, compiled if the mode says so, and the mode's name without its prefixes."""
    work = mode.removeprefix(LAYER)
    is_compiled, is_layer = work.startswith(COMPILED), mode.startswith(LAYER)
    if is_compiled:
        _counters().clear()
    if is_compiled and is_layer:
        subject.compile()
    return subject if is_layer else ModelCalls(subject, is_compiled), work.removeprefix(COMPILED)


def whole_call(calls: Calls, work: str, point: Point) -> Callable[[], object]:
    """One call of `prefill` or `train` on inputs of the point's size."""
    inputs = calls.inputs(point.batch_size, point.seq_len)
    return partial(calls.prefill, inputs, point.seq_len) if work == "prefill" else partial(calls.train, inputs)


def random_tokens(adapter: Adapter, batch_size: int, seq_len: int) -> Tensor:
    """Uniform token ids below `VOCAB_SIZE`, `[batch_size, seq_len]` on the adapter's device, equal for every model."""
    generator = torch.Generator().manual_seed(seq_len)
    return torch.randint(0, VOCAB_SIZE, (batch_size, seq_len), generator=generator).to(adapter.device)


@dataclass(frozen=True)
class Compiled:
    """What torch.compile did with a mode.

    Attributes:
        graphs: Graphs that it compiled, including those compiled again for another state of their objects.
        breaks: How often it returned to plain Python between two graphs, by reason.
        skipped: Functions that it could not compile, or not compile again, and left to plain Python.
        untraced: How often it met code that it cannot trace, by reason; includes the reasons of skipped functions.
    """

    graphs: int
    breaks: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0
    untraced: Mapping[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """A note that parts of the mode ran as plain Python; empty if none did."""
        parts = [f"with plain Python between them: {_listed(self.breaks)}"] if self.breaks else []
        if self.skipped:
            parts.append(f"and left {self.skipped} functions to plain Python: {_listed(self.untraced)}")
        return [f"torch.compile made {self.graphs} graphs, {', '.join(parts)}"] if parts else []


def check_compiled(mode: str) -> Compiled | None:
    """What torch.compile did with a mode that has run; None if the mode is not compiled.

    Raises:
        UnsupportedError: torch.compile compiled nothing, so plain code ran.
    """
    if COMPILED not in mode:
        return None
    counters = _counters()
    if not counters["stats"]["unique_graphs"]:
        raise UnsupportedError(f"torch.compile compiled nothing of {mode}; use {mode.replace(COMPILED, '')} instead")
    return Compiled(
        counters["stats"]["unique_graphs"],
        _by_first_line(counters["graph_break"]),
        counters["frames"]["total"] - counters["frames"]["ok"],
        _by_first_line(counters["unimplemented"]),
    )


def compilations(mode: str) -> int:
    """Frames that torch.compile has started to compile in a mode so far; 0 if the mode is not compiled."""
    return int(_counters()["frames"]["total"]) if COMPILED in mode else 0


def _by_first_line(reasons: Mapping[str, int]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for reason, count in reasons.items():
        counts[str(reason).partition("\n")[0]] += count
    return dict(+counts)


def _listed(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{reason} ({count})" for reason, count in reasons.items())


def _counters() -> Any:
    """torch.compile's counters in this process, by kind."""
    return importlib.import_module("torch._dynamo.utils").counters
