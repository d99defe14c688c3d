"""Sweeps over sequence length and batch: their settings, inputs, and what a failure says."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...adapters.base import Adapter, ModelShape, UnsupportedError
from ...results.record import DataIdentity, Scalar, Status

if TYPE_CHECKING:
    from torch import Tensor

VOCAB_SIZE = 256
"""Entries of the vocabulary: small, so that the output layer does not hide the attention."""

_OUT_OF_MEMORY = ("DefaultCPUAllocator", "Cannot allocate memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_NO_KERNEL = ("No available kernel", "No viable backend for scaled_dot_product_attention")
_NO_COMPILER = frozenset({"InvalidCxxCompiler", "TritonMissing", "GPUTooOldForTriton"})


@dataclass(frozen=True)
class SweepSettings:
    """What is swept.

    Attributes:
        seq_lens: Sequence lengths in tokens.
        batch_size: Rows per call.
        batch_sizes: Several numbers of rows, in place of `batch_size`; each is a sweep of its own.
        tokens: Tokens of a call at every length, in place of both: the batch is `tokens / seq_len`. 0 for none.
        modes: What is measured, joined by `+`.
        largest_batch: Modes, joined by `+`, for which the largest batch that fits is searched at each length.
        max_batch: Largest batch that such a search tries.
        past_failures: Go on to longer lengths after one that ran out of memory or time.
        point_timeout_s: Seconds after which the process of a point is stopped.
        memory_limit_mb: Megabytes that a point may allocate, from the start of its measurement on the CPU and in all on
            CUDA; 0 for no limit but the machine's.
        layer_heads: Query heads of the attention layer that is measured alone; 0 for the model's own.
        layer_kv_heads: Its key and value heads; 0 for the model's own, or `layer_heads` where those are given.
        layer_head_dim: Its head dimension; 0 for the model's own.
        classes: Classes of a classifier, which encoders such as BERT are: its layers see both ways, its prefill is a
            forward pass to class logits, and it neither decodes nor has a state. 0 for a language model.

    Raises:
        ValueError: An unknown mode, no length, or a number that cannot be.
    """

    seq_lens: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    batch_size: int = 1
    batch_sizes: tuple[int, ...] = ()
    tokens: int = 0
    modes: str = ""
    largest_batch: str = ""
    max_batch: int = 4096
    past_failures: bool = False
    point_timeout_s: float = 600.0
    memory_limit_mb: int = 0
    layer_heads: int = 0
    layer_kv_heads: int = 0
    layer_head_dim: int = 0
    classes: int = 0

    def check(self, known_modes: Sequence[str]) -> None:
        """Refuses what cannot be measured; errors as of the class."""
        check_sweep(self.seq_lens, self.modes, known_modes)
        check_sweep(self.seq_lens, self.largest_batch or self.modes, known_modes)
        for name, lowest in (("batch_size", 1), ("tokens", 0), ("max_batch", 1), ("memory_limit_mb", 0), ("classes", 0),
                             ("layer_heads", 0), ("layer_kv_heads", 0), ("layer_head_dim", 0)):  # fmt: skip
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; it takes whole numbers from {lowest}")
        if self.point_timeout_s <= 0:
            raise ValueError(f"point_timeout_s is {self.point_timeout_s:g}; it takes a number above 0")
        if any(size < 1 for size in self.batch_sizes):
            raise ValueError(f"batch_sizes is {self.batch_sizes}; it takes whole numbers from 1")
        if wrong := [length for length in self.seq_lens if self.tokens % length]:
            raise ValueError(
                f"tokens is {self.tokens}; it must be a multiple of every length, and is not of {wrong[0]}"
            )

    def mode_names(self) -> list[str]:
        """The modes, in the order given."""
        return self.modes.split("+")

    def largest_batch_modes(self) -> list[str]:
        """The modes whose largest batch is searched."""
        return self.largest_batch.split("+") if self.largest_batch else []

    def batches(self) -> list[Callable[[int], int]]:
        """From a length to the rows of a call; one function for each sweep."""
        if self.tokens:
            return [lambda seq_len: self.tokens // seq_len]
        return [lambda _, size=size: size for size in self.batch_sizes or (self.batch_size,)]  # type: ignore[misc]

    def layer_sizes(self) -> Mapping[str, int]:
        """Sizes of the layer measured alone that differ from the model's."""
        given = {"heads": self.layer_heads, "kv_heads": self.layer_kv_heads, "head_dim": self.layer_head_dim}
        if self.layer_heads and not self.layer_kv_heads:
            given["kv_heads"] = self.layer_heads
        return {name: size for name, size in given.items() if size}

    def shape(self, context_length: int) -> ModelShape:
        """What models must accept and give."""
        return ModelShape(context_length, VOCAB_SIZE, num_classes=self.classes or None)

    def lengths(self, limit: int | None) -> list[int]:
        """The lengths, shortest first; the first `limit` of them."""
        return sorted(self.seq_lens)[:limit]

    def at(self, row: Mapping[str, Any]) -> dict[str, Scalar]:
        """The coordinates of a row's point; those of a constant number of tokens name that rather than the batch."""
        if row["role"] == "largest":
            return {"seq_len": row["seq_len"]}
        batch = {"tokens_per_step": self.tokens} if self.tokens else {"batch_size": row["batch_size"]}
        return {"seq_len": row["seq_len"], **batch}


def identity(name: str) -> DataIdentity:
    """The random tokens that a sweep reads; their values do not matter."""
    return DataIdentity(id=name, revision="1", fingerprint=f"uniform tokens below {VOCAB_SIZE}", source="generated")


def random_tokens(adapter: Adapter, batch_size: int, seq_len: int) -> Tensor:
    """Uniform token ids `[batch_size, seq_len]` on the adapter's device, the same for every model."""
    import torch

    generator = torch.Generator().manual_seed(seq_len)
    return torch.randint(0, VOCAB_SIZE, (batch_size, seq_len), generator=generator).to(adapter.device)


def failure_status(error: Exception) -> Status | None:
    """What an exception says about a point; None when it is a mistake rather than a limit.

    torch raises plain RuntimeErrors where the processor's memory is spent and where a pinned attention kernel cannot
    run, so those are told by their texts; errors of a missing compiler are told by their types, which are private.
    """
    import torch

    text = str(error)
    names = {kind.__name__ for cause in (error, error.__cause__) for kind in type(cause).__mro__}
    if isinstance(error, UnsupportedError | NotImplementedError) or names & _NO_COMPILER:
        return "unsupported"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "oom"
    if isinstance(error, RuntimeError | OSError) and any(words in text for words in _OUT_OF_MEMORY):
        return "oom"
    if isinstance(error, RuntimeError) and any(words in text for words in _NO_KERNEL):
        return "unsupported"
    return None


def release_memory() -> None:
    """Gives freed memory back to the device, so that what is measured next starts afresh."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def check_sweep(seq_lens: Sequence[int], modes: str, known_modes: Sequence[str]) -> None:
    """Refuses a sweep without lengths, with lengths below 1, or with unknown modes.

    Raises:
        ValueError: Naming the value and what is allowed.
    """
    if not seq_lens or min(seq_lens) < 1:
        raise ValueError(
            f"seq_lens is {tuple(seq_lens)}; give at least one length, each 1 or more, such as 128,256,512"
        )
    if unknown := [mode for mode in modes.split("+") if mode not in known_modes]:
        raise ValueError(f"modes holds {', '.join(map(repr, unknown))}; join any of {', '.join(known_modes)} by '+'")
