"""Layers that mix tokens without attention, in the place of whole attention layers of encoders.

They are the literature's controls for whether attention is what matters. In their papers each has a network of its own;
here all of them stand in the blocks of one backbone, whose norm comes first and whose MLP comes after. Images have a
class token, which these networks lack: it gets the mean over the patches of what the mixer gives. Sequences are images
of one row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...kernels.choice import KernelChoice
from ..base import UnsupportedError
from ..mechanisms.declaration import AttentionShape
from .core import LayerMixer, LayerState

Grid = Float[Tensor, "b r c w"]
"""Hidden states of an image's patches in rows and columns."""

Real = Float[Tensor, "b r c 1"]
"""1 at real tokens, 0 at padding."""


class GridMixer(LayerMixer):
    """Mixes the patches of an image, or the tokens of a sequence.

    Args:
        shape: The layer.
        inner: Mixes a grid, from hidden states and a mask `[b r c 1]` that is 1 at real tokens.
    """

    def __init__(self, shape: AttentionShape, inner: nn.Module) -> None:
        super().__init__()
        self.grid = shape.grid
        self.length = shape.context_length
        self.inner = inner

    def mix(
        self, x: Float[Tensor, "b n w"], mask: Bool[Tensor, "b n"] | None, state: LayerState
    ) -> tuple[Float[Tensor, "b n w"], LayerState, KernelChoice]:
        """Mixed tokens; there is no state.

        Raises:
            UnsupportedError: More tokens than the mixer was built for.
        """
        assert state is None
        kernel, tokens = KernelChoice("mixer", "torch"), x.shape[1]
        if self.grid is not None:
            patches = torch.unflatten(x[:, 1:], 1, self.grid)
            mixed = self.inner(patches, torch.ones_like(patches[..., :1])).flatten(1, 2)
            return torch.cat([mixed.mean(1, keepdim=True), mixed], 1), None, kernel
        if tokens > self.length:
            raise UnsupportedError(f"{tokens} tokens do not fit a mixer of {self.length}")
        real = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        row, real = (F.pad(part, (0, 0, 0, self.length - tokens))[:, None] for part in (x * real, real))
        return self.inner(row, real)[:, 0, :tokens], None, kernel


class Pool(nn.Module):
    """The mean over neighbours at most one step away, minus the token itself (MetaFormer, arXiv:2111.11418)."""

    def forward(self, x: Grid, real: Real) -> Grid:
        """The mean over real neighbours, without parameters."""
        sums, counts = (F.avg_pool2d(part.permute(0, 3, 1, 2), 3, 1, 1) for part in (x, real))
        means = sums / counts.clamp(min=1 / 9)
        return means.permute(0, 2, 3, 1) - x


class TokenMlp(nn.Module):
    """One MLP over all tokens, the same for each channel (MLP-Mixer, arXiv:2105.01601).

    Args:
        tokens: Tokens or patches.
        hidden: Its hidden width.
    """

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(tokens, hidden)
        self.output = nn.Linear(hidden, tokens)

    def forward(self, x: Grid, real: Real) -> Grid:
        """The MLP over the tokens of each channel."""
        del real
        channels = x.flatten(1, 2).mT  # b w n
        mixed: Tensor = self.output(F.gelu(self.enter(channels)))
        return torch.unflatten(mixed.mT, 1, tuple(x.shape[1:3]))


class Raft(nn.Module):
    """MLPs over each column, then over each row, of a few channels at a time (RaftMLP, arXiv:2108.04384).

    Args:
        grid: Rows and columns.
        width: Channels.
        raft: Channels that are mixed together with the tokens of a column or row.
        expansion: Hidden width of the MLPs, in multiples of their inputs.
    """

    def __init__(self, grid: tuple[int, int], width: int, raft: int, expansion: int = 2) -> None:
        super().__init__()
        if width % raft:
            raise ValueError(f"raft:size={raft} does not divide the width {width}")
        self.raft = raft
        self.vertical, self.horizontal = (
            nn.Sequential(nn.Linear(side * raft, expansion * side * raft), nn.GELU(),
                          nn.Linear(expansion * side * raft, side * raft))
            for side in grid
        )  # fmt: skip
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Grid, real: Real) -> Grid:
        """The sum of both mixings; the second reads the first, after a norm."""
        del real
        down = self._mixed(x.transpose(1, 2), self.vertical).transpose(1, 2)
        return down + self._mixed(self.norm(x + down), self.horizontal)

    def _mixed(self, x: Grid, mlp: nn.Module) -> Grid:
        """The MLP along the second axis of the grid, over `raft` groups of channels together."""
        lines = torch.unflatten(x, -1, (self.raft, -1)).permute(0, 1, 4, 3, 2)  # b r w/raft raft c
        mixed: Tensor = mlp(lines.flatten(-2))
        return torch.unflatten(mixed, -1, (self.raft, -1)).permute(0, 1, 4, 3, 2).flatten(-2)


class Strip(nn.Module):
    """Each row and each column mixed with its two neighbours, beside a local convolution (Strip-MLP, arXiv:2307.11458).

    Half of the channels are mixed by strips, in cascade, the other half locally by 3 x 7 and 7 x 3 depthwise
    convolutions whose shares follow from the mean over the image.

    Args:
        grid: Rows and columns.
        width: Channels, a multiple of 8.
    """

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        if width % 8:
            raise ValueError(f"strip needs a width that is a multiple of 8; got {width}")
        half = width // 2
        self.groups = half // 4
        rows, columns = (side * self.groups for side in grid)
        self.enter = nn.Linear(width, width)
        self.vertical = nn.Conv1d(rows, rows, 3, padding=1, groups=self.groups)
        self.horizontal = nn.Conv1d(columns, columns, 3, padding=1, groups=self.groups)
        self.after_vertical = nn.Linear(width, half)
        self.after_horizontal = nn.Linear(width, half)
        self.wide = nn.Conv2d(half, half, (3, 7), padding=(1, 3), groups=half, bias=False)
        self.high = nn.Conv2d(half, half, (7, 3), padding=(3, 1), groups=half, bias=False)
        self.shares = nn.Sequential(nn.Linear(half, half // 2), nn.GELU(), nn.Linear(half // 2, 3 * half))
        self.output = nn.Linear(width, width)

    def forward(self, x: Grid, real: Real) -> Grid:
        """The output of both halves."""
        strips, near = F.gelu(self.enter(x)).mul(real).chunk(2, -1)
        down = self._strips(strips.transpose(1, 2), self.vertical).transpose(1, 2)
        down = F.gelu(self.after_vertical(torch.cat([down, strips], -1)))
        across = self.after_horizontal(torch.cat([strips, self._strips(down, self.horizontal)], -1))
        image = near.permute(0, 3, 1, 2)
        local = torch.stack([self.high(image), self.wide(image), image], 1)  # b 3 half r c
        means = local.sum(1).mean((-2, -1)) * (real.numel() / len(real)) / real.sum((1, 2)).clamp(min=1)
        shares = torch.unflatten(self.shares(means), -1, (-1, 3)).softmax(-1).mT[..., None, None]
        mixed: Tensor = self.output(torch.cat([across, (local * shares).sum(1).permute(0, 2, 3, 1)], -1))
        return mixed

    def _strips(self, x: Grid, convolution: nn.Conv1d) -> Grid:
        """Mixes the second axis of the grid in full, with neighbours along the first, for each group of channels."""
        lines = torch.unflatten(x, -1, (-1, self.groups)).permute(0, 3, 4, 2, 1)  # b half/groups groups c r
        mixed: Tensor = convolution(lines.flatten(0, 1).flatten(1, 2))
        rows = torch.unflatten(torch.unflatten(mixed, 1, (self.groups, -1)), 0, (len(x), -1))
        return rows.permute(0, 4, 3, 1, 2).flatten(-2)


class Shift(nn.Module):
    """Groups of channels shifted by -2 to 2 rows or columns, then convolved (MS-MLP, arXiv:2202.06510).

    Args:
        width: Channels.
    """

    shifts, sizes = (-2, -1, 0, 1, 2), (1, 1, 3, 5, 7)

    def __init__(self, width: int) -> None:
        super().__init__()
        counts = [len(part) for part in torch.arange(width).tensor_split(len(self.shifts))]
        self.along_columns, self.along_rows = (
            nn.ModuleList(
                nn.Conv2d(count, count, size, padding=size // 2, groups=count)
                for count, size in zip(counts, self.sizes, strict=True)
            )
            for _ in range(2)
        )

    def forward(self, x: Grid, real: Real) -> Grid:
        """The sum of the groups shifted along columns and along rows."""
        del real
        groups = x.permute(0, 3, 1, 2).tensor_split(len(self.shifts), 1)
        sums = [
            across(group.roll(shift, 3)) + down(group.roll(shift, 2))
            for group, shift, across, down in zip(groups, self.shifts, self.along_columns, self.along_rows, strict=True)
        ]
        return torch.cat(sums, 1).permute(0, 2, 3, 1)


class Glu(nn.Module):
    """A gated linear unit of each token; nothing mixes tokens (Activator, arXiv:2405.15953).

    Args:
        width: Channels.
        hidden: Width of the gate.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden)
        self.value = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, width)

    def forward(self, x: Grid, real: Real) -> Grid:
        """The gated token."""
        del real
        gated: Tensor = self.output(self.norm(F.gelu(self.gate(x))) * self.norm(self.value(x)))
        return gated


def pool(shape: AttentionShape) -> GridMixer:
    """Average pooling."""
    return GridMixer(shape, Pool())


def mlp(shape: AttentionShape, *, hidden: int | None = None) -> GridMixer:
    """An MLP over tokens, half as wide as the model unless `hidden` says otherwise, as in Mixer-B/16."""
    rows, columns = _grid(shape)
    return GridMixer(shape, TokenMlp(rows * columns, hidden or _width(shape) // 2))


def raft(shape: AttentionShape, *, size: int) -> GridMixer:
    """MLPs over rows and columns of `size` channels together.

    Raises:
        ValueError: `size` does not divide the width.
    """
    return GridMixer(shape, Raft(_grid(shape), _width(shape), size))


def strip(shape: AttentionShape) -> GridMixer:
    """Strips of rows and columns.

    Raises:
        ValueError: The width is not a multiple of 8.
    """
    return GridMixer(shape, Strip(_grid(shape), _width(shape)))


def shift(shape: AttentionShape) -> GridMixer:
    """Shifted and convolved groups of channels."""
    return GridMixer(shape, Shift(_width(shape)))


def glu(shape: AttentionShape, *, hidden: int | None = None) -> GridMixer:
    """A gated linear unit, as wide as the model unless `hidden` says otherwise."""
    return GridMixer(shape, Glu(_width(shape), hidden or _width(shape)))


def _grid(shape: AttentionShape) -> tuple[int, int]:
    return shape.grid or (1, shape.context_length)


def _width(shape: AttentionShape) -> int:
    return shape.width or shape.heads * shape.head_dim
