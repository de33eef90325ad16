"""A photo as a painter sees it: fine texture is left out, shapes and their edges are kept.

A network paints what it sees: each leaf and pebble becomes a speck. Of a photo without them it
paints broad, calm strokes along the shapes.

The filter is that of Kyprianidis, Kang, Döllner, "Image and Video Abstraction by Anisotropic
Kuwahara Filtering" (2009), https://doi.org/10.1111/j.1467-8659.2009.01574.x. About each pixel lies
an ellipse along the local direction of edges. It has eight sectors; those that vary least give the
pixel its colour. Differs from the paper: a sector is seen at a few points of it, the nearest
pixels, and its variance is that of all three channels together.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from faststyle.errors import RecipeError

SECTORS = 8
RINGS = 3  # points from the middle of an ellipse to its rim
NEAR = 0.4  # of an ellipse's radius: the spread of the weights of its points
TURN = 0.35  # radians: the spread of a sector's weights about its direction
SPREAD = 2.0  # pixels over which the direction of edges is averaged
NOISE = 1 / 60  # standard deviation, of colours in [0, 1], from which on a sector counts less
RADIUS = 6.0  # pixels: viewers chose it over 4, and not over 8
MOST = 32.0  # pixels: the largest radius; the points of larger ellipses lie too far apart
STRIP = 1 << 19  # pixels of which the ellipses are found at a time, which bounds the memory
# Pixels that are filtered at a time. What is held of them fits in a CPU's cache; a GPU takes all.
BAND = {"cpu": 1 << 15}
TINY = 1e-6


def check_abstraction(radius: float) -> None:
    """Raise RecipeError for a radius that makes no sense."""
    if not 0 <= radius <= MOST:
        raise RecipeError(f"abstraction must be 0 (none) to {MOST:g} pixels, got {radius}")


@torch.no_grad()
def abstract(photo: Tensor, radius: float) -> Tensor:
    """Return photos, (B, 3, H, W) in [0, 1], without fine texture, in float32.

    They are rounded to 256 levels, as photos are: tiles and files hold no more.

    `radius` is that of an ellipse, in pixels, where no direction is distinct. Along a sharp edge
    the ellipse is twice as long and half as wide. A radius of 0 returns the photos themselves.

    Example:
        >>> abstract(torch.rand(1, 3, 480, 640), 6.0).shape
        torch.Size([1, 3, 480, 640])
    """
    if not radius:
        return photo
    h, w = photo.shape[-2:]
    reach = reach_of(radius)
    rows = max(1, STRIP // w)
    out = torch.empty_like(photo, dtype=torch.float32)
    with torch.autocast(photo.device.type, enabled=False):
        for number in range(len(photo)):
            one = photo[number : number + 1]
            for top in range(0, h, rows):
                above = min(top, reach)
                strip = one[..., top - above : top + rows + reach, :].float()
                bottom = min(top + rows, h)
                out[number, :, top:bottom] = _filter(strip, radius, above, above + bottom - top)
    return out.mul_(255).round_().div_(255)


def reach_of(radius: float) -> int:
    """Return how far away, in pixels, lies the farthest pixel that one may depend on."""
    return math.ceil(2 * radius) + _blur_reach() + 2


def _filter(photo: Tensor, radius: float, start: int, end: int) -> Tensor:
    """Return the rows from `start` to `end` of a photo, (1, 3, H, W), filtered: (3, rows, W)."""
    w = photo.shape[-1]
    points, weights = _points(photo.device)
    axes = _axes(photo, radius)
    margin = math.ceil(2 * radius) + 1
    # The squares make a fourth channel: a sector's variance is their mean less the mean's square.
    squares = photo.square().sum(1, keepdim=True)
    seen = _mirror(torch.cat([photo, squares], 1), margin)[0]
    wide = seen.shape[-1]
    pixels = seen.flatten(1).t().contiguous()
    column = torch.arange(w, device=photo.device) + margin
    done = []
    rows = max(1, BAND.get(photo.device.type, STRIP) // w)
    for top in range(start, end, rows):
        bottom = min(top + rows, end)
        row = torch.arange(top, bottom, device=photo.device)[:, None] + margin
        # Each point of the ellipse about each pixel: (points, 2) @ (2, pixels), for x and for y
        right, down = (points @ part.flatten(1) for part in axes[:, :, top:bottom])
        off = down.round_().mul_(wide).add_(right.round_())
        index = (row * wide + column).flatten() + off.long()
        means = weights @ F.embedding(index, pixels).flatten(1)
        means = means.view(SECTORS, -1, 4)
        variance = (means[..., 3] - means[..., :3].square().sum(-1)).clamp_min(0)
        share = 1 / (1 + (variance / NOISE**2).pow(4))[..., None]
        colours = (share * means[..., :3]).sum(0) / share.sum(0)
        done.append(colours.t().reshape(3, -1, w))
    return torch.cat(done, 1)


def _points(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return points of the unit disc, (P, 2), and how each sector weighs them, (SECTORS, P)."""
    side = torch.arange(-RINGS, RINGS + 1, device=device) / RINGS
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(-1, 2)
    points = grid[grid.square().sum(1) <= 1 + TINY]
    distance = points.square().sum(1)
    middles = torch.arange(SECTORS, device=device)[:, None] * (2 * math.pi / SECTORS)
    turn = torch.atan2(points[:, 1], points[:, 0]) - middles
    turn = (turn + math.pi) % (2 * math.pi) - math.pi
    # The point in the middle belongs to all sectors alike.
    of_sector = torch.where(distance > 0, torch.exp(-turn.square() / (2 * TURN**2)), 1 / SECTORS)
    weights = of_sector * torch.exp(-distance / (2 * NEAR**2))
    return points, weights / weights.sum(1, keepdim=True)


def _axes(photo: Tensor, radius: float) -> Tensor:
    """Return both half axes of each pixel's ellipse, (x or y, axis, H, W), in pixels.

    The first axis lies along the edges, by the smoothed structure tensor.
    """
    dx, dy = _slopes(photo)
    products = torch.cat([part.sum(1, keepdim=True) for part in (dx * dx, dx * dy, dy * dy)], 1)
    xx, xy, yy = _blur(products)[0]
    half = (xx + yy) / 2
    root = (((xx - yy) / 2).square() + xy.square()).sqrt()
    stretch = 1 + root / (half + TINY)  # 1 without a direction, 2 on a straight edge
    angle = torch.atan2(2 * xy, xx - yy) / 2 + math.pi / 2
    along = radius * stretch
    across = radius / stretch
    cos = angle.cos()
    sin = angle.sin()
    x = torch.stack([along * cos, -across * sin])
    y = torch.stack([along * sin, across * cos])
    return torch.stack([x, y])


def _slopes(photo: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives in x and in y by Sobel's kernels, of the photo's shape."""
    padded = _mirror(photo, 1)
    across = padded[..., 2:] - padded[..., :-2]
    down = padded[..., 2:, :] - padded[..., :-2, :]
    dx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    dy = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return dx / 4, dy / 4


def _blur(x: Tensor) -> Tensor:
    """Return `x`, (B, C, H, W), blurred by a Gaussian of `SPREAD` pixels."""
    reach = _blur_reach()
    steps = torch.arange(-reach, reach + 1, device=x.device)
    kernel = torch.exp(-steps.square() / (2 * SPREAD**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(_mirror(x, reach), kernel, groups=x.shape[1])
    return F.conv2d(x, kernel.transpose(2, 3), groups=x.shape[1])


def _blur_reach() -> int:
    return int(3 * SPREAD)


def _mirror(x: Tensor, margin: int) -> Tensor:
    """Return `x` with a margin of mirrored pixels; a side may be shorter than that."""
    for dim in (2, 3):
        side = x.shape[dim]
        at = torch.arange(-margin, side + margin, device=x.device)
        period = max(1, 2 * (side - 1))
        at = at.abs() % period
        x = x.index_select(dim, torch.minimum(at, period - at))
    return x
