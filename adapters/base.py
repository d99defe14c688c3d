"""The one interface through which tasks see a model, whatever attention is inside it.

Nothing here imports torch when the module is imported, so that listings stay quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from ..results.record import KernelUse

IGNORED = -100
"""Target that no loss is taken on."""

Value: TypeAlias = str | int | float | bool | tuple[int, ...] | None
"""One setting of a stage, a task or a backbone."""


class Capability(StrEnum):
    """What an adapter can do; a task states which of these it needs."""

    LANGUAGE_MODEL = "language_model"
    CLASSIFIER = "classifier"
    VECTOR_SEQUENCES = "vector_sequences"
    GENERATE = "generate"
    ATTENTION_WEIGHTS = "attention_weights"


class UnsupportedError(Exception):
    """An adapter cannot do what was asked of it; the message says what and why."""


@dataclass(frozen=True)
class ModelShape:
    """What a task needs a model to accept and to give.

    Attributes:
        context_length: Longest input in positions (for images: the number of patches follows from the backbone).
        vocab_size: Number of token ids; None for image inputs. With `input_dim`, the number of labels that logits are
            given over at each position, and None where each position's output is one real number.
        num_classes: Number of classes of a classifier, 1 for a regression; None for an output at each position.
        image_size: Height and width in pixels of image inputs; None for tokens.
        channels: Channels of image inputs.
        towers: Token sequences in each row, `[b, towers, n]` instead of `[b, n]`: of two, each goes through the model
            by itself, with the same weights, and the head compares the outcomes.
        input_dim: Real numbers at each position of a sequence of vectors, read in by a linear layer; None for tokens
            and images.
    """

    context_length: int
    vocab_size: int | None = None
    num_classes: int | None = None
    image_size: int | None = None
    channels: int = 1
    towers: int = 1
    input_dim: int | None = None

    @property
    def needs(self) -> Capability:
        """The capability that this shape asks for."""
        if self.input_dim is not None:
            return Capability.VECTOR_SEQUENCES
        return Capability.LANGUAGE_MODEL if self.num_classes is None else Capability.CLASSIFIER

    @property
    def is_regression(self) -> bool:
        """Whether outputs are real numbers, one for each input or for each position of a sequence of vectors."""
        return self.num_classes == 1 or (self.input_dim is not None and self.vocab_size is None)


@dataclass(frozen=True)
class Examples:
    """Training or validation examples, as arrays.

    Attributes:
        inputs: Token ids `[rows, n]`, or `[rows, towers, n]`, of any integer type, images
            `[rows, channels, height, width]` float32, or sequences of vectors `[rows, n, input_dim]` float32.
        targets: For language models next-token ids `[rows, n]` int32, aligned with `inputs` and `IGNORED` where no
            loss is taken, and so for labels of sequences of vectors; for classifiers class ids `[rows]` int32; for
            regressions values `[rows]` or, at each position, `[rows, n]` float32, NaN where no loss is taken.
        attention_mask: True at real tokens, of the shape of token inputs; None when nothing is padded.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    attention_mask: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Continuation:
    """Score of one continuation given its context.

    Attributes:
        loglikelihood_nats: Sum of log-probabilities of the continuation's tokens.
        is_greedy: Whether every token was the most likely one.
    """

    loglikelihood_nats: float
    is_greedy: bool


@dataclass(frozen=True)
class AttentionMaps:
    """One layer's attention over some rows, beside softmax's; each `[b, h, n, n]` float32.

    Attributes:
        weights: The layer's own attention weights.
        softmax: What softmax gives for the same queries and keys.
        products: q·k times softmax's scale; minus infinity at keys that a query does not see.
        teacher: What this layer of the softmax model before conversion gives, on the same inputs; None where there is
            no such model.
    """

    weights: Tensor
    softmax: Tensor
    products: Tensor
    teacher: Tensor | None = None


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model: all of them, and those of its attention's feature maps."""

    total: int
    feature_maps: int


@runtime_checkable
class DecodeState(Protocol):
    """What a model carries from one decoded token to the next: a KV cache, a recurrent state, or both."""

    @property
    def bytes(self) -> int:
        """Bytes of tensors held for the whole batch."""
        ...


@runtime_checkable
class Adapter(Protocol):
    """A model with one attention mechanism inside.

    Shapes: b rows, n tokens, v vocabulary entries, h heads. Padding is marked by `attention_mask` `[b, n]` (True at
    real tokens), on either side. Every method runs without gradients except `training_step`.

    Each method raises `UnsupportedError` when the adapter lacks the capability.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this adapter can do."""
        ...

    @property
    def shape(self) -> ModelShape:
        """What the model accepts and gives."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        ...

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Next-token logits `[b, n, v]`, float32."""
        ...

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 8
    ) -> list[Continuation]:
        """Scores of (context, continuation) pairs, in the order given."""
        ...

    def rolling_loglikelihood(
        self, tokens: Sequence[int], *, prefix_token: int, stride: int | None = None, batch_size: int = 8
    ) -> NDArray[np.float64]:
        """Log-probability in nats of each of `tokens`, each scored once.

        Windows span the context length and advance by `stride` tokens (default: the context length, so no overlap);
        each token is conditioned on at least `context_length - stride` earlier ones where so many exist.
        The first token is conditioned on `prefix_token`.
        """
        ...

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop_token: int | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        has_ended: Callable[[Tensor], bool] | None = None,
    ) -> Tensor:
        """New tokens `[b, max_new_tokens or fewer]`; greedy at temperature 0. Rows that ended hold `stop_token`.

        Sampling draws among the `top_k` likeliest tokens, and among the fewest that have `top_p` of the probability.
        `has_ended` sees the new tokens `[b, t]` after each step; once it says so, no more are made.
        """
        ...

    def class_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Class logits `[b, classes]`, float32; inputs and mask are `[b, towers, n]` where the shape has towers."""
        ...

    def sequence_outputs(self, vectors: Tensor) -> Tensor:
        """Outputs `[b, n, o]` at each position of sequences of vectors `[b, n, input_dim]`, float32.

        They are logits over the shape's `vocab_size` labels, or the one value of a regression.
        """
        ...

    def attention_weights(self, inputs: Tensor, attention_mask: Tensor | None = None) -> list[Tensor]:
        """Attention weights `[b, h, n, n]` of each layer, float32.

        Rows sum to 1 where the mechanism normalises; to 0 where no key is seen or ReLU leaves a query no feature.
        """
        ...

    def compare_attention(
        self,
        inputs: Tensor,
        visit: Callable[[int, AttentionMaps], None],
        attention_mask: Tensor | None = None,
    ) -> None:
        """Shows each layer's attention weights beside softmax's: over the same queries and keys, and of the teacher.

        `visit` gets the layer's index and its maps, one layer at a time. The teacher is the softmax model before
        conversion; it reads the inputs by itself, so its later layers do not see what conversion did to earlier ones.
        """
        ...

    def prefill(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, DecodeState]:
        """Logits `[b, v]` after the last token, and the state to decode from."""
        ...

    def decode(self, token_ids: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Logits `[b, v]` after one more token `[b]` per row, and the new state; the old state is used up."""
        ...

    def training_step(self, inputs: Tensor, targets: Tensor) -> float:
        """Loss of one forward and backward pass; gradients are computed and dropped, weights stay."""
        ...

    def parameter_count(self) -> ParameterCount:
        """Parameters, and how many of them are the attention's feature maps."""
        ...

    def state_bytes(self, batch_size: int, seq_len: int) -> int:
        """Bytes of the decode state after `seq_len` tokens for `batch_size` rows."""
        ...

    def kernels_used(self) -> tuple[KernelUse, ...]:
        """Attention kernels that have run since the adapter was built, in the order first seen."""
        ...


Settings: TypeAlias = Mapping[str, Value]
