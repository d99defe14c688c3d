"""The adapter of from-scratch Transformers: one model interface, whichever attention is inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.feature_map import FeatureMap
from ..results.record import KernelUse
from . import generation, scoring
from .attention import build_attention, kernels_of
from .backbone import Backbone
from .base import (
    IGNORED,
    Capability,
    Continuation,
    DecodeState,
    ModelShape,
    ParameterCount,
    Settings,
    UnsupportedError,
)
from .mechanism import AttentionShape
from .precision import Precision
from .spec import ModelSpec
from .transformer import Transformer, TransformerConfig, TransformerState, patches_and_class_token


class ScratchAdapter:
    """A from-scratch Transformer behind the `Adapter` interface.

    Args:
        model: The Transformer, already on its device.
        capabilities: What it can do.
        shape: What it accepts and gives.
        precision: Device and autocast type.
    """

    def __init__(
        self, model: Transformer, capabilities: frozenset[Capability], shape: ModelShape, precision: Precision
    ) -> None:
        self.model = model
        self.capabilities = capabilities
        self.shape = shape
        self.precision = precision

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.precision.device

    @torch.no_grad()
    def logits(
        self, input_ids: Int[Tensor, "b n"], attention_mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n v"]:
        """Next-token logits."""
        self._require(Capability.LANGUAGE_MODEL)
        self._require_room(input_ids.shape[1])
        return self._run(input_ids, attention_mask)

    def loglikelihood(
        self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int = 8
    ) -> list[Continuation]:
        """Scores of (context, continuation) pairs, in the order given."""
        return scoring.loglikelihood(
            self.logits,
            requests,
            context_length=self.shape.context_length,
            device=self.device,
            batch_size=batch_size,
        )

    def rolling_loglikelihood(
        self, tokens: Sequence[int], *, prefix_token: int, stride: int | None = None, batch_size: int = 8
    ) -> NDArray[np.float64]:
        """Log-probability in nats of each token, each scored once."""
        return scoring.rolling_loglikelihood(
            self.logits,
            tokens,
            prefix_token=prefix_token,
            context_length=self.shape.context_length,
            stride=stride,
            device=self.device,
            batch_size=batch_size,
        )

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "b n"],
        attention_mask: Bool[Tensor, "b n"] | None = None,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop_token: int | None = None,
    ) -> Int[Tensor, "b t"]:
        """New tokens after left-padded prompts."""
        self._require(Capability.GENERATE)
        self._require_room(input_ids.shape[1] + max_new_tokens)
        logits, state = self.prefill(input_ids, attention_mask)
        return generation.generate(
            logits,
            state,
            self.decode,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            stop_token=stop_token,
        )

    @torch.no_grad()
    def class_logits(self, inputs: Tensor, attention_mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b c"]:
        """Class logits of tokens or images."""
        self._require(Capability.CLASSIFIER)
        return self._run(inputs, attention_mask)

    @torch.no_grad()
    def attention_weights(
        self, inputs: Tensor, attention_mask: Bool[Tensor, "b n"] | None = None
    ) -> list[Float[Tensor, "b h n n"]]:
        """Attention weights of each layer."""
        self._require(Capability.ATTENTION_WEIGHTS)
        self.model.eval()
        with self.precision.autocast():
            return self.model.attention_weights(inputs, attention_mask)

    @torch.no_grad()
    def prefill(
        self, input_ids: Int[Tensor, "b n"], attention_mask: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Float[Tensor, "b v"], TransformerState]:
        """Logits after left-padded prompts, and the state to decode from.

        Raises:
            ValueError: A row that ends in padding.
        """
        self._require(Capability.LANGUAGE_MODEL)
        if attention_mask is not None and not bool(attention_mask[:, -1].all()):
            raise ValueError("a prompt ends in padding; pad prompts on the left")
        self._require_room(input_ids.shape[1])
        return self._extend(input_ids, attention_mask, None)

    @torch.no_grad()
    def decode(self, token_ids: Int[Tensor, " b"], state: DecodeState) -> tuple[Float[Tensor, "b v"], TransformerState]:
        """Logits after one more token per row, and the new state."""
        assert isinstance(state, TransformerState)
        return self._extend(token_ids[:, None], None, state)

    def training_step(self, inputs: Tensor, targets: Tensor) -> float:
        """Loss of one forward and backward pass; the weights stay as they are."""
        self.model.train()
        with self.precision.autocast():
            logits = self.model(inputs)
            loss = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED)
        torch.autograd.backward(loss)
        self.model.zero_grad(set_to_none=True)
        return float(loss.detach())

    def parameter_count(self) -> ParameterCount:
        """Parameters, and those of feature maps."""
        maps = (part for part in self.model.modules() if isinstance(part, FeatureMap))
        in_maps = {id(p): p.numel() for part in maps for p in part.parameters()}
        return ParameterCount(sum(p.numel() for p in self.model.parameters()), sum(in_maps.values()))

    def state_bytes(self, batch_size: int, seq_len: int) -> int:
        """Bytes of the decode state after `seq_len` tokens; measured on a real prefill of one row."""
        tokens = torch.zeros(1, seq_len, dtype=torch.long, device=self.device)
        _, state = self.prefill(tokens)
        return state.bytes * batch_size

    def kernels_used(self) -> tuple[KernelUse, ...]:
        """Attention kernels that have run so far."""
        return tuple(KernelUse(phase, choice.form, choice.backend) for phase, choice in kernels_of(self.model))

    def _run(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        self.model.eval()
        with self.precision.autocast():
            out: Tensor = self.model(inputs, mask)
        return out.float()

    def _extend(
        self, tokens: Tensor, mask: Tensor | None, state: TransformerState | None
    ) -> tuple[Tensor, TransformerState]:
        self.model.eval()
        with self.precision.autocast():
            logits, state = self.model.extend(tokens, mask, state)
        return logits.float(), state

    def _require(self, capability: Capability) -> None:
        if capability not in self.capabilities:
            have = ", ".join(sorted(self.capabilities))
            raise UnsupportedError(f"this model cannot do {capability}; it can do: {have}")

    def _require_room(self, tokens: int) -> None:
        """Refuses inputs past the last position, where positions or a feature map end there; rope alone has no end."""
        maps = (part for part in self.model.modules() if isinstance(part, FeatureMap))
        ends = self.model.positions is not None or any(part.needs_positions for part in maps)
        if ends and tokens > self.shape.context_length:
            raise UnsupportedError(f"{tokens} tokens do not fit the context length {self.shape.context_length}")


def build_scratch(
    spec: ModelSpec, backbone: Backbone, size: Settings, shape: ModelShape, seed: int, precision: Precision
) -> ScratchAdapter:
    """A freshly initialised model.

    Args:
        spec: The attention mechanism and its options.
        backbone: `gpt`, `encoder` or `vit`.
        size: The backbone's settings.
        shape: What the task needs.
        seed: Seed of the initial weights.
        precision: Device and autocast type.

    Raises:
        UnsupportedError: The backbone cannot do what the shape or the mechanism needs.
        ValueError: Sizes that do not fit each other.
    """
    if shape.needs not in backbone.capabilities:
        have = ", ".join(sorted(backbone.capabilities))
        raise UnsupportedError(f"backbone {backbone.name} cannot be a {shape.needs}; it can do: {have}")
    if (shape.image_size is not None) != (backbone.name == "vit"):
        raise UnsupportedError(f"backbone {backbone.name} does not take {'images' if shape.image_size else 'tokens'}")
    config = _config(backbone, size, shape)
    if spec.mechanism.causal_only and not config.causal:
        raise UnsupportedError(f"model {spec.mechanism.name} is for decoders alone; backbone {backbone.name} is none")
    torch.manual_seed(seed)
    layer = AttentionShape(
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        context_length=config.context_length,
        seed=seed,
    )
    cores = [build_attention(spec.mechanism, spec.options, replace(layer, layer=i)) for i in range(config.layers)]
    model = Transformer(config, cores).to(precision.device)
    return ScratchAdapter(model, backbone.capabilities, shape, precision)


def _config(backbone: Backbone, size: Settings, shape: ModelShape) -> TransformerConfig:
    config = TransformerConfig(
        **size,  # type: ignore[arg-type]
        causal=backbone.name == "gpt",
        context_length=shape.context_length,
        vocab_size=shape.vocab_size,
        num_classes=shape.num_classes,
        image_size=shape.image_size,
        channels=shape.channels,
    )
    return patches_and_class_token(config)
