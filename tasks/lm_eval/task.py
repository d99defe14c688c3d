"""`lm_eval/NAME`: any task of lm-eval (Gao et al.) on our models, with its prompts, metrics and standard errors.

lm-eval makes the prompts, filters the answers and scores each document; the model answers through `TextModel`, and the
data come from the mirror or the hub, as for all tasks. Rows hold each document's metric values, so scores can be
computed again without the model. `NAME` is a task, a group or tag (then each of its tasks), or the path of a YAML file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...adapters.base import Adapter, ModelShape, Settings, UnsupportedError
from ...adapters.pretrained.tokenizer import load_tokenizer
from ...results.names import UnknownNameError, unknown_name
from ...results.record import DataIdentity, Metric, Scalar
from ..base import Row, Sources, Task, TaskData, TaskInfo, TaskScale
from ..data.file_hashes import hash_files
from ..data.sources import cache_folder
from ..heavy import np
from ..settings import as_settings, check_ranges, parse_settings
from .config import TaskConfig, read_config
from .data import identify_data, load_data, wanted
from .index import IndexedName, entries, release, tasks_of
from .scores import leave_out, to_metrics, to_rows
from .text import ends_of, model_length, text_model

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

PREFIX = "lm_eval/"


@dataclass(frozen=True)
class LmEvalSettings:
    """How a task of lm-eval is run.

    Attributes:
        num_fewshot: Examples in the prompt; None for the task's own number. A task that fixes it at 0 keeps 0.
        chat_template: Whether prompts are conversations in the template of the model.
        fewshot_as_multiturn: Whether each example is a turn of that conversation.
        system_instruction: Begins the conversation, or the prompt; empty for nothing.
        max_length: Longest input in tokens; None for the value in the model's configuration.
        batch_size: Rows per forward pass.
        share_context: Whether the context of several continuations is read once; otherwise batches are lm-eval's.
        seed: Seed of the choice of examples, and of sampling.
        bootstrap_iters: Resamples for standard errors that have no closed form; lm-eval's own default is 100,000.
        unsafe_code: Whether tasks may run code that the model writes.

    Raises:
        ValueError: A number that is too small.
    """

    num_fewshot: int | None = None
    chat_template: bool = False
    fewshot_as_multiturn: bool = True
    system_instruction: str = ""
    max_length: int | None = None
    batch_size: int = 8
    share_context: bool = True
    seed: int = 1234
    bootstrap_iters: int = 1000
    unsafe_code: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, {"num_fewshot": (0, None), "batch_size": (1, None)})
        check_ranges(self, dict.fromkeys(("max_length", "bootstrap_iters"), (2, None)))


@dataclass(frozen=True)
class Evaluation:
    """The test data of a task, for `predict`.

    Attributes:
        task: lm-eval's task, its data loaded.
        folder: The model's checkpoint, for its tokenizer.
        limit: Documents to test; None for all.
    """

    task: ConfigurableTask
    folder: Path
    limit: int | None


@dataclass(frozen=True)
class LmEvalTask:
    """One task of lm-eval; see the module's docstring."""

    info: TaskInfo
    config: TaskConfig

    def identify(self, settings: Settings, sources: Sources) -> DataIdentity:
        """Which data `load` would read, and the release and version of the task.

        Raises:
            DataUnavailableError: The data are not available.
            UnsupportedError: The task cannot run here, or the backbone is not pretrained.
        """
        shots = self.config.shots(self._chosen(settings, sources).num_fewshot)
        identity = identify_data(wanted(self.config, shots), sources)
        details: dict[str, Scalar] = {
            "lm_eval": release(),
            "task_version": self.config.version,
            "task_file": hash_files({"": self.config.files()}, sources),
            "num_fewshot": shots,
        }
        return replace(identity, details={**identity.details, **details})

    def load(self, settings: Settings, sources: Sources, limit: int | None = None) -> TaskData:
        """Reads data and tokenizer; `test` is an `Evaluation`.

        Raises:
            DataUnavailableError: The data are not available.
            UnsupportedError: The task cannot run here, or the backbone is not pretrained.
        """
        chosen = self._chosen(settings, sources)
        assert sources.tokenizer is not None
        assert sources.tokenizer.folder is not None
        folder = sources.tokenizer.folder
        tokenizer = load_tokenizer(folder)
        ends = ends_of(tokenizer, f"backbone {sources.tokenizer.name}")
        asked, shots = chosen.num_fewshot, self.config.shots(chosen.num_fewshot)
        task = _make_task(self.config, shots, load_data(wanted(self.config, shots), sources), chosen.seed)
        shape = ModelShape(context_length=chosen.max_length or model_length(folder, tokenizer))
        note = f"num_fewshot stays {shots}, not {asked}: the task's configuration fixes it"
        notes = () if asked in (None, shots) else (note,)
        return TaskData(
            shape,
            Evaluation(task, folder, limit),
            notes=(*notes, *(ends.notes_of_lm_eval if ends else ())),
            details={
                "tokenizer": sources.tokenizer.name,
                "tokenizer_source": sources.tokenizer.source,
                "prefix_token": ends.prefix_text if ends else "none",
            },
            describes_state=False,
        )

    def predict(self, adapter: Adapter, data: TaskData, settings: Settings) -> list[Row]:
        """The model's answers and their metric values; one row per document.

        Raises:
            UnsupportedError: The model or its tokenizer cannot answer any document.
        """
        from lm_eval.evaluator import evaluate

        chosen, test = parse_settings(LmEvalSettings, settings), data.test
        # lm-eval's evaluation calls methods and checks no type; only its command line needs a subclass of `LM`.
        model: Any = text_model(
            adapter,
            test.folder,
            batch_size=chosen.batch_size,
            seed=chosen.seed,
            share_context=chosen.share_context,
        )
        model.unscored = {}
        results: Any = evaluate(
            model,
            {"tasks": {self.info.name: test.task}},
            limit=test.limit,
            bootstrap_iters=0,
            log_samples=True,
            system_instruction=chosen.system_instruction or None,
            apply_chat_template=chosen.chat_template,
            fewshot_as_multiturn=chosen.fewshot_as_multiturn,
            confirm_run_unsafe_code=chosen.unsafe_code,
        )
        return leave_out(to_rows(results["samples"][self.info.name]), model.unscored, model.without_context)

    def score(self, rows: Sequence[Row], settings: Settings) -> list[Metric]:
        """lm-eval's metrics of the documents."""
        return to_metrics(rows, self.config, parse_settings(LmEvalSettings, settings).bootstrap_iters)

    def _chosen(self, settings: Settings, sources: Sources) -> LmEvalSettings:
        chosen = parse_settings(LmEvalSettings, settings)
        if problem := self.config.problem(chosen.unsafe_code):
            raise UnsupportedError(problem)
        if sources.tokenizer is None:
            raise UnsupportedError(
                "tasks of lm-eval need a pretrained backbone, such as smollm2-135m or hf:ID_OR_FOLDER"
            )
        return chosen


@dataclass(frozen=True)
class LmEvalFamily:
    """Every task of lm-eval by its name.

    Attributes:
        prefix: Prefix of every name.
        summary: One line for the listing.
        data: The data that the tasks read, in words.
        cache: Folder that keeps the index of names; None for the user's own.
    """

    prefix: str = PREFIX
    summary: str = "any task, group or tag of lm-evaluation-harness, or a YAML file of a task; see docs/lm-eval.md"
    data: tuple[str, ...] = ("the repository or files that each task names",)
    cache: Path | None = None

    def expand(self, name: str) -> Sequence[str]:
        """The tasks that a name stands for.

        Raises:
            UnknownNameError: There is no such name, or it is a glob.
        """
        asked = name.removeprefix(self.prefix)
        if _is_file(asked):
            return [name]
        known = self._known()
        if asked not in known:
            if set("*?[") & set(asked):
                raise UnknownNameError(
                    f"{name!r} is a glob over the {len(known)} names of lm-eval; name tasks, groups or tags, such as "
                    f"{self.prefix}arc_easy or {self.prefix}ai2_arc"
                )
            raise _unknown(asked, known)
        return [f"{self.prefix}{task}" for task in tasks_of(asked, known)]

    def get(self, name: str) -> Task:
        """The task of that name.

        Raises:
            UnknownNameError: There is no such task, or its file is not that of a task.
        """
        asked = name.removeprefix(self.prefix)
        if _is_file(asked):
            return _task(name, Path(asked))
        known = self._known()
        if asked not in known or not known[asked].path:
            raise _unknown(asked, known)
        return _installed_task(name, Path(known[asked].path))

    def _known(self) -> Mapping[str, IndexedName]:
        return entries(self.cache or cache_folder())


LM_EVAL = LmEvalFamily()


@functools.cache  # a file of the user's may change between two runs of one process, lm-eval's own do not
def _installed_task(name: str, path: Path) -> LmEvalTask:
    return _task(name, path)


def _task(name: str, path: Path) -> LmEvalTask:
    config = read_config(path)
    info = TaskInfo(
        name=name,
        version=1,
        summary=f"{config.name} of lm-eval",
        main_metric=config.main_metric,
        data=(config.repo,),
        licence="that of the data",
        citation=f"lm-evaluation-harness {release()}, task {config.name}, version {config.version or 'none'}",
        needs=config.needs,
        scales=dict.fromkeys(("smoke", "small", "paper"), TaskScale(settings=as_settings(LmEvalSettings()))),
        backbone="smollm2-135m",
        recipes=("zero-shot",),
        weights_in_dtype=True,
    )
    return LmEvalTask(info, config)


def _is_file(asked: str) -> bool:
    return asked.endswith((".yaml", ".yml")) and Path(asked).is_file()


def _unknown(asked: str, known: Mapping[str, IndexedName]) -> UnknownNameError:
    """The error with the nearest names, without the list of all 14,000."""
    message = str(unknown_name("task of lm-eval", asked, known)).partition(" (allowed: ")[0]
    return UnknownNameError(f"{message} ({len(known)} names; `bench lm-eval ls tasks` lists them)")


def _make_task(config: TaskConfig, shots: int, dataset: Any, seed: int) -> ConfigurableTask:
    """lm-eval's task over data that are read already, with `shots` examples in its prompt."""
    import random

    from lm_eval.api.task import ConfigurableTask as Configurable
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

    class OverLocalData(Configurable):  # type: ignore[misc]
        """A task that downloads nothing."""

        def download(self, *_: Any, **__: Any) -> None:
            self.dataset = dataset

    # Some tasks shuffle their documents; lm-eval seeds them like this.
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    values = {key: value for key, value in config.loaded().items() if key not in ("tag", "group", "task_list")}
    # A class that prepares its data in `download` calls the next class's, which in this order is the one above.
    kind = type("Task", (values["class"], OverLocalData), {}) if config.is_class else OverLocalData
    task = kind(config=values if config.is_class else _reading_only(values, config.splits(shots), shots))
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(seed)
    return task


def _reading_only(values: dict[str, Any], splits: Sequence[str], shots: int) -> dict[str, Any]:
    """The configuration without splits that are not read, which a local copy need not have."""
    names = ("training_split", "validation_split", "test_split", "fewshot_split")
    values |= {name: None for name in names if values.get(name) not in splits}
    if not shots:  # lm-eval would read and list the documents that examples are taken from
        values |= {"fewshot_split": None, "fewshot_config": {"samples": []}}
    return values
