"""The light term: a picture should keep the photo's light and dark, in the painting's colours.

Colours are compared as means over squares of 8 pixels, so that strokes stay free.
Source: Pitié and Kokaram, "The linear Monge-Kantorovitch linear colour mapping for example-based
colour transfer" (2007), https://doi.org/10.1049/cp:20070055
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from faststyle.perceptual.moments import TINY

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601, as in JPEG
SQUARE = 8  # pixels: side of the squares
PALETTE = 256  # number of colours that stand for a painting
FINE = 2  # pixels: side of the squares whose means they are; larger squares have less contrast
# Variance, of values in [0, 1], that is added to each colour. Flat and grey photos have next to
# none, and their noise would be blown up to the painting's colours.
FLAT = 2e-3
# Iterations for the root of a matrix: enough for eigenvalues that differ by a factor of 100,000.
ROOT_STEPS = 13
NEAR = 0.05  # standard deviation, in RGB, of the weight of near colours
# The share of the photo's own hues, beside the nearest that the painting has. Without them a face
# and the wall behind it become one colour.
OWN = 0.5


def squares(image: Tensor) -> Tensor:
    """Return means over squares of (B, C, H, W), (B, C, H / 8, W / 8).

    An image of less than 8 pixels a side is one square.
    """
    return F.avg_pool2d(image.float(), min(SQUARE, *image.shape[-2:]))


def luminance(x: Tensor) -> Tensor:
    """Return the luminance, (B, 1, H, W), of pictures (B, 3, H, W) in RGB, by ITU-R BT.601."""
    luma: Tensor = LUMA[0] * x[:, :1] + LUMA[1] * x[:, 1:2] + LUMA[2] * x[:, 2:3]
    return luma


def transfer_luma(stylized: Tensor, photo: Tensor) -> Tensor:
    """Return the lightness of `stylized` with the colours of `photo`, both (B, 3, H, W) in [0, 1].

    Source: Gatys et al., "Preserving color in neural artistic style transfer" (2016), section 3.2,
    https://arxiv.org/abs/1606.05897. They use luminance in YIQ, which has the weights of luma.
    """
    return (photo + (luminance(stylized) - luminance(photo))).clamp(0, 1)


def palette(painting: Tensor) -> Tensor:
    """Return 256 colours, (N, 3), of a painting, (1, 3, H, W): small squares at even distances."""
    found = F.avg_pool2d(painting.float(), min(FINE, *painting.shape[-2:])).flatten(2)[0].T
    at = torch.linspace(0, len(found) - 1, PALETTE, device=painting.device)
    colours: Tensor = found[at.round().long()]
    return colours


def recolour(photo: Tensor, colours: Tensor, contrast: float) -> Tensor:
    """Return a photo, (B, 3, h, w), in a painting's `colours`, (N, 3) or (B, N, 3).

    A linear map gives its colours the mean of the painting's and `contrast` times their covariance.
    Of all such maps it moves colours the least: dark places stay dark, and hues stay apart.
    """
    with torch.autocast(photo.device.type, enabled=False):
        b, _, h, w = photo.shape
        found = photo.float().flatten(2).transpose(1, 2)  # (B, h w, 3)
        mean, covariance = _moments(found)
        wanted_mean, wanted_covariance = _moments(colours.float().view(-1, PALETTE, 3))
        root = _root(covariance)
        inverse = _inverse(root)
        moved_covariance = _times(_times(contrast * root, wanted_covariance), root)
        linear = inverse @ _root(moved_covariance) @ inverse
        moved: Tensor = wanted_mean + (found - mean) @ linear
        return moved.clamp(0, 1).transpose(1, 2).reshape(b, 3, h, w)


def nearest(x: Tensor, colours: Tensor) -> Tensor:
    """Return the mean of the painting's colours near to each of the squares, (B, 3, h, w)."""
    with torch.autocast(x.device.type, enabled=False):
        b, _, h, w = x.shape
        wanted = colours.float().view(-1, PALETTE, 3).expand(b, -1, -1)
        # Minus half the squared distances, but for a part that is the same for all colours of the
        # painting: softmax does not see it.
        near = x.flatten(2).transpose(1, 2) @ wanted.transpose(1, 2)
        near = near - 0.5 * wanted.square().sum(2).unsqueeze(1)
        shares = torch.softmax(near / NEAR**2, 2)
        return (shares @ wanted).transpose(1, 2).reshape(b, 3, h, w)


def wanted_colours(photo: Tensor, colours: Tensor, contrast: float) -> Tensor:
    """Return the squares, (B, 3, h, w), that a picture of the photo should have."""
    moved = recolour(photo, colours, contrast)
    return torch.lerp(nearest(moved, colours), moved, OWN)


def light_error(x: Tensor, photo: Tensor, colours: Tensor, contrast: float) -> Tensor:
    """Return how far squares (B, 3, h, w) are from the photo's in a painting's colours: (B,).

    It is half the mean squared difference, in units of the covariance of the painting's colours.
    """
    off = (x - wanted_colours(photo, colours, contrast)).flatten(2).transpose(1, 2)  # (B, h w, 3)
    with torch.autocast(x.device.type, enabled=False):
        _, covariance = _moments(colours.float().view(-1, PALETTE, 3))
        whitened = off @ _inverse(covariance)
        error: Tensor = 0.5 * (whitened * off).mean((1, 2))
    return error


def light_kept(x: Tensor, y: Tensor) -> Tensor:
    """Return the correlation, (B,), of two luminances (B, 1, h, w); 0 if one of them is flat."""
    x, y = (z.flatten(1) - z.flatten(1).mean(1, keepdim=True) for z in (x, y))
    norms = x.square().mean(1) * y.square().mean(1)
    return (x * y).mean(1) / norms.clamp_min(TINY).sqrt()


def _moments(colours: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean, (B, 1, 3), and covariance plus `FLAT`, (B, 3, 3), of colours (B, n, 3)."""
    mean = colours.mean(1, keepdim=True)
    off = colours - mean
    flat = FLAT * torch.eye(3, device=colours.device)
    return mean, off.transpose(1, 2) @ off / colours.shape[1] + flat


def _times(x: Tensor, y: Tensor) -> Tensor:
    """Return the products of (B, 3, 3). GPUs may round the factors of `@` to 10 bits."""
    return x @ y if x.device.type == "cpu" else (x.unsqueeze(3) * y.unsqueeze(1)).sum(2)


def _inverse(matrix: Tensor) -> Tensor:
    """Return the inverse of (B, 3, 3). It is not checked: that would wait for the device."""
    inverse: Tensor = torch.linalg.inv_ex(matrix).inverse
    return inverse


def _root(matrix: Tensor) -> Tensor:
    """Return the square root of symmetric matrices, (B, 3, 3), without negative eigenvalues."""
    if matrix.device.type not in ("cpu", "xla"):
        return root_by_iteration(matrix)
    values, vectors = torch.linalg.eigh(matrix)
    roots = values.clamp_min(0).sqrt().unsqueeze(-2)
    root: Tensor = (vectors * roots) @ vectors.transpose(-1, -2)
    return root


def root_by_iteration(matrix: Tensor) -> Tensor:
    """Return what `_root` does, by inverses alone: `eigh` makes the host wait for a GPU.

    Source: Denman and Beavers, "The matrix sign function and computations in systems" (1976),
    https://doi.org/10.1016/0096-3003(76)90020-5
    """
    scale = matrix.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1).clamp_min(TINY)
    root = matrix / scale
    inverse = torch.eye(3, device=matrix.device).expand_as(matrix)
    for _ in range(ROOT_STEPS):
        root, inverse = (root + _inverse(inverse)) / 2, (inverse + _inverse(root)) / 2
    return root * scale.sqrt()
