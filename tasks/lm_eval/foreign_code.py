"""What a user's YAML file of an lm-eval task would run: its functions, and scripts of the package `evaluate`.

Files of lm-eval itself are part of an installed package and trusted as it is. Templates are no reason to refuse a file:
`sandbox_templates` keeps them from all but their document.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...results.names import UsageError

_FUNCTION = "!function"


def code_in(path: Path) -> list[str]:
    """What a file and those that it includes would run, in words; empty if nothing, or if lm-eval brings the file.

    Nothing is run to find out.

    Raises:
        UsageError: A file cannot be read as YAML.
    """
    return [] if _is_installed(path) else list(dict.fromkeys(_code_in(path, set())))


def _code_in(path: Path, seen: set[Path]) -> Iterator[str]:
    yaml: Any = importlib.import_module("yaml")
    try:
        path = path.expanduser().resolve()
        if path in seen or _is_installed(path):
            return
        seen.add(path)
        root = yaml.compose(path.read_bytes(), yaml.SafeLoader)
    except (OSError, ValueError, RuntimeError, yaml.YAMLError) as error:  # of paths, of texts, of nesting, of YAML
        raise UsageError(f"cannot read the task {str(path)[:200]!r}: {error}") from error
    for node in _nodes(root):
        if node.tag == _FUNCTION:
            yield f"{_FUNCTION} {node.value}"
        # Every mapping counts: YAML may merge one from elsewhere in the file into the task.
        values = {key.value: value for key, value in node.value if key.id == "scalar"} if node.id == "mapping" else {}
        yield from _scripts(values)
        for name in _texts(values.get("include")):
            if node is root or _is_file(path.parent / name):
                yield from _code_in(path.parent / name, seen)


def _scripts(entry: Mapping[str, Any]) -> Iterator[str]:
    """A metric that lm-eval does not have itself, and so loads as a script of the package `evaluate`."""
    name = entry.get("metric")
    if name is None or name.id != "scalar" or name.tag == _FUNCTION:
        return
    asks = getattr(entry.get("hf_evaluate"), "value", "false")
    if str(asks).lower() not in ("false", "no", "off") or not _is_own_metric(name.value):
        yield f"metric {name.value} of the package evaluate"


def _is_own_metric(name: str) -> bool:
    importlib.import_module("lm_eval.api.metrics")  # registers lm-eval's metrics
    registry: Any = importlib.import_module("lm_eval.api.registry")
    return name in registry.METRIC_REGISTRY


def _nodes(root: Any) -> Iterator[Any]:
    """Every node of a YAML document once, however often it is referred to."""
    ahead, seen = [root], set()
    while ahead:
        node = ahead.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if node.id == "mapping":
            ahead += [part for pair in node.value for part in pair]
        elif node.id == "sequence":
            ahead += node.value


def _texts(node: Any) -> list[str]:
    if node is None:
        return []
    parts = node.value if node.id == "sequence" else [node]
    return [part.value for part in parts if part.id == "scalar"]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long
        return False


def _is_installed(path: Path) -> bool:
    found = importlib.util.find_spec("lm_eval")
    folders = found.submodule_search_locations if found else None
    return any(path.expanduser().resolve().is_relative_to(Path(folder).resolve()) for folder in folders or ())


def sandbox_templates() -> None:
    """Has lm-eval render its tasks' templates in Jinja's sandbox, where they reach their document alone."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    plain: Any = utils.env
    if isinstance(plain, SandboxedEnvironment):
        return
    sandbox = SandboxedEnvironment(
        loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
    )
    sandbox.filters.update(plain.filters)
    utils.env = sandbox
