"""What a task is: a declaration, and four steps from data to numbers.

`identify` names the data that would be read (cheap, before anything runs); `load` reads it; `predict` asks the model;
`score` turns predictions into metrics without the model. Modules of tasks take numpy and torch from `heavy.py`, and
import other heavy libraries inside functions, so that tasks are listed quickly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ..adapters.base import Adapter, Capability, Examples, ModelShape, Settings
from ..results.record import DataIdentity, Metric, Scalar

Row: TypeAlias = dict[str, Any]
"""One prediction, JSON-ready: what `score` needs for one document, sample or timed point.

A row whose `status` is `error` has a `message`, and may have the exception's type as `error` and the last lines of its
traceback as `log_tail`. An error row fails its cell; the cell keeps its other rows and metrics.
"""

INPUT = "input"
"""Key of a row that holds the model's input; dropped unless samples are logged."""


class DataUnavailableError(Exception):
    """Data is neither in the mirror nor reachable; the message names the places looked in and what to do."""


@dataclass(frozen=True)
class BackboneTokenizer:
    """Which tokenizer, or image processor, a pretrained backbone was trained with.

    Attributes:
        name: The backbone's name.
        fingerprint: Hash or revision of the backbone's checkpoint.
        folder: The checkpoint's folder; None while a run is planned and the checkpoint may not be fetched yet.
        source: Where the checkpoint comes from: `folder`, `mirror`, `package` or `hub`.
    """

    name: str
    fingerprint: str
    folder: Path | None = None
    source: str = "folder"


@dataclass(frozen=True)
class Sources:
    """Where data may come from.

    Attributes:
        mirror: Folder laid out as `datasets/ORG/NAME` and `models/ORG/NAME`; looked in first.
        cache: Folder for derived files, such as trained tokenizers.
        offline: Never touch the network.
        tokenizer: Tokenizer or image processor of the pretrained backbone that the data is for; None for models trained
            from scratch.
    """

    mirror: Path | None
    cache: Path
    offline: bool = False
    tokenizer: BackboneTokenizer | None = None


@dataclass(frozen=True)
class TaskScale:
    """A task's defaults at one scale; each can be set from the command line.

    Attributes:
        settings: The task's own settings, such as `context_length`.
        train: Overrides of the training of models from scratch, such as `steps`.
        stages: Overrides of the stages of conversions (`teacher`, `distill`, `finetune`, `lora`), by stage.
        backbone: Overrides of a from-scratch backbone's size, such as `layers`.
    """

    settings: Settings = field(default_factory=dict)
    train: Settings = field(default_factory=dict)
    stages: Mapping[str, Settings] = field(default_factory=dict)
    backbone: Settings = field(default_factory=dict)


FROM_SCRATCH = ("scratch", "scratch-conversion")
"""Recipes that start from random weights; the first is the default of tasks that train."""


@dataclass(frozen=True)
class TaskInfo:
    """The declaration of a task.

    Attributes:
        name: Such as `wikitext2` or `glue/cola`.
        version: Raised whenever the same predictions would score differently, or the protocol changes.
        summary: One line for `bench list tasks`.
        main_metric: The metric that ranks models.
        data: Ids of the data sets read, or of the generator.
        licence: Licence of the data.
        citation: Where the data and the protocol come from.
        needs: Capabilities an adapter must have.
        backbone: Backbone used when none is asked for.
        recipes: Recipes that suit the task; the first that fits the backbone is the default. `("zero-shot",)` if
            nothing is trained.
        scales: Defaults for `smoke`, `small` and `paper`.
        own_device: Whether timings are measured, so that nothing else may run on the device.
        weights_in_dtype: Whether a pretrained model's weights are held in the dtype that it runs in, without autocast,
            as in the program whose scores the task matches; only for tasks that train nothing.
        model: The one model spec of a task that brings contenders of its own, whatever models are asked for; empty for
            all others.
    """

    name: str
    version: int
    summary: str
    main_metric: str
    data: tuple[str, ...]
    licence: str
    citation: str
    needs: frozenset[Capability]
    scales: Mapping[str, TaskScale]
    backbone: str = "gpt"
    recipes: tuple[str, ...] = (*FROM_SCRATCH, "zero-shot")
    own_device: bool = False
    weights_in_dtype: bool = False
    model: str = ""


NO_TEXT: Mapping[str, Scalar] = {"tokenizer_source": "none", "prefix_token": "none"}
"""Details of data whose tokens are drawn, or are pixels or symbols: no tokenizer made them from a text."""


@dataclass(frozen=True)
class TaskData:
    """Data ready for a model.

    Attributes:
        shape: The shapes of the model's inputs and outputs.
        test: The test data that `predict` reads; each task has a type of its own.
        train: Training examples; None when the task trains nothing.
        validation: Validation examples, for early stopping.
        notes: Substitutes and fallbacks, in words, for the record.
        details: What else the record says of the data. Every task states where the tokenizer came from
            (`tokenizer_source`) and the token before a text (`prefix_token`); one without texts has `NO_TEXT`.
        describes_state: Whether the record has the size of the decode state at the context length. That takes a prefill
            of that length, which costs many times a task whose texts are far shorter.
        wants_teacher: Whether the model is also compared with the softmax model that it was converted from, whose
            weights are then kept in host memory before a stage changes them.
    """

    shape: ModelShape
    test: Any
    train: Examples | None = None
    validation: Examples | None = None
    notes: tuple[str, ...] = ()
    details: Mapping[str, Scalar] = field(default_factory=dict)
    describes_state: bool = True
    wants_teacher: bool = False


@runtime_checkable
class Task(Protocol):
    """One thing to measure."""

    @property
    def info(self) -> TaskInfo:
        """The declaration."""
        ...

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which data `load` would read, without loading it and without torch.

        Raises:
            DataUnavailableError: The data are not available.
            UnsupportedError: The task cannot run on this backbone, or on this machine.
            ValueError: The task does not take a setting.
        """
        ...

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Reads the data; `limit` is the most test rows or documents to keep, None for all.

        Raises:
            DataUnavailableError: The data are not available.
        """
        ...

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The model's answers, one row for each document, sample or timed point."""
        ...

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """Metrics of predictions."""
        ...


@runtime_checkable
class TaskFamily(Protocol):
    """Tasks made on demand from their names, such as `lm_eval/arc_easy`, because there are too many to declare."""

    @property
    def prefix(self) -> str:
        """The prefix of the family's names and of no others, such as `lm_eval/`."""
        ...

    @property
    def summary(self) -> str:
        """One line for `bench list tasks`."""
        ...

    @property
    def data(self) -> tuple[str, ...]:
        """Ids of the data sets read; a description if each task has its own."""
        ...

    def expand(self, name: str) -> Sequence[str]:
        """The names of the tasks that `name` denotes: itself, or those of a group.

        Raises:
            UnknownNameError: No task has this name, or too many match it.
        """
        ...

    def get(self, name: str) -> Task:
        """The task of that name.

        Raises:
            UnknownNameError: There is no such task.
        """
        ...
