"""A pretrained model as it is, whatever its attention or recurrence."""

from __future__ import annotations

from .declaration import Mechanism

NATIVE = Mechanism(
    name="native",
    summary="a pretrained model as transformers runs it, recurrent and hybrid ones too; nothing is swapped",
    source="the classes of transformers",
    attention="hedgebench.adapters.attention.native:NativeAttention",
)
