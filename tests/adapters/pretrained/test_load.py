from __future__ import annotations

import json
from collections.abc import Callable
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from hedgebench.adapters.backbone import CheckpointError
from hedgebench.adapters.pretrained import load as loading
from hedgebench.adapters.pretrained.load import available_bytes, load_pretrained, stored_tensors
from hedgebench.adapters.pretrained.weight_files import safetensors_files

from ..tiny_models import DECODERS, MODEL_TYPES, save_tiny, tiny_model

CPU = torch.device("cpu")
CLASSES = {"bert": 3, "vit": 4}
EACH = pytest.mark.parametrize("model_type", MODEL_TYPES)


def load(folder: Path, num_classes: int | None = None, **changes: Any) -> PreTrainedModel:
    given = {"weights_dtype": torch.float32, "device": CPU, "seed": 0, **changes}
    return load_pretrained(folder, num_classes=num_classes, **given).model


def change_config(folder: Path, **entries: Any) -> None:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **entries}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def inputs_of(model_type: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if model_type == "vit":
        return torch.randn(2, 3, 8, 8, generator=generator)
    return torch.randint(0, 60, (2, 9), generator=generator)


@EACH
def test_weights_are_those_of_the_file_and_the_model_evaluates(model_type: str, tmp_path: Path) -> None:
    model = load(save_tiny(model_type, tmp_path, seed=3), CLASSES.get(model_type))
    saved = tiny_model(model_type, seed=3)
    assert not model.training
    wanted = saved.base_model.state_dict()
    found = model.base_model.state_dict()
    assert found.keys() <= wanted.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=0)


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_decoder_gives_the_logits_of_the_model_that_was_saved(model_type: str, tmp_path: Path) -> None:
    tokens = inputs_of(model_type)
    with torch.no_grad():
        found = load(save_tiny(model_type, tmp_path))(tokens).logits
        wanted = tiny_model(model_type)(tokens).logits
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("model_type", CLASSES)
def test_a_new_head_follows_the_seed_and_nothing_else_does(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny(model_type, tmp_path)
    torch.manual_seed(123)
    first = load(folder, CLASSES[model_type], seed=1).state_dict()
    torch.manual_seed(456)
    again = load(folder, CLASSES[model_type], seed=1).state_dict()
    other = load(folder, CLASSES[model_type], seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert {name for name in first if not torch.equal(first[name], other[name])} == {"classifier.weight"}
    assert first["classifier.weight"].shape == (CLASSES[model_type], 32)
    assert 0.01 < float(first["classifier.weight"].std()) < 0.03
    assert not first["classifier.bias"].any()


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    load(folder, 2)
    assert torch.equal(torch.rand(3), wanted)


def test_one_class_is_a_regression(tmp_path: Path) -> None:
    model = load(save_tiny("bert", tmp_path), 1)
    assert model(inputs_of("bert")).logits.shape == (2, 1)


def test_a_head_for_as_many_classes_is_kept(tmp_path: Path) -> None:
    model = load(save_tiny("vit", tmp_path), 10)
    torch.testing.assert_close(
        model.get_parameter("classifier.weight"), tiny_model("vit").get_parameter("classifier.weight")
    )


def test_weights_can_be_held_in_bfloat16(tmp_path: Path) -> None:
    model = load(save_tiny("llama", tmp_path), weights_dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_checkpoint_of_the_bare_encoder_without_prefixes_is_loaded(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path)

    def rename(weights: dict[str, Tensor]) -> None:
        for name in list(weights):
            tensor = weights.pop(name)
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            if name.startswith("bert."):
                weights[old.removeprefix("bert.")] = tensor
        weights["embeddings.position_ids"] = torch.arange(64)[None]

    change_weights(folder, rename)
    found = load(folder, 2).base_model.state_dict()
    wanted = tiny_model("bert").base_model.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_masks_that_old_gpt2_checkpoints_keep_are_ignored(tmp_path: Path) -> None:
    folder = save_tiny("gpt2", tmp_path)
    change_weights(folder, lambda weights: weights.update({"h.0.attn.bias": torch.ones(1, 1, 64, 64)}))
    load(folder)


def test_shards_are_read_together(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    found = load(tmp_path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tiny_model("llama").state_dict().items())


def test_an_unknown_model_type_is_answered_with_the_nearest(tmp_path: Path) -> None:
    change_config(folder := save_tiny("llama", tmp_path), model_type="llama9")
    with pytest.raises(CheckpointError, match="unknown model_type 'llama9'; did you mean llama"):
        load(folder)


def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path) -> None:
    folder = save_tiny("gpt2", tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model\.bin\), and those can run code"):
        load(folder)


def test_pickled_weights_are_read_where_trusted(tmp_path: Path) -> None:
    folder = save_tiny("gpt2", tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model("gpt2").state_dict(), folder / "pytorch_model.bin")
    found = load(folder, trust_remote_code=True).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in tiny_model("gpt2").state_dict().items())


def test_no_weights_at_all_are_an_error(tmp_path: Path) -> None:
    folder = save_tiny("gpt2", tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        load(folder)


def test_stored_tensors_are_those_of_the_file_without_their_values(tmp_path: Path) -> None:
    stored = stored_tensors(save_tiny("llama", tmp_path))
    loaded = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.shape for name, tensor in stored.items()} == {n: t.shape for n, t in loaded.items()}
    assert {(tensor.dtype, tensor.device.type) for tensor in stored.values()} == {(torch.float32, "meta")}


def test_shards_together_hold_what_one_file_does(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(safetensors_files(tmp_path / "shards")) > 2
    shards, whole = stored_tensors(tmp_path / "shards"), stored_tensors(save_tiny("llama", tmp_path / "whole"))
    assert {name: tensor.shape for name, tensor in shards.items()} == {n: t.shape for n, t in whole.items()}


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_a_cut_file_is_refused(kept: int, tmp_path: Path) -> None:
    file = save_tiny("gpt2", tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="is not a whole weight file"):
        load(tmp_path)


def test_a_file_with_more_than_its_tensors_is_refused(tmp_path: Path) -> None:
    file = save_tiny("gpt2", tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(CheckpointError, match="is not a whole weight file"):
        load(tmp_path)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    file = save_tiny("gpt2", tmp_path) / "model.safetensors"
    file.write_bytes((20).to_bytes(8, "little") + b"x" * 200)
    with pytest.raises(CheckpointError, match="invalid JSON in header"):
        load(tmp_path)


def test_remote_code_does_not_run(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    change_config(folder, auto_map={"AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(CheckpointError, match="--trust-remote-code"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_key_value_heads": 0}, "describes no model that can be built"),
        ({"head_dim": 0}, "describes no model that can be built"),
        ({"quantization_config": [1]}, "is quantised by an unnamed method"),
    ],
)
def test_entries_that_no_model_can_have_are_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    change_config(folder := save_tiny("llama", tmp_path), **changes)
    with pytest.raises(CheckpointError, match=told):
        load(folder)


def test_a_quantised_checkpoint_is_refused(tmp_path: Path) -> None:
    change_config(folder := save_tiny("llama", tmp_path), quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(CheckpointError, match="quantised by gptq"):
        load(folder)


@EACH
def test_a_missing_tensor_is_named(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny(model_type, tmp_path)
    lost = next(name for name in load_file(folder / "model.safetensors") if ".1." in name)
    change_weights(folder, lambda weights: weights.__delitem__(lost))
    with pytest.raises(CheckpointError, match=r"lacks 1 of the model's tensors: \S+\.1\.\S+ \[\d+.*\]"):
        load(folder, CLASSES.get(model_type))


def test_a_missing_head_of_a_language_model_is_an_error(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    change_weights(folder, lambda weights: weights.__delitem__("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 1 of the model's tensors: lm_head\.weight \[257, 32\]"):
        load(folder)


@EACH
def test_a_config_of_another_size_is_refused(model_type: str, tmp_path: Path) -> None:
    folder = save_tiny(model_type, tmp_path)
    change_config(folder, **({"n_inner": 96} if model_type == "gpt2" else {"intermediate_size": 96}))
    with pytest.raises(CheckpointError, match=r"another shape than its config\.json asks for"):
        load(folder, CLASSES.get(model_type))


def test_a_tensor_in_a_layer_that_nothing_takes_is_refused(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    name = "model.layers.0.self_attn.q_norm.weight"
    change_weights(folder, lambda weights: weights.update({name: torch.ones(8)}))
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_feature_maps_of_a_converted_checkpoint_are_left_for_later(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    name = "model.layers.0.self_attn.attention_core.map.weight"
    change_weights(folder, lambda weights: weights.update({name: torch.ones(8)}))
    with pytest.raises(CheckpointError, match="attention_core"):
        load(folder)
    change_config(folder, hedgebench={"version": 1})
    load(folder)


@pytest.mark.parametrize("name", ["score.weight", "model.layers.7.self_attn.q_proj.weight", "model.rotary.inv_freq"])
def test_a_converted_checkpoint_has_no_tensor_that_nothing_takes(name: str, tmp_path: Path) -> None:
    change_config(folder := save_tiny("llama", tmp_path), hedgebench={"version": 1})
    load(folder)
    change_weights(folder, lambda weights: weights.update({name: torch.ones(8)}))
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_a_converted_classifier_has_its_head(tmp_path: Path) -> None:
    change_config(folder := save_tiny("vit", tmp_path), hedgebench={"version": 1})
    change_weights(folder, lambda weights: weights.__delitem__("classifier.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 1 of the model's tensors: classifier\.weight"):
        load(folder, 10)


@pytest.mark.parametrize(("model_type", "num_classes"), [("llama", 2), ("bert", None), ("vit", None)])
def test_a_head_of_the_other_kind_is_refused(model_type: str, num_classes: int | None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be loaded as a"):
        load(save_tiny(model_type, tmp_path), num_classes)


def test_too_little_memory_is_told_before_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny("llama", tmp_path)
    bytes_needed = 4 * sum(p.numel() for p in tiny_model("llama").parameters())
    monkeypatch.setattr(loading, "available_bytes", lambda device: bytes_needed)
    load(folder)
    monkeypatch.setattr(loading, "available_bytes", lambda device: bytes_needed - 1)
    with pytest.raises(CheckpointError, match=r"in float32 need 0\.00 GB, and cpu has 0\.00 GB free; .*bfloat16"):
        load(folder)
    load(folder, weights_dtype=torch.bfloat16)


def test_the_free_memory_of_this_machine_is_believable() -> None:
    assert 1e6 < available_bytes(CPU) < 1e14


def test_loading_is_quiet_and_puts_the_verbosity_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny("bert", tmp_path)
    logging.set_verbosity(INFO)
    logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    capfd.readouterr()
    try:
        load(folder, 2)
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (INFO, True)
    finally:
        logging.set_verbosity(WARNING)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_rotary_positions_are_those_of_the_config_in_either_release(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    change_config(folder, rope_theta=None, rope_parameters={"rope_theta": 500.0, "rope_type": "default"})
    config: Any = load(folder).config
    theta = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
    assert theta == 500.0
