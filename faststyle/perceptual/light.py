"""Light and dark: the photo's, in the colours that the painting has at that luminance.

Colours are compared as means over squares of 8 pixels, so that strokes stay free.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from faststyle.perceptual.features import TINY

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in luminance: ITU-R BT.601
SQUARE = 8  # pixels: side of the squares
FLAT = 0.02  # a painting's deviation of luminance, in [0, 1], counts as at least this
TONES = 33  # luminances from 0 to 1 at which a painting's colours are looked up
TONE_WIDTH = 0.03  # deviation, in luminance, of what counts for one of them
MOST_CONTRAST = 2.0  # that a photo's is multiplied by, to be a painting's


def squares(image: Tensor) -> Tensor:
    """Return (B, C, H / 8, W / 8), means over squares; less than 8 pixels a side are one square."""
    return F.avg_pool2d(image.float(), min(SQUARE, *image.shape[-2:]))


def luminance(x: Tensor) -> Tensor:
    """Return the luminance, (B, 1, h, w), of squares (B, 3, h, w) in RGB, by ITU-R BT.601."""
    weights = torch.tensor(LUMA, device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def tones(x: Tensor) -> Tensor:
    """Return the colours, (N, 3), of a painting's squares (1, 3, h, w) at N luminances from 0 to 1.

    They are means over squares by how near in luminance they are (a Gaussian's weight), moved to
    that luminance. Beyond its darkest and lightest square the tones stay as there.
    """
    weights = torch.tensor(LUMA, device=x.device)
    colours = x.flatten(2)[0].T  # (n, 3)
    light = colours @ weights
    at = torch.linspace(0, 1, TONES, device=x.device).clamp(light.min(), light.max())
    near = torch.softmax(-0.5 * ((at[:, None] - light) / TONE_WIDTH).square(), 1)
    means = near @ colours
    return means + (at - means @ weights)[:, None]


def light_error(x: Tensor, photo: Tensor, light: Tensor, colours: Tensor) -> Tensor:
    """Return how far squares (B, 3, h, w) are from what is wanted of them: (B,).

    Wanted is the photo's luminance, (B, 1, h, w), with the mean and deviation of the painting's,
    `light` (2,) or (B, 2), and of each luminance the colour, `colours` (N, 3) or (B, N, 3): what is
    dark in the photo gets the painting's darks. A flat photo's contrast is at most doubled. The
    error is half the mean square over the painting's variance.
    """
    mean, deviation = light.view(-1, 2, 1).unbind(1)
    deviation = deviation.clamp_min(FLAT)
    flat = photo.flatten(1)
    middle = flat.mean(1, keepdim=True)
    own = (flat - middle).square().mean(1, keepdim=True).sqrt()
    wanted = mean + (flat - middle) * deviation / torch.maximum(own, deviation / MOST_CONTRAST)
    place = wanted.clamp(0, 1) * (TONES - 1)
    below = place.floor().clamp(max=TONES - 2)
    table = colours.view(-1, TONES, 3).expand(len(x), -1, -1)
    index = below.long()[..., None].expand(-1, -1, 3)
    darker = table.gather(1, index)
    lighter = table.gather(1, index + 1)
    tone = torch.lerp(darker, lighter, (place - below)[..., None])
    off = (x.flatten(2).transpose(1, 2) - tone) / deviation[..., None]  # (B, h w, 3)
    error: Tensor = 0.5 * off.square().mean((1, 2))
    return error


def light_kept(x: Tensor, y: Tensor) -> Tensor:
    """Return the correlation, (B,), of two luminances (B, 1, h, w); of a flat one 0."""
    x, y = (z.flatten(1) - z.flatten(1).mean(1, keepdim=True) for z in (x, y))
    norms = x.square().mean(1) * y.square().mean(1)
    return (x * y).mean(1) / norms.clamp_min(TINY).sqrt()
