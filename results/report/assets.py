"""The scripts and styles of the report: DataTables, which the package `itables` carries, and our own beside this file.

DataTables sorts and filters tables, by mouse and keyboard. It is read from the installed package when a report is
written and becomes part of the page, so that the page needs no network. Without the package the page has plain tables
and says so.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_HERE = Path(__file__).parent
_EXPORT = re.compile(r"export\s*\{([^{}]*)\};?\s*(?=/\*|//|$)")
_MARKUP = re.compile(r"<(!--|/?script)", re.IGNORECASE)
_DEFAULT = re.compile(r"([\w$]+) as default")
PLAIN = "the tables cannot be sorted or filtered: the package itables, which carries DataTables, is not installed"


class AssetError(RuntimeError):
    """The installed itables lacks scripts or styles that the report needs."""


@dataclass(frozen=True)
class Assets:
    """Texts that go into the page as they are.

    Attributes:
        style: Style sheet: DataTables' and ours.
        theme: Script that runs before the page is drawn, so that a dark page does not flash.
        script: Module with DataTables and what makes the page work.
        policy: Content security policy under which these scripts run, and nothing else does.
        note: Why the tables are plain; empty if DataTables is there.
    """

    style: str
    theme: str
    script: str
    policy: str
    note: str


@functools.cache
def assets() -> Assets:
    """Scripts and styles, read once.

    Raises:
        AssetError: The bundle of itables is not what this release knows.
    """
    bundle, style, script = _bundle_folder(), _own("page.css"), _own("page.js")
    if bundle is not None:
        style = (bundle / "dt_bundle.css").read_text(encoding="utf-8") + style
        script = data_tables((bundle / "dt_bundle.js").read_text(encoding="utf-8")) + script
    theme, script = _embeddable(_own("theme.js")), _embeddable(script)
    hashes = (hashlib.sha256(text.encode()).digest() for text in (theme, script))
    scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes)
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'"
    )
    return Assets(style, theme, script, policy, "" if bundle else PLAIN)


def data_tables(bundle: str) -> str:
    """The bundle's text as a script that leaves DataTables in the global `DataTable`, where the page's script finds it.

    Raises:
        AssetError: It does not export DataTables as its default.
    """
    exports = list(_EXPORT.finditer(bundle))
    name = _DEFAULT.search(exports[-1].group(1)) if exports else None
    if name is None:
        raise AssetError(
            "the bundle of itables exports no default; install a version of itables that pyproject.toml allows"
        )
    start, end = exports[-1].span()
    return f"{bundle[:start]}globalThis.DataTable={name.group(1)};{bundle[end:]}\n"


def _bundle_folder() -> Path | None:
    """Where itables keeps its files, None without it; importing it would import pandas too."""
    found = find_spec("itables")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "html"


def _own(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _embeddable(script: str) -> str:
    """The script with everything escaped that HTML would take for markup; its meaning in JavaScript is the same."""
    return _MARKUP.sub(r"\\x3C\1", script)
