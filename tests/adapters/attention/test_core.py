from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hedgebench.adapters.attention.core import AttentionCore, Heads, build_attention, kernels_of, state_bytes
from hedgebench.adapters.attention.linear import LinearAttention
from hedgebench.adapters.attention.softmax import NoAttention, SoftmaxAttention
from hedgebench.adapters.mechanisms.declaration import AttentionShape
from hedgebench.adapters.spec import parse_spec
from hedgebench.harness.registry import mechanisms
from hedgebench.kernels.choice import KernelChoice
from hedgebench.kernels.costs import linear_state_bytes, softmax_decode_cost
from hedgebench.kernels.maps.learned import HedgehogMap

from ..layer_names import OF_HEADS

VARIANTS = [
    *OF_HEADS,
    *("gla:gates=keys", "gla:gates=keys:window=3"),
    *(
        "hedgehog:map=softmax",
        "hedgehog:map=exp_max:negate=false",
        "hedgehog:map=softmax_joint:bias=true",
        "hedgehog:init=random",
    ),
    *("hedgehog:window=3", "hedgehog:window=1:map=softmax:bias=true", "hedgehog:window=5:map=exp_max"),
    *("taylor:feature_dim=3", "performer:feature_dim=5", "exp:t=2", "window:window=3", "softmax:backend=naive"),
]
EACH = pytest.mark.parametrize("spec", VARIANTS)
LENGTH = 9
RELU_LIKE = ("relu", "cosformer", "t2r", "t2r_hh")


def core_of(spec: str, *, heads: int = 4, kv_heads: int = 2, layer: int = 0, seed: int = 0) -> AttentionCore:
    model = parse_spec(spec, mechanisms().get)
    shape = AttentionShape(heads, kv_heads, head_dim=8, context_length=LENGTH, layer=layer, seed=seed)
    return build_attention(model.mechanism, model.options, shape)


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, LENGTH, 8, generator=generator)
    k, v = torch.randn(2, 2, 2, LENGTH, 8, generator=generator)
    return q, k, v


@pytest.fixture
def positions() -> Tensor:
    return torch.arange(LENGTH).expand(2, -1)


@pytest.fixture
def padded() -> Tensor:
    """A mask whose first row begins with three padded tokens."""
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[0, :3] = False
    return mask


@EACH
def test_outputs_are_the_values_under_the_weights(
    spec: str, qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor, padded: Tensor
) -> None:
    q, k, v = qkv
    core = core_of(spec)
    for causal in (True,) if parse_spec(spec, mechanisms().get).is_causal_only else (True, False):
        for mask in (None, padded):
            out = core(Heads(q, k, v, positions, mask), causal=causal)
            weights = core.weights(Heads(q, k, v, positions, mask), causal=causal)
            torch.testing.assert_close(out, weights @ v.repeat_interleave(2, dim=1), rtol=1e-4, atol=1e-5)


@EACH
def test_weights_of_a_row_sum_to_one_where_they_are_normalised_or_to_zero_where_relu_leaves_no_feature(
    spec: str, qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor, padded: Tensor
) -> None:
    q, k, _ = qkv
    core = core_of(spec)
    weights = core.weights(Heads(q, k, k, positions, padded), causal=True)
    assert weights.shape == (2, 4, LENGTH, LENGTH)
    assert not weights.triu(1).any()
    assert not weights[0, :, :, :3].any()
    if parse_spec(spec, mechanisms().get).mechanism.normalize and not isinstance(core, NoAttention):
        sums = torch.cat([weights[0, :, 3:].sum(-1), weights[1].sum(-1)], dim=1)
        silent = sums == 0
        torch.testing.assert_close(sums.masked_fill(silent, 1.0), torch.ones_like(sums))
        assert not silent.any() or spec.partition(":")[0] in RELU_LIKE
        assert silent.float().mean() < 0.1


@EACH
@pytest.mark.parametrize("pieces", [[1] * LENGTH, [4, 1, 3, 1]], ids=["one-by-one", "pieces"])
def test_extending_piece_by_piece_equals_attention_over_the_whole(
    spec: str, pieces: list[int], qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor, padded: Tensor
) -> None:
    core = core_of(spec)
    whole = core(Heads(*qkv, positions, padded), causal=True)
    state, outs, start = None, [], 0
    for size in pieces:
        part = slice(start, start + size)
        q, k, v = (x[:, :, part] for x in qkv)
        out, state = core.extend(Heads(q, k, v, positions[:, part], padded[:, part]), state)
        outs.append(out)
        start += size
    torch.testing.assert_close(torch.cat(outs, dim=2), whole, rtol=1e-4, atol=1e-5)


@EACH
def test_every_input_gets_a_finite_gradient_and_every_parameter_too(
    spec: str, qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor
) -> None:
    core = core_of(spec)
    q, k, v = (x.clone().requires_grad_() for x in qkv)
    out = core(Heads(q, k, v, positions), causal=True)
    if isinstance(core, NoAttention):
        assert not out.any()
        return
    torch.autograd.backward(out.square().sum())
    for tensor in (q, k, v, *core.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        ("softmax", []),
        ("elu", []),
        ("performer", []),
        ("taylor", []),
        ("hedgehog", [(4, 8, 8), (2, 8, 8)]),
        ("hedgehog:bias=true:feature_dim=3", [(4, 8, 3), (4, 3), (2, 8, 3), (2, 3)]),
        ("t2r", [(4, 8, 8), (4, 8), (2, 8, 8), (2, 8)]),
        ("t2r_hh:feature_dim=3", [(4, 8, 3), (4, 3), (2, 8, 3), (2, 3)]),
        ("taylor:feature_dim=3", [(4, 8, 3), (2, 8, 3)]),
    ],
)
def test_maps_have_one_set_of_weights_per_head_for_queries_and_another_for_keys(
    spec: str, shapes: list[tuple[int, ...]]
) -> None:
    assert [tuple(p.shape) for p in core_of(spec).parameters()] == shapes


def test_hedgehog_starts_at_the_identity() -> None:
    core = core_of("hedgehog")
    assert isinstance(core, LinearAttention)
    assert isinstance(core.query_map, HedgehogMap)
    assert torch.equal(core.query_map.weight, torch.eye(8).expand(4, 8, 8))


def test_tied_maps_are_one_and_need_as_many_key_heads_as_query_heads() -> None:
    core = core_of("hedgehog:tied=true", kv_heads=4)
    assert isinstance(core, LinearAttention)
    assert core.query_map is core.key_map
    assert [tuple(p.shape) for p in core.parameters()] == [(4, 8, 8)]
    with pytest.raises(ValueError, match="4 query heads and 2 key heads"):
        core_of("hedgehog:tied=true")


@pytest.mark.parametrize("spec", ["t2r", "taylor:feature_dim=3"])
def test_random_maps_differ_between_layers_seeds_queries_and_keys(spec: str) -> None:
    def weights(**where: int) -> list[Tensor]:
        return [p for p in core_of(spec, kv_heads=4, **where).parameters() if p.ndim == 3]

    query, key = weights()
    assert not torch.equal(query, key)
    assert torch.equal(weights()[0], query)
    assert not torch.equal(weights(layer=1)[0], query)
    assert not torch.equal(weights(seed=1)[0], query)


def test_performer_projects_queries_and_keys_alike() -> None:
    core = core_of("performer")
    assert torch.equal(core.get_buffer("query_map.projection"), core.get_buffer("key_map.projection"))


@pytest.mark.parametrize("backend", ["naive", "sdpa_math", "sdpa_flash", "auto"])
def test_every_softmax_backend_of_a_cpu_gives_the_same_output_and_is_named(
    backend: str, qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor
) -> None:
    expected = core_of("softmax:backend=naive")(Heads(*qkv, positions), causal=True)
    core = core_of(f"softmax:backend={backend}")
    torch.testing.assert_close(core(Heads(*qkv, positions), causal=True), expected, rtol=1e-5, atol=1e-6)
    ((phase, choice),) = kernels_of(core)
    assert phase == "train"
    assert choice.form == "softmax"
    assert choice.backend == backend or (backend == "auto" and choice.backend.startswith("sdpa_"))


def test_a_window_sees_its_last_keys_alone(qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor) -> None:
    q, k, _ = qkv
    weights = core_of("window:window=3").weights(Heads(q, k, k, positions), causal=True)
    assert not weights.tril(-3).any()
    wide = core_of(f"window:window={LENGTH}").weights(Heads(q, k, k, positions), causal=True)
    assert torch.equal(wide, core_of("softmax").weights(Heads(q, k, k, positions), causal=True))


def test_no_attention_is_zero_and_keeps_nothing(qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor) -> None:
    core = core_of("none")
    assert not core(Heads(*qkv, positions), causal=True).any()
    out, state = core.extend(Heads(*qkv, positions), None)
    assert not out.any()
    assert state is None
    assert state_bytes(state) == 0
    assert kernels_of(core) == [(phase, KernelChoice("none", "torch")) for phase in ("train", "prefill")]


@pytest.mark.parametrize(
    ("spec", "features", "log_space"),
    [("elu", 8, False), ("hedgehog", 16, True), ("taylor", 45, False), ("cosformer", 16, False), ("exp", 8, True)],
)
def test_the_state_of_linear_attention_has_the_counted_bytes_at_any_length(
    spec: str, features: int, log_space: bool, qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor
) -> None:
    core = core_of(spec)
    for n in (1, 4, LENGTH):
        q, k, v = (x[:, :, :n] for x in qkv)
        _, state = core.extend(Heads(q, k, v, positions[:, :n]), None)
        assert state_bytes(state) == linear_state_bytes(b=2, hk=2, f=features, dv=8, log_space=log_space)


def test_the_state_of_softmax_attention_has_the_counted_bytes_and_that_of_a_window_is_bounded(
    qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor
) -> None:
    for n in (1, 4, LENGTH):
        q, k, v = (x[:, :, :n] for x in qkv)
        _, state = core_of("softmax").extend(Heads(q, k, v, positions[:, :n]), None)
        assert state_bytes(state) == softmax_decode_cost(b=2, h=4, hk=2, m=n, d=8, dv=8).state_bytes
    _, state = core_of("window:window=2").extend(Heads(*qkv, positions), None)
    assert state_bytes(state) == softmax_decode_cost(b=2, h=4, hk=2, m=2, d=8, dv=8).state_bytes


def test_kernels_are_recorded_by_phase_once_in_the_order_first_seen(
    qkv: tuple[Tensor, Tensor, Tensor], positions: Tensor
) -> None:
    core = core_of("elu")
    for _ in range(2):
        core(Heads(*qkv, positions), causal=True)
        with torch.no_grad():
            core(Heads(*qkv, positions), causal=False)
            _, state = core.extend(Heads(*qkv, positions), None)
            one = [x[:, :, :1] for x in qkv]
            core.extend(Heads(one[0], one[1], one[2], positions[:, :1]), state)
    assert kernels_of(torch.nn.ModuleList([core])) == [
        ("train", KernelChoice("naive", "torch")),
        ("forward", KernelChoice("chunk", "torch")),
        ("prefill", KernelChoice("chunk", "torch")),
        ("decode", KernelChoice("recurrent", "torch")),
    ]


def test_the_window_control_is_softmax_attention_with_a_window() -> None:
    core = core_of("window")
    assert isinstance(core, SoftmaxAttention)
    assert core.window == 64
