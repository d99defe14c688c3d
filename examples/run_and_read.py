"""A run started from Python, and its numbers read back from the records.

    python examples/run_and_read.py FOLDER

Trains softmax attention and Hedgehog on associative recall for a minute on two cores. Called again with the same
folder, it only reads: finished cells do not run twice.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hedgebench.harness.cli import main as bench
from hedgebench.results.record import Record
from hedgebench.results.store import RunStore


def main(folder: Path, *options: str) -> tuple[Record, ...]:
    """Runs the comparison into `folder`, prints a line for each model, and gives the records."""
    models = ("--models", "softmax,hedgehog", "--tasks", "associative_recall", "--scale", "smoke")
    if code := bench(["run", *models, "--output", str(folder), "--quiet", *options]):
        raise SystemExit(code)
    records = RunStore(folder).records().records
    for record in records:
        accuracy = next(metric for metric in record.metrics if metric.name == "accuracy")
        kernels = ", ".join(dict.fromkeys(f"{kernel.form} in {kernel.backend}" for kernel in record.kernels))
        print(f"{record.model:10} accuracy {accuracy.value:.3f} ± {accuracy.stderr:.3f}, n={accuracy.n}, by {kernels}")
    return records


# Cells run in processes of their own, which import this file again.
if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
