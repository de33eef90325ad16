"""Strokes in proportion: what is drawn into a photo, and what is left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from faststyle.stylize import strokes
from faststyle.stylize.strokes import draw_strokes


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> int:
    """Strokes have their size at 64 pixels, so that tests take small photos."""
    monkeypatch.setattr(strokes, "SIDE", 64)
    return 64


@pytest.mark.parametrize("size", [(64, 64), (40, 300), (300, 64), (1, 1)])
def test_a_photo_that_is_not_larger_stays_as_it_is(side: int, size: tuple[int, int]) -> None:
    photo = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))

    def paint(small: Tensor) -> Tensor:
        raise AssertionError("the network is not asked")

    assert draw_strokes(photo, paint) is photo


def test_strokes_grow_with_the_photo(side: int) -> None:
    # A network that paints waves of 8 pixels, whatever the photo.
    def paint(small: Tensor) -> Tensor:
        assert small.shape == (1, 3, 64, 96)
        wave = 0.2 * torch.sin(torch.arange(96) * (2 * torch.pi / 8))
        return (0.7 + wave).expand(1, 3, 64, 96)

    drawn = draw_strokes(torch.full((1, 3, 256, 384), 0.5), paint)
    assert drawn.shape == (1, 3, 256, 384)
    line = drawn[0, 0, 128].numpy() - 0.5
    spectrum = np.abs(np.fft.rfft(line)) / len(line) * 2
    assert np.argmax(spectrum) == 384 / 32  # waves of 32 pixels: four times as large
    # Half the contrast is drawn; the brightness of the painting, 0.7, is not.
    assert spectrum[12] == pytest.approx(0.1, rel=0.1)
    assert spectrum[0] < 0.005


def test_what_the_photo_explains_is_not_drawn(side: int) -> None:
    # Squares of 16 pixels, of random greys.
    greys = torch.rand(1, 1, 12, 16, generator=torch.Generator().manual_seed(0))
    photo = interpolate(greys, scale_factor=16).expand(1, 3, 192, 256)

    def drawn(paint: Callable[[Tensor], Tensor]) -> float:
        change = draw_strokes(photo, paint) - photo
        return float(change.square().mean().sqrt() / photo.std())

    # Light and dark exchanged are explained. Squares in other places are not.
    assert drawn(lambda small: 0.9 - 0.6 * small) < 0.02
    assert drawn(lambda small: 0.9 - 0.6 * small.flip(-1)) > 0.1


def test_detail_of_the_photo_stays(side: int) -> None:
    # Lines of one pixel, which a photo of 64 pixels cannot show.
    photo = torch.full((1, 3, 256, 256), 0.3)
    photo[..., ::2] = 0.7
    drawn = draw_strokes(photo, lambda small: small.flip(-1))
    torch.testing.assert_close(drawn, photo, atol=0.01, rtol=0)


def test_the_rest_is_that_of_the_guided_filter() -> None:
    # He, Sun and Tang (2010), equations 5, 6 and 8, pixel by pixel.
    generator = np.random.default_rng(0)
    guide = generator.random((11, 14))
    picture = generator.random((11, 14))

    def window(values: np.ndarray, y: int, x: int) -> np.ndarray:
        r = strokes.RADIUS
        return values[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]

    a = np.zeros_like(guide)
    b = np.zeros_like(guide)
    for y, x in np.ndindex(guide.shape):
        seen = window(guide, y, x)
        wanted = window(picture, y, x)
        covariance = (seen * wanted).mean() - seen.mean() * wanted.mean()
        a[y, x] = covariance / (seen.var() + strokes.FLAT)
        b[y, x] = wanted.mean() - a[y, x] * seen.mean()
    filtered = np.zeros_like(guide)
    for y, x in np.ndindex(guide.shape):
        filtered[y, x] = window(a, y, x).mean() * guide[y, x] + window(b, y, x).mean()
    got = strokes._unexplained(*(torch.from_numpy(v)[None, None] for v in (picture, guide)))
    np.testing.assert_allclose(got[0, 0].numpy(), picture - filtered, atol=1e-10)
