"""The terms of the objective against numpy, by the formulas of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import numpy_light_error, numpy_squares

from faststyle.errors import RecipeError
from faststyle.perceptual.features import extract
from faststyle.perceptual.loss_config import (
    CONTENT_LAYERS,
    STYLE_LAYERS,
    LossConfig,
    deepest_layers,
)
from faststyle.perceptual.losses import (
    ADDED,
    CONTENT_FLOOR,
    STYLE_FLOOR,
    PerceptualLoss,
    Terms,
    WeightedPainting,
    total_variation,
)
from faststyle.perceptual.moments import moments
from faststyle.perceptual.weights import VGGWeights, load_vgg


def make(tiny: VGGWeights, painting: torch.Tensor, config: LossConfig) -> PerceptualLoss:
    return PerceptualLoss(load_vgg(tiny, deepest_layers(config, "vgg16")), painting, config)


def pictures(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(1, 3, 70, 66, generator=g), *torch.rand(2, 2, 3, 64, 64, generator=g))


def numpy_covariance(feats: np.ndarray) -> np.ndarray:
    """The covariance of features (C, H, W), divided by C."""
    return np.cov(feats.reshape(len(feats), -1), bias=True) / len(feats)


def numpy_gram(feats: np.ndarray) -> np.ndarray:
    c, h, w = feats.shape
    out = np.zeros((c, c))
    for i in range(c):
        for j in range(c):
            out[i, j] = (feats[i] * feats[j]).sum() / (c * h * w)
    return out


def test_gram_is_the_sum_of_products_over_c_h_w() -> None:
    feats = torch.randn(2, 3, 4, 5, dtype=torch.float32)
    expected = np.stack([numpy_gram(f) for f in feats.double().numpy()])
    np.testing.assert_allclose(moments(feats).gram.numpy(), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        moments(feats.contiguous(memory_format=torch.channels_last)).gram.numpy(),
        expected,
        rtol=1e-5,
        atol=1e-7,
    )


def test_gram_keeps_float32_sums_under_bf16() -> None:
    """A million ones: bfloat16 stops counting at 256, float32 does not."""
    feats = torch.ones(1, 2, 512, 512, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = moments(feats).gram
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), 0.5, rtol=1e-6)


def test_masked_moments_in_bf16_are_near_those_in_float32() -> None:
    feats = torch.randn(2, 16, 40, 48).relu().bfloat16().to(memory_format=torch.channels_last)
    mask = torch.rand(2, 1, 80, 96)
    found = moments(feats, mask)
    exact = moments(feats.float(), mask)
    for value, expected in zip(found, exact, strict=True):
        assert value.dtype == torch.float32
        assert (value - expected).norm() < 0.005 * expected.norm()


def test_each_mode_has_layers_of_its_own() -> None:
    assert LossConfig().layers("vgg16") == (CONTENT_LAYERS["pyramid"], STYLE_LAYERS["pyramid"])
    assert LossConfig(mode="absolute").layers("vgg16") == (
        CONTENT_LAYERS["johnson"],
        STYLE_LAYERS["johnson"],
    )
    mixed = LossConfig(content_layers="gatys", style_layers={"relu2_1": 3.0}).layers("vgg16")
    assert mixed == ({"relu4_2": 1.0}, {"relu2_1": 3.0})


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[0.0, 1.0], [0.5, 0.0]]).expand(1, 3, 2, 2)
    # rows: 1^2 + 0.5^2; columns: 0.5^2 + 1^2; three equal channels over 3 * 2 * 2
    assert total_variation(image).item() == pytest.approx(3 * 2.5 / 12)
    assert total_variation(torch.full((1, 3, 5, 5), 0.3)).item() == 0


def numpy_feats(loss: PerceptualLoss, image: torch.Tensor, layers: dict) -> dict:
    return {k: v.double().numpy() for k, v in extract(loss.vgg, image, layers).items()}


def numpy_style(y: dict, s: dict) -> tuple[float, float, float]:
    """Style, style_rel and mean of features (C, H, W) by layer, against the painting's."""
    relative = []
    means = []
    for k in s:
        a, t = (numpy_covariance(f) for f in (y[k], s[k]))
        floor = STYLE_FLOOR * (numpy_gram(s[k]) ** 2).sum()
        relative.append(((a - t) ** 2).sum() / max((t**2).sum(), floor))
        a, t = (f.mean((1, 2)) for f in (y[k], s[k]))
        means.append(((a - t) ** 2).sum() / (t**2).sum())
    dampened = np.sqrt(1 + 2 * np.array(relative)) - 1
    return float(np.mean(dampened)), float(np.mean(relative)), float(np.mean(means))


def numpy_light_kept(stylized: torch.Tensor, photo: torch.Tensor) -> float:
    """The correlation of luminance in squares, of images (3, H, W)."""
    luma = np.array([0.299, 0.587, 0.114])
    x, y = (
        np.tensordot(luma, numpy_squares(image.double().numpy()), 1).ravel()
        for image in (stylized, photo)
    )
    return float(np.corrcoef(x, y)[0, 1])


def test_relative_terms_against_numpy(tiny_weights: VGGWeights) -> None:
    painting, photo, stylized = pictures()
    config = LossConfig(
        content_layers="gatys",
        style_layers="gatys",
        style_weight=3.0,
        mean_weight=5.0,
        content_weight=2.0,
        tv_weight=0.5,
        strength=0.7,
        light_weight=1.5,
    )
    loss = make(tiny_weights, painting, config)
    terms = loss(stylized, loss.targets(photo))
    s, y = (numpy_feats(loss, image, STYLE_LAYERS["gatys"]) for image in (painting, stylized))
    x, yc, sc = (
        numpy_feats(loss, image, CONTENT_LAYERS["gatys"])["relu4_2"]
        for image in (photo, stylized, painting)
    )
    painting_feats = {k: f[0] for k, f in s.items()}
    styles = [numpy_style({k: f[b] for k, f in y.items()}, painting_feats) for b in range(2)]
    style, style_rel, mean = np.mean(styles, 0)
    off = yc - x
    errors = (off**2 * np.where(off > 0, ADDED, 1)).sum((1, 2, 3))
    variances = x.var((1, 2, 3)) * x[0].size
    content = errors / np.maximum(variances, CONTENT_FLOOR * sc[0].var() * x[0].size)
    d = stylized.double().numpy()
    across, down = ((np.diff(d, axis=axis) ** 2).sum((1, 2, 3)) for axis in (3, 2))
    tv = (across + down) / (3 * 64 * 64)
    pairs = zip(d, photo.double().numpy(), strict=True)
    light = [numpy_light_error(y, x, painting[0].double().numpy()) for y, x in pairs]
    parts = (
        2 * np.mean(content),
        0.7 * 3 * style,
        0.7 * 5 * mean,
        0.5 * np.mean(tv),
        1.5 * np.mean(light),
    )
    kept = [numpy_light_kept(*pair) for pair in zip(stylized, photo, strict=True)]
    assert terms.light_kept.item() == pytest.approx(np.mean(kept), rel=1e-4)
    np.testing.assert_allclose([float(t) for t in terms[1:6]], parts, rtol=2e-4)
    assert terms.total.item() == pytest.approx(sum(parts), rel=2e-4)
    assert terms.content_rel.item() == pytest.approx(sum(errors) / sum(variances), rel=2e-4)
    assert terms.style_rel.item() == pytest.approx(style_rel, rel=2e-4)


def test_gram_matrices_instead_of_covariances(tiny_weights: VGGWeights) -> None:
    """As in Gatys et al. (2015): means stay in, and no error is dampened."""
    painting, photo, stylized = pictures(8)
    config = LossConfig(style_layers="gatys", gram=True, style_weight=3.0, strength=1.0)
    loss = make(tiny_weights, painting, config)
    terms = loss(stylized, loss.targets(photo))
    y, s = (extract(loss.vgg, x, STYLE_LAYERS["gatys"]) for x in (stylized, painting))
    errors = []
    for k in y:
        t = numpy_gram(s[k][0].double().numpy())
        for b in range(2):
            errors.append(((numpy_gram(y[k][b].double().numpy()) - t) ** 2).sum() / (t**2).sum())
    assert terms.style_rel.item() == pytest.approx(np.mean(errors), rel=2e-4)
    assert terms.style.item() == pytest.approx(3 * np.mean(errors), rel=2e-4)


def test_absolute_terms_against_numpy(tiny_weights: VGGWeights) -> None:
    """Johnson et al. (2016), equations 2 and 4, summed over their layers with their weights."""
    painting, photo, stylized = pictures(1)
    config = LossConfig(mode="absolute")
    loss = make(tiny_weights, painting, config)
    terms = loss(stylized, loss.targets(photo))
    y = extract(loss.vgg, stylized, STYLE_LAYERS["johnson"])
    s = extract(loss.vgg, painting, STYLE_LAYERS["johnson"])
    style = [
        sum(
            (
                (numpy_gram(y[k][b].double().numpy()) - numpy_gram(s[k][0].double().numpy())) ** 2
            ).sum()
            for k in y
        )
        for b in range(2)
    ]
    target, got = (
        extract(loss.vgg, p, {"relu3_3": 1.0})["relu3_3"].double().numpy()
        for p in (photo, stylized)
    )
    assert terms.style.item() == pytest.approx(5.0 * np.mean(style), rel=2e-4)
    assert terms.content.item() == pytest.approx(((got - target) ** 2).mean(), rel=2e-4)
    assert terms.mean.item() == 0


def test_the_painting_itself_has_no_style_error_and_the_photo_no_content_error(
    tiny_weights: VGGWeights,
) -> None:
    painting, photo, _ = pictures(2)
    loss = make(tiny_weights, painting, LossConfig(light_weight=0.0, tv_weight=0.0))
    assert loss(painting, loss.targets(painting)).total.item() == pytest.approx(0, abs=1e-6)
    terms = loss(photo, loss.targets(photo))
    assert terms.content.item() == 0
    assert terms.style.item() > 0.01


def test_a_batch_is_the_mean_of_its_images(tiny_weights: VGGWeights) -> None:
    painting, photo, stylized = pictures(3)
    loss = make(tiny_weights, painting, LossConfig(tv_weight=1.0))
    whole = loss(stylized, loss.targets(photo))
    parts = [loss(stylized[i : i + 1], loss.targets(photo[i : i + 1])) for i in range(2)]
    for name in whole._fields:
        halves = sum(getattr(p, name) for p in parts) / 2
        value = getattr(whole, name).mean()  # two of the terms are (B,)
        torch.testing.assert_close(value, halves.mean(), rtol=1e-5, atol=1e-6)
    together = Terms.means(parts)
    torch.testing.assert_close(whole.content_rel, together.content_rel)
    torch.testing.assert_close(whole.named(), together.named(), rtol=1e-5, atol=1e-6)


def test_content_rel_does_not_depend_on_the_painting_and_flat_photos_hardly_count(
    tiny_weights: VGGWeights,
) -> None:
    painting, photo, stylized = pictures(3)
    photo[1] = 0.5 + 0.001 * photo[1]
    layers = {"relu4_2": 1.0, "relu4_2@1/2": 1.0, "relu4_2@1/4": 1.0}
    config = LossConfig(content_layers=layers, gram=True)  # all differences count alike
    loud = make(tiny_weights, torch.rand_like(painting).round(), config)
    found = [
        float(loss(stylized, loss.targets(photo)).content_rel)
        for loss in (loud, make(tiny_weights, painting, config))
    ]
    assert found[0] == pytest.approx(found[1])
    alone = [loud(stylized[i : i + 1], loud.targets(photo[i : i + 1])) for i in range(2)]
    assert float(alone[1].content_rel) > 100
    assert found[0] < 0.01 * float(alone[1].content_rel)


def test_a_coarse_layer_is_computed_from_the_averaged_image(tiny_weights: VGGWeights) -> None:
    vgg = load_vgg(tiny_weights, ["relu2_1"])
    image = torch.rand(1, 3, 32, 32)
    blocks = image.reshape(1, 3, 8, 4, 8, 4).mean((3, 5))
    feats = extract(vgg, image, {"relu2_1@1/4": 1.0, "relu2_1": 1.0})
    torch.testing.assert_close(feats["relu2_1@1/4"], vgg(blocks)["relu2_1"])
    torch.testing.assert_close(feats["relu2_1"], vgg(image)["relu2_1"])


def test_a_photo_without_any_contrast_gives_finite_terms(tiny_weights: VGGWeights) -> None:
    painting, _, _ = pictures(4)
    loss = make(tiny_weights, painting, LossConfig())
    flat = torch.full((1, 3, 64, 64), 0.5)
    noisy = (flat + 0.1 * torch.randn_like(flat)).requires_grad_()
    terms = loss(noisy, loss.targets(flat))
    terms.total.backward()
    assert all(bool(torch.isfinite(t).all()) for t in terms)
    assert noisy.grad is not None
    assert bool(torch.isfinite(noisy.grad).all())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LossConfig(style_layers="gaty"), "Did you mean 'gatys'"),
        (LossConfig(style_layers={"relu9_1": 1.0}), "no layer 'relu9_1'"),
        (LossConfig(content_layers={"relu4_2@1/3": 1.0}), "unknown scale '1/3'"),
        (LossConfig(content_layers={}), "at least one layer"),
        (LossConfig(mode="relativ"), "Did you mean 'relative'"),
    ],
)
def test_errors_of_the_config_suggest_a_fix(config: LossConfig, message: str) -> None:
    def check() -> None:
        config.weights()
        deepest_layers(config, "vgg16")

    with pytest.raises(RecipeError, match=message):
        check()


def test_each_image_of_a_batch_may_be_for_a_painting_of_its_own(tiny_weights: VGGWeights) -> None:
    """The terms are the mean of two objectives of one painting each, each with its balance."""
    painting, photo, stylized = pictures(6)
    paintings = [painting, painting.flip(1).sqrt()]
    config = LossConfig(tv_weight=1.0)
    vgg = load_vgg(tiny_weights, deepest_layers(config, "vgg16"))
    both = PerceptualLoss(vgg, [WeightedPainting(p) for p in paintings], config)
    both.balance.copy_(torch.tensor([0.5, 3.0]))
    together = both(stylized, both.targets(photo), which=torch.tensor([1, 0]))
    parts = []
    for i, number in enumerate([1, 0]):
        alone = PerceptualLoss(vgg, paintings[number], config)
        alone.balance.copy_(both.balance[number])
        x = photo[i : i + 1]
        parts.append(alone(stylized[i : i + 1], alone.targets(x)))
    torch.testing.assert_close(together.scalars(), sum(p.scalars() for p in parts) / 2)


@pytest.mark.parametrize(("gram", "share"), [(False, ADDED), (True, 1.0)])
def test_features_above_the_photos_count_less_than_features_below(
    tiny_weights: VGGWeights, gram: bool, share: float
) -> None:
    painting, photo, _ = pictures()
    config = LossConfig(content_layers="gatys", style_layers="gatys", gram=gram)
    loss = make(tiny_weights, painting, config)
    feats = loss.targets(photo)["relu4_2"]

    def error(off: float) -> float:
        targets = {"relu4_2": feats}
        return float(loss._content({"relu4_2": feats + off}, targets, None)[1].mean())

    assert error(0.5) == pytest.approx(share * error(-0.5), rel=1e-4)
