"""The from-scratch Transformer: a GPT decoder, a token encoder or a ViT, around any attention mechanism.

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

from ..attention.core import AttentionCore, Heads, LayerState, state_bytes
from ..attention_model import AttentionModel
from .classifier_head import build_head, compare_towers, mean_of_tokens
from .position import Rotary, ShortConvolution
from .transformer_config import TransformerConfig

Inputs: TypeAlias = Int[Tensor, "b *t n"] | Float[Tensor, "b n i"] | Float[Tensor, "b c y x"]
"""Tokens, sequences of vectors, or images."""

Outputs: TypeAlias = Float[Tensor, "b m v"] | Float[Tensor, "rows classes"]
"""Logits or values at each position, or class logits."""


@dataclass(frozen=True)
class BlockState:
    """Decode state of one block: its attention's, and the last inputs of its short convolution."""

    attention: LayerState
    convolution: Tensor | None


@dataclass(frozen=True)
class TransformerState:
    """Decode state of a whole model.

    Attributes:
        blocks: One state for each block.
        positions: Position of the next token of each row, `[b]`.
    """

    blocks: tuple[BlockState, ...]
    positions: Int[Tensor, " b"]

    @property
    def bytes(self) -> int:
        """Bytes of all the tensors that decoding carries on."""
        convolutions = (block.convolution for block in self.blocks)
        held = sum(c.numel() * c.element_size() for c in convolutions if c is not None)
        return held + sum(state_bytes(block.attention) for block in self.blocks)


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
        self, x: Float[Tensor, "b n w"], positions: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None
    ) -> Float[Tensor, "b n w"]:
        """Attention over a whole sequence."""
        heads, _ = self._project(x, positions, mask, None)
        return self._merge(self.core(heads, causal=self.config.causal))

    def extend(
        self,
        x: Float[Tensor, "b n w"],
        positions: Int[Tensor, "b n"],
        mask: Bool[Tensor, "b n"] | None,
        state: BlockState | None,
    ) -> tuple[Float[Tensor, "b n w"], BlockState]:
        """Attention of tokens that follow those in `state`."""
        heads, tail = self._project(x, positions, mask, state.convolution if state else None)
        out, attention = self.core.extend(heads, state.attention if state else None)
        return self._merge(out), BlockState(attention, tail)

    def weights(
        self, x: Float[Tensor, "b n w"], positions: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None
    ) -> Float[Tensor, "b h n n"]:
        """Attention weights over a whole sequence."""
        heads, _ = self._project(x, positions, mask, None)
        with torch.autocast(x.device.type, enabled=False):  # weights are there to be analysed, so in float32
            return self.core.weights(heads, causal=self.config.causal)

    def _project(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, tail: Tensor | None
    ) -> tuple[Heads, Tensor | None]:
        qkv = torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)  # b n (h + 2 hk) d
        if self.convolution is not None:
            qkv, tail = self.convolution(qkv if mask is None else qkv * mask[..., None], tail)
        heads = qkv.reshape(*qkv.shape[:2], -1, self.config.head_dim).transpose(1, 2)  # b (h + 2 hk) n d
        q, k, v = torch.split(heads, [self.config.heads, self.config.kv_heads, self.config.kv_heads], dim=1)
        if self.rotary is not None:
            q, k = self.rotary(q, positions), self.rotary(k, positions)
        return Heads(q, k, v, positions, mask), tail

    def _merge(self, out: Float[Tensor, "b h n d"]) -> Float[Tensor, "b n w"]:
        merged: Tensor = self.output(out.transpose(1, 2).flatten(2))
        return merged


class Block(nn.Module):
    """A pre-layer-norm block: attention, then an MLP with GELU."""

    def __init__(self, config: TransformerConfig, core: AttentionCore) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config, core)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp_width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.mlp_width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "b n w"], positions: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"] | None
    ) -> Float[Tensor, "b n w"]:
        """The block over a whole sequence."""
        x = x + self.dropout(self.attention(self.attention_norm(x), positions, mask))
        out: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return out

    def extend(
        self,
        x: Float[Tensor, "b n w"],
        positions: Int[Tensor, "b n"],
        mask: Bool[Tensor, "b n"] | None,
        state: BlockState | None,
    ) -> tuple[Float[Tensor, "b n w"], BlockState]:
        """The block over tokens that follow those in `state`."""
        attended, state = self.attention.extend(self.attention_norm(x), positions, mask, state)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), state


class Transformer(AttentionModel):
    """Embedding, blocks, and a language-model or classification head.

    Args:
        config: Sizes.
        cores: The attention core of each block.
    """

    def __init__(self, config: TransformerConfig, cores: list[AttentionCore]) -> None:
        super().__init__()
        self.config = config
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

    def forward(self, inputs: Inputs, mask: Bool[Tensor, "b *t n"] | None = None) -> Outputs:
        """Next-token logits of a language model, outputs at each vector, or class logits of a classifier.

        Two towers are `[b, 2, n]`.
        """
        inputs, mask = self._one_by_one(inputs, mask)
        return self.read_out(self.hidden(inputs, mask), mask)

    def hidden(self, inputs: Inputs, mask: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b m w"]:
        """Outputs of the last block, normalised; m is n, or patches and the class token for images."""
        x, positions = self._embed(inputs, mask)
        for block in self.blocks:
            x = block(x, positions, mask)
        normalised: Tensor = self.norm(x)
        return normalised

    def read_out(self, hidden: Float[Tensor, "b m w"], mask: Bool[Tensor, "b m"] | None = None) -> Outputs:
        """The head: tied to the embedding for language models, at each position for vectors, over the class token or
        the mean for classifiers. A row of two towers is two neighbouring rows of `hidden`.
        """
        if self.head is None:
            assert isinstance(self.embedding, nn.Embedding)
            return F.linear(hidden, self.embedding.weight)
        if self.config.num_classes is None:  # vectors: each position has outputs of its own
            values: Tensor = self.head(hidden)
            return values
        pooled = hidden[:, 0] if self.config.image_size is not None else mean_of_tokens(hidden, mask)
        logits: Tensor = self.head(pooled if self.config.towers == 1 else compare_towers(pooled))
        return logits

    def extend(
        self, tokens: Inputs, mask: Bool[Tensor, "b n"] | None, state: TransformerState | None
    ) -> tuple[Float[Tensor, "b v"], TransformerState]:
        """Outputs after the last of `tokens`, which follow those in `state`; padding goes on the left."""
        start = None if state is None else state.positions
        x, positions = self._embed(tokens, mask, start)
        blocks = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            x, block_state = block.extend(x, positions, mask, state.blocks[index] if state else None)
            blocks.append(block_state)
        logits = self.read_out(self.norm(x[:, -1:]))[:, 0]
        return logits, TransformerState(tuple(blocks), positions[:, -1] + 1)

    def attention_weights(
        self, inputs: Inputs, mask: Bool[Tensor, "b *t n"] | None = None
    ) -> list[Float[Tensor, "rows h m m"]]:
        """Attention weights of each block; two towers are neighbouring rows."""
        inputs, mask = self._one_by_one(inputs, mask)
        x, positions = self._embed(inputs, mask)
        weights = []
        for block in self.blocks:
            assert isinstance(block, Block)
            weights.append(block.attention.weights(block.attention_norm(x), positions, mask))
            x = block(x, positions, mask)
        return weights

    @property
    def last_position(self) -> int | None:
        """The context length where positions are learned; rotary ones have no end."""
        return None if self.positions is None else self.config.context_length

    def _one_by_one(self, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Rows of single sequences, which is what rows of one tower are already."""
        if self.config.towers == 1:
            return inputs, mask
        return inputs.flatten(0, 1), None if mask is None else mask.flatten(0, 1)

    def _embed(
        self, inputs: Tensor, mask: Tensor | None, start: Tensor | None = None
    ) -> tuple[Float[Tensor, "b m w"], Int[Tensor, "b m"]]:
        x: Tensor = self.embedding(inputs)
        if self.config.image_size is not None:
            patches = x.flatten(2).transpose(1, 2)
            x = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1)
        positions = positions_of(x, mask, start)
        if self.positions is not None:
            x = x + self.positions(positions)
        return self.dropout(x), positions

    def _initialise(self) -> None:
        """GPT-2's initialisation: normal of 0.02 at its width of 768, residual projections smaller by the root of their
        number; other widths keep the gain of its projections.
        """
        std = 0.02 * math.sqrt(768 / self.config.width)
        residual = std / math.sqrt(2 * self.config.layers)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding | nn.Conv2d):
                is_residual = name.endswith((".attention.output", ".mlp.2"))
                nn.init.normal_(module.weight, std=residual if is_residual else std)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)


def positions_of(
    x: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"] | None, start: Int[Tensor, " b"] | None
) -> Int[Tensor, "b n"]:
    """Positions of tokens that begin at `start` (default 0), counting real tokens only."""
    if mask is None:
        positions = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    else:
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    return positions if start is None else positions + start[:, None]


def patches_and_class_token(config: TransformerConfig) -> TransformerConfig:
    """The same sizes with the context length that an image of `image_size` needs."""
    if config.image_size is None:
        return config
    return replace(config, context_length=(config.image_size // config.patch_size) ** 2 + 1)
