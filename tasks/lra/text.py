"""`lra/text`: is a film review positive? The model reads bytes, up to 4,096 at `paper` scale.

Longer reviews lose their end. The benchmark selects checkpoints on the test split, as it has no other; we hold out
1,000 training rows instead, as `text_classification.py` does.
"""

from __future__ import annotations

from ..classification.text_classification import HELD_OUT_ROWS, TextClassification, TextSettings
from ..data.sources import DatasetId
from .protocol import lra_info

REPO, CONFIG = "stanfordnlp/imdb", "plain_text"
REVISION = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"

TEXT = TextClassification(
    lra_info(
        "text",
        "is a film review positive, in bytes?",
        data=f"{REPO}/{CONFIG}@{REVISION}",
        citation="Maas et al., Large Movie Review Dataset, ACL 2011",
        settings={
            "smoke": TextSettings(max_length=256, tokenizer="byte", train_rows=1_000, test_rows=500),
            "small": TextSettings(max_length=1_000, tokenizer="byte", train_rows=10_000, test_rows=2_000),
            "paper": TextSettings(max_length=4_096, tokenizer="byte"),
        },
        train={
            "smoke": {"steps": 40, "batch_size": 32, "eval_every": 20, "eval_rows": 200, "length_pool": 32},
            "small": {"steps": 1_500, "batch_size": 32, "eval_every": 250, "length_pool": 32},
            "paper": {
                "steps": 20_000, "batch_size": 32, "warmup": 0.4, "eval_every": 500, "eval_rows": HELD_OUT_ROWS,
                "length_pool": 32,
            },
        },
    ),
    DatasetId(REPO, CONFIG, REVISION, ("train", "test")),
    columns=("text",),
    metrics=("accuracy",),
    test_splits={"test": ""},
)  # fmt: skip
