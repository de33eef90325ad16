"""The layers of the networks against torch's own."""

from __future__ import annotations

import pytest
import torch

from faststyle.networks.layers import InstanceNorm, smooth


def test_stripes_of_two_pixels_cannot_be_drawn() -> None:
    """The finest stripes vanish, along both sides; what changes slowly stays."""
    stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 3, 16, 16)
    for image in (stripes, stripes.transpose(2, 3)):
        torch.testing.assert_close(smooth(image)[..., 1:-1, 1:-1], torch.full((1, 3, 14, 14), 0.5))
    ramp = torch.arange(16.0).expand(1, 3, 16, 16)
    torch.testing.assert_close(smooth(ramp)[..., 1:-1], ramp[..., 1:-1])
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[..., 2, 2] = 16
    assert smooth(impulse)[0, 0, 1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_instance_norm_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mine, theirs = InstanceNorm(6), torch.nn.InstanceNorm2d(6, affine=True)
    for module in (mine, theirs):
        torch.manual_seed(1)
        torch.nn.init.normal_(module.weight)
        torch.nn.init.normal_(module.bias)
    x = torch.randn(2, 6, 9, 7) * 3 + 1
    torch.testing.assert_close(mine(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert mine(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(3, 2), (5, 7), (16, 16)])
def test_the_norm_by_hand_is_torchs(relu: bool, size: tuple[int, int]) -> None:
    """Values and all three gradients, on features whose mean is far from 0."""
    norm = InstanceNorm(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (3 + torch.randn(2, 6, *size)).contiguous(memory_format=torch.channels_last)
    direction = torch.randn(2, 6, *size)
    found = []
    for training in (True, False):
        norm.train(training)
        norm.zero_grad()
        image = x.clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm(image, relu=relu)
        (y * direction).sum().backward()
        found.append((y, image.grad, norm.weight.grad, norm.bias.grad))
    for by_hand, torchs in zip(*found, strict=True):
        torch.testing.assert_close(by_hand, torchs, rtol=1e-4, atol=1e-4)
