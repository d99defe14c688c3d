"""From what was asked for to cells: models × tasks × seeds, every setting resolved, every key computed. No torch."""

from __future__ import annotations

import fnmatch
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapters.backbone import Backbone
from ..adapters.base import Settings, Value
from ..adapters.mechanism import OptionError
from ..adapters.spec import ModelSpec, SpecError, parse_spec
from ..adapters.train_settings import TrainSettings
from ..results.names import UnknownNameError, unknown_name
from ..results.record import DataIdentity, Failure
from ..tasks.base import DataUnavailableError, Sources, Task
from . import registry
from .cell import Cell
from .config import RunConfig, UsageError
from .environment import cpu_name, gpu_name, has_cuda_device, source_fingerprint
from .recipes import RECIPES, STAGE_DEFAULTS
from .settings import apply_overrides, check_overrides

NO_DATA = DataIdentity(id="", revision="", fingerprint="", source="missing")


@dataclass(frozen=True)
class PlannedCell:
    """A cell to run, or the reason why it cannot.

    Attributes:
        cell: The cell.
        main_metric: The metric that ranks models on its task.
        own_device: Nothing else may run beside it.
        problem: Why it cannot run; None when it can.
        unsupported: Whether the problem is that the model cannot do the task, rather than an error.
    """

    cell: Cell
    main_metric: str
    own_device: bool
    problem: Failure | None = None
    unsupported: bool = False


@dataclass(frozen=True)
class _Target:
    """A task at a scale with its data, before models and seeds."""

    task: Task
    scale: str
    data: DataIdentity
    problem: Failure | None


def make_plan(config: RunConfig) -> list[PlannedCell]:
    """Every cell of a run, tasks in the order given, then models, then seeds.

    Raises:
        UsageError: A name, an option or a setting that does not exist.
    """
    specs = _specs(config)
    sources = make_sources(config)
    names = _task_names(config.tasks)
    drafts = [(spec, name, _groups(spec, registry.tasks().get(name), config)) for name in names for spec in specs]
    check_overrides(config.overrides, [groups for _, _, groups in drafts])
    targets: dict[tuple[str, str], _Target] = {}
    planned = []
    for spec, name, groups in drafts:
        settings = _resolve(groups, config)
        key = name, repr(settings["task"])
        if key not in targets:
            targets[key] = _target(name, settings["task"], config, sources)
        target = targets[key]
        planned += [_plan_cell(spec, target, settings, seed, config) for seed in config.seeds]
    return _without_duplicates(planned)


def make_sources(config: RunConfig) -> Sources:
    """Where data may come from: `--mirror` or the variable `HEDGEBENCH_MIRROR`; caches go to the user's own."""
    mirror = config.mirror or os.environ.get("HEDGEBENCH_MIRROR")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hedgebench"
    offline = config.offline or os.environ.get("HF_HUB_OFFLINE") == "1"
    return Sources(Path(mirror).resolve() if mirror else None, cache, offline)


def _specs(config: RunConfig) -> list[ModelSpec]:
    try:
        return [parse_spec(text, registry.mechanisms()) for text in config.models]
    except (SpecError, UnknownNameError, OptionError) as error:
        raise UsageError(str(error)) from error


def _task_names(patterns: Sequence[str]) -> list[str]:
    known = registry.tasks()
    names: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter(known.items, pattern) or [n for n in known.items if n.startswith(pattern + "/")]
        if not matches:
            try:
                known.get(pattern)
            except UnknownNameError as error:
                raise UsageError(str(error)) from error
        names.update(dict.fromkeys(matches))
    return list(names)


def _scale(config: RunConfig, task: str) -> str:
    return config.task_scales.get(task, config.scale)


def _backbone(spec: ModelSpec, task: Task, config: RunConfig) -> Backbone:
    name = spec.backbone or config.backbone or task.info.backbone
    try:
        return registry.backbones().get(name)
    except UnknownNameError as error:
        raise UsageError(str(error)) from error


def _recipe(task: Task, config: RunConfig) -> str:
    """The recipe asked for; a task that trains nothing has its own."""
    allowed = task.info.recipes
    if config.recipe is None or allowed == ("zero-shot",):
        return allowed[0]
    if config.recipe not in allowed:
        raise UsageError(str(unknown_name(f"recipe of task {task.info.name}", config.recipe, allowed)))
    return config.recipe


def _groups(spec: ModelSpec, task: Task, config: RunConfig) -> dict[str, Settings]:
    """Defaults of a cell's settings: those of its scale, then those of the task."""
    scale = _scale(config, task.info.name)
    if scale not in task.info.scales:
        raise UsageError(str(unknown_name(f"scale of task {task.info.name}", scale, task.info.scales)))
    chosen = task.info.scales[scale]
    groups: dict[str, Settings] = {
        "task": chosen.settings,
        "backbone": {**_backbone(spec, task, config).sizes[scale], **chosen.backbone},
    }
    for stage in RECIPES[_recipe(task, config)].stages:
        groups[stage] = {**STAGE_DEFAULTS[stage][scale], **(chosen.train if stage == "train" else {})}
    return groups


def _resolve(groups: dict[str, Settings], config: RunConfig) -> dict[str, dict[str, Value]]:
    settings = apply_overrides(groups, config.overrides)
    if config.batch_size not in ("", "auto") and "batch_size" in settings["task"]:
        settings["task"]["batch_size"] = int(config.batch_size)
    if "train" in settings:
        try:
            TrainSettings.of(settings["train"])
        except ValueError as error:
            raise UsageError(str(error)) from error
    return settings


def _target(name: str, settings: Settings, config: RunConfig, sources: Sources) -> _Target:
    task = registry.tasks().get(name)
    try:
        data, problem = task.identify(settings, sources), None
    except (DataUnavailableError, ImportError) as error:
        data, problem = NO_DATA, Failure(type(error).__name__, str(error))
    except ValueError as error:
        raise UsageError(f"task {name}: {error}") from error
    return _Target(task, _scale(config, name), data, problem)


def _plan_cell(
    spec: ModelSpec, target: _Target, settings: Mapping[str, Settings], seed: int, config: RunConfig
) -> PlannedCell:
    info = target.task.info
    backbone = _backbone(spec, target.task, config)
    device = resolve_device(config.device)
    cell = Cell(
        model=spec.canonical,
        backbone=backbone.name,
        task=info.name,
        task_version=info.version,
        recipe=_recipe(target.task, config),
        scale=target.scale,
        seed=seed,
        limit=config.limit,
        device=device,
        dtype=resolve_dtype(config.dtype, device),
        settings=settings,
        data=target.data,
        scoring=scoring_fingerprint(target.task),
        machine=machine_name(device) if info.own_device else "",
    )
    planned = PlannedCell(cell, info.main_metric, info.own_device, target.problem)
    if missing := info.needs - backbone.capabilities:
        message = f"backbone {backbone.name} cannot do what {info.name} needs: {', '.join(sorted(missing))}"
        return replace(planned, problem=Failure("UnsupportedError", message), unsupported=True)
    return planned


def resolve_device(device: str) -> str:
    """`auto` as `cuda` where there is a device, else `cpu`."""
    return device if device != "auto" else ("cuda" if has_cuda_device() else "cpu")


def resolve_dtype(dtype: str, device: str) -> str:
    """`auto` as bfloat16 on CUDA and float32 on the CPU."""
    return dtype if dtype != "auto" else ("bfloat16" if device == "cuda" else "float32")


def machine_name(device: str) -> str:
    """The processor that a timing belongs to."""
    return gpu_name() if device == "cuda" else cpu_name()


def scoring_fingerprint(task: Task) -> str:
    """Hash of the code that turns the task's predictions into numbers."""
    statistics = registry.ROOT / "results" / "statistics.py"
    return source_fingerprint([Path(inspect.getfile(type(task))), statistics])


def _without_duplicates(planned: list[PlannedCell]) -> list[PlannedCell]:
    return list({p.cell.key: p for p in planned}.values())
