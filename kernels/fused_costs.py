"""Analytic costs of linear attention with Hedgehog's map inside: matrix FLOPs and memory traffic. Needs no torch.

Counts are those of the algorithm: the least that any kernel of this form needs, not what ours does. They are per token
and head, with d = w = dv and 2d features (both halves). States between blocks are stored in the type of the products:
bfloat16 for inputs of bfloat16, float32 for all others. The sums of each block alone, which our scan reads in float32,
are not counted, as two passes are possible without them.
"""

from collections.abc import Mapping

from .costs import Cost

CHUNK = 64
"""Tokens in a compute chunk."""

BLOCK = 256
"""Tokens between two stored states."""

ELEMENT_BYTES: Mapping[str, int] = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Bytes of inputs and outputs, by the name of their type."""


def fused_forward_cost(form: str, *, token_heads: int, d: int, dtype: str) -> Cost:
    """Counts the forward pass.

    Per token and head there are 4d² FLOPs of projections, 6Cd of scores and values within a chunk of C tokens, and 8d²
    of states. Two passes project keys twice, read k and v twice, and write and read a state of 2d² numbers for each
    block.

    Args:
        form: "fused_chunk" (one pass) or "chunk" (two).
        token_heads: tokens times heads of the whole batch.
        d: head dimension.
        dtype: type of inputs and outputs, a key of `ELEMENT_BYTES`.
    """
    two_passes = form == "chunk"
    flops = 12 * d * d + 6 * CHUNK * d + (2 * d * d if two_passes else 0)
    vectors, states = (6, 2) if two_passes else (4, 0)
    return Cost(token_heads * flops, token_heads * _bytes(vectors, states, d, dtype))


def fused_backward_cost(*, token_heads: int, d: int, dtype: str) -> Cost:
    """Counts the backward pass: 36d² + 16Cd FLOPs, 13 vectors of d numbers, and four states of 2d² for each block.

    Arguments are those of `fused_forward_cost`, without the form.
    """
    flops = 36 * d * d + 16 * CHUNK * d
    return Cost(token_heads * flops, token_heads * _bytes(13, 4, d, dtype))


def fused_decode_cost(*, heads: int, d: int) -> Cost:
    """Counts one decoded token: 12d² FLOPs, and a float32 state of 2d² numbers read and written, for each head.

    Args:
        heads: heads of all sequences in the batch.
        d: head dimension.
    """
    return Cost(heads * 12 * d * d, heads * 16 * d * d)


def distillation_cost(*, pairs: int, token_heads: int, d: int) -> Cost:
    """Counts the distillation loss with its gradients, in float32.

    Each pair costs 2d FLOPs for its logit and 4d for its score in each of four passes (two for the loss, two for
    gradients), and 4d for each of the two gradients. Queries, keys and their features are read once, and the features'
    gradients are written once: 10d numbers for each token and head.

    Args:
        pairs: pairs of a query and a key that it sees, over all heads of the batch.
        token_heads: tokens times heads of the whole batch.
        d: head dimension.
    """
    return Cost(pairs * (4 * 6 * d + 2 * 4 * d), token_heads * 10 * d * 4)


def _bytes(vectors: int, states: int, d: int, dtype: str) -> int:
    """Bytes that one token of one head moves: vectors of d numbers, and its share of a block's states of 2d²."""
    state_element = 2 if dtype == "bfloat16" else 4
    return vectors * d * ELEMENT_BYTES[dtype] + states * 2 * d * d // BLOCK * state_element
