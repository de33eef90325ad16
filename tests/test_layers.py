"""The layers of the networks against torch's own."""

from __future__ import annotations

import pytest
import torch

from faststyle.networks.layers import InstanceNorm


def test_instance_norm_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mine = InstanceNorm(6)
    theirs = torch.nn.InstanceNorm2d(6, affine=True)
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
def test_the_gradient_by_hand_is_that_of_torch(
    relu: bool, size: tuple[int, int], dtype: torch.dtype
) -> None:
    """Values and all three gradients, with features far from 0, against torch in float32."""
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
        # bf16 has 8 bits.
        near = 1e-4 if dtype == torch.float32 else 0.02 * float(torchs.detach().abs().max())
        torch.testing.assert_close(mine.float(), torchs, rtol=near, atol=near)


@pytest.mark.parametrize("relu", [False, True])
def test_a_norm_of_many_paintings_is_the_norm_of_each(relu: bool) -> None:
    """Values, and gradients by hand against those of torch, in training and in evaluation."""
    torch.manual_seed(0)
    many = InstanceNorm(6, paintings=3)
    torch.nn.init.normal_(many.weight)
    torch.nn.init.normal_(many.bias)
    x = torch.randn(2, 6, 9, 7)
    mix = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    single = InstanceNorm(6).eval()
    expected = []
    for image, shares in zip(x, mix, strict=True):
        single.weight.data = shares @ many.weight.data
        single.bias.data = shares @ many.bias.data
        expected.append(single(image[None], relu=relu))
    direction = torch.randn(2, 6, 9, 7)
    gradients = []
    for training in (True, False):
        many.train(training)
        many.zero_grad()
        image = x.clone().requires_grad_()
        y = many(image, relu=relu, mix=mix)
        torch.testing.assert_close(y, torch.cat(expected), atol=1e-5, rtol=1e-5)
        (y * direction).sum().backward()
        gradients.append((image.grad, many.weight.grad, many.bias.grad))
    for by_hand, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(by_hand, torchs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("relu", [False, True])
def test_large_feature_maps_are_normalised_exactly(dtype: torch.dtype, relu: bool) -> None:
    """torch's group normalisation adds up in float32: its error grows with the picture."""
    torch.manual_seed(0)
    x = (torch.randn(2, 3, 700, 601) + torch.tensor([0.0, 10, -30])[:, None, None]).to(dtype)
    x = x.to(memory_format=torch.channels_last)
    norm = InstanceNorm(3).eval()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    double = x.double()
    variance, mean = torch.var_mean(double, (2, 3), correction=0, keepdim=True)
    expected = (double - mean) / (variance + norm.eps).sqrt()
    expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
    with torch.no_grad():
        got = norm(x, relu)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    atol = 2e-5 if dtype == torch.float32 else 2e-2
    expected = expected.relu() if relu else expected
    torch.testing.assert_close(got.double(), expected.detach(), atol=atol, rtol=0)
