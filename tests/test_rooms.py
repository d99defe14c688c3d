"""Rooms: a folder holds few files, rooms of a floor import in one direction, and a shared prefix becomes a folder."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("harness", "tasks", "adapters", "kernels", "results")
MAX_FILES = 14
"""Modules in one folder."""
MAX_PREFIX = 2
"""Modules of one folder whose names begin with one word and go on."""


def problems(root: Path) -> list[str]:
    """What breaks the rules below `root`."""
    found: list[str] = []
    for floor in FLOORS:
        folders = defaultdict(list)
        for path in sorted((root / floor).rglob("*.py")):
            folders[path.parent].append(path.stem)
        for folder, names in folders.items():
            found += _crowded(str(folder.relative_to(root)), names)
        found += _circles(root, floor)
    return found


def _crowded(folder: str, names: list[str]) -> Iterator[str]:
    if len(names) > MAX_FILES:
        yield f"{folder} holds {len(names)} modules; at most {MAX_FILES} are wanted"
    for prefix, count in Counter(name.split("_")[0] for name in names).items():
        if count > MAX_PREFIX:
            yield f"{folder} has {count} modules whose names begin with {prefix}: a room that was not built"


def _circles(root: Path, floor: str) -> Iterator[str]:
    """Rooms of a floor that import each other; the hall is the floor's door, and counts for none."""
    needs: dict[str, set[str]] = defaultdict(set)
    for path in sorted((root / floor).rglob("*.py")):
        room = path.relative_to(root).parts[:-1]
        for target in _imported(room, path.read_text(encoding="utf-8")):
            file = root.joinpath(*target).with_suffix(".py")
            other = (file if file.exists() else file.parent).relative_to(root).parts[:-1]
            if len(room) > 1 and len(other) > 1 and other[0] == floor and other != room:
                needs["/".join(room)].add("/".join(other))
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        yield "rooms import each other: " + " <- ".join(error.args[1])


def _imported(room: tuple[str, ...], source: str) -> Iterator[tuple[str, ...]]:
    """What a module of `room` imports by relative names, as parts of a path."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*room[: len(room) - node.level + 1], *(node.module.split(".") if node.module else ()))
            yield from ((*base, alias.name) for alias in node.names)
            if node.module:
                yield base


def test_rooms_are_small_and_import_in_one_direction() -> None:
    assert problems(ROOT) == []


def test_the_map_of_the_house_has_each_room_once() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    floor, drawn = "", []
    for indent, name in re.findall(r"^( *)(\w+)/ ", text.split("```")[1], re.MULTILINE):
        floor = floor if indent else name
        drawn.append(f"{floor}/{name}" if indent else floor)
    rooms = {path.parent.relative_to(ROOT) for floor in FLOORS for path in (ROOT / floor).rglob("*.py")}
    assert sorted(drawn) == sorted([*map(str, rooms), "docs"])


def test_tests_lie_in_the_rooms_of_what_they_test() -> None:
    known = {path.relative_to(ROOT).parent for floor in FLOORS for path in (ROOT / floor).rglob("*.py")}
    rooms = {path.relative_to(ROOT / "tests").parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert rooms - known <= {Path(), Path("plugin"), Path("faults"), Path("fuzz")}


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({f"tasks/r/{name}.py": "" for name in "abcdefghijklmno"}, "holds 15 modules"),
        ({f"tasks/{name}.py": "" for name in ("plot_a", "plot_b", "plot")}, "begin with plot"),
        (
            {"tasks/r/a.py": "from ..s.b import x", "tasks/s/b.py": "", "tasks/s/c.py": "from ..r import a"},
            "each other",
        ),
        (
            {
                "tasks/r/a.py": "def f():\n    from ..s import b",
                "tasks/s/b.py": "from ..t.c import x",
                "tasks/t/c.py": "from ...tasks.r import a",
            },
            "each other",
        ),
    ],
)
def test_each_way_to_break_a_rule_is_found(tmp_path: Path, files: dict[str, str], problem: str) -> None:
    for name, source in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    (found,) = problems(tmp_path)
    assert problem in found
