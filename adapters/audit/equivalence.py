"""Whether a model gives the same outputs on every path that reads its inputs, and holds the state that it claims.

A decoder reads tokens as a whole, in chunks, one at a time, with padding on either side, and alone or in a batch.
Scores use all of these paths: log-likelihoods read whole rows or continue a shared context, generation pads on the left
and decodes. A path with an error of its own gives numbers of another model, so all are compared before one is scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base import Capability, DecodeState, UnsupportedError
from ..model_adapter import ModelAdapter
from .state_size import measured_size

Model: TypeAlias = ModelAdapter[Any]
Outputs: TypeAlias = Float[Tensor, "b n v"]
Compared: TypeAlias = Iterator[tuple[str, Tensor, Tensor]]
"""Name of a path, its outputs, and those of the whole sequence for the same tokens."""

TOLERANCES: Mapping[torch.dtype, float] = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest difference by the type of matrix products, relative to the spread of the outputs."""
ROUNDINGS, DRAWS = 5.0, 4
"""A model that is sensitive to rounding is held to so many times its largest movement when the outputs of all layers
are rounded, in so many draws."""
TOKENS, LONGEST = 16, 160
"""Tokens that are compared; with a window, as many as reach past it, up to the second number."""
STRETCH = 6
"""Tokens that are decoded one by one at the start, on either side of a window's end, and after padding."""


class EquivalenceError(Exception):
    """Two paths of a model differ, or its state has another size than its formula; the message says which and by what.

    A model with such an error is not scored.
    """


@dataclass(frozen=True)
class Equivalence:
    """The outcome of a comparison.

    Attributes:
        differences: Largest difference of a token's outputs on each path from those of the whole sequence, relative to
            the spread of the outputs (their standard deviation over the vocabulary or the classes).
        tolerance: Largest difference allowed.
        tokens: Tokens compared; 0 for images.
        state_bytes: Bytes of the tensors of one row's attention states after these tokens; None without a state.
        expected_bytes: The same by formula; None without a state, and if a layer's attention has no formula here.
        notes: What was not compared, or was held to another tolerance, and why.
    """

    differences: Mapping[str, float]
    tolerance: float
    tokens: int
    state_bytes: int | None = None
    expected_bytes: int | None = None
    notes: tuple[str, ...] = ()

    def require(self) -> None:
        """Does nothing if all paths agree.

        Raises:
            EquivalenceError: A path differs, or the state has another size than its formula.
        """
        found = [
            f"the path {path!r} differs from the whole sequence by {value:.2g} of the outputs' spread; "
            f"allowed: {self.tolerance:.2g}"
            for path, value in self.differences.items()
            if value > self.tolerance or math.isinf(value)
        ]
        if self.expected_bytes is not None and self.state_bytes != self.expected_bytes:
            found.append(
                f"the decode state of one row has {self.state_bytes} bytes after {self.tokens} tokens; "
                f"by its formula it has {self.expected_bytes}"
            )
        if found:
            raise EquivalenceError(f"the model is not scored: {'; '.join(found)}")


@torch.no_grad()
def compare_paths(adapter: Model) -> Equivalence:
    """Compares the paths of a model on random inputs, which are the same in every process.

    No global random state is read or changed, and `kernels_used` of the adapter stays as it was.

    Raises:
        FloatingPointError: The model gives outputs that are not numbers.
    """
    with adapter.model.unrecorded():
        inputs, tokens, notes = _inputs(adapter)
        differences: dict[str, float] = {}
        for name, found, expected in _paths(adapter, inputs):
            differences[name] = max(differences.get(name, 0.0), _difference(found, expected))
        tolerance = TOLERANCES[adapter.precision.dtype]
        if max(differences.values(), default=0.0) > tolerance:
            moved = _moved_by_rounding(adapter, inputs)
            if ROUNDINGS * moved > tolerance:
                tolerance = ROUNDINGS * moved
                notes.append(
                    f"rounding of every layer moves the outputs by {moved:.2g} of their spread, so the paths were held "
                    f"to {tolerance:.2g}"
                )
        result = Equivalence(differences, tolerance, tokens, notes=tuple(notes))
        decodes = adapter.capabilities & {Capability.LANGUAGE_MODEL, Capability.VECTOR_SEQUENCES}
        if not decodes:
            return result
        _, state = _extend(adapter, inputs[:1], None)
        size = measured_size(adapter.model.cores, state, tokens)
        return replace(result, state_bytes=size.live, expected_bytes=size.expected, notes=(*result.notes, *size.notes))


def _inputs(adapter: Model) -> tuple[Tensor, int, list[str]]:
    """Two rows of random tokens, vectors or pixels, their length, and what they do not reach."""
    shape, generator, notes = adapter.shape, torch.Generator().manual_seed(0), list[str]()
    if shape.image_size is not None:
        pixels = torch.randn(2, shape.channels, shape.image_size, shape.image_size, generator=generator)
        return pixels.to(adapter.device), 0, notes
    window = max((getattr(core, "window", None) or 0 for core in adapter.model.cores), default=0)
    limits = (LONGEST, shape.context_length, adapter.model.last_position or LONGEST)
    length = min(max(TOKENS, window + STRETCH), *limits)
    if window >= length:
        notes.append(f"paths were compared over {length} tokens, which the window of {window} tokens holds")
    if shape.input_dim is not None:
        return torch.randn(2, length, shape.input_dim, generator=generator).to(adapter.device), length, notes
    towers = () if shape.towers == 1 else (shape.towers,)
    ids = torch.randint(_vocab_size(adapter), (2, *towers, length), generator=generator)
    return ids.to(adapter.device), length, notes


def _vocab_size(adapter: Model) -> int:
    if adapter.shape.vocab_size is not None:
        return adapter.shape.vocab_size
    return next(part.num_embeddings for part in adapter.model.modules() if isinstance(part, nn.Embedding))


def _paths(adapter: Model, inputs: Tensor) -> Compared:
    """Every path that the model has."""
    if Capability.CLASSIFIER in adapter.capabilities and adapter.shape.num_classes is not None:
        yield from _classifier_paths(adapter, inputs)
    elif Capability.VECTOR_SEQUENCES in adapter.capabilities and inputs.is_floating_point():
        whole = adapter.sequence_outputs(inputs)
        yield "batch of one", adapter.sequence_outputs(inputs[1:]), whole[1:]
        yield from _stepwise(adapter, inputs, whole)
    elif Capability.LANGUAGE_MODEL in adapter.capabilities:
        whole = adapter.logits(inputs)
        yield "batch of one", adapter.logits(inputs[1:]), whole[1:]
        if adapter.model.shares_context:
            yield from _chunked(adapter, inputs, whole)
        yield from _stepwise(adapter, inputs, whole)
        yield from _padded(adapter, inputs, whole)


def _classifier_paths(adapter: Model, inputs: Tensor) -> Compared:
    """A row in a batch, alone, and beside a longer row, which pads it on the right, where classifiers are padded.

    A head that reads the first position, as BERT's, would read padding on the left.
    """
    whole = adapter.class_logits(inputs)
    yield "batch of one", adapter.class_logits(inputs[1:]), whole[1:]
    length = inputs.shape[-1]
    if inputs.is_floating_point() or length < 2 or not _pads(adapter):
        return
    kept = length - length // 3
    padded, real = inputs.clone(), torch.ones_like(inputs, dtype=torch.bool)
    padded[1, ..., kept:], real[1, ..., kept:] = 0, False
    yield "right-padded", adapter.class_logits(padded, real)[1:], adapter.class_logits(inputs[1:, ..., :kept])


def _chunked(adapter: Model, tokens: Tensor, whole: Outputs) -> Compared:
    """Three chunks, the second of one token, read as scoring reads what follows a shared context."""
    length = tokens.shape[1]
    ends = sorted({length // 3, length // 3 + 1, length} - {0})
    state, start, found = None, 0, []
    for end in ends:
        part = tokens[:, start:end]
        everything = torch.ones_like(part, dtype=torch.bool)
        with adapter.precision.autocast():
            logits, state = adapter.model.predictions(part, everything, state, everything)
        found.append(logits.float().view(*part.shape, -1))
        start = end
    yield "chunked", torch.cat(found, dim=1), whole


def _stepwise(adapter: Model, inputs: Tensor, whole: Outputs) -> Compared:
    """One token at a time: all of them, or the first ones, and those after a prefill of the others."""
    length = inputs.shape[1]
    starts = [(1, length)] if length <= TOKENS else [(1, STRETCH), (length - 2 * STRETCH, length)]
    for start, end in starts:
        outputs, state = _extend(adapter, inputs[:, :start], None)
        yield "prefill", outputs[:, None], whole[:, start - 1 : start]
        for place in range(start, end):
            outputs, state = _extend(adapter, inputs[:, place : place + 1], state)
            yield "token by token", outputs[:, None], whole[:, place : place + 1]


def _padded(adapter: Model, tokens: Tensor, whole: Outputs) -> Compared:
    """A row that is shorter than the other: padded on the right as scoring does, and on the left as generation does."""
    length = tokens.shape[1]
    cut = min(STRETCH, length // 3)
    kept = length - cut
    if not cut:
        return
    right = tokens.clone()
    right[1, kept:] = 0
    # Padding on the right needs no mask in a causal model: no token looks there.
    yield "right-padded", adapter.logits(right)[1:, :kept], whole[1:, :kept]
    if not _pads(adapter):
        return
    real = torch.ones_like(tokens, dtype=torch.bool)
    real[1, kept:] = False
    yield "right-padded", adapter.logits(right, real)[1:, :kept], whole[1:, :kept]
    left = torch.stack([tokens[0], torch.cat([torch.zeros_like(tokens[1, :cut]), tokens[1, :kept]])])
    real = real.flip(1)
    yield "left-padded", adapter.logits(left, real)[1:, cut:], whole[1:, :kept]
    begun = length - cut
    try:
        outputs, state = adapter.prefill(left[:, :begun], real[:, :begun])
    except UnsupportedError:  # generation in batches is refused with the same reason
        return
    yield "left-padded", outputs[1:, None], whole[1:, begun - cut - 1 : begun - cut]
    for place in range(begun, length):
        outputs, state = adapter.decode(left[:, place], state)
        yield "left-padded, token by token", outputs[:1, None], whole[:1, place : place + 1]
        yield "left-padded, token by token", outputs[1:, None], whole[1:, place - cut : place - cut + 1]


def _extend(adapter: Model, inputs: Tensor, state: DecodeState | None) -> tuple[Tensor, DecodeState]:
    """The outputs after the last of `inputs` by the calls of generation; vectors have no such calls."""
    if inputs.is_floating_point():
        with adapter.precision.autocast():
            outputs, extended = adapter.model.extend(inputs, None, state)
        return outputs.float(), extended
    return adapter.prefill(inputs) if state is None else adapter.decode(inputs[:, 0], state)


def _pads(adapter: Model) -> bool:
    return all(core.takes_padding for core in adapter.model.cores)


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest norm of a token's difference, over the root mean square of the norms of the expected outputs.

    Infinite for outputs of another shape, and for outputs that are not numbers: `max` would pass over NaN.
    """
    if found.shape != expected.shape:
        return math.inf
    spread = expected - expected.mean(-1, keepdim=True) if expected.shape[-1] > 1 else expected
    error, scale = (found - expected).norm(dim=-1).max(), spread.square().sum(-1).mean().sqrt()
    relative = 0.0 if not error else float(error / scale.clamp(min=torch.finfo(torch.float32).tiny))
    return math.inf if math.isnan(relative) else relative


def _moved_by_rounding(adapter: Model, inputs: Tensor) -> float:
    """How far the outputs move if each number that a layer gives changes by a random part of its last digit."""
    last_digit = torch.finfo(adapter.precision.dtype).eps
    generator = torch.Generator().manual_seed(1)

    def rounded(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        return output * (1 + last_digit * torch.randn(output.shape, generator=generator).to(output))

    expected = _outputs(adapter, inputs)
    layers = [part for part in adapter.model.modules() if any(True for _ in part.parameters(recurse=False))]
    hooks = [layer.register_forward_hook(rounded) for layer in layers]
    try:
        return max(_difference(_outputs(adapter, inputs), expected) for _ in range(DRAWS))
    finally:
        for hook in hooks:
            hook.remove()


def _outputs(adapter: Model, inputs: Tensor) -> Tensor:
    if adapter.shape.num_classes is not None:
        return adapter.class_logits(inputs)
    return adapter.sequence_outputs(inputs) if inputs.is_floating_point() else adapter.logits(inputs)
