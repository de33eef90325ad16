"""What holds for all networks: sizes, starts, padding; and how they are built."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from faststyle.errors import ImageError, RecipeError
from faststyle.networks import NETWORKS, build_network, parse_network
from faststyle.networks.layers import BOXES
from faststyle.networks.mobile import Mobile, folded_filter
from faststyle.networks.start import FLAT, GREY, StyleNetwork, whiten, whitening

NAMES = pytest.mark.parametrize("name", list(NETWORKS))


def build(name: str, start: str = "palette") -> StyleNetwork:
    return build_network({"name": name, "width": 4, "blocks": 1, "start": start})


@NAMES
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (18, 64), (47, 19), (256, 130)])
def test_any_size_goes_in_and_comes_out(name: str, size: tuple[int, int]) -> None:
    photo = torch.rand(1, 3, *size)
    assert build(name, "random")(photo).shape == photo.shape
    torch.testing.assert_close(build(name, "identity")(photo), photo)


@NAMES
def test_a_random_start_is_not_the_photo_and_stays_in_range(name: str) -> None:
    torch.manual_seed(0)
    photo = torch.rand(1, 3, 32, 32)
    out = build(name, "random")(photo)
    assert (out - photo).abs().mean() > 0.1
    assert out.min() >= 0
    assert out.max() <= 1


@NAMES
def test_what_is_mirrored_around_a_photo_is_cut_off_again(name: str) -> None:
    """Twelve pixels, and more on the right and below, to a multiple of 4."""
    torch.manual_seed(0)
    network = build(name, "random").eval()
    photo = torch.rand(1, 3, 30, 31)
    mirrored = torch.from_numpy(np.pad(photo.numpy(), ((0, 0), (0, 0), (12, 14), (12, 13)), mode="reflect"))
    with torch.no_grad():
        expected = network.colour(mirrored, network.paint(mirrored))[..., 12:42, 12:43]
        torch.testing.assert_close(network(photo), expected.clamp(0, 1))


@NAMES
def test_starts_from_the_photo_in_the_paintings_colours(name: str) -> None:
    """At step 0 the output's colours have the painting's mean and, but for the floor, its covariance in each axis."""
    torch.manual_seed(0)
    mix = torch.tensor([[0.1, 0.02, 0.0], [0.05, 0.15, 0.05], [0.0, 0.1, 0.2]])
    painting = (torch.randn(1, 4000, 3) @ mix.T + torch.tensor([0.3, 0.5, 0.6])).mT.reshape(1, 3, 50, 80)
    network = build_network({"name": name, "width": 4}, painting)
    photo = torch.rand(1, 3, 64, 64)  # independent channels of equal contrast: already white
    out = network.colour(photo, network.paint(photo)).detach()[0].flatten(1).numpy()  # the rim would count too
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


def test_whitening_of_millions_of_pixels_is_exact() -> None:
    """Tiles take their sums in double precision: a whole picture must agree with them at any size."""
    torch.manual_seed(0)
    photo = torch.rand(1, 1, 2048, 2048) + 0.1 * torch.rand(1, 3, 2048, 2048)  # all but grey
    photo = photo.contiguous(memory_format=torch.channels_last)
    flat = photo.double().flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    expected = whitening(flat @ flat.transpose(1, 2) / flat.shape[2]) @ flat
    torch.testing.assert_close(whiten(photo).double().flatten(2), expected, atol=1e-5, rtol=0)


@NAMES
def test_flat_parts_stay_flat_through_upsampling(name: str) -> None:
    """Away from edges, where the photo has none, the network draws none of its own."""
    torch.manual_seed(0)
    network = build(name, "random").eval()
    with torch.no_grad():
        out = network(torch.full((1, 3, 64, 64), 0.3))
    assert float(out[..., 24:40, 24:40].flatten(2).std(2).max()) < 1e-5


@NAMES
def test_only_evaluation_clamps(name: str) -> None:
    network = build(name)
    photo = torch.rand(1, 3, 32, 32) * 0.1
    photo[..., :2, :2] = 1
    assert network(photo).max() > 1
    assert network.eval()(photo).max() == 1


@NAMES
def test_too_small_is_an_error_with_the_limit(name: str) -> None:
    with pytest.raises(ImageError, match="at least 16"):
        build(name)(torch.rand(1, 3, 15, 40))


def test_unknown_names_and_options_get_a_suggestion() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'johnson'"):
        build_network({"name": "jonson"})
    with pytest.raises(RecipeError, match="Did you mean 'width'"):
        build_network({"name": "johnson", "widht": 3})
    with pytest.raises(RecipeError, match="start"):
        build_network({"name": "johnson", "start": "nowhere"})


def test_networks_have_short_names() -> None:
    assert parse_network("mobile") == {"name": "mobile"}
    assert parse_network("johnson-16") == {"name": "johnson", "width": 16}
    assert [parse_network(text) for text in ("mobil", "mobile-", "mobile-x", "mobile-3.5", "nocturne")] == [None] * 5


@NAMES
@pytest.mark.parametrize("option", [{"width": 0}, {"blocks": -1}])
def test_sizes_that_make_no_network_are_refused(name: str, option: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="at least"):
        build_network({"name": name, **option})


def test_mobile_never_works_at_full_size() -> None:
    """Its convolutions see a sixteenth of the pixels, with the rim of 12, the head a border more."""
    network = build_network({"name": "mobile", "width": 8, "blocks": 2}).eval()
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape[1:])))
    network(torch.rand(1, 3, 64, 96))
    assert seen == [(8, 22, 30)] * 6 + [(48, 24, 32)]


@pytest.mark.parametrize("boxes", [(4, 4), BOXES, (2, 2)])
def test_the_folded_filter_is_boxes_one_after_the_other(boxes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, 32, 36)
    folded = F.conv2d(F.pixel_unshuffle(image, 4), folded_filter(4, boxes))
    filtered = image
    for box in boxes:
        filtered = F.avg_pool2d(filtered, box, stride=1)  # box - 1 pixels smaller
    first = 4 - sum(box - 1 for box in boxes) // 2
    inside = filtered[..., first : first + 24, first : first + 28]
    torch.testing.assert_close(F.pixel_shuffle(folded, 4), inside)


@pytest.mark.parametrize("period", [2.0, 2.3, 2.7, 3.0, 3.4, 3.8, 4.0])
def test_mobile_cannot_paint_fine_stripes(period: float) -> None:
    """Of what unfolds to a wave of so many pixels hardly anything is left: 0.02 of it along one side."""
    wave = torch.cos(2 * torch.pi * torch.arange(96) / period).expand(1, 1, 96, 96)
    for image in (wave, wave.mT):
        left = F.conv2d(F.pixel_unshuffle(image, 4), folded_filter(4))
        assert float(left.abs().max()) < 0.02


@pytest.mark.parametrize("period", [2, 4])
def test_mobile_cannot_paint_a_grid(period: int) -> None:
    """Whatever its head writes the same into every place, in stripes of 2 or 4 pixels, is gone after the filter."""
    network = build_network({"name": "mobile", "width": 4, "blocks": 0}).eval()
    assert isinstance(network, Mobile)
    stripes = torch.zeros(3, 4, 4)
    stripes[:, ::period] += 1
    stripes[:, :, ::period] += 2
    with torch.no_grad():
        network.head.bias.copy_(stripes.flatten())  # type: ignore[union-attr]
        painted = network.paint(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(painted, painted.mean().expand_as(painted))
