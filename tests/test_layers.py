"""The layers of the networks against torch's own."""

from __future__ import annotations

import pytest
import torch

from faststyle.networks.layers import InstanceNorm, smooth


@pytest.mark.parametrize("period", [2.0, 2.3, 2.7, 3.0, 3.4, 3.8, 4.0])
def test_fine_stripes_cannot_be_drawn(period: float) -> None:
    wave = torch.cos(2 * torch.pi * torch.arange(48) / period).expand(1, 3, 48, 48)
    for image in (wave, wave.mT):
        assert float(smooth(image)[..., 4:-4, 4:-4].abs().max()) < 0.02


def test_what_changes_slowly_stays() -> None:
    ramp = torch.arange(32.0).expand(1, 3, 32, 32)
    torch.testing.assert_close(smooth(ramp)[..., 4:-4], ramp[..., 4:-4])
    impulse = torch.zeros(1, 1, 17, 17)
    impulse[..., 8, 8] = 48**2
    taps = torch.tensor([1.0, 3, 6, 9, 10, 9, 6, 3, 1])
    torch.testing.assert_close(smooth(impulse)[0, 0, 4:13, 4:13], torch.outer(taps, taps))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(3, 2), (5, 7), (16, 16)])
def test_the_norm_by_hand_is_torchs(relu: bool, size: tuple[int, int], dtype: torch.dtype) -> None:
    """Values and all three gradients, on features whose mean is far from 0; torch's own always in float32."""
    norm = InstanceNorm(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (3 + torch.randn(2, 6, *size)).to(dtype).contiguous(memory_format=torch.channels_last)
    direction = torch.randn(2, 6, *size).to(dtype)
    found = []
    for by_hand in (True, False):
        norm.train(by_hand)
        norm.zero_grad()
        image = x.clone(memory_format=torch.preserve_format)
        image = (image if by_hand else image.float()).requires_grad_()
        y = norm(image, relu=relu)
        (y * direction).sum().backward()
        found.append((y, image.grad, norm.weight.grad, norm.bias.grad))
    assert found[0][0].dtype == found[0][1].dtype == dtype
    for mine, torchs in zip(*found, strict=True):
        near = 1e-4 if dtype == torch.float32 else 0.02 * float(torchs.detach().abs().max())  # bf16: 8 bits
        torch.testing.assert_close(mine.float(), torchs, rtol=near, atol=near)
