"""Winograd's convolution against torch's, and VGG's own backward pass against autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

from faststyle.perceptual import vgg as vgg_module
from faststyle.perceptual import winograd
from faststyle.perceptual.moments import moments
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.perceptual.winograd import Winograd, pays

LAYERS = ["relu1_1", "relu2_2", "relu3_1", "relu4_1"]


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (16, 12), (33, 18)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("chunk", [1, 6, 1000])
@pytest.mark.parametrize("relu", [False, True])
def test_winograd_is_the_convolution_of_torch(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], batch: int, chunk: int, relu: bool
) -> None:
    monkeypatch.setattr(winograd, "CHUNK_TILES", chunk)
    x = noise(batch, 3, *size)
    weight = noise(5, 3, 3, 3, seed=1)
    bias = noise(5, seed=2)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    got = Winograd(weight, bias)(x, relu=relu)
    torch.testing.assert_close(
        got.double(), expected.relu() if relu else expected, rtol=1e-4, atol=1e-4
    )
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_the_transforms_are_exact_in_double_precision() -> None:
    x = noise(2, 4, 9, 10, dtype=torch.float64)
    weight = noise(6, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(
        Winograd(weight)(x), F.conv2d(x, weight, padding=1), rtol=1e-12, atol=1e-12
    )
    g = noise(2, 6, 9, 10, dtype=torch.float64)
    expected = conv2d_input(x.shape, weight, g, padding=1)
    torch.testing.assert_close(Winograd(weight).backward(g), expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_in_float32() -> None:
    g = noise(2, 6, 9, 10)
    weight = noise(6, 4, 3, 3)
    expected = conv2d_input((2, 4, 9, 10), weight, g, padding=1)
    torch.testing.assert_close(Winograd(weight).backward(g), expected, rtol=1e-4, atol=1e-4)


def test_winograd_pays_for_many_channels_and_tiles_on_cpus() -> None:
    assert pays(torch.empty(1, 128, 16, 16), 256)
    assert not pays(torch.empty(1, 64, 16, 16), 256)
    assert not pays(torch.empty(1, 256, 16, 16), 64)
    assert not pays(torch.empty(1, 256, 12, 12), 256)  # 9 tiles
    assert pays(torch.empty(2, 256, 12, 12), 256)
    assert not pays(torch.empty(1, 256, 16, 16, dtype=torch.bfloat16), 256)
    assert not pays(torch.empty(1, 256, 16, 16, device="meta"), 256)


def loss_of(feats: dict[str, Tensor]) -> Tensor:
    """A loss with a different gradient for every feature."""
    return torch.stack(
        [(f * noise(*f.shape, dtype=f.dtype, seed=i)).sum() for i, f in enumerate(feats.values())]
    ).sum()


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("size", [(24, 16), (31, 18)])
@pytest.mark.parametrize("by_winograd", [False, True])
def test_the_backward_pass_by_hand_is_that_of_autograd(
    monkeypatch: pytest.MonkeyPatch,
    tiny_weights: VGGWeights,
    pooling: str,
    size: tuple[int, int],
    by_winograd: bool,
) -> None:
    calls = []

    def sometimes(x: Tensor, out_channels: int) -> bool:
        calls.append(out_channels)
        return by_winograd

    monkeypatch.setattr(vgg_module, "pays", sometimes)
    vgg = load_vgg(tiny_weights, LAYERS, pooling).double()  # type: ignore[arg-type]
    images = [noise(2, 3, *size, dtype=torch.float64).requires_grad_() for _ in range(2)]
    loss_of(vgg(images[0])).backward()
    assert len(calls) == 16  # 8 convolutions, forward and backward
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        loss_of(vgg(images[1])).backward()
    assert len(calls) == 16
    torch.testing.assert_close(images[0].grad, images[1].grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("only", LAYERS)
def test_a_gradient_may_come_from_one_layer_alone(tiny_weights: VGGWeights, only: str) -> None:
    """The other features are returned, but the loss does not depend on them."""
    vgg = load_vgg(tiny_weights, LAYERS).double()
    one, all_of_them = (noise(1, 3, 16, 16, dtype=torch.float64).requires_grad_() for _ in range(2))
    vgg(all_of_them)[only].square().sum().backward()
    vgg(one, [only])[only].square().sum().backward()
    torch.testing.assert_close(one.grad, all_of_them.grad)


def test_gradients_that_are_given_are_not_written_to(tiny_weights: VGGWeights) -> None:
    vgg = load_vgg(tiny_weights, LAYERS)
    image = noise(1, 3, 16, 16).requires_grad_()
    feats = vgg(image)
    given = [noise(*f.shape) for f in feats.values()]
    before = [g.clone() for g in given]
    torch.autograd.grad(list(feats.values()), image, given)
    for now, then in zip(given, before, strict=True):
        assert torch.equal(now, then)


def test_without_gradients_nothing_is_kept(tiny_weights: VGGWeights) -> None:
    vgg = load_vgg(tiny_weights, LAYERS)
    assert all(f.grad_fn is None for f in vgg(noise(1, 3, 16, 16)).values())
    with torch.no_grad():
        assert all(f.grad_fn is None for f in vgg(noise(1, 3, 16, 16).requires_grad_()).values())


def test_the_backward_pass_by_hand_is_that_of_autograd_under_autocast(
    monkeypatch: pytest.MonkeyPatch, tiny_weights: VGGWeights
) -> None:
    vgg = load_vgg(tiny_weights, LAYERS)
    gradients = []
    for by_hand in (True, False):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda by_hand=by_hand: not by_hand)
        image = noise(1, 3, 32, 32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            feats = vgg(image)
            assert feats["relu4_1"].dtype == torch.bfloat16
            loss = torch.stack([f.float().square().mean() for f in feats.values()]).sum()
        loss.backward()
        gradients.append(image.grad)
    assert gradients[0].dtype == torch.float32
    torch.testing.assert_close(
        gradients[0], gradients[1], rtol=0.02, atol=0.01 * float(gradients[1].abs().max())
    )


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("part", ["gram", "mean", "both"])
def test_gradients_of_moments_are_those_of_their_definition(masked: bool, part: str) -> None:
    weight = noise(1, 1, 4, 5).abs() if masked else None
    ours, plain = (
        noise(2, 3, 4, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
        for _ in range(2)
    )
    found = moments(ours, weight)
    w = torch.ones(1, 1, 4, 5) if weight is None else weight
    gram = torch.einsum("bchw,bdhw,xyhw->bcd", plain, plain, w) / (3 * w.sum())
    mean = (plain * w).sum((2, 3)) / w.sum()
    direction = noise(2, 3, 3, seed=1)  # not symmetric
    for got, expected in ((found.gram, gram), (found.mean, mean)):
        torch.testing.assert_close(got, expected)
    terms = [
        ((g * direction).sum() if part != "mean" else 0)
        + (m.square().sum() if part != "gram" else 0)
        for g, m in ((found.gram, found.mean), (gram, mean))
    ]
    for term in terms:
        term.backward()  # type: ignore[union-attr]
    torch.testing.assert_close(ours.grad, plain.grad)
