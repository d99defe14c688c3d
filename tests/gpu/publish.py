"""Turns what a visit left behind into results/published/h200-kernels/ and the measured tables of docs/kernels.md."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

KERNELS = ("peers", "kernels", "decode")
"""Runs of kernels; of a number that two of them have, the later one's is shown."""

RUNS = (*KERNELS, "models")
BEGIN, END = "<!-- measured on a GPU: begin -->", "<!-- measured on a GPU: end -->"

Rows = list[dict[str, str]]


def publish(out: Path, root: Path) -> int:
    """Copies runs and counters, and replaces what stands between the marks in docs/kernels.md.

    Args:
        out: folder that `visit.py accuracy` and `speed` filled.
        root: of the checkout.

    Returns:
        0, or 2 if the folder holds no result of a visit.
    """
    done = {name: json.loads(path.read_text("utf-8")) for name in ("accuracy", "speed")
            if (path := out / f"{name}.json").is_file()}  # fmt: skip
    if not done:
        print(
            f"{out} holds neither accuracy.json nor speed.json; visit.py accuracy and speed write them", file=sys.stderr
        )
        return 2
    target = root / "results" / "published" / "h200-kernels"
    target.mkdir(parents=True, exist_ok=True)
    for run in RUNS:
        if (out / run / "cells").is_dir():
            shutil.copytree(out / run, target / run, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.lock"))
    for path in (*out.glob("*.xml"), *out.glob("*.json"), *out.glob("counters.csv"), *out.glob("*-packages.log")):
        shutil.copy(path, target / path.name)
    page = root / "docs" / "kernels.md"
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n\n".join(filter(None, sections(out, done, root)))
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    print(f"{target}\n{page}")
    return 0


def sections(out: Path, done: Mapping[str, Any], root: Path) -> Iterable[str]:
    """Each part of the page, or an empty text where there is nothing to tell."""
    yield steps_table(done)
    yield accuracy_table(out)
    measured = [row for run in KERNELS for row in leaderboard(out / run)]
    yield speed_tables(measured)
    yield models_table(leaderboard(out / "models"))
    counters = out / "counters.csv"
    if counters.is_file():
        yield counters_table(read_counters(counters.read_text("utf-8")), counted(root))


def steps_table(done: Mapping[str, Any]) -> str:
    lines = [
        f"| {command} | {step['name']} | {step['seconds']:.0f} | {'' if step['code'] is None else step['code']} | "
        f"{step['note']} |"
        for command, steps in done.items()
        for step in steps
    ]
    return "\n".join(("| command | step | seconds | exit code | note |", "|---|---|---|---|---|", *lines))


def accuracy_table(out: Path) -> str:
    """Tests that passed, failed and were skipped, by suite, and the names of those that failed."""
    lines, failed = [], []
    for path in sorted(out.glob("*.xml")):
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
        ends = Counter(
            next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "ok") for case in cases
        )
        bad = [case.get("name") for case in cases if any(child.tag in ("failure", "error") for child in case)]
        failed += [f"`{name}`" for name in bad]
        lines.append(f"| {path.stem} | {ends['ok']} | {len(bad)} | {ends['skipped']} |")
    if not lines:
        return ""
    table = "\n".join(("| tests | passed | failed | skipped |", "|---|---|---|---|", *lines))
    return f"{table}\n\nFailed: {', '.join(failed)}." if failed else table


def leaderboard(run: Path) -> Rows:
    """Rows of a run's leaderboard with their coordinates spread out; none if there is none."""
    path = run / "leaderboard.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{**row, **dict(part.split("=", 1) for part in row["at"].split(";") if "=" in part)} for row in rows]


def speed_tables(rows: Rows) -> str:
    """Milliseconds by contender and length, and ours in percent of the roofline, by call, heads and head dimension."""
    tables = []
    calls = ("forward", "backward", "forward_backward", "decode")
    for call in calls:
        groups: dict[tuple[str, str, str], dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
        for row in rows:
            if row["metric"] not in (f"{call}_ms", f"{call}_percent_of_roofline") or "head_dim" not in row:
                continue
            is_share = row["metric"].endswith("roofline")
            name = f"{row['model']}, % of roofline" if is_share else row["model"]
            shown = f"{float(row['value']):.0f}" if is_share else _ms(row)
            key = (row["batch_size"], row["heads"], row["head_dim"])
            groups[key][name][int(row["seq_len"])] = shown
        for (batch, heads, dim), lines in sorted(groups.items(), key=lambda pair: tuple(map(int, pair[0]))):
            lengths = sorted({length for line in lines.values() for length in line})
            head = f"| {call}, B={batch} H={heads} d={dim}, ms | " + " | ".join(f"{n:,}" for n in lengths) + " |"
            body = [
                f"| {name} | " + " | ".join(line.get(n, "") for n in lengths) + " |" for name, line in lines.items()
            ]
            tables.append("\n".join((head, "|---|" + "---|" * len(lengths), *body)))
    return "\n\n".join(tables)


def _ms(row: Mapping[str, str]) -> str:
    if not row["value"]:
        return row["status"]
    return f"{float(row['value']):.3g} ± {float(row['stderr'] or 0):.1g}"


def models_table(rows: Rows) -> str:
    """Tokens per second, the share of the peak that products with weights take, memory and energy, by length."""
    chosen = [
        row for row in rows
        if row["value"] and (row["metric"].endswith(("_tokens_per_s", "_energy_per_token_j"))
                             or "peak_allocated" in row["metric"] or row["metric"] == "state_bytes")
        and "seq_len" in row
    ]  # fmt: skip
    sizes = {row["model"]: float(row["value"]) for row in rows if row["metric"] == "parameters"}
    lines = []
    for row in chosen:
        share = ""
        if row["metric"].endswith("_tokens_per_s") and row["model"] in sizes:
            passes = 6 if "train" in row["metric"] else 2
            share = f"{100 * passes * sizes[row['model']] * float(row['value']) / 790e12:.1f}%"
        value = f"{float(row['value']):,.4g} {row['unit']}"
        lines.append(f"| {row['model']} | {row['metric']} | {row['seq_len']} | {value} | {share} |")
    if not lines:
        return ""
    return "\n".join(
        ("| model | metric | tokens | value | products with weights, of 790 TFLOP/s |", "|---|---|---|---|---|", *lines)
    )


def read_counters(text: str) -> list[dict[str, float | str]]:
    """Hardware counters by launch, from a raw page in CSV: a header, a line of units, then launches."""
    plain = "\n".join(line for line in text.splitlines() if line.startswith('"'))
    rows = list(csv.DictReader(io.StringIO(plain)))[1:]
    return [{name: _number(value) for name, value in row.items() if name} for row in rows]


def _number(text: str) -> float | str:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text


def counted(root: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Kernels of one forward and one backward pass by count, by name and place among those of the name."""
    path = os.pathsep.join((str(root / ".pyroot"), str(root / "tests"), os.environ.get("PYTHONPATH", "")))
    command = (
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "kernels.roofline",
        "--json",
        "--dims",
        "64",
        "--works",
        "forward,backward",
    )
    told = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    found: dict[tuple[str, int], dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    for line in told.stdout.splitlines():
        for kernel in json.loads(line)["kernels"]:
            found[kernel["kernel"], seen[kernel["kernel"]]] = kernel
            seen[kernel["kernel"]] += 1
    return found


def counters_table(
    launches: Sequence[Mapping[str, float | str]], kernels: Mapping[tuple[str, int], Mapping[str, Any]]
) -> str:
    """Each launch of ours, measured beside counted: time, and instructions that were issued."""
    seen: Counter[str] = Counter()
    lines = []
    for launch in launches:
        name = str(launch.get("Kernel Name", "")).partition("(")[0]
        kernel = kernels.get((name, seen[name]))
        seen[name] += 1
        if kernel is None:
            continue
        measured_ms, replayed_ms = float(launch["gpu__time_duration.sum"]) / 1e6, kernel["replayed_ms"]
        issued, by_count = float(launch["sm__inst_issued.sum"]), 4 * kernel["cycles"]["issue"] * kernel["programs"]
        lines.append(
            f"| `{name}` | {measured_ms:.3f} | {replayed_ms:.3f} | {measured_ms / replayed_ms:.2f} | "
            f"{issued:.3g} | {by_count:.3g} | {issued / by_count:.2f} |"
        )
    if not lines:
        return ""
    head = "| kernel | measured ms | replayed ms | ratio | instructions issued | by count | ratio |"
    return "\n".join((head, "|---|" + "---|" * 6, *lines))
