"""The task `copy`: write down again the tokens read before a separator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hedgebench.adapters.base import IGNORED, Adapter, Capability, Examples, ModelShape, Settings
from hedgebench.results.record import DataIdentity, Metric
from hedgebench.tasks.base import NO_TEXT, Row, Sources, TaskData, TaskInfo, TaskScale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEPARATOR = 0


@dataclass(frozen=True)
class Copy:
    """Sequences `x1 ... xn 0 x1 ... xn`; the second half is to be predicted."""

    info: TaskInfo

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """The sequences' hash."""
        train, test = (make_sequences(settings, split) for split in ("train", "test"))
        fingerprint = hashlib.sha256(train.tobytes() + test.tobytes()).hexdigest()
        splits = {"train": len(train), "test": len(test)}
        return DataIdentity("copy", "1", fingerprint, "generated", splits)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Training examples, and whole sequences to test on."""
        train = make_sequences(settings, "train")
        half = train.shape[1] // 2
        targets = train[:, 1:].copy()
        targets[:, : half - 1] = IGNORED
        return TaskData(
            shape=ModelShape(context_length=train.shape[1], vocab_size=_whole(settings, "vocab_size")),
            test=make_sequences(settings, "test")[:limit],
            train=Examples(train[:, :-1], targets),
            details=NO_TEXT,
        )

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """One row for each sequence: how many tokens of its second half were right."""
        import torch

        tokens = torch.as_tensor(data.test, dtype=torch.long, device=adapter.device)
        guesses = adapter.logits(tokens[:, :-1]).argmax(dim=-1)
        half = tokens.shape[1] // 2
        right = (guesses[:, half:] == tokens[:, half + 1 :]).sum(dim=1)
        return [{"sample": i, "right": int(r), "of": half} for i, r in enumerate(right)]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The share of tokens that were right."""
        n = len(rows)
        shares = [row["right"] / row["of"] for row in rows]
        mean = sum(shares) / n
        variance = sum((share - mean) ** 2 for share in shares) / max(1, n - 1)
        return [Metric("token_accuracy", mean, "1", True, (variance / n) ** 0.5, n)]


def make_sequences(settings: Settings, split: str) -> NDArray[np.int32]:
    """Token ids `[rows, 2 length + 1]` of `train` or `test`."""
    import numpy as np

    rng = np.random.default_rng([_whole(settings, "data_seed"), len(split)])
    rows, length = _whole(settings, f"{split}_rows"), _whole(settings, "length")
    words = rng.integers(1, _whole(settings, "vocab_size"), size=(rows, length), dtype=np.int32)
    return np.concatenate([words, np.full((rows, 1), SEPARATOR, np.int32), words], axis=1)


def _whole(settings: Settings, name: str) -> int:
    value = settings[name]
    if not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}; it takes a whole number")
    return value


_SETTINGS: Settings = {"length": 8, "vocab_size": 8, "train_rows": 64, "test_rows": 16, "data_seed": 0}

COPY = Copy(
    info=TaskInfo(
        name="copy",
        version=1,
        summary="Synthetic: write down again what was read (token accuracy)",
        main_metric="token_accuracy",
        data=("generated",),
        licence="Apache-2.0",
        citation="an example, from no paper",
        needs=frozenset({Capability.LANGUAGE_MODEL}),
        recipes=("scratch",),
        scales={scale: TaskScale(_SETTINGS, train={"steps": 5}) for scale in ("smoke", "small", "paper")},
    )
)
