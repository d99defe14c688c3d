"""Imported once by the server process, so that each cell's process starts with torch and the models imported.

No tensor is made and no device is touched here: threads and CUDA contexts do not survive a fork.
"""

import importlib
import signal

# Ctrl-C reaches every process of the terminal; the run itself ends this one and its cells.
signal.signal(signal.SIGINT, signal.SIG_IGN)

for _module in ("torch", "hedgebench.adapters.scratch.build"):
    importlib.import_module(_module)
