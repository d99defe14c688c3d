"""The configuration of an lm-eval task: data, splits, examples in the prompt, metrics."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...adapters.base import Capability
from ...results.names import UnknownNameError

NO_FILTER = "none"
GENERATES = "generate_until"


@dataclass(frozen=True)
class TaskConfig:
    """A task's YAML file, with the files that it includes.

    Attributes:
        path: The file.
        values: Its content; functions are named, not loaded.
    """

    path: Path
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The task's own name."""
        return str(self.values["task"])

    @property
    def version(self) -> str:
        """The task's version, which lm-eval raises when its numbers change; empty if it has none."""
        metadata = self.values.get("metadata") or {}
        return str(metadata.get("version", "")) if isinstance(metadata, Mapping) else ""

    @property
    def is_class(self) -> bool:
        """Whether the task is a Python class; its file then holds little else."""
        return "class" in self.values

    @property
    def needs(self) -> frozenset[Capability]:
        """Capabilities that a model must have."""
        generates = self.is_class or self.values.get("output_type", GENERATES) == GENERATES
        return frozenset({Capability.LANGUAGE_MODEL} | ({Capability.GENERATE} if generates else set()))

    @property
    def repo(self) -> str:
        """Repository of the data, or the name of a file format."""
        path = self._data("dataset_path")
        return str(path) if self.is_class else str(path or "")

    @property
    def data_config(self) -> str | None:
        """Configuration of the data; None for the only one."""
        name = self._data("dataset_name")
        return str(name) if name else None

    @property
    def filters(self) -> list[str]:
        """Names of the filters of answers; empty for none."""
        return [entry["name"] for entry in self.values.get("filter_list") or ()]

    @property
    def main_metric(self) -> str:
        """The first metric of the task, as our records name it."""
        listed = self.values.get("metric_list")
        if listed:
            first = str(listed[0]["metric"]).rpartition(".")[2]
        else:
            first = next(iter(self.instance().aggregation() if self.is_class else self.default_metrics()), "")
        return metric_name(first, next(iter(self.filters), NO_FILTER))

    def instance(self) -> Any:
        """An object of the task's class, not initialised: its metrics are read without its data."""
        kind = self.loaded()["class"]
        return kind.__new__(kind)

    def default_metrics(self) -> list[str]:
        """lm-eval's metrics of a task that lists none; a class computes its own."""
        from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

        return [] if self.is_class else list(DEFAULT_METRIC_REGISTRY[self.values.get("output_type", GENERATES)])

    def shots(self, asked: int | None) -> int:
        """Examples in the prompt, as in lm-eval: `asked`, or the task's own number if that is 0 or `asked` is None."""
        own = self.values.get("num_fewshot")
        return int(own or 0) if asked is None or own == 0 else asked

    def splits(self, shots: int) -> tuple[str, ...]:
        """Splits that are read: the tested one, and that of the examples; empty if all may be read."""
        values = self.values
        if self.is_class:
            return ()
        tested = values.get("test_split") or values.get("validation_split")
        fewshot = values.get("fewshot_config") or {}
        if not shots or fewshot.get("samples") is not None:
            return (tested,) if tested else ()
        shown = fewshot.get("split") or values.get("fewshot_split") or values.get("training_split")
        shown = shown or values.get("validation_split") or tested
        return tuple(dict.fromkeys(split for split in (tested, shown) if split))

    def problem(self, unsafe_code: bool) -> str:
        """Why the task cannot run here; empty if it can."""
        if self.values.get("doc_to_image") or self.values.get("doc_to_audio"):
            return "it reads images or sound, and our language models read text"
        if self.values.get("custom_dataset"):
            return "its data come from a program with settings of its own; run it with bench lm-eval"
        if self.values.get("unsafe_code") and not unsafe_code:
            return "it runs code that the model writes; set unsafe_code=true if you accept that"
        return ""

    def files(self) -> tuple[Path, ...]:
        """All files of the task: its own, those that it includes, and the modules of their functions.

        Modules of lm-eval itself that are not beside such a file are left out: its release determines their content.
        """
        return tuple(dict.fromkeys(_files(self.path)))

    def loaded(self) -> dict[str, Any]:
        """The content with functions and classes in place of their names."""
        return dict(self._loaded)

    @functools.cached_property
    def _loaded(self) -> Mapping[str, Any]:
        return _read(self.path, functions=True)

    def _data(self, name: str) -> Any:
        """A value that names the data; a class has it as a constant."""
        return getattr(self.loaded()["class"], name.upper(), None) if self.is_class else self.values.get(name)


def read_config(path: Path) -> TaskConfig:
    """The configuration in a YAML file.

    Raises:
        UnknownNameError: The file is not that of a task.
    """
    values = _read(path, functions=False)
    if not isinstance(values.get("task"), str):
        raise UnknownNameError(f"{path} is not the file of one lm-eval task: it has no entry `task: NAME`")
    return TaskConfig(path, values)


def metric_name(metric: str, filtered_by: str) -> str:
    """A metric's name in our records: lm-eval's, followed by the filter's if answers were filtered."""
    return metric if filtered_by == NO_FILTER else f"{metric}.{filtered_by}"


def _files(path: Path) -> Iterator[Path]:
    """A file, the modules of its functions, and the files that it includes, as lm-eval finds them."""
    yaml: Any = importlib.import_module("yaml")
    functions: list[str] = []

    class Loader(yaml.FullLoader):  # type: ignore[misc]
        """Reads a task's file and keeps the names of its functions."""

    Loader.add_constructor("!function", lambda loader, node: functions.append(loader.construct_scalar(node)))
    path = path.expanduser().resolve()
    values = yaml.load(path.read_bytes(), Loader)
    yield path
    for module in dict.fromkeys(name.rpartition(".")[0] for name in functions):
        if file := _module_file(module, path.parent):
            yield file
    included = values.get("include") or []
    for name in included if isinstance(included, list) else [included]:
        yield from _files(path.parent / name)


def _module_file(module: str, folder: Path) -> Path | None:
    beside = folder / f"{module.replace('.', '/')}.py"
    if beside.is_file():
        return beside.resolve()
    if module.partition(".")[0] == "lm_eval":
        return None
    found = importlib.util.find_spec(module)
    return Path(found.origin) if found and found.origin else None


def _read(path: Path, functions: bool) -> Mapping[str, Any]:
    from lm_eval.tasks._yaml_loader import load_yaml

    values: dict[str, Any] = load_yaml(path, resolve_func=functions)
    return values
