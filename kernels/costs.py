"""Analytic costs of a forward pass of each form of attention: matrix FLOPs, memory traffic, state. Needs no torch.

FLOPs are those of matrix products, 2 for a multiplication and an addition, as torch's FlopCounterMode counts them;
exponentials, masks and divisions are left out. Bytes assume that inputs are read once and outputs written once. Forms
that hold all scores also write and read the scores; the others write and read their state once per step.
"""

from dataclasses import dataclass

from ..results.names import unknown_name

FUSED_SOFTMAX = ("sdpa_flash", "sdpa_efficient", "sdpa_cudnn")
"""Backends of softmax attention that skip scores hidden by causality and write no scores to memory."""


@dataclass(frozen=True)
class Cost:
    """Cost of one call.

    Attributes:
        flops: floating-point operations in matrix products.
        bytes: memory traffic both ways.
        state_bytes: size of the decode state: the sums of linear attention, or the KV cache; 0 if not counted.
    """

    flops: int
    bytes: int
    state_bytes: int = 0

    def seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The roofline time in seconds: that of the computation or that of the memory traffic, whichever is longer."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)

    def __add__(self, other: "Cost") -> "Cost":
        """The cost of one call after another."""
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.state_bytes + other.state_bytes)


def linear_attention_cost(
    form: str,
    *,
    b: int,
    h: int,
    hk: int,
    n: int,
    f: int,
    dv: int,
    chunk: int = 128,
    bytes_per_element: int = 4,
    causal: bool = True,
    log_space: bool = False,
    features_in_cache: bool = False,
) -> Cost:
    """Counts linear attention over n tokens whose features are given; `feature_map_cost` counts the maps.

    Args:
        form: "naive", "recurrent" or "chunk".
        b: sequences in the batch.
        h: query heads.
        hk: kv heads.
        n: tokens, as many queries as keys.
        f: features.
        dv: size of a value.
        chunk: tokens in a chunk.
        bytes_per_element: bytes of an element of features, values and output; sums take 4 bytes, or 8 if this is 8.
        causal: a query sees the keys up to its own; otherwise all keys.
        log_space: the state also holds a maximum per feature.
        features_in_cache: maps are applied chunk by chunk, so features never reach memory.

    Raises:
        ValueError: an unknown form.
    """
    if form not in _STEP_TOKENS:
        raise unknown_name("form", form, _STEP_TOKENS)
    element = max(4, bytes_per_element)
    traffic = b * n * (h + hk) * ((0 if features_in_cache else f) + dv) * bytes_per_element
    if form == "naive":
        scores = b * h * n * n
        return Cost(2 * scores * (f + dv), traffic + 2 * scores * element)
    state_bytes = linear_state_bytes(b=b, hk=hk, f=f, dv=dv, bytes_per_element=element, log_space=log_space)
    through_state = 2 * b * n * f * (dv + 1) * (h + hk)
    if not causal:
        return Cost(through_state, traffic + 2 * state_bytes, state_bytes)
    size = _STEP_TOKENS[form] or chunk
    whole, rest = divmod(n, size)
    steps = whole + (rest > 0)
    # A chunk of one token is added to the state before its query reads the state, so only longer chunks have scores.
    pairs = 0 if form == "recurrent" else whole * size**2 + rest**2
    within = 2 * b * h * pairs * (f + dv + 1)
    return Cost(through_state + within, traffic + 2 * steps * state_bytes, state_bytes)


def linear_state_bytes(*, b: int, hk: int, f: int, dv: int, bytes_per_element: int = 4, log_space: bool = False) -> int:
    """Counts the bytes of `LinearState`: f·dv for the values, f for the normaliser, f for the maxima of log space."""
    return b * hk * f * (dv + 1 + log_space) * bytes_per_element


def feature_map_cost(
    *,
    b: int,
    heads: int,
    n: int,
    d: int,
    width: int,
    f: int,
    bytes_per_element: int = 4,
    features_in_cache: bool = False,
) -> Cost:
    """Counts a map that multiplies n vectors of each head by a [d, width] matrix and gives f features.

    For Hedgehog width is d and f is 2d; a map without a matrix has width 0. With `features_in_cache` no feature is
    written to memory.
    """
    tokens = b * heads * n
    numbers = tokens * d + heads * d * width + (0 if features_in_cache else tokens * f)
    return Cost(2 * tokens * d * width, numbers * bytes_per_element)


def softmax_attention_cost(
    *,
    b: int,
    h: int,
    hk: int,
    n: int,
    d: int,
    dv: int,
    causal: bool = True,
    bytes_per_element: int = 4,
    fused: bool = True,
) -> Cost:
    """Counts softmax attention over n tokens: 2·b·h·n²·(d + dv) FLOPs, half of them when fused and causal.

    Without fusion, scores hidden by causality are computed too, and n² scores and n² weights of each head are written
    and read, in 4 bytes at least. The state is the KV cache.
    """
    flops = 2 * b * h * n * n * (d + dv) // (2 if causal and fused else 1)
    token, moved = b * (d + dv) * bytes_per_element, 0 if fused else 2 * b * h * n * n * max(4, bytes_per_element)
    return Cost(flops, n * (h + hk) * token + 2 * moved, n * hk * token)


def softmax_decode_cost(*, b: int, h: int, hk: int, m: int, d: int, dv: int, bytes_per_element: int = 4) -> Cost:
    """Counts one decoded token of softmax attention that sees m keys, its own included; its KV cache holds m tokens."""
    token = b * (d + dv) * bytes_per_element
    return Cost(2 * b * h * m * (d + dv), (h + hk) * token + hk * m * token, hk * m * token)


def softmax_cost(*, decodes: bool, tokens: int, backend: str, causal: bool, **sizes: int) -> Cost:
    """Counts a decoded token that sees so many, or a pass over them, as the backend computes it."""
    if decodes:
        return softmax_decode_cost(m=tokens, **sizes)
    return softmax_attention_cost(n=tokens, causal=causal, fused=backend in FUSED_SOFTMAX, **sizes)


_STEP_TOKENS = {"naive": 0, "recurrent": 1, "chunk": 0}
"""Forms, and the tokens between two passes of the state through memory; 0 stands for none or for the chunk size."""
