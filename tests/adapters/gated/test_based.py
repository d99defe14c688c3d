"""Based: kinds of layers in turns."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from hedgebench.adapters.attention.linear import LinearAttention
from hedgebench.adapters.attention.softmax import SoftmaxAttention
from hedgebench.adapters.base import Capability
from hedgebench.adapters.gated.based import GatedConvolution
from hedgebench.adapters.model_adapter import ModelAdapter
from hedgebench.adapters.scratch.transformer import SelfAttention, Transformer
from hedgebench.kernels.maps.learned import TaylorMap
from hedgebench.results.record import KernelUse


def test_layers_convolve_attend_linearly_and_in_a_window_in_turns(
    build: Callable[..., ModelAdapter[Transformer]],
) -> None:
    adapter = build("based:window=5", layers=7)
    parts = [block.attention for block in adapter.model.blocks]
    kinds = [type(part.core if isinstance(part, SelfAttention) else part) for part in parts]
    assert kinds[:5] == [GatedConvolution, LinearAttention, SoftmaxAttention, GatedConvolution, GatedConvolution]
    assert kinds[5:] == kinds[:2]
    linear, window = adapter.model.cores[0], adapter.model.cores[1]
    assert isinstance(linear, LinearAttention)
    assert isinstance(linear.query_map, TaylorMap)
    assert linear.query_map.width == 16
    assert isinstance(window, SoftmaxAttention)
    assert window.window == 5
    assert Capability.ATTENTION_WEIGHTS not in adapter.capabilities
    adapter.logits(torch.zeros(1, 3, dtype=torch.long))
    assert KernelUse("forward", "convolution", "torch") in adapter.kernels_used()


def test_a_convolution_is_gated_and_goes_on_from_its_last_inputs() -> None:
    torch.manual_seed(0)
    layer, x = GatedConvolution(4).double(), torch.randn(2, 9, 4, dtype=torch.float64)
    past, gate = layer.enter(x).chunk(2, -1)
    expected = layer.output(F.silu(past) * gate)
    out, _ = layer(x, None, None, decodes=False)
    torch.testing.assert_close(out, expected)  # it starts as the identity
    torch.nn.init.normal_(layer.convolution.weight)
    whole, _ = layer(x, None, None, decodes=False)
    first, state = layer(x[:, :4], None, None, decodes=True)
    then, state = layer(x[:, 4:], None, state, decodes=True)
    torch.testing.assert_close(torch.cat([first, then], 1), whole)
    assert state.bytes == 2 * 2 * 8 * 8
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, :3] = False
    torch.testing.assert_close(
        layer(x, mask, None, decodes=False)[0][:, 3:], layer(x[:, 3:], None, None, decodes=False)[0]
    )
