"""Pages of `bench list`: all that is known of one model or one task."""

from __future__ import annotations

import math
import re
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...adapters.mechanisms.declaration import Mechanism, Option
from ...results.foreign import ForeignJsonError, parse_json
from ...results.record import Record, from_json
from ...results.stats.chance import chance_level, is_signed
from ...results.tables.format import format_measurement
from ...results.tables.row import grouped
from ...tasks.base import Task
from .. import registry
from ..task_spec import TOML, parse_task_specs
from .listing import declared_task, room_of, written_out

_WIDTH, _INDENT = 80, 2
_LONG_HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{8,}\b")
_RUNS = (registry.ROOT / "results" / "published", Path("results", "runs"))
"""Folders of runs from which times and chance levels are taken."""

_EVEN_GUESS = "as many as the vocabulary has tokens, by guessing evenly"
_WITHOUT_LEARNING: Mapping[str, str] = {
    "accuracy": "accuracy of the most frequent class, which each record states",
    "active_share": "none: what a model does, not how well",
    "attention_kl": "none: a distance from softmax attention, whose own is 0",
    "f1": "f1 of giving class 1 always, which each record states",
    "passkey": "accuracy 0, by guessing a number of five digits",
    "perplexity": f"perplexity of {_EVEN_GUESS}",
    "recall_perplexity": f"recall_perplexity of {_EVEN_GUESS}",
    "regular_languages": "not known; ngram_accuracy in each record is that of an n-gram model of the prompt",
    "squared_error": "squared_error of answering 0 always, which each record states",
    "rouge1": "rouge1 0, by a text without a word of the reference",
}
"""What to say where no record states a score without learning, by task or by main metric."""


def page_of(what: str, row: Mapping[str, Any]) -> str:
    """The page on one row of a listing: of models and tasks all that is known, of other things the row itself.

    Args:
        what: `models`, `tasks` or another listing.
        row: The row.
    """
    name, *others = row
    if what == "models":
        return model_page(registry.mechanisms().get(row[name]))
    if what == "tasks" and str(row["room"]).endswith(TOML):
        (spec,) = parse_task_specs(row[name])
        return task_page(declared_task(spec), row, spec.canonical(spec.name))
    if what == "tasks":
        return task_page(registry.tasks().get(row[name]))
    facts = (_fact("" if key == "summary" else key, written_out(row[key])) for key in others)
    return "\n".join((row[name], *(line for lines in facts for line in lines))) + "\n"


def model_page(mechanism: Mechanism) -> str:
    """What a model is, where it comes from, and its options."""
    kind = [
        "linear attention with a feature map" if mechanism.feature_map else "",
        "distilled from softmax attention when a model is converted" if mechanism.distilled else "",
        "decoders only" if mechanism.causal_only else "",
        "encoders only" if mechanism.encoder_only else "",
        "" if mechanism.reads_heads else "trained from scratch: it reads the layer's input, or is the whole layer",
    ]
    lines = [mechanism.name, *_wrapped(mechanism.summary), *_fact("kind", "; ".join(filter(None, kind)))]
    lines += _fact("source", mechanism.source)
    if mechanism.options:
        lines += ["", f"options, as in {mechanism.name}:{_example(mechanism)}"]
        for name, option in mechanism.options.items():
            lines += _option(name, option)
    task = "digits" if mechanism.encoder_only else "associative_recall"
    lines += ["", f"bench run --models softmax,{mechanism.name} --tasks {task}"]
    return "\n".join(lines) + "\n"


def task_page(task: Task, declared: Mapping[str, Any] | None = None, recorded: str = "") -> str:
    """What a task measures, its chance level, data and licence, and how long it took wherever it was measured.

    Args:
        task: The task.
        declared: The row of a task that a file declares; its name, settings and data stand on the page.
        recorded: The name in records, if it is not the task's.
    """
    info = task.info
    name, data = (declared["task"], declared["data"]) if declared else (info.name, info.data)
    records = list(_records(recorded or info.name))
    lines = [name, *_wrapped(info.summary), *(_fact("declared as", declared["summary"]) if declared else ())]
    lines += _fact("main metric", info.main_metric) + _fact("chance", _chance(task, records))
    lines += _fact("data", _LONG_HASH.sub(r"\1…", ", ".join(data))) + _fact("licence", info.licence)
    lines += _fact("source", info.citation) + _fact("backbone", f"{info.backbone} unless --backbone names another")
    lines += _fact("recipes", ", ".join(info.recipes)) + _fact("scales", ", ".join(info.scales))
    lines += _fact("time", "; ".join((*_times(records), *_untimed(info.scales, records))))
    converts = info.recipes != ("zero-shot",) or info.own_device
    models = "" if info.model else "--models softmax,hedgehog " if converts else "--models softmax "
    lines += _fact("room", f"tasks/{room_of(task)}") if room_of(task) != "plugins" else []
    lines += ["", f"bench run {models}--tasks {name}"]
    return "\n".join(lines) + "\n"


def _chance(task: Task, records: Sequence[Record]) -> str:
    """The score without learning: as measured at each scale, else as the metric or the number of classes gives it."""
    metric = task.info.main_metric
    if task.info.own_device:
        return "none: a cost, told beside softmax's"
    if is_signed(metric):
        return f"{metric} 0"
    levels = {scale: chance_level(metric, own) for scale, own in grouped(records, lambda record: record.scale).items()}
    told = {scale: f"{format_measurement(each.value, None)[0]} ({each.name})" for scale, each in levels.items() if each}
    if told:
        return f"{metric} " + ", ".join(f"{text} at scale {scale}" for scale, text in told.items())
    classes = getattr(task, "num_classes", None)
    if isinstance(classes, int) and classes > 1 and metric == "accuracy":
        return f"{metric} {1 / classes:.3g} by guessing among {classes} classes; more if one is frequent"
    return _WITHOUT_LEARNING.get(task.info.name) or _WITHOUT_LEARNING.get(metric, "")


def _times(records: Sequence[Record]) -> Iterator[str]:
    """Median time of a cell, by scale and device."""
    for (scale, device), own in grouped(records, lambda r: (r.scale, r.environment.get("device", ""))).items():
        seconds = statistics.median(math.fsum(record.timings_s.values()) for record in own)
        took = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        yield f"{scale}: {took} a model on {device or 'an unknown device'} (median of {len(own)})"


def _untimed(scales: Iterable[str], records: Sequence[Record]) -> Iterator[str]:
    """The scales at which no run here has the task."""
    if missing := [scale for scale in scales if scale not in {record.scale for record in records}]:
        yield f"not measured yet at {', '.join(missing)}"


def _records(task: str) -> Iterator[Record]:
    """Records of the task with a result, in the runs of this folder and the published ones."""
    for path in sorted(path for folder in _RUNS for path in folder.glob("*/cells/*.json")):
        data = path.read_bytes()
        if task.encode() not in data:
            continue
        try:
            record = from_json(parse_json(data))
        except ForeignJsonError:
            continue  # bench report names corrupt files; a page on a task has no use for them
        if record.task == task and record.status == "ok":
            yield record


def _option(name: str, option: Option) -> list[str]:
    allowed = "|".join(option.choices) or option.kind.__name__
    least = "" if option.minimum is None else f", at least {option.minimum:g}"
    default = str(option.default).lower() if isinstance(option.default, bool) else option.default
    told = "" if default is None else f" (default: {default})"
    return [*_wrapped(f"{name}={allowed}{least}{told}"), *_wrapped(option.help, 2 * _INDENT)]


def _example(mechanism: Mechanism) -> str:
    """The first option with another value than its default."""
    name, option = next(iter(mechanism.options.items()))
    others = [choice for choice in option.choices if choice != option.default]
    value = others[0] if others else str(not option.default).lower() if option.kind is bool else option.minimum or 16
    return f"{name}={value}"


def _fact(name: str, text: str) -> list[str]:
    return _wrapped(f"{name}: {text}" if name else text) if text else []


def _wrapped(text: str, indent: int = _INDENT) -> list[str]:
    room = " " * indent
    hanging = " " * (indent + _INDENT)
    return textwrap.wrap(
        text, _WIDTH, initial_indent=room, subsequent_indent=hanging, break_on_hyphens=False, break_long_words=False
    )
