"""Gradients of linear attention chunk by chunk in memory that is used again, from the last chunk to the first.

Weights are made once more. With A = tril(queries·keysᵀ), the sums S before a chunk and dR the gradient of its rows:

    dA = tril(dR·Vᵀ)    dV = Aᵀ·dR + keys·dS'    d queries = dA·keys + dR·Sᵀ    d keys = dAᵀ·queries + V·dS'ᵀ
    dS = dS' + queriesᵀ·dR    where S' = S + keysᵀ·V

In log space gradients of logarithms are those of the weights times the weights: the shifts cancel.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..maps.token_maps import ReversibleReader
from . import log_space
from .chunk_forward import Trace
from .chunked_call import ChunkedCall, ChunkReader
from .sums import Carry, output_from_rows


def differentiate_by_chunk(
    call: ChunkedCall,
    maxima: Float[Tensor, "b hk f"],
    trace: Trace,
    spilled: set[int],
    output: Float[Tensor, "b h n dv"],
    grad: Float[Tensor, "b h n dv"],
    grad_sums: Float[Tensor, "b hk f dv1"],
) -> tuple[Tensor, ...]:
    """Gives the gradients of q, k, v, the sums before these keys, and the parameters of both maps.

    Args:
        call: what was given; both maps are reversible.
        maxima: of the logarithms of the keys before these, in log space.
        trace: of the forward pass.
        spilled: chunks whose keys towered above the shift.
        output: of the forward pass.
        grad: of the output.
        grad_sums: of the sums after the last key.
    """
    back = _Back(call, trace, output, grad, grad_sums)
    for chunk, at in reversed(list(enumerate(call.query_runs()))):
        if not call.options.causal:
            back.read(at)
        elif chunk in spilled:
            back.attend_spilled(at, chunk)
        else:
            back.attend(at, chunk)
    for at in call.earlier_runs():
        back.absorb(at)
    if call.options.log_space:
        back.sums.mul_((maxima.flatten(0, 1)[..., None] - trace.shift[0].mT).exp_())
    (q, query_parameters), (k, key_parameters) = back.query_map.gradients(), back.key_map.gradients()
    v, sums = back.of_values.view(call.v.shape), back.sums.view(grad_sums.shape)
    return q, k, v, sums, *query_parameters, *key_parameters


class _Back:
    """Gradients of what has been gone back through.

    Attributes:
        sums: [r f dv1], of the sums before the chunk gone back through last.
        of_values: [r m dv].
        query_map: takes the gradients of queries.
        key_map: takes the gradients of keys.
    """

    def __init__(self, call: ChunkedCall, trace: Trace, output: Tensor, grad: Tensor, grad_sums: Tensor) -> None:
        self._call = call
        self._trace = trace
        self._output = output.flatten(0, 1)
        self._grad = grad.flatten(0, 1)
        self.sums = grad_sums.clone(memory_format=torch.contiguous_format).flatten(0, 1)
        self.of_values = call.v.new_empty(self.sums.shape[0], *call.v.shape[2:])
        self._reader = ChunkReader(call, self.sums)
        query_map, key_map = self._reader.query_map, self._reader.key_map
        assert isinstance(query_map, ReversibleReader)
        assert isinstance(key_map, ReversibleReader)
        self.query_map, self.key_map = query_map, key_map
        self._memory: dict[tuple[str, torch.Size], Tensor] = {}

    def attend(self, at: slice, chunk: int) -> None:
        """Goes back through a chunk that attended to itself and to the keys before it."""
        reader, sums, shift, tokens = self._reader, self.sums, self._shift(chunk), self._call.keys_of(at)
        keys = reader.key_weights(tokens, shift)
        if shift is not None:
            sums.mul_(self._trace.decay[chunk])
        queries, _ = reader.query_weights(at, shift)
        values, rows = reader.values(tokens), self._rows(at)
        of_values = self._like("values", values[..., :-1])
        torch.bmm(reader.scores(at, queries, keys).mT, rows[..., :-1], out=of_values)
        self._to_values(tokens, _add(of_values, keys, sums[..., :-1]))
        scores = reader.scores(at, rows, values)
        of_keys = torch.bmm(scores.mT, queries, out=self._like("keys", keys))
        self._to_keys(tokens, _add(of_keys, values, sums.mT), keys)
        _add(sums, queries.mT, rows)
        of_queries = torch.bmm(scores, keys, out=self._like("queries", queries))
        self._to_queries(at, _add(of_queries, rows, self._trace.sums[chunk].mT), queries)

    def attend_spilled(self, at: slice, chunk: int) -> None:
        """Goes back through a chunk whose keys tower above the shift, by autograd."""
        reader, options, tokens = self._reader, self._call.options, self._call.keys_of(at)
        keys, shift = reader.keys(tokens), self._trace.shift[chunk]
        given = (reader.queries(at), keys, reader.values(tokens), self._trace.sums[chunk])
        leaves = [x.detach()[:, None].requires_grad_() for x in given]
        with torch.enable_grad():
            rows, after = log_space.causal_step(leaves[0], leaves[1], leaves[2], Carry(leaves[3], shift))
            output = output_from_rows(rows, normalize=options.normalize, eps=options.eps, log_space=True)
        grad = reader.by_kv_head(self._grad[:, at])[:, None].to(output.dtype)
        found = torch.autograd.grad((output, after.sums), leaves, (grad, self.sums[:, None]))
        of_queries, of_keys, of_values, sums = (x.squeeze(1) for x in found)
        self.query_map.reverse(at, given[0], reader.by_query_head(of_queries))
        self.key_map.reverse(tokens, keys, of_keys)
        self._to_values(tokens, of_values[..., :-1])
        self.sums.copy_(sums)

    def read(self, at: slice) -> None:
        """Goes back through queries that read the sums of all keys."""
        queries, _ = self._reader.query_weights(at, self._shift(0))
        rows = self._rows(at)
        _add(self.sums, queries.mT, rows)
        of_queries = torch.bmm(rows, self._trace.sums[0].mT, out=self._like("queries", queries))
        self._to_queries(at, of_queries, queries)

    def absorb(self, at: slice) -> None:
        """Goes back through keys that all queries saw."""
        keys, values = self._reader.key_weights(at, self._shift(0)), self._reader.values(at)
        self._to_values(at, torch.bmm(keys, self.sums[..., :-1], out=self._like("values", values[..., :-1])))
        self._to_keys(at, torch.bmm(values, self.sums.mT, out=self._like("keys", keys)), keys)

    def _shift(self, chunk: int) -> Tensor | None:
        return self._trace.shift[chunk] if self._call.options.log_space else None

    def _rows(self, at: slice) -> Float[Tensor, "r gc dv1"]:
        """Gives the gradient of the sums of queries, numerators and denominator."""
        memory, output = self._reader.memory(at), self._output[:, at]
        torch.mul(self._grad[:, at], self._trace.factors[:, at], out=memory.numerators)
        if self._call.options.normalize:
            products = torch.mul(memory.numerators, output, out=self._like("products", output))
            torch.sum(products, -1, keepdim=True, out=memory.denominators).neg_()
        else:
            memory.denominators.zero_()
        return memory.rows

    def _to_queries(self, at: slice, grad: Float[Tensor, "r gc f"], weights: Float[Tensor, "r gc f"]) -> None:
        by_query_head = self._reader.by_query_head
        self.query_map.reverse(at, by_query_head(weights), by_query_head(self._of_features(grad, weights)))

    def _to_keys(self, at: slice, grad: Float[Tensor, "r c f"], weights: Float[Tensor, "r c f"]) -> None:
        self.key_map.reverse(at, weights, self._of_features(grad, weights))

    def _of_features(self, grad: Tensor, weights: Tensor) -> Tensor:
        """Gives the gradient of features, or of their logarithms, from that of the weights, which it changes."""
        return grad.mul_(weights) if self._call.options.log_space else grad

    def _to_values(self, at: slice, grad: Float[Tensor, "r c dv"]) -> None:
        self.of_values[:, at].copy_(self._reader.without_padding(grad, at))

    def _like(self, name: str, x: Tensor) -> Tensor:
        """Gives contiguous memory of that name and the shape of x, which the next chunk uses again."""
        if (name, x.shape) not in self._memory:
            self._memory[name, x.shape] = self.sums.new_empty(x.shape)
        return self._memory[name, x.shape]


def _add(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.baddbmm(total, left, right, out=total)
