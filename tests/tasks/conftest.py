"""Fakes that know no attention: models with a known answer, and tiny mirrors."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgebench.adapters.base import Adapter, Capability, ModelShape
from hedgebench.tasks.base import Sources
from hedgebench.tasks.measuring import timing

REPO_ROOT = Path(__file__).parents[2]
AGREEMENT = """
import datasets
import evaluate


class Agreement(evaluate.Metric):
    def _info(self):
        kind = "string" if self.config_name == "text" else "int64"
        kinds = {"predictions": datasets.Value(kind), "references": datasets.Value(kind)}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(kinds))

    def _compute(self, predictions, references):
        if self.config_name == "binary" and max(references) > 1:
            raise ValueError(f"Target is multiclass: {references}")
        hits = sum(p == r for p, r in zip(predictions, references))
        if self.config_name == "counted":
            return {"hits": hits, "rows": len(references), "rest": None}
        return {"kinds": [0, 1]} if self.config_name == "wordy" else {"agreement": hits / len(references)}
"""


class WindowModel:
    """A language model that gives the log-probabilities of the next token for any list of tokens before it."""

    capabilities = frozenset({Capability.LANGUAGE_MODEL})

    def __init__(self, vocab_size: int, context_length: int, log_probs: Callable[[list[int]], NDArray[np.float64]]):
        self.shape = ModelShape(context_length, vocab_size)
        self.log_probs = log_probs
        self.scored: list[list[int]] = []
        self.strides: list[int | None] = []

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu")

    def logits(self, input_ids: Any, attention_mask: Any = None) -> Any:
        import torch

        rows = [[self.log_probs(row[: i + 1]) for i in range(len(row))] for row in input_ids.tolist()]
        return torch.as_tensor(np.array(rows), dtype=torch.float32)

    def rolling_loglikelihood(
        self, tokens: Sequence[int], *, prefix_token: int, stride: int | None = None, batch_size: int = 8
    ) -> NDArray[np.float64]:
        self.scored.append(list(tokens))
        self.strides.append(stride)
        length = self.shape.context_length
        step = stride or length
        stream = [prefix_token, *tokens]
        scores = []
        for i in range(len(tokens)):
            window_end = max(length, -(-(i + 1 - length) // step) * step + length)
            scores.append(self.log_probs(stream[max(0, window_end - length) : i + 1])[tokens[i]])
        return np.array(scores)


@pytest.fixture
def brief_collections() -> Iterator[None]:
    """Leaves what there is before a test out of the collections of garbage that the test makes, one for each point.

    Of all that the tests have loaded, each would take half a second, and what it freed would count as the test's room.
    """
    gc.collect()
    gc.freeze()
    yield
    if "hypothesis" not in sys.modules:  # else tests/conftest.py has frozen what is imported, for good
        gc.unfreeze()


@pytest.fixture
def window_model() -> Callable[..., tuple[WindowModel, Adapter]]:
    """A fake, as itself and as the interface that tasks see."""

    def build(vocab_size: int, context_length: int, log_probs: Any = None) -> tuple[WindowModel, Adapter]:
        uniform = np.full(vocab_size, -np.log(vocab_size))
        model = WindowModel(vocab_size, context_length, log_probs or (lambda context: uniform))
        return model, cast(Adapter, model)

    return build


class VectorModel:
    """A model of sequences of vectors whose outputs are a function of the whole batch of them."""

    capabilities = frozenset({Capability.VECTOR_SEQUENCES})

    def __init__(self, outputs: Callable[[NDArray[np.float64]], NDArray[np.float64]]):
        self.outputs = outputs

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu")

    def sequence_outputs(self, vectors: Any) -> Any:
        import torch

        return torch.as_tensor(self.outputs(vectors.double().numpy()), dtype=torch.float32)


@pytest.fixture
def vector_model() -> Callable[..., Adapter]:
    """A fake that reads vectors, as the interface that tasks see."""
    return lambda outputs: cast(Adapter, VectorModel(outputs))


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """An empty mirror and cache, offline."""
    (tmp_path / "mirror").mkdir()
    return Sources(mirror=tmp_path / "mirror", cache=tmp_path / "cache", offline=True)


@pytest.fixture
def write_split(sources: Sources) -> Callable[..., Path]:
    """Writes `CONFIG/SPLIT-00000-of-00001.parquet` with one column of text into the mirror."""
    import pandas

    def write(repo: str, config: str, split: str, texts: Sequence[str], root: Path | None = None) -> Path:
        assert sources.mirror is not None
        folder = (root or sources.mirror / "datasets" / repo) / config
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{split}-00000-of-00001.parquet"
        pandas.DataFrame({"text": list(texts)}).to_parquet(file)
        return file

    return write


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    """The tokenizer of a tiny BERT over the words a to j, with truncation and padding left in its `tokenizer.json`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *"abcdefghij", "[", "]", "sep"])}
    tokenizer: Any = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=5)
    folder = tmp_path / "bert"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


@pytest.fixture
def real_mirror() -> Path:
    """The mirror of real data sets; the test is skipped where there is none."""
    mirror = Path(os.environ.get("HEDGEBENCH_MIRROR") or REPO_ROOT.parent / "shared" / "hub")
    if not (mirror / "datasets").is_dir():
        pytest.skip(f"there is no mirror at {mirror}; set HEDGEBENCH_MIRROR")
    return mirror


class SleepClock:
    """Stands in for the module `time`: nothing but sleeping takes time, and then exactly as long as asked."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def perf_counter(self) -> float:
        return self.now_s

    def perf_counter_ns(self) -> int:
        return round(1e9 * self.now_s)


@pytest.fixture
def sleep_clock(monkeypatch: pytest.MonkeyPatch) -> SleepClock:
    """The clock that timing reads, moved by its own `sleep` alone, whatever else the machine does."""
    clock = SleepClock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package copies scripts into a folder that it imports from: one of our own."""
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [each for each in sys.path if not Path(each, "evaluate_modules").is_dir()])
    for name in _copied():  # of another folder
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    yield
    for name in _copied():
        del sys.modules[name]


def _copied() -> list[str]:
    return [name for name in sys.modules if name.startswith("evaluate_modules")]


@pytest.fixture
def agreement(tmp_path: Path, modules: None) -> str:
    """The folder of a metric of the package `evaluate`: the share of equal pairs."""
    folder = tmp_path / "agreement"
    folder.mkdir()
    (folder / "agreement.py").write_text(AGREEMENT, encoding="utf-8")
    return str(folder)
