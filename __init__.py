"""hedgebench: one command compares attention mechanisms, and so does one call from Python.

Every name is imported at its first use, so that importing the package takes milliseconds and no torch. Once it is
imported, transformers loads converted models too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters.attention.core import AttentionCore
    from .adapters.mechanisms.declaration import Mechanism, Option
    from .harness.python.attention import Attention, swap
    from .harness.python.results import Results, load_results
    from .harness.python.runs import convert, list_models, list_tasks, run
    from .harness.python.session import register
    from .harness.weights.loading import load_model
    from .kernels.dispatch import linear_attention
    from .kernels.distillation.loss import attention_distillation_loss
    from .kernels.linear.naive import linear_attention_weights
    from .kernels.maps.feature_map import FeatureMap
    from .kernels.maps.fixed import CosformerMap, EluMap, ExpMap, IdentityLinearMap, PerformerMap, ReluMap
    from .kernels.maps.learned import HedgehogMap, T2RMap, TaylorMap
    from .kernels.softmax.attention import softmax_attention, softmax_attention_weights
    from .results.names import UsageError
    from .tasks.fidelity.measures import compare_maps
    from .tasks.metrics.classification import measure
    from .tasks.summarization.rouge import rouge_scores

__version__ = "0.1.0"
__all__ = [
    "Attention",
    "AttentionCore",
    "CosformerMap",
    "EluMap",
    "ExpMap",
    "FeatureMap",
    "HedgehogMap",
    "IdentityLinearMap",
    "Mechanism",
    "Option",
    "PerformerMap",
    "ReluMap",
    "Results",
    "T2RMap",
    "TaylorMap",
    "UsageError",
    "__version__",
    "attention_distillation_loss",
    "compare_maps",
    "convert",
    "linear_attention",
    "linear_attention_weights",
    "list_models",
    "list_tasks",
    "load_model",
    "load_results",
    "measure",
    "register",
    "rouge_scores",
    "run",
    "softmax_attention",
    "softmax_attention_weights",
    "swap",
]

_PLACES = {
    "adapters.attention.core": ("AttentionCore",),
    "adapters.mechanisms.declaration": ("Mechanism", "Option"),
    "harness.python.attention": ("Attention", "swap"),
    "harness.python.results": ("Results", "load_results"),
    "harness.python.runs": ("convert", "list_models", "list_tasks", "run"),
    "harness.python.session": ("register",),
    "harness.weights.loading": ("load_model",),
    "kernels.dispatch": ("linear_attention",),
    "kernels.distillation.loss": ("attention_distillation_loss",),
    "kernels.linear.naive": ("linear_attention_weights",),
    "kernels.maps.feature_map": ("FeatureMap",),
    "kernels.maps.fixed": ("CosformerMap", "EluMap", "ExpMap", "IdentityLinearMap", "PerformerMap", "ReluMap"),
    "kernels.maps.learned": ("HedgehogMap", "T2RMap", "TaylorMap"),
    "kernels.softmax.attention": ("softmax_attention", "softmax_attention_weights"),
    "results.names": ("UsageError",),
    "tasks.fidelity.measures": ("compare_maps",),
    "tasks.metrics.classification": ("measure",),
    "tasks.summarization.rouge": ("rouge_scores",),
}
"""Names by the module that holds them."""

_MODULES = {name: module for module, names in _PLACES.items() for name in names}


if not TYPE_CHECKING:  # a type checker that saw it would take any name

    def __getattr__(name: str) -> Any:
        """Imports what is named when it is first used."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if __name__ == "hedgebench":  # pytest also imports the root of a checkout under its folder's name, or none like `a-b`
    from .harness.weights.on_import import watch_transformers

    watch_transformers()
