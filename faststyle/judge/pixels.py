"""Scores of pixels: light and dark, grids, stripes, contrast and colour at edges, fine detail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor

from faststyle.judge.pictures import SMALLEST_GRID, centre_square, checked, shrink
from faststyle.perceptual.light import luminance

NEAR = 2  # bins around a frequency that count as it: the width of the Hann window's main lobe
RING = (8, 20)  # bins around a frequency that its power is compared with
STRIPES_WINDOW = 64  # pixels: side of the squares whose spectra are averaged
STRIPES_PERIOD = 5  # pixels: longest period of a stripe
STRIPES_AWAY = 6  # bins between a period and the longer and shorter ones it is compared with
BORDER = 8  # pixels
LIGHT_SCALE = 8  # light and dark are compared at this part of the size
BLOCK = 8  # pixels: side of the blocks whose colours `edges` compares
EDGE = 2  # blocks from a side that are at the edge
INSIDE = 5  # blocks from each side that are not in the middle
# Denominators are at least the rms of rounding to 8 bits (an even spread over 1/255). No file holds
# smaller differences, and a flat picture has no others.
ROUNDING = 1 / 255 / math.sqrt(12)


def light(image: Tensor, photo: Tensor) -> float:
    """Return the correlation of the luminance of `image` with the photo's, at 1/8 of the size.

    1 means the photo's light and dark, whatever the colours; 0 means none of it, and so does a flat
    picture. A negative has less than 0. Both are (1, 3, H, W) in [0, 1], of one size.
    Raises: ImageError.
    """
    grey = [
        _luminance(checked(x, name)) for x, name in ((image, "the image"), (photo, "the photo"))
    ]
    x, y = (g - g.mean() for g in grey)
    spread = float((x.square().mean() * y.square().mean()).sqrt())
    return float((x * y).mean()) / max(spread, ROUNDING**2)


def grid(image: Tensor) -> float:
    """Return how far a grid of period 2 or 4 stands out of the spectrum of `image`.

    The image is (1, 3, H, W) in [0, 1]. Its spectrum is the power of the grey (mean of the
    channels) in the centre square, Hann-windowed. The frequency of a grid has period 2, 4 or none
    along each axis, but not none along both: eight frequencies. Mirror images count as one, since
    upsampling knows no left and right. Only the diagonal of period 4 has its mirror image at
    another frequency: there the mean of both counts.

    Each frequency is scored by the mean power within 2 bins, over the median power 8 to 20 bins
    around it. On an axis, only bins within 2 of that axis are in the median, since any photo has
    more power there. The worst of the eight is returned: 1.2 to 5 for nearly all photos, tens to
    hundreds with a visible grid, 0 for a flat picture. Raises: ImageError below 96 pixels.
    """
    image = checked(image, "the image", SMALLEST_GRID)
    square = centre_square(image)[0].mean(0).cpu().double()  # (n, n)
    n = square.shape[0]
    window = _hann(n)
    power = torch.fft.fft2((square - square.mean()) * window).abs().square()
    floor = _rounding_power(window)
    places = (0.0, n / 4, n / 2)  # in bins: no period, period 4, period 2
    return max(
        fmean((_peak(power, (y, x), floor), _peak(power, (y, -x), floor)))
        for y in places
        for x in places
        if y or x
    )


def stripes(image: Tensor) -> float:
    """Return how far fine stripes along rows or columns stand out of the spectrum of `image`.

    Networks fill flat places with such stripes. `grid` misses them: their period is no multiple of
    the steps in which networks enlarge, and it changes from place to place.

    The spectrum is the mean power over Hann-windowed squares of 64 pixels of the grey, each half
    over the next. Within 2 bins of either axis, the power at each period from 2 to 5 pixels is
    divided by the geometric mean of the power at a longer and at a shorter period. The largest
    ratio is returned: 1 to 3 for nearly all photos, tens to hundreds where stripes are seen.
    `image` is (1, 3, H, W) in [0, 1]. Raises: ImageError below 96 pixels.
    """
    grey = checked(image, "the image", SMALLEST_GRID)[0].mean(0).cpu().double()
    side = STRIPES_WINDOW
    squares = grey.unfold(0, side, side // 2).unfold(1, side, side // 2).reshape(-1, side, side)
    window = _hann(side)
    centred = squares - squares.mean((1, 2), keepdim=True)
    power = torch.fft.fft2(centred * window).abs().square().mean(0)
    floor = _rounding_power(window)
    near = torch.arange(-NEAR, NEAR + 1)
    worst = 0.0
    for spectrum in (power[near].mean(0), power[:, near].mean(1)):
        for k in range(math.ceil(side / STRIPES_PERIOD), side // 2 + 1):
            # three bins each: at the period, at a longer one and at a shorter one
            here, longer, shorter = (
                float(spectrum[torch.arange(k + off - 1, k + off + 2) % side].mean())
                for off in (0, -STRIPES_AWAY, STRIPES_AWAY)
            )
            worst = max(worst, here / max(math.sqrt(longer * shorter), floor))
    return worst


def border(image: Tensor, photo: Tensor) -> float:
    """Return the contrast at the edge of `image`, relative to its photo: 1 is as in the photo.

    The contrast is the mean absolute difference of neighbours, horizontal and vertical, among the
    outer 8 pixels, divided by that of the rest. It is divided by the same ratio of the photo. Both
    are (1, 3, H, W) in [0, 1]. Raises: ImageError.
    """
    return _border_ratio(checked(image, "the image")) / _border_ratio(checked(photo, "the photo"))


def edges(images: Sequence[Tensor], photos: Sequence[Tensor]) -> float:
    """Return how far colours at the left and right edge are from those that the photos explain.

    A network knows by its padding where the edges are. If it is trained on the pixels there, it may
    learn to paint colours that the photo has no reason for: a bright edge on the left, a dark one
    on the right.

    Colours are means of 8x8 pixels. In the middle of each picture an affine map is fitted that
    turns the photo's colours into the picture's. The errors of that map are averaged over the outer
    16 pixels on the left, and on the right. They are divided by the spread of the picture's
    colours, and averaged over pictures. The length of the longer of both is returned: 0 for photos,
    some tenths by chance for a few pictures. Top and bottom are left out: the sky and the ground,
    which photos have there, are not in the middle.

    Pictures and photos are (1, 3, H, W) in [0, 1], of 96 pixels or more. Raises: ImageError.
    """
    images = [checked(image, "the image", SMALLEST_GRID) for image in images]
    photos = [checked(photo, "the photo", SMALLEST_GRID) for photo in photos]
    means = torch.stack(
        [_unexplained_at_edges(image, photo) for image, photo in zip(images, photos, strict=True)]
    )
    return float(means.mean(0).norm(dim=1).max())


def high_frequency(image: Tensor, painting: Tensor) -> float:
    """Return the finest detail of `image` over the painting's: blur is below 1, noise above.

    Detail is the rms of a picture minus its 3x3 mean. Both are (1, 3, H, W) in [0, 1], the painting
    at the size at which it is judged (`Judge.painting`). Raises: ImageError.
    """
    fine = _fine_rms(checked(painting, "the painting"))
    return _fine_rms(checked(image, "the image")) / max(fine, ROUNDING)


def _luminance(image: Tensor) -> Tensor:
    """Return the luminance of (1, 3, H, W) at 1/8 of the size, (h, w)."""
    return shrink(luminance(image.cpu().float()), LIGHT_SCALE)[0, 0].double()


def _hann(side: int) -> Tensor:
    """Return a Hann window, (side, side)."""
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    return window[:, None] * window


def _rounding_power(window: Tensor) -> float:
    """Return the power of rounding to 8 bits: white noise, as much in each bin."""
    return ROUNDING**2 * float(window.square().sum())


def _peak(power: Tensor, place: tuple[float, float], floor: float) -> float:
    """Return the power at a frequency, in bins down and across, over that around it."""
    n = power.shape[0]
    bins = torch.arange(n, dtype=torch.float64)
    # the spectrum is periodic: distances go the shorter way round
    down, across = (((bins - at + n / 2) % n - n / 2).abs() for at in place)
    down = down[:, None]
    across = across[None]
    away = torch.maximum(down, across)
    around = (away >= RING[0]) & (away <= RING[1])
    if place[0] == 0:
        around &= down <= NEAR
    if place[1] == 0:
        around &= across <= NEAR
    return float(power[away <= NEAR].mean()) / max(float(power[around].quantile(0.5)), floor)


def _border_ratio(image: Tensor) -> float:
    """Return the mean difference of neighbours in the outer pixels, over that of the rest."""
    image = image.cpu().double()
    outer = []
    inner = []
    for steps in (
        (image[..., 1:] - image[..., :-1]).abs(),
        (image[..., 1:, :] - image[..., :-1, :]).abs(),
    ):
        inside = torch.zeros(steps.shape[-2:], dtype=torch.bool)
        inside[BORDER:-BORDER, BORDER:-BORDER] = True
        outer.append(steps[..., ~inside].flatten())
        inner.append(steps[..., inside].flatten())
    at_edge = float(torch.cat(outer).mean())
    rest = float(torch.cat(inner).mean())
    return max(at_edge, ROUNDING) / max(rest, ROUNDING)


def _unexplained_at_edges(image: Tensor, photo: Tensor) -> Tensor:
    """Return the mean colours at left and right that no affine map of the photo explains, (2, 3).

    They are divided by the spread of the picture's colours.
    """
    # (3, h, w)
    got, seen = (F.avg_pool2d(picture.cpu().double(), BLOCK)[0] for picture in (image, photo))
    h, w = got.shape[-2:]
    away = min(INSIDE, h // 4, w // 4)
    middle = torch.zeros(h, w, dtype=torch.bool)
    middle[away:-away, away:-away] = True
    known = torch.cat([seen, torch.ones(1, h, w, dtype=torch.float64)])  # (4, h, w)
    # gelsd, since a photo of few colours leaves the system without full rank
    affine = torch.linalg.lstsq(known[:, middle].T, got[:, middle].T, driver="gelsd").solution
    off = got - torch.einsum("khw,kc->chw", known, affine)
    spread = max(float(got.flatten(1).std(1).norm()), ROUNDING)
    sides = (off[:, :, :EDGE], off[:, :, -EDGE:])
    return torch.stack([side.mean((1, 2)) for side in sides]) / spread


def _fine_rms(image: Tensor) -> float:
    image = image.cpu().double()
    # no padding: the outermost pixels have no whole 3x3 around them
    mean = F.avg_pool2d(image, kernel_size=3, stride=1)
    return float((image[..., 1:-1, 1:-1] - mean).square().mean().sqrt())
