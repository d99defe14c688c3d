"""What the server process imports once, so that each cell's process starts with it: torch and the training code.

No tensor is made and no device is touched here: threads and CUDA contexts do not survive a fork.
"""

import torch
import torch._dynamo  # torch's optimisers import it at their first step, which takes seconds

from ..adapters import scratch_adapter, training

__all__ = ["scratch_adapter", "torch", "training"]
