"""Operators of torch.library: one frozen value for their arguments, their gradients, and the memory of their results.

torch.library passes an operator's arguments one by one and takes tensors back, none of which may share memory with an
argument or with another result.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache, wraps
from operator import attrgetter
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ..state import LinearState

Size = Any
"""An int, or a `torch.SymInt` while torch traces shapes."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of an operator as one value.

    The positional fields of a subclass, in order, are the operator's parameters. Keyword-only fields are not passed to
    the operator.
    """

    __match_args__: ClassVar[tuple[str, ...]]
    DIFFERENTIABLE: ClassVar[tuple[str, ...]]
    """Names of the tensors that get gradients."""

    def flatten(self) -> tuple[Any, ...]:
        """The operator's arguments, in order; the class builds an equal value from them."""
        values: tuple[Any, ...] = _getter(self.__match_args__)(self)
        return values

    def differentiable(self) -> dict[str, Tensor]:
        """The tensors that get gradients, by name."""
        given = zip(self.DIFFERENTIABLE, _getter(self.DIFFERENTIABLE)(self), strict=True)
        return {name: tensor for name, tensor in given if tensor is not None}

    @classmethod
    def in_order(cls, arguments: Sequence[Any], gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """The gradient of each argument, or None, in the order of `flatten`.

        Args:
            arguments: what `flatten` gives.
            gradients: gradients of the tensors in `differentiable`, in that order.
        """
        given = dict(zip(cls.__match_args__, arguments, strict=True))
        named = dict(zip((name for name in cls.DIFFERENTIABLE if given[name] is not None), gradients, strict=True))
        return tuple(map(named.get, cls.__match_args__))


@cache
def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*names)


A = TypeVar("A", bound=Arguments)
R = TypeVar("R")


def flat(function: Callable[..., R]) -> Callable[..., R]:
    """Decorates a function whose last parameter is an `Arguments`, so that it takes the fields one by one."""
    signature = inspect.signature(function)
    *leading, last = signature.parameters.values()
    own = [field for field in fields(last.annotation) if not field.kw_only]

    @wraps(function)
    def flattened(*args: Any) -> R:
        first = len(args) - len(own)
        return function(*args[:first], **{last.name: last.annotation(*args[first:])})

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    spread = [inspect.Parameter(field.name, kind, annotation=field.type) for field in own]
    plain = [each for each in leading if each.kind is kind]
    setattr(flattened, "__signature__", signature.replace(parameters=[*plain, *spread]))  # noqa: B010
    return flattened


def differentiate(
    forward: Any, backward: Any, value: type[Arguments], *, kept: Sequence[int], outputs: Sequence[int]
) -> None:
    """Registers one operator as the backward pass of another, and the fake kernel of the backward pass.

    Args:
        forward: takes the fields of `value`, returns several tensors.
        backward: takes the gradients of the differentiable outputs, of all but the first None if nothing reads them,
            the kept outputs, and the fields of `value`; returns the gradients of the tensors in
            `Arguments.differentiable`.
        value: class of the arguments.
        kept: positions of the outputs that the backward pass needs, the first output among them.
        outputs: positions of the differentiable outputs.
    """

    def save(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
        given = (x if isinstance(x, Tensor) else None for x in inputs)
        ctx.save_for_backward(*(output[index] for index in kept), *given)
        ctx.set_materialize_grads(False)
        ctx.others = tuple(None if isinstance(x, Tensor) else x for x in inputs)
        ctx.mark_non_differentiable(*(x for index, x in enumerate(output) if index not in outputs))

    def gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        output, *others = (grads[index] for index in outputs)
        if output is None:
            output = torch.zeros_like(saved[0])
        pairs = zip(saved[len(kept) :], ctx.others, strict=True)
        arguments = tuple(other if tensor is None else tensor for tensor, other in pairs)
        found = backward(output, *others, *saved[: len(kept)], *arguments)
        return value.in_order(arguments, found)

    def shapes(*inputs: Any) -> list[Tensor]:
        call = value(*inputs[-len(value.__match_args__) :])
        return [torch.empty_like(tensor) for tensor in call.differentiable().values()]

    forward.register_autograd(gradients, setup_context=save)
    backward.register_fake(shapes)


def listened_to(tensors: Iterable[Tensor]) -> bool:
    """Whether something wants to see an operator's call: a compiler, a mode, a transform, a tensor of its own class.

    Of nothing but plain tensors on CUDA and no listeners, a call may pass by torch's dispatcher, which takes the host
    as long as several launches.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state():
        return True
    plain = all(type(x) in _PLAIN and x.is_cuda for x in tensors)
    return not plain or torch._C._are_functorch_transforms_active()


_PLAIN = (Tensor, torch.nn.Parameter)


def gradients_by_torch(
    form: Callable[[A], tuple[Tensor, ...]], call: A, grads: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """The gradients of a call by name, by autograd through a repeated forward pass in plain torch.

    Args:
        form: computes the outputs of a call.
        call: the call.
        grads: gradients of the outputs, None of those that have none.
    """

    def run() -> dict[str, Tensor]:
        leaves: dict[str, Any] = {name: x.detach().requires_grad_() for name, x in call.differentiable().items()}
        computed = zip(form(replace(call, **leaves)), grads, strict=True)
        outputs, given = zip(*((x, grad.to(x.dtype)) for x, grad in computed if grad is not None), strict=True)
        found = torch.autograd.grad(outputs, list(leaves.values()), given, materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    # Inside an operator autograd records nothing on this thread, whatever the grad mode; it does on a new thread.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


def laid_out(call: Arguments, gradients: Mapping[str, Tensor], *others: Tensor | None) -> list[Tensor]:
    """The gradients of a call with the types, strides and memory that torch.library requires.

    Types and strides are those of `torch.empty_like` of their tensors, as the fake kernel declares. No gradient shares
    memory with an input or another gradient.

    Args:
        call: the call.
        gradients: gradients of all its differentiable tensors, by name.
        *others: further inputs of the operator; None for those that were not given.
    """
    taken = {_memory(x) for x in (*others, *call.flatten()) if isinstance(x, Tensor)}
    found: list[Tensor] = []
    for name, tensor in call.differentiable().items():
        gradient, like = gradients[name], torch.empty_like(tensor)
        as_promised = gradient.stride() == like.stride() and gradient.dtype == like.dtype
        found.append(gradient if as_promised and _memory(gradient) not in taken else like.copy_(gradient))
        taken.add(_memory(found[-1]))
    return found


def _memory(tensor: Tensor) -> int:
    """An identifier of a tensor's memory, equal for all its views; torch's own check compares the same one."""
    return int(tensor.untyped_storage()._cdata)


def state_tensors(state: LinearState) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors `kv`, `k` and `log_scale` of a state; an empty tensor for a log_scale of None."""
    return state.kv, state.k, state.k.new_empty(0) if state.log_scale is None else state.log_scale


def own_state(state: LinearState, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Contiguous copies in `dtype` of the results of `state_tensors`."""
    kv, keys, scale = (x.to(dtype, copy=True, memory_format=torch.contiguous_format) for x in state_tensors(state))
    return kv, keys, scale


def state_shapes(keys: Tensor, values: Size, log_space: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised tensors `kv`, `k` and `log_scale` of a state whose `k` is `keys` [b hk f]."""
    return keys.new_empty(*keys.shape, values), keys, torch.empty_like(keys) if log_space else keys.new_empty(0)


def empty_by_token(like: Tensor, batch: Size, heads: Size, tokens: Size, size: Size) -> Tensor:
    """An uninitialised tensor [b h n size] with tokens before heads in memory, as the kernels write outputs."""
    strides = (tokens * heads * size, size, heads * size, 1)
    return like.new_empty_strided((batch, heads, tokens, size), strides)


def placed(output: Tensor) -> Tensor:
    """A copy of the output [b h n dv] with tokens before heads in memory."""
    return empty_by_token(output, *output.shape).copy_(output)


def rows_contiguous(tensor: Tensor) -> Tensor:
    """The tensor, or a copy, with a contiguous last dimension, as the kernels read it."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
