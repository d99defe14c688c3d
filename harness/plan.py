"""From what was asked for to cells: models × tasks × seeds, every setting resolved, every key computed. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapters.backbone import Backbone, CheckpointError
from ..adapters.base import Settings, UnsupportedError, Value
from ..adapters.mechanisms.declaration import OptionError
from ..adapters.spec import ModelSpec, SpecError, parse_spec
from ..results.names import UnknownNameError, unknown_name
from ..results.record import DataIdentity, Failure
from ..tasks.base import DataUnavailableError, Sources, Task
from ..tasks.data.sources import cache_folder
from . import registry
from .cell import Cell
from .config import NOTHING_GIVEN, RunConfig, UsageError
from .environment import cpu_name, gpu_name, has_cuda_device
from .recipes import RECIPES, STAGE_DEFAULTS, check_stage
from .scoring_code import scoring_fingerprint
from .settings import apply_overrides, check_overrides
from .task_spec import TaskSpec, parse_task_spec
from .weights.backbone_names import backbone_from_name
from .weights.backbone_sources import sources_for
from .weights.locate import Weights, locate

NO_DATA = DataIdentity(id="", revision="", fingerprint="", source="missing")

CONVERT_FIRST = (
    "; the task trains nothing: convert the model with bench convert --to FOLDER, and measure it with "
    "--backbone hf:FOLDER"
)


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
class _Base:
    """A backbone with its weights, looked for once.

    Attributes:
        backbone: The declaration; None where even that cannot be had.
        weights: Where its weights are; None for one trained from scratch, and where there is a problem.
        problem: Why it cannot be had.
    """

    backbone: Backbone
    weights: Weights | None = None
    problem: Failure | None = None


@dataclass(frozen=True)
class _Draft:
    """A model on a task, before seeds: what it is built from, and its default settings.

    Attributes:
        spec: The model.
        task: The task.
        task_spec: Settings that belong to the task's name.
        base: The backbone.
        groups: Default settings.
    """

    spec: ModelSpec
    task: Task
    task_spec: TaskSpec
    base: _Base
    groups: dict[str, Settings]

    @property
    def task_name(self) -> str:
        """The task's name in records."""
        return self.task_spec.canonical(self.task.info.name)


@dataclass(frozen=True)
class _Target:
    """A task at a scale with its data, before models and seeds.

    Attributes:
        task: The task.
        scale: Where its defaults come from.
        data: What it reads.
        problem: Why it cannot run; None when it can.
        scoring: Hash of the code that scores it.
        unsupported: Whether the problem is that the task cannot run on this backbone or here at all.
    """

    task: Task
    scale: str
    data: DataIdentity
    problem: Failure | None
    scoring: str
    unsupported: bool = False


def make_plan(config: RunConfig, begin: Callable[[Collection[str]], None] = lambda _: None) -> list[PlannedCell]:
    """Every cell of a run, tasks in the order given, then models, then seeds.

    Args:
        config: What was asked for.
        begin: Told the recipes once every name and setting is known to be right, before data are looked for: what
            cells will need can be made ready meanwhile.

    Raises:
        UsageError: A name, an option or a setting that does not exist.
    """
    specs = _specs(config)
    sources = make_sources(config)
    bases: dict[str, _Base] = {}
    drafts = []
    for task, task_spec in _tasks(config.tasks):
        if not task.info.model and not specs:
            raise UsageError(NOTHING_GIVEN.format("models"))
        for spec in [parse_spec(task.info.model, registry.mechanisms())] if task.info.model else specs:
            backbone = spec.backbone or config.backbone or task.info.backbone
            if backbone not in bases:
                bases[backbone] = _base(backbone, sources)
            groups = _groups(bases[backbone].backbone, task, config)
            drafts.append(_Draft(spec, task, task_spec, bases[backbone], groups))
    check_overrides(config.overrides, [draft.groups for draft in drafts])
    resolved = [(draft, _resolve(draft, config)) for draft in drafts]
    begin({_recipe(draft.task, draft.base.backbone, config) for draft in drafts})
    targets: dict[tuple[str, str, str], _Target] = {}
    planned = []
    for draft, settings in resolved:
        key = draft.task_name, draft.base.backbone.name, repr(settings["task"])
        if key not in targets:
            targets[key] = _target(draft, settings["task"], config, sources)
        planned += [_plan_cell(draft, targets[key], settings, seed, config) for seed in config.seeds]
    return _without_duplicates(planned)


def make_sources(config: RunConfig) -> Sources:
    """Where data may come from: `--mirror` or the variable `HEDGEBENCH_MIRROR`; caches go to the user's own."""
    mirror = config.mirror or os.environ.get("HEDGEBENCH_MIRROR")
    offline = config.offline or os.environ.get("HF_HUB_OFFLINE") == "1"
    return Sources(Path(mirror).resolve() if mirror else None, cache_folder(), offline)


def _specs(config: RunConfig) -> list[ModelSpec]:
    try:
        return [parse_spec(text, registry.mechanisms()) for text in config.models]
    except (SpecError, UnknownNameError, OptionError) as error:
        raise UsageError(str(error)) from error


def _tasks(patterns: Sequence[str]) -> list[tuple[Task, TaskSpec]]:
    """Each task once, in the order given, with the settings that belong to its name."""
    found: dict[str, tuple[Task, TaskSpec]] = {}
    try:
        for spec in map(parse_task_spec, patterns):
            for name in registry.task_names(spec.name):
                found.setdefault(spec.canonical(name), (registry.tasks().get(name), spec))
    except UnknownNameError as error:
        raise UsageError(str(error)) from error
    return list(found.values())


def _scale(config: RunConfig, task: str) -> str:
    return config.task_scales.get(task, config.scale)


def _base(name: str, sources: Sources) -> _Base:
    """The backbone and its weights.

    Raises:
        UsageError: No such backbone, or a checkpoint of a kind that is not supported.
    """
    try:
        backbone = backbone_from_name(name, sources)
    except (UnknownNameError, CheckpointError) as error:
        raise UsageError(str(error)) from error
    except DataUnavailableError as error:  # a hub id whose config.json cannot be read: its kind is not known
        raise UsageError(str(error)) from error
    if backbone.checkpoint is None:
        return _Base(backbone)
    try:
        return _Base(backbone, locate(backbone, sources))
    except DataUnavailableError as error:
        return _Base(backbone, problem=Failure(type(error).__name__, str(error)))


def _recipe(task: Task, backbone: Backbone, config: RunConfig) -> str:
    """The recipe asked for, else the task's first that fits the backbone; a task that takes times alone has its own.

    Raises:
        UsageError: The task or the backbone does not go with the recipe.
    """
    allowed = task.info.recipes
    trains_nothing = allowed == ("zero-shot",)
    if trains_nothing and task.info.own_device:
        return allowed[0]
    fitting = [name for name in allowed if RECIPES[name].fits(backbone.checkpoint is not None)]
    if config.recipe is None and fitting:
        return fitting[0]
    if config.recipe not in fitting:
        kind = "pretrained" if backbone.checkpoint else "trained from scratch"
        where = f"recipe of task {task.info.name} with backbone {backbone.name}, which is {kind},"
        message = str(unknown_name(where, config.recipe or "none", fitting))
        raise UsageError(message + (CONVERT_FIRST if trains_nothing else ""))
    return config.recipe


def _groups(backbone: Backbone, task: Task, config: RunConfig) -> dict[str, Settings]:
    """Defaults of a cell's settings: those of its scale, then those of the task."""
    scale = _scale(config, task.info.name)
    if scale not in task.info.scales:
        raise UsageError(str(unknown_name(f"scale of task {task.info.name}", scale, task.info.scales)))
    chosen = task.info.scales[scale]
    pretrained = backbone.checkpoint is not None
    groups: dict[str, Settings] = {
        "task": {**chosen.settings, **_with_backbone_tokenizer(chosen.settings, pretrained)},
        "backbone": {**backbone.sizes[scale], **(_held_in_dtype(task, config) if pretrained else chosen.backbone)},
    }
    overrides = {**chosen.stages, "train": chosen.train}
    for stage in RECIPES[_recipe(task, backbone, config)].stages:
        if stage in STAGE_DEFAULTS:
            groups[stage] = {**STAGE_DEFAULTS[stage][scale], **overrides.get(stage, {})}
    return groups


def _held_in_dtype(task: Task, config: RunConfig) -> Settings:
    """The type of a pretrained model's weights, where the task wants it to be the run's."""
    return {"weights": resolve_dtype(config.dtype, resolve_device(config.device))} if task.info.weights_in_dtype else {}


def _with_backbone_tokenizer(settings: Settings, pretrained: bool) -> Settings:
    """A pretrained model reads the tokens it was trained on."""
    return {"tokenizer": "backbone"} if pretrained and "tokenizer" in settings else {}


def _resolve(draft: _Draft, config: RunConfig) -> dict[str, dict[str, Value]]:
    settings = apply_overrides(draft.groups, config.overrides)
    if config.batch_size not in ("", "auto") and "batch_size" in settings["task"]:
        settings["task"]["batch_size"] = int(config.batch_size)
    settings["task"] = draft.task_spec.apply(settings["task"])
    try:
        for stage in settings.keys() & STAGE_DEFAULTS.keys():
            check_stage(stage, settings[stage])
    except ValueError as error:
        raise UsageError(str(error)) from error
    return settings


def _target(draft: _Draft, settings: Settings, config: RunConfig, sources: Sources) -> _Target:
    task, name = draft.task, draft.task.info.name
    scale, scoring = _scale(config, name), scoring_fingerprint(task)
    if draft.base.problem:
        return _Target(task, scale, NO_DATA, draft.base.problem, scoring)
    try:
        data = task.identify(settings, sources_for(draft.base.weights, sources, fetch=False))
    except (DataUnavailableError, UnsupportedError, ImportError) as error:
        problem = Failure(type(error).__name__, str(error))
        return _Target(task, scale, NO_DATA, problem, scoring, isinstance(error, UnsupportedError))
    except ValueError as error:
        raise UsageError(f"task {name}: {error}") from error
    return _Target(task, scale, data, None, scoring)


def _plan_cell(
    draft: _Draft, target: _Target, settings: Mapping[str, Settings], seed: int, config: RunConfig
) -> PlannedCell:
    info = target.task.info
    backbone = draft.base.backbone
    device = resolve_device(config.device)
    cell = Cell(
        model=draft.spec.canonical,
        backbone=backbone.name,
        task=draft.task_name,
        task_version=info.version,
        recipe=_recipe(target.task, backbone, config),
        scale=target.scale,
        seed=seed,
        limit=config.limit,
        device=device,
        dtype=resolve_dtype(config.dtype, device),
        settings=settings,
        data=target.data,
        scoring=target.scoring,
        machine=machine_name(device) if info.own_device else "",
        weights=draft.base.weights.fingerprint if draft.base.weights else "",
    )
    planned = PlannedCell(cell, info.main_metric, info.own_device, target.problem, target.unsupported)
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


def _without_duplicates(planned: list[PlannedCell]) -> list[PlannedCell]:
    return list({p.cell.key: p for p in planned}.values())
