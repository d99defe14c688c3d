"""Gradients of linear attention chunk by chunk in scratch memory, from the last chunk to the first.

Weights are made once more. With A = tril(queries·keysᵀ), the sums S before a chunk and dR the gradient of its rows:

    dA = tril(dR·Vᵀ)    dV = Aᵀ·dR + keys·dS'    d queries = dA·keys + dR·Sᵀ    d keys = dAᵀ·queries + V·dS'ᵀ
    dS = dS' + queriesᵀ·dR    where S' = S + keysᵀ·V

In log space gradients of logarithms are those of the weights times the weights: the shifts cancel.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from . import log_space
from .chunk_forward import Trace
from .chunk_weights import add_product, key_weights, less_shift, product, query_weights, scores_within
from .chunked_call import ChunkedCall
from .log_space import HEADROOM
from .sums import Carry, output_from_rows
from .token_maps import ReversibleMap


@dataclass(frozen=True)
class ChunkGradients:
    """Gradients, each of the size of what it belongs to; those of parameters are added to what is there."""

    q: Float[Tensor, "b h n d"]
    k: Float[Tensor, "b hk m d"]
    v: Float[Tensor, "b hk m dv"]
    sums: Float[Tensor, "b hk f dv1"]
    parameters: tuple[list[Tensor], list[Tensor]]

    @classmethod
    def of(cls, call: ChunkedCall, last: Float[Tensor, "b hk f dv1"]) -> "ChunkGradients":
        """Makes room for the gradients of a call, given that of the sums after the last key."""
        first, second = ([torch.zeros_like(x, dtype=last.dtype) for x in of.parameters] for of in call.maps)
        q, k, v = (torch.empty_like(x) for x in (call.q, call.k, call.v))
        return cls(q, k, v, last.clone(memory_format=torch.contiguous_format), (first, second))


def differentiate_by_chunk(
    call: ChunkedCall,
    maxima: Float[Tensor, "b hk f"],
    trace: Trace,
    output: Float[Tensor, "b h n dv"],
    grad: Float[Tensor, "b h n dv"],
    found: ChunkGradients,
) -> None:
    """Writes all gradients.

    Args:
        call: what was given.
        maxima: of the logarithms of the keys before these, in log space.
        trace: of the forward pass.
        output: of the forward pass.
        grad: of the output.
        found: to be written; `sums` has the gradient of the sums after the last key, and then that of those before.
    """
    back = _Back(call, trace, output, grad, found)
    step = back.attend if call.options.causal else back.read
    for chunk, at in reversed(list(enumerate(call.query_runs()))):
        step(at, chunk)
    for at in call.earlier_runs():
        back.absorb(at)
    if call.options.log_space:
        found.sums.mul_((maxima[..., None] - trace.shift[0].mT).exp_())


class _Back:
    def __init__(self, call: ChunkedCall, trace: Trace, output: Tensor, grad: Tensor, found: ChunkGradients) -> None:
        self._call = call
        self._trace = trace
        self._output = output
        self._grad = grad
        self._found = found
        query_map, key_map = call.maps
        assert isinstance(query_map, ReversibleMap)
        assert isinstance(key_map, ReversibleMap)
        self._query_map, self._key_map = query_map, key_map

    def attend(self, at: slice, chunk: int) -> None:
        """Goes back through a chunk that attended to itself and to the keys before it."""
        call, sums, shift = self._call, self._found.sums, self._shift(chunk)
        tokens = call.keys_of(at)
        if shift is None:
            keys = key_weights(call, tokens, None)
        else:
            keys = less_shift(call, call.keys(tokens), shift)
            if bool(keys.amax() > HEADROOM[keys.dtype]):
                self._attend_spilled(at, chunk, shift)
                return
            keys.exp_()
            sums.mul_(self._trace.decay[chunk])
        queries, _ = query_weights(call, at, shift)
        values, rows = call.values(tokens), self._rows(at)
        scores = scores_within(call, queries, keys)
        of_values = product(scores.mT, rows, call.scratch("value gradients", *values.shape))
        self._to_values(tokens, add_product(of_values, keys, sums))
        scores = scores_within(call, rows, values)
        of_keys = product(scores.mT, queries, call.scratch("gradients", *keys.shape))
        self._to_keys(tokens, self._of_features(add_product(of_keys, values, sums.mT), keys), keys)
        add_product(sums, queries.mT, rows)
        of_queries = product(scores, keys, call.scratch("gradients", *queries.shape))
        add_product(of_queries, rows, self._trace.sums[chunk].mT)
        self._to_queries(at, self._of_features(of_queries, queries), queries)

    def read(self, at: slice, chunk: int) -> None:
        """Goes back through queries that read the sums of all keys."""
        del chunk
        queries, _ = query_weights(self._call, at, self._shift(0))
        rows = self._rows(at)
        of_queries = product(rows, self._trace.sums[0].mT, self._call.scratch("gradients", *queries.shape))
        self._to_queries(at, self._of_features(of_queries, queries), queries)
        add_product(self._found.sums, queries.mT, rows)

    def absorb(self, at: slice) -> None:
        """Goes back through keys that all queries saw."""
        call, sums = self._call, self._found.sums
        keys, values = key_weights(call, at, self._shift(0)), call.values(at)
        self._to_values(at, product(keys, sums, call.scratch("value gradients", *values.shape)))
        of_keys = product(values, sums.mT, call.scratch("gradients", *keys.shape))
        self._to_keys(at, self._of_features(of_keys, keys), keys)

    def _shift(self, chunk: int) -> Tensor | None:
        return self._trace.shift[chunk] if self._call.options.log_space else None

    def _rows(self, at: slice) -> Float[Tensor, "b hk gc dv1"]:
        """Gives the gradient of the sums of queries, numerators and denominator."""
        call, output = self._call, self._output[:, :, at]
        batch, heads, size, dim = output.shape
        rows = call.scratch("rows", batch, call.k.shape[1], call.groups * size, dim + 1)
        numerators, denominators = torch.split(call.by_query_head(rows), [dim, 1], -1)
        torch.mul(self._grad[:, :, at], self._trace.factors[:, :, at], out=numerators)
        if call.options.normalize:
            products = torch.mul(numerators, output, out=call.scratch("products", batch, heads, size, dim))
            torch.sum(products, -1, keepdim=True, out=denominators).neg_()
        else:
            denominators.zero_()
        return rows

    def _attend_spilled(self, at: slice, chunk: int, shift: Tensor) -> None:
        """Goes back through a chunk whose keys tower above the shift, by autograd."""
        call, options, tokens = self._call, self._call.options, self._call.keys_of(at)
        given = (call.by_kv_head(call.queries(at)), call.keys(tokens), call.values(tokens), self._trace.sums[chunk])
        queries, keys, values, sums = (x.detach().requires_grad_() for x in given)
        with torch.enable_grad():
            rows, after = log_space.causal_step(queries, keys, values, Carry(sums, shift.squeeze(-2)))
            output = output_from_rows(rows, normalize=options.normalize, eps=options.eps, log_space=True)
        grads = (call.by_kv_head(self._grad[:, :, at]).to(output.dtype), self._found.sums)
        found = torch.autograd.grad((output, after.sums), (queries, keys, values, sums), grads)
        self._to_queries(at, found[0], queries)
        self._to_keys(tokens, found[1], keys)
        self._to_values(tokens, found[2])
        self._found.sums.copy_(found[3])

    def _to_queries(self, at: slice, grad: Float[Tensor, "b hk gc f"], weights: Tensor) -> None:
        """Goes on from the gradient of features, or of their logarithms, to what the queries' map took."""
        call = self._call
        features, grad = call.by_query_head(weights), call.by_query_head(grad)
        totals = self._found.parameters[0]
        found = self._query_map.gradients(call.q[:, :, at], features, grad, totals, call.scratch)
        self._found.q[:, :, at].copy_(found)

    def _to_keys(self, at: slice, grad: Float[Tensor, "b hk c f"], weights: Tensor) -> None:
        """Goes on from the gradient of features, or of their logarithms, to what the keys' map took."""
        call, totals = self._call, self._found.parameters[1]
        found = self._key_map.gradients(call.k[:, :, at], weights, grad, totals, call.scratch)
        self._found.k[:, :, at].copy_(found)

    def _of_features(self, grad: Tensor, weights: Tensor) -> Tensor:
        """Gives the gradient of features, or of their logarithms, from that of the weights, which it changes."""
        return grad.mul_(weights) if self._call.options.log_space else grad

    def _to_values(self, at: slice, grad: Float[Tensor, "b hk c dv1"]) -> None:
        grad = grad[..., :-1]
        self._found.v[:, :, at].copy_(grad if self._call.mask is None else grad.masked_fill(self._call.padding(at), 0))
