"""The same model with the attention of its converted layers taken apart: what a score owes to which part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..attention.core import AttentionCore
from ..attention.hybrid import HybridAttention
from ..attention.linear import LinearAttention
from ..attention.softmax import NoAttention, SoftmaxAttention
from ..model_adapter import ModelAdapter


def _linear_part(core: AttentionCore) -> AttentionCore | None:
    """The linear attention of a hybrid over all keys, those of its window too; its window and gate are left out."""
    return LinearAttention(core.query_map, core.key_map, True) if isinstance(core, HybridAttention) else None


CONTROLS: Mapping[str, Callable[[AttentionCore], AttentionCore | None]] = {
    "linear_only": _linear_part,
    "without_attention": lambda _: NoAttention(),
    "with_softmax": lambda _: SoftmaxAttention(),
}
"""What takes the place of a converted layer's attention, by the names of `results.audit`; None without such a part.

A hybrid without its linear branch, which is its window alone, is measured in every cell (`linear_branch`).
"""


def converted_cores(adapter: ModelAdapter[Any]) -> list[AttentionCore]:
    """The layers' attention that is neither softmax over all keys nor none."""
    return [core for core in adapter.model.cores if not _is_plain(core)]


def hybrids(adapter: ModelAdapter[Any]) -> list[HybridAttention]:
    """The layers with a window and linear attention."""
    return [core for core in adapter.model.cores if isinstance(core, HybridAttention)]


def controls_of(adapter: ModelAdapter[Any]) -> list[str]:
    """The names of the controls that the model has; empty for a model that was not converted."""
    cores = converted_cores(adapter)
    return [name for name, part in CONTROLS.items() if cores and all(part(core) is not None for core in cores)]


@contextmanager
def attending(cores: Sequence[AttentionCore], control: str) -> Iterator[None]:
    """Layers attend as a control while the block lasts; weights, maps and the other layers stay as they are.

    A sequence must begin and end inside the block or outside it, as states differ.

    Args:
        cores: Layers' attention.
        control: One of `CONTROLS`.
    """
    parts = [CONTROLS[control](core) for core in cores]
    kept = [dict(core.kernels_used) for core in cores]
    for core, part in zip(cores, parts, strict=True):
        assert part is not None
        core.attend = part.attend  # type: ignore[method-assign]
    try:
        yield
    finally:
        for core, used in zip(cores, kept, strict=True):
            del core.attend
            core.kernels_used.clear()
            core.kernels_used.update(used)


def _is_plain(core: AttentionCore) -> bool:
    return isinstance(core, NoAttention) or (isinstance(core, SoftmaxAttention) and core.window is None)
