"""`passkey` and `needle`: a fact that stands somewhere in a long real text must be told at its end.

    bench run --tasks passkey --models hedgehog@hf:my-hedgehog --set lengths=512,1024,2048,4096

The text is that of a corpus's test documents, cut at a random place; facts are sentences of ours, put in at depths that
are spread evenly over the text. `passkey` has one fact, a number of five digits. `needle` has several of one form, each
a word for a city, and asks for one of them, so that a model must tell them apart: a random one of the words is right
with the chance of one over their number. The prompt ends where the answer begins, and each prompt has exactly its
length in tokens of the model's tokenizer. The answer is scored by its log-likelihood, and counts as right if every
token of it is the likeliest.

Models may be trained or converted on the training documents of the corpus first, in rows of `context_length` tokens;
lengths above it test what lies beyond the trained length. A pretrained model has seen contexts of its own length.

Source: Mohtashami and Jaggi, Landmark Attention (arXiv 2305.16300), for the pass key; Hsieh et al., RULER (arXiv
2404.06654), for several needles of one form. The sentences, the text around them and the sizes are ours.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...adapters.base import Adapter, Settings
from ...results.record import DataIdentity, Metric
from ..base import FROM_SCRATCH, INPUT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..data.batches import TokenIds
from ..data.tokenization import Tokenizer
from ..heavy import np
from ..own_data import settings_for
from ..settings import as_settings, check_ranges, parse_settings
from . import wikitext
from .perplexity import RECIPES, Perplexity, corpus_info

WORDS = (
    *("amber", "basket", "candle", "desert", "engine", "forest", "garden", "hammer", "island", "jacket", "kettle"),
    *("ladder", "marble", "needle", "orange", "pepper", "rabbit", "silver", "tunnel", "velvet", "window", "yellow"),
)
CITIES = ("Paris", "London", "Rome", "Berlin", "Madrid", "Vienna", "Oslo", "Dublin", "Athens", "Lisbon", "Prague")
DIGITS = 5


@dataclass(frozen=True)
class HiddenFactSettings:
    """What is hidden, where, and in which text.

    Attributes:
        lengths: Tokens of the prompts.
        depths: Places of the asked fact, spread evenly from the beginning of the text to its end.
        samples: Prompts of each length and depth.
        facts: Facts in a prompt, one of which is asked for; 1 for a pass key.
        context_length: Tokens of a training row.
        tokenizer: `backbone`, `auto`, `gpt2`, `bpe:N` or `byte`; see `tokenization.py`.
        train_bytes: Most bytes of the training documents; 0 reads the test split alone, for models as they are.
        test_bytes: Most bytes of the test documents.
        data_seed: Seed of texts and facts; the seed of a run does not change them.
        batch_size: Prompts per forward pass.

    Raises:
        ValueError: A number is too small or too large.
    """

    lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: int = 5
    samples: int = 10
    facts: int = 1
    context_length: int = 1024
    tokenizer: str = "auto"
    train_bytes: int | None = None
    test_bytes: int | None = None
    data_seed: int = 0
    batch_size: int = 8

    def __post_init__(self) -> None:
        least = {"depths": (1, None), "samples": (1, None), "batch_size": (1, None), "facts": (1, len(CITIES))}
        check_ranges(self, least)
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"lengths is {self.lengths}; it takes numbers of tokens from 1, such as 512,1024")


@dataclass(frozen=True)
class HiddenFact:
    """One prompt.

    Attributes:
        length: Its tokens, which end where the answer begins.
        depth: Place of the asked fact, from 0 for the beginning to 1 for the end.
        distance: Tokens from the asked fact's end to the end of the prompt.
        prompt: Token ids.
        answers: Token ids of the answer of each fact, the asked one first.
        texts: The same, as texts.
    """

    length: int
    depth: float
    distance: int
    prompt: TokenIds
    answers: tuple[TokenIds, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class HiddenFacts:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
        corpus: The task whose documents are read.
    """

    info: TaskInfo
    corpus: Perplexity

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which documents and which tokenizer `load` would use.

        Raises:
            DataUnavailableError: The documents or the tokenizer are not available.
            ValueError: A setting is wrong.
        """
        chosen = parse_settings(HiddenFactSettings, settings)
        return self._protocol.identify(_of_corpus(chosen), sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Hides the facts; `test` is a tuple of `HiddenFact`, the first `limit` of them.

        Raises:
            DataUnavailableError: The data are not available.
            ValueError: A length has no room for the facts, or the test documents are shorter than the longest prompt.
        """
        chosen = parse_settings(HiddenFactSettings, settings)
        data = self._protocol.load(_of_corpus(chosen), sources)
        reader = self._protocol.reader(_of_corpus(chosen), sources)
        tokenizer = reader.load_tokenizer()
        stream = np.concatenate([document.tokens for document in data.test.documents])
        prompts = tuple(hidden_facts(chosen, tokenizer, data.test.end_of_text, stream))[:limit]
        longest = max(len(each.prompt) + len(answer) - 1 for each in prompts for answer in each.answers)
        shape = replace(data.shape, context_length=max(longest, chosen.context_length))
        return replace(data, shape=shape, test=prompts, describes_state=False)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The log-likelihood of each answer; one row per prompt."""
        chosen, prompts = parse_settings(HiddenFactSettings, settings), data.test
        requests = [(each.prompt.tolist(), answer.tolist()) for each in prompts for answer in each.answers]
        # Prompts of one length are read together; the answers to one prompt share its reading.
        scores = adapter.loglikelihood(requests, chosen.batch_size, share_context=len(prompts[0].answers) > 1)
        rows, of = [], len(prompts[0].answers)
        for i, each in enumerate(prompts):
            own = scores[i * of : (i + 1) * of]
            likely = [score.loglikelihood_nats for score in own]
            rows.append({
                "id": i,
                "length": each.length,
                "depth": each.depth,
                "distance": each.distance,
                "answer": each.texts[0],
                "correct": own[0].is_greedy,
                "answer_nats": -likely[0],
                "chosen": each.texts[int(np.argmax(likely))],
                INPUT: each.prompt.tolist(),
            })  # fmt: skip
        return rows

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The share of right answers: of all, at each length, and at each depth over all lengths.

        `choice_accuracy` is the share of prompts whose answer is the likeliest among those of all facts in the text;
        `answer_nats` is the negative log-likelihood of the right answer.
        """
        chosen = parse_settings(HiddenFactSettings, settings)
        lengths, depths = (sorted({row[key] for row in rows}) for key in ("length", "depth"))
        metrics = [_share("accuracy", [row["correct"] for row in rows])]
        if chosen.facts > 1:
            metrics.append(_share("choice_accuracy", [row["chosen"] == row["answer"] for row in rows]))
            metrics.append(Metric("chance", 1 / chosen.facts, "1", None, None, len(rows)))
        for length in lengths:
            same = [row for row in rows if row["length"] == length]
            at = {"seq_len": length}
            metrics.append(replace(_share("length_accuracy", [row["correct"] for row in same]), at=at))
            if chosen.facts > 1:
                picked = [row["chosen"] == row["answer"] for row in same]
                metrics.append(replace(_share("length_choice_accuracy", picked), at=at))
            metrics.append(replace(_mean_nats([row["answer_nats"] for row in same]), at=at))
        for depth in depths if len(depths) > 1 else ():
            same = [row for row in rows if row["depth"] == depth]
            metrics.append(replace(_share("depth_accuracy", [row["correct"] for row in same]), at={"depth": depth}))
        return metrics

    @property
    def _protocol(self) -> Perplexity:
        return replace(self.corpus, info=self.info)


def hidden_facts(
    chosen: HiddenFactSettings, tokenizer: Tokenizer, prefix: int, stream: TokenIds
) -> Iterator[HiddenFact]:
    """The prompts, in the order of samples, then lengths, then depths, so that the first ones have every length.

    Args:
        chosen: The settings.
        tokenizer: The tokenizer of `stream`.
        prefix: Token that begins every prompt.
        stream: Token ids of the text.

    Raises:
        ValueError: A length has no room for the facts, or the text is shorter than the longest prompt.
    """
    rng = np.random.default_rng(chosen.data_seed)
    places = np.linspace(0, 1, chosen.depths) if chosen.depths > 1 else np.array([0.5])
    for _ in range(chosen.samples):
        for length in chosen.lengths:
            for depth in places.tolist():
                yield _hidden_fact(rng, chosen, tokenizer, prefix, stream, (length, depth))


def _hidden_fact(
    rng: np.random.Generator,
    chosen: HiddenFactSettings,
    tokenizer: Tokenizer,
    prefix: int,
    stream: TokenIds,
    where: tuple[int, float],
) -> HiddenFact:
    length, depth = where
    facts, question, texts = _sentences(rng, chosen.facts)
    *told, asked = tokenizer.encode([*facts, question])
    answers = tuple(tokenizer.encode([f" {text}" for text in texts]))
    room = length - 1 - len(asked) - sum(map(len, told))
    if room < 0 or len(stream) < room:
        raise ValueError(
            f"a prompt of {length} tokens needs {length - 1 - room} for facts and question and {max(room, 0)} of text; "
            f"the test documents have {len(stream)}: set lengths from {length - room} to {length - room + len(stream)}"
        )
    start = int(rng.integers(len(stream) - room + 1))
    text = stream[start : start + room]
    # The asked fact is the first; the others stand at random places.
    cuts = [round(depth * room), *rng.integers(room + 1, size=len(told) - 1).tolist()]
    order = sorted(range(len(told)), key=lambda i: (cuts[i], i))
    parts, begin = [np.array([prefix], np.int32)], 0
    after_asked = 0
    for i in order:
        parts += [text[begin : cuts[i]], told[i]]
        begin = cuts[i]
        if i == 0:
            after_asked = sum(map(len, parts))
    prompt = np.concatenate([*parts, text[begin:], asked]).astype(np.int32)
    return HiddenFact(length, depth, length - after_asked, prompt, answers, texts)


def _sentences(rng: np.random.Generator, count: int) -> tuple[list[str], str, tuple[str, ...]]:
    """The facts, the asked one first, the question that its answer follows, and the answers."""
    if count == 1:
        key = str(rng.integers(10 ** (DIGITS - 1), 10**DIGITS))
        return [f"\nThe pass key is {key}. Remember it: {key} is the pass key.\n"], "\nThe pass key is", (key,)
    cities = rng.choice(CITIES, count, replace=False).tolist()
    words = rng.choice(WORDS, count, replace=False).tolist()
    facts = [f"\nThe secret word of {city} is {word}.\n" for city, word in zip(cities, words, strict=True)]
    return facts, f"\nThe secret word of {cities[0]} is", tuple(words)


def _of_corpus(chosen: HiddenFactSettings) -> Settings:
    """The settings that the corpus has too."""
    names = {"context_length", "tokenizer", "train_bytes", "test_bytes"}
    return {name: value for name, value in settings_for(HiddenFactSettings, chosen).items() if name in names}


def _share(name: str, right: Sequence[bool]) -> Metric:
    from ...results.stats.statistics import accuracy_stderr

    return Metric(name, sum(right) / len(right), "1", True, accuracy_stderr(sum(right), len(right)), len(right))


def _mean_nats(values: Sequence[float]) -> Metric:
    from ...results.stats.statistics import mean_stderr

    return Metric("answer_nats", float(np.mean(values)), "nats", False, mean_stderr(values), len(values))


_SMOKE = HiddenFactSettings((192, 320), 2, 4, 1, 128, "bpe:1024", 1_000_000, 100_000)
_SMALL = HiddenFactSettings((128, 256, 512), 3, 10, 1, 256, "bpe:2048", None, None)
_SCALES = {"smoke": _SMOKE, "small": _SMALL, "paper": HiddenFactSettings()}
_TRAIN: dict[str, Settings] = {
    "smoke": {"steps": 60},
    "small": {"steps": 1_500, "batch_size": 8, "lr": 2e-3, "eval_every": 500, "eval_rows": 128},
    "paper": {},
}

_hidden_info = functools.partial(
    corpus_info,
    main_metric="accuracy",
    data=wikitext.WIKITEXT2.info.data,
    licence=wikitext.WIKITEXT2.info.licence,
    backbone="smollm2-135m",
    recipes=tuple(dict.fromkeys((*FROM_SCRATCH, "zero-shot", *RECIPES))),
)


def _scales(facts: int) -> dict[str, TaskScale]:
    return {
        name: TaskScale(as_settings(replace(each, facts=facts)), train=_TRAIN[name], backbone={"rope": True})
        for name, each in _SCALES.items()
    }


PASSKEY = HiddenFacts(
    _hidden_info(
        name="passkey",
        summary="A number hidden in a long text of Wikipedia, told at its end (accuracy by length and depth)",
        citation="Mohtashami and Jaggi, Landmark Attention, arXiv 2305.16300",
        scales=_scales(facts=1),
    ),
    wikitext.WIKITEXT2,  # by its module: a name of this module would make it part of that task's code
)
NEEDLE = HiddenFacts(
    _hidden_info(
        name="needle",
        summary="One of several facts of one form, hidden in a long text of Wikipedia (accuracy by length and depth)",
        citation="Hsieh et al., RULER, arXiv 2404.06654",
        scales=_scales(facts=4),
    ),
    wikitext.WIKITEXT2,  # by its module: a name of this module would make it part of that task's code
)
