"""The paper's artefacts as one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from ..plots.inline import inline_svg
from ..report.assets import assets
from ..report.html import drawn_entry
from .page import LEGEND, PaperPage

_TEMPLATE = Path(__file__).with_name("template.html")


def paper_html(page: PaperPage) -> str:
    """The page; figures are inlined."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["drawn"] = drawn_entry
    numbered = enumerate(figure for part in page.parts for figure in part.figures)
    figures = {figure.name: Markup(inline_svg(figure.svg, number)) for number, figure in numbered}
    files = assets()
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        page=page,
        legend=LEGEND,
        figures=figures,
        policy=files.policy,
        assets={name: Markup(getattr(files, name)) for name in ("style", "theme")},
    )
