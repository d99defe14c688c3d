"""Random changes of images in training: mirrored and moved copies, which show the same."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..base import PixelInputs


def vary(images: Float[Tensor, "b c y x"], how: PixelInputs) -> Float[Tensor, "b c y x"]:
    """Each image mirrored with a probability of one half, then moved by up to `shift` pixels along each axis.

    All moves have the same probability. Pixels that move in are 0, the mean of normalised images. He et al. describe
    the same as padding and random crops (arXiv 1512.03385, section 4.2). The choices come from torch's generator on the
    CPU, as dropout's do: they follow the seed of training, are the same on every device, and a resumed training goes on
    with them.
    """
    rows, _, height, width = images.shape
    if how.flips:
        mirrored = torch.rand(rows) < 0.5
        images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)
    if how.shift:
        top, left = torch.randint(2 * how.shift + 1, (2, rows, 1)).to(images.device)
        y, x = (torch.arange(size, device=images.device) for size in (height, width))
        padded = F.pad(images, (how.shift,) * 4).permute(0, 2, 3, 1)
        every = torch.arange(rows, device=images.device)[:, None, None]
        images = padded[every, (top + y)[:, :, None], (left + x)[:, None, :]].permute(0, 3, 1, 2)
    return images
