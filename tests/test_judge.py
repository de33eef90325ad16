"""The judge against scipy, numpy and pictures whose faults are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
import torchvision.transforms.functional as TF
from conftest import draw
from PIL import Image

from faststyle.errors import ImageError, WeightsError
from faststyle.images import read_image, to_pil
from faststyle.judge import (
    LAYERS,
    Gaussian,
    Judge,
    border,
    edges,
    frechet_distance,
    grid,
    high_frequency,
    light,
    protocol_photo,
    stripes,
)
from faststyle.judge import judge as judge_module
from faststyle.judge.features import (
    content_error,
    content_features,
    judged_features,
    painting_layers,
    style_distance,
)
from faststyle.perceptual.vgg import VGG
from faststyle.perceptual.weights import VGGWeights, load_vgg

SIZE = 96  # pixels: the least that the judge takes; the painting then has 144
FULL = 256  # pixels: the protocol's
STRONG = 0.1  # amplitude of added patterns


@pytest.fixture(scope="module")
def judge(tiny_weights: VGGWeights) -> Judge:
    return Judge(load_vgg(tiny_weights, LAYERS), texture(), SIZE)


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    return [protocol_photo(draw(20 + i, 110, 150), SIZE) for i in range(3)]


def texture(seed: int = 0, height: int = 144, width: int = 192) -> torch.Tensor:
    """A painting: sharp-edged blotches of four colours, alike everywhere, in steps of 1/255."""
    rng = np.random.default_rng(seed)
    noise = np.fft.fft2(rng.normal(size=(height, width)))
    cycles = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])  # per pixel
    waves = np.fft.ifft2(noise * ((cycles > 0.05) & (cycles < 0.12))).real
    colors = np.array(
        [[20, 30, 90], [60, 110, 170], [230, 200, 80], [250, 245, 220]], dtype=np.uint8
    )
    return read_image(colors[np.digitize(waves, np.quantile(waves, [0.25, 0.5, 0.75]))])


def smooth(height: int = FULL, width: int = FULL) -> torch.Tensor:
    """Grey with the spectrum of photos: amplitude falls as 1 / frequency."""
    rng = np.random.default_rng(5)
    cycles = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width)[None] * width)
    wave = np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) / np.maximum(cycles, 1)).real
    wave = 0.5 + 0.1 * wave / wave.std()
    return (
        torch.tensor(wave, dtype=torch.float32).clamp(0.02, 0.98).expand(1, 3, -1, -1).contiguous()
    )


def distance(judge: Judge, image: torch.Tensor) -> float:
    """The style distance of a picture of any size."""
    gaussians, _ = judged_features(judge.vgg, image)
    return style_distance(gaussians, painting_layers(judge.vgg, judge.painting))


def relu4_2_error(judge: Judge, output: torch.Tensor, photo: torch.Tensor) -> tuple[float, float]:
    got, target = (content_features(judge.vgg, x)["relu4_2", 1] for x in (output, photo))
    return content_error(got, target)


def blur(image: torch.Tensor) -> torch.Tensor:
    return TF.gaussian_blur(image, [9, 9], [2.0, 2.0])


def numpy_distance(vgg: torch.nn.Module, image: torch.Tensor, painting: torch.Tensor) -> float:
    """The formula of `style_distance`, by another way.

    With C = R^T R, tr (C_a C_b)^(1/2) is the sum of the singular values of R_a R_b^T.
    """
    distances = []
    for scale in (1, 2, 4):
        feats = [
            vgg(TF.resize(x, [round(s / scale) for s in x.shape[-2:]], antialias=True))
            for x in (image, painting)
        ]
        for layer in ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"):
            a, b = (f[layer][0].flatten(1).double().numpy().T for f in feats)  # (H W, C)
            ma, mb = (x.mean(0) for x in (a, b))
            ca, cb = (x - x.mean(0) for x in (a, b))
            ra, rb = (np.linalg.qr(c, mode="r") / np.sqrt(len(c)) for c in (ca, cb))
            cross = np.linalg.svd(ra @ rb.T, compute_uv=False).sum()
            squared = (
                ((ma - mb) ** 2).sum() + (ca**2).sum() / len(a) + (cb**2).sum() / len(b) - 2 * cross
            )
            distances.append(squared / ((cb**2).sum() / len(b) + (mb**2).sum()))
    return float(np.mean(distances))


def test_frechet_distance_by_hand() -> None:
    """In one dimension it is (m_a - m_b)^2 + (s_a - s_b)^2: means 1 and 4, deviations 2 and 3."""
    a, b = (
        Gaussian(torch.tensor([m]).double(), torch.tensor([[c]]).double())
        for m, c in ((1, 4), (4, 9))
    )
    assert frechet_distance(a, b) == pytest.approx(10)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_against_scipy() -> None:
    rng = np.random.default_rng(0)
    samples = [
        rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6) for _ in range(2)
    ]
    ma, mb = (x.mean(0) for x in samples)
    ca, cb = (np.cov(x.T, bias=True) for x in samples)
    expected = ((ma - mb) ** 2).sum() + np.trace(ca + cb - 2 * scipy.linalg.sqrtm(ca @ cb).real)
    a, b = (Gaussian(torch.from_numpy(m), torch.from_numpy(c)) for m, c in ((ma, ca), (mb, cb)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_needs_no_full_rank() -> None:
    """Along different axes the mixed term is 0: the distance is the sum of both traces."""
    a, b = (
        Gaussian(torch.zeros(3).double(), torch.diag(torch.tensor(d).double()))
        for d in ((4, 0, 0), (0, 9, 0))
    )
    assert frechet_distance(a, b) == pytest.approx(13)


def test_style_distance_against_numpy(judge: Judge, photos: list[torch.Tensor]) -> None:
    for image in (photos[0], texture(3, 100, 130)):
        expected = numpy_distance(judge.vgg, image, judge.painting)
        assert distance(judge, image) == pytest.approx(expected, rel=1e-4)
        assert expected > 0.01


def test_the_painting_is_at_no_distance_from_itself(judge: Judge) -> None:
    assert distance(judge, judge.painting) == pytest.approx(0, abs=1e-6)


def test_halves_of_the_painting_are_near_and_photos_far(
    judge: Judge, photos: list[torch.Tensor]
) -> None:
    half = judge.painting.shape[-1] // 2
    halves = [
        distance(judge, part) for part in (judge.painting[..., :half], judge.painting[..., half:])
    ]
    assert min(halves) > 1e-4
    assert max(halves) < 0.5 * min(distance(judge, photo) for photo in photos)


def test_a_photo_against_itself_closes_no_distance_and_loses_nothing(
    judge: Judge, photos: list[torch.Tensor]
) -> None:
    scores = judge.score(photos, photos)
    assert scores.style_closed == pytest.approx(0, abs=1e-6)
    assert scores.content_distance == 0
    assert scores.clear_distance == 0
    assert scores.light == pytest.approx(1)
    assert scores.border == pytest.approx(1)
    assert scores.photos == 3


def test_pieces_of_the_painting_close_nearly_all_of_the_distance(
    judge: Judge, photos: list[torch.Tensor]
) -> None:
    pieces = [
        judge.painting[..., y : y + SIZE, x : x + SIZE] for y, x in ((0, 0), (24, 48), (48, 96))
    ]
    scores = judge.score(pieces, photos)
    assert 0.9 < scores.style_closed < 1
    assert scores.content_distance > 0.5
    assert scores.high_frequency == pytest.approx(1, abs=0.15)


def test_a_blurred_painting_is_farther_from_it_than_a_sharp_one(judge: Judge) -> None:
    image = judge.painting
    assert distance(judge, blur(image)) > distance(judge, image) + 0.02
    assert high_frequency(blur(image), image) < 0.5


def test_scores_are_made_of_their_parts(judge: Judge, photos: list[torch.Tensor]) -> None:
    """Ratios of sums over photos, a median, and means, whatever the order of the photos."""
    g = torch.Generator().manual_seed(1)
    outputs = [0.5 * photo + 0.5 * torch.rand(photo.shape, generator=g) for photo in photos]
    scores = judge.score(outputs, photos)
    distances = [distance(judge, output) for output in outputs]
    assert scores.style_distance == pytest.approx(np.mean(distances))
    assert scores.style_closed == pytest.approx(
        1 - np.mean(distances) / np.mean([distance(judge, photo) for photo in photos])
    )
    parts = [
        relu4_2_error(judge, output, photo) for output, photo in zip(outputs, photos, strict=True)
    ]
    assert scores.content_distance == pytest.approx(
        sum(p[0] for p in parts) / sum(p[1] for p in parts)
    )
    assert scores.grid == pytest.approx(np.median([grid(output) for output in outputs]))
    assert scores.border == pytest.approx(np.mean([*map(border, outputs, photos)]))
    assert scores.high_frequency == pytest.approx(
        np.mean([high_frequency(o, judge.painting) for o in outputs])
    )
    turned = judge.score(outputs[::-1], photos[::-1])
    assert vars(turned) == pytest.approx(vars(scores), rel=1e-9)


def test_distances_of_photos_are_kept_by_content(
    judge: Judge, photos: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Judge(judge.vgg, judge.painting, SIZE)
    first = fresh.score(photos, photos)
    seen: list[tuple[int, ...]] = []

    def watched(vgg: VGG, image: torch.Tensor):
        seen.append(image.shape)
        return judged_features(vgg, image)

    monkeypatch.setattr(judge_module, "judged_features", watched)
    assert fresh.score(photos, [photo.clone() for photo in photos]) == first
    assert len(seen) == len(photos)  # the outputs alone
    changed = [photos[0] * 0.5, *photos[1:]]
    assert fresh.score(changed, changed).style_closed == pytest.approx(0, abs=1e-6)


def test_content_errors_against_numpy(judge: Judge, photos: list[torch.Tensor]) -> None:
    photo, output = photos[:2]
    x, y = (judge.vgg(image)["relu4_2"].double().numpy() for image in (photo, output))
    expected = (((y - x) ** 2).sum(), ((x - x.mean()) ** 2).sum())
    assert relu4_2_error(judge, output, photo) == pytest.approx(expected, rel=1e-6)


def test_clear_distance_against_numpy(judge: Judge, photos: list[torch.Tensor]) -> None:
    """Five layers and scales; of each, errors over variances, both summed over the photos."""
    outputs = [photo.flip(-1) for photo in photos]
    ratios = []
    for layer, scale in (
        *(("relu4_2", 1), ("relu4_2", 2), ("relu4_2", 4)),
        *(("relu2_2", 2), ("relu2_2", 4)),
    ):
        error = 0.0
        variance = 0.0
        for output, photo in zip(outputs, photos, strict=True):
            small = [
                TF.resize(image, [SIZE // scale] * 2, antialias=True) for image in (output, photo)
            ]
            y, x = (judge.vgg(image)[layer].double().numpy() for image in small)
            error += ((y - x) ** 2).sum()
            variance += ((x - x.mean()) ** 2).sum()
        ratios.append(error / variance)
    assert judge.score(outputs, photos).clear_distance == pytest.approx(np.mean(ratios), rel=1e-5)


def test_light_against_numpy(photos: list[torch.Tensor]) -> None:
    photo, other = photos[:2]
    seen = []
    for image in (photo, other):
        grey = np.einsum("chw,c->hw", image[0].double().numpy(), [0.299, 0.587, 0.114])
        small = TF.resize(torch.from_numpy(grey)[None], [SIZE // 8] * 2, antialias=True)
        seen.append(small.numpy().ravel())
    assert light(other, photo) == pytest.approx(np.corrcoef(*seen)[0, 1], abs=1e-4)
    assert light(1 - photo, photo) == pytest.approx(-1)
    assert light(0.1 + 0.3 * photo, photo) == pytest.approx(1)
    assert light(torch.full_like(photo, 0.3), photo) == pytest.approx(0, abs=1e-6)


def test_scores_do_not_depend_on_gradients_or_autocast(
    judge: Judge, photos: list[torch.Tensor]
) -> None:
    plain = judge.score(photos[:1], photos[1:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert judge.score([photos[0].clone().requires_grad_()], photos[1:2]) == plain


def pattern(period_down: int, period_across: int, mirrored: bool = False) -> torch.Tensor:
    """A wave of these periods in pixels (0: none), (FULL, FULL), of amplitude 1."""
    at = torch.arange(FULL).double()
    down = at / period_down if period_down else at * 0
    across = at / period_across if period_across else at * 0
    return torch.cos(2 * torch.pi * (down[:, None] + (-1 if mirrored else 1) * across)).float()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    "periods", [(0, 2), (2, 0), (2, 2), (0, 4), (4, 0), (4, 4), (2, 4), (4, 2)]
)
def test_grid_sees_each_of_its_frequencies(periods: tuple[int, int], mirrored: bool) -> None:
    image = smooth()
    before = grid(image)
    assert 0.5 < before < 6
    assert grid((image + 0.03 * pattern(*periods, mirrored)).clamp(0, 1)) > 20 * before


@pytest.mark.parametrize("side", [1, 2])
def test_grid_sees_a_checkerboard(side: int) -> None:
    """Squares of one pixel have period 2, of two pixels period 4."""
    at = torch.arange(FULL) // side
    board = ((at[:, None] + at) % 2).float() - 0.5
    image = smooth()
    assert grid((image + STRONG * board).clamp(0, 1)) > 100 * grid(image)


@pytest.mark.parametrize("period", [3, 6, 8])
def test_grid_leaves_other_periods_alone(period: int) -> None:
    wave = torch.cos(2 * torch.pi * torch.arange(FULL) / period).float()
    image = smooth()
    assert grid((image + STRONG * wave).clamp(0, 1)) < 2 * grid(image)


@pytest.mark.parametrize("period", [2.3, 3.05, 4.4])
@pytest.mark.parametrize("turned", [False, True])
def test_stripes_of_any_short_period_stand_out(period: float, turned: bool) -> None:
    """As networks paint them: stronger towards one side, and shifted from row to row."""
    columns = torch.arange(FULL, dtype=torch.float32)
    wave = torch.cos(2 * torch.pi * columns / period + torch.linspace(0, 9, FULL)[:, None])
    wave = wave * torch.linspace(0, 1, FULL)[:, None]
    image = smooth()
    striped = (image + STRONG * (wave.T if turned else wave)).clamp(0, 1)
    assert stripes(image) < 2
    assert stripes(striped) > 20
    assert stripes(striped.flip(-1)) == pytest.approx(stripes(striped), rel=0.2)


@pytest.mark.parametrize("period", [6, 8, 12])
def test_longer_stripes_count_as_strokes(period: int) -> None:
    wave = torch.cos(2 * torch.pi * torch.arange(FULL) / period).float()
    image = smooth()
    assert stripes((image + STRONG * wave).clamp(0, 1)) < 6 * stripes(image)


def test_noise_and_flat_pictures_have_no_stripes() -> None:
    noise = torch.randn(1, 3, FULL, FULL, generator=torch.Generator().manual_seed(0))
    assert 0.8 < stripes((0.5 + STRONG * noise).clamp(0, 1)) < 2
    assert stripes(torch.full((1, 3, 96, 96), 0.3)) < 1
    with pytest.raises(ImageError, match="at least 96"):
        stripes(torch.zeros(1, 3, 95, 200))


@pytest.mark.parametrize("turned", [False, True])
def test_irregular_stripes_are_no_grid(turned: bool) -> None:
    """Their power lies along one axis, at all frequencies, and is compared along that axis."""
    rows = torch.randn(FULL, 1, generator=torch.Generator().manual_seed(0)).expand(FULL, FULL)
    image = (smooth() + STRONG * (rows.T if turned else rows)).clamp(0, 1)
    assert 0.8 < grid(image) < 8


def test_white_noise_is_no_grid_but_high_frequency(judge: Judge) -> None:
    noise = torch.randn(1, 3, FULL, FULL, generator=torch.Generator().manual_seed(0))
    image = smooth()
    noisy = (image + STRONG * noise).clamp(0, 1)
    assert 0.8 < grid(noisy) < 5
    assert high_frequency(noisy, judge.painting) > 2 * high_frequency(image, judge.painting)


def test_grid_looks_at_the_centre_square_and_knows_no_flip() -> None:
    image = smooth(110, 151)
    assert grid(image) == pytest.approx(grid(image[..., 20:130]))
    assert grid(image.flip(-1)) == pytest.approx(grid(image[..., 21:131]), rel=1e-6)
    assert grid(image[..., 20:130].flip(-2)) == pytest.approx(grid(image), rel=1e-6)
    assert grid(torch.full((1, 3, 96, 96), 0.3)) < 1


def test_high_frequency_by_hand() -> None:
    """One bright pixel: its own 3x3 mean is v / 9, and so is that of its eight neighbours."""
    image = torch.zeros(1, 3, 64, 64)
    painting = torch.zeros(1, 3, 64, 64)
    image[..., 30, 30] = 0.5
    painting[..., 30, 30] = 1.0
    assert high_frequency(image, painting) == pytest.approx(0.5)
    rounding = 1 / 255 / np.sqrt(12)
    rms = np.sqrt(((1 - 1 / 9) ** 2 + 8 / 81) / 62**2)
    assert high_frequency(painting, torch.zeros(1, 3, 64, 64)) == pytest.approx(
        rms / rounding, rel=1e-5
    )


def test_border_by_hand() -> None:
    """A step down the middle: 48 of its 64 rows are in the rest, 16 in the outer pixels.

    A step near the edge adds 64 to the outer pixels.
    """
    photo = torch.zeros(1, 3, 64, 64)
    image = torch.zeros(1, 3, 64, 64)
    photo[..., 32:] = 0.8
    image[..., 5:] += 0.4
    image[..., 32:] += 0.4
    assert border(image, photo) == pytest.approx((16 + 64) / 16, rel=1e-6)
    # differences of neighbours
    steps = 0.8 * 64
    outer = 2 * (64 * 63 - 48 * 47)
    inner = 2 * 48 * 47
    rounding = 1 / 255 / np.sqrt(12)  # a flat picture counts as this on both sides
    flat = border(torch.full((1, 3, 64, 64), 0.5), photo)
    assert flat == pytest.approx(
        1 / ((steps * 16 / 64 / outer) / (steps * 48 / 64 / inner)), rel=1e-6
    )
    image[:] = 0.0
    image[..., 5:] = 0.8
    assert border(image, photo) == pytest.approx(flat * steps / outer / rounding, rel=1e-6)


def test_a_bright_frame_is_seen_at_the_border(photos: list[torch.Tensor]) -> None:
    photo = blur(photos[0])
    framed = torch.ones_like(photo)
    framed[..., 4:-4, 4:-4] = photo[..., 4:-4, 4:-4]
    assert border(framed, photo) > 2
    assert border(framed.flip(-1), photo.flip(-1)) == pytest.approx(border(framed, photo), rel=1e-6)
    assert border(torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)) == 1


def test_colours_that_the_photo_explains_do_not_count_as_edges() -> None:
    photo = smooth()
    recolored = torch.einsum(
        "ij,bjhw->bihw", torch.tensor([[0.2, 0.3, 0.1], [0.0, 0.1, 0.4], [0.3, 0.0, 0.2]]), photo
    )
    assert edges([photo, recolored + 0.1, torch.full_like(photo, 0.3)], [photo] * 3) < 1e-5


@pytest.mark.parametrize("side", [0, 2])
def test_a_colour_at_one_edge_by_hand(side: int) -> None:
    photo = smooth(FULL, FULL) * 0.5
    color = torch.zeros_like(photo)
    color[..., :16] = torch.tensor([0.3, 0.0, 0.4])[:, None, None]
    image = photo + color.rot90(side, (2, 3))
    blocks = image.unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5))[0].flatten(1).double()
    expected = 0.5 / float(blocks.std(1).norm())
    assert edges([image], [photo]) == pytest.approx(expected, rel=1e-4)
    assert edges([image, photo], [photo, photo]) == pytest.approx(expected / 2, rel=1e-4)


def test_edges_that_differ_from_photo_to_photo_cancel_out() -> None:
    photo = 0.25 + smooth(FULL, FULL) * 0.5
    step = torch.zeros_like(photo)
    step[..., :16] = 0.2
    alone = edges([photo + step], [photo])
    assert edges([photo + step, photo - step], [photo, photo]) < 0.3 * alone
    with pytest.raises(ImageError, match="at least 96"):
        edges([photo[..., :95]], [photo[..., :95]])
    with pytest.raises(ValueError, match="longer"):
        edges([photo], [photo, photo])


def test_protocol_photo_is_the_middle_of_the_resized_photo(tmp_path: Path) -> None:
    picture = draw(3, 300, 200)
    picture.save(tmp_path / "photo.png")
    expected = np.asarray(
        picture.resize((100, 150), Image.Resampling.LANCZOS).crop((0, 25, 100, 125))
    )
    for source in (tmp_path / "photo.png", picture):
        np.testing.assert_array_equal(np.asarray(to_pil(protocol_photo(source, 100))), expected)
    assert protocol_photo(draw(4, 40, 30)).shape == (1, 3, 256, 256)


def test_the_painting_is_resized_to_one_and_a_half_times_the_photos(judge: Judge) -> None:
    assert Judge(judge.vgg, texture(0, 100, 150), 128).painting.shape == (1, 3, 192, 288)
    assert Judge(judge.vgg, texture(0, 800, 400), SIZE).painting.shape == (1, 3, 288, 144)
    assert Judge(judge.vgg, texture(0, 30, 40), SIZE).painting.shape == (1, 3, 144, 192)


def test_load_takes_a_file_of_weights_and_any_picture(
    vgg_file: Path, judge: Judge, painting: Path
) -> None:
    loaded = Judge.load(painting, vgg_file, SIZE)
    assert loaded.painting.shape == (1, 3, 144, 173)
    image = texture(9, SIZE, SIZE)
    same = Judge(judge.vgg, read_image(painting), SIZE)
    assert distance(loaded, image) == pytest.approx(distance(same, image), rel=1e-4)
    with pytest.raises(WeightsError, match="no such file"):
        Judge.load(painting, vgg_file.with_name("none.safetensors"))
    with pytest.raises(ImageError, match="no such file"):
        Judge.load(painting.with_name("none.png"), vgg_file)


def bad(value: float) -> torch.Tensor:
    image = torch.full((1, 3, SIZE, SIZE), 0.5)
    image[0, 1, 3, 4] = value
    return image


GOOD = torch.full((1, 3, SIZE, SIZE), 0.5)


@pytest.mark.parametrize(
    ("outputs", "photos", "message"),
    [
        ([], [], "at least one"),
        ([GOOD], [GOOD, GOOD], "1 outputs of 2 photos"),
        ([GOOD, bad(float("nan"))], [GOOD, GOOD], "output 2 has values that are not finite"),
        ([bad(float("inf"))], [GOOD], "output 1 has values that are not finite"),
        ([GOOD], [bad(float("nan"))], "photo 1 has values that are not finite"),
        ([bad(200.0)], [GOOD], "from 0.5 to 200; allowed: 0 to 1"),
        ([bad(-0.2)], [GOOD], "from -0.2 to 0.5; allowed: 0 to 1"),
        ([GOOD[0]], [GOOD], r"shape \(3, 96, 96\); allowed: one picture"),
        ([GOOD.repeat(2, 1, 1, 1)], [GOOD], r"shape \(2, 3, 96, 96\)"),
        ([GOOD[:, :1]], [GOOD], r"shape \(1, 1, 96, 96\)"),
        ([GOOD.byte()], [GOOD], "torch.uint8"),
        ([GOOD[..., :80]], [GOOD], "output 1 has 96x80 pixels, this judge compares 96x96"),
        ([GOOD], [torch.zeros(1, 3, 128, 128)], "photo 1 has 128x128 pixels.*protocol_photo"),
        ([GOOD[..., :40]], [GOOD], "96x40 pixels.*at least 64"),
    ],
)
def test_errors_of_score_name_the_picture_and_its_fault(
    judge: Judge, outputs: list[torch.Tensor], photos: list[torch.Tensor], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        judge.score(outputs, photos)


def test_errors_outside_score(judge: Judge) -> None:
    with pytest.raises(ImageError, match="63x100 pixels.*at least 64"):
        border(torch.zeros(1, 3, 63, 100), GOOD)
    with pytest.raises(ImageError, match="95x100 pixels.*at least 96"):
        grid(torch.zeros(1, 3, 95, 100))
    with pytest.raises(ImageError, match="95x95 pixels are too small.*96"):
        Judge(judge.vgg, judge.painting, 95)
    with pytest.raises(ImageError, match="the painting has values that are not finite"):
        Judge(judge.vgg, bad(float("nan")), SIZE)
    with pytest.raises(ImageError, match="1 or more"):
        protocol_photo(draw(1, 50, 50), 0)


def test_flat_pictures_get_finite_scores(judge: Judge) -> None:
    black = torch.zeros(1, 3, SIZE, SIZE)
    for one in (judge, Judge(judge.vgg, black, SIZE)):
        assert np.isfinite(list(vars(one.score([black, GOOD], [GOOD, black])).values())).all()


@pytest.mark.weights
def test_the_real_weights_know_the_painting_from_a_photo() -> None:
    from skimage.data import data_dir

    styles = Path(__file__).parents[1] / "data" / "styles"
    judge = Judge.load(styles / "nocturne.png")
    assert judge.painting.shape == (1, 3, 384, 384)
    halves = [distance(judge, judge.painting[..., part]) for part in (slice(192), slice(192, None))]
    photo = protocol_photo(Path(data_dir) / "chelsea.png")
    assert max(halves) < 0.5 * distance(judge, photo)
    assert 1 < grid(photo) < 6
