"""Attention distillation: feature maps learn the weights of softmax attention (Hedgehog paper, section 4).

The base model is frozen and each layer passes on the output of softmax attention, so teacher and student see the same
queries and keys and share one forward pass. Each layer's loss is the soft-label cross-entropy between the rows of the
two attentions, averaged over queries and heads. The losses of all layers are added and have one backward pass, whose
gradients reach only feature maps. Cross-entropy is the divergence KL(softmax, linear) plus the teacher's entropy, which
no map can change, so curves and metrics show the divergence, whose optimum is 0. LoLCATs' loss, the squared error of
attention outputs (arXiv:2410.10254, section 3.1), can be added to the cross-entropy or replace it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from ...kernels.distillation.loss import attention_distillation_loss
from ...kernels.maps.feature_map import FeatureMap
from ...kernels.maps.token_maps import zero_padding
from ..attention.core import AttentionCore, Heads, QueryHeads
from ..attention_model import AttentionModel
from ..base import Examples, UnsupportedError
from ..precision import Precision
from .loop import History
from .objective import batch_of
from .settings import DistillSettings, TrainSettings

Run = Callable[[Examples, NDArray[Any], torch.device], object]
"""Runs layers on some rows of the examples, on a device."""


@dataclass(frozen=True)
class DistillResult:
    """The outcome of distilling all layers, or one block of them.

    Attributes:
        history: The course of training. For several blocks, steps are counted on from block to block, and the best loss
            is the sum over blocks. None without training.
        before: Divergence in nats before training, for each batch of measured rows, layer and head.
        after: The divergence after training; None without training.
    """

    history: History | None
    before: Float[np.ndarray, "batches layers h"]
    after: Float[np.ndarray, "batches layers h"] | None


class AttentionDistillation:
    """The distillation loss of a model with swapped attention, as a training objective.

    Args:
        model: The model.
        settings: The loss to minimise.
        run: Runs the layers to distil; by default the whole model.
    """

    def __init__(self, model: AttentionModel, settings: DistillSettings, run: Run | None = None) -> None:
        self.model = model
        self.settings = settings
        self.run = run or self._run_model
        self._sums: dict[int, Tensor] = {}
        self._outputs: dict[int, float] = {}
        self._queries: dict[int, int] = {}

    def count(self, examples: Examples, rows: NDArray[Any]) -> int:
        """Number of queries that are not padding; for images the number of rows, as all have the same patches."""
        if examples.attention_mask is not None:
            return int(examples.attention_mask[rows].sum())
        tokens = 1 if examples.inputs.ndim > 2 else examples.inputs.shape[1]
        return len(rows) * tokens

    def loss(self, model: nn.Module, examples: Examples, rows: NDArray[Any], device: torch.device) -> Float[Tensor, ""]:
        """The sum over layers of the mean loss over queries and heads, times `count`."""
        del model
        losses: list[Tensor] = []
        wanted = torch.is_grad_enabled()

        def visit(layer: int, core: AttentionCore, heads: Heads, causal: bool, out: Tensor) -> None:
            with torch.set_grad_enabled(wanted):
                losses.append(self.of_layer(layer, core, heads, causal, out))

        # The base is frozen, so its activations need not be kept or recomputed for the backward pass.
        with torch.no_grad(), self.model.teaching(visit):
            self.run(examples, rows, device)
        return torch.stack([loss.to(device) for loss in losses]).sum() * self.count(examples, rows)

    def of_layer(
        self, layer: int, core: AttentionCore, heads: Heads, causal: bool, teacher_output: Tensor
    ) -> Float[Tensor, ""]:
        """The loss of one layer, a mean over queries and heads; adds its divergence to the sums for `details`."""
        total = heads.q.new_zeros((), dtype=torch.float32)
        if core.is_kept:  # it is softmax attention, at no divergence from itself
            self._add(layer, torch.zeros(heads.q.shape[1]), _queries(heads))
            return total
        query_map, key_map = maps_of(core)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.settings.attention_factor > 0):
            result = attention_distillation_loss(
                heads.q,
                heads.k,
                query_map(zero_padding(heads.q, heads.key_padding_mask), heads.positions),
                key_map(zero_padding(heads.k, heads.key_padding_mask), heads.positions),
                causal=causal,
                key_padding_mask=heads.key_padding_mask,
                scale=heads.scale,
                log_space=query_map.log_space,
            )
        core.record("distill", result.kernel)
        if self.settings.attention_factor:
            total = total + self.settings.attention_factor * result.cross_entropy.mean()
        queries = _queries(heads)
        if self.settings.output_factor:
            error = output_error(core.outputs(heads, causal=causal), teacher_output, heads)
            total = total + self.settings.output_factor * error
            self._outputs[layer] = self._outputs.get(layer, 0.0) + float(error.detach()) * queries
        if torch.is_grad_enabled() and not total.requires_grad:  # a hybrid whose window holds all tokens uses no map
            total = total + sum(0.0 * p.sum() for p in core.parameters() if p.requires_grad)
        self._add(layer, result.kl, queries)
        return total

    def _add(self, layer: int, divergence: Float[Tensor, " h"], queries: int) -> None:
        self._sums[layer] = self._sums.get(layer, 0.0) + divergence.double().cpu() * queries
        self._queries[layer] = self._queries.get(layer, 0) + queries

    def details(self) -> Mapping[str, float]:
        """Mean divergence in nats over all layers and of each layer, and output errors if they are minimised."""
        means = {layer: float(sums.mean()) / self._queries[layer] for layer, sums in self._sums.items()}
        named = {"attention_kl": sum(means.values()) / max(1, len(means))}
        named |= {f"attention_kl/layer {layer}": value for layer, value in means.items()}
        named |= {f"output_error/layer {layer}": value / self._queries[layer] for layer, value in self._outputs.items()}
        self._forget()
        return named if means else {}

    def take_divergence(self) -> Float[Tensor, "layers h"]:
        """Mean divergence of each layer and head since the last call, in nats; the sums are then zero again."""
        taken = torch.stack([self._sums[layer] / self._queries[layer] for layer in sorted(self._sums)])
        self._forget()
        return taken

    def _run_model(self, examples: Examples, rows: NDArray[Any], device: torch.device) -> None:
        inputs, mask, _ = batch_of(examples, rows, device, varied=self.model.training)
        self.model.hidden(inputs, mask)

    def _forget(self) -> None:
        for kept in (self._sums, self._outputs, self._queries):
            kept.clear()


@torch.no_grad()
def divergence_of_batches(
    objective: AttentionDistillation, examples: Examples, settings: TrainSettings, precision: Precision
) -> Float[np.ndarray, "batches layers h"]:
    """Mean divergence in nats of each head and layer that the objective runs, for each batch of the first rows.

    Args:
        objective: The objective, which computes the divergence.
        examples: Examples to measure on.
        settings: Its `eval_rows` and `eval_batch_size` are the numbers of rows in all and in a batch.
        precision: Device and autocast type.
    """
    objective.model.eval()
    rows, size, taken = min(len(examples), settings.eval_rows), settings.eval_batch_size, []
    for start in range(0, rows, size):
        with precision.autocast():
            objective.loss(objective.model, examples, np.arange(start, min(rows, start + size)), precision.device)
        taken.append(objective.take_divergence().numpy())
    return np.stack(taken)


def maps_of(core: AttentionCore) -> tuple[FeatureMap, FeatureMap]:
    """The query map and the key map of a core.

    Raises:
        UnsupportedError: The core has no feature maps.
    """
    query_map, key_map = getattr(core, "query_map", None), getattr(core, "key_map", None)
    if not isinstance(query_map, FeatureMap) or not isinstance(key_map, FeatureMap):
        raise UnsupportedError(f"{type(core).__name__} has no feature map to distil")
    return query_map, key_map


def output_error(student: QueryHeads, teacher: QueryHeads, heads: Heads) -> Float[Tensor, ""]:
    """Mean squared error of attention outputs over tokens that are not padding."""
    mask = heads.key_padding_mask
    errors = F.mse_loss(student.float(), teacher.float(), reduction="none").mean((1, 3))  # b n
    return errors.mean() if mask is None else errors.masked_fill(~mask, 0.0).sum() / mask.sum()


def freeze_all_but_maps(model: AttentionModel, settings: DistillSettings) -> None:
    """Freezes all weights but those of feature maps, and the gates of hybrids if attention outputs are compared."""
    model.requires_grad_(False)
    for core in model.cores:
        if settings.output_factor:
            core.requires_grad_(True)
        if core.is_kept:
            continue
        for feature_map in dict.fromkeys(maps_of(core)):
            feature_map.requires_grad_(True)


def _queries(heads: Heads) -> int:
    mask = heads.key_padding_mask
    return heads.q.shape[0] * heads.q.shape[2] if mask is None else int(mask.sum())


def has_weights_to_compare(model: AttentionModel) -> bool:
    """Whether every layer that a hybrid does not keep has feature maps whose weights are a distribution over keys."""
    maps = [getattr(core, "query_map", None) for core in model.cores if not core.is_kept]
    return bool(maps) and all(isinstance(part, FeatureMap) and part.positive for part in maps)
