"""Names of what an audit of a converted model measures beside its scores."""

LINEAR_EXPOSURE = "linear_exposure"
"""Metric of a hybrid: the share of scored tokens whose context is longer than its window."""

CONTROLS = {
    "linear_only": "its linear attention alone",
    "without_attention": "no attention",
    "with_softmax": "softmax attention",
}
"""Endings of main metrics of a model whose converted layers attend otherwise, and how, in words.

A hybrid's window alone ends in `record.WITHOUT_BRANCH`.
"""
