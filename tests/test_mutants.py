"""Mutation testing: which mutants a seed draws, what becomes of them, and that the checkout is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .mutants.__main__ import EQUIVALENT, report, try_all, void
from .mutants.draw import Mutant, changes_by_place, draw
from .mutants.trial import Limits, concerning_tests

ROOT = Path(__file__).parents[1]

TOY = {
    "__init__.py": "from .kernels.sums import add as add\n",
    "kernels/sums.py": "def add(a, b):\n    return a + b\n\n\ndef take(a, b):\n    return a - b\n",
    "adapters/loops.py": "def count(a):\n    while a < 9:\n        a += 1\n    return a\n",
    "tests/kernels/test_sums.py": "from hedgebench.kernels.sums import add\n\n"
    "def test_it_adds():\n    assert add(2, 3) == 5\n",
    "tests/adapters/test_loops.py": "import pytest\nfrom hedgebench.adapters.loops import count\n\n"
    "@pytest.mark.parametrize('of', ['a b', 'c'])\n"
    "def test_it_counts(of):\n    assert count(2) == (9 if of == 'a b' else 0)\n",
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with two modules and their tests."""
    root = tmp_path_factory.mktemp("toy")
    for name, text in TOY.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / ".pyroot").mkdir()
    (root / ".pyroot" / "hedgebench").symlink_to("..", target_is_directory=True)
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = ["--import-mode=importlib"]\n')
    return root


def test_a_seed_draws_the_same_mutants_and_another_draws_others(toy: Path) -> None:
    first, again, other = (draw(toy, 4, seed) for seed in (0, 0, 1))
    assert [(each, each.source) for each in first] == [(each, each.source) for each in again]
    assert first != other
    everything = draw(toy, 100, 0)
    assert {(each.file, each.line) for each in everything} == {
        *(("kernels/sums.py", line) for line in (2, 6)),
        *(("adapters/loops.py", line) for line in (2, 3)),
    }
    assert len(everything) == 6


def test_what_tests_cannot_see_is_not_mutated() -> None:
    source = '''
"""Text with 1 + 1."""
if TYPE_CHECKING:
    import a

@dataclass(frozen=True)
class A:
    x: int | None

@triton.jit
def kernel(x, N: tl.constexpr):
    return x + 1

def f(a: int | None, *, b: list[int] | None, **c) -> int | None:
    return {**a, "1 < 2": b}
'''
    assert changes_by_place(source) == {}
    assert sorted(changes_by_place(f"{source}\ny = 1 < x\n")) == [((17, 4), (17, 5)), ((17, 6), (17, 7))]


def test_mutants_die_by_a_test_or_by_time_or_survive_and_the_checkout_is_left_alone(
    toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [
        ("kernels/sums.py", 2, "return a + b", "return a - b"),
        ("kernels/sums.py", 6, "return a - b", "return a + b"),
        ("adapters/loops.py", 3, "a += 1", "a += 0"),
    ]
    mutants = [Mutant(*change, TOY[change[0]].replace(*change[2:])) for change in changes]
    output = toy / "build" / "mutants.jsonl"
    rows = try_all(mutants, toy, output, Limits(test_s=1.0, mutant_s=20.0), jobs=2)
    assert {tuple(json.loads(line).items()) for line in output.read_text(encoding="utf-8").splitlines()} == {
        tuple(row.items()) for row in rows
    }
    assert [row["outcome"] for row in rows] == ["killed", "survived", "timeout"]
    counts = "tests/adapters/test_loops.py::test_it_counts[a b]"
    assert [row["by"] for row in rows] == ["tests/kernels/test_sums.py::test_it_adds", "", counts]
    assert try_all(mutants, toy, output, Limits(), jobs=2) == rows
    assert {name: (toy / name).read_text(encoding="utf-8") for name in TOY} == TOY

    untrue = {**rows[2], "now": "a += 2", "outcome": "killed", "by": counts.replace("a b", "c")}
    assert void([*rows, untrue], toy) == [untrue]
    capsys.readouterr()
    assert report([*rows, untrue], [untrue]) == pytest.approx(100 * 2 / 3)
    told = capsys.readouterr().out
    assert "survived: kernels/sums.py:6: return a - b  ->  return a + b\n" in told
    assert "4 mutants: 1 killed, 1 by time, 1 survived, 0 of them equivalent; 1 void. 66.7% of 3 killed." in told


def test_a_modules_own_tests_run_first_then_its_rooms_and_those_that_import_it() -> None:
    tests = concerning_tests(ROOT, "results/stats/agreement.py")
    room, hall = (
        {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / folder).glob("test_*.py")}
        for folder in ("results/stats", "results")
    )
    assert tests[:2] == ["tests/results/stats/test_agreement.py", "tests/tasks/metrics/test_classification.py"]
    began = min(map(tests.index, hall))
    assert set(tests[began : began + len(hall)]) == hall
    assert {*room, "tests/tasks/kernel_speed/test_task.py"} <= set(tests[:began])
    assert "tests/tasks/metrics/test_requested.py" in tests[began + len(hall) :]  # of the room of one that imports it


def test_mutants_that_are_named_equivalent_are_still_there() -> None:
    for row in json.loads(EQUIVALENT.read_text(encoding="utf-8")):
        assert row["was"] in (ROOT / row["file"]).read_text(encoding="utf-8"), row
        assert row["reason"]
