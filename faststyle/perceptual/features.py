"""What the objective looks at: features of VGG at several scales, and their moments (Gram matrix and mean).

What it is not: the objective itself (losses.py). Two ways to the same numbers: `observe` keeps every activation of an
image for the backward pass, as training does on its small crops; with `lean` it keeps next to none of the first two
blocks, which at 1024 x 1024 pixels hold most of the memory, and computes them again, the first one strip by strip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from faststyle.perceptual.vgg import VGG, Feats, deepest_block

Layers = Mapping[str, float]

SCALES = {"1": 1, "1/2": 2, "1/4": 4}  # the name of a scale -> the side of the pixels that are averaged
HALO = 2  # rows that the two 3x3 convolutions of block 1 reach beyond a strip
STRIP_PIXELS = 2**16  # a strip's 64 channels in float32 are 16 MiB
LEAN_BLOCKS = 2  # blocks that are computed again in the backward pass
TINY = 1e-12  # keeps an empty mask from dividing by zero


class Moments(NamedTuple):
    """Second and first moment of features over pixels: `gram` (B, C, C), divided by C, and `mean` (B, C)."""

    gram: Tensor
    mean: Tensor


class Observed(NamedTuple):
    """What the objective needs of an image: features of the content layers, moments of the style layers by mask."""

    feats: Feats
    moments: list[dict[str, Moments]]


def gram(feats: Tensor) -> Tensor:
    """Return the Gram matrices (B, C, C) of features (B, C, H, W), divided by C H W, in float32.

    The division is that of Johnson et al. (2016), equation 3. Under autocast the product would accumulate in the
    lower precision, over tens of thousands of pixels: it is computed in float32.
    """
    _, c, h, w = feats.shape
    return _products(feats) / (c * h * w)


def moments(feats: Tensor, mask: Tensor | None = None) -> Moments:
    """Return the moments of features (B, C, H, W), weighted by `mask`, (1, 1, h, w) in [0, 1], where there is one.

    The mask is averaged over what each feature stands for. Differs from Gatys et al., "Controlling perceptual
    factors in neural style transfer" (2017), section 4, https://arxiv.org/abs/1611.07865: they multiply features by
    the mask, so that a half-transparent pixel counts a quarter; here it counts half.
    """
    if mask is None:
        return Moments(gram(feats), feats.float().mean((2, 3)))
    weight = F.adaptive_avg_pool2d(mask, (feats.shape[2], feats.shape[3]))
    products, sums = _weighted_sums(feats, weight)
    total = weight.sum().clamp_min(TINY)
    return Moments(products / (feats.shape[1] * total), sums / total)


def split_scales(layers: Layers) -> dict[int, list[str]]:
    """Return {side of the averaged pixels: layer names at that scale}, in the order of `layers`."""
    by_scale: dict[int, list[str]] = defaultdict(list)
    for key in layers:
        layer, _, scale = key.partition("@")
        by_scale[SCALES[scale or "1"]].append(layer)
    return dict(by_scale)


def extract(vgg: VGG, image: Tensor, layers: Layers) -> Feats:
    """Return the features of `layers` ("relu4_1", "relu4_1@1/2"), each scale computed only as deep as it is needed.

    Smaller scales are means over squares of pixels: antialiased, and exact for sides that they divide.
    """
    feats: Feats = {}
    for side, wanted in split_scales(layers).items():
        feats |= {name + _suffix(side): f for name, f in vgg(_shrink(image, side), wanted).items()}
    return feats


def observe(
    vgg: VGG,
    image: Tensor,
    content: Layers,
    style: Layers,
    masks: Sequence[Tensor | None] = (None,),
    lean: bool = False,
) -> Observed:
    """Return what the objective needs of `image`, (B, 3, H, W) in [0, 1]; each mask is (1, 1, h, w), or None for all.

    `lean` trades about a sixth more computation for a fraction of the memory.
    """
    if not lean:
        feats = extract(vgg, image, {**content, **style})
        by_mask = [{layer: moments(feats[layer], mask) for layer in style} for mask in masks]
        return Observed({layer: feats[layer] for layer in content}, by_mask)
    feats = {}
    by_mask = [{} for _ in masks]
    content_at, style_at = split_scales(content), split_scales(style)
    for side in split_scales({**content, **style}):
        part = _observe_lean(vgg, _shrink(image, side), content_at.get(side, []), style_at.get(side, []), masks)
        feats |= {name + _suffix(side): f for name, f in part.feats.items()}
        for all_found, found in zip(by_mask, part.moments, strict=True):
            all_found |= {name + _suffix(side): m for name, m in found.items()}
    return Observed(feats, by_mask)


def _observe_lean(
    vgg: VGG, image: Tensor, content: list[str], style: list[str], masks: Sequence[Tensor | None]
) -> Observed:
    wanted = {*content, *style}
    vgg.check_size(image, wanted)
    last = deepest_block(wanted)
    x, feats, by_mask = _first_block(vgg, image, content, style, masks, pool=last > 1)
    for number in range(2, last + 1):

        def run(
            x: Tensor, number: int = number, here: tuple[str, ...] = tuple(n for n in wanted if _block_of(n) == number)
        ) -> tuple[Tensor, Observed]:
            x, found = vgg.block(x, number, wanted)
            kept = Observed(
                {n: found[n] for n in here if n in content},
                [{n: moments(found[n], mask) for n in here if n in style} for mask in masks],
            )
            return (vgg.pool(x, number) if number < last else x), kept

        x, part = checkpoint(run, x, use_reentrant=False) if number <= LEAN_BLOCKS else run(x)
        feats |= part.feats
        for all_found, found in zip(by_mask, part.moments, strict=True):
            all_found |= found
    return Observed(feats, by_mask)


def _first_block(
    vgg: VGG, image: Tensor, content: list[str], style: list[str], masks: Sequence[Tensor | None], pool: bool
) -> tuple[Tensor, Feats, list[dict[str, Moments]]]:
    """Run block 1 strip by strip, each computed again in the backward pass: what is pooled, features, moments."""
    b, _, h, w = image.shape
    wanted = {n for n in (*content, *style) if _block_of(n) == 1}
    sized = [None if m is None else F.adaptive_avg_pool2d(m, (h, w)) for m in masks]
    rows = max(2, STRIP_PIXELS // (b * w) // 2 * 2)  # even, for pooling
    tops = list(range(0, max(1, h - 1), rows))  # a single last row goes with the strip before it
    pooled, feats = [], defaultdict(list)
    sums: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in masks]
    for top, bottom in zip(tops, [*tops[1:], h], strict=True):
        above, below = min(HALO, top), min(HALO, h - bottom)
        strip = image[:, :, top - above : bottom + below]

        def run(
            strip: Tensor, top: int = top, bottom: int = bottom, above: int = above
        ) -> tuple[Tensor, Feats, list[dict[str, tuple[Tensor, Tensor]]]]:
            deeper = {*wanted, "relu2_1"} if pool else wanted  # where there is more to come, the block runs to its end
            x, found = vgg.block(vgg.normalise(strip), 1, deeper)
            inner = slice(above, above + bottom - top)
            found = {n: f[:, :, inner] for n, f in found.items()}
            x = vgg.pool(x[:, :, inner], 1) if pool else x[:, :, :0]
            parts = [
                {
                    n: _weighted_sums(found[n], None if mask is None else mask[:, :, top:bottom])
                    for n in wanted
                    if n in style
                }
                for mask in sized
            ]
            return x, {n: f for n, f in found.items() if n in content}, parts

        x, found, parts = checkpoint(run, strip, use_reentrant=False)
        pooled.append(x)
        for n, f in found.items():
            feats[n].append(f)
        for all_sums, part in zip(sums, parts, strict=True):
            for n, (products, means) in part.items():
                before = all_sums.get(n)
                all_sums[n] = (products, means) if before is None else (before[0] + products, before[1] + means)
    by_mask = []
    for mask, found_sums in zip(sized, sums, strict=True):
        total = h * w if mask is None else mask.sum().clamp_min(TINY)
        by_mask.append({n: Moments(p / (p.shape[-1] * total), m / total) for n, (p, m) in found_sums.items()})
    return torch.cat(pooled, 2), {n: torch.cat(f, 2) for n, f in feats.items()}, by_mask


def _products(feats: Tensor) -> Tensor:
    """Return the sums over pixels of the products of channels, (B, C, C), in float32."""
    b, c, h, w = feats.shape
    with torch.autocast(feats.device.type, enabled=False):
        # Channels last is the layout of training: this view of it costs no copy.
        flat = feats.float().permute(0, 2, 3, 1).reshape(b, h * w, c)  # (B, H W, C)
        return torch.bmm(flat.transpose(1, 2), flat)  # (B, C, C)


def _weighted_sums(feats: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sums over pixels of products of channels (B, C, C) and of channels (B, C), each pixel weighted."""
    if weight is None:
        return _products(feats), feats.float().sum((2, 3))
    return _products(feats * weight.sqrt()), (feats * weight).float().sum((2, 3))


def _block_of(layer: str) -> int:
    return int(layer.removeprefix("relu")[0])


def _shrink(image: Tensor, side: int) -> Tensor:
    return image if side == 1 else F.avg_pool2d(image, side)


def _suffix(side: int) -> str:
    return "" if side == 1 else "@" + next(name for name, s in SCALES.items() if s == side)
