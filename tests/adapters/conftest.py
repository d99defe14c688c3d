"""Tiny models of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from hedgebench.adapters.attention.position import ShortConvolution
from hedgebench.adapters.backbone import BACKBONES
from hedgebench.adapters.base import ModelShape, Value
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.scratch.build import build_scratch
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms

Build = Callable[..., ModelAdapter[Transformer]]

SHAPES = {
    "gpt": ModelShape(context_length=16, vocab_size=11),
    "encoder": ModelShape(context_length=16, vocab_size=11, num_classes=3),
    "vit": ModelShape(context_length=1, num_classes=3, image_size=8, channels=2),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors here are too small to share out; threads that wait for a busy core only cost time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def build() -> Build:
    """Builds a model of two layers with two heads of 8, as its adapter."""

    def build(
        spec: str = "softmax",
        backbone: str = "gpt",
        *,
        shape: ModelShape | None = None,
        seed: int = 0,
        dtype: str = "float32",
        **size: Value,
    ) -> ModelAdapter[Transformer]:
        sizes: dict[str, Value] = {**BACKBONES[backbone].sizes["smoke"], "width": 16, "mlp_width": 32, **size}
        model = parse_spec(spec, mechanisms().get)
        precision = Precision.of("cpu", dtype)
        adapter = build_scratch(model, BACKBONES[backbone], sizes, shape or SHAPES[backbone], seed, precision)
        for part in adapter.model.modules():
            if isinstance(part, ShortConvolution):  # at its start it is the identity, and would hide what it mixes up
                torch.nn.init.normal_(part.weight, std=0.5, generator=torch.Generator().manual_seed(seed))
        return adapter

    return build


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three rows of nine token ids below 11."""
    return torch.randint(0, 11, (3, 9), generator=torch.Generator().manual_seed(0))
