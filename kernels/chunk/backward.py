"""Gradients of linear attention chunk by chunk in reused buffers, from the last chunk to the first.

Features and weights are computed again. With A = tril(queries·keysᵀ), S the sums before a chunk and dR the gradient of
its rows of sums:

    dA = tril(dR·Vᵀ)    dV = Aᵀ·dR + keys·dS'    d queries = dA·keys + dR·Sᵀ    d keys = dAᵀ·queries + V·dS'ᵀ
    dS = dS' + queriesᵀ·dR    where S' = S + keysᵀ·V

In log space the gradient of a log feature is that of its weight times the weight, as the shifts cancel.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..linear.memory import Memory
from ..linear.spaces import SPACES, Tokens, causal_scores, causal_shift, key_weights, towers
from ..linear.spill import query_weights
from ..linear.sums import Carry
from .call import ChunkedCall
from .steps import TokenReader


class Trace(NamedTuple):
    """The results of the forward pass that the gradients need.

    Attributes:
        output: [b h n dv].
        factors: [bh n 1], the factor by which each row's numerators became outputs.
        carries: sums before each chunk of queries, and after the last key; in a call that is not causal all are equal.
    """

    output: Tensor
    factors: Tensor
    carries: list[Carry]


def differentiate_by_chunk(
    call: ChunkedCall,
    first: Carry,
    trace: Trace,
    grad: Float[Tensor, "b h n dv"],
    grad_sums: Float[Tensor, "r f dv1"],
) -> tuple[Tensor, ...]:
    """The gradients of q, k, v, the sums before these keys, and the parameters of both maps.

    Args:
        call: the call; both maps are reversible.
        first: sums before these keys.
        trace: results of the forward pass.
        grad: gradient of the output.
        grad_sums: gradient of the sums after the last key.
    """
    back = _Back(call, trace, grad, grad_sums)
    for chunk, at in reversed(list(enumerate(call.query_runs(call.chunk_size)))):
        if call.causal:
            back.attend(at, trace.carries[chunk], trace.carries[chunk + 1])
        else:
            back.read(at, trace.carries[0])
    for at in call.shared_runs(call.chunk_size):
        back.absorb(at)
    if call.log_space:
        back.sums.mul_((first.log_scale - back.shift).exp_().mT)
    (q, query_parameters), (k, key_parameters) = back.reader.query_map.gradients(), back.reader.key_map.gradients()
    return q, k, back.of_values, back.sums, *query_parameters, *key_parameters


class _Back:
    """The backward pass: gradients of all chunks that it has passed, from the last chunk on.

    Attributes:
        sums: [r f dv1], gradient of the sums before the chunk passed last.
        shift: [r 1 f], the shift of that chunk's keys in log space.
        of_values: [b hk m dv], gradient of the values, with their strides.
        reader: reads the tokens; its maps hold the gradients of queries and keys.
    """

    def __init__(self, call: ChunkedCall, trace: Trace, grad: Tensor, grad_sums: Tensor) -> None:
        self._call = call
        self._factors = trace.factors
        self._output = trace.output.flatten(0, 1)
        self._grad = grad.flatten(0, 1)
        self._memory = Memory(grad_sums)
        self.sums = grad_sums.clone(memory_format=torch.contiguous_format)
        self.shift = trace.carries[0].log_scale
        self.of_values = torch.empty_like(call.v)
        self.reader = TokenReader(call, self.sums.dtype, self._memory)

    def attend(self, at: slice, before: Carry, after: Carry) -> None:
        """Goes back through a chunk that attended to itself and to the keys before it."""
        reader, memory, sums, own = self.reader, self._memory, self.sums, self._call.keys_of(at)
        keys = reader.keys(own)
        if self._call.log_space:
            self.shift, _ = causal_shift(keys, before)
            height = after.log_scale - self.shift
            if towers(height):
                self._attend_spilled(at, (reader.queries(at), keys, reader.values(own), before.sums))
                return
            keys = key_weights(keys, self.shift, memory)
            sums.mul_(height.neg_().exp_().mT)
        queries, values, rows = self._query_weights(at), reader.values(own), self._rows(at)
        of_values = torch.bmm(
            causal_scores(queries, keys, memory).mT,
            rows[..., :-1],
            out=self._memory("of_values", *values[..., :-1].shape),
        )
        self._to_values(own, of_values.baddbmm_(keys, sums[..., :-1]))
        scores = causal_scores(rows, values, memory)
        of_keys = torch.bmm(scores.mT, queries, out=memory("of_keys", *keys.shape))
        self._to_keys(own, of_keys.baddbmm_(values, sums.mT), keys)
        sums.baddbmm_(queries.mT, rows)
        of_queries = torch.bmm(scores, keys, out=self._memory("of_queries", *queries.shape))
        self._to_queries(at, of_queries.baddbmm_(rows, before.sums.mT), queries)

    def read(self, at: slice, carry: Carry) -> None:
        """Goes back through queries that read the sums of all keys."""
        queries, rows = self._query_weights(at), self._rows(at)
        self.sums.baddbmm_(queries.mT, rows)
        of_queries = torch.bmm(rows, carry.sums.mT, out=self._memory("of_queries", *queries.shape))
        self._to_queries(at, of_queries, queries)

    def absorb(self, at: slice) -> None:
        """Goes back through keys that all queries saw."""
        keys, values = self._key_weights(at), self.reader.values(at)
        self._to_values(
            at, torch.bmm(keys, self.sums[..., :-1], out=self._memory("of_values", *values[..., :-1].shape))
        )
        self._to_keys(at, torch.bmm(values, self.sums.mT, out=self._memory("of_keys", *keys.shape)), keys)

    def _attend_spilled(self, at: slice, given: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """Goes back through a chunk whose log features exceed `HEADROOM`, by autograd."""
        own, leaves = self._call.keys_of(at), [x.detach().requires_grad_() for x in given]
        tokens = Tokens(lambda: leaves[0], lambda: leaves[1], lambda: leaves[2])
        with torch.enable_grad():
            rows, after = SPACES[True].causal_step(tokens, Carry(leaves[3], self.shift))
            output = self._call.division.output(rows)
        grad = self._grad[:, at].reshape(output.shape).to(output.dtype)
        queries, keys, values, sums = torch.autograd.grad((output, after.sums), leaves, (grad, self.sums))
        self.reader.query_map.reverse(at, given[0], self._by_query_head(queries))
        self.reader.key_map.reverse(own, given[1], keys)
        self._to_values(own, values[..., :-1])
        self.sums.copy_(sums)

    def _query_weights(self, at: slice) -> Float[Tensor, "r gc f"]:
        queries = self.reader.queries(at)
        return query_weights(queries, self.shift, self._memory)[0] if self._call.log_space else queries

    def _key_weights(self, at: slice) -> Float[Tensor, "r c f"]:
        keys = self.reader.keys(at)
        return key_weights(keys, self.shift, self._memory) if self._call.log_space else keys

    def _rows(self, at: slice) -> Float[Tensor, "r gc dv1"]:
        """The gradient of the sums that queries see, numerators and denominator."""
        output = self._output[:, at]
        heads, tokens, columns = output.shape
        rows, numerators, denominators = self._memory.parts("rows", heads, tokens, columns + 1)
        torch.mul(self._grad[:, at], self._factors[:, at], out=numerators)
        if self._call.normalize:
            products = torch.mul(numerators, output, out=self._memory("products", heads, tokens, columns))
            torch.sum(products, -1, keepdim=True, out=denominators).neg_()
        else:
            denominators.zero_()
        return rows.view(self.sums.shape[0], -1, columns + 1)

    def _to_queries(self, at: slice, grad: Float[Tensor, "r gc f"], weights: Float[Tensor, "r gc f"]) -> None:
        of_features = self._by_query_head(self._of_features(grad, weights))
        self.reader.query_map.reverse(at, self._by_query_head(weights), of_features)

    def _to_keys(self, at: slice, grad: Float[Tensor, "r c f"], weights: Float[Tensor, "r c f"]) -> None:
        self.reader.key_map.reverse(at, weights, self._of_features(grad, weights))

    def _of_features(self, grad: Tensor, weights: Tensor) -> Tensor:
        """The gradient of features, or of their logarithms, computed in place of the gradient of the weights."""
        return grad.mul_(weights) if self._call.log_space else grad

    def _to_values(self, at: slice, grad: Float[Tensor, "r c dv"]) -> None:
        self.of_values[:, :, at] = self.reader.hide(grad, at).view(*self.of_values.shape[:2], *grad.shape[1:])

    def _by_query_head(self, x: Float[Tensor, "r gc f"]) -> Float[Tensor, "bh c f"]:
        return x if len(x) == len(self._grad) else x.reshape(len(self._grad), -1, x.shape[2])
