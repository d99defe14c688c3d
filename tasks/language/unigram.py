"""Unigrams: what the frequencies of the training tokens alone predict, the floor that a language model has to beat."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..data.documents import TokenizedDocument

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def with_unigram(
    test: Iterable[TokenizedDocument], train: Sequence[NDArray[np.int32]], vocab_size: int
) -> tuple[TokenizedDocument, ...]:
    """Test documents with their likelihood under the add-one-smoothed unigrams of `train`, unless that is empty."""
    import numpy as np

    if not train:
        return tuple(test)
    log_probabilities = unigram_log_probabilities(np.concatenate(train), vocab_size)
    return tuple(
        replace(document, unigram_nll_nats=-float(log_probabilities[document.tokens].sum())) for document in test
    )


def unigram_log_probabilities(train_tokens: NDArray[np.int32], vocab_size: int) -> NDArray[np.float64]:
    """Log-probability in nats of each token id, by its add-one-smoothed frequency; `[vocab_size]`."""
    import numpy as np

    counts = np.bincount(train_tokens, minlength=vocab_size) + 1
    logs: NDArray[np.float64] = np.log(counts / counts.sum())
    return logs


def unigram_perplexity(
    train_tokens: NDArray[np.int32], test_documents: Sequence[NDArray[np.int32]], vocab_size: int
) -> float:
    """Perplexity of test documents under the add-one-smoothed unigrams of the training tokens."""
    import numpy as np

    test_tokens = np.concatenate(test_documents)
    return math.exp(-float(unigram_log_probabilities(train_tokens, vocab_size)[test_tokens].mean()))
