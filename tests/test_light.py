"""The light term against values by hand; the whole objective is in test_losses.py."""

from __future__ import annotations

import pytest
import torch

from faststyle.perceptual.light import (
    LUMA,
    light_error,
    light_kept,
    luminance,
    nearest,
    palette,
    recolour,
    squares,
    wanted_colours,
)

CONTRAST = 1.5


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def light_of(image: torch.Tensor) -> torch.Tensor:
    return luminance(squares(image))


def moments(colours: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of colours (n, 3)."""
    return colours.mean(0), torch.cov(colours.T, correction=0)


@pytest.mark.parametrize("contrast", [1.0, 1.5])
def test_a_photo_gets_the_mean_and_a_multiple_of_the_covariance_of_the_painting(
    contrast: float,
) -> None:
    mixed = torch.tensor([[0.2, 0.1, 0], [0, 0.2, 0], [0.1, 0, 0.3]])
    colours = 0.5 + 0.3 * torch.randn(256, 3).clamp(-2, 2) @ mixed
    photo = torch.rand(2, 3, 16, 16)
    found = recolour(photo, colours, contrast)
    for one in found:
        mean, covariance = moments(one.flatten(1).T)
        torch.testing.assert_close(mean, colours.mean(0))
        wanted = contrast * moments(colours)[1]
        torch.testing.assert_close(covariance, wanted, rtol=0.1, atol=0.005)


def test_colours_of_the_painting_itself_keep_their_hue() -> None:
    """The map that moves colours the least moves these away from their mean only."""
    colours = 0.3 + 0.4 * torch.rand(256, 3)
    own = colours.T.reshape(1, 3, 16, 16)
    mean = own.mean((2, 3), keepdim=True)
    expected = mean + CONTRAST**0.5 * (own - mean)
    torch.testing.assert_close(recolour(own, colours, CONTRAST), expected, rtol=1e-3, atol=1e-3)


def test_a_grey_photo_gets_no_noise_of_hue() -> None:
    """Tiny differences of hue are not blown up to those of the painting."""
    grey = torch.rand(1, 1, 16, 16).expand(1, 3, 16, 16)
    noisy = grey + 1e-3 * torch.randn(1, 3, 16, 16)
    colours = torch.rand(256, 3)
    found, expected = (recolour(photo, colours, CONTRAST) for photo in (noisy, grey))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_nearest_colours_are_the_paintings() -> None:
    """With a painting in blue and yellow, colours become one of them, or their mean between."""
    blue = torch.tensor([0.1, 0.1, 0.6])
    yellow = torch.tensor([0.9, 0.9, 0.3])
    painting = torch.empty(1, 3, 16, 32)
    painting[..., :16] = blue.view(1, 3, 1, 1)
    painting[..., 16:] = yellow.view(1, 3, 1, 1)
    seen = torch.stack([blue + 0.05, yellow - 0.1, 0.5 * (blue + yellow)]).T.view(1, 3, 1, 3)
    found = nearest(seen, palette(painting))[0, :, 0].T
    expected = torch.stack([blue, yellow, 0.5 * (blue + yellow)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_hues_of_the_photo_stay_apart() -> None:
    """A red and a green of one luminance differ, in the colours of a painting that has neither."""
    blues = torch.linspace(0, 1, 256).view(-1, 1) * torch.tensor([0.5, 0.6, 1.0])
    photo = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(2)).repeat(1, 3, 1, 1)
    photo[:, 0, :8] += 0.25  # red above
    photo[:, 1, 8:] += 0.25 * LUMA[0] / LUMA[1]  # green below, as light
    found = wanted_colours(photo, blues, CONTRAST)
    hue = found[:, 0] - found[:, 1]
    near = nearest(recolour(photo, blues, CONTRAST), blues)
    near_hue = near[:, 0] - near[:, 1]
    assert hue[:, :8].mean() - hue[:, 8:].mean() > 0.02
    assert (near_hue[:, :8].mean() - near_hue[:, 8:].mean()).abs() < 0.01


def test_light_error_is_least_for_the_photo_in_the_paintings_colours() -> None:
    colours = torch.rand(256, 3)
    photo = squares(torch.rand(2, 3, 64, 64) * torch.linspace(0.2, 1, 64))
    wanted = wanted_colours(photo, colours, CONTRAST)
    assert light_error(wanted, photo, colours, CONTRAST).tolist() == pytest.approx([0, 0], abs=1e-9)
    mean = colours.mean(0).view(1, 3, 1, 1).expand_as(photo)
    flat = light_error(mean, photo, colours, CONTRAST)
    assert ((flat > 0.2) & (flat < 0.6)).all()
    assert (light_error(2 * mean - wanted, photo, colours, CONTRAST) > 3 * flat).all()
    own = torch.stack([colours, 0.5 * colours])  # a painting for each
    each = light_error(mean, photo, own, CONTRAST)
    assert each[0] == pytest.approx(flat[0].item(), rel=1e-5)
    assert each[1] != pytest.approx(flat[1].item(), rel=1e-2)


def test_light_is_kept_whatever_colours_and_contrast() -> None:
    """A darker, flatter picture in other colours keeps the light; a negative loses it."""
    photo = torch.rand(2, 3, 64, 64)
    photo[..., :32] *= 0.3
    dark = torch.stack([0.1 + 0.2 * photo.mean(1)] * 2 + [0.05 + 0.1 * photo.mean(1)], 1)
    assert light_kept(light_of(dark), light_of(photo)).min() > 0.98
    assert light_kept(light_of(photo), light_of(photo)).tolist() == pytest.approx([1, 1])
    assert light_kept(light_of(1 - photo), light_of(photo)).tolist() == pytest.approx([-1, -1])
    flat = light_of(torch.full_like(photo, 0.4))
    assert light_kept(flat, light_of(photo)).tolist() == pytest.approx([0, 0], abs=1e-3)
