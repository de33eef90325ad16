"""How textured each place of an image is, so that like places can be compared with like.

Half of a painting may be flat sky. One covariance for the whole picture asks each photo for the
same share of flat places: faint textures are wiped out, and foam is set on skies.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from faststyle.perceptual.light import luminance

DETAIL = 9  # side of the square whose mean is taken off the luminance, in pixels
PLACE = 15  # side of the square in which texture is measured, in pixels
# The texture at which a place of a photo counts half as flat and half as textured. The median of
# places in photos is 0.05: most textures that are faint count as textured.
OF_PHOTOS = 0.015
STEEPNESS = 4.0  # of the step from flat to textured, over the logarithm of texture
LEAST = 1e-4


def texture(image: Tensor) -> Tensor:
    """Return the local contrast of fine detail, (B, 1, H, W), of images (B, 3, H, W) in [0, 1].

    It is the root mean square, near each pixel, of luminance less its local mean. A side needs at
    least 8 pixels.
    """
    light = luminance(image.float())
    detail = light - _local_mean(light, DETAIL)
    contrast: Tensor = _local_mean(detail.square(), PLACE).sqrt()
    return contrast + LEAST


def textured(image: Tensor, threshold: float | Tensor = OF_PHOTOS) -> Tensor:
    """Return how far each pixel counts as textured, (B, 1, H, W) in [0, 1]; the rest is flat.

    At `threshold` of `texture` it is 0.5.
    """
    return (STEEPNESS * (texture(image) / threshold).log()).sigmoid()


def _local_mean(x: Tensor, side: int) -> Tensor:
    margin = side // 2
    return F.avg_pool2d(F.pad(x, (margin,) * 4, mode="reflect"), side, stride=1)
