"""Attention through maps: the same whether all tokens are mapped first or each chunk's as it is attended."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hedgebench.kernels.chunk.attention import linear_attention_chunk
from hedgebench.kernels.dispatch import linear_attention
from hedgebench.kernels.mapped import mapped_linear_attention
from hedgebench.kernels.maps.feature_map import FeatureMap
from hedgebench.kernels.maps.fixed import CosformerMap, EluMap
from hedgebench.kernels.maps.learned import HedgehogMap, T2RMap, TaylorMap

from .other_process import OtherProcess

B, H, HK, N, D, DV = 2, 4, 2, 300, 4, 3
MAPS: dict[str, tuple[type[FeatureMap], dict[str, Any]]] = {
    "elu": (EluMap, {}),
    "cosformer": (CosformerMap, {"length": 400}),
    "t2r": (T2RMap, {}),
    "taylor": (TaylorMap, {"feature_dim": 3}),
    "hedgehog": (HedgehogMap, {}),
    "hedgehog_softmax": (HedgehogMap, {"map": "softmax"}),
    "hedgehog_bias": (HedgehogMap, {"map": "exp_max", "bias": True, "feature_dim": 6}),
}


def make_maps(name: str) -> tuple[FeatureMap, FeatureMap]:
    kind, options = MAPS[name]
    query_map = kind(H, D, role="query", **options).double()
    return query_map, kind(HK, D, role="key", **options).double()


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the most elements that any tensor made here had."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.numel())
        return made


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"q": (H, D), "k": (HK, D), "v": (HK, DV)}
    return {
        name: torch.randn(B, heads, N, size, generator=generator, dtype=torch.float64, requires_grad=True)
        for name, (heads, size) in sizes.items()
    }


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", MAPS)
def test_mapping_by_chunk_equals_the_naive_form_on_mapped_tokens(
    name: str, causal: bool, tensors: dict[str, Tensor]
) -> None:
    query_map, key_map = make_maps(name)
    positions = torch.stack([torch.arange(N), torch.arange(N) + 17])
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[1, :40] = False
    options: dict[str, Any] = {"causal": causal, "key_padding_mask": mask}
    q, k, v = tensors.values()
    result = mapped_linear_attention(q, k, v, query_map, key_map, positions=positions, **options)
    assert (result.kernel.form, result.kernel.backend) == ("chunk", "torch")
    features = query_map(q, positions), key_map(k, positions)
    naive = linear_attention(*features, v, form="naive", log_space=query_map.log_space, **options)
    torch.testing.assert_close(result.output, naive.output, rtol=1e-9, atol=1e-11)
    leaves = [*tensors.values(), *query_map.parameters(), *key_map.parameters()]
    cotangent = torch.randn(result.output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, reference in zip(
        torch.autograd.grad(result.output, leaves, cotangent, allow_unused=True),
        torch.autograd.grad(naive.output, leaves, cotangent, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("form", ["naive", "chunk"])
@pytest.mark.parametrize("name", ["t2r", "hedgehog", "hedgehog_softmax", "hedgehog_bias"])
def test_padded_keys_that_are_not_numbers_reach_no_gradient(name: str, form: str, tensors: dict[str, Tensor]) -> None:
    maps = make_maps(name)
    q, k, v = (x[:, :, :40].detach() for x in tensors.values())
    mask = torch.arange(40) >= torch.tensor([[13], [0]])
    found = []
    for filling in (1.0, torch.nan):
        keys, values = (x.masked_fill(~mask[:, None, :, None], filling) for x in (k, v))
        options: dict[str, Any] = {"causal": True, "key_padding_mask": mask, "return_state": form == "chunk"}
        result = mapped_linear_attention(q, keys, values, *maps, **options)
        assert maps[0].log_space or result.kernel.form == form
        parameters = [*maps[0].parameters(), *maps[1].parameters()]
        found.append([result.output, *torch.autograd.grad(result.output.sin().sum(), parameters)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", ["naive", "chunk"])
@pytest.mark.parametrize("name", ["elu", "hedgehog", "hedgehog_bias", "taylor"])
def test_without_gradients_padded_keys_that_are_not_numbers_reach_no_output(
    name: str, form: str, tensors: dict[str, Tensor]
) -> None:
    maps = make_maps(name)
    q, k, v = (x[:, :, :40].detach() for x in tensors.values())
    mask = torch.arange(40) >= torch.tensor([[13], [0]])
    options: dict[str, Any] = {"causal": True, "key_padding_mask": mask, "return_state": form == "chunk"}
    found = []
    for filling in (1.0, torch.nan):
        keys, values = (x.masked_fill(~mask[:, None, :, None], filling) for x in (k, v))
        with torch.no_grad():
            result = mapped_linear_attention(q, keys, values, *maps, **options)
        assert maps[0].log_space or result.kernel.form == form
        found.append([result.output, *([result.state.kv, result.state.k] if result.state else [])])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("feature_dim", [None, 3])
def test_scores_of_few_tokens_need_no_features(
    causal: bool, masked: bool, normalize: bool, feature_dim: int | None, tensors: dict[str, Tensor]
) -> None:
    maps = TaylorMap(H, D, role="query", feature_dim=feature_dim), TaylorMap(HK, D, role="key", feature_dim=feature_dim)
    query_map, key_map = maps[0].double(), maps[1].double()
    few = query_map.feature_dim - 1
    mask = torch.arange(few) < torch.tensor([[few], [few - 3]]) if masked else None
    q, k, v = (tensors[name][:, :, :few] for name in "qkv")
    options: dict[str, Any] = {"causal": causal, "key_padding_mask": mask, "normalize": normalize}
    inputs = (*tensors.values(), *query_map.parameters(), *key_map.parameters())
    with Largest() as largest:  # type: ignore[no-untyped-call]
        result = mapped_linear_attention(q, k, v, query_map, key_map, **options)
    assert largest.elements < B * H * few * query_map.feature_dim
    expected = linear_attention(query_map(q), key_map(k), v, form="naive", **options).output
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        (result.output, *torch.autograd.grad((result.output * weights).sum(), inputs)),
        (expected, *torch.autograd.grad((expected * weights).sum(), inputs)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    assert result.kernel.form == "naive"


def test_a_map_made_from_another_has_the_scores_of_its_own_features(tensors: dict[str, Tensor]) -> None:
    class Shifted(TaylorMap):
        def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
            return super().forward(x, positions) + 1

    q, k, v = (tensors[name][:, :, :5] for name in "qkv")
    query_map, key_map = Shifted(H, D).double(), Shifted(HK, D, role="key").double()
    found = mapped_linear_attention(q, k, v, query_map, key_map, causal=True).output
    torch.testing.assert_close(found, linear_attention(query_map(q), key_map(k), v, causal=True, form="naive").output)


@pytest.mark.parametrize("n", [1, 2, 127, 128, 129, 300])
@pytest.mark.parametrize("stateful", [False, True])
def test_any_number_of_tokens_and_a_state(n: int, stateful: bool, tensors: dict[str, Tensor]) -> None:
    query_map, key_map = make_maps("hedgehog_softmax")
    q, k, v = (x[:, :, :n] for x in tensors.values())
    _, state = linear_attention_chunk(query_map(q), key_map(k), v, causal=True)
    options: dict[str, Any] = {"causal": True, "initial_state": state if stateful else None}
    result = mapped_linear_attention(q, k, v, query_map, key_map, return_state=True, **options)
    output, after = linear_attention_chunk(query_map(q), key_map(k), v, **options)
    torch.testing.assert_close(result.output, output, rtol=1e-11, atol=1e-12)
    assert result.state is not None
    torch.testing.assert_close(result.state.kv, after.kv, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(result.state.k, after.k, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_features_of_all_tokens_never_exist_at_once(causal: bool) -> None:
    n, heads, d = 2048, 2, 16
    q, k, v = (torch.randn(1, heads, n, d) for _ in range(3))
    maps = [TaylorMap(heads, d, role=role) for role in ("query", "key")]
    with Largest() as largest:  # type: ignore[no-untyped-call]
        mapped_linear_attention(q, k, v, maps[0], maps[1], causal=causal)
    assert largest.elements < n * heads * maps[0].feature_dim / 4


def test_under_autocast_maps_run_as_they_do_alone(tensors: dict[str, Tensor]) -> None:
    query_map, key_map = (feature_map.float() for feature_map in make_maps("t2r"))
    q, k, v = (x.detach().float() for x in tensors.values())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = mapped_linear_attention(q, k, v, query_map, key_map, causal=True)
        features = query_map(q), key_map(k)
    assert features[0].dtype == torch.bfloat16
    expected, _ = linear_attention_chunk(*features, v, causal=True)
    assert torch.equal(result.output, expected)


_COMPILED = """
import torch
from hedgebench.kernels.maps.fixed import EluMap, PerformerMap
from hedgebench.kernels.maps.learned import HedgehogMap
from hedgebench.kernels.mapped import mapped_linear_attention
for kind in (HedgehogMap, PerformerMap, EluMap):
    leaves = [torch.randn(1, 2, 150, 8, requires_grad=True) for _ in range(3)]
    maps = [kind(2, 8, role=role) for role in ("query", "key")]
    def attend(q, k, v):
        return mapped_linear_attention(q, k, v, *maps, causal=True).output
    outputs = torch.compile(attend, fullgraph=True, backend="aot_eager")(*leaves), attend(*leaves)
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(output.square().sum(), leaves) for output in outputs]
    for compiled, eager in zip(*gradients):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)
"""


def test_compiling_leaves_one_graph_and_the_same_numbers(unchecked: OtherProcess) -> None:
    unchecked.run(_COMPILED)
