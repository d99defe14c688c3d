"""Which tasks make a group with a score of its own. Imports nothing heavy: listings stay quick."""

from __future__ import annotations

from collections.abc import Mapping

GROUPS: Mapping[str, tuple[str, ...]] = {
    "glue": tuple(f"glue/{task}" for task in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")),
    "lra": tuple(f"lra/{task}" for task in ("listops", "text", "retrieval", "image", "pathfinder")),
}
"""Groups whose tasks a paper has fixed: GLUE without WNLI and Long Range Arena without the stand-in `lra/digits`, as in
tables 8 and 6 of the Hedgehog paper (arXiv 2402.04347)."""

FAMILIES = frozenset({"kernels", "lm_eval"})
"""Names before `/` that tasks share without being one benchmark: their scores have no sum."""
