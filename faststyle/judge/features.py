"""Distances of style and content between pictures, in the features of VGG.

Sources of the distance of style: Dowson and Landau, "The Fréchet distance between multivariate
normal distributions", Journal of Multivariate Analysis 12 (1982); Heusel et al. (2017),
https://arxiv.org/abs/1706.08500, who apply it to the features of a network; Shaham, Dekel,
Michaeli, "SinGAN" (2019), https://arxiv.org/abs/1905.01164, who apply it to a single image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from faststyle.judge.pictures import shrink
from faststyle.perceptual.vgg import VGG

# those of Gatys et al. (2015)
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYER = "relu4_2"  # also theirs
# Layers and scales of clear_distance. relu4_2 at full size alone does not see light, shade and
# large shapes: it calls networks equal that no viewer confuses.
CLEAR = (("relu4_2", 1), ("relu4_2", 2), ("relu4_2", 4), ("relu2_2", 2), ("relu2_2", 4))
LAYERS = (*STYLE_LAYERS, CONTENT_LAYER, "relu2_2")  # the judge's VGG must have these
SCALES = (1, 2, 4)  # the image is looked at in full, at half and at a quarter of its size
TINY = 1e-12  # keeps a division by the size of all-zero features finite

Key = tuple[str, int]  # layer and scale


class Gaussian(NamedTuple):
    """Mean (C,) and covariance (C, C) of a layer's features over all H W places."""

    mean: Tensor
    covariance: Tensor


class PaintingLayer(NamedTuple):
    """A layer of the painting at one scale, with values that every comparison needs.

    `root` (C, C) is the square root of the covariance. `moment` is the second moment of the
    features: the trace of the covariance plus the squared mean.
    """

    gaussian: Gaussian
    root: Tensor
    moment: float


def painting_layers(vgg: VGG, painting: Tensor) -> dict[Key, PaintingLayer]:
    """Return all style layers and scales of a painting, (1, 3, H, W) in [0, 1]."""
    gaussians, _ = judged_features(vgg, painting)
    return {key: _painting_layer(gaussian) for key, gaussian in gaussians.items()}


def judged_features(vgg: VGG, image: Tensor) -> tuple[dict[Key, Gaussian], dict[Key, Tensor]]:
    """Return the Gaussians of all style layers and scales, and the features of `CLEAR`."""
    gaussians: dict[Key, Gaussian] = {}
    content: dict[Key, Tensor] = {}
    for scale in SCALES:
        feats = _extract(vgg, shrink(image, scale), LAYERS)
        gaussians |= {(layer, scale): _gaussian(feats[layer]) for layer in STYLE_LAYERS}
        content |= {key: feats[key[0]] for key in CLEAR if key[1] == scale}
    return gaussians, content


def content_features(vgg: VGG, image: Tensor) -> dict[Key, Tensor]:
    """Return the features of `CLEAR`, without the deeper layers that style needs."""
    found: dict[Key, Tensor] = {}
    for scale in SCALES:
        wanted = [layer for layer, at in CLEAR if at == scale]
        feats = _extract(vgg, shrink(image, scale), wanted)
        found |= {(layer, scale): feats[layer] for layer in wanted}
    return found


def style_distance(
    gaussians: Mapping[Key, Gaussian], painting: Mapping[Key, PaintingLayer]
) -> float:
    """Return how far the Gaussians of an image are from those of the painting; 0 is equal.

    It is the squared Fréchet distance over the painting's second moment, averaged over
    `STYLE_LAYERS` and `SCALES`.
    """
    pairs = [(gaussian, painting[key]) for key, gaussian in gaussians.items()]
    return fmean(
        frechet_distance(got, target.gaussian, target.root) / target.moment for got, target in pairs
    )


def frechet_distance(a: Gaussian, b: Gaussian, root: Tensor | None = None) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the squared Fréchet distance.

    `root` is the square root of b's covariance, if the caller has it. The trace is computed as that
    of (root C_a root)^(1/2), which is symmetric. So eigenvalues are real, and exact to rounding
    even where a covariance has no full rank, as with fewer places than channels.
    Source: Dowson and Landau (1982).
    """
    root = _square_root(b.covariance) if root is None else root
    mixed = torch.linalg.eigvalsh(root @ a.covariance @ root).clamp_min(0).sqrt().sum()
    squared = (
        (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * mixed
    )
    return max(0.0, float(squared))  # rounding may leave a little less than 0


def content_error(got: Tensor, target: Tensor) -> tuple[float, float]:
    """Return sum (got - target)^2 and sum (target - mean target)^2; the mean is one scalar."""
    return float((got - target).square().sum()), float((target - target.mean()).square().sum())


@torch.no_grad()
def _extract(vgg: VGG, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Return features in float64 on the CPU, since not every device has float64."""
    device = vgg.mean.device
    # Training may judge under autocast, and bf16 would round the features.
    with torch.autocast(device.type, enabled=False):
        feats = vgg(image.to(device, torch.float32), layers)
    return {layer: feature.cpu().double() for layer, feature in feats.items()}


def _gaussian(feats: Tensor) -> Gaussian:
    flat = feats[0].flatten(1)  # (C, H W)
    mean = flat.mean(1)
    centred = flat - mean[:, None]
    return Gaussian(mean, centred @ centred.T / flat.shape[1])


def _painting_layer(gaussian: Gaussian) -> PaintingLayer:
    moment = float(gaussian.covariance.trace() + gaussian.mean.square().sum())
    return PaintingLayer(gaussian, _square_root(gaussian.covariance), max(moment, TINY))


def _square_root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return torch.mm(vectors * values.clamp_min(0).sqrt(), vectors.T)
