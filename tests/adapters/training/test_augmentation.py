"""Random changes of images: what moves where, and that only training sees them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hedgebench.adapters.base import Examples, PixelInputs
from hedgebench.adapters.precision import Precision
from hedgebench.adapters.training.augmentation import vary
from hedgebench.adapters.training.loop import evaluate_loss, train
from hedgebench.adapters.training.objective import CROSS_ENTROPY, batch_of
from hedgebench.adapters.training.settings import TrainSettings

CPU = Precision(torch.device("cpu"), torch.float32)
PLAIN = PixelInputs(mean=(0.0,), std=(1.0,))


def one_bright(rows: int, size: int = 7) -> Tensor:
    """Images of zeros with a one in the middle and a two to the right of it."""
    images = torch.zeros(rows, 1, size, size)
    images[:, :, size // 2, size // 2] = 1
    images[:, :, size // 2, size // 2 + 1] = 2
    return images


def stored(inputs: PixelInputs, rows: int = 6) -> Examples:
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 2, 4, 4), dtype=np.uint8)
    return Examples(pixels, np.arange(rows, dtype=np.int32) % 3, pixels=inputs)


def test_pixels_are_normalised_channel_by_channel() -> None:
    examples = stored(PixelInputs(mean=(10.0, 20.0), std=(2.0, 5.0)))
    inputs, mask, targets = batch_of(examples, np.array([4, 1]), CPU.device)
    expected = (examples.inputs[[4, 1]] - np.array([10, 20])[:, None, None]) / np.array([2, 5])[:, None, None]
    assert mask is None
    assert targets.tolist() == [1, 1]
    assert inputs.dtype == torch.float32
    np.testing.assert_allclose(inputs.numpy(), expected, rtol=1e-6)


def test_without_flips_and_shift_nothing_changes() -> None:
    assert torch.equal(vary(one_bright(3), PLAIN), one_bright(3))


def test_flips_mirror_half_of_the_images() -> None:
    torch.manual_seed(0)
    images = one_bright(400)
    found = vary(images, PixelInputs((0.0,), (1.0,), flips=True))
    mirrored = (found == images.flip(-1)).all(dim=(1, 2, 3))
    same = (found == images).all(dim=(1, 2, 3))
    assert bool((mirrored ^ same).all())
    assert 160 < int(mirrored.sum()) < 240


def test_shifts_move_whole_images_and_reach_every_place_alike() -> None:
    torch.manual_seed(0)
    found = vary(one_bright(900), PixelInputs((0.0,), (1.0,), shift=1))
    assert torch.equal(found.sum((1, 2, 3)), torch.full((900,), 3.0))
    _, _, y, x = (found == 1).nonzero(as_tuple=True)
    assert torch.equal(found[torch.arange(900), 0, y, x + 1], torch.full((900,), 2.0))
    counts = torch.bincount(3 * (y - 2) + (x - 2), minlength=9)
    assert len(counts) == 9
    assert int(counts.min()) > 60
    assert int(counts.max()) < 150


def test_what_moves_in_is_the_mean() -> None:
    torch.manual_seed(1)
    found = vary(torch.ones(50, 2, 3, 3), PixelInputs((0.0,) * 2, (1.0,) * 2, shift=3))
    assert set(found.flatten().tolist()) == {0.0, 1.0}


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 3)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.layer(inputs.flatten(1))
        return logits


def test_only_training_varies_images() -> None:
    varied = stored(PixelInputs((127.0,) * 2, (70.0,) * 2, flips=True, shift=2))
    plain = stored(PixelInputs((127.0,) * 2, (70.0,) * 2))
    torch.manual_seed(0)
    model = Linear()
    rows, settings = np.arange(6), TrainSettings(steps=1, batch_size=2, lr=0.1)
    trained = [CROSS_ENTROPY.loss(model.train(), varied, rows, CPU.device) for _ in range(2)]
    assert not torch.equal(*trained)
    validated = [CROSS_ENTROPY.loss(model.eval(), each, rows, CPU.device) for each in (varied, plain)]
    assert torch.equal(*validated)
    assert evaluate_loss(model.train(), varied, settings, CPU) == evaluate_loss(model.train(), plain, settings, CPU)


def test_the_seed_of_training_decides_how_images_vary() -> None:
    def trained(seed: int, flips: bool) -> Tensor:
        torch.manual_seed(7)
        model = Linear()
        examples = stored(PixelInputs((127.0,) * 2, (70.0,) * 2, flips=flips, shift=int(flips)))
        train(model, examples, None, TrainSettings(steps=5, batch_size=6, lr=0.1), seed=seed, precision=CPU)
        return model.layer.weight.detach()

    assert torch.equal(trained(0, True), trained(0, True))
    assert not torch.equal(trained(0, True), trained(0, False))
    assert not torch.equal(trained(0, True), trained(1, True))
