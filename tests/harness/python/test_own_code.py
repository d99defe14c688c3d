"""The digest of a session's object follows its code and its values, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from hedgebench.harness.python.own_code import own_code

SOURCE = """
import functools
import torch
from hedgebench.kernels.maps.feature_map import FeatureMap
BETA = 2.0
UNUSED = 1
TABLE = {"b": [1, 2], "a": torch.ones(3)}
def power(x, by=2):
    return x**by + TABLE["a"].sum()
def outer(shift):
    return lambda x: x + shift
moved = outer(1.5)
class Map(FeatureMap):
    kinds = {"x", "y", "z"}
    @staticmethod
    def scaled(x):
        return BETA * x
    @functools.cache
    def cached(self):
        return 3
    @property
    def width(self):
        return [i for i in range(4)]
    def forward(self, x, positions=None):
        if positions in {"p", "q", "r"}:
            return x
        return super().features(power(moved(self.scaled(x))))
"""
CHANGES = {
    "a global": ("BETA = 2.0", "BETA = 3.0"),
    "a default": ("by=2", "by=3"),
    "a value in a container": ("[1, 2]", "[1, 3]"),
    "a tensor": ("torch.ones(3)", "torch.zeros(3)"),
    "a closure": ("outer(1.5)", "outer(2.5)"),
    "a constant": ("range(4)", "range(5)"),
    "a cached function": ("return 3", "return 4"),
    "an operation": ("x + shift", "x - shift"),
    "a class attribute": ('"z"}', '"w"}'),
    "a decorator": ("@property", "@functools.cached_property"),
}


def defined(source: str) -> Any:
    """The class of a session's main module."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<cell>", "exec", dont_inherit=True), space)
    return space["Map"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_object_changes_the_digest(change: str) -> None:
    old, new = CHANGES[change]
    assert SOURCE.count(old) == 1
    assert own_code(defined(SOURCE.replace(old, new))) != own_code(defined(SOURCE))


@pytest.mark.parametrize(
    "same",
    [
        SOURCE,
        f"# another cell\n\n{SOURCE}",
        SOURCE.replace("UNUSED = 1", "UNUSED = 2"),
        SOURCE.replace("    kinds", '    """Says something."""\n    kinds'),
    ],
)
def test_layout_and_what_is_not_used_do_not_count(same: str) -> None:
    assert own_code(defined(same)) == own_code(defined(SOURCE))


def test_other_processes_find_the_same_digest(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    end = "\nfrom hedgebench.harness.python.own_code import own_code\nprint(own_code(Map))\n"
    script.write_text(f"# moved down\n{SOURCE}{end}", encoding="utf-8")
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == own_code(defined(SOURCE))


def test_a_module_that_no_package_installed_counts_by_its_source(
    tmp_path: Path,
) -> None:
    found = []
    for body in ("return 1", "return 2  # changed", "return 2"):
        (tmp_path / "my_maps.py").write_text(f"def mine():\n    {body}\n", encoding="utf-8")
        script = (
            "import my_maps; from hedgebench.harness.python.own_code import own_code; print(own_code(my_maps.mine))"
        )
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"}
        command = [sys.executable, "-B", "-c", script]
        found.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert found[0] != found[1] == found[2]


def test_an_object_that_cannot_travel_is_refused() -> None:
    with pytest.raises(TypeError, match="pickle"):
        own_code(threading.Lock())


def test_what_is_met_again_is_told_by_its_place_and_not_by_its_address() -> None:
    def values(last: int) -> list[list[int]]:
        held = [[1], [1]]
        return [*held, held[last]]

    pairs = [values(last) for last in (0, 1, 0, 1)]
    first, second, *again = map(own_code, pairs)
    assert [first, second] == again
    assert first != second

    class Plain:
        pass

    twice = [[one, one] for one in (Plain(), Plain())]
    assert len(set(map(own_code, twice))) == 1
