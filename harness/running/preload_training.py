"""What the server process imports too where cells train: the training code, and what optimisers import when they start.

torch's optimisers import torch._dynamo at their first step, which takes seconds; cells that train nothing go without.
"""

import importlib

for _module in ("torch._dynamo", "hedgebench.adapters.training.loop"):
    importlib.import_module(_module)
