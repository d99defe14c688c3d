"""What the server process imports once, so that each cell's process starts with it: torch and our models.

No tensor is made and no device is touched here: threads and CUDA contexts do not survive a fork.
"""

import importlib
import signal

# Ctrl-C reaches every process of the terminal; ending this one and its cells is the run's task.
signal.signal(signal.SIGINT, signal.SIG_IGN)

for _module in ("torch", "hedgebench.adapters.scratch.build"):
    importlib.import_module(_module)
