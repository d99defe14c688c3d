"""The Transformer that is trained from scratch: a GPT decoder, a token encoder or a ViT, with any attention mechanism.

The decoder reads tokens, or vectors of real numbers through a linear layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..attention.core import (
    AttentionCore,
    Heads,
    LayerMixer,
    LayerState,
    build_layer,
    select_rows,
    state_bytes,
    token_positions,
    tokens_seen,
)
from ..attention.position import Rotary, ShortConvolution
from ..attention.softmax import kept_softmax
from ..attention_model import AttentionModel, Mask, Tokens, TowerMask
from ..base import UnsupportedError
from ..mechanisms.declaration import AttentionShape
from ..spec import ModelSpec
from .classifier_head import build_head, compare_towers, mean_of_tokens
from .transformer_config import TransformerConfig

Inputs: TypeAlias = Int[Tensor, "b *t n"] | Float[Tensor, "b n i"] | Float[Tensor, "b c y x"]
"""Tokens, sequences of vectors, or images."""

Hidden: TypeAlias = Float[Tensor, "b n w"]
"""Hidden states between blocks."""

Outputs: TypeAlias = Float[Tensor, "b m v"] | Float[Tensor, "rows classes"]
"""Logits or values at each position, or class logits."""

NO_TEACHER = "the model was not converted, so no softmax model came before it"


@dataclass(frozen=True)
class BlockState:
    """Decode state of one block: that of its attention, and the last inputs of its short convolution."""

    attention: LayerState
    convolution: Tensor | None


@dataclass(frozen=True)
class TransformerState:
    """Decode state of a whole model.

    Attributes:
        blocks: One state for each block.
        positions: Position of the next token of each row, `[b]`, which is the number of its real tokens so far.
    """

    blocks: tuple[BlockState, ...]
    positions: Int[Tensor, " b"]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors of the state."""
        convolutions = (block.convolution for block in self.blocks)
        held = sum(c.numel() * c.element_size() for c in convolutions if c is not None)
        return held + sum(state_bytes(block.attention) for block in self.blocks)

    def select(self, rows: Int[Tensor, " r"], room: int) -> TransformerState:
        """Copies of rows of the batch, which are then to read `room` more tokens."""
        blocks = []
        for block in self.blocks:
            tail = block.convolution
            selected = None if tail is None else tail.index_select(0, rows)
            blocks.append(BlockState(select_rows(block.attention, rows, room), selected))
        return TransformerState(tuple(blocks), self.positions[rows])


class SelfAttention(nn.Module):
    """Projections around an attention core."""

    def __init__(self, config: TransformerConfig, core: AttentionCore) -> None:
        super().__init__()
        self.config = config
        head_dim, kv_width = config.head_dim, config.kv_heads * config.head_dim
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, kv_width)
        self.value = nn.Linear(config.width, kv_width)
        self.output = nn.Linear(config.width, config.width)
        self.rotary = Rotary(head_dim) if config.rope else None
        channels = config.width + 2 * kv_width
        self.convolution = ShortConvolution(channels, config.short_conv) if config.short_conv else None
        self.core = core

    def forward(
        self, x: Hidden, positions: Int[Tensor, "b n"], mask: Mask, state: BlockState | None, *, decodes: bool
    ) -> tuple[Hidden, BlockState]:
        """Attention over a whole sequence or, if it `decodes`, of tokens that follow those in `state`."""
        heads, tail = self.project(x, positions, mask, state.convolution if state else None)
        if decodes:
            out, attention = self.core.extend(heads, state.attention if state else None)
        else:
            out, attention = self.core(heads, causal=self.config.causal), None
        return self.output(out.transpose(1, 2).flatten(2)), BlockState(attention, tail)

    def project(
        self, x: Hidden, positions: Int[Tensor, "b n"], mask: Mask, tail: Tensor | None
    ) -> tuple[Heads, Tensor | None]:
        """Queries, keys and values, and the last inputs of the short convolution; `tail` holds the earlier ones."""
        qkv = torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)  # b n (h + 2 hk) d
        if self.convolution is not None:
            qkv, tail = self.convolution(qkv if mask is None else qkv * mask[..., None], tail)
        heads = qkv.reshape(*qkv.shape[:2], -1, self.config.head_dim).transpose(1, 2)  # b (h + 2 hk) n d
        q, k, v = torch.split(heads, [self.config.heads, self.config.kv_heads, self.config.kv_heads], dim=1)
        if self.rotary is not None:
            q, k = self.rotary(q, positions), self.rotary(k, positions)
        return Heads(q, k, v, positions, mask, inputs=x), tail


class Block(nn.Module):
    """A pre-layer-norm block: attention, or what stands in its place, then an MLP with GELU."""

    def __init__(self, config: TransformerConfig, core: AttentionCore | LayerMixer) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config, core) if isinstance(core, AttentionCore) else core
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.mlp_width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Hidden, positions: Int[Tensor, "b n"], mask: Mask, state: BlockState | None, *, decodes: bool
    ) -> tuple[Hidden, BlockState]:
        """The block over a whole sequence or, if it `decodes`, over tokens that follow those in `state`."""
        normed = self.attention_norm(x)
        if isinstance(self.attention, SelfAttention):
            attended, new_state = self.attention(normed, positions, mask, state, decodes=decodes)
        else:
            attended, held = self.attention(normed, mask, state.attention if state else None, decodes=decodes)
            new_state = BlockState(held, None)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.mlp_norm(x))), new_state


class Transformer(AttentionModel):
    """Embedding, blocks, and a language-model or classification head.

    Args:
        config: Sizes.
        spec: The attention mechanism and its options.
        seed: Seed of maps that draw random numbers; all other weights are drawn from torch's own generator.

    Raises:
        UnsupportedError: The mechanism exists only in decoders, and this is an encoder, or it would rotate queries and
            keys that are rotated.
        ValueError: Options that do not fit the layer.
    """

    def __init__(self, config: TransformerConfig, spec: ModelSpec, seed: int = 0) -> None:
        super().__init__(NO_TEACHER)
        self.config = config
        self._spec = spec
        cores = self._new_cores(spec, config.context_length, seed)
        if config.input_dim is not None:
            self.embedding: nn.Module = nn.Linear(config.input_dim, config.width)
        elif config.image_size is None:
            assert config.vocab_size is not None
            self.embedding = nn.Embedding(config.vocab_size, config.width)
        else:
            self.embedding = nn.Conv2d(config.channels, config.width, config.patch_size, stride=config.patch_size)
            self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = None if config.rope else nn.Embedding(config.context_length, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, core) for core in cores)
        self.norm = nn.LayerNorm(config.width)
        features = config.width if config.towers == 1 else 4 * config.width
        outputs = config.num_classes if config.input_dim is None else config.vocab_size or 1
        self.head = None if outputs is None else build_head(features, config.head_width, outputs)
        self._initialise()

    def forward(self, inputs: Inputs, mask: TowerMask = None) -> Outputs:
        """Next-token logits of a language model, outputs at each vector, or class logits of a classifier.

        Inputs of two towers are `[b, 2, n]`.
        """
        return self.read_out(self.hidden(inputs, mask), mask)

    def hidden(self, inputs: Inputs, mask: TowerMask = None) -> Float[Tensor, "rows m w"]:
        """Normalised outputs of the last block; m is n, or for images the number of patches and the class token.

        Two towers become two neighbouring rows.
        """
        hidden, _ = self._run(inputs, mask, None, decodes=False)
        normalised: Tensor = self.norm(hidden)
        return normalised

    def read_out(self, hidden: Float[Tensor, "sequences m w"], mask: Bool[Tensor, "b *t m"] | None = None) -> Outputs:
        """Outputs of the head.

        A language model's head is tied to its embedding, a model of vectors has outputs at each position, and a
        classifier reads the class token or the mean of the tokens.
        """
        if self.head is None:
            assert isinstance(self.embedding, nn.Embedding)
            return F.linear(hidden, self.embedding.weight)
        if self.config.num_classes is None:
            features = hidden
        elif self.config.image_size is not None:
            features = hidden[:, 0]
        else:
            features = mean_of_tokens(hidden, None if mask is None else mask.reshape(len(hidden), -1))
        outputs: Tensor = self.head(features if self.config.towers == 1 else compare_towers(features))
        return outputs

    def extend(
        self, tokens: Inputs, mask: Mask, state: TransformerState | None
    ) -> tuple[Float[Tensor, "b v"], TransformerState]:
        """Outputs after the last of `tokens`, which follow those in `state`; padding is on the left."""
        hidden, new_state = self._run(tokens, mask, state, decodes=True)
        return self.read_out(self.norm(hidden[:, -1:]))[:, 0], new_state

    def predictions(
        self, tokens: Tokens, real: Bool[Tensor, "b n"], state: TransformerState | None, wanted: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "wanted v"], TransformerState]:
        """Logits after the `wanted` tokens, row after row, and the new state."""
        hidden, new_state = self._run(tokens, None if bool(real.all()) else real, state, decodes=True)
        return self.read_out(self.norm(hidden[wanted][None]))[0], new_state

    @property
    def spec(self) -> ModelSpec:
        """The present attention mechanism."""
        return self._spec

    def replace_attention(self, spec: ModelSpec, *, context_length: int, seed: int) -> None:
        """Replaces the core of each block; gates follow from the seed too, whatever was drawn before.

        Raises:
            UnsupportedError: The mechanism exists only in decoders, and this is an encoder.
            ValueError: Options that do not fit the layer.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = self._new_cores(spec, context_length, seed)
        cores = [core for core in built if isinstance(core, AttentionCore)]
        if len(cores) < len(built):
            raise UnsupportedError(
                f"model {spec.canonical} stands in the place of whole attention layers, so it is trained from scratch; "
                "a softmax model cannot be converted to it"
            )
        for layer, core in zip(self._attention, cores, strict=True):
            layer.core = core.to(layer.query.weight.device).train(self.training)
        self._spec = spec

    @property
    def _attention(self) -> list[SelfAttention]:
        return [part for part in self.modules() if isinstance(part, SelfAttention)]

    def _new_cores(self, spec: ModelSpec, context_length: int, seed: int) -> list[AttentionCore | LayerMixer]:
        config = self.config
        if spec.is_causal_only and not config.causal:
            raise UnsupportedError(f"model {spec.canonical} exists only in decoders; this model is an encoder")
        if spec.mechanism.encoder_only and config.causal:
            raise UnsupportedError(f"model {spec.canonical} exists only in encoders; this model is a decoder")
        if config.rope and spec.options.get("rope"):
            raise UnsupportedError(
                f"model {spec.canonical} rotates queries and keys, and so does this backbone; allowed with "
                f"backbone.rope=true: {spec.mechanism.name}:rope=false"
            )
        shape = AttentionShape(config.heads, config.kv_heads, config.head_dim, context_length, seed=seed)
        shape = replace(shape, width=config.width, grid=config.grid)
        kept = spec.kept_layers([False] * config.layers)
        return [
            kept_softmax() if i in kept else build_layer(spec.mechanism, spec.options, replace(shape, layer=i))
            for i in range(config.layers)
        ]

    @property
    def last_position(self) -> int | None:
        """The context length if positions are learned; rotary positions have no end."""
        return None if self.positions is None else self.config.context_length

    def _run(
        self, inputs: Tensor, mask: Tensor | None, state: TransformerState | None, *, decodes: bool
    ) -> tuple[Float[Tensor, "rows m w"], TransformerState]:
        if self.config.towers > 1 and inputs.ndim == 3:
            inputs, mask = inputs.flatten(0, 1), None if mask is None else mask.flatten(0, 1)
        start = None if state is None else state.positions
        x, positions = self._embed(inputs, mask, start)
        blocks = []
        for index, block in enumerate(self.blocks):
            x, block_state = block(x, positions, mask, state.blocks[index] if state else None, decodes=decodes)
            blocks.append(block_state)
        return x, TransformerState(tuple(blocks), tokens_seen(x, mask, start))

    def _embed(
        self, inputs: Tensor, mask: Tensor | None, start: Tensor | None = None
    ) -> tuple[Float[Tensor, "b m w"], Int[Tensor, "b m"]]:
        x: Tensor = self.embedding(inputs)
        if self.config.image_size is not None:
            patches = x.flatten(2).transpose(1, 2)
            x = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1)
        positions = token_positions(x, mask)
        if start is not None:
            positions = positions + start[:, None]
        if self.positions is not None:
            x = x + self.positions(positions)
        return self.dropout(x), positions

    def _initialise(self) -> None:
        """GPT-2's initialisation: weights are normal with a standard deviation of 0.02 at width 768.

        At other widths it is 0.02·√(768 / width), so that projections have the same gain. That of residual projections
        is divided by the square root of their number.
        """
        std = 0.02 * math.sqrt(768 / self.config.width)
        residual = std / math.sqrt(2 * self.config.layers)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
                is_residual = name.endswith((".attention.output", ".inner.output", ".mlp.2"))
                nn.init.normal_(module.weight, std=residual if is_residual else std)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
