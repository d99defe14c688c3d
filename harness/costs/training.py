"""What a cell's training costs, by count: matrix FLOPs of its stages, and the memory of the largest one.

A training step is three forward passes: one forward, and two for the gradients of inputs and of weights. Distillation
is a forward pass with softmax attention, and the loss over all pairs of tokens with its gradients. Low-rank adapters
leave out the gradients of the frozen matrices. Validation is counted as the settings have it; tests and early stops are
not. Attention is counted by `kernels/costs.py`. The teacher of a recipe counts for the softmax model alone.

Memory is that of weights, gradients, Adam's two moments, the copy of the best weights, and what autograd keeps of one
batch with fused softmax attention; the allocator's own needs are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...adapters.base import Settings
from ...adapters.mechanisms.softmax import CONTINUED
from ...adapters.spec import ModelSpec
from ...adapters.training.settings import TrainSettings
from ...kernels.costs import feature_map_cost, linear_attention_cost, softmax_attention_cost
from ...kernels.fused_costs import distillation_cost
from ...results.tables.row import REFERENCE_MODEL
from ...tasks.settings import parse_settings
from ...tasks.synthetic.generated import GeneratedTask
from ..cell import PlannedCell
from ..recipes import RECIPES
from .sizes import InputSizes, ModelSizes, input_sizes, model_sizes, train_rows

GPU, DTYPE, SHARE = "NVIDIA H100 80GB HBM3", "bfloat16", 0.3
"""The device and type that hours are estimated for, and the assumed share of its peak that training reaches."""

GPU_LEGEND = (
    f"GPU hours and GiB are counted, not measured: FLOPs of training and validation at {SHARE:.0%} of an "
    f"{GPU.removeprefix('NVIDIA ')}'s peak in {DTYPE}, an assumption; and memory of the largest stage of any cell."
)

_ELEMENT = 2
"""Bytes of an element of activations in `DTYPE`."""


@dataclass(frozen=True)
class TrainingCost:
    """What a training costs.

    Attributes:
        flops: Matrix FLOPs.
        bytes: Largest memory of any of its stages.
    """

    flops: float
    bytes: float

    def __add__(self, other: TrainingCost) -> TrainingCost:
        """The cost of one training after another."""
        return TrainingCost(self.flops + other.flops, max(self.bytes, other.bytes))

    @property
    def gpu_hours(self) -> float:
        """Hours on `GPU` at `SHARE` of its peak."""
        from ...results.plots.efficiency import DEVICE_PEAKS

        return self.flops / (SHARE * DEVICE_PEAKS[GPU][DTYPE].flops_per_s) / 3600


NOTHING = TrainingCost(0.0, 0.0)


def training_cost(planned: PlannedCell) -> TrainingCost | None:
    """What the stages of a cell cost; None if its recipe trains nothing, or if a size is not known."""
    costs = list(_stage_costs(planned))
    if RECIPES[planned.cell.recipe].stages == ("swap",) or None in costs:
        return None
    return sum((cost for cost in costs if cost is not None), NOTHING)


def whole_cost(cells: Iterable[PlannedCell]) -> tuple[TrainingCost, int]:
    """What all of some cells cost, and how many of them could not be counted."""
    costs = [training_cost(planned) for planned in cells]
    known = [cost for cost in costs if cost is not None]
    return sum(known, NOTHING), len(costs) - len(known)


def _stage_costs(planned: PlannedCell) -> Iterator[TrainingCost | None]:
    cell, spec = planned.cell, planned.spec
    sizes, inputs = model_sizes(cell), input_sizes(cell)
    rows = train_rows(cell)
    for stage, settings in stage_settings(planned):
        if sizes is None or inputs is None or (settings.epochs and rows is None):
            yield None
            continue
        is_softmax = stage == "teacher" or (stage == "train" and RECIPES[cell.recipe].trains_teacher)
        model = RowCost(sizes, inputs, None if is_softmax or spec.mechanism.name == REFERENCE_MODEL else spec)
        yield model.stage_cost(stage, settings.for_rows(rows or 0), cell.settings)


def stage_settings(planned: PlannedCell) -> Iterator[tuple[str, TrainSettings]]:
    """The stages that train something in this cell, with their settings."""
    for stage in RECIPES[planned.cell.recipe].stages:
        if stage != "swap" and _runs(stage, planned):
            own = planned.cell.settings[stage]
            yield stage, TrainSettings.of({**own, "steps": max(1, int(str(own["steps"])))})


def row_cost(planned: PlannedCell) -> RowCost | None:
    """The cell's model and a row of its inputs; None if a size is not known."""
    sizes, inputs = model_sizes(planned.cell), input_sizes(planned.cell)
    if isinstance(task := planned.task, GeneratedTask):
        length = task.shape(parse_settings(task.settings, planned.cell.settings["task"])).context_length
        inputs = InputSizes(1, length, length)
    if sizes is None or inputs is None:
        return None
    return RowCost(sizes, inputs, None if planned.spec.mechanism.name == REFERENCE_MODEL else planned.spec)


def _runs(stage: str, planned: PlannedCell) -> bool:
    """Whether a stage trains something in this cell."""
    cell, spec = planned.cell, planned.spec
    settings = cell.settings[stage]
    is_softmax, trains_teacher = spec.mechanism.name == REFERENCE_MODEL, RECIPES[cell.recipe].trains_teacher
    if not settings["steps"] and not settings["epochs"]:
        return False
    if stage == "teacher" or (stage == "train" and trains_teacher):
        return spec.canonical == REFERENCE_MODEL
    if stage == "distill":
        return spec.is_distilled
    return not (stage == "finetune" and is_softmax and trains_teacher and not spec.options[CONTINUED])


@dataclass(frozen=True)
class RowCost:
    """A model and one row of its inputs, which is counted.

    Attributes:
        sizes: The model's sizes.
        inputs: The row's.
        spec: The attention; None for softmax.
    """

    sizes: ModelSizes
    inputs: InputSizes
    spec: ModelSpec | None

    def stage_cost(self, stage: str, settings: TrainSettings, groups: Mapping[str, Settings]) -> TrainingCost:
        """What a stage costs."""
        softmax = replace(self, spec=None)
        step, validation = 3 * self.forward_flops, self.forward_flops
        if stage == "distill":
            validation = softmax.forward_flops + self._distillation_flops / 3
            step = softmax.forward_flops + self._distillation_flops
        elif stage == "lora":
            step = 2 * self.matrix_flops + 3 * self._attention_flops
        validations = settings.eval_rows * math.ceil(settings.steps / (settings.eval_every or settings.steps))
        flops = settings.steps * settings.batch_size * step + validations * validation
        return TrainingCost(flops, self.stage_bytes(stage, settings, groups, _ELEMENT))

    def stage_bytes(self, stage: str, settings: TrainSettings, groups: Mapping[str, Settings], element: int) -> float:
        """Memory of a stage, with activations whose elements have so many bytes."""
        trained = self._map_weights
        if stage == "lora":
            trained += 8 * self.sizes.layers * int(str(groups["lora"]["rank"])) * self.sizes.width
        elif stage != "distill":
            trained += self.sizes.weights
        weight_bytes = 2 if groups["backbone"].get("weights") == "bfloat16" else 4
        kept = settings.batch_size / settings.accumulate * self.kept_bytes(stage, element)
        return weight_bytes * self.sizes.weights + 16 * trained + kept

    def kept_bytes(self, stage: str, element: int) -> float:
        """Bytes that live at the end of the longest row's forward pass in a stage, with elements of so many bytes."""
        if stage == "distill":
            return self._distilled_bytes(element)
        return self.activation_bytes(element) + self._logit_bytes(element)

    @property
    def forward_flops(self) -> float:
        """FLOPs of a forward pass of one row."""
        return self.matrix_flops + self._attention_flops

    @property
    def matrix_flops(self) -> float:
        """FLOPs of one row in the matrices of blocks and of a decoder's head."""
        tokens = self.inputs.sequences * self.inputs.length
        head = self.sizes.outputs * self.sizes.width if self.sizes.causal else 0
        return 2.0 * tokens * (self.sizes.layers * self.sizes.block_weights + head)

    @property
    def _attention_flops(self) -> float:
        s, b, n = self.sizes, self.inputs.sequences, self.inputs.length
        sizes: dict[str, Any] = {"b": b, "h": s.heads, "hk": s.kv_heads, "n": n, "dv": s.head_dim}
        if self.spec is None:
            return float(s.layers * softmax_attention_cost(**sizes, d=s.head_dim, causal=s.causal).flops)
        width, features = map_sizes(self.spec, s.head_dim)
        calls = [(form, features) for form in ("naive", "chunk")]
        if (short := product_width(self.spec, s.head_dim)) and n <= features:
            calls = [("naive", short)]
        attention = min(linear_attention_cost(form, **sizes, f=f, causal=s.causal).flops for form, f in calls)
        heads = s.heads + s.kv_heads
        maps = feature_map_cost(b=b, heads=heads, n=n, d=s.head_dim, width=width, f=features).flops
        return float(s.layers * (attention + maps))

    @property
    def _map_weights(self) -> int:
        if self.spec is None:
            return 0
        width, _ = map_sizes(self.spec, self.sizes.head_dim)
        is_learned = self.spec.mechanism.name != "performer"
        return self.sizes.layers * (self.sizes.heads + self.sizes.kv_heads) * self.sizes.head_dim * width * is_learned

    @property
    def _distillation_flops(self) -> float:
        """FLOPs of the loss of one row over all layers, with its gradients."""
        assert self.spec is not None
        s, b, n = self.sizes, self.inputs.sequences, self.inputs.length
        pairs = b * s.heads * (n * (n + 1) // 2 if s.causal else n * n)
        width, features = map_sizes(self.spec, s.head_dim)
        heads = s.heads + s.kv_heads
        maps = feature_map_cost(b=b, heads=heads, n=n, d=s.head_dim, width=width, f=features).flops
        loss = distillation_cost(pairs=pairs, token_heads=b * n * s.heads, d=s.head_dim).flops
        return float(s.layers * (loss + 3 * maps))

    @property
    def _feature_bytes(self) -> float:
        """Bytes of a token's features in one layer, or of its products, scores and weights; they are float32."""
        if self.spec is None:
            return 0.0
        s, features = self.sizes, map_sizes(self.spec, self.sizes.head_dim)[1]
        if (short := product_width(self.spec, s.head_dim)) and self.inputs.longest <= features:
            return 4.0 * ((s.heads + s.kv_heads) * short + 3 * s.heads * self.inputs.longest)
        return 4.0 * (s.heads + s.kv_heads) * features

    def activation_bytes(self, element: int) -> float:
        """Bytes that autograd keeps of the longest row's forward pass, with elements of so many bytes but in the norms.

        In each block: the inputs of two norms in float32, their outputs, queries, keys and values, features, the output
        of attention, and the MLP's hidden values before and after the activation. At the end: logarithms of a decoder's
        probabilities.
        """
        s = self.sizes
        heads = (s.heads + 2 * s.kv_heads) * s.head_dim
        block = 8 * s.width + element * (3 * s.width + heads + s.mlp_matrices * s.mlp_width) + self._feature_bytes
        return float(self._longest * (s.layers * block + (4 * s.outputs if s.causal else 0)))

    def read_bytes(self, element: int) -> float:
        """Bytes of the longest row while it is read without gradients: what one block makes, and the logits."""
        return self.activation_bytes(element) / self.sizes.layers + self._logit_bytes(element)

    def _logit_bytes(self, element: int) -> float:
        """Bytes of the longest row's logits, as the model gives them and in float32, at the end of the forward pass."""
        return float(self._longest * self.sizes.outputs * (4 + element) if self.sizes.causal else 0)

    @property
    def _longest(self) -> int:
        """Tokens of the longest row."""
        return self.inputs.sequences * self.inputs.longest

    def _distilled_bytes(self, element: int) -> float:
        """Bytes that autograd keeps of the longest row's distillation: queries, keys and features of all layers."""
        s = self.sizes
        layer = element * (s.heads + s.kv_heads) * s.head_dim + self._feature_bytes
        return float(self._longest * s.layers * layer)


def map_sizes(spec: ModelSpec, head_dim: int) -> tuple[int, int]:
    """The width of the matrix of a model's feature map, 0 without one, and its number of features."""
    name, given = spec.mechanism.name, spec.options.get("feature_dim")
    chosen = given if isinstance(given, int) else head_dim
    if name == "rebased":
        return chosen, chosen * (chosen + 1) // 2
    if name == "hedgehog":
        return chosen, chosen * (2 if spec.options["negate"] else 1)
    if name in ("t2r", "t2r_hh", "performer"):
        return chosen, chosen
    if name == "taylor":
        return chosen if given else 0, 1 + chosen + chosen * (chosen + 1) // 2
    return 0, head_dim * (2 if name == "cosformer" else 1)


def product_width(spec: ModelSpec, head_dim: int) -> int:
    """The size of the vectors whose products give the scores of few tokens, 0 for maps that always make features."""
    given = spec.options.get("feature_dim")
    chosen = given if isinstance(given, int) else head_dim
    return chosen if spec.mechanism.name in ("taylor", "rebased") else 0
