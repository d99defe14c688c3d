"""The adapter of every model, trained from scratch or pretrained, with any attention mechanism."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar, Unpack

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.maps.feature_map import FeatureMap
from ..results.record import KernelUse
from . import generation
from .attention.core import AttentionCore, Heads
from .attention.softmax import SoftmaxAttention, softmax_scores, softmax_weights
from .attention_model import AttentionModel, Mask, Tokens, TowerMask
from .base import (
    AttentionMaps,
    Capability,
    Continuation,
    DecodeState,
    ModelShape,
    ParameterCount,
    Sampling,
    UnsupportedError,
)
from .mechanisms.softmax import SOFTMAX
from .mlps import watching_mlps
from .precision import Precision
from .scoring import Scorer
from .spec import ModelSpec
from .training.objective import objective_for

Model = TypeVar("Model", bound=AttentionModel)


class ModelAdapter(Generic[Model]):
    """A model behind the `Adapter` interface.

    Args:
        model: The model, already on its device.
        capabilities: What the model can do.
        shape: The model's inputs and outputs.
        precision: Device and autocast type.
        head_note: How a checkpoint's classification head was used or replaced; empty without one.
        has_own_head: Whether all weights, those of the head too, are a checkpoint's.
    """

    def __init__(
        self,
        model: Model,
        capabilities: frozenset[Capability],
        shape: ModelShape,
        precision: Precision,
        *,
        head_note: str = "",
        has_own_head: bool = False,
    ) -> None:
        self.model = model
        self.capabilities = capabilities
        self.shape = shape
        self.precision = precision
        self.head_note = head_note
        self.has_own_head = has_own_head

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.precision.device

    def swap_in(self, spec: ModelSpec, seed: int) -> None:
        """Puts the attention of `spec` into a model with softmax attention, unless the model has it already.

        Raises:
            UnsupportedError: The model was converted to another mechanism, or cannot have this one.
        """
        present = self.model.spec
        if present.canonical == spec.canonical:
            return
        if present.mechanism.name != SOFTMAX.name:
            raise UnsupportedError(f"the model was converted to {present.canonical}, so it cannot be {spec.canonical}")
        self.model.replace_attention(spec, context_length=self.shape.context_length, seed=seed)

    @property
    def _scorer(self) -> Scorer:
        pads = all(core.takes_padding for core in self.model.cores)
        return Scorer(self._logits, self._read, self.shape.context_length, self.device, pads)

    @torch.no_grad()
    def logits(self, input_ids: Tokens, attention_mask: Mask = None) -> Float[Tensor, "b n v"]:
        """Next-token logits.

        Raises:
            FloatingPointError: A logit is NaN.
        """
        return _refusing_nan(self._logits(input_ids, attention_mask))

    def loglikelihood(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        batch_size: int = 8,
        *,
        share_context: bool = False,
    ) -> list[Continuation]:
        """Scores of (context, continuation) pairs, in the order given."""
        shared = share_context and self.model.shares_context
        return self._scorer.loglikelihood(requests, batch_size, self.precision.of_scores, share_context=shared)

    def rolling_loglikelihood(
        self, tokens: Sequence[int], *, prefix_token: int, stride: int | None = None, batch_size: int = 8
    ) -> NDArray[np.float64]:
        """Log-probability in nats of each token, each scored once."""
        return self._scorer.rolling_loglikelihood(
            tokens, prefix_token=prefix_token, stride=stride, batch_size=batch_size
        )

    @torch.no_grad()
    def generate(
        self, input_ids: Tokens, attention_mask: Mask = None, *, max_new_tokens: int, **sampling: Unpack[Sampling]
    ) -> Int[Tensor, "b t"]:
        """New tokens after prompts with padding on the left."""
        self._require(Capability.GENERATE)
        self._require_room(input_ids.shape[1] + max_new_tokens)
        logits, state = self.prefill(input_ids, attention_mask)
        return generation.generate(logits, state, self.decode, max_new_tokens=max_new_tokens, **sampling)

    @torch.no_grad()
    def class_logits(self, inputs: Tensor, attention_mask: TowerMask = None) -> Float[Tensor, "b c"]:
        """Class logits of tokens or images."""
        self._require(Capability.CLASSIFIER)
        if not inputs.is_floating_point():
            self._require_room(inputs.shape[-1])
        return self._run(inputs, attention_mask)

    @torch.no_grad()
    def sequence_outputs(self, vectors: Float[Tensor, "b n i"]) -> Float[Tensor, "b n o"]:
        """Outputs at each position of sequences of vectors.

        Raises:
            FloatingPointError: An output is NaN.
        """
        self._require(Capability.VECTOR_SEQUENCES)
        self._require_room(vectors.shape[1])
        return _refusing_nan(self._run(vectors, None))

    @torch.no_grad()
    def attention_weights(self, inputs: Tensor, attention_mask: TowerMask = None) -> list[Float[Tensor, "rows h m m"]]:
        """Attention weights of each layer."""
        self._require(Capability.ATTENTION_WEIGHTS)
        self.model.eval()
        with self.precision.autocast():
            return self.model.attention_weights(inputs, attention_mask)

    @torch.no_grad()
    def compare_attention(
        self, inputs: Tensor, visit: Callable[[int, AttentionMaps], None], attention_mask: TowerMask = None
    ) -> None:
        """Calls `visit` with each layer's index and attention maps, in the order of the layers.

        Memory holds the teacher's heads of all layers, linear in tokens, and the attention maps of one layer.
        """
        self._require(Capability.ATTENTION_WEIGHTS)
        if not inputs.is_floating_point():
            self._require_room(inputs.shape[-1])
        self.model.eval()
        with self.precision.autocast():
            taught = self.model.teacher_heads(inputs, attention_mask)

        def show(layer: int, core: AttentionCore, heads: Heads, causal: bool) -> None:
            weights, softmax = core.weights(heads, causal=causal).float(), softmax_weights(heads, causal).float()
            teacher = softmax_weights(taught[layer], causal).float() if taught else None
            visit(layer, AttentionMaps(weights, softmax, softmax_scores(heads, causal).float(), teacher))

        with self.model.watching(show), self.precision.autocast():
            self.model(inputs, attention_mask)

    @property
    def swapped_layers(self) -> tuple[int, ...]:
        """Indices of the layers whose attention was replaced; without those that a hybrid keeps."""
        return tuple(layer for layer, core in enumerate(self.model.cores) if not core.is_kept)

    @contextmanager
    def softmax_in(self, layers: Collection[int]) -> Iterator[None]:
        """Softmax attention in some layers over whole sequences while the block lasts, with the present weights."""
        changed, softmax = [self.model.cores[layer] for layer in layers], SoftmaxAttention()
        for core in changed:
            core.stand_in = softmax
        try:
            yield
        finally:
            for core in changed:
                core.stand_in = None

    @torch.no_grad()
    def visit_mlps(
        self, inputs: Tensor, visit: Callable[[int, Tensor], None], attention_mask: TowerMask = None
    ) -> None:
        """Calls `visit` with each layer's index and the activations of its MLP's hidden neurons."""
        self.model.eval()
        with watching_mlps(self.model, visit), self.precision.autocast():
            self.model.hidden(inputs, attention_mask)

    @torch.no_grad()
    def prefill(self, input_ids: Tokens, attention_mask: Mask = None) -> tuple[Float[Tensor, "b v"], DecodeState]:
        """Logits after prompts with padding on the left, and the state to decode from.

        Raises:
            ValueError: A row that ends in padding.
        """
        self._require(Capability.LANGUAGE_MODEL)
        if attention_mask is not None and not bool(attention_mask[:, -1].all()):
            raise ValueError("a prompt ends in padding; pad prompts on the left")
        self._require_room(input_ids.shape[1])
        return self._extend(input_ids, attention_mask, None)

    @torch.no_grad()
    def decode(self, token_ids: Int[Tensor, " b"], state: DecodeState) -> tuple[Float[Tensor, "b v"], DecodeState]:
        """Logits after one more token per row, and the new state."""
        return self._extend(token_ids[:, None], None, state)

    def training_step(self, inputs: Tensor, targets: Tensor) -> float:
        """Loss of one forward and backward pass, a mean over targets; the weights do not change."""
        self.model.train()
        with self.precision.autocast():
            loss = objective_for(self.shape).of_outputs(self.model(inputs), targets) / targets.numel()
        torch.autograd.backward(loss)
        self.model.zero_grad(set_to_none=True)
        return float(loss.detach())

    def parameter_count(self) -> ParameterCount:
        """Number of parameters, and of those in feature maps."""
        in_maps = {id(p): p.numel() for part in self._maps() for p in part.parameters()}
        return ParameterCount(sum(p.numel() for p in self.model.parameters()), sum(in_maps.values()))

    @torch.no_grad()
    def state_bytes(self, batch_size: int, seq_len: int) -> int:
        """Bytes of the decode state after `seq_len` tokens; measured on a real prefill of one row."""
        if Capability.VECTOR_SEQUENCES not in self.capabilities:
            self._require(Capability.LANGUAGE_MODEL)
        self._require_room(seq_len)
        dim = self.shape.input_dim
        blank = torch.zeros(1, seq_len, dtype=torch.long) if dim is None else torch.zeros(1, seq_len, dim)
        _, state = self._extend(blank.to(self.device), None, None)
        return state.bytes * batch_size

    def kernels_used(self) -> tuple[KernelUse, ...]:
        """Attention kernels that have run so far, in the order of their first run."""
        return tuple(KernelUse(phase, choice.form, choice.backend) for phase, choice in self.model.kernels)

    @torch.no_grad()
    def _logits(self, input_ids: Tokens, attention_mask: Mask) -> Float[Tensor, "b n v"]:
        self._require(Capability.LANGUAGE_MODEL)
        self._require_room(input_ids.shape[1])
        return self._run(input_ids, attention_mask)

    def _run(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        self.model.eval()
        with self.precision.autocast():
            out: Tensor = self.model(inputs, mask)
        return out.float()

    @torch.no_grad()
    def _read(
        self, tokens: Tokens, real: Tensor, state: DecodeState | None, wanted: Tensor
    ) -> tuple[Tensor, DecodeState]:
        self._require(Capability.LANGUAGE_MODEL)
        self.model.eval()
        with self.precision.autocast():
            logits, state = self.model.predictions(tokens, real, state, wanted)
        return logits.float(), state

    def _extend(self, tokens: Tensor, mask: Tensor | None, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
        self.model.eval()
        with self.precision.autocast():
            logits, state = self.model.extend(tokens, mask, state)
        return logits.float(), state

    def _require(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            have = ", ".join(sorted(self.capabilities))
            raise UnsupportedError(f"this model cannot do {capability}; it can do: {have}")

    def _require_room(self, tokens: int) -> None:
        """Refuses inputs longer than the model's positions, or than the context length of maps that read positions."""
        ends = [self.model.last_position or math.inf]
        ends += [self.shape.context_length for part in self._maps() if part.needs_positions]
        if tokens > min(ends):
            raise UnsupportedError(f"{tokens} tokens do not fit the context length {min(ends):g}")

    def _maps(self) -> list[FeatureMap]:
        return [part for part in self.model.modules() if isinstance(part, FeatureMap)]


def _refusing_nan(outputs: Float[Tensor, "b n v"]) -> Float[Tensor, "b n v"]:
    """The outputs, unless one of them is NaN: `argmax` would return the position of the first NaN as the answer.

    Raises:
        FloatingPointError: An output is NaN.
    """
    broken = outputs.amax(-1).isnan().any(-1).nonzero()
    if len(broken):
        raise FloatingPointError(
            f"the model gives {len(broken)} of {len(outputs)} sequences an output that is not a number; "
            f"the first is number {int(broken[0]) + 1} of its batch"
        )
    return outputs
