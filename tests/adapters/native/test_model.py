"""Models as they are: recurrent ones, hybrids and attention of any kind, over the same interface as all others."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from hedgebench.adapters.audit.equivalence import compare_paths
from hedgebench.adapters.backbone import DECODER, Checkpoint, capabilities_of, pretrained
from hedgebench.adapters.base import Capability, ModelShape, UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.native import build
from hedgebench.adapters.native.model import NativeModel
from hedgebench.adapters.pretrained.interface import layers_in_torch
from hedgebench.adapters.pretrained.weight_files import release
from hedgebench.adapters.training.distillation import has_weights_to_compare
from hedgebench.tasks.lm_eval.text import text_model

from ...tasks.lm_eval_tiny import peer, requests
from ..any_models import Settings, any_model
from ..swapped import CPU, SETTINGS, spec, swapped
from ..tiny_models import END_OF_TEXT, tiny_tokenizer

pytestmark = pytest.mark.skipif(release() < 5, reason="native needs transformers 5")

_WORDS: Settings = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 0}
_SIZE: Settings = {**_WORDS, "hidden_size": 32, "num_hidden_layers": 2}
_HEADS: Settings = {
    **_SIZE,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_MAMBA2: Settings = {"mamba_d_state": 8, "mamba_d_head": 8, "mamba_n_heads": 8, "mamba_n_groups": 1, "mamba_expand": 2}
_LINEAR: Settings = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "head_dim": 8,
}
RECURRENT: Mapping[str, Settings] = {
    "mamba": {**_SIZE, "state_size": 4},
    "mamba2": {**_SIZE, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": {**_SIZE, "state_size": 4},
    "rwkv": {**_SIZE, "attention_hidden_size": 32, "context_length": 64},
    "recurrent_gemma": {**_HEADS, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 64, "head_dim": 8},
    "qwen3_next": {**_HEADS, **_LINEAR, "layer_types": ["linear_attention", "full_attention"]},
    "lfm2": {**_HEADS, "layer_types": ["conv", "full_attention"]},
    "bamba": {**_HEADS, **_MAMBA2, "attn_layer_indices": [1]},
    "zamba2": {
        **_HEADS,
        "mamba_d_state": 8,
        "mamba_headdim": 8,
        "mamba_ngroups": 1,
        "mamba_expand": 2,
        "n_mamba_heads": 8,
        "num_mem_blocks": 1,
        "layers_block_type": ["mamba", "hybrid"],
        "hybrid_layer_ids": [1],
        "adapter_rank": 4,
        "use_mem_rope": True,
        "num_key_value_heads": 4,
    },
}
ATTENTION: Mapping[str, Settings] = {
    "llama": _HEADS,
    "gemma2": {**_HEADS, "head_dim": 8},
    "bloom": {**_WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
}
LANGUAGE: Mapping[str, Settings] = {**RECURRENT, **ATTENTION}
ONLY_STATES = ("mamba", "mamba2", "falcon_mamba", "rwkv")
EACH = pytest.mark.parametrize("kind", LANGUAGE)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: tmp_path_factory.mktemp(kind) for kind in LANGUAGE}


def saved(kind: str, folder: Path) -> Path:
    if not (folder / "config.json").exists():
        any_model(kind, LANGUAGE[kind]).save_pretrained(folder)
    return folder


def native(kind: str, folder: Path, shape: ModelShape | None = None) -> ModelAdapter[NativeModel]:
    config = json.loads((folder / "config.json").read_text())
    capabilities = capabilities_of(config, str(folder))
    backbone = pretrained(f"hf:{folder}", kind, Checkpoint("", "", folder=str(folder)), capabilities=capabilities)
    return build.build_native(
        folder, backbone, SETTINGS, shape or ModelShape(32, vocab_size=257), seed=0, precision=CPU
    )


def close(found: Tensor, wanted: Tensor) -> None:
    assert float((found - wanted).abs().max()) <= 2e-4 * float(wanted.abs().max())


@EACH
def test_every_model_reads_decodes_and_pads_as_it_does_alone(kind: str, folders: dict[str, Path]) -> None:
    adapter = native(kind, saved(kind, folders[kind]))
    tokens = torch.randint(3, 250, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = any_model(kind, LANGUAGE[kind])(tokens).logits
    close(adapter.logits(tokens), wanted)
    logits, state = adapter.prefill(tokens[:, :7])
    close(logits, wanted[:, 6])
    for t in (7, 8):
        logits, state = adapter.decode(tokens[:, t], state)
        close(logits, wanted[:, t])
    padded = torch.cat([torch.full((2, 3), 5), tokens], 1)
    mask = torch.ones_like(padded, dtype=torch.bool)
    mask[:, :3] = False
    mask[1, :] = True
    close(adapter.logits(padded, mask)[0, 3:], wanted[0])
    gated = compare_paths(adapter)
    gated.require()
    assert gated.state_bytes
    assert {"batch of one", "prefill", "token by token", "right-padded", "left-padded"} <= gated.differences.keys()
    if kind == "recurrent_gemma":
        with pytest.raises(UnsupportedError, match="hold their state themselves and read padding like tokens"):
            adapter.prefill(padded[:, :-1], mask[:, :-1])
        with pytest.raises(UnsupportedError, match="cannot be copied"):
            state.select(torch.tensor([0]), 1)
        return
    logits, state = adapter.prefill(padded[:, :-1], mask[:, :-1])
    logits, state = adapter.decode(padded[:, -1], state)
    close(logits[0], wanted[0, -1])
    picked = state.select(torch.tensor([0, 0]), 1)
    first, _ = adapter.decode(tokens[:1, 0].repeat(2), picked)
    again, _ = adapter.decode(torch.stack([tokens[0, 0], tokens[1, 0]]), state)
    close(first[1], again[0])


@pytest.mark.parametrize("kind", ["mamba", "llama", "qwen3_next"])
def test_a_prompt_has_logits_of_its_last_token_alone(kind: str, folders: dict[str, Path]) -> None:
    adapter = native(kind, saved(kind, folders[kind]))
    inner: Any = adapter.model.inner
    seen: list[int] = []
    inner.get_output_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    adapter.prefill(torch.full((2, 9), 5))
    assert seen[-1] == 1  # what came before tried whether rows can be decoded together


@EACH
def test_the_state_grows_with_keys_and_values_alone(kind: str, folders: dict[str, Path]) -> None:
    adapter = native(kind, saved(kind, folders[kind]))
    sizes = [adapter.state_bytes(1, tokens) for tokens in (16, 32)]
    assert sizes[0] > 0
    if kind == "llama":
        assert sizes == [2 * 2 * 2 * 8 * 4 * tokens for tokens in (16, 32)]
    assert (sizes[0] == sizes[1]) == (kind in ONLY_STATES)
    assert adapter.kernels_used()[0].form == f"native {kind}"


@pytest.mark.parametrize("kind", ["mamba", "llama"])
def test_scores_are_those_of_lm_evals_own_model(kind: str, folders: dict[str, Path]) -> None:
    folder = saved(kind, folders[kind])
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer(tokenizer_object=tiny_tokenizer("gpt2"), bos_token=END_OF_TEXT, eos_token=END_OF_TEXT).save_pretrained(
        folder
    )
    adapter = native(kind, folder, ModelShape(64))
    ours = text_model(adapter, folder, batch_size=3, seed=1, share_context=True)
    asked = requests("loglikelihood", ("the cat", " sat on the mat"), ("the cat", " ran"), ("", "no context"))
    theirs = peer(folder).loglikelihood(asked, disable_tqdm=True)
    assert [score for score, _ in ours.loglikelihood(asked)] == [pytest.approx(s, rel=1e-5) for s, _ in theirs]
    rolling = requests("loglikelihood_rolling", ("a short text",))
    wanted = peer(folder).loglikelihood_rolling(rolling, disable_tqdm=True)
    assert ours.loglikelihood_rolling(rolling) == [pytest.approx(score, rel=1e-5) for score in wanted]


def test_a_classifier_of_any_attention_is_measured(tmp_path: Path) -> None:
    model = any_model("deberta-v2", num_labels=3)
    model.save_pretrained(tmp_path)
    adapter = native("deberta-v2", tmp_path, ModelShape(16, vocab_size=90, num_classes=3))
    tokens = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, 6:] = False
    with torch.no_grad():
        wanted = model(tokens, mask.long()).logits
    close(adapter.class_logits(tokens, mask), wanted)
    assert adapter.capabilities == {Capability.CLASSIFIER}


def test_it_is_a_model_as_a_whole(folders: dict[str, Path]) -> None:
    adapter = native("llama", saved("llama", folders["llama"]))
    assert adapter.model.spec.canonical == "native"
    adapter.swap_in(spec("native"), 0)
    assert not has_weights_to_compare(adapter.model)
    with pytest.raises(UnsupportedError, match="so it cannot be hedgehog"):
        adapter.swap_in(spec("hedgehog"), 0)
    with pytest.raises(UnsupportedError, match="there is no layer to build"):
        swapped("llama", "native")
    with pytest.raises(UnsupportedError, match="cannot do attention_weights"):
        adapter.attention_weights(torch.ones(1, 3, dtype=torch.long))
    assert adapter.training_step(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long)) > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the package's kernels are meant to run")
def test_without_a_gpu_transformers_cannot_take_kernels_of_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ModuleType("fla")
    monkeypatch.setitem(sys.modules, "fla", installed)
    with layers_in_torch(), pytest.raises(ModuleNotFoundError):
        importlib.import_module("fla")
    assert importlib.import_module("fla") is installed


def test_an_older_release_of_transformers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "release", lambda: 4)
    with pytest.raises(UnsupportedError, match="native reads the caches of transformers 5"):
        native("llama", saved("llama", tmp_path))


def test_a_comparison_of_paths_leaves_the_record_of_what_ran_alone() -> None:
    model = NativeModel(any_model("llama"), is_decoder=True)
    adapter = ModelAdapter(model, DECODER, ModelShape(64, 97), CPU)
    compare_paths(adapter).require()
    assert adapter.kernels_used() == ()
    adapter.logits(torch.ones(1, 4, dtype=torch.long))
    assert [use.phase for use in adapter.kernels_used()] == ["forward"]
    model.forget_kernels()
    assert adapter.kernels_used() == ()


def test_whether_padding_is_taken_is_tried_without_dropout() -> None:
    model = NativeModel(any_model("gpt2"), is_decoder=True).train()
    assert any(isinstance(part, torch.nn.Dropout) and part.p for part in model.modules())
    before = torch.get_rng_state()
    assert model._takes_padding
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in model.modules())
