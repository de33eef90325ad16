"""Johnson's network against the table of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from faststyle.errors import ImageError, RecipeError
from faststyle.networks import build_network
from faststyle.networks.johnson import FLAT, GREY, InstanceNorm, Johnson, smooth, whiten


def test_layer_sizes_are_those_of_the_papers_table() -> None:
    """Supplementary material, Table 1, for 256x256 pixels: channels and sizes after each convolution."""
    network = Johnson()
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: seen.append((*m.kernel_size, *o.shape[1:])))
    network(torch.rand(1, 3, 256, 256))
    expected = [(9, 9, 32, 256, 256), (3, 3, 64, 128, 128), (3, 3, 128, 64, 64)]
    expected += [(3, 3, 128, 64, 64)] * 10
    expected += [(3, 3, 64, 128, 128), (3, 3, 32, 256, 256), (9, 9, 3, 256, 256)]
    assert seen == expected


@pytest.mark.parametrize("start", ["palette", "identity", "random"])
def test_has_1_679_235_parameters(start: str) -> None:
    assert sum(p.numel() for p in build_network({"name": "johnson", "start": start}).parameters()) == 1_679_235


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (18, 64), (47, 19), (256, 130)])
def test_any_size_goes_in_and_comes_out(size: tuple[int, int]) -> None:
    photo = torch.rand(1, 3, *size)
    assert Johnson(width=4, start="random")(photo).shape == photo.shape
    torch.testing.assert_close(Johnson(width=4, start="identity")(photo), photo)


def test_a_random_start_is_not_the_photo_and_stays_in_range() -> None:
    torch.manual_seed(0)
    photo = torch.rand(1, 3, 32, 32)
    out = Johnson(width=4, start="random")(photo)
    assert (out - photo).abs().mean() > 0.1
    assert out.min() >= 0
    assert out.max() <= 1


def test_padding_inside_changes_nothing_far_from_the_edge() -> None:
    """An odd size is mirrored to a multiple of 4, so what is cropped off again must be mirrored pixels only."""
    torch.manual_seed(0)
    network = Johnson(width=4, start="random").eval()
    photo = torch.rand(1, 3, 30, 31)
    mirrored = np.pad(photo.numpy(), ((0, 0), (0, 0), (0, 2), (0, 1)), mode="reflect")
    torch.testing.assert_close(network(photo), network(torch.from_numpy(mirrored))[..., :30, :31])


def test_starts_from_the_photo_in_the_paintings_colours() -> None:
    """At step 0 the output's colours have the painting's mean and, but for the floor, its covariance in each axis."""
    torch.manual_seed(0)
    mix = torch.tensor([[0.1, 0.02, 0.0], [0.05, 0.15, 0.05], [0.0, 0.1, 0.2]])
    painting = (torch.randn(1, 4000, 3) @ mix.T + torch.tensor([0.3, 0.5, 0.6])).mT.reshape(1, 3, 50, 80)
    network = build_network({"name": "johnson", "width": 4}, painting)
    photo = torch.rand(1, 3, 64, 64)  # independent channels of equal contrast: already white
    out = network(photo).detach()[0].flatten(1).numpy()
    target = painting[0].flatten(1).numpy()
    np.testing.assert_allclose(out.mean(1), target.mean(1), atol=1e-4)
    np.testing.assert_allclose(np.cov(out), np.cov(target), atol=0.004)
    flat = network(torch.full((1, 3, 32, 32), 0.2))
    torch.testing.assert_close(flat, network.palette_mean.expand_as(flat))


@pytest.mark.parametrize("contrast", [1.0, 0.1, 0.0])
def test_whitening_is_the_inverse_root_of_the_covariance(contrast: float) -> None:
    """Against numpy's eigendecomposition, on colours that are all but grey: the worst case of a photo."""
    rng = np.random.default_rng(0)
    grey, colour = rng.normal(0, contrast, (1, 900)), rng.normal(0, 0.05 * contrast, (3, 900))
    pixels = 0.4 + grey + colour
    got = whiten(torch.from_numpy(pixels).float().view(1, 3, 30, 30))[0].flatten(1).numpy()
    covariance = np.cov(pixels, bias=True)
    covariance += (GREY * np.trace(covariance) / 3 + FLAT) * np.eye(3)
    values, vectors = np.linalg.eigh(covariance)
    expected = vectors @ np.diag(values**-0.5) @ vectors.T @ (pixels - pixels.mean(1, keepdims=True))
    np.testing.assert_allclose(got, expected, atol=2e-3)


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


def test_flat_parts_stay_flat_through_upsampling() -> None:
    """Away from edges, where the photo has none, the network draws none of its own."""
    torch.manual_seed(0)
    network = Johnson(width=4, blocks=1, start="random").eval()
    with torch.no_grad():
        out = network(torch.full((1, 3, 64, 64), 0.3))
    assert float(out[..., 24:40, 24:40].flatten(2).std(2).max()) < 1e-5


def test_only_evaluation_clamps() -> None:
    network = Johnson(width=4)
    photo = torch.rand(1, 3, 32, 32) * 0.1
    photo[..., :2, :2] = 1
    assert network(photo).max() > 1
    assert network.eval()(photo).max() == 1


def test_too_small_is_an_error_with_the_limit() -> None:
    with pytest.raises(ImageError, match="at least 16"):
        Johnson(width=4)(torch.rand(1, 3, 15, 40))


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


def test_unknown_names_and_options_get_a_suggestion() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'johnson'"):
        build_network({"name": "jonson"})
    with pytest.raises(RecipeError, match="Did you mean 'width'"):
        build_network({"name": "johnson", "widht": 3})
    with pytest.raises(RecipeError, match="start"):
        build_network({"name": "johnson", "start": "nowhere"})


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
