"""What transformers' classes named `Auto...` need to load converted models; it imports transformers and no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.configuration_utils import PretrainedConfig

from ...adapters.pretrained.weight_files import CONVERTED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_CLASSES = ("AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModelForImageClassification")


class ConvertedConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """The configuration of a converted model, for transformers' classes named `Auto...`."""

    model_type = CONVERTED


class ConvertedModel:
    """What transformers' classes named `Auto...` call for a converted model."""

    config_class = ConvertedConfig

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        config: ConvertedConfig | None = None,
        device_map: str | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        adapter_kwargs: object = None,
        **others: Any,
    ) -> PreTrainedModel:
        """The model of `load_model`.

        Raises:
            TypeError: An argument that has no counterpart here.
        """
        del config, adapter_kwargs  # transformers passes these on, whatever its caller gave
        if revision not in (None, "main"):
            others["revision"] = revision
        if unknown := [key for key, value in others.items() if value and not key.startswith("_")]:
            allowed = "device_map, dtype, trust_remote_code"
            raise TypeError(f"a converted model is not loaded with {', '.join(unknown)}; allowed: {allowed}")
        from .loading import load_model

        wanted = str(dtype or torch_dtype or "auto").removeprefix("torch.")
        return load_model(name, device=device_map or "cpu", dtype=wanted, trust_remote_code=trust_remote_code)


def add_to_configs(module: Any) -> None:
    """Adds our type to `AutoConfig` of `transformers.models.auto.configuration_auto`."""
    module.AutoConfig.register(CONVERTED, ConvertedConfig, exist_ok=True)


def add_to_models(module: Any) -> None:
    """Adds our models to the classes of `transformers.models.auto.modeling_auto`."""
    for name in _CLASSES:
        getattr(module, name).register(ConvertedConfig, ConvertedModel, exist_ok=True)
