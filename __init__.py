"""hedgebench: one command compares attention mechanisms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .harness.weights.loading import load_model, register

__version__ = "0.1.0"
__all__ = ["__version__", "load_model", "register"]


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first used."""
    if name in ("load_model", "register"):
        from .harness.weights import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
