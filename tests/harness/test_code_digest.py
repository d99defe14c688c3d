"""A digest follows what code means: it stays through moves and better words, and changes with any number."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hedgebench.harness import code_digest
from hedgebench.harness.code_digest import digest_of

Files = Mapping[str, str]
Digest = Callable[[Files], str]

SCORE = '''
"""Scores."""
from __future__ import annotations
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
import numpy as np
from .means import mean
if TYPE_CHECKING:
    from .elsewhere import Thing

@dataclass
class Settings:
    """Settings."""
    length: int = 3
    """Tokens."""

@cache
def score(rows: list[int], thing: Thing | None = None) -> float:
    """The score."""
    width = 2  # a comment
    return mean(np.array(rows)) * width + len(f"{rows} " f"and {width!r:>3}")
'''
MEANS = "def mean(x):\n    return sum(x) / len(x)\n\ndef other(x):\n    return 0\n"
FILES = {"p/score.py": SCORE, "p/means.py": MEANS}


def find(parts: tuple[str, ...], path: Path) -> Path | None:
    """Relative imports alone; a module of the folder `library` is not followed."""
    dots = sum(not part for part in parts)
    if not dots or not parts[dots:]:
        return None
    file = path.parents[dots - 1].joinpath(*parts[dots:]).with_suffix(".py")
    return file if file.is_file() and "library" not in file.parts else None


@pytest.fixture
def digest(tmp_path_factory: pytest.TempPathFactory) -> Digest:
    def make(files: Files) -> str:
        root = tmp_path_factory.mktemp("code")
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        (score,) = root.rglob("score.py")
        return digest_of([score], find)

    return make


def edited(old: str, new: str, file: str = "p/score.py") -> Files:
    assert old in FILES[file]
    return {**FILES, file: FILES[file].replace(old, new)}


SAME: dict[str, Files] = {
    "a docstring": edited('"""The score."""', '"""The score of rows, better said."""'),
    "no docstring": edited('    """The score."""\n', ""),
    "a field's docstring": edited('    """Tokens."""\n', ""),
    "a comment": edited("# a comment", "# a better comment"),
    "layout": edited("width = 2", "width = (\n        2\n    )"),
    "a function's annotations": edited("rows: list[int], thing: Thing | None = None) -> float", "rows, thing=None)"),
    "an annotation of a local name": edited("    width = 2", "    width: int = 2"),
    "imports for types": edited("    from .elsewhere import Thing", "    from .elsewhere import Thing, Other"),
    "no imports for types": edited("if TYPE_CHECKING:\n    from .elsewhere import Thing\n", ""),
    "an import's alias": {
        **FILES,
        "p/score.py": SCORE.replace("import mean\n", "import mean as average\n").replace("mean(np", "average(np"),
    },
    "a module instead of a name": {
        **FILES,
        "p/score.py": SCORE.replace("from .means import mean\n", "from . import means\n").replace(
            "mean(np", "means.mean(np"
        ),
    },
    "an import inside the function": {
        **FILES,
        "p/score.py": SCORE.replace("from .means import mean\n", "").replace(
            "    width = 2", "    from .means import mean\n    width = 2"
        ),
    },
    "a library's spelling": {
        **FILES,
        "p/score.py": SCORE.replace("import numpy as np\n", "from numpy import array\n").replace("np.array", "array"),
    },
    "another file's name": {"p/score.py": SCORE.replace(".means", ".averages"), "p/averages.py": MEANS},
    "another room": {"p/a/score.py": SCORE.replace(".means", "..b.c.means"), "p/b/c/means.py": MEANS},
    "a file that nothing imports": {**FILES, "p/unused.py": "x = 1\n"},
}

OTHER: dict[str, Files] = {
    "a number": edited("width = 2", "width = 3"),
    "a number's type": edited("width = 2", "width = 2.0"),
    "a name that is kept": edited("length: int", "size: int"),
    "a default": edited("int = 3", "int = 4"),
    "a field's annotation": edited("length: int", "length: float"),
    "a decorator": edited("@cache\n", ""),
    "a decorator's options": edited("@dataclass", "@dataclass(frozen=True)"),
    "an f-string's format": edited("!r:>3", "!r:>4"),
    "an f-string's text": edited('"and', '"or'),
    "what an import resolves to": edited("import mean\n", "import other as mean\n"),
    "another function of a library": edited("np.array", "np.asarray"),
    "code of an imported module": edited("sum(x)", "max(x)", "p/means.py"),
    "an unused function of an imported module": edited("return 0", "return 1", "p/means.py"),
    "a parameter's default": edited("thing: Thing | None = None", "thing: Thing | None = 1"),
    "an exception that is caught": edited(
        "    width = 2", "    try:\n        pass\n    except ValueError:\n        pass\n    width = 2"
    ),
}


@pytest.mark.parametrize("change", SAME)
def test_what_changes_no_number_keeps_the_digest(digest: Digest, change: str) -> None:
    assert digest(SAME[change]) == digest(FILES)


@pytest.mark.parametrize("change", OTHER)
def test_what_may_change_a_number_changes_the_digest(digest: Digest, change: str) -> None:
    assert digest(OTHER[change]) != digest(FILES)


def test_all_changes_are_told_apart(digest: Digest) -> None:
    assert len({digest(files) for files in OTHER.values()}) == len(OTHER)


def test_two_functions_of_one_name_cannot_be_swapped(digest: Digest) -> None:
    """Alike modules, of which one passes a function of one module on and the other that of another."""

    def files(first: str, second: str) -> Files:
        return {
            "score.py": f"from .{first} import f as g\nfrom .{second} import f as h\nscore = lambda x: g(x) - h(x)\n",
            "a.py": "def f(x):\n    return x\n",
            "b.py": "def f(x):\n    return 2 * x\n",
        }

    assert digest(files("a", "b")) != digest(files("b", "a"))


def test_alike_modules_are_told_apart_by_what_they_import(digest: Digest) -> None:
    def files(first: str, second: str) -> Files:
        alike = "from .{} import f\ndef g(x):\n    return f(x)\n"
        return {
            "score.py": f"from .{first} import g\nfrom .{second} import g as h\nscore = lambda x: g(x) - h(x)\n",
            "one.py": alike.format("a"),
            "two.py": alike.format("b"),
            "a.py": "def f(x):\n    return x\n",
            "b.py": "def f(x):\n    return 2 * x\n",
        }

    assert digest(files("one", "two")) != digest(files("two", "one"))


def test_a_name_that_is_passed_on_counts_as_where_it_comes_from(digest: Digest) -> None:
    direct = {**FILES, "p/score.py": SCORE + "\nfrom .door import unused\n", "p/door.py": "from .means import mean\n"}
    through = {
        **direct,
        "p/score.py": direct["p/score.py"].replace("from .means import mean", "from .door import mean"),
    }
    assert digest(through) == digest(direct)


def test_of_a_module_that_is_not_followed_the_name_alone_counts(digest: Digest) -> None:
    near = {"score.py": "from .library.a import f\nscore = f\n", "library/a.py": "f = 1\n"}
    moved = {"score.py": "from .library.room.b import f\nscore = f\n", "library/room/b.py": "f = 2\n"}
    renamed = {"score.py": "from .library.a import g\nscore = g\n", "library/a.py": "g = 1\n"}
    assert digest(near) == digest(moved)
    assert digest(near) != digest(renamed)


def test_circles_of_imports_end(digest: Digest) -> None:
    circle = {
        "score.py": "from .a import f\nscore = f\n",
        "a.py": "def f():\n    from .score import score\n    return score\n",
    }
    assert digest(circle) == digest(circle)


def test_the_digest_is_the_same_on_every_python_and_machine(digest: Digest) -> None:
    assert digest(FILES) == "0390738d2b8532364a045e09d735854d9e3b8716ce5ec95f1f4420be1760374b"


SCRIPT = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from code_digest import digest_of
print(digest_of([pathlib.Path(name) for name in sys.argv[2:]], lambda parts, path: None))
"""


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_another_python_gives_the_same_digest_of_our_modules(version: str) -> None:
    """By those of the versions that are installed."""
    python = shutil.which(f"python{version}") or "no such program"
    if subprocess.run(f"{python} --version", shell=True, capture_output=True, check=False).returncode:
        pytest.skip(f"Python {version} is not installed")
    root = Path(code_digest.__file__).parents[1]
    rooms = ("tasks/language", "tasks/measuring", "results/stats", "kernels/triton")
    files = [path for room in rooms for path in sorted((root / room).glob("*.py"))]
    assert len(files) > 15
    command = [python, "-I", "-c", SCRIPT, str(root / "harness"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest_of(files, _nowhere)


def _nowhere(parts: tuple[str, ...], path: Path) -> Path | None:
    return None
