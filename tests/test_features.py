"""Moments against numpy; `lean` against the plain way: values, gradients and memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from faststyle.errors import ImageError, RecipeError
from faststyle.perceptual import strips
from faststyle.perceptual.features import extract, observe
from faststyle.perceptual.loss_config import LossConfig, deepest_layers
from faststyle.perceptual.losses import PerceptualLoss, WeightedPainting
from faststyle.perceptual.moments import moments
from faststyle.perceptual.vgg import VGG
from faststyle.perceptual.weights import VGGWeights, load_vgg

CONTENT = {"relu1_2": 1.0, "relu4_2": 1.0, "relu3_3@1/2": 1.0}
STYLE = {"relu1_1": 1.0, "relu1_2": 1.0, "relu2_1": 1.0, "relu4_1": 1.0, "relu2_2@1/2": 1.0}


def random_image(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def half_mask(height: int, width: int) -> Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., : width // 2] = 1
    return mask


@pytest.fixture
def vgg(tiny_weights: VGGWeights) -> VGG:
    return load_vgg(
        tiny_weights, ["relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_3", "relu4_1", "relu4_2"]
    )


def test_masked_moments_are_those_of_the_pixels_under_the_mask() -> None:
    feats = torch.randn(1, 3, 4, 6)
    got = moments(feats, half_mask(4, 6))
    under = feats[0, :, :, :3].reshape(3, -1).double().numpy()
    np.testing.assert_allclose(got.mean[0], under.mean(1), rtol=1e-5)
    np.testing.assert_allclose(got.gram[0], under @ under.T / (3 * under.shape[1]), rtol=1e-5)


def test_a_mask_of_ones_changes_nothing() -> None:
    feats = torch.randn(2, 3, 5, 7)
    plain = moments(feats)
    masked = moments(feats, torch.ones(1, 1, 20, 20))
    torch.testing.assert_close(plain.gram, masked.gram)
    torch.testing.assert_close(plain.mean, masked.mean)


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (90, 70)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_lean_gives_the_same_numbers_and_gradients(
    tiny_weights: VGGWeights,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    masked: bool,
    pooling: str,
) -> None:
    monkeypatch.setattr(strips, "STRIP_PIXELS", 16 * size[1])  # several strips
    vgg = load_vgg(tiny_weights, ["relu4_2"], pooling)  # type: ignore[arg-type]
    masks = [half_mask(*size), None] if masked else [None]
    gradients = []
    values = []
    for lean in (False, True):
        image = random_image(*size).requires_grad_()
        seen = observe(vgg, image, CONTENT, STYLE, masks, lean)
        assert set(seen.feats) == set(CONTENT)
        terms = [f.square().mean() for _, f in sorted(seen.feats.items())]
        terms += [
            m.gram.square().sum() + m.mean.sum()
            for part in seen.moments
            for _, m in sorted(part.items())
        ]
        torch.stack(terms).sum().backward()
        assert image.grad is not None
        gradients.append(image.grad)
        values.append(torch.stack(terms))
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        gradients[1], gradients[0], rtol=1e-3, atol=1e-6 * float(gradients[0].abs().max()) + 1e-7
    )


def test_lean_with_block_one_alone(vgg: VGG) -> None:
    image = random_image(33, 40)
    lean, plain = (
        observe(vgg, image, {"relu1_1": 1.0}, {"relu1_2": 1.0}, lean=lean) for lean in (True, False)
    )
    torch.testing.assert_close(lean.feats["relu1_1"], plain.feats["relu1_1"])
    torch.testing.assert_close(
        lean.moments[0]["relu1_2"].gram, plain.moments[0]["relu1_2"].gram, rtol=1e-4, atol=1e-6
    )


def test_lean_keeps_next_to_nothing_of_the_first_blocks(
    vgg: VGG, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that autograd saves between forward and backward, counted by its own hooks."""
    monkeypatch.setattr(strips, "STRIP_PIXELS", 2**11)

    def saved(lean: bool) -> int:
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.data_ptr()] = x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            observe(
                vgg,
                random_image(128, 128).requires_grad_(),
                {"relu2_2": 1.0},
                {"relu1_1": 1.0},
                lean=lean,
            )
        return sum(sizes.values())

    assert saved(lean=True) < 0.4 * saved(lean=False)


def test_lean_refuses_an_image_that_is_too_small(vgg: VGG) -> None:
    with pytest.raises(ImageError, match="at least 8 pixels"):
        observe(vgg, random_image(7, 40), {"relu4_2": 1.0}, {}, lean=True)


def objective(tiny: VGGWeights, styles: Tensor | list[WeightedPainting]) -> PerceptualLoss:
    config = LossConfig(content_layers="gatys", style_layers="gatys")
    return PerceptualLoss(load_vgg(tiny, deepest_layers(config, "vgg16")), styles, config)


def test_a_blend_is_the_mean_of_its_styles_by_weight(tiny_weights: VGGWeights) -> None:
    a, b, photo, output = (random_image(64, 64, seed) for seed in range(4))
    alone = [objective(tiny_weights, style) for style in (a, b)]
    both = objective(tiny_weights, [WeightedPainting(a, 3.0), WeightedPainting(b, 1.0)])
    rels = [float(loss(output, loss.targets(photo)).style_rel) for loss in alone]
    got = float(both(output, both.targets(photo)).style_rel)
    assert got == pytest.approx(0.75 * rels[0] + 0.25 * rels[1], rel=1e-5)


def test_masks_give_each_style_its_region(tiny_weights: VGGWeights) -> None:
    """The left half is painting a, the right half painting b; swapped masks fit far worse."""
    a = random_image(64, 64, 0) * 0.3
    b = random_image(64, 64, 1) * 0.3 + 0.7
    output = torch.cat([a[..., :32], b[..., 32:]], 3)
    left = half_mask(64, 64)
    fit, swapped = (
        objective(tiny_weights, [WeightedPainting(a, 1, m), WeightedPainting(b, 1, 1 - m)])
        for m in (left, 1 - left)
    )
    right_way, wrong_way = (
        float(loss(output, loss.targets(output)).style_rel) for loss in (fit, swapped)
    )
    assert right_way < 0.3 * wrong_way


def test_a_small_region_counts_by_its_share(tiny_weights: VGGWeights) -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :16] = 1
    loss = objective(
        tiny_weights,
        [
            WeightedPainting(random_image(64, 64), 1, mask),
            WeightedPainting(random_image(64, 64, 1), 1, 1 - mask),
        ],
    )
    assert loss.shares == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0)])
def test_weights_that_leave_no_style_are_refused(
    tiny_weights: VGGWeights, weights: tuple[float, float]
) -> None:
    with pytest.raises(RecipeError, match="weights of styles"):
        objective(tiny_weights, [WeightedPainting(random_image(64, 64), w) for w in weights])


def test_strength_zero_and_infinity_leave_one_side() -> None:
    assert LossConfig(strength=0.0).weights()[:3] == (1.0, 0.0, 0.0)
    assert LossConfig(strength=float("inf")).weights()[:3] == (0.0, 2.5, 2.5)


def test_average_pooling_keeps_activations_at_their_size(tiny_weights: VGGWeights) -> None:
    """In a flat image the mean of four values is that value: only the scale of 1.66 is left."""
    vgg = load_vgg(tiny_weights, ["relu1_1"], "average")
    x = torch.full((1, 4, 8, 8), 2.0)
    torch.testing.assert_close(vgg.pool(x, 1), torch.full((1, 4, 4, 4), 3.32))
    torch.testing.assert_close(
        load_vgg(tiny_weights, ["relu1_1"]).pool(x, 1), torch.full((1, 4, 4, 4), 2.0)
    )


def test_watched_layers_are_returned_beside_those_of_content(vgg: VGG) -> None:
    image = random_image(32, 32)
    seen = observe(vgg, image, {"relu2_2": 1.0}, {"relu1_1": 1.0}, watched=["relu2_1"])
    assert set(seen.feats) == {"relu2_2", "relu2_1"}
    assert set(seen.moments[0]) == {"relu1_1"}
    torch.testing.assert_close(seen.feats["relu2_1"], extract(vgg, image, ["relu2_1"])["relu2_1"])
