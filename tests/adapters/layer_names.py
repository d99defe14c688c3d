"""Mechanisms that a layer can have: all but `native`, which is a whole model."""

from hedgebench.harness.registry import mechanisms

_ITEMS = {name: mechanism for name, mechanism in mechanisms().items.items() if name != "native"}

DECODERS = [name for name, mechanism in _ITEMS.items() if not mechanism.encoder_only]
"""Those of decoders that are trained from scratch."""

OF_HEADS = [name for name, mechanism in _ITEMS.items() if mechanism.reads_heads]
"""Those of any model: they read queries, keys and values alone."""
