"""Runs and conversions started from Python, by the commands `bench run` and `bench convert`."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, Unpack

from ...adapters.mechanisms.declaration import Mechanism
from ...results.names import UsageError, unknown_name
from ...tasks.base import Task
from .. import registry
from ..config import FLAGS, RunConfig, as_text, flag_values, make_config, values_of
from ..running.runner import default_output
from .results import Results
from .session import call_bench, names_of

Models: TypeAlias = str | Mechanism | Sequence[str | Mechanism]
"""Model specs as `NAME[:KEY=VALUE]...[@BACKBONE]`, or mechanisms; several in one text are separated by commas."""

Tasks: TypeAlias = str | Task | Sequence[str | Task]
"""Task specs as `NAME[:KEY=VALUE]...` with globs, or tasks; several in one text are separated by commas."""


class ConvertOptions(TypedDict, total=False):
    """Options of a conversion, and of a run; those of the command line with the same names.

    Attributes:
        recipe: Name of the recipe; by default the task's own.
        scale: `smoke`, `small` or `paper`.
        device: `auto`, `cpu` or `cuda`.
        devices: GPUs that share the batches of a cell's training; on the CPU, processes.
        dtype: `auto`, `float32` or `bfloat16`.
        mirror: Folder with `datasets/ORG/NAME` and `models/ORG/NAME`, looked in first.
        set: Settings by name, such as `{"train.lr": 1e-3}`.
        output: Folder of the run; by default `results/runs/NAME`.
        limit: Largest number of test rows.
        offline: Never touch the network.
        trust_remote_code: Load pickled weights and code of a checkpoint.
        quiet: Show the table and failures only.
    """

    recipe: str | None
    scale: str | None
    device: str
    devices: int
    dtype: str
    mirror: str | Path | None
    set: Mapping[str, object]
    output: str | Path | None
    limit: int | None
    offline: bool
    trust_remote_code: bool
    quiet: bool


class RunOptions(ConvertOptions, total=False):
    """Options of a run.

    Attributes:
        suite: Takes models and tasks from a suite, such as `quickstart`.
        backbone: Backbone of models that name none.
        seeds: One seed, or several; each is a cell of its own.
        batch_size: Rows of an evaluation batch, or `auto`.
        executor: `local`, `ray` or `slurm`.
        workers: Cells at a time.
        timeout: Time limit of each cell in seconds.
        fresh: Run every cell again.
        log: Trackers that cells are also sent to: `mlflow`, `tensorboard`, `wandb`.
        log_samples: Keep inputs beside predictions.
        audit: Also score converted models with parts of their attention taken away.
        no_gate: Score models without comparing their paths first.
        config: TOML file with any of these options; those given here win.
    """

    suite: str
    backbone: str | None
    seeds: int | Sequence[int]
    batch_size: int | str
    executor: str
    workers: int
    timeout: float | None
    fresh: bool
    log: Sequence[str]
    log_samples: bool
    audit: bool
    no_gate: bool
    config: str | Path | None


def run(models: Models | None = None, tasks: Tasks | None = None, **options: Unpack[RunOptions]) -> Results:
    """Trains or converts models, measures them, and gives the results; cells that are done do not run again.

    Each cell runs in a process of its own. Cells that fail are in the results, with the reason. Without models and
    tasks this is the suite `quickstart`.

    Args:
        models: Model specs, and mechanisms of your own, which are registered.
        tasks: Task specs, and tasks of your own, which are registered.
        **options: See `RunOptions`.

    Returns:
        The results of the cells that were asked for; `load_results(results.path)` has all of the folder.

    Raises:
        UsageError: A name, an option or a setting does not exist or has a wrong value, or an object of your own is to
            run on a cluster, which cannot import it.
        KeyboardInterrupt: The run was interrupted; the same call goes on where it stopped.
    """
    named = {"models": models, "tasks": tasks}
    own_names = {name: names_of(value) for name, value in named.items() if value is not None}
    values = values_of({**_plain(options, RunOptions), **own_names})
    config = make_config(values)
    if config.executor != "local" and (own := _own_in(config)):
        how = f"make it a plugin for {config.executor}"
        raise UsageError(f"{own} exists in this session only, which a cluster cannot import; {how}")
    output = config.output or str(default_output(config))
    quiet = bool(options.get("quiet"))
    call_bench(["run", *_arguments({**values, "output": output, "quiet": quiet})], quiet=quiet)
    return Results.of_plan(Path(output))


def convert(
    model: str | Mechanism, base: str, data: str, to: str | Path, *, seed: int = 0, push: str | None = None,
    **options: Unpack[ConvertOptions],
) -> Path:  # fmt: skip
    """Converts a pretrained model, measures it, and writes it to a folder that `load_model` reads.

    Args:
        model: Model spec, or a mechanism of your own; `load_model` then needs it registered.
        base: Pretrained backbone, or `hf:ID_OR_FOLDER`.
        data: Task whose training data the conversion uses.
        to: Folder to write; it must be empty or absent.
        seed: Seed of everything random.
        push: Repository `ORG/NAME` on the Hugging Face hub that the folder is then uploaded to.
        **options: See `ConvertOptions`.

    Returns:
        The folder.

    Raises:
        UsageError: A name, an option or a setting is wrong, or the folder is not empty.
        RuntimeError: The conversion failed; the message has the end of the output.
        KeyboardInterrupt: The conversion was interrupted.
    """
    quiet = bool(options.get("quiet"))
    given = {"model": names_of(model), "base": base, "data": data, "to": str(to), "seed": seed, "push": push}
    values = {**flag_values(_plain(options, ConvertOptions)), **given, "quiet": quiet}
    call_bench(["convert", *_arguments(values)], quiet=quiet, allows_failures=False)
    return Path(to)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the attention mechanisms that match a glob, own ones included."""
    return fnmatch.filter(registry.mechanisms().items, pattern)


def list_tasks(pattern: str = "*") -> list[str]:
    """Names of the tasks that match a glob, such as `glue/*`, own ones included; not those of `lm_eval/`."""
    return fnmatch.filter(registry.tasks().items, pattern)


def _plain(options: Mapping[str, Any], known: type) -> dict[str, Any]:
    """The options that have a value, as the command line's parser gives them.

    Raises:
        TypeError: There is no such option.
    """
    allowed = known.__annotations__
    for name in options:
        if name not in allowed:
            raise TypeError(str(unknown_name("option", name, allowed)))
    return {name: _option(value) for name, value in options.items() if value is not None}


def _option(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _arguments(values: Mapping[str, Any]) -> list[str]:
    """Values, such as those for `make_config`, as arguments of the command."""
    flags = {name: flag for flag, name in FLAGS.items()}
    found: list[str] = []
    for name, value in values.items():
        flag = f"--{flags.get(name, name)}"
        match value:
            case None | False:
                pass
            case True:
                found.append(flag)
            case Mapping():
                found += [f"{flag}={key}={as_text(item)}" for key, item in value.items()]
            case _:
                found.append(f"{flag}={as_text(value)}")
    return found


def _own_in(config: RunConfig) -> str:
    """Names of the session's own objects that a run asks for."""
    own = {each.name for each in registry.own_objects()}
    asked = (spec.partition("@")[0].partition(":")[0] for spec in (*config.models, *config.tasks))
    return ", ".join(name for name in asked if name in own)
