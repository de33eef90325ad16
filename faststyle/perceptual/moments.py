"""Moments of features: the Gram matrix and the mean of each layer, which stand for its style."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TINY = 1e-12  # keeps a division by zero finite: empty masks, features without any variance


class FeatureMoments(NamedTuple):
    """Second and first moment of features over pixels.

    `gram`, (B, C, C), is divided by C; `mean` is (B, C).
    """

    gram: Tensor
    mean: Tensor


def moments(feats: Tensor, mask: Tensor | None = None) -> FeatureMoments:
    """Return the moments of features (B, C, H, W), in float32, weighted by `mask` if there is one.

    `gram` is divided by C H W, as in Johnson et al. (2016), equation 3. The mask is (1, 1, h, w) in
    [0, 1], or (B, 1, h, w); it is averaged over the pixels that each feature stands for.
    Differs from Gatys et al., "Controlling perceptual factors in neural style transfer" (2017),
    section 4, https://arxiv.org/abs/1611.07865: they multiply features by the mask, so that a
    half-transparent pixel counts a quarter; here it counts half.
    """
    _, _, h, w = feats.shape
    weight = None if mask is None else F.adaptive_avg_pool2d(mask, (h, w))
    products, sums = channel_sums(feats, weight)
    return moments_of_sums(products, sums, h * w if weight is None else total_weight(weight))


def total_weight(weight: Tensor) -> Tensor:
    """Return the sum of the weights (B, 1, H, W) of all pixels of each image, (B, 1)."""
    return weight.sum((2, 3)).clamp_min(TINY)


def moments_of_sums(products: Tensor, sums: Tensor, total: int | Tensor) -> FeatureMoments:
    """Return moments from `channel_sums` of a whole image, with the total weight of its pixels."""
    of_products = total if isinstance(total, int) else total.unsqueeze(-1)
    return FeatureMoments(products / (products.shape[-1] * of_products), sums / total)


def channel_sums(feats: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return sums over pixels of features (B, C, H, W), in float32.

    The first are those of products of two channels, (B, C, C), the second those of channels,
    (B, C). Each pixel counts by its `weight`, (1, 1, H, W) or (B, 1, H, W), or 1.
    """
    products, sums = _ChannelSums.apply(feats, weight)
    return products, sums


class _ChannelSums(torch.autograd.Function):
    """`channel_sums` with a backward pass by hand: one matrix product gives both gradients.

    CPUs multiply bf16 as it is, with sums in float32 that are rounded once, at the end: a Gram
    matrix is 0.2 % off, at a third of the time or less. Weights are rounded to bf16 too: a
    covariance is 0.5 % off. Other devices may round sums in between, so there features become
    float32 first.
    """

    @staticmethod
    def forward(ctx: Any, feats: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sums for features (B, C, H, W) and weights (1 or B, 1, H, W)."""
        ctx.save_for_backward(feats, weight)
        ctx.set_materialize_grads(False)  # no zeros for an output that is not used
        with torch.autocast(feats.device.type, enabled=False):
            flat = _by_pixel(feats)
            weighted = flat if weight is None else flat * _in_rows(weight).to(flat.dtype)
            products = torch.bmm(weighted.transpose(1, 2), flat).float()
            return products, weighted.sum(1, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_products: Tensor | None, of_sums: Tensor | None
    ) -> tuple[Tensor | None, None]:
        """Return the gradient of the features."""
        feats, weight = ctx.saved_tensors
        b, c, h, w = feats.shape
        with torch.autocast(feats.device.type, enabled=False):
            more = None if of_sums is None else of_sums[:, None, :]
            if of_products is not None:
                # Of a product of channels i and j, each gets the other's share of the gradient.
                twice = of_products + of_products.transpose(1, 2)
                flat = _by_pixel(feats)
                twice = twice.to(flat.dtype)
                grad = (
                    torch.bmm(flat, twice)
                    if more is None
                    else torch.baddbmm(more.to(flat.dtype), flat, twice)
                )
            elif more is not None:
                grad = more.expand(b, h * w, c)
            else:
                return None, None
            # A pixel's weight is in the sums once, so it is in the gradient once.
            if weight is not None:
                grad = grad * _in_rows(weight).to(grad.dtype)
            return grad.reshape(b, h, w, c).permute(0, 3, 1, 2).to(feats.dtype), None


def _in_rows(weight: Tensor) -> Tensor:
    """Return weights (B, 1, H, W) as (B, H W, 1)."""
    return weight.reshape(len(weight), -1, 1)


def _by_pixel(feats: Tensor) -> Tensor:
    """Return features (B, C, H, W) as (B, H W, C): a view if they are in channels last."""
    b, c, h, w = feats.shape
    as_it_is = feats.dtype == torch.bfloat16 and feats.device.type == "cpu"
    return (feats if as_it_is else feats.float()).permute(0, 2, 3, 1).reshape(b, h * w, c)
