"""Light and dark against values by hand; PerceptualLoss against numpy is in test_losses.py."""

from __future__ import annotations

import pytest
import torch

from faststyle.perceptual.light import light_error, light_kept, luminance, squares, tones


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(5)


def light_of(image: torch.Tensor) -> torch.Tensor:
    return luminance(squares(image))


def test_light_is_the_photos_in_the_range_of_the_painting() -> None:
    photo = torch.rand(2, 3, 64, 64)
    photo[..., :32] *= 0.3
    light = light_of(photo)
    deviation = light.std((2, 3), correction=0, keepdim=True)
    unit = (light - light.mean((2, 3), keepdim=True)) / deviation
    grey = torch.linspace(0, 1, 33)[:, None].expand(33, 3)  # of a painting that is all in greys

    def error(x: torch.Tensor, of: torch.Tensor = light) -> list[float]:
        x = x.expand(-1, 3, -1, -1)
        found: list[float] = light_error(x, of, torch.tensor([0.3, 0.1]), grey).tolist()
        return found

    assert error(0.3 + 0.1 * unit) == pytest.approx([0, 0], abs=1e-6)
    assert error(0.3 - 0.1 * unit) == pytest.approx([2, 2])  # 2 deviations off
    flat = torch.full_like(light, 0.3)
    assert error(flat) == pytest.approx([0.5, 0.5])
    assert error(flat, flat) == pytest.approx([0, 0], abs=1e-6)


def test_tones_are_a_paintings_colours_by_light_of() -> None:
    """Dark blue and light yellow: blue where it is dark, yellow where it is light."""
    painting = torch.empty(1, 3, 16, 32)
    painting[..., :16] = torch.tensor([0.1, 0.1, 0.6]).view(1, 3, 1, 1)
    painting[..., 16:] = torch.tensor([0.9, 0.9, 0.3]).view(1, 3, 1, 1)
    found = tones(squares(painting))
    torch.testing.assert_close(found[0], torch.tensor([0.1, 0.1, 0.6]))
    torch.testing.assert_close(found[-1], torch.tensor([0.9, 0.9, 0.3]))
    assert (found[:, 2] > found[:, 0]).sum() == (found[:, 2] > found[:, 1]).sum()
    light = found @ torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(light, torch.linspace(0, 1, 33).clamp(0.157, 0.8316))


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
