"""Flat and textured places: how they are told apart, and compared apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from faststyle.perceptual.loss_config import LossConfig, deepest_layers
from faststyle.perceptual.losses import PerceptualLoss, WeightedPainting
from faststyle.perceptual.moments import moments
from faststyle.perceptual.texture import LEAST, OF_PHOTOS, texture, textured
from faststyle.perceptual.weights import VGGWeights, load_vgg


def half_flat(seed: int, flat: float = 0.7, side: int = 64) -> Tensor:
    """A picture whose left half is grey, with noise on the right."""
    image = torch.full((1, 3, side, side), flat)
    noise = torch.rand(1, 3, side, side // 2, generator=torch.Generator().manual_seed(seed))
    image[..., side // 2 :] = noise
    return image


def test_texture_against_numpy() -> None:
    image = torch.rand(1, 3, 40, 44, generator=torch.Generator().manual_seed(0))
    light = (image[0].numpy() * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(0)

    def mean_near(values: np.ndarray, side: int) -> np.ndarray:
        padded = np.pad(values, side // 2, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
        return windows.mean((2, 3))

    detail = light - mean_near(light, 9)
    expected = np.sqrt(mean_near(detail**2, 15)) + LEAST
    np.testing.assert_allclose(texture(image)[0, 0].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_grey_is_flat_and_noise_is_textured() -> None:
    mask = textured(half_flat(0))
    assert float(mask[..., :16].max()) < 0.01
    assert float(mask[..., 48:].min()) > 0.99
    slight = 0.5 + OF_PHOTOS * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    between = float(textured(slight).mean())
    assert 0.05 < between < 0.95


def test_each_image_of_a_batch_has_its_own_mask() -> None:
    feats = torch.rand(2, 5, 16, 16, generator=torch.Generator().manual_seed(2), requires_grad=True)
    mask = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(3))
    together = moments(feats, mask)
    (together.gram.square().sum() + together.mean.sum()).backward()
    grad = feats.grad
    feats.grad = None
    apart = [moments(feats[i : i + 1], mask[i : i + 1]) for i in range(2)]
    sum(m.gram.square().sum() + m.mean.sum() for m in apart).backward()
    torch.testing.assert_close(together.gram, torch.cat([m.gram for m in apart]))
    torch.testing.assert_close(together.mean, torch.cat([m.mean for m in apart]))
    torch.testing.assert_close(grad, feats.grad)


def make(tiny: VGGWeights, painting: Tensor, lean: bool = False) -> PerceptualLoss:
    config = LossConfig(apart=True)
    return PerceptualLoss(
        load_vgg(tiny, deepest_layers(config, "vgg16")), painting, config, lean=lean
    )


def test_like_places_are_compared_with_like(tiny_weights: VGGWeights) -> None:
    """The same picture is right where the photo is flat on the left, and wrong the other way."""
    painting = half_flat(0)
    loss = make(tiny_weights, painting)
    picture = half_flat(5)
    right, wrong = (loss(picture, loss.targets(photo)) for photo in (picture, picture.flip(-1)))
    assert float(right.style_rel) < 0.5 * float(wrong.style_rel)
    whole = PerceptualLoss(loss.vgg, painting, LossConfig())
    both = [whole(picture, whole.targets(photo)) for photo in (picture, picture.flip(-1))]
    torch.testing.assert_close(both[0].style_rel, both[1].style_rel)


def test_a_batch_and_lean_give_the_same(tiny_weights: VGGWeights) -> None:
    loss = make(tiny_weights, half_flat(0))
    photos = torch.cat([half_flat(1), half_flat(2, flat=0.2).flip(-2)])
    pictures = photos.roll(3, -1)
    together = loss(pictures, loss.targets(photos))
    singles = [loss(pictures[i : i + 1], loss.targets(photos[i : i + 1])) for i in range(2)]
    for name in ("style", "mean", "style_rel"):
        expected = torch.stack([getattr(terms, name) for terms in singles]).mean()
        torch.testing.assert_close(getattr(together, name), expected, rtol=1e-4, atol=1e-6)
    lean = make(tiny_weights, half_flat(0), lean=True)
    found = lean(pictures[:1], lean.targets(photos[:1]))
    torch.testing.assert_close(found.total, singles[0].total, rtol=1e-3, atol=1e-5)


def test_photos_without_texture_give_finite_gradients(tiny_weights: VGGWeights) -> None:
    loss = make(tiny_weights, half_flat(0))
    grey = torch.full((1, 3, 64, 64), 0.4)
    picture = half_flat(3).requires_grad_()
    loss(picture, loss.targets(grey)).total.backward()
    assert picture.grad is not None
    assert bool(picture.grad.isfinite().all())


def test_within_the_mask_of_a_style_only_its_own_places_count(tiny_weights: VGGWeights) -> None:
    """The flat half is for one painting: what is textured in the other half is none of its own."""
    flat = torch.zeros(1, 1, 64, 64)
    flat[..., :24] = 1
    config = LossConfig(apart=True)
    vgg = load_vgg(tiny_weights, deepest_layers(config, "vgg16"))
    painting = half_flat(0)
    alone = PerceptualLoss(vgg, [WeightedPainting(painting, mask=flat)], config)
    photo = half_flat(1)
    shares = [float(place.share) for place in alone._places(alone.targets(photo), flat)]
    assert shares[1] < 0.1
    assert sum(shares) == pytest.approx(1.0)
    assert bool(alone(photo, alone.targets(photo)).total.isfinite())
