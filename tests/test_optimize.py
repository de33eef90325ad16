"""The slow path on tensors, with a tiny VGG: starts, sizes, and each part of the objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw
from torch import Tensor

from faststyle.errors import ImageError, RecipeError, WeightsError
from faststyle.images import open_picture
from faststyle.perceptual import features
from faststyle.perceptual.features import Layers, moments
from faststyle.perceptual.loss_config import LossConfig, deepest_layers
from faststyle.perceptual.losses import PerceptualLoss, WeightedPainting
from faststyle.perceptual.vgg import VGG
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.sizes import crop_centre, fit_shorter
from faststyle.slow import optimize
from faststyle.slow.descent import Descent
from faststyle.slow.optimize import LAYERS, PAPER, Progress, SlowConfig, image_sizes, optimize_image
from faststyle.training.recipe import Recipe

CONFIG = SlowConfig(size=64, smallest=64, steps=4)  # one size
SEVERAL = SlowConfig(size=64, smallest=32, steps=3)  # 32, 45, 64
DEEPEST = 16  # pixels: relu5_1 lies behind four poolings


def picture(seed: int, height: int = 64, width: int = 80) -> Tensor:
    return open_picture(draw(seed, height, width)).rgb


Run = Callable[..., list[Progress]]


@pytest.fixture
def run(tiny_weights: VGGWeights) -> Run:
    """Optimise, and return the steps that `on_step` was given."""

    def go(
        config: SlowConfig = CONFIG, content: Tensor | None = None, styles: Any = None
    ) -> list[Progress]:
        seen: list[Progress] = []
        photo = picture(0) if content is None else content
        paintings = [WeightedPainting(picture(1, 70, 66))] if styles is None else styles
        result = optimize_image(
            photo, paintings, config, tiny_weights, "cpu", lambda now: seen.append(now)
        )
        assert torch.equal(result, seen[-1].image)
        return seen

    return go


def paper(**changes: Any) -> LossConfig:
    return replace(PAPER, **changes)


def mean_square(vgg: VGG, image: Tensor, layer: str) -> float:
    return float(np.mean(vgg(image, [layer])[layer].double().numpy() ** 2))


# Sizes.


@pytest.mark.parametrize(
    ("size", "smallest", "expected"),
    [
        (1024, 128, [128, 181, 256, 362, 512, 724, 1024]),
        (512, 128, [128, 181, 256, 362, 512]),
        (128, 128, [128]),
        (100, 128, [100]),
        (1, 128, [1]),
        (150, 128, [150]),  # 150 / 128 is less than half a step
        (155, 128, [128, 155]),
        (700, 512, [512, 700]),
        (300, 300, [300]),
        (256, 100, [100, 141, 200, 256]),
    ],
)
def test_the_sizes_on_the_way(size: int, smallest: int, expected: list[int]) -> None:
    assert image_sizes(size, smallest) == expected


def test_no_step_is_tiny_or_huge() -> None:
    """From a quarter of an octave up to three quarters, give or take the rounding to pixels."""
    for smallest in (64, 128, 200):
        for size in range(smallest + 1, 1500, 7):
            sizes = image_sizes(size, smallest)
            assert sizes[-1] == size
            ratios = [b / a for a, b in pairwise(sizes)]
            assert all(2**0.25 * 0.99 <= ratio <= 2**0.75 * 1.01 for ratio in ratios), sizes
            assert sizes[0] < smallest * 2**0.26
            assert sizes[0] == smallest or len(sizes) == 1


def test_every_size_has_its_steps_and_the_image_grows(run: Run) -> None:
    seen = run(SEVERAL)
    assert [now.total_step for now in seen] == list(range(10))
    assert {now.total_steps for now in seen} == {9}
    assert [now.size for now in seen] == [32] * 3 + [45] * 3 + [64] * 4
    # Twice 40, 56.25 and 80 pixels of width: the photo is 64 x 80.
    assert [tuple(now.image.shape) for now in seen[::3]] == [
        (1, 3, s, w) for s, w in ((32, 40), (45, 56), (64, 80))
    ] + [(1, 3, 64, 80)]
    assert [now.last for now in seen] == [False] * 9 + [True]
    seconds = [now.seconds for now in seen]
    assert seconds[0] == 0
    assert all(b > a for a, b in pairwise(seconds))


def test_a_size_goes_on_from_the_one_before(run: Run) -> None:
    """With tiny steps every image is the start at another size."""
    start = picture(5)
    seen = run(replace(SEVERAL, init=start, steps=1, optimizer="adam", learning_rate=1e-4))
    for now in seen:
        expected = fit_shorter(start, now.size)
        assert float((now.image - expected).abs().mean()) < 0.03
        assert float((now.image - fit_shorter(picture(0), now.size)).abs().mean()) > 0.1


def test_adam_takes_its_moments_along(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    original = Descent.warm_start

    def spy(self: Descent, found: Any) -> None:
        given.append(None if found is None else (tuple(found[0].shape), found[2]))
        original(self, found)

    monkeypatch.setattr(Descent, "warm_start", spy)
    run(replace(SEVERAL, optimizer="adam"))
    assert given == [None, ((1, 3, 32, 40), 3), ((1, 3, 45, 56), 6)]
    given.clear()
    run(SEVERAL)
    assert given == [None, None, None]


# The objective.


def test_the_layers_are_those_of_the_paper_and_those_of_training() -> None:
    content, style = LAYERS["paper"].layers("vgg16")
    assert content == {"relu4_2": 1.0}
    # the first convolution of each block
    assert style == {f"relu{block}_1": 1.0 for block in range(1, 6)}
    assert LAYERS["training"] == Recipe(name="default").loss
    assert SlowConfig().loss == LAYERS["paper"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_each_row_has_the_terms_of_its_own_image_and_they_fall(
    run: Run, tiny_weights: VGGWeights, name: str, optimizer: str
) -> None:
    """The test builds the objective again, from the photo and the painting at each size."""
    config = replace(
        SEVERAL, size=96, smallest=64, loss=LAYERS[name], optimizer=optimizer, average=0.0, steps=5
    )
    photo = picture(0, 96, 100)
    painting = picture(1, 120, 96)
    seen = run(config, photo, [WeightedPainting(painting)])
    vgg = load_vgg(tiny_weights, deepest_layers(config.loss, "vgg16"))
    for size in (64, 96):
        loss = PerceptualLoss(vgg, fit_shorter(painting, size), config.loss)
        targets = loss.targets(fit_shorter(photo, size))
        rows = [now for now in seen if now.size == size]
        assert len(rows) >= 5
        for now in rows:
            expected = {k: float(v) for k, v in loss(now.image, targets).named().items()}
            assert dict(now.terms) == pytest.approx(expected, rel=2e-3, abs=1e-5)
        assert rows[-1].terms["total"] < 0.95 * rows[0].terms["total"]


def test_the_terms_of_the_last_row_are_those_of_the_averaged_image(
    run: Run, tiny_weights: VGGWeights
) -> None:
    plain, averaged, default = (
        run(replace(CONFIG, optimizer="adam", average=a)) for a in (0.0, 0.98, None)
    )
    assert not torch.equal(plain[-1].image, averaged[-1].image)
    assert torch.equal(default[-1].image, averaged[-1].image)  # 0.98 is Adam's default
    loss = PerceptualLoss(
        load_vgg(tiny_weights, deepest_layers(PAPER, "vgg16")),
        fit_shorter(picture(1, 70, 66), 64),
        PAPER,
    )
    total = float(loss(averaged[-1].image, loss.targets(picture(0))).total)
    assert averaged[-1].terms["total"] == pytest.approx(total, rel=2e-3)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_the_same_seed_gives_the_same_bits(run: Run, optimizer: str) -> None:
    a, b = (run(replace(SEVERAL, init="noise", optimizer=optimizer, seed=3)) for _ in range(2))
    assert all(
        torch.equal(x.image, y.image) and x.terms == y.terms for x, y in zip(a, b, strict=True)
    )


def test_strength_zero_from_the_photo_stays_the_photo(run: Run) -> None:
    seen = run(replace(CONFIG, loss=paper(strength=0.0, tv_weight=0.0)))
    assert all(torch.equal(now.image, picture(0)) for now in seen)
    assert all(now.terms["total"] == 0 and now.terms["style_rel"] > 0 for now in seen)


def test_infinite_strength_leaves_the_content_out(run: Run) -> None:
    seen = run(replace(CONFIG, loss=paper(strength=float("inf"))))
    assert {now.terms["content"] for now in seen} == {0.0}
    assert seen[-1].terms["content_rel"] > 0
    last = seen[-1].terms
    assert last["total"] == pytest.approx(last["style"] + last["mean"] + last["tv"], rel=1e-5)


@pytest.mark.parametrize("styles", [[], None])
def test_content_alone_comes_back_out_of_noise(run: Run, styles: Any) -> None:
    loss = paper(tv_weight=0.0, strength=1.0 if styles == [] else 0.0)
    seen = run(replace(CONFIG, init="noise", loss=loss, steps=25), styles=styles)
    assert seen[-1].terms["content_rel"] < 0.5 * seen[0].terms["content_rel"]
    assert seen[-1].terms["style"] == 0


def test_total_variation_smooths(run: Run) -> None:
    def roughness(image: Tensor) -> float:
        array = image.double().numpy()
        return float((np.diff(array, axis=2) ** 2).mean() + (np.diff(array, axis=3) ** 2).mean())

    results = [
        roughness(
            run(replace(CONFIG, init="noise", steps=20, loss=paper(tv_weight=weight)))[-1].image
        )
        for weight in (0.0, 50.0)
    ]
    assert results[1] < 0.5 * results[0]


def test_style_scale_is_the_size_of_the_painting_beside_the_image(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []

    class Spy(PerceptualLoss):
        def __init__(self, vgg: VGG, style: Any, *rest: Any) -> None:
            shapes.extend(tuple(part.painting.shape[-2:]) for part in style)
            super().__init__(vgg, style, *rest)

    monkeypatch.setattr(optimize, "PerceptualLoss", Spy)
    run(replace(SEVERAL, steps=1, style_scale=1.5), styles=[WeightedPainting(picture(1, 100, 120))])
    # 1.5 times 32, 45 (67.5: to even) and 64; 1.2 times as wide
    assert shapes == [(48, 58), (68, 82), (96, 115)]


def test_style_weights_decide_which_painting_is_nearer(run: Run, tiny_weights: VGGWeights) -> None:
    red, blue = (torch.tensor(tint).view(1, 3, 1, 1) for tint in ((1.0, 0.3, 0.3), (0.3, 0.3, 1.0)))
    paintings = [picture(1) * red, picture(2) * blue]
    config = replace(CONFIG, steps=12, optimizer="adam", learning_rate=0.05, average=0.0)
    vgg = load_vgg(tiny_weights, ["relu4_1"])

    def distances(*weights: float) -> list[float]:
        styles = [WeightedPainting(p, w) for p, w in zip(paintings, weights, strict=True)]
        image = run(config, styles=styles)[-1].image
        found, *wanted = (moments(vgg(x)["relu4_1"]).gram for x in (image, *paintings))
        return [float((found - g).square().sum() / g.square().sum()) for g in wanted]

    first = distances(0.9, 0.1)
    second = distances(0.1, 0.9)
    assert first[0] < 0.7 * second[0]
    assert second[1] < 0.7 * first[1]


@pytest.mark.parametrize("swapped", [False, True])
def test_masks_put_each_painting_into_its_half(
    run: Run, tiny_weights: VGGWeights, swapped: bool
) -> None:
    """From grey, with a dark painting on one side and a bright one on the other."""
    paintings = [picture(1) * 0.4, 1 - picture(2) * 0.4]
    left = torch.zeros(1, 1, 30, 40)  # of another size than the image
    left[..., :20] = 1
    masks = [1 - left, left] if swapped else [left, 1 - left]
    styles = [
        WeightedPainting(painting, 1.0, mask)
        for painting, mask in zip(paintings, masks, strict=True)
    ]
    config = replace(
        CONFIG, steps=20, optimizer="adam", learning_rate=0.05, loss=paper(content_weight=0.01)
    )
    image = run(config, torch.full((1, 3, 64, 80), 0.5), styles)[-1].image
    halves = [image[..., :40], image[..., 40:]]
    vgg = load_vgg(tiny_weights, ["relu4_1"])
    found, wanted = (
        [moments(vgg(x)["relu4_1"]).gram for x in images] for images in (halves, paintings)
    )
    for half, own in ((0, 1), (1, 0)) if swapped else ((0, 0), (1, 1)):
        # Relative to each painting's own: the statistics of the dark one are a hundred times
        # larger.
        nearer, farther = (
            float((found[half] - wanted[k]).square().sum() / wanted[k].square().sum())
            for k in (own, 1 - own)
        )
        assert nearer < 0.5 * farther


@pytest.mark.parametrize("masked", [False, True])
def test_large_images_take_the_lean_way_to_the_same_result(
    run: Run, monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    mask = torch.zeros(1, 1, 64, 80)
    mask[..., :40] = 1
    styles = (
        [WeightedPainting(picture(1), 1.0, mask), WeightedPainting(picture(2), 1.0, 1 - mask)]
        if masked
        else None
    )
    config = replace(SEVERAL, optimizer="adam", average=0.0)
    plain = run(config, styles=styles)
    lean_sizes: list[tuple[int, ...]] = []
    original = features._observe_lean

    def spy(vgg: VGG, image: Tensor, *rest: Any) -> Any:
        lean_sizes.append(tuple(image.shape[-2:]))
        return original(vgg, image, *rest)

    monkeypatch.setattr(features, "_observe_lean", spy)
    run(config, styles=styles)
    assert not lean_sizes
    # Of 32 x 40, 45 x 56 and 64 x 80 only the last is above.
    monkeypatch.setattr(optimize, "LEAN_FROM", 45 * 56)
    lean = run(config, styles=styles)
    assert (64, 80) in lean_sizes
    assert (45, 56) not in lean_sizes
    for a, b in zip(plain, lean, strict=True):
        torch.testing.assert_close(b.image, a.image, rtol=0, atol=2e-3)
        assert b.terms == pytest.approx(a.terms, rel=2e-3, abs=1e-4)


def test_average_pooling_is_another_objective(run: Run) -> None:
    plain, averaged = (
        run(replace(CONFIG, steps=1, pooling=p))[0].terms for p in ("max", "average")
    )
    assert averaged["style_rel"] != pytest.approx(plain["style_rel"], rel=1e-3)


def test_bf16_is_near_float32(run: Run) -> None:
    first = [
        run(replace(CONFIG, steps=1, precision=p))[0].terms["style_rel"]
        for p in ("float32", "bf16")
    ]
    assert first[0] != first[1]
    assert first[1] == pytest.approx(first[0], rel=0.05)


# Starts.


def start(run: Run, init: str | Tensor, **changes: Any) -> Tensor:
    return run(replace(CONFIG, steps=1, init=init, **changes))[0].image


def test_it_starts_from_the_photo(run: Run) -> None:
    assert torch.equal(start(run, "content"), picture(0))


def test_it_starts_from_noise_of_a_seed(run: Run) -> None:
    one = start(run, "noise", seed=1)
    other = start(run, "noise", seed=2)
    assert torch.equal(one, start(run, "noise", seed=1))
    assert not torch.equal(one, other)
    for image in (one, other):  # uniform in [0, 1]: mean 1/2, variance 1/12
        assert float(image.mean()) == pytest.approx(0.5, abs=0.01)
        assert float(image.var()) == pytest.approx(1 / 12, abs=0.005)


def test_it_starts_from_the_middle_of_the_first_painting(tiny_weights: VGGWeights) -> None:
    painting = picture(4, 100, 140)
    seen: list[Tensor] = []
    config = replace(CONFIG, steps=1, init="style")
    styles = [WeightedPainting(painting), WeightedPainting(picture(1))]
    optimize_image(
        picture(0, 64, 64), styles, config, tiny_weights, "cpu", lambda now: seen.append(now.image)
    )
    torch.testing.assert_close(seen[0], crop_centre(painting, 64))
    optimize_image(
        picture(0, 64, 90), styles, config, tiny_weights, "cpu", lambda now: seen.append(now.image)
    )
    covering = fit_shorter(painting, 90)  # as wide as the photo is
    torch.testing.assert_close(seen[2], covering[..., 13:77, 18:108])  # 90 x 126: its middle


def test_it_starts_from_an_image_of_any_size(run: Run) -> None:
    given = picture(6)
    assert torch.equal(start(run, given), given)
    flat = start(run, torch.full((1, 3, 20, 33), 0.25))
    torch.testing.assert_close(flat, torch.full((1, 3, 64, 80), 0.25))


# Dreams.


def dreaming(layers: Layers, **changes: Any) -> SlowConfig:
    return replace(CONFIG, dream=layers, steps=12, **changes)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_dream_alone_raises_the_activations_of_its_layer(
    run: Run, tiny_weights: VGGWeights, optimizer: str
) -> None:
    seen = run(
        dreaming({"relu3_1": 1.0}, optimizer=optimizer, loss=paper(tv_weight=0.0)), styles=[]
    )
    vgg = load_vgg(tiny_weights, ["relu3_1"])
    before, after = (mean_square(vgg, image, "relu3_1") for image in (picture(0), seen[-1].image))
    assert after > 1.3 * before
    assert seen[0].terms["dream"] == pytest.approx(-np.log(before), rel=1e-3, abs=1e-3)
    assert seen[-1].terms["dream"] == pytest.approx(-np.log(after), rel=1e-3, abs=1e-3)
    assert set(seen[0].terms) == {"total", "tv", "dream"}


def test_a_dream_beside_content_and_style_is_part_of_the_total(
    run: Run, tiny_weights: VGGWeights
) -> None:
    seen = run(dreaming({"relu3_1": 0.5, "relu2_1@1/2": 2.0}))
    vgg = load_vgg(tiny_weights, ["relu3_1"])
    for now in (seen[0], seen[-1]):
        terms = now.terms
        parts = sum(terms[name] for name in ("content", "style", "mean", "tv", "light", "dream"))
        assert terms["total"] == pytest.approx(parts, rel=1e-4)
        b, c, h, w = now.image.shape
        halved = now.image.reshape(b, c, h // 2, 2, w // 2, 2).mean((3, 5))
        squares = (
            mean_square(vgg, now.image, "relu3_1"),
            mean_square(load_vgg(tiny_weights, ["relu2_1"]), halved, "relu2_1"),
        )
        assert terms["dream"] == pytest.approx(
            -0.5 * np.log(squares[0]) - 2 * np.log(squares[1]), rel=1e-3, abs=1e-3
        )
    assert seen[-1].terms["dream"] < seen[0].terms["dream"]


def test_a_dream_with_a_photo_and_no_painting_looks_at_no_content(run: Run) -> None:
    assert "content_rel" not in run(dreaming({"relu2_1": 1.0}), styles=[])[0].terms


# Ends, and errors.


def test_true_from_on_step_ends_the_work_with_that_image(tiny_weights: VGGWeights) -> None:
    seen: list[Progress] = []

    def see(now: Progress) -> bool:
        seen.append(now)
        return now.total_step == 4

    result = optimize_image(
        picture(0), [WeightedPainting(picture(1))], SEVERAL, tiny_weights, "cpu", see
    )
    assert len(seen) == 5
    assert torch.equal(result, seen[-1].image)
    assert result.shape == (1, 3, 45, 56)


def test_an_odd_photo_keeps_its_shape(run: Run) -> None:
    content = picture(0, 73, 49)
    image = run(replace(CONFIG, size=49, smallest=49, steps=1), content)[-1].image
    assert (image.shape, image.dtype) == (content.shape, torch.float32)


def test_inputs_are_left_alone(run: Run) -> None:
    photo = picture(0)
    painting = picture(1)
    copies = photo.clone(), painting.clone()
    run(CONFIG, photo, [WeightedPainting(painting)])
    assert torch.equal(photo, copies[0])
    assert torch.equal(painting, copies[1])
    assert not photo.requires_grad


def test_the_smallest_image_that_the_layers_allow(run: Run) -> None:
    run(replace(CONFIG, size=DEEPEST, smallest=DEEPEST, steps=1))
    for changes in ({"size": DEEPEST - 1}, {"smallest": DEEPEST - 1}, {"style_scale": 0.2}):
        with pytest.raises(
            ImageError, match="too small for relu5_1: its shorter side must be at least 16 pixels"
        ):
            run(replace(CONFIG, **changes))


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"size": 0}, ImageError, "sizes must be 1 or more pixels, got 0"),
        ({"smallest": -3}, ImageError, "got -3"),
        ({"steps": 0}, RecipeError, "`steps` must be 1 or more"),
        ({"style_scale": 0.0}, RecipeError, "`style_scale` must be above 0"),
        ({"style_scale": float("nan")}, RecipeError, "`style_scale` must be above 0"),
        ({"style_scale": float("inf")}, RecipeError, "`style_scale` must be above 0"),
        ({"init": "noize"}, RecipeError, "Did you mean 'noise'"),
        ({"seed": -1}, RecipeError, "`seed` must be 0 or more"),
        ({"seed": 2**64}, RecipeError, "`seed` must be 0 or more"),
        ({"optimizer": "sgd"}, RecipeError, "unknown optimizer 'sgd'"),
        ({"learning_rate": -1.0}, RecipeError, "learning rate must be above 0"),
        ({"average": 1.0}, RecipeError, "below 1"),
        ({"dream": {"relu9_1": 1.0}}, RecipeError, "no layer 'relu9_1'"),
        ({"dream": {"relu3_1@1/3": 1.0}}, RecipeError, "unknown scale '1/3'"),
        ({"dream": {"relu3_1": 1.0}, "vgg": "vgg11"}, WeightsError, "unknown VGG 'vgg11'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_weights_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    def never(*_: Any) -> VGGWeights:
        raise AssertionError("weights were looked for")

    monkeypatch.setattr(optimize, "find_weights", never)
    with pytest.raises(kind, match=message):
        optimize_image(
            picture(0), [WeightedPainting(picture(1))], replace(CONFIG, **changes), device="cpu"
        )


def test_a_start_from_no_painting_is_an_error(run: Run) -> None:
    with pytest.raises(RecipeError, match="`init` style needs a painting"):
        run(replace(CONFIG, init="style"), styles=[])
