"""Hooks of mkdocs: the README, the list of changes and the guide for contributors are pages of the site too."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {"index.md": "README.md", "changes.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages by the file at the repository's root that they are made of."""

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#:]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages whose files are outside the folder of the documentation."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns links as the repository needs them into links of the site, and those to code into the code's path."""
    source = PAGES.get(page.file.src_uri)
    folder = ROOT if source else ROOT / "docs"
    return _LINK.sub(lambda link: _on_site(link, folder), markdown)


def _on_site(link: re.Match[str], folder: Path) -> str:
    target = (folder / link["target"]).resolve()
    name = target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) else ""
    pages = {source: page for page, source in PAGES.items()}
    if not target.exists() or (target.parent == ROOT / "docs" and target.suffix == ".md"):
        return f"[{link['text']}]({link['target'].removeprefix('docs/')}{link['anchor'] or ''})"
    if name in pages:
        return f"[{link['text']}]({pages[name]}{link['anchor'] or ''})"
    text = link["text"]
    return f"`{name}`" if Path(text).name == target.name or text == name else f"{text} (`{name}`)"
