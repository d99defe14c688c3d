"""`activation_sparsity`: how few neurons of a model's MLPs are active at a token of real text.

A neuron is active at a token if the size of its activation is above `threshold` times the largest one of its layer at
that token; ReLU makes the others exactly 0, and GELU and gated MLPs nearly so. Activations are the inputs of the MLP's
last projection, so that what is not active could be left out of it. A conversion may change which and how many neurons
work, as their inputs come through another attention. Windows are those of `perplexity_by_position`, of the trained
length.

Source: Li et al., The Lazy Neuron Phenomenon (arXiv 2210.06313), for ReLU. The threshold, and the share of neurons that
hold most of the squared sum, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...adapters.base import Adapter, Settings, UnsupportedError, WithMlps
from ...results.record import DataIdentity, Metric
from ..base import INPUT, Row, Sources, TaskData
from ..heavy import Tensor, torch
from ..own_data import settings_for
from ..settings import check_ranges, parse_settings
from . import wikitext
from .by_position import WindowedCorpus, WindowSettings, window_scales
from .perplexity import corpus_info

ENERGY = 0.9
"""Share of the squared sum of a layer's activations that `energy_share` asks for."""


@dataclass(frozen=True)
class SparsitySettings(WindowSettings):
    """How active neurons are counted.

    Attributes:
        threshold: Least size of an active neuron, as a share of the largest of its layer at the token.
        windows: Most windows that are read.

    Raises:
        ValueError: A number is outside its range.
    """

    threshold: float = 0.01
    windows: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, {"threshold": (0, 1), "windows": (1, None)})


@dataclass(frozen=True)
class ActivationSparsity(WindowedCorpus):
    """The task; see the module's docstring."""

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """As of `WindowedCorpus`."""
        return super().identify(_windows(settings), sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """As of `WindowedCorpus`."""
        chosen = parse_settings(SparsitySettings, settings)
        return super().load(_windows(settings), sources, min(limit or chosen.windows, chosen.windows))

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The shares of active neurons in each layer; one row per window.

        Raises:
            UnsupportedError: The model's MLPs cannot be looked into.
        """
        if not isinstance(adapter, WithMlps):
            raise UnsupportedError("this model's MLPs cannot be looked into")
        threshold = parse_settings(SparsitySettings, settings).threshold
        rows: list[Row] = []
        for i, window in enumerate(data.test.tokens):
            active: list[float] = []
            energy: list[float] = []

            def visit(_: int, neurons: Tensor, active: list[float] = active, energy: list[float] = energy) -> None:
                for share, found in zip(shares(neurons, threshold), (active, energy), strict=True):
                    found.append(share)

            adapter.visit_mlps(torch.as_tensor(window, device=adapter.device).long()[None], visit)
            rows.append({"document": i, "active": active, "energy": energy, INPUT: window.tolist()})
        return rows

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:  # noqa: ARG002
        """The mean share of active neurons over layers (`active_share`) and in each layer.

        `energy_share` is the smallest share of a layer's neurons that holds 90 % of the squared sum of its activations.
        """
        return [
            _mean("active_share", [sum(row["active"]) / len(row["active"]) for row in rows]),
            _mean("energy_share", [sum(row["energy"]) / len(row["energy"]) for row in rows]),
            *(
                replace(_mean("layer_active_share", [row["active"][layer] for row in rows]), at={"layer": layer})
                for layer in range(len(rows[0]["active"]))
            ),
        ]


def shares(neurons: Tensor, threshold: float) -> tuple[float, float]:
    """The share of active neurons, and the share that holds 90 % of the squared sum; means over tokens.

    Args:
        neurons: Activations `[b, n, m]`.
        threshold: Least size of an active one, as a share of the largest at its token.
    """
    sizes = neurons.abs()
    active = (sizes > threshold * sizes.amax(-1, keepdim=True)).double().mean()
    ordered = sizes.double().square().sort(dim=-1, descending=True).values
    held = ordered.cumsum(-1) - ordered < ENERGY * ordered.sum(-1, keepdim=True)
    return float(active), float(held.double().mean())


def _mean(name: str, values: Sequence[float]) -> Metric:
    from ...results.stats.statistics import mean_stderr

    return Metric(name, sum(values) / len(values), "1", False, mean_stderr(values), len(values))


def _windows(settings: Settings) -> Settings:
    """The settings of the windows, which are of the trained length."""
    chosen = settings_for(WindowSettings, parse_settings(SparsitySettings, settings))
    return {**chosen, "test_length": chosen["context_length"]}


ACTIVATION_SPARSITY = ActivationSparsity(
    corpus_info(
        name="activation_sparsity",
        summary="Share of the neurons of MLPs that are active at a token of WikiText-2",
        main_metric="active_share",
        data=wikitext.WIKITEXT2.info.data,
        licence=wikitext.WIKITEXT2.info.licence,
        citation="Li et al., The Lazy Neuron Phenomenon, arXiv 2210.06313",
        scales=window_scales(threshold=0.01, windows=32),
    ),
    wikitext.WIKITEXT2,
)
