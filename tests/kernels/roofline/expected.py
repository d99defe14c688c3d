"""What the static roofline must not fall below.

Raise a ceiling when a kernel has become faster by count: the check then keeps what was gained.
"""

from collections.abc import Mapping

CEILING_PERCENT: Mapping[tuple[str, int, str], float] = {
    ("softmax", 64, "forward"): 99.0,
    ("softmax", 128, "forward"): 92.5,
    ("exp", 64, "forward"): 99.0,
    ("exp", 128, "forward"): 92.5,
    ("softmax", 64, "backward"): 85.5,
    ("softmax", 128, "backward"): 91.0,
    ("exp", 64, "backward"): 98.5,
    ("exp", 128, "backward"): 95.0,
}
"""The least ceiling in percent of the walk's roofline, by map, head dimension and work, for calls as benchmarked.

By count, not measured: what issue slots, tensor cores and HBM allow.
"""
