"""Tables of the positions of token blocks, with which one kernel serves both batches and packed sequences."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class BlockTable:
    """Blocks of tokens, each within one sequence.

    Attributes:
        blocks: [blocks 4] int32: batch entry, first token, end of the sequence, sequence.
        sequences: [sequences 2] int32: first block and number of blocks.
        spans: [sequences 3] int32: batch entry, first token, end.
        block: tokens in a block; the last block of a sequence may have fewer.
    """

    blocks: Int[Tensor, "blocks 4"]
    sequences: Int[Tensor, "sequences 2"]
    spans: Int[Tensor, "sequences 3"]
    block: int


@lru_cache(maxsize=64)
def batch_table(batch: int, tokens: int, block: int, device: torch.device) -> BlockTable:
    """The table of a batch with one sequence in each entry."""
    return _table([(entry, 0, tokens) for entry in range(batch)], block, device)


def packed_table(cu_seqlens: Int[Tensor, " ends"], tokens: int, block: int, device: torch.device) -> BlockTable:
    """The table of sequences packed one after another into a batch of one.

    Args:
        cu_seqlens: 0, then the end of each sequence; read on the host, so a tensor on the CPU saves a synchronisation.
        tokens: number of tokens of all sequences.
        block: tokens in a block.
        device: device of the table.

    Raises:
        ValueError: ends that do not rise strictly from 0 to `tokens`.
    """
    ends = [int(end) for end in cu_seqlens.tolist()]
    check_ends(ends, tokens)
    return _packed_table(tuple(ends), block, device)


def check_ends(ends: list[int], tokens: int) -> None:
    """Refuses sequence ends that do not rise strictly from 0 to `tokens`.

    Raises:
        ValueError: such ends.
    """
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != tokens or sorted(set(ends)) != ends:
        raise ValueError(f"cu_seqlens must rise from 0 to the {tokens} tokens given, each above the last, got {ends}")


@lru_cache(maxsize=64)
def _packed_table(ends: tuple[int, ...], block: int, device: torch.device) -> BlockTable:
    spans = [(0, start, end) for start, end in pairwise(ends)]
    return _table(spans, block, device)


def _table(spans: list[tuple[int, int, int]], block: int, device: torch.device) -> BlockTable:
    blocks: list[tuple[int, int, int, int]] = []
    sequences: list[tuple[int, int]] = []
    for sequence, (entry, start, end) in enumerate(spans):
        starts = range(start, end, block)
        sequences.append((len(blocks), len(starts)))
        blocks += [(entry, first, end, sequence) for first in starts]
    tables = (torch.tensor(rows, dtype=torch.int32).reshape(len(rows), -1) for rows in (blocks, sequences, spans))
    on_device = [table.to(device) for table in tables]
    return BlockTable(on_device[0], on_device[1], on_device[2], block)
