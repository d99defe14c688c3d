"""Pretrained checkpoints of every supported type, as tiny as they can be, drawn at random and written to a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    ViTConfig,
)

MODEL_TYPES = ("bert", "gpt2", "llama", "mistral", "qwen2", "vit")
DECODERS = ("gpt2", "llama", "mistral", "qwen2")
CONTEXT_LENGTH = 64
END_OF_TEXT = "<|endoftext|>"
WORD_PIECES = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
    *("the", "cat", "sat", "on", "mat", "dog", "ran", "##ing"),
)
_SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_GROUPED: dict[str, Any] = {
    **_SIZE,
    "num_key_value_heads": 2,
    "vocab_size": 257,
    "max_position_embeddings": CONTEXT_LENGTH,
    "bos_token_id": 256,
    "eos_token_id": 256,
}
_CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "bert": lambda: BertConfig(
        **_SIZE, vocab_size=len(WORD_PIECES), max_position_embeddings=CONTEXT_LENGTH, pad_token_id=0
    ),
    "gpt2": lambda: GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT_LENGTH, vocab_size=257, bos_token_id=256, eos_token_id=256
    ),
    "llama": lambda: LlamaConfig(**_GROUPED),
    "mistral": lambda: MistralConfig(**_GROUPED, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**_GROUPED, tie_word_embeddings=True),
    "vit": lambda: ViTConfig(
        **_SIZE, image_size=8, patch_size=4, num_channels=3, id2label=dict(enumerate("abcdefghij"))
    ),
}


def tiny_config(model_type: str) -> PretrainedConfig:
    """A configuration of 2 layers, 4 heads of 8 (2 key heads where grouped), and at most 257 tokens."""
    return _CONFIGS[model_type]()


def tiny_model(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A random model with the head that such checkpoints come with: masked words and next sentence for BERT,
    10 classes for ViT.
    """
    autos: dict[str, Any] = {"bert": AutoModelForPreTraining, "vit": AutoModelForImageClassification}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = autos.get(model_type, AutoModelForCausalLM).from_config(tiny_config(model_type))
        for parameter in model.parameters():  # zero biases and unit gains would hide what loading mixes up
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    tiny: PreTrainedModel = model.eval()
    return tiny


def save_tiny(model_type: str, folder: Path, seed: int = 0) -> Path:
    """Writes config.json, model.safetensors and, but for images, tokenizer.json to `folder`, and gives it."""
    tiny_model(model_type, seed).save_pretrained(folder)
    if model_type != "vit":
        tiny_tokenizer(model_type).save(str(folder / "tokenizer.json"))
    return folder


def tiny_tokenizer(model_type: str) -> Tokenizer:
    """WordPiece with [CLS] and [SEP] for BERT; the 256 bytes and `<|endoftext|>` for decoders."""
    return _word_pieces() if model_type == "bert" else _bytes()


def _word_pieces() -> Tokenizer:
    vocab = {piece: index for index, piece in enumerate(WORD_PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _bytes() -> Tokenizer:
    vocab = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer
