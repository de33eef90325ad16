"""What the objective looks at: features of VGG at several scales, and their moments (Gram matrix
and mean).

What it is not: the objective itself (losses.py). Two ways to the same numbers: `observe` keeps
every activation of an image for the backward pass, as training does on its small crops; with `lean`
it keeps next to none of the first two blocks, which at 1024 x 1024 pixels hold most of the memory,
and computes them again, strip by strip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from faststyle.perceptual.vgg import VGG, Feats, deepest_block

Layers = Mapping[str, float]

# the name of a scale -> the side of the pixels that are averaged
SCALES = {"1": 1, "1/2": 2, "1/4": 4}
# that are computed in strips: at 1024 x 1024 pixels their activations would take a gigabyte
STRIP_BLOCKS = 2
STRIP_PIXELS = 2**17  # a strip's 64 channels in float32 are 32 MiB
# rows beyond a strip: 2 for the convolutions of block 1, twice 2 for block 2, up to a whole pooled
# row
HALO = 8
TINY = 1e-12  # keeps an empty mask from dividing by zero


class FeatureMoments(NamedTuple):
    """Second and first moment of features over pixels: `gram` (B, C, C), divided by C, and `mean` (B, C)."""

    gram: Tensor
    mean: Tensor


class Observed(NamedTuple):
    """What the objective needs of an image.

    Features of the content layers and of those that are watched, moments of the style layers by
    mask.
    """

    feats: Feats
    moments: list[dict[str, FeatureMoments]]


def gram(feats: Tensor) -> Tensor:
    """Return the Gram matrices (B, C, C) of features (B, C, H, W), divided by C H W, in float32.

    The division is that of Johnson et al. (2016), equation 3. The sums, over tens of thousands of
    pixels, are those of float32 whatever the precision of the features.
    """
    _, c, h, w = feats.shape
    products: Tensor = _Sums.apply(feats, None)[0]
    return products / (c * h * w)


def moments(feats: Tensor, mask: Tensor | None = None) -> FeatureMoments:
    """Return the moments of features (B, C, H, W), weighted by `mask`, (1, 1, h, w) in [0, 1],
    where there is one.

    The mask is averaged over what each feature stands for. Differs from Gatys et al., "Controlling
    perceptual factors in neural style transfer" (2017), section 4,
    https://arxiv.org/abs/1611.07865: they multiply features by the mask, so that a half-transparent
    pixel counts a quarter; here it counts half.
    """
    _, c, h, w = feats.shape
    weight = None if mask is None else F.adaptive_avg_pool2d(mask, (h, w))
    products, sums = _Sums.apply(feats, weight)
    total = h * w if weight is None else weight.sum().clamp_min(TINY)
    return FeatureMoments(products / (c * total), sums / total)


def split_scales(layers: Iterable[str]) -> dict[int, list[str]]:
    """Return {side of the averaged pixels: layer names at that scale}, in the order of `layers`."""
    by_scale: dict[int, list[str]] = defaultdict(list)
    for key in layers:
        layer, _, scale = key.partition("@")
        by_scale[SCALES[scale or "1"]].append(layer)
    return dict(by_scale)


def extract(vgg: VGG, image: Tensor, layers: Iterable[str]) -> Feats:
    """Return the features of `layers` ("relu4_1", "relu4_1@1/2").

    Each scale is computed only as deep as it is needed. Smaller scales are means over squares of
    pixels: antialiased, and exact for sides that they divide.
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
    watched: Sequence[str] = (),
) -> Observed:
    """Return what the objective needs of `image`, (B, 3, H, W) in [0, 1].

    Each mask is (1, 1, h, w), or None for all. Features of the layers `watched` are returned
    beside those of content; not with `lean`, which computes the first two blocks twice, and keeps
    next to nothing of them in between.
    """
    if not lean:
        feats = extract(vgg, image, dict.fromkeys([*content, *style, *watched]))
        found = [{layer: moments(feats[layer], mask) for layer in style} for mask in masks]
        return Observed({layer: feats[layer] for layer in (*content, *watched)}, found)
    feats = {}
    by_mask: list[dict[str, FeatureMoments]] = [{} for _ in masks]
    content_at = split_scales(content)
    style_at = split_scales(style)
    for side in split_scales({**content, **style}):
        part = _observe_lean(
            vgg, _shrink(image, side), content_at.get(side, []), style_at.get(side, []), masks
        )
        feats |= {name + _suffix(side): f for name, f in part.feats.items()}
        for all_found, here in zip(by_mask, part.moments, strict=True):
            all_found |= {name + _suffix(side): m for name, m in here.items()}
    return Observed(feats, by_mask)


def _observe_lean(
    vgg: VGG, image: Tensor, content: list[str], style: list[str], masks: Sequence[Tensor | None]
) -> Observed:
    wanted = {*content, *style}
    vgg.check_size(image, wanted)
    last = deepest_block(wanted)
    x, seen = _observe_in_strips(vgg, image, content, style, masks)
    if last > STRIP_BLOCKS:
        _, found = vgg.run(x, range(STRIP_BLOCKS + 1, last + 1), wanted)
        seen.feats.update({n: f for n, f in found.items() if n in content})
        for moments_of, mask in zip(seen.moments, masks, strict=True):
            moments_of.update({n: moments(f, mask) for n, f in found.items() if n in style})
    return seen


class _Strip(NamedTuple):
    """What one strip adds: its rows of what is pooled at the end and of content features, and sums for moments."""

    pooled: Tensor
    feats: Feats
    sums: list[dict[str, tuple[Tensor, Tensor]]]


def _observe_in_strips(
    vgg: VGG, image: Tensor, content: list[str], style: list[str], masks: Sequence[Tensor | None]
) -> tuple[Tensor, Observed]:
    """Run the first two blocks strip by strip, each computed again in the backward pass.

    Returns what block 3 starts from, and what was observed. Rows near a cut see zeros where their
    neighbours are; the halo keeps these rows out of everything that is returned.
    """
    b, _, h, w = image.shape
    wanted = {*content, *style}
    shallow = {n for n in wanted if _block_of(n) <= STRIP_BLOCKS}
    last = deepest_block(wanted)
    # Each mask as each block sees it.
    sized = [
        {n: F.adaptive_avg_pool2d(m, (h >> n - 1, w >> n - 1)) for n in range(1, STRIP_BLOCKS + 1)}
        if m is not None
        else None
        for m in masks
    ]

    def run(strip: Tensor, top: int, bottom: int, above: int) -> _Strip:
        x, found = vgg.run(vgg.normalise(strip), range(1, min(STRIP_BLOCKS, last) + 1), wanted)
        feats: Feats = {}
        sums: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in masks]
        for name, f in found.items():
            halvings = _block_of(name) - 1
            f = f[:, :, above >> halvings : above + bottom - top >> halvings]
            if name in content:
                feats[name] = f
            if name in style:
                for sums_of, mask in zip(sums, sized, strict=True):
                    rows = slice(top >> halvings, bottom >> halvings)
                    weight = None if mask is None else mask[halvings + 1][:, :, rows]
                    sums_of[name] = _Sums.apply(f, weight)
        if last > STRIP_BLOCKS:
            x = vgg.pool(x, STRIP_BLOCKS)
        start = above >> STRIP_BLOCKS
        stop = above + bottom - top >> STRIP_BLOCKS
        return _Strip(x[:, :, start:stop] if last > STRIP_BLOCKS else x[:, :, :0], feats, sums)

    parts = []
    step = 2**STRIP_BLOCKS  # rows that are pooled to one
    rows = max(step, STRIP_PIXELS // (b * w) // step * step)
    # what is less than a pooled row goes with the strip before it
    tops = list(range(0, max(1, h - step + 1), rows))
    for top, bottom in zip(tops, [*tops[1:], h], strict=True):
        above = min(HALO, top)
        below = min(HALO, h - bottom)
        strip = image[:, :, top - above : bottom + below]
        parts.append(checkpoint(run, strip, top, bottom, above, use_reentrant=False))
    feats = {n: torch.cat([part.feats[n] for part in parts], 2) for n in shallow if n in content}
    by_mask = []
    for i, mask in enumerate(sized):
        found_moments = {}
        for n in (n for n in shallow if n in style):
            products = torch.stack([part.sums[i][n][0] for part in parts]).sum(0)
            sums = torch.stack([part.sums[i][n][1] for part in parts]).sum(0)
            block = _block_of(n)
            total = (
                (h >> block - 1) * (w >> block - 1)
                if mask is None
                else mask[block].sum().clamp_min(TINY)
            )
            found_moments[n] = FeatureMoments(products / (products.shape[-1] * total), sums / total)
        by_mask.append(found_moments)
    return torch.cat([part.pooled for part in parts], 2), Observed(feats, by_mask)


class _Sums(torch.autograd.Function):
    """Sums over pixels of products of channels (B, C, C) and of channels (B, C), in float32, each
    pixel weighted.

    The gradients of both come from one matrix product, in the layout of training. CPUs multiply
    bf16 as it is, with sums in float32 that are rounded once, at the end: a Gram matrix is 0.2 %
    off, at a third of the time or less. Elsewhere sums may be rounded in between: features become
    float32 first.
    """

    @staticmethod
    def forward(ctx: Any, feats: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sums for features (B, C, H, W) and weights (1, 1, H, W)."""
        ctx.save_for_backward(feats, weight)
        ctx.set_materialize_grads(False)
        with torch.autocast(feats.device.type, enabled=False):
            flat = _by_pixel(feats, weight)
            weighted = flat if weight is None else flat * weight.reshape(1, -1, 1)
            return torch.bmm(weighted.transpose(1, 2), flat).float(), weighted.sum(
                1, dtype=torch.float32
            )

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
                twice = of_products + of_products.transpose(1, 2)
                flat = _by_pixel(feats, weight)
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
            if weight is not None:
                grad = grad * weight.reshape(1, -1, 1)
            return grad.reshape(b, h, w, c).permute(0, 3, 1, 2).to(feats.dtype), None


def _by_pixel(feats: Tensor, weight: Tensor | None) -> Tensor:
    """Return features (B, C, H, W) as (B, H W, C): of channels last, the layout of training, a view."""
    b, c, h, w = feats.shape
    as_it_is = feats.dtype == torch.bfloat16 and feats.device.type == "cpu" and weight is None
    return (feats if as_it_is else feats.float()).permute(0, 2, 3, 1).reshape(b, h * w, c)


def _block_of(layer: str) -> int:
    return int(layer.removeprefix("relu")[0])


def _shrink(image: Tensor, side: int) -> Tensor:
    return image if side == 1 else F.avg_pool2d(image, side)


def _suffix(side: int) -> str:
    return "" if side == 1 else "@" + next(name for name, s in SCALES.items() if s == side)
