"""Mechanisms that a layer can have: all but `native`, which is a whole model."""

from hedgebench.harness.registry import mechanisms

LAYER_NAMES = [name for name in mechanisms().items if name != "native"]
