"""Long Range Arena: what its tasks have in common, which is a protocol.

We follow the PyTorch benchmark published with Nystromformer (Xiong et al., arXiv 2102.03902; `LRA/code/lra_config.py`
of its repository); which one Hedgehog's authors followed is not known to us. `PAPER_BACKBONE` and each task's `paper`
scale are the benchmark's hyper-parameters: two pre-norm layers of width 64 with two heads, learned positions, the mean
over tokens, and a classifier with one hidden layer; AdamW without weight decay at a peak rate of 1e-4. Differences:

- Padding is marked by its length. The benchmark takes every token id 0 for padding, black pixels too.
- The mean is taken over real tokens; there, over the padded length.
- Validation keeps the lowest loss; there, the highest accuracy, for some tasks on a part of the test split.
- The rate falls by half a cosine; there, by a line.
- Dropout is on embeddings and residual branches; there, also inside the MLP and on softmax's attention weights.

| task | sequence | classes | splits at `paper` |
|---|---|---|---|
| `lra/listops` | expressions, 501 to 1,999 tokens | 10 | 96,000 / 2,000 / 2,000, generated |
| `lra/text` | film reviews in bytes, up to 4,096 | 2 | 24,000 / 1,000 / 25,000 |
| `lra/retrieval` | two documents in bytes, up to 4,000 each | 2 | 147,086 / 18,090 / 17,437 |
| `lra/image` | grey pixels, 1,024 | 10 | 45,000 / 5,000 / 10,000 |
| `lra/pathfinder` | grey pixels, 1,024 | 2 | 160,000 / 20,000 / 20,000, generated |
| `lra/digits` | grey pixels, 64 | 10 | 1,198 / 200 / 399, embedded |

`lra/digits` is no task of the benchmark: it stands in for `lra/image` where CIFAR-10 cannot be had, under its own name,
and does not count towards the group's score.

Source: Tay et al., arXiv 2011.04006; Hedgehog, arXiv 2402.04347.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...adapters.base import Capability, Settings
from ..base import TaskInfo, TaskScale
from ..settings import as_settings

PAPER_BACKBONE: Settings = {
    "layers": 2, "heads": 2, "kv_heads": 2, "width": 64, "mlp_width": 128, "head_width": 128, "dropout": 0.1
}  # fmt: skip
_BENCHMARK_OPTIMISER: Settings = {
    "lr": 1e-4, "final_lr": 0.0, "weight_decay": 0.0, "beta2": 0.999, "clip_norm": 0.0, "patience": 0
}  # fmt: skip
_CUT_DOWN_BACKBONE: Settings = {**PAPER_BACKBONE, "dropout": 0.0}


def lra_info(
    name: str,
    summary: str,
    *,
    data: str,
    licence: str,
    citation: str,
    settings: Mapping[str, Any],
    train: Mapping[str, Settings],
) -> TaskInfo:
    """The declaration of a task of the benchmark.

    Args:
        name: Such as `listops`.
        summary: One line for the listing.
        data: Id of the data set read, or of the generator.
        licence: Licence of the data.
        citation: Where the data come from.
        settings: The task's settings at each scale, as its dataclass.
        train: Hyper-parameters of training at each scale, besides those that are the benchmark's for all tasks.
    """
    backbones = {"smoke": _CUT_DOWN_BACKBONE, "small": _CUT_DOWN_BACKBONE, "paper": PAPER_BACKBONE}
    optimisers: Mapping[str, Settings] = {"smoke": {}, "small": {}, "paper": _BENCHMARK_OPTIMISER}
    return TaskInfo(
        name=f"lra/{name}",
        version=1,
        summary=f"Long Range Arena: {summary} (accuracy)",
        main_metric="accuracy",
        data=(data,),
        licence=licence,
        citation=f"{citation}; Tay et al., Long Range Arena, arXiv 2011.04006",
        needs=frozenset({Capability.CLASSIFIER}),
        backbone="encoder",
        recipes=("scratch",),
        scales={
            scale: TaskScale(
                settings=as_settings(settings[scale]),
                train={**optimisers[scale], **train[scale]},
                backbone=backbones[scale],
            )
            for scale in backbones
        },
    )
