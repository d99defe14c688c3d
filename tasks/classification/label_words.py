"""Classes as words that a masked language model puts into a gap: `head=mlm` of GLUE and of `classification`.

    bench run --tasks glue/sst2:head=mlm,glue/sst2 --backbone bert-base --recipe finetuned-conversion ...
    bench run --tasks classification:dataset=ORG/NAME:head=mlm:words=bad+good ...

A prompt with the model's mask token follows a text, `[CLS] text It was [MASK]. [SEP]`, or stands between the two of a
pair, `[CLS] a [SEP] [MASK], b [SEP]`. Each class has one word, and the class is that whose word is the likeliest at the
mask. So the model starts from its pretrained head instead of a new one, and can be measured as it is. `words` are in
the order of the classes, `prompt` has `[MASK]` in the place of the gap, whatever the model's own mask token is called.

Everything else is the protocol of the pooled head, which `head=pooled`, the default, is: the same rows, metrics and
training. Regressions have no words.

Source: Schick and Schütze, PET (arXiv 2001.07676); Gao et al., LM-BFF (arXiv 2012.15723). The words and prompts are
ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

from ...adapters.base import Adapter, Settings, UnsupportedError
from ...results.names import unknown_name
from ...results.record import DataIdentity, Metric
from ..base import Row, Sources, Task, TaskData, TaskInfo, TaskScale
from ..data.batches import TokenIds
from ..data.documents import cached_tokens
from ..data.pretrained_tokenizer import PretrainedTokenizer
from ..data.tokenization import Tokenizer
from ..heavy import np
from . import any_data, glue
from .text_classification import LabelledTextReader, TextClassification
from .text_pairs import encode_texts

if TYPE_CHECKING:
    from datasets import Dataset

HEADS = ("pooled", "mlm")
GAP = "[MASK]"
"""Stands for the gap in a prompt."""
PROMPTS = (f"It was {GAP}.", f"{GAP},")
"""The prompt after a text, and that between two."""
SETTINGS: Settings = {"head": "pooled", "words": "", "prompt": ""}
"""The settings that both heads share with no other task; empty words and prompts are the task's own."""


@dataclass(frozen=True)
class Words:
    """How classes become words.

    Attributes:
        words: The word of each class.
        prompt: Text with `[MASK]` in the place of the gap.

    Raises:
        ValueError: The prompt has not exactly one gap, or two classes have one word.
    """

    words: tuple[str, ...]
    prompt: str

    def __post_init__(self) -> None:
        if self.prompt.count(GAP) != 1:
            raise ValueError(f"prompt is {self.prompt!r}; it takes a text with one {GAP}, such as {PROMPTS[0]!r}")
        if len(set(self.words)) < len(self.words):
            raise ValueError(f"words is {'+'.join(self.words)!r}; it takes another word for each class")

    def ids(self, tokenizer: PretrainedTokenizer) -> tuple[int, ...]:
        """The token of each word.

        Raises:
            ValueError: The tokenizer has no single token for a word.
        """
        found = []
        for word in self.words:
            spelled = [row for row in tokenizer.encode([word, f" {word}"]) if len(row) == 1]
            if not spelled or int(spelled[0][0]) == tokenizer.inner.unk_token_id:
                raise ValueError(
                    f"words has {word!r}, for which the tokenizer of {tokenizer.name} has no single token; choose "
                    "words that it has, as words=bad+good"
                )
            found.append(int(spelled[0][0]))
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class LabelWordClassification(TextClassification):
    """The protocol with words for classes; see the module's docstring.

    Attributes:
        words: The words and the prompt; words that are empty are the names of the classes.
    """

    words: Words

    @classmethod
    def of(cls, task: TextClassification, words: Words) -> Self:
        """The task with words for its classes.

        Raises:
            ValueError: The task is a regression, or has another number of classes.
        """
        if task.num_classes == 1:
            raise ValueError(f"head is 'mlm', and {task.info.name} is a regression, whose values are no words")
        if words.words and len(words.words) != task.num_classes:
            raise ValueError(
                f"words is {'+'.join(words.words)!r}; {task.info.name} has {task.num_classes} classes, which take as "
                "many words, such as " + "+".join(f"word{i}" for i in range(task.num_classes))
            )
        return cls(**{each.name: getattr(task, each.name) for each in fields(task)}, words=words)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """As of `TextClassification`, with the tokens of the words in the shape.

        Raises:
            DataUnavailableError: The data or a requested metric are not available.
            UnsupportedError: The backbone has no mask token.
            ValueError: A word has no single token, or there are no words.
        """
        data = super().load(settings, sources, limit)
        words = self.words if self.words.words else replace(self.words, words=data.shape.labels)
        if len(words.words) != self.num_classes:
            raise ValueError("the classes have no names; set words=WORD+WORD, in the order of the classes")
        tokenizer = _masking(self.reader(settings, sources).load_tokenizer())
        shape = replace(data.shape, label_words=words.ids(tokenizer), mask_token=tokenizer.inner.mask_token_id)
        return replace(data, shape=shape)

    def reader(self, settings: Settings, sources: Sources) -> LabelledTextReader:
        """The reader of the rows, whose tokens have the prompt in them."""
        plain = super().reader(settings, sources)
        chosen = plain.chosen
        folder = plain.text.token_folder(sources, chosen.test_rows, chosen.max_length, self.words.prompt)
        return PromptedReader(plain.task, chosen, sources, plain.text, folder)


@dataclass(frozen=True)
class PromptedReader(LabelledTextReader):
    """Reads a task's rows with a prompt in each."""

    def _tokens(self, part: str, rows: Dataset, tokenizer: Tokenizer) -> list[TokenIds]:
        assert isinstance(self.task, LabelWordClassification)
        masking = _masking(tokenizer)
        before, _, after = self.task.words.prompt.partition(GAP)
        gap = [np.array([masking.inner.mask_token_id], np.int32)]
        prompt = np.concatenate([*masking.encode([before]), *gap, *masking.encode([after])])
        room = self.chosen.max_length - len(prompt)

        def encoded() -> list[TokenIds]:
            return [
                with_prompt(row, prompt, masking.inner.sep_token_id)
                for row in encode_texts(self.task.texts(rows), masking, room)
            ]

        return cached_tokens(self.folder / f"{part}.npz", tokenizer.vocab_size, encoded)


def with_prompt(row: TokenIds, prompt: TokenIds, separator: int) -> TokenIds:
    """A row with a prompt: before the separator that ends a single text, or after that which ends the first of two."""
    ends = np.flatnonzero(row == separator)
    place = len(row) if not len(ends) else ends[0] if len(ends) == 1 else ends[0] + 1
    prompted: TokenIds = np.concatenate([row[:place], prompt, row[place:]]).astype(np.int32)
    return prompted


def _masking(tokenizer: Tokenizer) -> PretrainedTokenizer:
    """The tokenizer, if it has a mask token.

    Raises:
        UnsupportedError: It has none, or the backbone is trained from scratch.
    """
    if isinstance(tokenizer, PretrainedTokenizer) and tokenizer.inner.mask_token_id is not None:
        return tokenizer
    raise UnsupportedError(
        f"head is 'mlm', and the tokenizer {tokenizer.name} has no mask token; it takes a pretrained masked language "
        "model, such as bert-base or minilm-l6"
    )


def _head_of(settings: Settings) -> tuple[bool, dict[str, Any], Settings]:
    """Whether words stand for classes, the settings of that, and those of the protocol.

    Raises:
        ValueError: There is no such head, or words are set for the pooled one.
    """
    own = {name: settings.get(name, default) for name, default in SETTINGS.items()}
    rest = {name: value for name, value in settings.items() if name not in SETTINGS}
    if own["head"] not in HEADS:
        raise unknown_name("head", str(own["head"]), HEADS)
    if own["head"] == "pooled" and (given := [name for name in ("words", "prompt") if own[name]]):
        raise ValueError(f"{given[0]} is {own[given[0]]!r}, which only head=mlm reads")
    return own["head"] == "mlm", own, rest


def _words_of(own: Mapping[str, Any], usual: Sequence[str], texts: int) -> Words:
    words = tuple(word for word in str(own["words"]).split("+") if word) or tuple(usual)
    return Words(words, str(own["prompt"]) or PROMPTS[texts - 1])


def _with_heads(info: TaskInfo) -> TaskInfo:
    scales: dict[str, TaskScale] = {
        name: replace(each, settings={**each.settings, **SETTINGS}) for name, each in info.scales.items()
    }
    return replace(info, scales=scales)


@dataclass(frozen=True)
class GlueWithHeads:
    """A task of GLUE with either head.

    Attributes:
        extends: The task with a pooled head.
        usual: The word of each class; empty for a regression.
    """

    extends: TextClassification
    usual: tuple[str, ...]

    @property
    def info(self) -> TaskInfo:
        """The declaration, with the settings of the heads."""
        return _with_heads(self.extends.info)

    @property
    def num_classes(self) -> int:
        """Number of classes, or 1 for a regression."""
        return self.extends.num_classes

    def decided(self, settings: Settings, data: DataIdentity | None) -> Task:  # noqa: ARG002
        """The task itself for the pooled head, so that its results stay what they are."""
        return self if _head_of(settings)[0] else self.extends

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """As of `TextClassification`.

        Raises:
            UnsupportedError: The backbone is trained from scratch.
            ValueError: A setting is wrong, or the task is a regression.
        """
        task, rest = self._protocol(settings)
        _check_backbone(settings, sources)
        return task.identify(rest, sources)

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """As of `LabelWordClassification`."""
        task, rest = self._protocol(settings)
        return task.load(rest, sources, limit)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The class of the likeliest word of each test row."""
        task, rest = self._protocol(settings)
        return task.predict(adapter, data, rest)

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The metrics of the pooled head."""
        task, rest = self._protocol(settings)
        return task.score(rows, rest)

    def _protocol(self, settings: Settings) -> tuple[TextClassification, Settings]:
        is_words, own, rest = _head_of(settings)
        if not is_words:
            return self.extends, rest
        words = _words_of(own, self.usual, len(self.extends.columns))
        return LabelWordClassification.of(self.extends, words), rest


@dataclass(frozen=True)
class ClassificationWithHeads:
    """`classification` with either head.

    Attributes:
        info: The declaration, with the settings of the heads.
        extends: The task with a pooled head.
    """

    info: TaskInfo
    extends: any_data.OwnClassification

    def decided(self, settings: Settings, data: DataIdentity | None) -> Task:
        """The task of the pooled head itself, or this one with what its data decide."""
        is_words, _, rest = _head_of(settings)
        chosen = self.extends.decided(rest, data)
        return replace(self, info=_with_heads(chosen.info)) if is_words else chosen

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """As of `OwnClassification`.

        Raises:
            DataUnavailableError: The data are not available.
            UnsupportedError: The backbone is trained from scratch.
            ValueError: A setting is wrong, or the labels are numbers.
        """
        _check_backbone(settings, sources)
        protocol, own, (chosen, there) = self._resolve(settings, sources)
        return replace(own, details={**own.details, **protocol.identify(chosen, there).details})

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """As of `LabelWordClassification`."""
        protocol, _, (chosen, there) = self._resolve(settings, sources)
        return protocol.load(chosen, there, limit)

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The class of the likeliest word of each test row."""
        return self.extends.predict(adapter, data, _head_of(settings)[2])

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """The metrics of the pooled head."""
        return self.extends.score(rows, _head_of(settings)[2])

    def _resolve(
        self, settings: Settings, sources: Sources
    ) -> tuple[TextClassification, DataIdentity, tuple[Settings, Sources]]:
        is_words, own, rest = _head_of(settings)
        protocol, identity, shared = self.extends._resolve(rest, sources)
        if is_words:
            protocol = LabelWordClassification.of(protocol, _words_of(own, (), len(protocol.columns)))
        return protocol, identity, shared


def _check_backbone(settings: Settings, sources: Sources) -> None:
    if _head_of(settings)[0] and sources.tokenizer is None:
        raise UnsupportedError(
            "head is 'mlm', and the backbone is trained from scratch; it takes a pretrained masked language model, "
            "such as bert-base or minilm-l6"
        )


COLA = GlueWithHeads(glue.COLA, ("wrong", "right"))
SST2 = GlueWithHeads(glue.SST2, ("terrible", "great"))
MRPC = GlueWithHeads(glue.MRPC, ("no", "yes"))
STSB = GlueWithHeads(glue.STSB, ())
QQP = GlueWithHeads(glue.QQP, ("no", "yes"))
MNLI = GlueWithHeads(glue.MNLI, ("yes", "maybe", "no"))
QNLI = GlueWithHeads(glue.QNLI, ("yes", "no"))
RTE = GlueWithHeads(glue.RTE, ("yes", "no"))
WNLI = GlueWithHeads(glue.WNLI, ("no", "yes"))
CLASSIFICATION = ClassificationWithHeads(_with_heads(any_data.CLASSIFICATION.info), any_data.CLASSIFICATION)
