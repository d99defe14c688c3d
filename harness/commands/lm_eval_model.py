"""The model `hedgebench` of lm-eval: any model spec on any pretrained backbone, or a converted folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from ...adapters.base import ModelShape
from ...adapters.mechanisms.softmax import SOFTMAX
from ...adapters.model_adapter import ModelAdapter
from ...adapters.precision import Precision
from ...adapters.pretrained.adapter import build_pretrained
from ...adapters.pretrained.tokenizer import load_tokenizer
from ...adapters.spec import parse_spec
from ...results.names import UsageError
from ...tasks.base import Sources
from ...tasks.lm_eval.text import model_length, text_model
from .. import registry
from ..audit.gate import gate
from ..config import RunConfig
from ..plan import make_sources, resolve_device, resolve_dtype
from ..weights.backbone_names import PREFIX, backbone_from_name
from ..weights.locate import locate, materialise

AUTO_BATCH = 64
"""Rows that `batch_size=auto` begins with; they are halved when memory runs out."""


class HedgebenchLM(LM):  # type: ignore[misc]
    """One of our models behind lm-eval's interface.

    Args:
        spec: Model spec, such as `hedgehog:map=softmax`; empty for a converted folder's own.
        backbone: Pretrained backbone, `hf:ID_OR_FOLDER`, or a folder that `bench convert` wrote.
        recipe: `zero-shot`, the only recipe that trains nothing.
        mirror: Folder with models/ORG/NAME, looked in first.
        device: `auto`, `cpu` or `cuda`.
        dtype: Type of weights, products and log-probabilities: `auto`, `float32` or `bfloat16`.
        batch_size: Rows of a forward pass, or `auto`.
        max_batch_size: Rows that `auto` begins with.
        max_length: Longest input in tokens; None for the length that the model's configuration states.
        seed: Seed of maps that draw random numbers, and of sampling.
        share_context: Whether the context of several continuations is read once; otherwise batches are lm-eval's.
        offline: Never touch the network.

    Raises:
        UsageError: The recipe trains, or the backbone is trained from scratch.
    """

    def __init__(
        self,
        *,
        spec: str = "",
        backbone: str = "smollm2-135m",
        recipe: str = "zero-shot",
        mirror: str | None = None,
        device: str | None = "auto",
        dtype: str = "auto",
        batch_size: int | str | None = 8,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
        share_context: bool = True,
        offline: bool = False,
    ) -> None:
        super().__init__()
        if recipe != "zero-shot":
            raise UsageError(
                f"recipe is {recipe!r}; allowed is zero-shot, because lm-eval trains nothing: convert the model with "
                "bench convert, and give its folder as backbone"
            )
        device = resolve_device((device or "auto").partition(":")[0])
        dtype = resolve_dtype(dtype, device)
        precision = Precision.of(device, dtype, is_pure=True)
        sources = make_sources(RunConfig(models=(), tasks=(), mirror=mirror, offline=offline))
        name = f"{PREFIX}{backbone}" if Path(backbone).is_dir() else backbone
        adapter, folder, source = _build(spec, name, max_length, seed, dtype, precision, sources)
        (difference,), _ = gate(adapter)
        automatic = str(batch_size).startswith("auto")
        rows = (max_batch_size or AUTO_BATCH) if automatic else int(batch_size or 1)
        self.described = {
            "hedgebench_model": adapter.model.spec.canonical,
            "hedgebench_backbone": name,
            "model_num_parameters": adapter.parameter_count().total,
            "model_dtype": dtype,
            "path_difference": difference.value,
            "max_length": adapter.shape.context_length,
            "tokenizer_source": source,
            "prefix_token": "none",
        }
        self.texts = text_model(
            adapter, folder, batch_size=rows, seed=seed, share_context=share_context, halves=automatic
        )
        if ends := self.texts.ends:
            self.described |= {"prefix_token": ends.prefix_text, "notes": list(ends.notes_of_lm_eval)}
        self._device = adapter.device

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, which lm-eval describes in its results."""
        return self.texts.tokenizer

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name, for lm-eval's cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def batch_size(self) -> int:
        """Rows of a forward pass; `auto` halves them when memory runs out."""
        return self.texts.batch_size

    @property
    def max_length(self) -> int:
        """Longest input in tokens."""
        return self.texts.max_length

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Log-probability in nats of each continuation, and whether it is the greedy one."""
        return self._kept("loglikelihood", requests, self.texts.loglikelihood(requests))

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """Log-probability in nats of each whole text."""
        return self._kept("loglikelihood_rolling", requests, self.texts.loglikelihood_rolling(requests))

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The text that the model generates after each context."""
        return self._kept("generate_until", requests, self.texts.generate_until(requests))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation."""
        return self.texts.apply_chat_template(chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The text of the chat template, which lm-eval stores with its results."""
        chosen: str = self.tokenizer.get_chat_template(chat_template if isinstance(chat_template, str) else None)
        return chosen

    def get_model_info(self) -> dict[str, Any]:
        """Facts about the model and the kernels that ran, which lm-eval stores with its results."""
        kernels = [f"{use.phase}: {use.form} {use.backend}" for use in self.texts.adapter.kernels_used()]
        return {**self.described, "kernels": kernels}

    def _kept(self, kind: str, requests: Sequence[Instance], answers: list[Any]) -> list[Any]:
        """Gives answers to lm-eval's cache, and returns them."""
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial(kind, request.args, answer)
        return answers


def _build(
    spec: str, name: str, max_length: int | None, seed: int, dtype: str, precision: Precision, sources: Sources
) -> tuple[ModelAdapter[Any], Path, str]:
    """The adapter, the folder of its checkpoint, and where that comes from, as `Weights.source` says it."""
    backbone = backbone_from_name(name, sources)
    if backbone.checkpoint is None:
        raise UsageError(f"backbone {name} is trained from scratch; lm-eval needs a pretrained one")
    weights = locate(backbone, sources)
    folder = materialise(weights, sources)
    length = max_length or model_length(folder, load_tokenizer(folder))
    adapter = build_pretrained(
        folder,
        backbone,
        {**backbone.sizes["small"], "weights": dtype},
        ModelShape(context_length=length),
        registry.mechanisms().get,
        seed=seed,
        precision=precision,
    )
    if spec and spec != SOFTMAX.name:
        adapter.swap_in(parse_spec(spec, registry.mechanisms().get), seed)
    return adapter, folder, weights.source
