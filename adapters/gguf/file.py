"""De-quantises a GGUF file into the layout of transformers: config.json, model.safetensors, tokenizer.json.

We read the file with the `gguf` library rather than with transformers. There the results for quantised weights and for
the tokenizer depend on the version and on the installed kernels, and the loaded model cannot be saved. Supported
architectures are `llama` (also Mistral) and `qwen2`.

llama.cpp stores the rows of a `llama` model's query and key projections in another order than transformers: its rotary
embedding rotates pairs of neighbouring features, that of transformers pairs half a head apart. We restore the order.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.names import unknown_name
from ..backbone import CheckpointError
from ..pretrained.tokenizer import has_tokenizer
from ..pretrained.weight_files import TOKENIZER_FILES
from .counts import check_counts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}

_REQUIRED = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
"""Keys of config.json that the metadata must have, and their names in GGUF."""
_OPTIONAL = {
    "num_key_value_heads": "attention.head_count_kv",
    "rope_theta": "rope.freq_base",
    "head_dim": "attention.key_length",
}
_TOKENS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL, _USER_DEFINED = 3, 4


def dequantise(gguf: Path, folder: Path) -> None:
    """Writes the model in `gguf` to `folder`, its weights in float32.

    Tokenizer files in the folder of `gguf` take precedence over its metadata: a vocabulary over its vocabulary, and a
    `tokenizer_config.json` over its special tokens and its chat template.

    Args:
        gguf: A language model of one of `ARCHITECTURES`, in any quantisation that the `gguf` library supports.
        folder: Folder to write into; it is created if absent.

    Raises:
        CheckpointError: The file is damaged or not supported.
    """
    with _damage_told(gguf):
        _dequantise(gguf, folder)


def _dequantise(gguf: Path, folder: Path) -> None:
    from safetensors.numpy import save_file

    reader = _open(gguf)
    metadata = _metadata(reader, gguf)
    config = _config(metadata, gguf)
    shapes = {tensor.name: tensor.shape for tensor in reader.tensors}
    if "token_embd.weight" not in shapes:
        raise CheckpointError(f"{gguf} has no token embedding; is it a whole model?")
    config["tie_word_embeddings"] = "output.weight" not in shapes
    config["vocab_size"] = int(shapes["token_embd.weight"][-1])  # GGUF counts dimensions from the innermost
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(metadata, gguf, folder)
    weights = dict(_weight(tensor, config, gguf) for tensor in reader.tensors)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    ids = {key: value for key, value in config.items() if key.endswith("_token_id")}
    _write_json(folder / "generation_config.json", ids)


def gguf_config(gguf: Path) -> dict[str, Any]:
    """The model's config.json, without the entries that depend on its tensors.

    Raises:
        CheckpointError: The file is damaged or not supported.
    """
    with _damage_told(gguf):
        return _config(_metadata(_open(gguf), gguf), gguf)


def _open(gguf: Path) -> Any:
    """The file as the library reads it; what it announces is compared with its size first."""
    from gguf import GGUFReader

    check_counts(gguf)
    return GGUFReader(gguf)


@contextmanager
def _damage_told(gguf: Path) -> Iterator[None]:
    """Raises what reading a damaged file raises, in whichever library, as one error."""
    try:
        yield
    except (CheckpointError, OSError, MemoryError):
        raise
    except Exception as error:  # the libraries have no common error, and tokenizers raises plain exceptions
        told = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise CheckpointError(f"{gguf} is not a whole GGUF file ({told}); download it again") from error


def _metadata(reader: Any, gguf: Path) -> dict[str, Any]:
    metadata = {name: part.contents() for name, part in reader.fields.items()}
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(f"{gguf}: {unknown_name('GGUF architecture', str(architecture), ARCHITECTURES)}")
    return metadata


def _config(metadata: Mapping[str, Any], gguf: Path) -> dict[str, Any]:
    architecture = metadata["general.architecture"]
    if missing := [key for key in _REQUIRED.values() if f"{architecture}.{key}" not in metadata]:
        raise CheckpointError(f"{gguf} does not state its {', '.join(missing)}; convert the model to GGUF again")
    if metadata.get(f"{architecture}.rope.scaling.type", "none") != "none":
        raise CheckpointError(f"{gguf} scales its rotary positions, which is not supported; use the safetensors")
    if 0 < metadata.get(f"{architecture}.attention.sliding_window", 0) < metadata[f"{architecture}.context_length"]:
        raise CheckpointError(f"{gguf} has a sliding window, which is not supported; use the safetensors")
    width, heads = (metadata[f"{architecture}.{_REQUIRED[key]}"] for key in ("hidden_size", "num_attention_heads"))
    head_dim = metadata.get(f"{architecture}.attention.key_length", width // heads)
    if (rotated := metadata.get(f"{architecture}.rope.dimension_count", head_dim)) != head_dim:
        raise CheckpointError(f"{gguf} rotates {rotated} of {head_dim} features of a head; supported are all")
    named = {ours: f"{architecture}.{key}" for ours, key in (_REQUIRED | _OPTIONAL).items()}
    named |= {f"{ours}_token_id": f"tokenizer.ggml.{key}" for ours, key in _TOKENS.items() if ours != "unk"}
    return {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "dtype": "float32",
        "hidden_act": "silu",
        **{ours: metadata[key] for ours, key in named.items() if key in metadata},
    }


def _weight(tensor: Any, config: Mapping[str, Any], gguf: Path) -> tuple[str, NDArray[np.float32]]:
    import numpy as np
    from gguf.quants import dequantize

    array: NDArray[np.float32] = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    stem, _, kind = tensor.name.rpartition(".")
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    ours = _INSIDE.get(match[2]) if match else _OUTSIDE.get(stem)
    if ours is None:
        raise CheckpointError(f"{gguf} has a tensor {tensor.name}, which its architecture has no place for")
    heads = config["num_attention_heads"]
    if config["model_type"] == "llama" and stem.endswith("attn_q"):
        array = _by_halves(array, heads)
    elif config["model_type"] == "llama" and stem.endswith("attn_k"):
        array = _by_halves(array, config.get("num_key_value_heads", heads))
    return (f"model.layers.{match[1]}.{ours}.{kind}" if match else f"{ours}.{kind}"), np.ascontiguousarray(array)


def _by_halves(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorders the rows of each head from llama.cpp's pairs to all first members of pairs, then all second ones."""
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _write_tokenizer(metadata: Mapping[str, Any], gguf: Path, folder: Path) -> None:
    for beside in filter(Path.is_file, map(gguf.with_name, TOKENIZER_FILES)):
        shutil.copyfile(beside, folder / beside.name)
    if not has_tokenizer(folder):
        _tokenizer(metadata, gguf).save(str(folder / "tokenizer.json"))
    if (folder / "tokenizer_config.json").is_file():
        return
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    names: dict[str, Any] = {
        f"{ours}_token": tokens[metadata[f"tokenizer.ggml.{key}"]]
        for ours, key in _TOKENS.items()
        if f"tokenizer.ggml.{key}" in metadata and tokens
    }
    if "tokenizer.chat_template" in metadata:
        names["chat_template"] = metadata["tokenizer.chat_template"]
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _tokenizer(metadata: Mapping[str, Any], gguf: Path) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    kind, splitting = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or splitting not in _SPLITTING:
        raise CheckpointError(
            f"{gguf} has a {kind!r} tokenizer that splits text as {splitting!r}; known are 'gpt2' tokenizers with "
            f"{', '.join(map(repr, _SPLITTING))}; put the model's tokenizer.json beside the file"
        )
    parts: list[Any] = [metadata.get(f"tokenizer.ggml.{part}") for part in ("tokens", "token_type", "merges")]
    if any(part is None for part in parts):
        raise CheckpointError(f"{gguf} has no whole vocabulary; put the model's tokenizer.json beside the file")
    tokens, types, written = parts
    merges = [tuple(merge.split(" ", 1)) for merge in written]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = _SPLITTING[splitting](pre_tokenizers)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, type_ in zip(tokens, types, strict=True) if type_ == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.add_tokens([token for token, type_ in zip(tokens, types, strict=True) if type_ == _USER_DEFINED])
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        bos = metadata["tokenizer.ggml.bos_token_id"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", pair=f"{tokens[bos]} $A $B:1", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


def _byte_level(pre_tokenizers: Any) -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


_SPLITTING: dict[str, Callable[[Any], Any]] = {
    "default": _byte_level,
    "gpt-2": _byte_level,
    "smollm": lambda pre: pre.Sequence([pre.Digits(individual_digits=True), _byte_level(pre)]),
}


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, default=lambda number: number.item()) + "\n", encoding="utf-8")
