"""The card of a converted model: where it comes from and what was measured, for the Hugging Face hub and for people."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..foreign import parse_json
from ..record import Metric, Record
from ..tables.format import escape_markdown, format_arrow, format_measurement

CARD = "README.md"
"""Name of the card in a model's folder, which the hub shows."""

_AUTO_CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
_VERSIONS = ("hedgebench", "git_commit", "python", "torch", "transformers", "cpu", "gpu")

_BODY = """
# {title}

{base} with its softmax attention replaced by `{model}`, by the recipe `{recipe}` of hedgebench on `{task}`, after
[The Hedgehog & the Porcupine](https://arxiv.org/abs/2402.04347). The projections and all other layers are those of the
base model, fine-tuned where the recipe says so.

## Use

```python
import hedgebench
from transformers import {auto}

model = {auto}.from_pretrained("{name}")
```

`import hedgebench` has to come first: transformers alone does not know this attention, and refuses the files. No code
is loaded with them.

## Measured

{measured}

`n` counts test items; ± is the standard error over them. One training run, seed {seed}: differences between training
runs are not in the error.{partial}

## Made from

{origin}

`provenance.json` has every setting of every stage.
"""


def write_model_card(record: Record, folder: Path, name: str, pipeline: str) -> None:
    """Writes the card of a converted model into its folder.

    Args:
        record: What was measured.
        folder: Folder of the model, with its provenance.json.
        name: Name to load the model by: its repository on the hub, or its folder.
        pipeline: The hub's name of what the model does, such as `text-generation`.
    """
    provenance: dict[str, Any] = parse_json((folder / "provenance.json").read_bytes())
    data = _metadata(record, provenance, name, pipeline)
    base = _base(record, provenance)
    partial = "" if record.limit is None else f" Partial: the first {record.limit} test items alone."
    body = _BODY.format(
        title=name.rpartition("/")[2],
        base=f"[{base}](https://huggingface.co/{base})" if provenance["base"]["repo"] else f"`{base}`",
        model=record.model,
        recipe=record.recipe,
        task=record.task,
        auto=_AUTO_CLASSES[pipeline],
        name=name,
        measured=_table(("metric", "value", "±", "n"), map(_measured, _shown(record))),
        seed=record.seed,
        partial=partial,
        origin=_table(("", ""), _origin(record, provenance)),
    )
    (folder / CARD).write_text(f"---\n{data}\n---\n{body}", encoding="utf-8")


def _metadata(record: Record, provenance: dict[str, Any], name: str, pipeline: str) -> str:
    """The card's head as YAML: base model, data, and the main metric as the hub reads it."""
    from huggingface_hub import EvalResult, ModelCardData

    main = record.main()
    results = []
    data = record.data.id if record.data else record.task
    if main is not None and main.value is not None and math.isfinite(main.value):
        shown = f"{main.name} of {record.model}" + ("" if record.limit is None else f", first {record.limit} rows")
        results.append(
            EvalResult(
                task_type=pipeline,
                dataset_type=data,
                dataset_name=record.task,
                dataset_revision=record.data.revision or None if record.data else None,
                metric_type=main.name,
                metric_value=main.value,
                metric_name=shown,
            )
        )
    return ModelCardData(
        library_name="hedgebench",
        pipeline_tag=pipeline,
        base_model=provenance["base"]["repo"] or None,
        base_model_relation="finetune" if provenance["base"]["repo"] else None,
        tags=["linear-attention", "hedgebench", record.model.partition(":")[0]],
        model_name=name.rpartition("/")[2],
        eval_results=results or None,
    ).to_yaml()


def _base(record: Record, provenance: dict[str, Any]) -> str:
    """The base model's repository, or the name of its folder, whose path is nobody else's concern."""
    repo: str = provenance["base"]["repo"]
    return repo or Path(record.backbone.removeprefix("hf:")).name


def _shown(record: Record) -> Iterator[Metric]:
    """The metrics with a value, the main one first; sweeps and curves are left out."""
    measured = [metric for metric in record.metrics if metric.value is not None and not metric.at]
    yield from sorted(measured, key=lambda metric: metric.name != record.main_metric)


def _measured(metric: Metric) -> tuple[str, ...]:
    value, error = format_measurement(metric.value, metric.stderr, metric.unit)
    unit = "" if metric.unit in ("1", "bytes") else f" {metric.unit}"
    return metric.name + format_arrow(metric.higher_is_better), value + unit, error, str(metric.n)


def _origin(record: Record, provenance: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "base", _base(record, provenance)
    yield "base revision", provenance["base_revision"]
    if record.data is not None:
        rows = ", ".join(f"{count:,} {split}" for split, count in record.data.splits.items())
        yield "data", f"{record.data.id} {record.data.revision}".strip() + (f": {rows}" if rows else "")
        yield "data fingerprint", record.data.fingerprint
    yield "recipe", f"{record.recipe}, scale {record.scale}"
    yield "device", f"{record.environment['device']}, {record.environment['dtype']}"
    yield from ((name, str(value)) for name in _VERSIONS if (value := record.environment.get(name)))
    yield from (("note", note) for note in record.notes)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *(tuple(map(escape_markdown, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
