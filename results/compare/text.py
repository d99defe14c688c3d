"""A comparison as Markdown, JSON, JUnit XML, and annotations of GitHub's workflows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from xml.etree import ElementTree

from ..tables.format import escape_markdown, format_measurement
from .verdicts import VERDICTS, Comparison, Finding

_CONTROL = {code: None for code in range(32) if code not in (9, 10, 13)}
"""Characters that XML 1.0 cannot hold, for `str.translate`."""


def comparison_markdown(comparison: Comparison) -> str:
    """A headline, and a table of the findings, worst first."""
    counts = ", ".join(f"{comparison.count(v)} {v}" for v in VERDICTS if comparison.count(v)) or "nothing to compare"
    lines = [
        f"**{_HEADLINE[comparison.exit_code]}**: {counts}\n",
        f"baseline `{comparison.baseline}`, candidate `{comparison.candidate}`\n",
    ]
    if comparison.findings:
        lines.append("| verdict | what | baseline | candidate | worse by | ± 95% | margin | p | test, n | |")
        lines.append("|---|---|---:|---:|---:|---:|---:|---:|---|---|")
        lines += [f"| {' | '.join(_row(finding))} |" for finding in comparison.findings]
        lines.append("")
    lines += [f"- {escape_markdown(note)}" for note in comparison.notes]
    return "\n".join(lines).rstrip("\n") + "\n"


def comparison_json(comparison: Comparison) -> str:
    """The whole comparison as one object."""
    content = {
        "baseline": comparison.baseline,
        "candidate": comparison.candidate,
        "exit_code": comparison.exit_code,
        "counts": {verdict: comparison.count(verdict) for verdict in VERDICTS},
        "findings": [finding_values(finding) for finding in comparison.findings],
        "notes": list(comparison.notes),
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def comparison_junit(comparison: Comparison) -> str:
    """JUnit XML: a test case for each finding. Regressions fail; findings without a decision are skipped.

    A comparison without findings has an error, so that no reader takes it for a pass.
    """
    empty = not comparison.findings
    attributes = {
        "tests": str(len(comparison.findings) + empty),
        "failures": str(comparison.count("regressed")),
        "errors": str(int(empty)),
        "skipped": str(sum(f.verdict in _SKIPPED for f in comparison.findings)),
    }
    suites = ElementTree.Element("testsuites", {**attributes, "time": "0"})
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "bench compare", **attributes, "time": "0"})
    for finding in comparison.findings:
        names = {"classname": _xml(finding.cell.title), "name": _xml(finding.title), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", names)
        if finding.verdict == "regressed":
            ElementTree.SubElement(case, "failure", {"message": _xml(_sentence(finding)), "type": "regressed"})
        elif finding.verdict in _SKIPPED:
            ElementTree.SubElement(case, "skipped", {"message": _xml(f"{finding.verdict}: {finding.reason}")})
    if empty:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "bench", "name": "compare", "time": "0"})
        ElementTree.SubElement(case, "error", {"message": "nothing to compare", "type": "undecided"})
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def comparison_annotations(comparison: Comparison) -> str:
    """Workflow commands of GitHub Actions: errors for regressions, warnings for findings without a decision."""
    levels = {"regressed": "error", "undecided": "warning", "missing": "warning", "incomparable": "warning"}
    return "".join(
        f"::{levels[f.verdict]} title={_property(f'{f.verdict}: {f.title}')}::{_data(_sentence(f))}\n"
        for f in comparison.findings
        if f.verdict in levels
    )


_SKIPPED = frozenset({"undecided", "missing", "incomparable", "new"})
_HEADLINE = {0: "no regression", 1: "regression", 4: "could not decide"}
RENDERERS: Mapping[str, Callable[[Comparison], str]] = {
    "md": comparison_markdown,
    "json": comparison_json,
    "github": lambda comparison: comparison_annotations(comparison) + comparison_markdown(comparison),
}
"""Renderers by the name of their format; `github` is Markdown after a line for each annotation."""


def _row(finding: Finding) -> list[str]:
    change, numbers = finding.change, [""] * 5
    if change is not None:
        p_value = "" if finding.p_value is None else f"{finding.p_value:.2g}"
        unit = finding.percent_unit
        spread = "" if change.stderr is None else f"{finding.percent(change.half_width()):.2g}{unit}"
        worse, margin = f"{finding.percent(change.worse):+.2f}{unit}", f"{100 * finding.margin:g}{unit}"
        numbers = [worse, spread, margin, p_value, f"{change.method}, {change.n}"]
    verdict = f"**{finding.verdict}**" if finding.verdict == "regressed" else finding.verdict
    return [verdict, escape_markdown(finding.title), *_values(finding), *numbers, escape_markdown(finding.reason)]


def _values(finding: Finding) -> list[str]:
    """Both values as text; bytes have a binary prefix, other units are not written."""
    return [format_measurement(value, None, finding.unit)[0] for value in (finding.before, finding.after)]


def _sentence(finding: Finding) -> str:
    """The finding in words, such as `was 20.0, is 20.2: +1.00% worse, by tolerance of 1`."""
    change = finding.change
    if change is None:
        return finding.reason
    before, after = _values(finding)
    unit = finding.percent_unit
    error = f" ± {finding.percent(change.half_width()):.2g}{unit} (95%)" if change.stderr is not None else ""
    worse = f"{finding.percent(change.worse):+.2f}{unit}{error} worse"
    text = f"was {before}, is {after}: {worse}, by {change.method} of {change.n}"
    return f"{text}; {finding.reason}" if finding.reason else text


def finding_values(finding: Finding) -> dict[str, object]:
    """The finding as JSON-ready data."""
    change = finding.change
    return {
        "verdict": finding.verdict,
        **asdict(finding.cell),
        "seeds": list(finding.seeds),
        "metric": finding.metric,
        "at": dict(finding.key[1]),
        **{name: getattr(finding, name) for name in ("unit", "before", "after", "reason")},
        "worse": change and change.worse,
        "half_width_95": change.half_width() if change and change.stderr is not None else None,
        "margin": finding.margin,
        "p_value": finding.p_value,
        "method": change and change.method,
        "n": change and change.n,
    }


def _xml(text: str) -> str:
    return text.translate(_CONTROL)


def _data(text: str) -> str:
    """Escapes the message of a workflow command, in GitHub's way."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escapes a property of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
