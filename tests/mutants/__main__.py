"""Tries mutants of the product's code against its tests: `make mutants COUNT=200 SEED=0`.

PYTHONPATH=.pyroot:tests python -m mutants [--count 200] [--seed 0] [--output build/mutants.jsonl] [--jobs N]

Mutants that the output has are not tried again; without a survivor's line, the survivor is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from .draw import Mutant, draw
from .trial import Bench, Limits, Trial, copy_checkout

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.json")
"""Mutants that do what the original does, as far as anyone may tell, each with the reason."""

LEAST_PERCENT = 85.0

NAME = "hedgebench"
"""Of a copy's folder: pytest imports the root as a package, which its name must allow."""

Row = dict[str, Any]


def key(row: Row) -> tuple[str, str, str]:
    """What names a mutant while lines move."""
    return row["file"], row["was"], row["now"]


def as_row(mutant: Mutant, trial: Trial) -> Row:
    row = {"file": mutant.file, "line": mutant.line, "was": mutant.was, "now": mutant.now, "outcome": trial.outcome}
    return {**row, "seconds": trial.seconds, "by": trial.by, "cut": trial.cut}


def try_all(mutants: list[Mutant], root: Path, output: Path, limits: Limits, jobs: int) -> list[Row]:
    """Tries mutants, each worker in a copy of its own, and appends a line to the output for each that is done."""
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] if output.exists() else []
    done = {key(row): row for row in rows}
    missing = [mutant for mutant in mutants if key(vars(mutant)) not in done]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, output.open("a", encoding="utf-8") as lines:
        benches = [Bench(Path(folder) / str(job) / NAME, limits) for job in range(min(jobs, len(missing)))]
        free: SimpleQueue[Bench] = SimpleQueue()
        for bench in benches:
            copy_checkout(root, bench.folder)
            free.put(bench)

        def tried(mutant: Mutant) -> Row:
            bench = free.get()
            trial = bench.try_mutant(mutant)
            free.put(bench)
            return as_row(mutant, trial)

        with ThreadPoolExecutor(jobs) as pool:
            try:
                for future in as_completed([pool.submit(tried, mutant) for mutant in missing]):
                    row = future.result()
                    done[key(row)] = row
                    print(f"{row['outcome']:8} {row['seconds']:5.0f} s  {told(row)}", flush=True)
                    print(json.dumps(row), file=lines, flush=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for bench in benches:
                    bench.stop()
                raise
    return [done[key(vars(mutant))] for mutant in mutants]


def told(row: Row) -> str:
    """A mutant in one line."""
    return f"{row['file']}:{row['line']}: {row['was']}  ->  {row['now']}"


def void(rows: list[Row], root: Path) -> list[Row]:
    """Mutants whose test fails without them too, so that nothing is known of them."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        bench = Bench(copy_checkout(root, Path(folder) / NAME), Limits(mutant_s=3600.0))
        broken = bench.failing({row["by"] for row in rows if row["by"]})
    return [row for row in rows if row["by"] in broken]


def report(rows: list[Row], void_rows: list[Row]) -> float:
    """Prints counts and survivors.

    Returns:
        The percentage that was killed of the mutants that are not named equivalent.
    """
    reasons = {key(row): row["reason"] for row in json.loads(EQUIVALENT.read_text(encoding="utf-8"))}
    counts = Counter(row["outcome"] for row in rows if row not in void_rows)
    survivors = [row for row in rows if row["outcome"] == "survived"]
    for row in void_rows:
        print(f"void: {row['by']} fails without it too: {told(row)}")
    for row in survivors:
        after = f"  (equivalent: {reasons[key(row)]})" if key(row) in reasons else "  (cut)" if row["cut"] else ""
        print(f"survived: {told(row)}{after}")
    equivalent = sum(key(row) in reasons for row in survivors)
    tried = len(rows) - len(void_rows) - equivalent
    percent = 100 * (counts["killed"] + counts["timeout"]) / max(tried, 1)
    print(
        f"{len(rows)} mutants: {counts['killed']} killed, {counts['timeout']} by time, {len(survivors)} survived, "
        f"{equivalent} of them equivalent; {len(void_rows)} void. {percent:.1f}% of {tried} killed."
    )
    return percent


def main() -> int:
    """Runs the command; exit code 1 if too few are killed."""
    parser = argparse.ArgumentParser(description="Tries mutants of the product's code against its tests.")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "mutants.jsonl")
    parser.add_argument("--jobs", type=int, default=min(8, len(os.sched_getaffinity(0))))
    parser.add_argument("--test-seconds", type=float, default=Limits.test_s)
    parser.add_argument("--mutant-seconds", type=float, default=Limits.mutant_s)
    args = parser.parse_args()
    limits = Limits(args.test_seconds, args.mutant_seconds)
    rows = try_all(draw(ROOT, args.count, args.seed), ROOT, args.output, limits, args.jobs)
    return 0 if report(rows, void(rows, ROOT)) >= LEAST_PERCENT else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
