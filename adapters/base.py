"""The interface through which tasks use a model, whichever attention mechanism it has.

Importing this module does not import torch, so that listings stay quick.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict, Unpack, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from ..results.record import KernelUse

IGNORED = -100
"""Target of a position that has no loss."""

Value: TypeAlias = str | int | float | bool | tuple[int, ...] | None
"""Value of one setting of a stage, a task or a backbone."""


class Capability(StrEnum):
    """Capabilities of an adapter; a task declares those that it needs."""

    LANGUAGE_MODEL = "language_model"
    CLASSIFIER = "classifier"
    VECTOR_SEQUENCES = "vector_sequences"
    GENERATE = "generate"
    ATTENTION_WEIGHTS = "attention_weights"


class UnsupportedError(Exception):
    """An adapter cannot do what was asked; the message says what and why."""


@dataclass(frozen=True)
class ModelShape:
    """The inputs and outputs that a task needs from a model.

    Attributes:
        context_length: Longest input in positions; for images the model has its number of patches and the class token,
            whatever the task gives.
        vocab_size: Number of token ids; None for image inputs. With `input_dim`, the number of labels at each position,
            or None if the output at each position is one real number.
        num_classes: Number of classes of a classifier, 1 for a regression; None for an output at each position.
        image_size: Height and width in pixels of image inputs; None for tokens.
        channels: Channels of image inputs.
        towers: Token sequences in each row: 2 for inputs `[b, 2, n]`. The model reads each sequence separately, with
            the same weights, and the head compares the two results.
        input_dim: Real numbers at each position of a sequence of vectors, which a linear layer embeds; None for tokens
            and images.
        labels: Names of a classifier's classes in the order of their ids; empty if they have none.
        label_words: Token id of each class's word, for a head for masked words; empty for a classification head.
        mask_token: Token id of the mask in such inputs.
    """

    context_length: int
    vocab_size: int | None = None
    num_classes: int | None = None
    image_size: int | None = None
    channels: int = 1
    towers: int = 1
    input_dim: int | None = None
    labels: tuple[str, ...] = ()
    label_words: tuple[int, ...] = ()
    mask_token: int | None = None

    @property
    def needs(self) -> Capability:
        """The capability that a model of this shape must have."""
        if self.input_dim is not None:
            return Capability.VECTOR_SEQUENCES
        return Capability.LANGUAGE_MODEL if self.num_classes is None else Capability.CLASSIFIER

    @property
    def is_regression(self) -> bool:
        """Whether outputs are real numbers: one for each input, or one for each position of a sequence of vectors."""
        return self.num_classes == 1 or (self.input_dim is not None and self.vocab_size is None)


@dataclass(frozen=True)
class PixelInputs:
    """How stored pixels become a model's inputs, and how training varies them.

    Attributes:
        mean: Mean of each channel in the units of the stored pixels; an input is `(pixel - mean) / std`.
        std: Standard deviation of each channel, in the same units.
        flips: Whether training mirrors half of the images from left to right.
        shift: Most pixels by which training moves an image along each axis; what moves in has the mean's colour.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flips: bool = False
    shift: int = 0

    def normalised(self, pixels: Tensor) -> Tensor:
        """Inputs `[b, channels, height, width]` float32 from stored pixels of that shape, on their device."""
        values = pixels.float()
        mean, std = (values.new_tensor(each)[:, None, None] for each in (self.mean, self.std))
        return (values - mean) / std


@dataclass(frozen=True)
class Examples:
    """Training or validation examples, as arrays.

    Attributes:
        inputs: Token ids `[rows, n]`, or `[rows, towers, n]`, of any integer type, images
            `[rows, channels, height, width]`, uint8 with `pixels` and float32 without, or sequences of vectors
            `[rows, n, input_dim]` float32. Batches are indexed out of it, so that it may be a memory map.
        targets: For language models next-token ids, and for sequences of vectors labels: `[rows, n]` int32, aligned
            with `inputs`, `IGNORED` at positions without a loss. For classifiers class ids `[rows]` int32. For
            regressions values `[rows]` or `[rows, n]` float32, NaN at positions without a loss.
        attention_mask: True at real tokens, of the shape of token inputs; None without padding.
        pixels: How uint8 images become inputs; None for all other inputs.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    attention_mask: NDArray[np.bool_] | None = None
    pixels: PixelInputs | None = None

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Continuation:
    """Score of a continuation after its context.

    Attributes:
        loglikelihood_nats: Sum of log-probabilities of the continuation's tokens.
        is_greedy: Whether every token was the most likely one.
    """

    loglikelihood_nats: float
    is_greedy: bool


@dataclass(frozen=True)
class AttentionMaps:
    """One layer's attention weights, and those of softmax on the same inputs; each `[b, h, n, n]` float32.

    Attributes:
        weights: The layer's own attention weights.
        softmax: Softmax attention weights of the same queries and keys.
        products: q·k times softmax's scale; minus infinity at keys that a query does not see.
        teacher: Weights of this layer in the softmax model before conversion, on the same inputs; None without one.
    """

    weights: Tensor
    softmax: Tensor
    products: Tensor
    teacher: Tensor | None = None


@dataclass(frozen=True)
class ParameterCount:
    """Number of a model's parameters, and how many of them belong to feature maps."""

    total: int
    feature_maps: int


@runtime_checkable
class DecodeState(Protocol):
    """The state of a model between decoded tokens: a KV cache, a recurrent state, or both."""

    @property
    def bytes(self) -> int:
        """Bytes of its tensors, for the whole batch."""
        ...

    def select(self, rows: Tensor, room: int) -> DecodeState:
        """Copies of rows of the batch, by their places `[r]`, which are then to read `room` more tokens."""
        ...


class Sampling(TypedDict, total=False):
    """Options of `Adapter.generate`: the choice of tokens, and the end of generation.

    Attributes:
        temperature: Softmax temperature of sampling; 0, the default, takes the most likely token.
        seed: Seed of sampling.
        stop_token: Token that ends a row; rows that ended repeat it. None to always generate `max_new_tokens`.
        top_k: Sample among this many of the likeliest tokens; None for all.
        top_p: Sample among the fewest tokens that together have this probability; None for all.
        has_ended: Called after each step with all new tokens `[b, t]`; if it returns True, all rows end.
    """

    temperature: float
    seed: int
    stop_token: int | None
    top_k: int | None
    top_p: float | None
    has_ended: Callable[[Tensor], bool] | None


@runtime_checkable
class Adapter(Protocol):
    """A model with one attention mechanism.

    Shapes: b rows, n tokens, v vocabulary entries, h heads. Padding is marked by `attention_mask` `[b, n]` (True at
    real tokens), on either side. Every method runs without gradients except `training_step`.

    Each method raises `UnsupportedError` if the adapter lacks the capability.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this adapter can do."""
        ...

    @property
    def shape(self) -> ModelShape:
        """The model's inputs and outputs."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        ...

    def logits(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Next-token logits `[b, n, v]`, float32."""
        ...

    def loglikelihood(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        batch_size: int = 8,
        *,
        share_context: bool = False,
    ) -> list[Continuation]:
        """Scores of (context, continuation) pairs, in the order given.

        With `share_context` the beginning that contexts have in common is read once, which rounds differently.
        """
        ...

    def rolling_loglikelihood(
        self, tokens: Sequence[int], *, prefix_token: int, stride: int | None = None, batch_size: int = 8
    ) -> NDArray[np.float64]:
        """Log-probability in nats of each of `tokens`, each scored once.

        Windows span the context length and advance by `stride` tokens (default: the context length, so no overlap);
        each token is conditioned on at least `context_length - stride` earlier tokens, or on all of them if there are
        fewer. The first token is conditioned on `prefix_token`.
        """
        ...

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int,
        **sampling: Unpack[Sampling],
    ) -> Tensor:
        """New tokens `[b, max_new_tokens or fewer]`, chosen as `sampling` says."""
        ...

    def class_logits(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Class logits `[b, classes]`, float32; with two towers inputs and mask are `[b, 2, n]`."""
        ...

    def sequence_outputs(self, vectors: Tensor) -> Tensor:
        """Outputs `[b, n, o]` at each position of sequences of vectors `[b, n, input_dim]`, float32.

        They are logits over the `vocab_size` labels of the shape, or one value for a regression.
        """
        ...

    def attention_weights(self, inputs: Tensor, attention_mask: Tensor | None = None) -> list[Tensor]:
        """Attention weights `[b, h, n, n]` of each layer, float32; normalised rows sum to 1, or to 0 without scores."""
        ...

    def compare_attention(
        self, inputs: Tensor, visit: Callable[[int, AttentionMaps], None], attention_mask: Tensor | None = None
    ) -> None:
        """Calls `visit` with each layer's index and attention maps, one layer after another.

        The teacher is the softmax model before conversion. It runs a separate forward pass, so that its later layers do
        not depend on the converted attention of earlier ones.
        """
        ...

    def prefill(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, DecodeState]:
        """Logits `[b, v]` after the last token, and the decode state."""
        ...

    def decode(self, token_ids: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Logits `[b, v]` after one more token `[b]` per row, and the new state, which replaces the old one."""
        ...

    def training_step(self, inputs: Tensor, targets: Tensor) -> float:
        """Loss of one forward and backward pass; gradients are dropped, and weights do not change."""
        ...

    def parameter_count(self) -> ParameterCount:
        """Number of parameters, and of those in feature maps."""
        ...

    def state_bytes(self, batch_size: int, seq_len: int) -> int:
        """Bytes of the decode state after `seq_len` tokens for `batch_size` rows."""
        ...

    def kernels_used(self) -> tuple[KernelUse, ...]:
        """Attention kernels that have run since the adapter was built, in the order of their first run."""
        ...


@runtime_checkable
class WithMlps(Protocol):
    """A model whose MLPs can be looked into."""

    def visit_mlps(
        self, inputs: Tensor, visit: Callable[[int, Tensor], None], attention_mask: Tensor | None = None
    ) -> None:
        """Calls `visit` with each layer's index and the inputs `[b, n, m]` of its MLP's last projection, float32.

        Raises:
            UnsupportedError: The MLPs were not found.
        """
        ...


@runtime_checkable
class LayeredAdapter(Adapter, Protocol):
    """An adapter whose attention can be put back to softmax, layer by layer."""

    @property
    def swapped_layers(self) -> tuple[int, ...]:
        """Indices of the layers whose attention was replaced; without those that a hybrid keeps."""
        ...

    def softmax_in(self, layers: Collection[int]) -> AbstractContextManager[None]:
        """Softmax attention in some layers over whole sequences while the block lasts, with the present weights."""
        ...


Settings: TypeAlias = Mapping[str, Value]
