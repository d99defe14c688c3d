"""The common interface of the models behind adapters, trained from scratch or pretrained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..kernels.choice import KernelChoice
from .attention.core import AttentionCore, Heads, LayerMixer, QueryHeads, kernels_of
from .attention.softmax import SoftmaxAttention
from .base import DecodeState
from .spec import ModelSpec

Tokens: TypeAlias = Int[Tensor, "b n"]
Mask: TypeAlias = Bool[Tensor, "b n"] | None
"""True at real tokens; None without padding."""

TowerMask: TypeAlias = Bool[Tensor, "b *t n"] | None
"""A mask of rows that may hold t token sequences each."""

Outputs: TypeAlias = Float[Tensor, "b n v"] | Float[Tensor, "b classes"]
"""Next-token logits of a decoder, or class logits of an encoder."""

HeadsVisitor = Callable[[int, AttentionCore, Heads, bool], object]
"""Called with a layer's index, its attention core, its heads, and whether it is causal; autocast is off."""


LessonVisitor = Callable[[int, AttentionCore, Heads, bool, QueryHeads], object]
"""Called with a layer's index, its attention core, its heads, whether it is causal, and softmax attention's output."""


class AttentionModel(nn.Module):
    """A model of tokens, vectors or images: a decoder with next-token logits, or an encoder with class logits.

    Whatever converts, distils or compares attention sees pretrained models and those from scratch through this class.
    Layers call their cores as `core(heads, causal=...)` over whole sequences, in the order of `cores`.

    Args:
        no_teacher: The attribute.

    Attributes:
        no_teacher: Why no softmax model before conversion exists; empty if the base weights, which are all but those of
            attention cores, are its weights, or were when `keep_teacher` was called.
    """

    shares_context: ClassVar[bool] = True
    """Whether what rows have in common can be read once."""

    def __init__(self, no_teacher: str) -> None:
        super().__init__()
        self.no_teacher = no_teacher
        self._kept: dict[str, Tensor] = {}

    @abstractmethod
    def forward(self, inputs: Tensor, mask: TowerMask = None) -> Outputs:
        """Next-token logits of a decoder, class logits of an encoder; `mask` is true at real tokens."""

    @abstractmethod
    def hidden(self, inputs: Tensor, mask: TowerMask = None) -> Float[Tensor, "rows m w"]:
        """Outputs of the last layer; the head does not run."""

    @abstractmethod
    def extend(self, tokens: Tensor, mask: Mask, state: Any) -> tuple[Float[Tensor, "b v"], DecodeState]:
        """Logits after the last of `tokens`, which follow those in `state`; padding is on the left."""

    @abstractmethod
    def predictions(
        self, tokens: Tokens, real: Bool[Tensor, "b n"], state: Any, wanted: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "wanted v"], DecodeState]:
        """Logits after the `wanted` tokens, row after row, and the new state.

        Args:
            tokens: Tokens that follow those in `state`.
            real: False at padding. It may be on the right in a last call: the new state is then of no use.
            state: State after earlier tokens; None at the start.
            wanted: True at tokens whose next token is to be predicted.
        """

    @property
    @abstractmethod
    def spec(self) -> ModelSpec:
        """The present attention mechanism."""

    @abstractmethod
    def replace_attention(self, spec: ModelSpec, *, context_length: int, seed: int) -> None:
        """Replaces the core of each layer; all other weights stay.

        Args:
            spec: The new mechanism and its options.
            context_length: Longest sequence in tokens, for maps that depend on it.
            seed: Seed of maps that draw random numbers.

        Raises:
            UnsupportedError: The model cannot have this attention.
            ValueError: Options that do not fit the layer.
        """

    @property
    def cores(self) -> list[AttentionCore]:
        """The attention core of each layer, first to last."""
        return [part for part in self.modules() if isinstance(part, AttentionCore)]

    @property
    def kernels(self) -> list[tuple[str, KernelChoice]]:
        """Attention kernels that have run, by phase, in the order of their first run."""
        return kernels_of(self)

    @property
    def _records(self) -> list[dict[Any, None]]:
        """Where layers record the kernels that run."""
        return [part.kernels_used for part in self.modules() if isinstance(part, AttentionCore | LayerMixer)]

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Kernels that run while the block lasts are not among `kernels` afterwards."""
        records = self._records
        before = [dict(record) for record in records]
        try:
            yield
        finally:
            for record, ran in zip(records, before, strict=True):
                record.clear()
                record.update(ran)

    def forget_kernels(self) -> None:
        """Empties `kernels`."""
        for record in self._records:
            record.clear()

    @contextmanager
    def watching(self, visit: HeadsVisitor) -> Iterator[None]:
        """Calls `visit` before each layer's attention over a whole sequence, while the block lasts."""
        with ExitStack() as hooks:
            for layer, core in enumerate(self.cores):
                hook = partial(_call_visitor, visit, layer)
                hooks.callback(core.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield

    @contextmanager
    def teaching(self, visit: LessonVisitor) -> Iterator[None]:
        """Each layer passes on the output of softmax attention while the block lasts, after a call of `visit` with it.

        A layer that a hybrid keeps has softmax attention of its own, with its window.
        So every layer sees the queries and keys of the softmax model with the present base weights. `AttentionCore`'s
        `outputs` still gives a core's own.
        """
        cores, softmax = self.cores, SoftmaxAttention()
        for layer, core in enumerate(cores):
            teacher = core.outputs if core.is_kept else softmax
            core.stand_in = partial(_teach, visit, layer, core, teacher)
        try:
            yield
        finally:
            for core in cores:
                core.stand_in = None

    def attention_weights(self, inputs: Tensor, mask: TowerMask = None) -> list[Float[Tensor, "rows h m m"]]:
        """Attention weights of each layer, in float32."""
        weights: list[Tensor] = []
        with self.watching(lambda _, core, heads, causal: weights.append(core.weights(heads, causal=causal))):
            self.hidden(inputs, mask)
        return weights

    def keep_teacher(self) -> None:
        """Copies the base weights, without feature maps, to host memory before fine-tuning changes them."""
        in_cores = {id(weight) for core in self.cores for weight in core.parameters()}
        base = ((name, value) for name, value in self.named_parameters() if id(value) not in in_cores)
        self._kept = {name: value.detach().to("cpu", copy=True) for name, value in base}

    @torch.no_grad()
    def teacher_heads(self, inputs: Tensor, mask: TowerMask = None) -> list[Heads]:
        """Heads of each layer of the softmax model before conversion, on the same inputs; empty without one.

        Each layer passes on the output of softmax attention. Base weights are those of `keep_teacher`, or else the
        present ones, which distillation does not change. Memory is linear in the tokens.
        """
        heads: list[Heads] = []
        if self.no_teacher:
            return heads
        self._exchange()
        try:
            with self.teaching(lambda _, __, seen, *___: heads.append(seen)):
                self.hidden(inputs, mask)
        finally:
            self._exchange()
        return heads

    @property
    @abstractmethod
    def last_position(self) -> int | None:
        """Number of positions that the model has learned embeddings for; None if its positions have no end."""

    def _exchange(self) -> None:
        """Exchanges kept weights and those of the model, one after another, so that only one is in memory twice."""
        for name, value in self.named_parameters():
            if name in self._kept:
                present = value.detach().to("cpu", copy=True)
                value.copy_(self._kept[name])
                self._kept[name] = present


def _call_visitor(
    visit: HeadsVisitor, layer: int, core: AttentionCore, args: tuple[Heads], kwargs: dict[str, bool]
) -> None:
    """The hook before a core's forward pass; it turns autocast off, as visitors analyse attention in float32."""
    with torch.autocast(args[0].q.device.type, enabled=False):
        visit(layer, core, args[0], kwargs["causal"])


def _teach(
    visit: LessonVisitor,
    layer: int,
    core: AttentionCore,
    teacher: Callable[..., QueryHeads],
    heads: Heads,
    *,
    causal: bool,
) -> QueryHeads:
    """The stand-in of a core in a lesson."""
    out: QueryHeads = teacher(heads, causal=causal)
    visit(layer, core, heads, causal, out)
    return out
