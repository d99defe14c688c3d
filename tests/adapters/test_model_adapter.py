from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.base import Adapter, Capability, ModelShape, ParameterCount, UnsupportedError
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.kernels.costs import linear_state_bytes, softmax_decode_cost
from hedgebench.results.record import KernelUse

from .layer_names import DECODERS

Build = Callable[..., ModelAdapter[Transformer]]

LONG = ModelShape(context_length=64, vocab_size=11)


@pytest.mark.parametrize("backbone", ["gpt", "encoder", "vit"])
def test_every_backbone_is_an_adapter(build: Build, backbone: str) -> None:
    adapter = build(backbone=backbone)
    assert isinstance(adapter, Adapter)
    assert adapter.capabilities == BACKBONES[backbone].capabilities - {Capability.VECTOR_SEQUENCES}
    assert adapter.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("backbone", "shape", "parameters"),
    [
        ("gpt", ModelShape(context_length=1024, vocab_size=50257), 124_439_808),
        ("vit", ModelShape(context_length=1, num_classes=1000, image_size=224, channels=3), 86_567_656),
    ],
)
def test_paper_scale_has_the_parameters_of_gpt2_small_and_vit_b16(
    backbone: str, shape: ModelShape, parameters: int
) -> None:
    precision = Precision(torch.device("meta"), torch.float32)
    with torch.device("meta"):
        adapter = build_scratch(
            parse_spec("softmax", mechanisms().get),
            BACKBONES[backbone],
            BACKBONES[backbone].sizes["paper"],
            shape,
            0,
            precision,
        )
    assert adapter.parameter_count() == ParameterCount(parameters, 0)


@pytest.mark.parametrize(
    ("spec", "in_maps"),
    [
        ("softmax", 0),
        ("elu", 0),
        ("performer", 0),
        ("hedgehog", 2 * 2 * 2 * 8 * 8),
        ("hedgehog:tied=true", 2 * 2 * 8 * 8),
        ("t2r", 2 * 2 * 2 * (8 + 1) * 8),
        ("taylor:feature_dim=4", 2 * 2 * 2 * 8 * 4),
    ],
)
def test_parameters_of_feature_maps_are_counted_apart_and_shared_ones_once(
    build: Build, spec: str, in_maps: int
) -> None:
    bare, counted = build().parameter_count(), build(spec).parameter_count()
    assert counted == ParameterCount(bare.total + in_maps, in_maps)


@pytest.mark.parametrize("spec", DECODERS)
def test_the_same_seed_builds_the_same_model_and_another_seed_another(build: Build, spec: str) -> None:
    weights = [build(spec, seed=seed).model.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["embedding.weight"], weights[2]["embedding.weight"])


def test_models_differ_in_their_attention_alone(build: Build) -> None:
    softmax, hedgehog = build().model.state_dict(), build("hedgehog").model.state_dict()
    assert all(torch.equal(value, hedgehog[name]) for name, value in softmax.items())


@pytest.mark.parametrize("spec", DECODERS)
def test_a_training_step_gives_the_loss_and_leaves_the_weights_alone(build: Build, spec: str, tokens: Tensor) -> None:
    adapter = build(spec)
    before = {name: value.clone() for name, value in adapter.model.state_dict().items()}
    loss = adapter.training_step(tokens[:, :-1], tokens[:, 1:])
    expected = torch.nn.functional.cross_entropy(adapter.logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert all(torch.equal(before[name], value) for name, value in adapter.model.state_dict().items())
    assert all(p.grad is None for p in adapter.model.parameters())


@pytest.mark.parametrize("spec", DECODERS)
def test_every_weight_that_the_output_depends_on_gets_a_finite_gradient(
    build: Build, spec: str, tokens: Tensor
) -> None:
    model = build(spec, short_conv=3).model
    torch.autograd.backward(model(tokens).square().mean())
    dead = ("attention_norm", "query", "key", "value", "convolution") if spec == "none" else ()
    for name, parameter in model.named_parameters():
        if not any(f"{part}." in name for part in dead):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("backend", ["naive", "sdpa_math", "sdpa_flash"])
@pytest.mark.parametrize("short_conv", [0, 3])
def test_softmax_has_the_same_logits_with_every_backend(
    build: Build, backend: str, short_conv: int, tokens: Tensor
) -> None:
    expected = build("softmax", short_conv=short_conv).logits(tokens)
    adapter = build(f"softmax:backend={backend}", short_conv=short_conv)
    torch.testing.assert_close(adapter.logits(tokens), expected, rtol=1e-5, atol=1e-5)
    assert adapter.kernels_used() == (KernelUse("forward", "softmax", backend),)


@pytest.mark.parametrize(
    ("spec", "kernels"),
    [
        ("elu", [("train", "naive"), ("forward", "naive"), ("prefill", "chunk"), ("decode", "recurrent")]),
        ("hedgehog", [("train", "chunk"), ("forward", "chunk"), ("prefill", "chunk"), ("decode", "recurrent")]),
    ],
)
def test_the_kernels_that_ran_are_told_by_phase(
    build: Build, spec: str, kernels: list[tuple[str, str]], tokens: Tensor
) -> None:
    adapter = build(spec)
    assert adapter.kernels_used() == ()
    adapter.training_step(tokens, tokens)
    adapter.logits(tokens)
    _, state = adapter.prefill(tokens)
    adapter.decode(tokens[:, 0], state)
    assert adapter.kernels_used() == tuple(KernelUse(phase, form, "torch") for phase, form in kernels)


def test_the_decode_state_of_softmax_grows_with_length_and_that_of_linear_attention_does_not(build: Build) -> None:
    softmax, elu, hedgehog = (build(spec, shape=LONG) for spec in ("softmax", "elu", "hedgehog"))
    for n in (1, 7, 64):
        cache = softmax_decode_cost(b=3, h=2, hk=2, m=n, d=8, dv=8).state_bytes
        assert softmax.state_bytes(3, n) == 2 * cache
        assert elu.state_bytes(3, n) == 2 * linear_state_bytes(b=3, hk=2, f=8, dv=8)
        assert hedgehog.state_bytes(3, n) == 2 * linear_state_bytes(b=3, hk=2, f=16, dv=8, log_space=True)


def test_the_decode_state_holds_the_short_convolutions_last_inputs(build: Build) -> None:
    plain, convolved = (build("elu", short_conv=size).state_bytes(2, 5) for size in (0, 4))
    assert convolved - plain == 2 * 2 * (3 * 16) * 3 * 4


@pytest.mark.parametrize("spec", ["softmax", "hedgehog"])
def test_the_state_after_decoding_has_the_bytes_of_a_prompt_that_long(build: Build, spec: str, tokens: Tensor) -> None:
    adapter = build(spec)
    _, state = adapter.prefill(tokens[:, :4])
    for t in range(4, 9):
        _, state = adapter.decode(tokens[:, t], state)
    assert state.bytes == adapter.state_bytes(3, 9)


def test_evaluation_ignores_dropout_and_training_does_not(build: Build, tokens: Tensor) -> None:
    adapter, plain = build(dropout=0.5), build()
    adapter.training_step(tokens, tokens)
    assert torch.equal(adapter.logits(tokens), plain.logits(tokens))
    _, state = adapter.prefill(tokens)
    torch.testing.assert_close(
        adapter.decode(tokens[:, 0], state)[0], plain.decode(tokens[:, 0], plain.prefill(tokens)[1])[0]
    )
    assert adapter.training_step(tokens, tokens) != pytest.approx(plain.training_step(tokens, tokens), rel=1e-6)


def test_what_a_backbone_cannot_do_is_refused_in_words(build: Build, tokens: Tensor) -> None:
    encoder, gpt = build(backbone="encoder"), build()
    calls: list[Callable[[], object]] = [
        lambda: encoder.logits(tokens),
        lambda: encoder.prefill(tokens),
        lambda: encoder.generate(tokens, max_new_tokens=1),
        lambda: encoder.loglikelihood([([1], [2])]),
        lambda: encoder.rolling_loglikelihood([1], prefix_token=0),
        lambda: encoder.state_bytes(1, 1),
        lambda: gpt.class_logits(tokens),
    ]
    for call in calls:
        with pytest.raises(UnsupportedError, match=r"this model cannot do .*; it can do: "):
            call()


@pytest.mark.parametrize(
    ("spec", "backbone", "shape", "message"),
    [
        ("softmax", "gpt", ModelShape(16, 11, num_classes=3), "backbone gpt cannot be a classifier"),
        ("softmax", "encoder", ModelShape(16, 11), "backbone encoder cannot be a language_model"),
        ("softmax", "vit", ModelShape(16, 11, num_classes=3), "backbone vit does not take tokens"),
        ("softmax", "encoder", ModelShape(1, num_classes=3, image_size=8), "backbone encoder does not take images"),
        ("window", "encoder", None, "model window exists only in decoders; this model is an encoder"),
        ("window", "vit", None, "model window exists only in decoders; this model is an encoder"),
    ],
)
def test_a_model_that_cannot_be_is_refused_before_it_is_built(
    build: Build, spec: str, backbone: str, shape: ModelShape | None, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        build(spec, backbone, shape=shape)


def test_more_tokens_than_learned_positions_are_refused(build: Build) -> None:
    adapter, long = build(), torch.zeros(1, 17, dtype=torch.long)
    calls: list[Callable[[], object]] = [
        lambda: adapter.logits(long),
        lambda: adapter.prefill(long),
        lambda: adapter.state_bytes(1, 17),
        lambda: adapter.generate(long[:, :10], max_new_tokens=7),
    ]
    for call in calls:
        with pytest.raises(UnsupportedError, match="17 tokens do not fit the context length 16"):
            call()
    assert adapter.generate(long[:, :10], max_new_tokens=6).shape == (1, 6)


def test_rope_has_no_last_position(build: Build) -> None:
    adapter = build(rope=True)
    assert adapter.generate(torch.zeros(1, 17, dtype=torch.long), max_new_tokens=7).shape == (1, 7)


def test_sizes_that_do_not_fit_are_refused(build: Build) -> None:
    with pytest.raises(ValueError, match="width 16 is not a multiple of heads 3"):
        build(heads=3)
    with pytest.raises(ValueError, match="image_size 9"):
        build(backbone="vit", shape=replace(ModelShape(1, num_classes=3), image_size=9))


def test_a_model_from_scratch_has_no_teacher(build: Build, tokens: Tensor) -> None:
    adapter, teachers = build("elu"), []
    adapter.compare_attention(tokens, lambda _, maps: teachers.append(maps.teacher))
    assert teachers == [None, None]
    assert "no softmax model came before it" in adapter.model.no_teacher
