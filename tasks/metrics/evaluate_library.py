"""Any metric of the package `evaluate`, asked for as `evaluate:NAME`.

| name | metric |
|---|---|
| `evaluate:accuracy` | the package's own, from the hub's organisation `evaluate-metric` or the package's cache |
| `evaluate:glue:mrpc` | the package's own with a configuration |
| `evaluate:./exact`, `evaluate:/folder/exact.py` | a local one: a script, or a folder that holds a script of its name |

A metric is a script, and loading it runs it. Hub names of other accounts are therefore refused: fetch such a metric,
read it, and name its folder. The package takes seconds to import, so it is imported only when one of its metrics is
asked for.

The package returns one number for all rows, without a direction and without a standard error. Its metrics therefore
rank nothing and have no standard error here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from ...results.record import Metric
from ..base import DataUnavailableError
from ..data.sources import hub_is_off

PREFIX = "evaluate:"
_ORGANISATION = "evaluate-metric"


@dataclass(frozen=True)
class EvaluateName:
    """The name of a metric after `evaluate:`.

    Attributes:
        path: Name of a metric of the package, or path of a local one.
        configuration: Its configuration; None for none.
    """

    path: str
    configuration: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is a path; the package's own names have no `/`."""
        return "/" in self.path

    @property
    def label(self) -> str:
        """The name in records; a local metric's has no folder."""
        stem = Path(self.path).stem if self.is_local else self.path
        return PREFIX + ":".join(filter(None, (stem, self.configuration)))


def parse_evaluate(name: str) -> EvaluateName:
    """What `evaluate:NAME` or `evaluate:NAME:CONFIGURATION` asks for; nothing is imported or loaded.

    Raises:
        ValueError: The name has another form, or is a path without a metric.
    """
    path, _, configuration = name.removeprefix(PREFIX).partition(":")
    if not name.startswith(PREFIX) or not path:
        raise ValueError(f"metric {name!r} is not of the form evaluate:NAME or evaluate:NAME:CONFIGURATION")
    asked = EvaluateName(path, configuration or None)
    if asked.is_local and not _script(Path(path)).is_file():
        raise ValueError(
            f"metric {name!r} names a path, and there is no {_script(Path(path))}; give a script or its folder, or a "
            "metric of the package evaluate, which has no / in its name"
        )
    return asked


def load_evaluate(name: str) -> Any:
    """The metric, ready to compute.

    Raises:
        DataUnavailableError: It is neither on the hub nor in the package's cache.
        ValueError: The name is refused by `parse_evaluate`.
    """
    asked = parse_evaluate(name)
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")  # it would ask the network even for a local metric
    if hub_is_off():
        os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
    evaluate: Any = importlib.import_module("evaluate")
    path = str(Path(asked.path).resolve()) if asked.is_local else f"{_ORGANISATION}/{asked.path}"
    try:
        return evaluate.load(path, asked.configuration, keep_in_memory=True)
    except (FileNotFoundError, ConnectionError) as error:
        raise DataUnavailableError(
            f"metric {name!r} is neither in the cache of the package evaluate nor on the hub "
            f"({_ORGANISATION}/{asked.path}); connect once, or name a local folder that holds it"
        ) from error


def measure_evaluate(
    name: str, references: Sequence[Any], predictions: Sequence[Any], suffix: str = ""
) -> list[Metric]:
    """Every number that a metric returns, as `evaluate:NAME`, or as `evaluate:NAME/KEY` if it returns several.

    Args:
        name: As in the module's docstring.
        references: The right labels, values or texts.
        predictions: The model's predictions.
        suffix: Suffix of the metrics' names.

    Raises:
        DataUnavailableError: The metric is not available.
        ValueError: It returns no number, or `parse_evaluate` refuses its name.
    """
    computed = load_evaluate(name).compute(predictions=list(predictions), references=list(references))
    found = {key: float(value) for key, value in (computed or {}).items() if isinstance(value, Real)}
    if not found:
        raise ValueError(f"metric {name!r} returns {computed!r}, in which there is no number")
    label = parse_evaluate(name).label
    return [
        Metric(label + (f"/{key}" if len(found) > 1 else "") + suffix, value, "1", None, None, len(predictions))
        for key, value in found.items()
    ]


def _script(path: Path) -> Path:
    return path if path.suffix == ".py" else path / f"{path.name}.py"
