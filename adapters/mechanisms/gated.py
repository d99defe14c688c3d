"""Gated and delta-rule attention: recurrences whose decays and writes follow from the layer's input.

Where a layer is published with other widths for queries, keys or values, ours has those of the softmax layer whose
place it takes, so that models differ in the mechanism.
"""

from __future__ import annotations

from typing import Any

from .declaration import AttentionShape, Mechanism, Option

_CORES = "hedgebench.adapters.gated.attention"

KERNELS = Option(
    str, None, "peer: flash-linear-attention's kernels, on cuda alone", choices=("fla",), read_by="attention"
)
NEGATIVE = Option(
    bool,
    False,
    "writes of up to twice the error, whose transitions have negative eigenvalues (arXiv:2411.12537)",
    read_by="attention",
)


def shape_argument(shape: AttentionShape) -> dict[str, Any]:
    """The layer's shape as the argument of a function that builds a core."""
    return {"shape": shape}


RETENTION = Mechanism(
    name="retention",
    summary="multi-scale retention: linear attention with a fixed decay for each head",
    source="Sun et al. 2023, arXiv:2307.08621, equations 5 to 8; rotary positions without xPos's scale and an RMS norm "
    "as in flash-linear-attention; values are as wide as keys",
    attention=f"{_CORES}:retention",
    attention_arguments=shape_argument,
    normalize=False,
    causal_only=True,
    reads_heads=False,
    options={
        "rope": Option(bool, True, "rotate queries and keys; not with a backbone that does", read_by="attention"),
        "kernels": KERNELS,
    },
)

GLA = Mechanism(
    name="gla",
    summary="gated linear attention: a decay of each key channel that follows from the input",
    source="Yang et al. 2023, arXiv:2312.06635, section 4.4, with keys as wide as values; gates=keys: Liger, "
    "arXiv:2503.01496, section 3, where the pooled key matrix has the keys' own width, so that a gate is its key; keys "
    "are those after the model's rotary positions, Liger's those before",
    attention=f"{_CORES}:gla",
    attention_arguments=shape_argument,
    normalize=False,
    causal_only=True,
    reads_heads=False,
    options={
        "gates": Option(
            str,
            "input",
            "input: learned projections of the layer's input; keys: Liger's, for conversions of pretrained models",
            choices=("input", "keys"),
            read_by="attention",
        ),
        "window": Option(
            int,
            None,
            "with gates=keys: keys of a softmax window, averaged with the recurrence (Liger has 64)",
            minimum=1,
            read_by="attention",
        ),
        "kernels": KERNELS,
    },
)

MAMBA2 = Mechanism(
    name="mamba2",
    summary="state-space duality: a decay of each head that follows from the input",
    source="Dao and Gu 2024, arXiv:2405.21060, sections 6 and 7; each head has its own B and C, of the head dim, and "
    "convolutions have no bias",
    attention=f"{_CORES}:mamba2",
    attention_arguments=shape_argument,
    normalize=False,
    causal_only=True,
    reads_heads=False,
    options={"kernels": KERNELS},
)

DELTANET = Mechanism(
    name="deltanet",
    summary="the delta rule: a write replaces what the state holds for its key",
    source="Schlag et al. 2021, arXiv:2102.11174; Yang et al. 2024, arXiv:2406.06484, sections 3 and 5.1",
    attention=f"{_CORES}:deltanet",
    attention_arguments=shape_argument,
    normalize=False,
    causal_only=True,
    reads_heads=False,
    options={"negative": NEGATIVE, "kernels": KERNELS},
)

GATED_DELTANET = Mechanism(
    name="gated_deltanet",
    summary="the delta rule with a decay of each head",
    source="Yang et al. 2024, arXiv:2412.06464, section 3, with values as wide as keys",
    attention=f"{_CORES}:gated_deltanet",
    attention_arguments=shape_argument,
    normalize=False,
    causal_only=True,
    reads_heads=False,
    options={"negative": NEGATIVE, "kernels": KERNELS},
)

KDA = Mechanism(
    name="kda",
    summary="Kimi Delta Attention: the delta rule with a decay of each key channel",
    source="Kimi Linear, arXiv:2510.26692, section 3",
    attention=f"{_CORES}:kda",
    attention_arguments=shape_argument,
    normalize=False,
    causal_only=True,
    reads_heads=False,
    options={"negative": NEGATIVE, "kernels": KERNELS},
)
