"""What the static roofline must not fall below, and how often loops turn where it cannot be told from the grid.

Raise a ceiling when a kernel has become faster by count: the check then keeps what was gained.
"""

from collections.abc import Callable, Mapping
from typing import Any

TURNS: Mapping[str, Callable[[Any], float]] = {
    **dict.fromkeys(("attend", "query_gradients", "key_gradients"), lambda C: (C.BLOCK // C.CHUNK + 1) / 2),
    **dict.fromkeys(("scan_keys", "scan_queries"), lambda C: 4),
}
"""Turns of a program's main loop by kernel, from its constants.

Kernels that visit the chunks of a block before their own turn half as often as a block has chunks, on average. A scan
is bound by memory; its turns hardly matter.
"""

CEILING_PERCENT: Mapping[tuple[str, int, str], float] = {
    ("softmax", 64, "forward"): 27.0,
    ("softmax", 128, "forward"): 20.5,
    ("exp", 64, "forward"): 35.0,
    ("exp", 128, "forward"): 20.5,
    ("softmax", 64, "backward"): 21.0,
    ("softmax", 128, "backward"): 17.5,
    ("exp", 64, "backward"): 27.5,
    ("exp", 128, "backward"): 26.0,
}
"""The least ceiling in percent of the roofline, by map, head dimension and work, for calls as they are benchmarked."""
