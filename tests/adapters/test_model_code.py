"""The version of the model code: it goes up with every change of a number, which `model_code.json` holds.

After a change that is meant to change numbers, raise `MODEL_CODE` in `adapters/model_code.py` and write them anew:

    HEDGEBENCH_WRITE_NUMBERS=1 python -m pytest tests/adapters/test_model_code.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hedgebench.adapters.model_code import MODEL_CODE

from .model_numbers import PATHS, Numbers, numbers_of

FILE = Path(__file__).with_name("model_code.json")
TOLERANCE = 1e-6
"""Largest difference, relative to the largest number of a list. Builds of BLAS for other CPUs differ by up to 3e-7."""
COMMAND = "HEDGEBENCH_WRITE_NUMBERS=1 python -m pytest tests/adapters/test_model_code.py"

Stored = Mapping[str, Any]
"""`version`, and `numbers` of each path."""


def problem(stored: Stored, version: int, path: str, numbers: Numbers) -> str:
    """Why the numbers of a path are not those stored for this version; empty where they are."""
    if stored["version"] != version:
        return (
            f"MODEL_CODE is {version}, and {FILE.name} holds the numbers of {stored['version']}; write them: {COMMAND}"
        )
    if path not in stored["numbers"]:
        return f"{FILE.name} holds no numbers of the path {path!r}; write them: {COMMAND}"
    return changes(stored["numbers"][path], numbers, path)


def changes(expected: Numbers, numbers: Numbers, path: str) -> str:
    """Which numbers of a path changed; empty where none did."""
    if changed := [name for name in {**expected, **numbers} if differs(expected.get(name, []), numbers.get(name, []))]:
        named = "; ".join(f"{name}: {numbers.get(name)}, were {expected.get(name)}" for name in changed)
        return (
            f"{path} has other numbers than version {MODEL_CODE} of the model code. If they are meant to change, raise "
            f"MODEL_CODE and write them: {COMMAND}\n{named}"
        )
    return ""


def differs(expected: list[float], numbers: list[float]) -> bool:
    scale = max(map(abs, expected), default=0.0)
    return len(expected) != len(numbers) or numbers != pytest.approx(expected, rel=0, abs=TOLERANCE * scale)


def written(stored: Stored, version: int, path: str, numbers: Numbers) -> dict[str, Any]:
    """What to store with the numbers of a path: those of an older version go, those of this one must not change.

    Raises:
        ValueError: They changed, and the version did not go up.
    """
    if version < stored["version"]:
        raise ValueError(f"MODEL_CODE is {version}, and {FILE.name} holds the numbers of {stored['version']} already")
    kept = stored["numbers"] if version == stored["version"] else {}
    if path in kept and (found := changes(kept[path], numbers, path)):
        raise ValueError(found)
    kept = {name: kept[name] for name in PATHS if name in kept and name != path}
    rounded = {name: [float(f"{value:.9g}") for value in values] for name, values in numbers.items()}
    return {"version": version, "numbers": {**kept, path: rounded}}


@pytest.mark.parametrize("path", PATHS)
def test_numbers_change_with_the_version_alone(path: str, tmp_path: Path) -> None:
    stored, numbers = json.loads(FILE.read_text(encoding="utf-8")), numbers_of(path, tmp_path)
    if os.environ.get("HEDGEBENCH_WRITE_NUMBERS"):
        stored = written(stored, MODEL_CODE, path, numbers)
        FILE.write_text(text_of(stored), encoding="utf-8")
    if found := problem(stored, MODEL_CODE, path, numbers):
        pytest.fail(found, pytrace=False)


def text_of(stored: Stored) -> str:
    """As JSON, a line for each list of numbers."""
    lines = [
        f" {json.dumps(path)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in numbers.items())
        + "\n }"
        for path, numbers in stored["numbers"].items()
    ]
    return f'{{"version": {stored["version"]}, "numbers": {{\n' + ",\n".join(lines) + "\n}}\n"


PATH = next(iter(PATHS))
NUMBERS: Numbers = {"losses": [2.5, 2.25], "outputs": [1e-9, -3.0]}
OLD = {"version": MODEL_CODE, "numbers": {PATH: NUMBERS}}


@pytest.mark.parametrize(
    ("changed", "is_other"),
    [
        ({"losses": [2.5, 2.2500001]}, False),
        ({"losses": [2.5, 2.25001]}, True),
        ({"outputs": [2e-9, -3.0]}, False),  # next to the others it is nothing
        ({"outputs": [1e-9, 3.0]}, True),
        ({"losses": [2.5, float("nan")]}, True),
        ({"losses": [2.5]}, True),
        ({"more": [1.0]}, True),
    ],
)
def test_a_number_that_changed_fails_and_names_its_path(changed: Numbers, is_other: bool) -> None:
    found = problem(OLD, MODEL_CODE, PATH, NUMBERS | changed)
    assert bool(found) == is_other
    assert not is_other or (PATH in found and f"{next(iter(changed))}:" in found and "raise MODEL_CODE" in found)


def test_a_version_that_went_up_fails_until_its_numbers_are_written() -> None:
    assert COMMAND in problem(OLD, MODEL_CODE + 1, PATH, NUMBERS)
    assert COMMAND in problem(OLD, MODEL_CODE, "another path", NUMBERS)
    new = written(OLD, MODEL_CODE + 1, PATH, NUMBERS | {"losses": [3.0, 2.0]})
    assert problem(new, MODEL_CODE + 1, PATH, NUMBERS | {"losses": [3.0, 2.0]}) == ""


def test_other_numbers_are_not_written_for_the_same_version() -> None:
    with pytest.raises(ValueError, match="raise MODEL_CODE"):
        written(OLD, MODEL_CODE, PATH, NUMBERS | {"losses": [3.0, 2.0]})
    with pytest.raises(ValueError, match="holds the numbers of"):
        written(OLD, MODEL_CODE - 1, PATH, NUMBERS)


def test_a_changed_hyper_parameter_changes_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A real change of the code is seen, though the models are tiny and take three steps."""
    from hedgebench.adapters.training import loop

    plain = loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda step, settings: 1.01 * plain(step, settings))
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    assert "losses" in problem(stored, MODEL_CODE, PATH, numbers_of(PATH, tmp_path))
