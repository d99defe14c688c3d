"""`lra/listops`: the value of a nested expression of digits, 501 to 1,999 tokens long at `paper` scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version

from ...adapters.base import ModelShape
from ...results.record import DataIdentity
from ..base import Sources
from .declaration import lra_info
from .expressions import TOKENS, generate_expressions
from .protocol import SequenceClassification
from .sequence_cache import SequenceCache, Sequences

GENERATOR_VERSION = "1"


@dataclass(frozen=True)
class ListOpsSettings:
    """How expressions are made; the defaults are the benchmark's.

    Attributes:
        min_length: All expressions have more tokens.
        max_length: All expressions have fewer tokens.
        max_depth: Depth at which every node is a digit; from 2.
        max_arguments: Most arguments of an operation; from 2.
        train_rows: Training expressions.
        validation_rows: Expressions that choose the checkpoint.
        test_rows: Test expressions.
        data_seed: Seed of the data; a run's own seed moves initialisation and order, not the data.
        batch_size: Rows per forward pass in evaluation.
        more_metrics: Metrics beside accuracy; see `metrics/requested.py`.

    Raises:
        ValueError: Bounds that keep no expression.
    """

    min_length: int = 500
    max_length: int = 2_000
    max_depth: int = 10
    max_arguments: int = 10
    train_rows: int = 96_000
    validation_rows: int = 2_000
    test_rows: int = 2_000
    data_seed: int = 0
    batch_size: int = 32
    more_metrics: str = ""

    def __post_init__(self) -> None:
        for name in ("max_depth", "max_arguments"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}; it takes 2 or more, and 10 is usual")
        if self.max_length < self.min_length + 2:
            raise ValueError(
                f"max_length is {self.max_length}; it takes at least min_length + 2, {self.min_length + 2} here, "
                "because both bounds are left out"
            )


@dataclass(frozen=True)
class ListOps:
    """Generated expressions, no two of all splits alike.

    Test expressions are drawn first and training ones last, so that fewer training rows change nothing else.

    Attributes:
        settings: What its methods take.
    """

    settings: type[ListOpsSettings] = ListOpsSettings

    def shape(self, chosen: ListOpsSettings) -> ModelShape:
        """A classifier of ten digits."""
        return ModelShape(context_length=chosen.max_length, vocab_size=len(TOKENS), num_classes=10)

    def identify(self, chosen: ListOpsSettings, sources: Sources) -> DataIdentity:
        """The generator, and a hash of what it makes."""
        return self._cache(chosen, sources).identity("listops", GENERATOR_VERSION, {"data_seed": chosen.data_seed})

    def split(self, name: str, chosen: ListOpsSettings, sources: Sources) -> Sequences:
        """One split."""
        return self._cache(chosen, sources).split(name)

    def _cache(self, chosen: ListOpsSettings, sources: Sources) -> SequenceCache:
        key = f"{GENERATOR_VERSION} {version('numpy')} {replace(chosen, batch_size=1, more_metrics='')}"
        return SequenceCache.keyed("listops", key, sources, lambda: _generate(chosen))


def _generate(chosen: ListOpsSettings) -> Mapping[str, Sequences]:
    import numpy as np

    sizes = {"test": chosen.test_rows, "validation": chosen.validation_rows, "train": chosen.train_rows}
    made = generate_expressions(
        np.random.default_rng(chosen.data_seed),
        sum(sizes.values()),
        min_length=chosen.min_length,
        max_length=chosen.max_length,
        max_depth=chosen.max_depth,
        max_arguments=chosen.max_arguments,
    )
    whole, ends = Sequences(made.tokens, made.answers, made.lengths), np.cumsum(list(sizes.values()))
    return {
        name: Sequences(whole.tokens[end - rows : end], whole.labels[end - rows : end], made.lengths[end - rows : end])
        for (name, rows), end in zip(sizes.items(), ends, strict=True)
    }


LISTOPS = SequenceClassification(
    lra_info(
        "listops",
        "the value of a nested expression of digits",
        data="generated",
        licence="Apache-2.0",
        citation="Nangia and Bowman, ListOps, arXiv 1804.06028",
        settings={
            "smoke": ListOpsSettings(
                min_length=30, max_length=128, train_rows=2_000, validation_rows=200, test_rows=500
            ),
            "small": ListOpsSettings(
                min_length=100, max_length=512, train_rows=20_000, validation_rows=500, test_rows=2_000
            ),
            "paper": ListOpsSettings(),
        },
        train={
            "smoke": {"steps": 60, "batch_size": 32, "eval_every": 20, "length_pool": 32},
            "small": {"steps": 3_000, "batch_size": 32, "eval_every": 250, "length_pool": 32},
            "paper": {
                "steps": 5_000, "batch_size": 32, "warmup": 0.2, "eval_every": 50, "eval_rows": 2_000, "length_pool": 32
            },
        },
    ),
    ListOps(),
)  # fmt: skip
