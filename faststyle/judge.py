"""What every result is scored by, and nothing is ever trained on.

What it is not: the training objective (perceptual/losses.py). An optimiser can buy a low Gram error
with fine noise that leaves the photo's colours as they were; the judge looks at three scales, from
the first layer on, at all second moments together, and ranks such pictures as the eye does.
Statistics are in float64.

Scores of different sizes, or of different VGG weights, cannot be compared. The protocol: photos of
256x256 (`protocol_photo`), the painting at a shorter side of 384.

Sources of the distance: Dowson and Landau, "The Fréchet distance between multivariate normal
distributions", Journal of Multivariate Analysis 12 (1982); Heusel et al. (2017),
https://arxiv.org/abs/1706.08500, who apply it to the features of a network; Shaham, Dekel,
Michaeli, "SinGAN" (2019), https://arxiv.org/abs/1905.01164, to those of a single image.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from faststyle.errors import ImageError
from faststyle.images import ImageSource, fitted_size, read_image, to_pil
from faststyle.perceptual.vgg import VGG
from faststyle.perceptual.weights import find_weights, load_vgg

SIZE = 256  # pixels, the side of the protocol's photos
PAINTING_SCALE = 1.5  # shorter side of the painting over the side of the photos
# those of Gatys et al. (2015)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYER = "relu4_2"  # also theirs
# Layers and scales of clear_distance. relu4_2 at full size alone does not see light, shade and
# large shapes: it calls networks equal that no viewer confuses.
CLEAR = (("relu4_2", 1), ("relu4_2", 2), ("relu4_2", 4), ("relu2_2", 2), ("relu2_2", 4))
LAYERS = (*STYLE_LAYERS, CONTENT_LAYER, "relu2_2")  # what the judge's VGG is to be built with
SCALES = (1, 2, 4)  # the image is looked at in full, at half and at a quarter of its size

SMALLEST = 64  # pixels: at a quarter of it, relu5_1 is one pixel
# pixels: below it, what the grid is compared with touches other frequencies of a grid
SMALLEST_GRID = 96
NEAR = 2  # bins around a frequency that count as it: the width of the Hann window's main lobe
RING = (8, 20)  # bins around a frequency that it is compared with
# pixels: side of the squares whose spectra are averaged, longest period
STRIPES_WINDOW = 64
STRIPES_PERIOD = 5
BORDER = 8  # pixels
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in luminance: ITU-R BT.601
LIGHT_SCALE = 8  # light and dark are compared at this part of the size
# pixels a side of a block; blocks from the edge that are at it, and that are not
BLOCK = 8
EDGE = 2
INSIDE = 5
# What is divided by is at least what rounding to 8 bits makes of nothing (rms of an even spread
# over 1/255): smaller differences are in no file, and a flat picture has no others.
ROUNDING = 1 / 255 / math.sqrt(12)
RANGE_SLACK = 1 / 255  # what resampling may leave outside [0, 1]
TINY = 1e-12  # keeps features that are all zero from being divided by


@dataclass(frozen=True)
class Scores:
    """Means over photos, but for `grid` and `stripes`, which are medians.

    `style_closed`, `content_distance` and `clear_distance` are ratios of such means: no photo
    weighs more for being close to start with. `content_distance` is that of relu4_2 at full size
    alone; `clear_distance` the mean of five, at full, half and a quarter of the size: large shapes,
    light and shade count in it. `light` is the correlation of light and dark with the photo's.
    `edges` is of all photos together; of a few, it is mostly chance.
    """

    style_distance: float
    style_closed: float
    content_distance: float
    clear_distance: float
    light: float
    grid: float
    stripes: float
    border: float
    edges: float
    high_frequency: float
    photos: int


Key = tuple[str, int]  # layer and scale


class Gaussian(NamedTuple):
    """The mean (C,) of the features of a layer over all places, and their covariance (C, C), divided by H W."""

    mean: Tensor
    covariance: Tensor


class _Target(NamedTuple):
    """A layer of the painting: its Gaussian, the square root of the covariance (C, C), and the second moment."""

    gaussian: Gaussian
    root: Tensor
    moment: float


class Judge:
    """Scores outputs against one painting, on the device of `vgg`, which is built with `LAYERS`.

    `painting` is RGB, (1, 3, H, W), in [0, 1], of any size: it is resized to a shorter side of 1.5
    `size` (Lanczos). `size` is the side of the photos and outputs in pixels, at least 96. Raises:
    ImageError.

    Example:
        >>> judge = Judge.load("painting.jpg")
        >>> photos = [protocol_photo(path) for path in paths]
        >>> judge.score([stylizer(photo) for photo in photos], photos).style_closed
    """

    def __init__(self, vgg: VGG, painting: Tensor, size: int = SIZE) -> None:
        if size < SMALLEST_GRID:
            raise ImageError(
                f"pictures of {size}x{size} pixels are too small to be judged; use {SMALLEST_GRID} or more"
            )
        self.vgg = vgg
        self.size = size
        self.painting = _fit_shorter(
            _checked(painting, "the painting", 1), round(PAINTING_SCALE * size)
        )
        self._targets = {
            key: _target(gaussian) for key, gaussian in self._observe(self.painting)[0].items()
        }
        self._photo_distances: dict[bytes, float] = {}  # by the photo's digest

    @classmethod
    def load(
        cls, painting: ImageSource, vgg_weights: Path | None = None, size: int = SIZE
    ) -> Judge:
        """Return the judge of a painting, with VGG-16 weights of a file or of where training finds
        them.

        Raises: ImageError, WeightsError.
        """
        vgg = load_vgg(find_weights("vgg16", vgg_weights), LAYERS).to(
            memory_format=torch.channels_last
        )
        return cls(vgg, read_image(painting), size)

    def score(self, outputs: Sequence[Tensor], photos: Sequence[Tensor]) -> Scores:
        """Return the scores of `outputs`, each of the photo at the same place in `photos`.

        All are RGB, (1, 3, size, size), in [0, 1]. The photos' own distances are kept for the next
        call. Raises: ImageError for other shapes and values, none at all, or differing counts.
        """
        if len(outputs) != len(photos) or not photos:
            raise ImageError(
                f"{len(outputs)} outputs of {len(photos)} photos; give one output of each photo, at least one"
            )
        outputs = [self._sized(output, f"output {i}") for i, output in enumerate(outputs, 1)]
        photos = [self._sized(photo, f"photo {i}") for i, photo in enumerate(photos, 1)]
        distance = 0.0
        photo_distance = 0.0
        errors = dict.fromkeys(CLEAR, 0.0)
        variances = dict.fromkeys(CLEAR, 0.0)
        for output, photo in zip(outputs, photos, strict=True):
            gaussians, content = self._observe(output)
            targets = self._content(photo)
            for key in CLEAR:
                error, variance = _errors(content[key], targets[key])
                errors[key] += error
                variances[key] += variance
            distance += self._distance(gaussians) / len(photos)
            photo_distance += self._photo_distance(photo) / len(photos)
        distances = {key: errors[key] / max(variances[key], TINY) for key in CLEAR}
        return Scores(
            style_distance=distance,
            style_closed=1 - distance / max(photo_distance, TINY),
            content_distance=distances[CONTENT_LAYER, 1],
            clear_distance=fmean(distances.values()),
            light=fmean(map(light, outputs, photos)),
            grid=median(map(grid, outputs)),
            stripes=median(map(stripes, outputs)),
            border=fmean(map(border, outputs, photos)),
            edges=edges(outputs, photos),
            high_frequency=fmean(high_frequency(output, self.painting) for output in outputs),
            photos=len(photos),
        )

    def style_distance(self, image: Tensor) -> float:
        """Return how far the features of `image`, (1, 3, H, W) in [0, 1], are from the painting's;
        0 is equal.

        The squared Fréchet distance between Gaussians, over the painting's second moment (trace of
        the covariance + squared mean), averaged over `STYLE_LAYERS` and `SCALES`. Raises:
        ImageError below 64 pixels.
        """
        return self._distance(self._observe(_checked(image, "the image"))[0])

    def content_errors(self, output: Tensor, photo: Tensor) -> tuple[float, float]:
        """Return sum (phi(output) - phi(photo))^2 and sum (phi(photo) - mean phi(photo))^2, phi
        being `CONTENT_LAYER`.

        The mean is one scalar. Both are (1, 3, H, W) in [0, 1]; `content_distance` is the ratio of
        their sums over photos. Raises: ImageError.
        """
        output = _checked(output, "the output")
        photo = _checked(photo, "the photo")
        if output.shape != photo.shape:
            raise ImageError(
                f"an output of {_shape(output)} of a photo of {_shape(photo)}; give both the same size"
            )
        got, target = (
            self._features(image, [CONTENT_LAYER])[CONTENT_LAYER] for image in (output, photo)
        )
        return _errors(got, target)

    def _photo_distance(self, photo: Tensor) -> float:
        key = hashlib.sha256(photo.float().cpu().contiguous().numpy().tobytes()).digest()
        if key not in self._photo_distances:
            self._photo_distances[key] = self._distance(self._observe(photo)[0])
        return self._photo_distances[key]

    def _distance(self, gaussians: dict[Key, Gaussian]) -> float:
        pairs = ((gaussian, self._targets[key]) for key, gaussian in gaussians.items())
        return fmean(
            frechet_distance(got, target.gaussian, target.root) / target.moment
            for got, target in pairs
        )

    def _observe(self, image: Tensor) -> tuple[dict[Key, Gaussian], dict[Key, Tensor]]:
        """Return the Gaussians of all style layers and scales, and the features of `CLEAR`."""
        gaussians: dict[Key, Gaussian] = {}
        content: dict[Key, Tensor] = {}
        for scale in SCALES:
            feats = self._features(_scaled(image, scale), LAYERS)
            gaussians |= {(layer, scale): _gaussian(feats[layer]) for layer in STYLE_LAYERS}
            content |= {key: feats[key[0]] for key in CLEAR if key[1] == scale}
        return gaussians, content

    def _content(self, image: Tensor) -> dict[Key, Tensor]:
        """Return the features of `CLEAR`."""
        found: dict[Key, Tensor] = {}
        for scale in SCALES:
            wanted = [layer for layer, at in CLEAR if at == scale]
            feats = self._features(_scaled(image, scale), wanted)
            found |= {(layer, scale): feats[layer] for layer in wanted}
        return found

    @torch.no_grad()
    def _features(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """The features in float64 on the CPU: not every device has float64, and training may run under autocast."""
        device = self.vgg.mean.device
        with torch.autocast(device.type, enabled=False):
            feats = self.vgg(image.to(device, torch.float32), layers)
        return {layer: feature.cpu().double() for layer, feature in feats.items()}

    def _sized(self, image: Tensor, name: str) -> Tensor:
        image = _checked(image, name)
        if image.shape[-2:] != (self.size, self.size):
            raise ImageError(
                f"{name} has {_shape(image)} pixels, this judge compares {self.size}x{self.size}; "
                "cut photos with protocol_photo before they are stylized"
            )
        return image


def protocol_photo(image: ImageSource, size: int = SIZE) -> Tensor:
    """Return the middle (1, 3, size, size) of a photo whose shorter side was first resized to
    `size` (Lanczos).

    Raises: ImageError.
    """
    if size < 1:
        raise ImageError(f"a photo cannot have {size} pixels a side; use 1 or more")
    return _centre(_fit_shorter(read_image(image), size))


def frechet_distance(a: Gaussian, b: Gaussian, root: Tensor | None = None) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the squared Fréchet distance of two
    Gaussians.

    `root` is the square root of b's covariance, where it is known already. The trace is that of
    (root C_a root)^(1/2), which is symmetric: eigenvalues are real, and exact to rounding where a
    covariance has no full rank, as with fewer places than channels. Source: Dowson and Landau
    (1982).
    """
    root = _square_root(b.covariance) if root is None else root
    mixed = torch.linalg.eigvalsh(root @ a.covariance @ root).clamp_min(0).sqrt().sum()
    squared = (
        (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * mixed
    )
    return max(0.0, float(squared))  # rounding may leave a little less than 0


def light(image: Tensor, photo: Tensor) -> float:
    """Return the correlation of the luminance of `image` with the photo's, both at 1/8 of the size.

    1 is the photo's light and dark, whatever the colours, 0 none of it; less is a negative. Of a
    flat picture it is 0. Both are (1, 3, H, W) in [0, 1], of one size. Raises: ImageError.
    """
    grey = [
        _luminance(_checked(x, name)) for x, name in ((image, "the image"), (photo, "the photo"))
    ]
    x, y = (g - g.mean() for g in grey)
    spread = float((x.square().mean() * y.square().mean()).sqrt())
    return float((x * y).mean()) / max(spread, ROUNDING**2)


def grid(image: Tensor) -> float:
    """Return how far a grid of period 2 or 4 stands out of the spectrum of `image`, (1, 3, H, W) in
    [0, 1].

    The power spectrum is that of the grey (mean of the channels), Hann-windowed centre square. A
    grid's frequency has period 2, 4 or none along each axis, but not none along both: eight, where
    mirror images count as one, since upsampling knows no left and right. That matters for the
    diagonal of period 4 only, the one whose mirror image is another frequency: there it is the mean
    of the two. Each is the mean power within 2 bins over the median power 8 to 20 bins around; on
    an axis, over that of bins within 2 of the axis, since any photo has more power there. The worst
    of the eight is returned: 1.2 to 5 for nearly all photos, tens to hundreds with a visible grid,
    0 for a flat picture. Raises: ImageError below 96 pixels.
    """
    # (n, n)
    square = _centre(_checked(image, "the image", SMALLEST_GRID))[0].mean(0).cpu().double()
    n = square.shape[0]
    window = torch.hann_window(n, periodic=False, dtype=torch.float64)
    window = window[:, None] * window
    power = torch.fft.fft2((square - square.mean()) * window).abs().square()
    # rounding is white noise: as much in each bin
    floor = ROUNDING**2 * float(window.square().sum())
    places = (0.0, n / 4, n / 2)  # in bins: no period, period 4, period 2
    return max(
        fmean((_peak(power, (y, x), floor), _peak(power, (y, -x), floor)))
        for y in places
        for x in places
        if y or x
    )


def stripes(image: Tensor) -> float:
    """Return how far fine stripes along rows or columns stand out of the spectrum of `image`,
    whatever their period.

    What networks fill flat places with, which `grid` misses: it is no multiple of how they enlarge,
    and not the same everywhere. The power spectrum is the mean over Hann-windowed squares of 64
    pixels of the grey, each half over the next. Within 2 bins of either axis, the power at each
    period from 2 to 5 pixels is set against the geometric mean of that at periods somewhat longer
    and shorter. The worst is returned: 1 to 3 for nearly all photos, tens to hundreds where stripes
    are seen. `image` is (1, 3, H, W) in [0, 1]. Raises: ImageError below 96 pixels.
    """
    grey = _checked(image, "the image", SMALLEST_GRID)[0].mean(0).cpu().double()
    side = STRIPES_WINDOW
    squares = grey.unfold(0, side, side // 2).unfold(1, side, side // 2).reshape(-1, side, side)
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    window = window[:, None] * window
    power = (
        torch.fft.fft2((squares - squares.mean((1, 2), keepdim=True)) * window)
        .abs()
        .square()
        .mean(0)
    )
    floor = ROUNDING**2 * float(window.square().sum())
    near = torch.arange(-NEAR, NEAR + 1)
    worst = 0.0
    for spectrum in (power[near].mean(0), power[:, near].mean(1)):
        for k in range(math.ceil(side / STRIPES_PERIOD), side // 2 + 1):
            here, longer, shorter = (
                float(spectrum[torch.arange(k + off - 1, k + off + 2) % side].mean())
                for off in (0, -6, 6)
            )
            worst = max(worst, here / max(math.sqrt(longer * shorter), floor))
    return worst


def border(image: Tensor, photo: Tensor) -> float:
    """Return how strong the contrast at the edge of `image` is, relative to its photo: 1 is as
    there.

    The mean absolute difference of neighbours, horizontal and vertical, among the outer 8 pixels
    over that of the rest; then over the same ratio of the photo. Both are (1, 3, H, W) in [0, 1].
    Raises: ImageError.
    """
    return _border_ratio(_checked(image, "the image")) / _border_ratio(_checked(photo, "the photo"))


def edges(images: Sequence[Tensor], photos: Sequence[Tensor]) -> float:
    """Return how far colours at the sides of pictures are from those that their photos would have
    got in the middle.

    A network knows by its padding where the edges are, and one that is trained on what it paints
    there may learn to put colours there that the photo has no place for: a bright edge on the left,
    a dark one on the right. In the middle of each picture, means of 8x8 pixels are fitted by an
    affine map of the photo's; what differs from that map is averaged over the outer 16 pixels on
    the left, and on the right, over the spread of the picture's colours, and over pictures. The
    longer of both is returned: 0 for photos, some tenths by chance for a few pictures. Top and
    bottom are left out: what photos have there, skies and ground, is nowhere else in them. Pictures
    and photos are (1, 3, H, W) in [0, 1], of 96 pixels or more. Raises: ImageError.
    """
    images = [_checked(image, "the image", SMALLEST_GRID) for image in images]
    photos = [_checked(photo, "the photo", SMALLEST_GRID) for photo in photos]
    means = torch.stack(
        [_at_edges(image, photo) for image, photo in zip(images, photos, strict=True)]
    )
    return float(means.mean(0).norm(dim=1).max())


def high_frequency(image: Tensor, painting: Tensor) -> float:
    """Return the finest detail of `image` over that of the painting: 1 is as much, blur has less,
    noise has more.

    It is the rms of a picture minus its 3x3 mean. Both are (1, 3, H, W) in [0, 1], the painting at
    the size that it is judged at (`Judge.painting`). Raises: ImageError.
    """
    fine = _fine_rms(_checked(painting, "the painting"))
    return _fine_rms(_checked(image, "the image")) / max(fine, ROUNDING)


def _scaled(image: Tensor, scale: int) -> Tensor:
    """Return (1, 3, H, W) at a part of its size, antialiased."""
    image = image.float()
    if scale == 1:
        return image
    size = [round(side / scale) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True)


def _luminance(image: Tensor) -> Tensor:
    """Return the luminance of (1, 3, H, W) at 1/8 of the size, (h, w)."""
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    grey = (image.cpu().float() * weights).sum(1, keepdim=True)
    return _scaled(grey, LIGHT_SCALE)[0, 0].double()


def _gaussian(feats: Tensor) -> Gaussian:
    flat = feats[0].flatten(1)  # (C, H W)
    mean = flat.mean(1)
    centred = flat - mean[:, None]
    return Gaussian(mean, centred @ centred.T / flat.shape[1])


def _target(gaussian: Gaussian) -> _Target:
    moment = float(gaussian.covariance.trace() + gaussian.mean.square().sum())
    return _Target(gaussian, _square_root(gaussian.covariance), max(moment, TINY))


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return torch.mm(vectors * values.clamp_min(0).sqrt(), vectors.T)


def _errors(got: Tensor, target: Tensor) -> tuple[float, float]:
    return float((got - target).square().sum()), float((target - target.mean()).square().sum())


def _peak(power: Tensor, place: tuple[float, float], floor: float) -> float:
    """The power at a frequency, in bins down and across, over that around it."""
    n = power.shape[0]
    bins = torch.arange(n, dtype=torch.float64)
    # the spectrum is periodic
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
    return max(float(torch.cat(outer).mean()), ROUNDING) / max(
        float(torch.cat(inner).mean()), ROUNDING
    )


def _at_edges(image: Tensor, photo: Tensor) -> Tensor:
    """What no affine map of the photo explains on the left and on the right, (2, 3), over the spread of colours."""
    # (3, h, w)
    got, seen = (F.avg_pool2d(picture.cpu().double(), BLOCK)[0] for picture in (image, photo))
    h, w = got.shape[-2:]
    away = min(INSIDE, h // 4, w // 4)
    middle = torch.zeros(h, w, dtype=torch.bool)
    middle[away:-away, away:-away] = True
    known = torch.cat([seen, torch.ones(1, h, w, dtype=torch.float64)])  # (4, h, w)
    # (4, 3)
    map_ = torch.linalg.lstsq(known[:, middle].T, got[:, middle].T, driver="gelsd").solution
    off = got - torch.einsum("khw,kc->chw", known, map_)
    spread = max(float(got.flatten(1).std(1).norm()), ROUNDING)
    return (
        torch.stack([side.mean((1, 2)) for side in (off[:, :, :EDGE], off[:, :, -EDGE:])]) / spread
    )


def _fine_rms(image: Tensor) -> float:
    image = image.cpu().double()
    # the outermost pixels have no whole 3x3 around them
    mean = F.avg_pool2d(image, kernel_size=3, stride=1)
    return float((image[..., 1:-1, 1:-1] - mean).square().mean().sqrt())


def _centre(image: Tensor) -> Tensor:
    """The largest square in the middle of the image."""
    h, w = image.shape[-2:]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return image[..., top : top + side, left : left + side]


def _fit_shorter(image: Tensor, size: int) -> Tensor:
    """The image with a shorter side of `size` pixels, by Pillow's Lanczos (8 bits a channel)."""
    height, width = fitted_size(image.shape[-2], image.shape[-1], size)
    return read_image(to_pil(image).resize((width, height), Image.Resampling.LANCZOS))


def _checked(image: Tensor, name: str, smallest: int = SMALLEST) -> Tensor:
    """The image itself, detached, or an ImageError that says what is wrong with it."""
    if image.dim() != 4 or image.shape[:2] != (1, 3) or not image.is_floating_point():
        raise ImageError(
            f"{name} is a {image.dtype} tensor of shape {tuple(image.shape)}; "
            "allowed: one picture, float RGB in [0, 1], (1, 3, H, W)"
        )
    if min(image.shape[-2:]) < smallest:
        raise ImageError(
            f"{name} has {_shape(image)} pixels, too few to be judged; "
            f"its shorter side must be at least {smallest} pixels"
        )
    if not image.isfinite().all():
        raise ImageError(
            f"{name} has values that are not finite; a network that gives them is to be trained again"
        )
    image = image.detach()
    low = float(image.min())
    high = float(image.max())
    if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise ImageError(
            f"{name} has values from {low:.3g} to {high:.3g}; allowed: 0 to 1, clamp or scale it first"
        )
    return image


def _shape(image: Tensor) -> str:
    return "x".join(str(side) for side in image.shape[-2:])
