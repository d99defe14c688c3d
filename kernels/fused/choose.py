"""Picks what runs linear attention with its map inside: a fused form on CUDA, the torch forms elsewhere."""

from collections.abc import Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

from ...results.names import unknown_name
from ..choice import KernelChoice, LinearAttentionResult
from ..state import LinearState
from .decode_op import fused_decode
from .op import fused_forward
from .tensors import PROGRAMS, Options, Tensors
from .torch_forms import torch_attention

FORMS = ("auto", "fused_chunk", "chunk")
BACKENDS = ("auto", "triton", "torch")
MAX_WIDTH = 256
"""Columns of W, dimensions of heads and of values, and log features that the kernels take at most; plain features that
are at hand may be any number."""

NARROW = 128
"""Sides of a map's matrix, and columns of values, that Hopper's shared memory has room for where operands are of four
bytes, and sides of two such matrices at once in bfloat16, by what the compiler says."""

DECODED_TOKENS = 8
"""Up to so many tokens after a state are decoded one by one rather than in chunks."""

DECODED_BY_TRITON = KernelChoice("fused_recurrent", "triton")
"""What runs where the decode kernel does."""

_HAS_TRITON = find_spec("triton") is not None

_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def fused_attention(
    given: Tensors, options: Options, *, return_state: bool = False, backend: str = "auto"
) -> LinearAttentionResult:
    """Gives attention by the form and the backend asked for, or by the best there is.

    Raises:
        ValueError: an unknown form or backend, or `backend="triton"` where the kernels cannot run.
    """
    if options.form not in FORMS:
        raise unknown_name("form", options.form, FORMS)
    fuses = chooses_triton(given, backend, log_space=options.log_space)
    with torch.autocast(given.q.device.type, enabled=False):
        if not fuses:
            output, state = _by_torch(given, options)
            return LinearAttentionResult(
                output, _contiguous(state) if return_state else None, KernelChoice("chunk", "torch")
            )
        if _decodes(given, options):
            return _decode(given, options, return_state)
        return _attend(given, options, return_state)


def needs_operator(given: Tensors, log_space: bool) -> bool:
    """Tells whether a call on a CPU is being compiled that looks at values: as an operator it stays in one graph."""
    return log_space and given.q.device.type == "cpu" and torch.compiler.is_compiling()


def _by_torch(given: Tensors, options: Options) -> tuple[Tensor, LinearState]:
    """Runs the torch forms; under torch.compile as an operator, as they look at values that a graph does not know."""
    if not torch.compiler.is_compiling() or given.q.device.type != "cpu":
        return torch_attention(given, options)
    output, _, kv, keys, scale = fused_forward(*given, *options)
    return output, LinearState(kv, keys, scale if options.log_space else None)


def _contiguous(state: LinearState) -> LinearState:
    """Gives a state that a step may change in place; the torch forms give views of sums that have one more column."""
    scale = None if state.log_scale is None else state.log_scale.contiguous()
    return LinearState(state.kv.contiguous(), state.k.contiguous(), scale)


def chooses_triton(given: Tensors, backend: str, *, log_space: bool = False, decoding: bool = False) -> bool:
    """Tells whether the kernels run a call: where it may have them and they take it.

    Raises:
        ValueError: an unknown backend, or `backend="triton"` where the kernels cannot run.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    obstacle = "" if backend == "torch" else why_not_fused(given, log_space=log_space, decoding=decoding)
    if backend == "triton" and obstacle:
        raise ValueError(f"the Triton kernels cannot run this call: {obstacle}; choose backend 'auto' or 'torch'")
    return backend != "torch" and not obstacle


def why_not_fused(given: Tensors, *, log_space: bool = False, decoding: bool = False) -> str:
    """Gives why the kernels cannot run a call, or nothing where they can; decoding fills no shared memory."""
    return "; ".join(_obstacles(given, log_space, decoding))


def _obstacles(given: Tensors, log_space: bool, decoding: bool) -> Iterator[str]:
    """Nothing is searched for or written unless it holds: every call and every decoded token asks."""
    q, k, v = given[:3]
    widest = v.shape[-1]
    if given.q_weight is not None:
        widest = max(widest, q.shape[-1], given.q_weight.shape[-1])
    elif log_space:
        widest = max(widest, q.shape[-1])
    if q.device.type != "cuda":
        yield f"tensors are on {q.device.type}, the kernels run on cuda"
    if not _HAS_TRITON:
        yield "triton is not installed"
    if q.dtype not in _TYPES:
        yield f"{q.dtype} is none of the types they take"
    elif given.sums_dtype == torch.float64:
        yield "the state before these tokens is float64, they sum in float32"
    if q.shape[2] != k.shape[2]:
        yield f"{q.shape[2]} queries and {k.shape[2]} keys, where they take as many of each"
    if q.shape[2] == 0 or q.shape[0] == 0:
        yield "there are no tokens"
    if widest > MAX_WIDTH:
        yield f"head, value or feature dimensions above {MAX_WIDTH}"
    if not decoding and _overfull(given):
        yield f"values or a map's sides above {NARROW} of {q.dtype}, whose products take four bytes"


def choose_form(given: Tensors, causal: bool) -> str:
    """Gives "fused_chunk" where one program for each head and sequence fills a Hopper GPU, else "chunk".

    What no single program can hold is left to "chunk": sums of more than `MAX_WIDTH` features, two maps above `NARROW`.
    """
    if _wide(given) or _large_map(given):
        return "chunk"
    sequences = given.q.shape[0] if given.cu_seqlens is None else given.cu_seqlens.shape[0] - 1
    tiles = -(-given.v.shape[-1] // 64)
    return "fused_chunk" if causal and sequences * given.q.shape[1] * tiles >= PROGRAMS else "chunk"


def _attend(given: Tensors, options: Options, return_state: bool) -> LinearAttentionResult:
    form = choose_form(given, options.causal) if options.form == "auto" else options.form
    if form == "fused_chunk" and not options.causal:
        raise ValueError("the form 'fused_chunk' is causal; choose 'chunk' or 'auto'")
    if form == "fused_chunk" and _wide(given):
        raise ValueError(f"the form 'fused_chunk' holds up to {MAX_WIDTH} features, got {given.q.shape[-1]}; "
                         "choose 'chunk' or 'auto'")  # fmt: skip
    if form == "fused_chunk" and _large_map(given):
        raise ValueError(f"the form 'fused_chunk' holds maps of up to {NARROW} rows or columns, got "
                         f"{given.q.shape[-1]} by {_columns(given)}; choose 'chunk' or 'auto'")  # fmt: skip
    output, _, kv, keys, scale = fused_forward(*given, *options._replace(form=form))
    state = LinearState(kv, keys, scale if options.log_space else None) if return_state else None
    return LinearAttentionResult(output, state, KernelChoice(form, "triton"))


def _wide(given: Tensors) -> bool:
    return given.q_weight is None and given.q.shape[-1] > MAX_WIDTH


def _columns(given: Tensors) -> int:
    return given.q.shape[-1] if given.q_weight is None else given.q_weight.shape[-1]


def _large_map(given: Tensors) -> bool:
    return given.q_weight is not None and min(given.q.shape[-1], _columns(given)) > NARROW


def _overfull(given: Tensors) -> bool:
    """Tells whether matrices are too large for operands of four bytes: W, or the sums of features and values."""
    if given.q.dtype == torch.bfloat16:
        return False
    rows = 0 if given.q_weight is None else max(given.q.shape[-1], _columns(given))
    return max(rows, given.v.shape[-1]) > NARROW


def _decodes(given: Tensors, options: Options) -> bool:
    wanted = any(x is not None and x.requires_grad for x in given[:9]) and torch.is_grad_enabled()
    plain = given.initial_kv is not None and given.mask is None and given.cu_seqlens is None and not _wide(given)
    return plain and options.causal and options.form == "auto" and given.q.shape[2] <= DECODED_TOKENS and not wanted


def _decode(given: Tensors, options: Options, return_state: bool) -> LinearAttentionResult:
    chosen = (options.feature_map, options.negate, options.log_space, options.normalize, options.eps)
    output, kv, keys, scale = fused_decode(*given[:10], *chosen)
    state = LinearState(kv, keys, scale if options.log_space else None) if return_state else None
    return LinearAttentionResult(output, state, DECODED_BY_TRITON)
