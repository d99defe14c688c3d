"""The same model with the attention of its converted layers taken apart: what a score owes to which part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    """The attention of the layers that were converted, if it is neither softmax over all keys nor none."""
    return [core for core in adapter.model.cores if not core.is_kept and not _is_plain(core)]


def hybrids(adapter: ModelAdapter[Any]) -> list[HybridAttention]:
    """The layers with a window and linear attention."""
    return [core for core in adapter.model.cores if isinstance(core, HybridAttention)]


def controls_of(adapter: ModelAdapter[Any]) -> list[str]:
    """The names of the controls that the model has; empty for a model that was not converted."""
    cores = converted_cores(adapter)
    return [name for name, part in CONTROLS.items() if cores and all(part(core) is not None for core in cores)]


@contextmanager
def attending(adapter: ModelAdapter[Any], control: str) -> Iterator[None]:
    """Converted layers attend as a control while the block lasts; weights, maps and other layers stay as they are.

    Kernels that run in the block are not recorded. A sequence must begin and end inside the block or outside it, as
    states differ.

    Args:
        adapter: The model.
        control: One of `controls_of(adapter)`.
    """
    cores = converted_cores(adapter)
    for core in cores:
        part = CONTROLS[control](core)
        assert part is not None
        core.attend = part.attend  # type: ignore[method-assign]
    try:
        with adapter.model.unrecorded():
            yield
    finally:
        for core in cores:
            del core.attend


def _is_plain(core: AttentionCore) -> bool:
    return isinstance(core, NoAttention) or (isinstance(core, SoftmaxAttention) and core.window is None)
