"""Linear attentions before Hedgehog, and linear attention without a feature map as a control."""

from __future__ import annotations

from .declaration import FLA_KERNELS, KERNELS, Mechanism, Option

_MAPS = "hedgebench.kernels.maps"

ELU = Mechanism(
    name="elu",
    summary="1 + ELU(x)",
    source="Katharopoulos et al. 2020, arXiv:2006.16236, equation 7",
    feature_map=f"{_MAPS}.fixed:EluMap",
    options={"kernels": KERNELS},
    variants={"kernels": FLA_KERNELS},
)

RELU = Mechanism(
    name="relu",
    summary="ReLU(x)",
    source="Kasai et al. 2021, arXiv:2103.13076, without its projection",
    feature_map=f"{_MAPS}.fixed:ReluMap",
)

PERFORMER = Mechanism(
    name="performer",
    summary="positive orthogonal random features (FAVOR+)",
    source="Choromanski et al. 2021, arXiv:2009.14794, lemma 1 and section 3.2",
    feature_map=f"{_MAPS}.fixed:PerformerMap",
    options={"feature_dim": Option(int, None, "random features (default: the head dim)", minimum=1)},
)

COSFORMER = Mechanism(
    name="cosformer",
    summary="ReLU(x) with cosine re-weighting by distance",
    source="Qin et al. 2022, arXiv:2202.08791, section 3.2",
    feature_map=f"{_MAPS}.fixed:CosformerMap",
    options={"length": Option(int, None, "the M of the re-weighting (default: the context length)", minimum=1)},
    map_arguments=lambda shape: {"length": shape.context_length},
)

T2R = Mechanism(
    name="t2r",
    summary="ReLU(Wx + b), learned with the task",
    source="Kasai et al. 2021, arXiv:2103.13076, equation 5",
    feature_map=f"{_MAPS}.learned:T2RMap",
    options={"feature_dim": Option(int, None, "features (default: the head dim)", minimum=1)},
)

TAYLOR = Mechanism(
    name="taylor",
    summary="second-order Taylor expansion of exp(q.k/sqrt(d))",
    source="Arora et al. 2024, arXiv:2402.18668, section 4; Hedgehog paper, arXiv:2402.04347, section 3",
    feature_map=f"{_MAPS}.learned:TaylorMap",
    options={
        "feature_dim": Option(int, None, "q and k are first projected to this width (default: not at all)", minimum=1)
    },
)

REBASED = Mechanism(
    name="rebased",
    summary="squares of normalised queries and keys with a learned scale and shift",
    source="Aksenov et al. 2024, arXiv:2402.10644, section 4; a projection, scale and shift for each head, queries and "
    "keys apart",
    feature_map=f"{_MAPS}.rebased:RebasedMap",
    options={
        "feature_dim": Option(int, 16, "q and k are first projected to this width", minimum=1),
        "kernels": KERNELS,
    },
    variants={"kernels": FLA_KERNELS},
)

BASED = Mechanism(
    name="based",
    summary="layers of gated convolutions, Taylor linear attention and a sliding window, in turns",
    source="Arora et al. 2024, arXiv:2402.18668, section 4 and appendix; layers 0, 3 and 4 of each five convolve, 1 is "
    "linear attention, 2 a window, as in the authors' configuration for 360M parameters, whose window has 256 keys",
    attention="hedgebench.adapters.gated.based:based",
    attention_arguments=lambda shape: {"shape": shape},
    causal_only=True,
    reads_heads=False,
    options={
        "feature_dim": Option(int, 16, "width of q and k before the expansion", minimum=1, read_by="attention"),
        "window": Option(int, 64, "keys that a window sees, the query's own included", minimum=1, read_by="attention"),
    },
)

EXP = Mechanism(
    name="exp",
    summary="exp(t x), elementwise",
    source="Hedgehog paper, arXiv:2402.04347, table 1",
    feature_map=f"{_MAPS}.fixed:ExpMap",
    options={"t": Option(float, 1.0, "temperature factor inside the exponential", minimum=0.0)},
)

IDENTITY_LINEAR = Mechanism(
    name="identity_linear",
    summary="control: linear attention without a feature map and without a normaliser",
    source="Katharopoulos et al. 2020, arXiv:2006.16236, equation 4 with the identity for its map",
    feature_map=f"{_MAPS}.fixed:IdentityLinearMap",
    normalize=False,
)
