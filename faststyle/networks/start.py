"""What all networks have in common: the size of photos, and what the output of a head is added to.

What it is not: the way from a photo to that output (johnson.py, mobile.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.errors import ImageError

MIN_SIDE = 16  # pixels: at 1/4 resolution the reflection padding of the trunk still has pixels to mirror
FLAT = 1e-3  # variance of RGB in [0, 1] below which a photo's contrast is not stretched to the painting's
GREY = 0.02  # share of the mean variance that each colour axis has at least: a grey photo's noise is not blown up
WHITEN_STEPS = 12  # enough for the smallest eigenvalue that GREY leaves, to float32
STRIDE = 4  # the trunk works at 1/4 resolution
# Pixels that are mirrored around a photo and cut off again: what the padding of convolutions does near edges is mostly
# cut off with them. Johnson et al. (2016) have 40; a multiple of the stride, with whose rest it is less than MIN_SIDE.
RIM = 12

Start = Literal["palette", "identity", "random"]


class StyleNetwork(nn.Module, ABC):
    """Photo in, stylized photo out, of the same size; RGB, (B, 3, H, W), in [0, 1], H and W >= 16.

    A network has a `head`, the convolution that writes its picture, and says in `paint` what that is for a photo.
    `start` is what it does before training, and what the picture is added to:

    - "palette": the photo in the painting's colours. The sum of photo and picture is whitened, and given the mean and
      the covariance of the painting's colours (`set_palette`), so that content and palette are there from step 0.
    - "identity": the photo. Its own colours have to be learned away.
    - "random": nothing; the scaled tanh of a randomly initialised head.

    In training the output may leave [0, 1], so that no pixel is without a gradient; in evaluation it is clamped.
    """

    palette_mean: Tensor
    palette_matrix: Tensor

    def __init__(self, start: Start) -> None:
        super().__init__()
        if start not in get_args(Start):
            raise ValueError(f"start is one of {', '.join(get_args(Start))}, got {start!r}")
        self.start = start

    def begin(self, head: nn.Conv2d) -> None:
        """Make a head's output what it is before training; add the palette, after all layers."""
        if self.start != "random":
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        if self.start == "palette":
            self.register_buffer("palette_mean", torch.full((1, 3, 1, 1), 0.5))
            self.register_buffer("palette_matrix", 0.25 * torch.eye(3).view(3, 3, 1, 1))

    @staticmethod
    @abstractmethod
    def bytes_per_pixel(width: int) -> int:
        """Return the most memory that evaluation takes, for each pixel of the photo, in float32 on a CPU."""

    @abstractmethod
    def paint(self, photo: Tensor) -> Tensor:
        """Return what is added to a photo whose sides are multiples of 4, (B, 3, H, W)."""

    def set_palette(self, painting: Tensor) -> None:
        """Take the colours of a painting, (1, 3, H, W), as those to start from; for the other starts, do nothing."""
        if self.start != "palette":
            return
        mean = painting.mean((2, 3), keepdim=True)
        flat = (painting - mean).flatten(2)[0].double()  # (3, H W)
        values, vectors = torch.linalg.eigh(flat @ flat.T / flat.shape[1])
        root = vectors @ values.clamp_min(0).sqrt().diag() @ vectors.T  # the symmetric root of the covariance
        self.palette_mean.copy_(mean)
        self.palette_matrix.copy_(root.view(3, 3, 1, 1))

    def forward(self, photo: Tensor) -> Tensor:
        """Return the stylized photo.

        Raises: ImageError when a side is shorter than 16 pixels.
        """
        x = with_rim(photo)
        y = without_rim(self.colour(x, self.paint(x)), photo)
        return y if self.training else y.clamp(0, 1)

    def colour(self, photo: Tensor, y: Tensor) -> Tensor:
        """Return the picture that a photo and what was painted on it make, both (B, 3, H, W)."""
        if self.start == "palette":
            # Differs from Johnson et al. (2016), as does "identity": the photo is added to what the head says.
            y = whiten(F.group_norm(photo, 1, eps=FLAT) + y)
            return F.conv2d(y, self.palette_matrix) + self.palette_mean
        if self.start == "identity":
            return photo + y
        # Differs from Johnson et al. (2016): there the tanh is scaled to [0, 255], here to [0, 1].
        return 0.5 + 0.5 * torch.tanh(y)


def with_rim(photo: Tensor) -> Tensor:
    """Return a photo, (B, C, H, W), with mirrored pixels around it and sides that are multiples of 4.

    Raises: ImageError when a side is shorter than 16 pixels.
    """
    h, w = photo.shape[-2:]
    check_size(h, w)
    return F.pad(photo, (RIM, RIM + -w % STRIDE, RIM, RIM + -h % STRIDE), mode="reflect")


def without_rim(picture: Tensor, photo: Tensor) -> Tensor:
    """Return the part of a picture, (B, C, H', W'), that is the photo's."""
    h, w = photo.shape[-2:]
    return picture[..., RIM : RIM + h, RIM : RIM + w]


def check_size(height: int, width: int) -> None:
    """Raise ImageError when a side is shorter than 16 pixels."""
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"an image of {height}x{width} pixels is too small: both sides must be at least {MIN_SIDE}")


def whiten(image: Tensor) -> Tensor:
    """Return (B, 3, H, W) with mean 0 and, but for a floor, the identity as the covariance of each image's colours."""
    b, c, h, w = image.shape
    with torch.autocast(image.device.type, enabled=False):
        x = image.float()
        x = x - x.mean((2, 3), keepdim=True)
        # Row by row: one sum over millions of pixels in float32 was wrong by 7e-4, and the picture by 3 of 255.
        rows = x.transpose(1, 2)  # (B, H, 3, W)
        covariance = (rows @ rows.transpose(2, 3)).mean(1) / w
        white = whitening(covariance) @ x.flatten(2)
    return white.view(b, c, h, w).to(image.dtype)


def whitening(covariance: Tensor) -> Tensor:
    """Return the inverse root of covariances of colours, (B, 3, 3), with a floor.

    By Newton and Schulz's iteration: matrix products only, so that it has a gradient everywhere and exports anywhere,
    which an eigendecomposition does not.
    Source: Higham, "Functions of matrices" (2008), section 6.7, equation 6.35.
    """
    eye = torch.eye(3, device=covariance.device, dtype=covariance.dtype)
    mean_variance = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    covariance = covariance + (GREY * mean_variance + FLAT) * eye
    size = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]  # at least the largest eigenvalue
    root, inverse = covariance / size, eye.expand_as(covariance)
    for _ in range(WHITEN_STEPS):
        step = 1.5 * eye - 0.5 * inverse @ root
        root, inverse = root @ step, step @ inverse
    return inverse / size.sqrt()
