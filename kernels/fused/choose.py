"""Chooses how linear attention with its map inside runs: in a fused form on CUDA, in plain torch elsewhere."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from ...results.names import unknown_name
from ..choice import KernelChoice, LinearAttentionResult
from ..state import LinearState
from ..triton.backend import MAX_WIDTH, NARROW, chooses_triton, obstacles
from .call import Call, settled
from .op import attend, fused_decode
from .torch_forms import torch_attention

FORMS = ("auto", "fused_chunk", "chunk")

DECODED_TOKENS = 8
"""Largest number of tokens after a state that are decoded one by one rather than in chunks."""

DECODED_BY_TRITON = KernelChoice("fused_recurrent", "triton")
"""Form and backend of a call that the decode kernel runs."""


def fused_attention(call: Call, *, return_state: bool = False, backend: str = "auto") -> LinearAttentionResult:
    """Runs attention in the form and on the backend of the call, or in the fastest if these are "auto".

    Plain torch runs the form "chunk", whatever the call's form.

    Raises:
        ValueError: an unknown form or backend, the form "fused_chunk" for a call that it does not support, or
            `backend="triton"` where the kernels cannot run.
    """
    if call.form not in FORMS:
        raise unknown_name("form", call.form, FORMS)
    fuses = chooses_triton(backend, lambda: why_not_fused(call))
    if fuses or compiled_on_cpu(call):
        return _by_operator(call, return_state, fuses)
    with without_autocast(call.q.device.type):
        output, state = torch_attention(call)
    return LinearAttentionResult(output, _contiguous(state) if return_state else None, KernelChoice("chunk", "torch"))


def fused_if_possible(call: Call, *, return_state: bool = False) -> LinearAttentionResult | None:
    """Runs attention in a fused form; returns None if the kernels cannot run the call.

    A call in log space that is compiled on a CPU runs as an operator too: its steps depend on values, so torch.compile
    cannot trace them.
    """
    fuses = not why_not_fused(call)
    if not fuses and not (call.log_space and compiled_on_cpu(call)):
        return None
    return _by_operator(call, return_state, fuses)


def why_not_fused(call: Call, *, decoding: bool = False) -> str:
    """The reasons why the kernels cannot run a call, or ""; the limits of shared memory do not hold for decoding."""
    return _why_not(call)[decoding]


@settled
def _why_not(call: Call) -> tuple[str, str]:
    """The reasons outside decoding, and in it."""
    return "; ".join(_obstacles(call, False)), "; ".join(_obstacles(call, True))


def choose_form(call: Call) -> str:
    """The faster form: "fused_chunk" if one segment for each sequence and head fills a Hopper GPU, else "chunk"."""
    return "fused_chunk" if call.in_one else "chunk"


def _obstacles(call: Call, decoding: bool) -> Iterator[str]:
    """The reasons one by one."""
    yield from obstacles(call.q)
    if call.initial_kv is not None and call.q.dtype != torch.float64 and call.sums_dtype == torch.float64:
        yield "the initial state is float64, but they sum in float32"
    if call.tokens != call.k.shape[2]:
        yield f"they take as many queries as keys, got {call.tokens} queries and {call.k.shape[2]} keys"
    if call.tokens == 0 or call.q.shape[0] == 0:
        yield "there are no tokens"
    sides = 0 if call.q_weight is None else max(call.dim, call.width)
    if max(call.values, sides, call.dim if call.log_space else 0) > MAX_WIDTH:
        yield f"head, value or feature dimensions above {MAX_WIDTH}"
    if not decoding and max(sides, 0 if call.wide and call.q.dtype == torch.bfloat16 else call.values) > NARROW:
        yield f"values or a map's sides above {NARROW}, whose sums do not fit into a program's registers"


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Switches autocast off; entering torch's own context takes microseconds even where it is off."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def compiled_on_cpu(call: Call) -> bool:
    """Tells whether torch.compile traces the call for a CPU."""
    return call.q.device.type == "cpu" and torch.compiler.is_compiling()


def _by_operator(call: Call, return_state: bool, fuses: bool) -> LinearAttentionResult:
    """Runs the call as an operator of torch.library: in the kernels or, on a CPU, in plain torch."""
    with without_autocast(call.q.device.type):
        if fuses and _decodes(call):
            output, kv, keys, scale = fused_decode(*call.flatten())
            kernel = DECODED_BY_TRITON
        else:
            kernel = KernelChoice(_checked_form(call) if fuses else "chunk", "triton" if fuses else "torch")
            output, kv, keys, scale = attend(call)
    final = LinearState(kv, keys, scale if call.log_space else None)
    return LinearAttentionResult(output, final if return_state else None, kernel)


def _contiguous(state: LinearState) -> LinearState:
    """The state in contiguous memory, as steps in place need it; the torch forms give views of wider sums."""
    scale = None if state.log_scale is None else state.log_scale.contiguous()
    return LinearState(state.kv.contiguous(), state.k.contiguous(), scale)


@settled
def _checked_form(call: Call) -> str:
    """The form of the call, or the faster one if it is "auto".

    Raises:
        ValueError: the form "fused_chunk" does not support the call.
    """
    obstacle = "; ".join(_why_not_one_pass(call)) if call.form == "fused_chunk" else ""
    if obstacle:
        raise ValueError(f"the form 'fused_chunk' {obstacle}; choose 'chunk' or 'auto'")
    return choose_form(call)


def _why_not_one_pass(call: Call) -> Iterator[str]:
    """The reasons why the form "fused_chunk" cannot run a call, as predicates of the form."""
    if not call.causal:
        yield "is causal, got causal=False"


def _decodes(call: Call) -> bool:
    if call.initial_kv is None or call.mask is not None or call.cu_seqlens is not None or not call.causal:
        return False
    few = bool(call.tokens <= DECODED_TOKENS) and call.width <= MAX_WIDTH and call.form == "auto"
    return few and not (torch.is_grad_enabled() and any(x.requires_grad for x in call.differentiable().values()))
