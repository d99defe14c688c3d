"""Token mixers in the place of whole attention layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hedgebench.adapters.attention.core import LayerMixer, build_layer
from hedgebench.adapters.attention.mixers import GridMixer
from hedgebench.adapters.base import Capability, UnsupportedError
from hedgebench.adapters.mechanisms.declaration import AttentionShape
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.scratch.transformer import Transformer
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.results.record import KernelUse

Build = Callable[..., ModelAdapter[Transformer]]

WIDTH, ROWS, COLUMNS = 16, 3, 4
NAMES = ("pool", "mlp", "raft", "strip", "shift", "glu")
EACH = pytest.mark.parametrize("name", NAMES)


def mixer_of(spec: str, grid: tuple[int, int] | None = (ROWS, COLUMNS), length: int = 6) -> GridMixer:
    shape = AttentionShape(2, 2, 8, length, width=WIDTH, grid=grid)
    model = parse_spec(spec, mechanisms().get)
    torch.manual_seed(0)
    built = build_layer(model.mechanism, model.options, shape)
    assert isinstance(built, GridMixer)
    return built


def picture(seed: int = 0) -> Tensor:
    """A class token and patches, in float64."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1 + ROWS * COLUMNS, WIDTH, dtype=torch.float64, generator=draw)


def reach(name: str) -> Tensor:
    """[rows columns] whether a change of the patch in the middle of the second row changes each patch's output."""
    mixer, x = mixer_of(name).double(), picture()
    before = mixer(x, None, None, decodes=False)[0]
    x[:, 1 + COLUMNS + 1] += 1.0
    after = mixer(x, None, None, decodes=False)[0]
    changed: Tensor = (after - before)[0, 1:].abs().amax(-1) > 1e-12
    return changed.reshape(ROWS, COLUMNS)


def test_each_mixer_reaches_the_patches_of_its_paper() -> None:
    near = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    near[0:3, 0:3] = True
    alone = torch.zeros_like(near)
    alone[1, 1] = True
    everywhere = torch.ones_like(near)
    for name in ("mlp", "raft", "strip"):
        assert torch.equal(reach(name), everywhere), name
    assert torch.equal(reach("pool"), near)
    assert torch.equal(reach("glu"), alone)
    assert reach("shift")[1].all()
    assert reach("shift")[:, 1].all()


def test_pooling_is_the_mean_over_neighbours_minus_the_patch() -> None:
    x = picture()
    out, _ = mixer_of("pool")(x, None, None, decodes=False)
    image = torch.unflatten(x[:, 1:], 1, (ROWS, COLUMNS))
    corner = image[:, :2, :2].mean((1, 2)) - image[:, 0, 0]
    middle = image[:, 0:3, 1:4].mean((1, 2)) - image[:, 1, 2]
    torch.testing.assert_close(out[:, 1], corner)
    torch.testing.assert_close(out[:, 1 + COLUMNS + 2], middle)
    torch.testing.assert_close(out[:, 0], out[:, 1:].mean(1))


def test_the_mixers_mlp_is_the_same_for_each_channel() -> None:
    mixer, x = mixer_of("mlp:hidden=5").double(), picture()
    enter, leave = (part for part in mixer.modules() if isinstance(part, nn.Linear))
    expected = leave(F.gelu(enter(x[0, 1:, 3])))
    torch.testing.assert_close(mixer(x, None, None, decodes=False)[0][0, 1:, 3], expected)


def test_shift_without_convolution_moves_groups_of_channels() -> None:
    mixer, x = mixer_of("shift").double(), picture()
    for part in mixer.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                part.weight[:, 0, part.kernel_size[0] // 2, part.kernel_size[1] // 2] = 1
    image = torch.unflatten(x[:, 1:], 1, (ROWS, COLUMNS))
    out = mixer(x, None, None, decodes=False)[0][:, 1:].unflatten(1, (ROWS, COLUMNS))
    torch.testing.assert_close(out[..., 0], image[..., 0].roll(-2, 1) + image[..., 0].roll(-2, 2))
    torch.testing.assert_close(out[..., 15], image[..., 15].roll(2, 1) + image[..., 15].roll(2, 2))


@EACH
def test_padding_of_a_sequence_is_not_seen(name: str) -> None:
    mixer = mixer_of(name, grid=None).double()
    tokens = picture()[:, :6]
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    alone = mixer(tokens[:, :4], None, None, decodes=False)[0]
    padded = mixer(tokens, mask, None, decodes=False)[0][:, :4]
    torch.testing.assert_close(padded, alone)
    with pytest.raises(UnsupportedError, match="7 tokens do not fit a mixer of 6"):
        mixer(picture()[:, :7], None, None, decodes=False)


@EACH
def test_it_is_a_whole_layer_of_encoders_alone(build: Build, name: str, tokens: Tensor) -> None:
    images = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for backbone, inputs in (("vit", images), ("encoder", tokens)):
        adapter = build(name, backbone)
        assert adapter.class_logits(inputs).shape == (len(inputs), 3)
        assert not adapter.model.cores
        assert Capability.ATTENTION_WEIGHTS not in adapter.capabilities
        assert adapter.kernels_used() == (KernelUse("forward", "mixer", "torch"),)
        adapter.model.train()
        torch.autograd.backward(adapter.model(inputs).square().sum())
        assert all(p.grad is not None for p in adapter.model.parameters())
    with pytest.raises(UnsupportedError, match=f"model {name} exists only in encoders"):
        build(name)
    with pytest.raises(UnsupportedError, match="so it is trained from scratch"):
        build("softmax", "vit").swap_in(parse_spec(name, mechanisms().get), 0)


def test_a_layer_is_not_built_between_projections_and_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="raft:size=3 does not divide the width 16"):
        mixer_of("raft:size=3")
    assert issubclass(GridMixer, LayerMixer)
