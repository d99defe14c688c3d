"""The configuration of a run: flags and a TOML file, merged into one frozen value."""

from __future__ import annotations

import math
import tomllib
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..adapters.backbone import SCALES
from ..results.exchange.trackers import TRACKERS
from ..results.names import UsageError, unknown_name
from .recipes import RECIPES
from .suites import SUITES

MAX_SEED = 2**32 - 1
"""The largest seed that every library accepts; NumPy's old generator, which lm-eval seeds, sets it."""

EXECUTORS = ("local", "ray", "slurm")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "scale": SCALES,
    "device": ("auto", "cpu", "cuda"),
    "dtype": ("auto", "float32", "bfloat16"),
    "executor": EXECUTORS,
}


def _set_by(help: str, default: Any = MISSING, **how: Any) -> Any:
    """A field of `RunConfig` that a flag of `bench run` sets.

    Args:
        help: Help of the flag.
        default: Default of the field.
        how: Other arguments to `add_argument`.
    """
    return field(default=default, metadata={"help": help, **how})


@dataclass(frozen=True)
class RunConfig:
    """The configuration of one run; the help of its flag says what a field is.

    Attributes:
        suite: Name of a suite; empty if models and tasks are not taken from one.
        task_scales: Scales of tasks whose scale differs from `scale`.
        task_recipes: Recipes of tasks for which it is not their own first; `recipe` goes before them.
        task_settings: Settings of single tasks; `overrides` go before them.
        batch_size: A number, or `auto`; empty for each task's own.
        overrides: Settings given with `--set`.
        save_to: Folder that `bench convert` writes the model to; empty to write none.
    """

    models: tuple[str, ...] = _set_by(
        "model specs NAME[:KEY=VALUE]...[@BACKBONE], separated by commas (default: the suite's)"
    )
    tasks: tuple[str, ...] = _set_by("tasks or globs NAME[:KEY=VALUE]..., separated by commas (default: the suite's)")
    suite: str = _set_by("take models and tasks from a suite (default: quickstart, if neither is given)", "")
    backbone: str | None = _set_by("backbone of models that name none (default: each task's own)", None)
    recipe: str | None = _set_by("recipe of tasks that train (default: each task's own)", None)
    scale: str = _set_by("smoke (seconds), small (minutes) or paper", "smoke")
    seeds: tuple[int, ...] = _set_by("seeds, separated by commas; each is a cell of its own", (0,))
    device: str = _set_by("auto, cpu or cuda", "auto")
    dtype: str = _set_by("auto, float32 or bfloat16", "auto")
    batch_size: str = _set_by(
        "rows per evaluation batch; auto halves each task's own while memory runs out (default: each task's own)", ""
    )
    output: str | None = _set_by("folder of the run (default: results/runs/NAME)", None)
    mirror: str | None = _set_by(
        "folder with datasets/ORG/NAME and models/ORG/NAME, looked in first (default: $HEDGEBENCH_MIRROR)", None
    )
    executor: str = _set_by("local, ray or slurm", "local")
    limit: int | None = _set_by(
        "largest number of test rows per task; such results are partial (default: all)", None, metavar="N"
    )
    workers: int = _set_by("cells at a time (default: 1)", 1, metavar="N")
    devices: int = _set_by(
        "GPUs that share the batches of a cell's training; on the CPU, processes (default: 1)", 1, metavar="N"
    )
    timeout_s: float | None = _set_by("time limit of each cell (default: none)", None, metavar="SECONDS")
    fresh: bool = _set_by("run every cell again", False)
    offline: bool = _set_by("never touch the network", False)
    log: tuple[str, ...] = _set_by(
        "also send cells to mlflow, tensorboard or wandb; repeatable (default: none)",
        (),
        action="append",
        metavar="TRACKER",
    )
    no_gate: bool = _set_by("score models without comparing their paths (whole, chunked, decoded, padded) first", False)
    audit: bool = _set_by(
        "also score converted models with parts of their attention taken away; done cells need --fresh", False
    )
    log_samples: bool = _set_by("keep inputs beside predictions; done cells need --fresh", False)
    trust_remote_code: bool = _set_by(
        "load pickled weights, and run code of a checkpoint, of a task's YAML file or of a metric's script", False
    )
    task_scales: Mapping[str, str] = field(default_factory=dict)
    task_recipes: Mapping[str, str] = field(default_factory=dict)
    task_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    save_to: str = ""

    def __post_init__(self) -> None:
        chosen: list[tuple[str, str | None, Collection[str]]] = [
            *((name, getattr(self, name), allowed) for name, allowed in CHOICES.items()),
            ("recipe", self.recipe, RECIPES),
            *(("tracker", name, TRACKERS) for name in self.log),
        ]
        for what, name, allowed in chosen:
            if name is not None and name not in allowed:
                raise unknown_name(what, name, allowed)
        if not self.seeds or min(self.seeds) < 0 or max(self.seeds) > MAX_SEED:
            raise UsageError(f"seeds are {list(self.seeds)}; allowed: whole numbers from 0 to {MAX_SEED}, at least one")
        if self.batch_size not in ("", "auto") and not (self.batch_size.isdecimal() and int(self.batch_size) > 0):
            raise UsageError(f"batch size is {self.batch_size!r}; allowed: a whole number from 1, or auto")
        for name in ("limit", "timeout_s", "workers", "devices"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise UsageError(f"{name.removesuffix('_s')} is {value:g}; allowed: a number above 0")
        if self.mirror is not None and not Path(self.mirror).is_dir():
            raise UsageError(f"mirror {self.mirror!r} is not a folder")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds written as `0,1,2`.

    Raises:
        UsageError: A seed is not a whole number, or is given twice.
    """
    parts = split_list(text)
    if not all(part.isdecimal() for part in parts) or not parts:
        raise UsageError(f"seeds are {text!r}; allowed: whole numbers from 0 separated by commas, such as 0,1,2")
    seeds = tuple(int(part) for part in parts)
    if len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds are {text!r}; each may be given once")
    return seeds


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """Settings written as `KEY=VALUE`.

    Raises:
        UsageError: A pair has another form, or a key is given twice.
    """
    overrides: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"--set {pair!r} is not of the form KEY=VALUE")
        if key in overrides:
            raise UsageError(f"--set gives {key} twice")
        overrides[key] = value
    return overrides


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list, without surrounding spaces and without empty parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def split_models(text: str) -> tuple[str, ...]:
    """Model specs separated by commas; a comma in the path of a checkpoint that exists, as in `@hf:a,b`, is its own."""
    parts, found = list(split_list(text)), []
    while parts:
        _, local, path = parts[0].partition("@hf:")
        longer = (n for n in range(len(parts), 1, -1) if local)
        taken = next((n for n in longer if Path(",".join((path, *parts[1:n]))).expanduser().exists()), 1)
        found.append(",".join(parts[:taken]))
        del parts[:taken]
    return tuple(found)


FLAGS: Mapping[str, str] = {
    **{f.name.removesuffix("_s").replace("_", "-"): f.name for f in fields(RunConfig) if "help" in f.metadata},
    "set": "set",
}
"""Names of the values for `make_config`, by flag without its leading dashes."""


def flag_arguments() -> dict[str, dict[str, Any]]:
    """The flags of `bench run` that set values for `make_config`, with their arguments to `add_argument`."""
    hints, by_name = typing.get_type_hints(RunConfig), {f.name: f for f in fields(RunConfig)}
    arguments: dict[str, dict[str, Any]] = {}
    for flag, name in FLAGS.items():
        if name in by_name:
            hint = hints[name]
            members = () if typing.get_origin(hint) is tuple else typing.get_args(hint)  # lists are read as text
            kinds = {int, float, bool} & {hint, *members}
            how = {"action": "store_true"} if bool in kinds else {"type": next(iter(kinds), str)}
            arguments[f"--{flag}"] = {"default": None, **how, **by_name[name].metadata}
            arguments[f"--{flag}"]["help"] += _default_told(by_name[name])
    what = (
        "setting of the task, or GROUP.KEY of a stage or the backbone, as distill.lr=0.01; repeatable (default: none)"
    )
    repeatable = {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": what}
    return {**arguments, "--set": repeatable}


def _default_told(field: Field[Any]) -> str:
    """The default of a field for its flag's help; empty for switches, and if the help has it."""
    if "(default: " in field.metadata["help"] or isinstance(field.default, bool):
        return ""
    return f" (default: {as_text(field.default)})"


def flag_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the flags that were given, ready for `make_config`; other options are left out.

    Raises:
        UsageError: A value is not of the form that its flag takes.
    """
    flags = {flag.replace("-", "_"): name for flag, name in FLAGS.items()}
    given = {flags[key]: value for key, value in options.items() if key in flags and value is not None}
    return {name: _parse(name, value) for name, value in given.items()}


def config_of(options: Mapping[str, Any]) -> RunConfig:
    """The configuration from options of `bench run`, read as `values_of` reads them."""
    return make_config(values_of(options))


def values_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values for `make_config` from options by name and the file that `config` names.

    Options win, a suite over the file's models and tasks.

    Raises:
        UsageError: An option or the file is wrong.
    """
    values = read_config_file(Path(options["config"])) if options.get("config") else {}
    flags = flag_values(options)
    if "suite" in flags:
        values = {name: values[name] for name in values if name not in ("models", "tasks")}
    return {**values, **flags, "set": {**values.get("set", {}), **flags.get("set", {})}}


def read_config_file(path: Path) -> dict[str, Any]:
    """The values of a TOML file, ready for `make_config`.

    Keys are the names of the flags; `set` is a table. Lists may be TOML lists or comma-separated strings.

    Raises:
        UsageError: The file cannot be read, is not TOML, or has an unknown key or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    for key, value in read_toml(path, "configuration").items():
        flag = key.replace("_", "-")
        if flag not in FLAGS:
            raise UsageError(f"in {str(path)!r}: {unknown_name('key', key, FLAGS)}")
        try:
            values[FLAGS[flag]] = _parse(FLAGS[flag], value)
        except UsageError as error:
            raise UsageError(f"in {str(path)!r}: {error}") from error
    return values


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file; errors begin with `cannot read`, `what` and its path.

    Raises:
        UsageError: The file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows begin files with a mark
    except (RecursionError, OSError, ValueError) as error:  # a ValueError is tomllib's own, or one of text and numbers
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"cannot read {what} {str(path)!r}: {reason}") from error


def _parse(name: str, value: Any) -> Any:
    """The value for `make_config` from what a flag, an option in Python or a TOML file gives.

    Raises:
        UsageError: The value has a wrong type or form.
    """
    match name:
        case "set" if isinstance(value, list):
            return parse_overrides([as_text(pair) for pair in value])
        case "set" if isinstance(value, dict):
            return dict(_flatten(value))
        case "set":
            raise UsageError(f"set is {value!r}; it must be a table")
        case "models":
            return split_models(as_text(value))
        case "tasks" | "log":
            return split_list(as_text(value))
        case "seeds":
            return parse_seeds(as_text(value))
        case "batch_size":
            return as_text(value)
    hint = typing.get_type_hints(RunConfig)[name]
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    if type(value) not in kinds and not (float in kinds and type(value) is int):
        raise UsageError(f"{name.removesuffix('_s')} is {value!r}; allowed: {kinds[0].__name__}")
    return str(Path(str(value)).expanduser()) if name in ("output", "mirror") and value else value


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, as_text(value)


def as_text(value: Any) -> str:
    """A value as it is written after a flag."""
    if isinstance(value, list | tuple):
        return ",".join(map(as_text, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


NOTHING_GIVEN = "no {0} given: pass --{0}, or neither --models nor --tasks for the quickstart"
"""The error if a run lacks its models or its tasks."""


def make_config(values: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run from flags and file; without models and tasks it is the suite `quickstart`.

    Args:
        values: Fields of `RunConfig` that were given, and `set` for the overrides.

    Raises:
        UsageError: A value is not allowed, or there are models without tasks.
    """
    given = {key: value for key, value in values.items() if value is not None}
    for asked in ("models", "tasks"):
        if asked in given and not given[asked]:
            raise UsageError(f"{asked} is an empty list; leave both out for the quickstart")
    overrides = given.pop("set", {})
    if "models" not in given and "tasks" not in given:
        given.setdefault("suite", "quickstart")
    if name := given.get("suite"):
        if name not in SUITES:
            raise unknown_name("suite", name, SUITES)
        suite = SUITES[name]
        given.setdefault("models", suite.models)
        if "tasks" not in given:
            given["tasks"] = tuple(suite.tasks)
            if "scale" not in given:
                given["task_scales"] = dict(suite.tasks)
                given["task_settings"] = dict(suite.settings)
            given["task_recipes"] = dict(suite.recipes)
        given.setdefault("workers", suite.workers)
    if "tasks" not in given:
        raise UsageError(NOTHING_GIVEN.format("tasks"))
    given.setdefault("models", ())  # some tasks bring models of their own; the plan knows which
    return RunConfig(**given, overrides=overrides)
