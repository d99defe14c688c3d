"""From configuration to cells: models × tasks × seeds, names and settings resolved, keys computed. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from ..adapters.backbone import Backbone, CheckpointError
from ..adapters.base import Settings, UnsupportedError, Value
from ..adapters.mechanisms.softmax import CONTINUED
from ..adapters.spec import ModelSpec, parse_spec
from ..results.names import UnknownNameError, UsageError, unknown_name
from ..results.record import DataIdentity, Failure
from ..tasks.base import DataUnavailableError, Sources, Task
from ..tasks.data.own_rows import nearest_datasets
from ..tasks.data.sources import cache_folder, hub_is_off
from . import registry
from .cell import Cell, PlannedCell
from .config import NOTHING_GIVEN, RunConfig
from .environment import cpu_name, gpu_name, has_cuda_device
from .recipes import RECIPES, STAGE_DEFAULTS, check_stage, stage_defaults
from .scoring_code import mechanism_code, scoring_fingerprint
from .settings import Groups, apply_overrides, check_backbone, check_counts, check_overrides, check_unfixed
from .task_spec import TaskSpec, decided, parse_task_specs, refuse_scripts
from .weights.backbone_names import backbone_from_name
from .weights.locate import Weights, locate, sources_for

NO_DATA = DataIdentity(id="", revision="", fingerprint="", source="missing")

CONVERT_FIRST = (
    "; the task trains nothing: convert the model with bench convert --to FOLDER, and measure it with "
    "--backbone hf:FOLDER"
)

NO_TEST_SPLIT = (
    "; no model is tested on rows that it trained on: divide them into a train and a test file, or measure pretrained "
    "models as they are on all rows, with test_split=NAME:train_split=none"
)
"""What to do with data of the user's that have no test split."""

LocatedBackbone: TypeAlias = tuple[Backbone, Weights | None, Failure | None]
"""A backbone, its weights if it is pretrained, and why they cannot be found."""


def make_plan(
    config: RunConfig, begin: Callable[[Collection[str]], None] = lambda _: None, *, is_user_chosen: bool = True
) -> list[PlannedCell]:
    """Every cell of a run, tasks in the order given, then models, then seeds.

    Args:
        config: The configuration of the run.
        begin: Called with the recipes once every name has been checked, before data are looked for, so that the caller
            can prepare processes meanwhile.
        is_user_chosen: Whether the user named the tasks, so that a data set named with them must exist; else absent
            data are a problem of their cells.

    Raises:
        UsageError: A name, an option or a setting does not exist, or a setting has a wrong value.
    """
    sources = make_sources(config)
    tasks = _tasks(config.tasks, config.trust_remote_code)
    drafts = list(_drafts(config, tasks, sources))
    check_overrides(config.overrides, [draft.cell.settings for draft in drafts])
    fixed = {spec.canonical(task.info.name): {*spec.declared, *spec.given} for task, spec in tasks}
    check_unfixed(config.overrides, [(draft.cell.settings["task"], fixed[draft.cell.task]) for draft in drafts])
    begin({draft.cell.recipe for draft in drafts})
    identified: dict[tuple[str, str, str], PlannedCell] = {}
    planned: dict[str, PlannedCell] = {}
    for draft in drafts:
        data_of = draft.cell.task, draft.backbone.name, repr(draft.cell.settings["task"])
        if data_of not in identified:
            identified[data_of] = _with_data(draft, sources, is_user_chosen)
        known = identified[data_of]
        for seed in config.seeds:
            cell = replace(draft.cell, data=known.cell.data, scoring=known.cell.scoring, seed=seed)
            of_data = replace(draft, task=known.task, cell=cell, problem=draft.problem or known.problem)
            planned.setdefault(cell.key, of_data)
    return list(planned.values())


def make_sources(config: RunConfig) -> Sources:
    """The sources of data: `--mirror` or the variable `HEDGEBENCH_MIRROR`, and the user's cache.

    Raises:
        UsageError: The variable names no folder.
    """
    mirror = config.mirror or os.environ.get("HEDGEBENCH_MIRROR")
    if mirror and not Path(mirror).is_dir():
        raise UsageError(f"mirror {mirror!r}, which HEDGEBENCH_MIRROR names, is not a folder")
    offline = config.offline or hub_is_off()
    return Sources(Path(mirror).resolve() if mirror else None, cache_folder(), offline)


def resolve_device(device: str) -> str:
    """The device that a name stands for: `auto` is `cuda` if there is an NVIDIA device, else `cpu`."""
    return device if device != "auto" else ("cuda" if has_cuda_device() else "cpu")


def resolve_dtype(dtype: str, device: str) -> str:
    """The type that a name stands for: `auto` is bfloat16 on CUDA and float32 on the CPU."""
    return dtype if dtype != "auto" else ("bfloat16" if device == "cuda" else "float32")


def _drafts(config: RunConfig, tasks: Sequence[tuple[Task, TaskSpec]], sources: Sources) -> Iterator[PlannedCell]:
    """Every model on every task with its settings, without data and seeds."""
    located = cache(partial(_locate_backbone, sources=sources, trust_remote_code=config.trust_remote_code))
    parse_model = partial(parse_spec, mechanisms=registry.mechanisms().get)
    specs = list(_specs(config.models, parse_model))
    for task, task_spec in tasks:
        if not task.info.model and not specs:
            raise UsageError(NOTHING_GIVEN.format("models"))
        for spec in [parse_model(task.info.model)] if task.info.model else specs:
            backbone = located(spec.backbone or config.backbone or task.info.backbone)
            yield _draft(task, task_spec, spec, backbone, config)


def _specs(texts: Sequence[str], parse_model: Callable[[str], ModelSpec]) -> Iterator[ModelSpec]:
    """The model specs that texts hold.

    Raises:
        UsageError: As `parse_spec`; an unknown model after a local checkpoint may be the end of that one's path.
    """
    for before, text in pairwise(("", *texts)):
        try:
            yield parse_model(text)
        except UnknownNameError as error:
            _, is_local, path = before.partition("@hf:")
            if not is_local:
                raise
            raise UsageError(
                f"{error}; nor is there a folder {f'{path},{text}'!r}, if the comma is part of its name"
            ) from error


def _tasks(patterns: Sequence[str], trust_code: bool) -> list[tuple[Task, TaskSpec]]:
    """Each task once, in the order given, with the settings that belong to its name."""
    found: dict[str, tuple[Task, TaskSpec]] = {}
    for spec in (each for pattern in patterns for each in parse_task_specs(pattern, trust_code)):
        for name in registry.task_names(spec.name):
            found.setdefault(spec.canonical(name), (registry.tasks().get(name, trust_code), spec))
    return list(found.values())


def _locate_backbone(name: str, sources: Sources, trust_remote_code: bool) -> LocatedBackbone:
    """The backbone and its weights.

    Raises:
        UsageError: The backbone does not exist, its config.json cannot be read, or its type is not supported.
    """
    try:
        backbone = backbone_from_name(name, sources)
    except (CheckpointError, DataUnavailableError) as error:
        raise UsageError(str(error)) from error
    if backbone.checkpoint is None:
        return backbone, None, None
    try:
        return backbone, locate(backbone, sources, trust_remote_code=trust_remote_code), None
    except DataUnavailableError as error:
        return backbone, None, Failure(type(error).__name__, str(error))


def _draft(
    task: Task, task_spec: TaskSpec, spec: ModelSpec, located: LocatedBackbone, config: RunConfig
) -> PlannedCell:
    """A model on a task, with the problem if the backbone cannot do the task or its weights were not found."""
    backbone, weights, problem = located
    device = resolve_device(config.device)
    scale = config.task_scales.get(task.info.name, config.scale)
    config = replace(config, overrides={**config.task_settings.get(task.info.name, {}), **config.overrides})
    task, own = _decided(task, _task_settings(task, task_spec, backbone, scale, config), scale)
    info = task.info
    recipe = _recipe(task, backbone, config)
    check_counts(own)
    if not config.trust_remote_code:
        refuse_scripts(info.name, own)
    settings = {"task": own, **_other_settings(task, backbone, scale, recipe, config)}
    _check_window(spec, info.name, settings["task"])
    if backbone.checkpoint is None:
        spec.kept_layers([False] * int(str(settings["backbone"]["layers"])))
    if spec.options.get(CONTINUED) and not RECIPES[recipe].trains_teacher:
        raise UsageError(
            f"{spec.canonical} is a control for recipes that begin with training a teacher, and {recipe} does not; "
            f"there it would be {spec.mechanism.name}"
        )
    if backbone.checkpoint is None and settings.get("distill", {}).get("block_layers"):
        raise UsageError(
            f"distill.block_layers is {settings['distill']['block_layers']}; backbone {backbone.name} is trained as a "
            "whole and so fits its device: allowed is 0"
        )
    if missing := info.needs - backbone.capabilities:
        message = f"backbone {backbone.name} cannot do what {info.name} needs: {', '.join(sorted(missing))}"
        problem = Failure(UnsupportedError.__name__, message)
    cell = Cell(
        model=spec.canonical,
        backbone=backbone.name,
        task=task_spec.canonical(info.name),
        task_version=info.version,
        recipe=recipe,
        scale=scale,
        seed=0,
        limit=config.limit,
        device=device,
        dtype=resolve_dtype(config.dtype, device),
        settings=settings,
        data=NO_DATA,
        scoring="",
        machine=(gpu_name() if device == "cuda" else cpu_name()) if info.own_device else "",
        weights=weights.fingerprint if weights else "",
        own_code=mechanism_code(spec.mechanism.name),
    )
    return PlannedCell(cell, task, spec, backbone, weights, problem)


def _recipe(task: Task, backbone: Backbone, config: RunConfig) -> str:
    """The recipe asked for, else the task's first that fits the backbone; a task that only measures time has its own.

    Raises:
        UsageError: The task or the backbone does not go with the recipe.
    """
    allowed = task.info.recipes
    trains_nothing = allowed == ("zero-shot",)
    if trains_nothing and task.info.own_device:
        return allowed[0]
    fitting = [name for name in allowed if RECIPES[name].fits(backbone.checkpoint is not None)]
    own = config.task_recipes.get(task.info.name)
    if config.recipe is None and fitting:
        return own if own in fitting else fitting[0]
    if config.recipe not in fitting:
        kind = "pretrained" if backbone.checkpoint else "trained from scratch"
        where = f"recipe of task {task.info.name} with backbone {backbone.name}, which is {kind},"
        message = str(unknown_name(where, config.recipe or "none", fitting))
        raise UsageError(message + (CONVERT_FIRST if trains_nothing else ""))
    return config.recipe


def _task_settings(
    task: Task, task_spec: TaskSpec, backbone: Backbone, scale: str, config: RunConfig
) -> dict[str, Value]:
    """A task's settings: defaults, overridden by `--set`, then `--batch-size`, then the settings in the task's name.

    A pretrained model uses its own tokenizer.

    Raises:
        UsageError: A setting is unknown or has a wrong value, or the task has no such scale.
    """
    if scale not in task.info.scales:
        raise unknown_name(f"scale of task {task.info.name}", scale, task.info.scales)
    own: Settings = task.info.scales[scale].settings
    if backbone.checkpoint is not None and "tokenizer" in own:
        own = {**own, "tokenizer": "backbone"}
    settings = apply_overrides({"task": own}, config.overrides)["task"]
    if config.batch_size not in ("", "auto") and "batch_size" in settings:
        settings["batch_size"] = int(config.batch_size)
    return task_spec.apply(settings)


def _decided(task: Task, settings: Settings, scale: str) -> tuple[Task, Settings]:
    """The task that its settings decide on, and those of the settings that it has.

    Raises:
        UsageError: The task does not take one of its settings.
    """
    try:
        chosen = decided(task, settings)
    except ValueError as error:
        raise UsageError(f"task {task.info.name}: {error}") from error
    known = chosen.info.scales[scale].settings
    return chosen, settings if chosen is task else {key: settings[key] for key in settings if key in known}


def _other_settings(task: Task, backbone: Backbone, scale: str, recipe: str, config: RunConfig) -> Groups:
    """The settings of backbone and stages: defaults, overridden by `--set`.

    Raises:
        UsageError: A setting has a wrong value.
    """
    settings = apply_overrides(_defaults(task, backbone, scale, recipe, config), config.overrides)
    check_backbone(backbone, settings["backbone"])
    for stage in settings.keys() & STAGE_DEFAULTS.keys():
        check_stage(stage, settings[stage], config.devices)
    return settings


def _check_window(spec: ModelSpec, task: str, settings: Settings) -> None:
    """Refuses a window that no token can look past: such a model would be softmax attention under another name.

    Raises:
        UsageError: The window holds the whole context.
    """
    window, context = spec.options.get("window"), settings.get("context_length")
    if isinstance(window, int) and isinstance(context, int) and window >= context:
        raise UsageError(
            f"the window of {spec.canonical} holds {window} tokens, and the context of {task} has {context}, so it "
            f"would be softmax attention; allowed: window below {context}"
        )


def _defaults(task: Task, backbone: Backbone, scale: str, recipe: str, config: RunConfig) -> Groups:
    """Defaults of backbone and stages: those of the scale, overridden by those of the task.

    A pretrained model has its own sizes; some tasks want its weights in the dtype of the run. Stages that follow from
    the settings of training follow `--set train.KEY=VALUE` too.
    """
    chosen = task.info.scales[scale]
    sizes: Settings = chosen.backbone
    if backbone.checkpoint is not None:
        dtype = resolve_dtype(config.dtype, resolve_device(config.device))
        sizes = {"weights": dtype} if task.info.weights_in_dtype else {}
    train = apply_overrides({"train": {**STAGE_DEFAULTS["train"][scale], **chosen.train}}, config.overrides)["train"]
    stages = stage_defaults(RECIPES[recipe], scale, replace(chosen, train=train))
    return {"backbone": {**backbone.sizes[scale], **sizes}, **stages}


def _with_data(draft: PlannedCell, sources: Sources, is_user_chosen: bool) -> PlannedCell:
    """The cell with the data that it reads and the code that scores it, or with the problem if its data are missing.

    Raises:
        UsageError: The task does not take one of its settings, or the user's own data do not exist or cannot train.
    """
    task, settings = draft.task, draft.cell.settings["task"]
    scoring = registry.tasks().code.get(task.info.name) or scoring_fingerprint(task)
    draft = replace(draft, cell=replace(draft.cell, scoring=scoring))
    if draft.backbone.checkpoint is not None and draft.weights is None:
        return draft
    try:
        data = task.identify(settings, sources_for(draft.weights, sources, fetch=False))
        task = decided(task, settings, data)
    except UnsupportedError as error:
        return replace(draft, problem=Failure(UnsupportedError.__name__, str(error)))
    except (DataUnavailableError, ImportError) as error:
        if is_user_chosen and (named := settings.get("dataset")):
            hint = nearest_datasets(str(named), sources)
            raise UsageError(f"task {task.info.name}: {error}{hint}") from error
        return replace(draft, problem=Failure(type(error).__name__, str(error)))
    except ValueError as error:
        hint = NO_TEST_SPLIT if "given as test_split," in str(error) else ""
        raise UsageError(f"task {task.info.name}: {error}{hint}") from error
    if draft.cell.recipe not in task.info.recipes:
        raise UsageError(
            f"task {task.info.name}: recipe {draft.cell.recipe} trains, and {data.id} has no training split that is "
            f"read; allowed: {', '.join(task.info.recipes)}"
        )
    return replace(draft, task=task, cell=replace(draft.cell, data=data))
