"""`lra/text`: is a film review positive? The model reads bytes, up to 4,096 at `paper` scale.

Longer reviews lose their end. The benchmark selects checkpoints on the test split, as its data have no validation
split; here 1,000 training rows are held out instead, as in `text_classification.py`.
"""

from __future__ import annotations

from ..classification.text_classification import HELD_OUT_ROWS, TextClassification, TextSettings
from ..data.sources import DatasetId
from .protocol import lra_info

IMDB = DatasetId("stanfordnlp/imdb", "plain_text", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31", ("train", "test"))

TEXT = TextClassification(
    lra_info(
        "text",
        "is a film review positive, in bytes?",
        data=IMDB.pinned,
        citation="Maas et al., Large Movie Review Dataset, ACL 2011",
        scales={
            "smoke": (
                TextSettings(max_length=256, tokenizer="byte", train_rows=1_000, test_rows=500),
                {"steps": 40, "eval_every": 20, "eval_rows": 200},
            ),
            "small": (
                TextSettings(max_length=1_000, tokenizer="byte", train_rows=10_000, test_rows=2_000),
                {"steps": 1_500, "eval_every": 250},
            ),
            "paper": (
                TextSettings(max_length=4_096, tokenizer="byte"),
                {"steps": 20_000, "warmup": 0.4, "eval_every": 500, "eval_rows": HELD_OUT_ROWS},
            ),
        },
        train={"batch_size": 32, "length_pool": 32},
    ),
    IMDB,
    columns=("text",),
    metrics=("accuracy",),
    test_splits={"test": ""},
)
