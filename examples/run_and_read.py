"""A run started from Python, and its numbers read back.

    python examples/run_and_read.py FOLDER [SETTING=VALUE ...]

Trains softmax attention and Hedgehog on associative recall for a minute on two cores. Called again with the same
folder, it only reads: finished cells do not run twice.
"""

import sys

import hedgebench

folder, *settings = sys.argv[1:]
results = hedgebench.run(
    ["softmax", "hedgehog"],
    "associative_recall",
    scale="smoke",
    output=folder,
    set=dict(setting.split("=") for setting in settings),
    quiet=True,
)
for record in results.records:
    accuracy = record.main()
    assert accuracy is not None
    kernels = ", ".join(dict.fromkeys(f"{kernel.form} in {kernel.backend}" for kernel in record.kernels))
    print(f"{record.model:10} accuracy {accuracy.value:.3f} ± {accuracy.stderr:.3f}, n={accuracy.n}, by {kernels}")
print(results.to_pandas().groupby("model")["value"].count().to_dict(), "metrics by model")
