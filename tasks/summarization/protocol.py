"""Summarisation: a decoder learns to write summaries, writes those of the test split, and is scored by ROUGE.

The task `samsum` has one data set; `summarization` takes any other in the layout of the hub, named by settings:

    bench run --tasks summarization:dataset=ORG/NAME:source=COLUMN:target=COLUMN --backbone smollm2-135m ...
    bench run --tasks summarization --set dataset=ORG/NAME --set source=COLUMN --set target=COLUMN ...

The first form names the data in the record's task, so that one run can have several data sets. `config` is the folder
of parquet files, if the repository has several; `revision` is the commit that is read on the hub. A mirror needs no
revision.

SAMSum has 14,731 messenger dialogues to train on (Gliwa et al., arXiv 1911.12237). The paper converts Llama-2 7B on it
(table 11): two epochs of distillation, then LoRA of rank 8 and alpha 16 on the projections of queries, keys, values and
outputs, all of it in bfloat16. `--scale paper --backbone llama2-7b` has those values. With `context_length=1024` only
the longest few dialogues are cut, and GPT-2's positions suffice. The data are read from the mirror; the hub is asked
only with `--set revision=COMMIT`, because the declaration pins no commit.

Protocol: `prompts.py` makes prompts and training rows, `rouge.py` scores. Models are trained on the training split and
validated on the validation split. They write greedily unless `temperature` is set, in batches padded on the left, until
the stop token or `max_new_tokens`. A record has all of this in its settings and the identity of its data; a note names
the stop token.

Source: Hedgehog, arXiv 2402.04347, table 11 and appendix B.5. The paper states no learning rates, batch, prompt,
lengths, decoding or implementation of ROUGE; these are our choice, so its numbers compare only roughly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...adapters.base import Adapter, Capability, Examples, ModelShape, Settings
from ...results.record import DataIdentity, Metric
from ..base import FROM_SCRATCH, INPUT, Row, Sources, TaskData, TaskInfo, TaskScale
from ..data.tokenization import TextIdentity, Tokenizer, identify_text, load_tokenizer
from ..metrics.requested import measure_answers, metric_names, try_metrics
from ..settings import as_settings, parse_settings
from .data import Pair, SummaryData
from .prompts import Prompt, Prompter, write_after
from .rouge import dropped_letters, rouge_metrics, rouge_scores, scorer_identity
from .settings import SOURCE, AnyDataSettings, SummarizationSettings

_TEXTS = ("Amanda baked cookies and will bring some to Jerry.", "They meet at seven, in front of the cinema.")
"""Texts on which requested metrics are tried before a model is trained."""

RECIPES = ("pretrained-conversion-lora", "pretrained-conversion", "finetuned-conversion", *FROM_SCRATCH, "zero-shot")


@dataclass(frozen=True)
class EvaluationPrompts:
    """The rows that a model is evaluated on.

    Attributes:
        pairs: Texts and summaries.
        prompts: The prompt of each text.
        tokenizer: Turns what the model writes into text.
    """

    pairs: Sequence[Pair]
    prompts: Sequence[Prompt]
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Summarization:
    """The task; see the module's docstring.

    Attributes:
        info: The declaration.
        data: The data set; None for the one that the settings name.
    """

    info: TaskInfo
    data: SummaryData | None = None

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which rows and which tokenizer `load` would use, and what scores the summaries.

        Raises:
            DataUnavailableError: The data or the tokenizer are not available.
            ValueError: A setting is wrong, or a column does not exist or holds no text.
        """
        return self._resolve(settings, sources)[2].data

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Tokenizes the rows; `test` is the `EvaluationPrompts` of the first `limit` rows.

        Raises:
            DataUnavailableError: The data or a requested metric are not available.
            ValueError: A column does not exist, no row has text and summary, the template leaves no room for a text, or
                a requested metric does not fit texts.
        """
        chosen, data, text = self._resolve(settings, sources)
        notes = list(text.tokenizer.notes)
        trains = chosen.train_rows != 0
        train = _pairs(data, data.train, sources, chosen.train_rows, notes) if trains else []
        validation = _pairs(data, data.validation, sources, None, notes) if trains and data.validation else []
        test = _pairs(data, data.test, sources, chosen.test_rows, notes)[:limit]
        several = any(len(pair.references) > 1 for pair in test)
        try_metrics(chosen.more_metrics, [[text] for text in _TEXTS] if several else _TEXTS, _TEXTS)
        notes += _dropped_note(chosen, test)
        tokenizer = load_tokenizer(
            text.tokenizer, lambda: (part for pair in train for part in (pair.source, pair.target))
        )
        prompter = Prompter(tokenizer, chosen)
        prompts = prompter.prompts([pair.source for pair in test])
        notes.append(f"a summary ends at token {tokenizer.stop_token}, {tokenizer.stop_text}, or at max_new_tokens")
        notes += tokenizer.notes
        notes += _cut_note("test", sum(prompt.cut for prompt in prompts), len(test))
        return TaskData(
            shape=ModelShape(chosen.context_length, tokenizer.vocab_size),
            test=EvaluationPrompts(test, prompts, tokenizer),
            train=_examples("training", prompter, train, notes),
            validation=_examples("validation", prompter, validation, notes),
            notes=tuple(notes),
            details=text.tokenizer.loaded(tokenizer.prefix_text),
        )

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """What the model writes for each test row, with its ROUGE.

        Raises:
            FloatingPointError: The model gives a logit that is not a number.
            UnsupportedError: The model cannot generate.
        """
        chosen, test = self._parse(settings), data.test
        written = write_after(adapter, [prompt.ids for prompt in test.prompts], test.tokenizer.stop_token, chosen)
        texts = [test.tokenizer.decode(each.ids).strip() for each in written]
        references = _references(test.pairs)
        scores = rouge_scores(references, texts, chosen.rouge_tokenizer)
        columns = (test.pairs, test.prompts, written, texts, references, scores)
        return [
            {
                "id": pair.id,
                "row": pair.place,
                "prediction": text,
                "reference": reference,
                "generated_tokens": len(each.ids),
                "finished": int(each.finished),
                "truncated": int(prompt.cut),
                **score,
                INPUT: prompt.text,
            }
            for pair, prompt, each, text, reference, score in zip(*columns, strict=True)
        ]

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """ROUGE of the rows' texts, and statistics of their lengths.

        `generated_tokens` is the mean length of summaries, `finished` the share of summaries that end with the stop
        token, `truncated` the share of texts that were cut to fit. The metrics that `more_metrics` names come last.
        """
        from ...results.stats.statistics import mean_stderr

        chosen = self._parse(settings)
        references, texts = ([row[key] for row in rows] for key in ("reference", "prediction"))
        metrics = rouge_metrics(rouge_scores(references, texts, chosen.rouge_tokenizer))
        for name, unit in (("generated_tokens", "tokens"), ("finished", "1"), ("truncated", "1")):
            values = [row[name] for row in rows]
            metrics.append(Metric(name, sum(values) / len(rows), unit, None, mean_stderr(values), len(rows)))
        return metrics + measure_answers(chosen.more_metrics, rows, "reference", "prediction")

    def _parse(self, settings: Settings) -> SummarizationSettings:
        return parse_settings(AnyDataSettings if self.data is None else SummarizationSettings, settings)

    def _resolve(self, settings: Settings, sources: Sources) -> tuple[SummarizationSettings, SummaryData, TextIdentity]:
        """The settings, the data set that they name, and its text and tokenizer."""
        chosen = self._parse(settings)
        data = chosen.data if isinstance(chosen, AnyDataSettings) else self.data
        assert data is not None
        data = replace(data, config=chosen.config, revision=chosen.revision)
        splits = (data.test,) if chosen.train_rows == 0 else (data.train, data.validation, data.test)
        details = {"rouge": scorer_identity(chosen.rouge_tokenizer), "padding": "left"}
        identity = data.identify([split for split in splits if split], sources, details)
        text = identify_text(self.info, identity, chosen.tokenizer, sources, data=data, train_rows=chosen.train_rows)
        return chosen, data, text


def _pairs(data: SummaryData, split: str, sources: Sources, most: int | None, notes: list[str]) -> list[Pair]:
    pairs, empty = data.pairs(split, sources, most)
    if not pairs:
        raise ValueError(f"split {split} of {data.repo} has no row with both text and summary")
    notes += [f"{empty} rows of split {split} without text or summary were left out"] if empty else []
    return pairs


def _examples(part: str, prompter: Prompter, pairs: Sequence[Pair], notes: list[str]) -> Examples | None:
    rows = prompter.rows([pair.source for pair in pairs], [pair.target for pair in pairs])
    notes += _cut_note(part, rows.cut, len(pairs))
    if rows.left_out:
        notes.append(
            f"{rows.left_out} of {len(pairs)} {part} rows were left out, as their summary leaves no room for a text"
        )
    return rows.examples


def _cut_note(part: str, cut: int, of: int) -> list[str]:
    return [f"{cut} of {of} {part} texts were cut at their end to fit context_length"] if cut else []


def _references(pairs: Sequence[Pair]) -> list[str | list[str]]:
    """The reference of each document; a list for each document if any has several, so that all rows have one form."""
    if all(len(pair.references) == 1 for pair in pairs):
        return [pair.target for pair in pairs]
    return [list(pair.references) for pair in pairs]


def _dropped_note(chosen: SummarizationSettings, pairs: Sequence[Pair]) -> list[str]:
    """A note on what ROUGE's default tokenizer drops of the references; empty if it drops nothing or is not used."""
    uses = [name for name in metric_names(chosen.more_metrics) if "rouge" in name]
    if chosen.rouge_tokenizer == "default":
        uses = ["rouge_tokenizer=default", *uses]
    dropped, of = dropped_letters([text for pair in pairs for text in pair.references])
    if not (uses and dropped):
        return []
    return [
        f"{', '.join(uses)}: ROUGE's default tokenizer drops {dropped} of {of} letters and digits of the references "
        f"({dropped / of:.2%}), all but a-z and 0-9; set rouge_tokenizer=unicode to count them"
    ]


def _scales(small: SummarizationSettings) -> Mapping[str, TaskScale]:
    """The scales of a summarisation task whose data and prompt are those of `small`."""
    smoke = replace(
        small, context_length=128, max_new_tokens=24, tokenizer="bpe:1024", train_rows=64, test_rows=6, batch_size=6
    )
    paper = replace(small, context_length=1024, max_new_tokens=128, tokenizer="auto", train_rows=None, test_rows=None)
    smoke_stage: Settings = {"steps": 3, "batch_size": 2, "eval_rows": 2, "eval_batch_size": 2}
    small_stage: Settings = {"epochs": 1.0, "batch_size": 8, "eval_rows": 32, "eval_batch_size": 8}
    paper_train: Settings = {**_POOLED, "epochs": 10.0, "batch_size": 32, "lr": 1e-4, "eval_every": 0}
    return {
        "smoke": TaskScale(as_settings(smoke), train=_POOLED, stages=dict.fromkeys(_STAGES, smoke_stage)),
        "small": TaskScale(as_settings(small), train=_POOLED, stages=dict.fromkeys(_STAGES, small_stage)),
        "paper": TaskScale(as_settings(paper), train=paper_train),
    }


_STAGES = ("teacher", "distill", "finetune", "lora")
_POOLED: Settings = {"length_pool": 32}
_SMALL = SummarizationSettings(context_length=384, max_new_tokens=64, train_rows=128, test_rows=64)

SUMMARIZATION = Summarization(
    TaskInfo(
        name="summarization",
        version=1,
        summary="ROUGE of summaries on a data set of yours: set dataset=ORG/NAME, source=COLUMN and target=COLUMN",
        main_metric="rouge1",
        data=("any of texts and summaries, in the layout of the hub",),
        licence="that of the data set",
        citation="Lin, ROUGE, ACL 2004; the protocol of samsum",
        needs=frozenset({Capability.LANGUAGE_MODEL, Capability.GENERATE}),
        backbone="smollm2-135m",
        recipes=RECIPES,
        scales=_scales(AnyDataSettings(**vars(_SMALL))),
    )
)

SAMSUM = Summarization(
    replace(
        SUMMARIZATION.info,
        name="samsum",
        summary="ROUGE of summaries of messenger dialogues",
        data=("knkarthick/samsum",),
        licence="CC BY-NC-ND 4.0",
        citation="Gliwa et al., SAMSum, arXiv 1911.12237; Lin, ROUGE, ACL 2004; Hedgehog, arXiv 2402.04347, table 11",
        scales=_scales(replace(_SMALL, prompt=f"Summarize this dialogue:\n{SOURCE}\n\nSummary:\n")),
    ),
    SummaryData("knkarthick/samsum", source="dialogue", target="summary"),
)
