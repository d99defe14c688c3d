"""Controls for whether attention is what matters: token mixers in the place of whole layers of encoders."""

from __future__ import annotations

from .declaration import Mechanism, Option
from .gated import shape_argument

_MIXERS = "hedgebench.adapters.attention.mixers"
_HIDDEN = "hidden width (default: {})"

POOL = Mechanism(
    name="pool",
    summary="control: the mean over neighbours minus the token, without parameters",
    source="PoolFormer of MetaFormer, Yu et al. 2021, arXiv:2111.11418, equation 4",
    attention=f"{_MIXERS}:pool",
    attention_arguments=shape_argument,
    encoder_only=True,
    reads_heads=False,
)

MLP = Mechanism(
    name="mlp",
    summary="control: an MLP over the tokens of each channel",
    source="MLP-Mixer, Tolstikhin et al. 2021, arXiv:2105.01601, equation 1",
    attention=f"{_MIXERS}:mlp",
    attention_arguments=shape_argument,
    encoder_only=True,
    reads_heads=False,
    options={"hidden": Option(int, None, _HIDDEN.format("half of the model's width"), minimum=1, read_by="attention")},
)

RAFT = Mechanism(
    name="raft",
    summary="control: MLPs over the columns, then the rows, of a few channels together",
    source="RaftMLP, Tatsunami and Taki 2021, arXiv:2108.04384, section 3, and its published code; its multi-scale "
    "patch embedding is left out",
    attention=f"{_MIXERS}:raft",
    attention_arguments=shape_argument,
    encoder_only=True,
    reads_heads=False,
    options={"size": Option(int, 2, "channels mixed together; divides the width", minimum=1, read_by="attention")},
)

STRIP = Mechanism(
    name="strip",
    summary="control: rows and columns mixed with their neighbours, beside a local convolution",
    source="Strip-MLP, Cao et al. 2023, arXiv:2307.11458, section 3, and its published code; without its batch norms, "
    "relative positions and depthwise convolution before, and with 4 patches of channels at every width",
    attention=f"{_MIXERS}:strip",
    attention_arguments=shape_argument,
    encoder_only=True,
    reads_heads=False,
)

SHIFT = Mechanism(
    name="shift",
    summary="control: groups of channels shifted by -2 to 2 patches and convolved",
    source="MS-MLP, Zheng et al. 2022, arXiv:2202.06510, section 3; shifts and kernel sizes as in public copies of its "
    "code; a residual connection comes between it and the block's MLP, and there is no layer scale",
    attention=f"{_MIXERS}:shift",
    attention_arguments=shape_argument,
    encoder_only=True,
    reads_heads=False,
)

GLU = Mechanism(
    name="glu",
    summary="control: a gated linear unit of each token, nothing mixes tokens",
    source="Activator, Abdullah and Aydin 2024, arXiv:2405.15953, and its published code, with a gate as wide as the "
    "model instead of its MLP",
    attention=f"{_MIXERS}:glu",
    attention_arguments=shape_argument,
    encoder_only=True,
    reads_heads=False,
    options={"hidden": Option(int, None, _HIDDEN.format("the model's width"), minimum=1, read_by="attention")},
)
