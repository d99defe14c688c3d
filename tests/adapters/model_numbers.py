"""Numbers of tiny models that are built, trained, converted, decoded and scored; a version holds them.

Weights are float64, so that the order of additions, which differs between machines, is far below a tolerance of 1e-6.
What the code itself computes in float32 stays in float32. There is no dropout, as random masks differ between machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hedgebench.adapters.attention_model import AttentionModel
from hedgebench.adapters.backbone import BACKBONES, Checkpoint, pretrained
from hedgebench.adapters.base import AttentionMaps, Capability, Examples, ModelShape, Value
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.pretrained.adapter import build_pretrained
from hedgebench.adapters.pretrained.converted import save_converted
from hedgebench.adapters.pretrained.model import PretrainedModel
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.training.distillation import (
    AttentionDistillation,
    divergence_of_batches,
    freeze_all_but_maps,
)
from hedgebench.adapters.training.distillation_blockwise import BlockwiseDistillation
from hedgebench.adapters.training.loop import History, train
from hedgebench.adapters.training.lora import add_lora
from hedgebench.adapters.training.objective import objective_for
from hedgebench.adapters.training.settings import DistillSettings, LoraSettings, TrainSettings
from hedgebench.harness.registry import mechanisms

from .swapped import CPU, SETTINGS, shape_of, spec
from .tiny_models import tiny_model, tiny_tokenizer

Numbers: TypeAlias = dict[str, list[float]]
"""Numbers of one path by what they are."""

TRAINING = TrainSettings(steps=3, batch_size=4, lr=3e-4, eval_rows=4, eval_batch_size=2, accumulate=2, eval_every=2)
SHAPES = {
    "gpt": ModelShape(context_length=16, vocab_size=11),
    "encoder": ModelShape(context_length=16, vocab_size=11, num_classes=3),
    "vit": ModelShape(context_length=1, num_classes=3, image_size=8, channels=2),
}


@contextmanager
def one_thread_of_float64() -> Iterator[None]:
    """New tensors are float64 and nothing is split among threads while the block lasts."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


def from_scratch(backbone: str, text: str, folder: Path, shape: ModelShape | None = None, **sizes: Value) -> Numbers:
    """A model from scratch: its first outputs, its training, and what it gives afterwards."""
    del folder
    shape = shape or SHAPES[backbone]
    settings = {**BACKBONES[backbone].sizes["smoke"], "width": 16, "mlp_width": 32, **sizes}
    adapter = build_scratch(spec(text), BACKBONES[backbone], settings, shape, 0, CPU)
    data = examples(shape)
    built = outputs(adapter, data)
    history = train(adapter.model, data, data, TRAINING, seed=0, precision=CPU, objective=objective_for(shape))
    return {"outputs as built": built, **trained(adapter, history, data), **decoded(adapter)}


def scratch_converted(backbone: str, text: str, folder: Path, shape: ModelShape | None = None) -> Numbers:
    """A softmax model from scratch: trained, its attention swapped, distilled, fine-tuned."""
    del folder
    shape = shape or SHAPES[backbone]
    settings = {**BACKBONES[backbone].sizes["smoke"], "width": 16, "mlp_width": 32}
    adapter = build_scratch(spec("softmax"), BACKBONES[backbone], settings, shape, 0, CPU)
    data, objective = examples(shape), objective_for(shape)
    train(adapter.model, data, data, TRAINING, seed=0, precision=CPU, objective=objective)
    adapter.model.no_teacher = ""
    adapter.swap_in(spec(text), seed=0)
    numbers = {**attention(adapter, data), **distilled(adapter.model, data, DistillSettings())}
    adapter.model.requires_grad_(True)
    adapter.model.keep_teacher()
    history = train(adapter.model, data, data, TRAINING, seed=0, precision=CPU, objective=objective)
    return {**numbers, **trained(adapter, history, data), "teacher afterwards": attention(adapter, data)["teacher"]}


def converted(model_type: str, text: str, folder: Path) -> Numbers:
    """A pretrained model: its attention swapped, distilled, fine-tuned, saved and loaded again."""
    adapter = swapped_in(model_type, text, folder / "base")
    data = examples(adapter.shape)
    numbers = {"outputs as swapped": outputs(adapter, data), **attention(adapter, data)}
    if spec(text).mechanism.distilled:
        numbers |= distilled(adapter.model, data, DistillSettings(output_factor=10.0 if "window" in text else 0.0))
    adapter.model.requires_grad_(True)
    objective = objective_for(adapter.shape)
    history = train(adapter.model, data, data, TRAINING, seed=0, precision=CPU, objective=objective)
    numbers |= {**trained(adapter, history, data), **decoded(adapter)}
    save_converted(adapter.model, folder / "out", base=folder / "base", context_length=16, provenance={})
    return numbers | {"outputs as loaded again": outputs(loaded(model_type, folder / "out"), data)}


def distilled_in_blocks(model_type: str, text: str, folder: Path) -> Numbers:
    """A pretrained model whose maps are distilled a layer at a time."""
    adapter = swapped_in(model_type, text, folder / "base")
    settings = DistillSettings(block_layers=1)
    freeze_all_but_maps(adapter.model, settings)
    data = examples(adapter.shape)
    result = BlockwiseDistillation(
        adapter.model, data, data, TRAINING, settings, seed=0, precision=CPU, folder=folder / "blocks"
    ).run()
    assert result.history is not None
    assert result.after is not None
    divergences = {"divergence as swapped": flat(result.before), "divergence as distilled": flat(result.after)}
    return {**divergences, **trained(adapter, result.history, data)}


def low_rank(model_type: str, text: str, folder: Path) -> Numbers:
    """A pretrained model with low-rank adapters, trained and merged."""
    adapter = swapped_in(model_type, text, folder / "base")
    lora = add_lora(adapter.model, LoraSettings(rank=2, alpha=4), seed=0)
    data = examples(adapter.shape)
    objective = objective_for(adapter.shape)
    history = train(adapter.model, data, data, TRAINING, seed=0, precision=CPU, objective=objective)
    lora.merge_and_unload(safe_merge=True)
    return trained(adapter, history, data)


def swapped_in(model_type: str, text: str, folder: Path) -> ModelAdapter[PretrainedModel]:
    """A tiny checkpoint of numpy's random weights, loaded, in float64, with the attention of `text`."""
    model = tiny_model(model_type)
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.from_numpy(0.2 * draw.standard_normal(value.shape) + ("norm" in name.lower())))
    model.save_pretrained(folder)
    if model_type != "vit":
        tiny_tokenizer(model_type).save(str(folder / "tokenizer.json"))
    adapter = loaded(model_type, folder)
    adapter.swap_in(spec(text), seed=0)
    return adapter


def loaded(model_type: str, folder: Path) -> ModelAdapter[PretrainedModel]:
    """The model in a folder, in float64 and without dropout."""
    backbone = pretrained(f"hf:{folder}", model_type, Checkpoint("", "", folder=str(folder)))
    shape = shape_of(model_type)
    adapter = build_pretrained(folder, backbone, SETTINGS, shape, mechanisms().get, seed=0, precision=CPU)
    adapter.model.double()
    for part in adapter.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return adapter


def distilled(model: AttentionModel, data: Examples, settings: DistillSettings) -> Numbers:
    """Divergence before and after some steps of distillation, and its losses."""
    freeze_all_but_maps(model, settings)
    objective = AttentionDistillation(model, settings)
    before = divergence_of_batches(objective, data, TRAINING, CPU)
    history = train(model, data, data, TRAINING, seed=0, precision=CPU, objective=objective)
    after = divergence_of_batches(objective, data, TRAINING, CPU)
    return {
        "divergence as swapped": flat(before),
        "divergence as distilled": flat(after),
        "distillation losses": [point.value for point in history.curves],
    }


def examples(shape: ModelShape) -> Examples:
    """Eight rows: tokens, padded on the right for classifiers; vectors; or images."""
    draw, rows, n = np.random.default_rng(1), 8, 12
    if shape.image_size is not None:
        images = draw.standard_normal((rows, shape.channels, shape.image_size, shape.image_size))
        return Examples(images, draw.integers(0, shape.num_classes or 2, rows, dtype=np.int32))
    if shape.input_dim is not None:
        return Examples(draw.standard_normal((rows, n, shape.input_dim)), draw.standard_normal((rows, n)))
    size = (rows, n) if shape.towers == 1 else (rows, shape.towers, n)
    tokens = draw.integers(0, shape.vocab_size or 2, size, dtype=np.int32)
    if shape.num_classes is None:
        return Examples(tokens, np.roll(tokens, -1, axis=1))
    mask = np.arange(n) < draw.integers(4, n + 1, (*size[:-1], 1))
    return Examples(tokens, draw.integers(0, shape.num_classes, rows, dtype=np.int32), mask)


def trained(adapter: ModelAdapter[Any], history: History, data: Examples) -> Numbers:
    """Losses of a training, and what came of it."""
    squares = sum(float(value.detach().square().sum()) for value in adapter.model.parameters())
    return {
        "losses": [point.value for point in history.curves if point.name == "loss"],
        "sum of squared weights": [squares],
        "outputs as trained": outputs(adapter, data),
    }


def outputs(adapter: ModelAdapter[Any], data: Examples) -> list[float]:
    """Some of the outputs over the first two rows."""
    inputs = torch.as_tensor(data.inputs[:2])
    mask = None if data.attention_mask is None else torch.as_tensor(data.attention_mask[:2])
    if inputs.is_floating_point():
        call = adapter.class_logits if adapter.shape.image_size else adapter.sequence_outputs
        return flat(call(inputs)[:, -3:])
    if Capability.LANGUAGE_MODEL in adapter.capabilities:
        return flat(adapter.logits(inputs.long())[:, -2:, :4])
    return flat(adapter.class_logits(inputs.long(), mask))


def decoded(adapter: ModelAdapter[Any]) -> Numbers:
    """What a decoder gives token by token, generates, and scores; nothing of an encoder."""
    if Capability.LANGUAGE_MODEL not in adapter.capabilities:
        return {}
    draw = np.random.default_rng(2)
    vocab = min(11, adapter.shape.vocab_size or 11)
    prompts = torch.as_tensor(draw.integers(0, vocab, (2, 7)))
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, :3] = False
    logits, state = adapter.prefill(prompts, mask)
    numbers = {"prefill": flat(logits[:, :4]), "state bytes": [float(adapter.state_bytes(1, 16))]}
    for step in range(2):
        logits, state = adapter.decode(prompts[:, step], state)
        numbers[f"token {step} decoded"] = flat(logits[:, :4])
    numbers["greedy tokens"] = flat(adapter.generate(prompts, mask, max_new_tokens=4))
    sampled = adapter.generate(prompts, mask, max_new_tokens=4, temperature=1.0, top_k=6, top_p=0.9, seed=1)
    numbers["sampled tokens"] = flat(sampled)
    requests = [([1, 2, 3], [4]), ([1, 2, 3], [5]), ([3, 1], [2, 6, 1])]
    numbers["log-likelihoods"] = [score.loglikelihood_nats for score in adapter.loglikelihood(requests, batch_size=2)]
    stream = draw.integers(0, vocab, 24).tolist()
    numbers["rolling log-likelihoods"] = flat(adapter.rolling_loglikelihood(stream, prefix_token=0, stride=5)[-8:])
    return numbers


def attention(adapter: ModelAdapter[Any], data: Examples) -> Numbers:
    """The second layer's weights, softmax's and the teacher's, for the last queries of one row."""
    layers: list[AttentionMaps] = []
    inputs = torch.as_tensor(data.inputs[:1])
    adapter.compare_attention(inputs if inputs.is_floating_point() else inputs.long(), lambda _, m: layers.append(m))
    named = {"attention": layers[-1].weights, "softmax attention": layers[-1].softmax, "teacher": layers[-1].teacher}
    return {name: flat(weights[:, 0, -1]) for name, weights in named.items() if weights is not None}


def flat(values: Tensor | np.ndarray[Any, Any]) -> list[float]:
    """All values, one after another."""
    array = values.detach().numpy() if isinstance(values, Tensor) else values
    return [float(value) for value in array.ravel()]


_VECTORS = replace(SHAPES["gpt"], vocab_size=None, input_dim=5)
_TOWERS = replace(SHAPES["encoder"], towers=2)

PATHS: Mapping[str, Callable[[Path], Numbers]] = {
    **{
        f"{backbone} from scratch, {text}": partial(from_scratch, backbone, text)
        for backbone, texts in {
            "gpt": ("softmax", "elu", "hedgehog:map=exp", "hedgehog:window=4", "performer"),
            "encoder": ("elu", "hedgehog:map=exp"),
            "vit": ("softmax",),
        }.items()
        for text in texts
    },
    "gpt with rope and a short convolution, softmax": partial(from_scratch, "gpt", "softmax", rope=True, short_conv=3),
    "gpt with grouped queries, hedgehog:map=exp": partial(from_scratch, "gpt", "hedgehog:map=exp", kv_heads=1),
    "gpt of vectors, hedgehog:map=exp": partial(from_scratch, "gpt", "hedgehog:map=exp", shape=_VECTORS),
    "encoder of two towers, elu": partial(from_scratch, "encoder", "elu", shape=_TOWERS, head_width=8),
    **{
        f"{kind} converted, {text}": partial(converted, kind, text)
        for kind, texts in {
            "gpt2": ("softmax", "elu"),
            "llama": ("hedgehog:map=exp", "hedgehog:window=4"),
            "bert": ("hedgehog:map=exp",),
            "vit": ("elu",),
        }.items()
        for text in texts
    },
    **{
        f"{kind} from scratch converted, hedgehog:map=exp": partial(scratch_converted, kind, "hedgehog:map=exp")
        for kind in ("gpt", "vit")
    },
    "encoder of two towers converted, t2r_hh": partial(scratch_converted, "encoder", "t2r_hh", shape=_TOWERS),
    **{
        f"{kind} distilled in blocks": partial(distilled_in_blocks, kind, "hedgehog:map=exp")
        for kind in ("llama", "bert")
    },
    **{f"{kind} with low-rank adapters": partial(low_rank, kind, "hedgehog:map=exp") for kind in ("gpt2", "bert")},
}
"""Each path by name; it gets an empty folder."""


def numbers_of(path: str, folder: Path) -> Numbers:
    """The numbers of one path, as they are now."""
    with one_thread_of_float64():
        return PATHS[path](folder)
