"""What exists is found by walking folders and by entry points; a broken plugin troubles nobody else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from hedgebench.adapters.mechanisms.declaration import Mechanism
from hedgebench.harness import registry
from hedgebench.results.names import UnknownNameError

AddPlugin = Callable[[str, str, str, str], None]
MECHANISM = """
from hedgebench.adapters.mechanisms.declaration import Mechanism
ONE = Mechanism("one", "", "", feature_map="one_plugin:Map")
TWO = Mechanism("two", "", "")
BOTH = [ONE, TWO]
CLASH = Mechanism("softmax", "", "")
"""


def test_every_mechanism_of_the_design_that_exists_is_found_by_walking_the_folder() -> None:
    names = set(registry.mechanisms().items)
    assert {"softmax", "elu", "relu", "performer", "cosformer", "t2r", "taylor", "exp", "hedgehog", "t2r_hh"} <= names
    assert {"identity_linear", "none", "window"} <= names
    assert all(name == mechanism.name for name, mechanism in registry.mechanisms().items.items())


def test_every_task_is_found_by_walking_the_folder() -> None:
    items = registry.tasks().items
    assert {"wikitext2", "wikitext103", "stdlib", "associative_recall", "throughput", "memory"} <= set(items)
    assert list(items) == sorted(items)


def test_an_unknown_name_answers_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'hedghog'; did you mean hedgehog"):
        registry.mechanisms().get("hedghog")


def test_a_plugin_gives_one_or_several_objects(add_plugin: AddPlugin) -> None:
    add_plugin("one_plugin", "hedgebench.adapters", "one_plugin:BOTH", MECHANISM)
    add_plugin("another", "hedgebench.adapters", "another:THREE", MECHANISM + "\nTHREE = Mechanism('three', '', '')")
    known = registry.mechanisms()
    assert {"one", "two", "three", "softmax"} <= set(known.items)
    assert known.broken == {}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("raise SystemError('boom')", "SystemError: boom"),
        ("import sys; sys.exit('good bye')", "SystemExit: good bye"),
        ("THING = 3", "it gives an object of type int, which this group does not hold"),
        ("OTHER = 3", "has no attribute 'THING'"),
        (MECHANISM + "THING = CLASH", "the name 'softmax' is taken"),
    ],
)
def test_a_broken_plugin_tells_why_only_to_whoever_asks_for_it(add_plugin: AddPlugin, source: str, reason: str) -> None:
    add_plugin("broken", "hedgebench.adapters", "broken:THING", source)
    known = registry.mechanisms()
    assert known.get("softmax").summary != ""
    with pytest.raises(UnknownNameError, match="model 'broken' is a plugin that could not be loaded") as caught:
        known.get("broken")
    assert reason in str(caught.value)


def test_two_built_ins_of_one_name_are_a_mistake_of_ours() -> None:
    modules = [ModuleType("a"), ModuleType("b")]
    for module in modules:
        module.__dict__["THING"] = Mechanism("same", "", "")
    with pytest.raises(RuntimeError, match="two built-in models are named 'same'"):
        registry._registry("model", "no.such.group", modules, registry._mechanism_name)


def test_the_same_object_in_two_modules_is_found_once() -> None:
    shared: Any = Mechanism("same", "", "")
    modules = [ModuleType("a"), ModuleType("b")]
    for module in modules:
        module.__dict__["THING"] = shared
    found: registry.Registry[Mechanism] = registry._registry(
        "model", "no.such.group", modules, registry._mechanism_name
    )
    assert found.items == {"same": shared}


def test_finding_everything_loads_no_heavy_library() -> None:
    script = (
        "import sys; from hedgebench.harness import registry as r; r.mechanisms(); r.tasks();"
        "print(*sorted({n.partition('.')[0] for n in sys.modules} & {'torch', 'numpy', 'pandas', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
