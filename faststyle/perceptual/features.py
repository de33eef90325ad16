"""What the objective sees of an image: features of VGG at several scales, and their moments.

There are two ways to the same numbers. Training keeps every activation of its small crops for the
backward pass. The `lean` way, for large images, keeps next to nothing of the first two blocks and
computes them again (strips.py). The objective itself is in losses.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from faststyle.perceptual.moments import FeatureMoments, moments
from faststyle.perceptual.strips import STRIP_BLOCKS, observe_in_strips
from faststyle.perceptual.vgg import VGG, Feats, deepest_block

Layers = Mapping[str, float]

# the name of a scale -> the side of the pixels that are averaged
SCALES = {"1": 1, "1/2": 2, "1/4": 4}


class Observed(NamedTuple):
    """Features of the content and watched layers; for each mask, moments of the style layers."""

    feats: Feats
    moments: list[dict[str, FeatureMoments]]


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
    """Return the features and moments of `image`, (B, 3, H, W) in [0, 1], that the objective needs.

    Each mask is (1, 1, h, w), or None for all pixels. Features of the layers `watched` are returned
    beside those of content, but not with `lean`. `lean` computes the first two blocks twice, and
    keeps next to nothing of them in between.
    """
    if not lean:
        # One pass for all layers: a layer of content may be one of style too.
        feats = extract(vgg, image, dict.fromkeys([*content, *style, *watched]))
        found = [{layer: moments(feats[layer], mask) for layer in style} for mask in masks]
        return Observed({layer: feats[layer] for layer in (*content, *watched)}, found)
    # Each scale is an image of its own, with its own strips.
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
    """Observe at one scale: the first two blocks in strips, deeper ones as a whole."""
    wanted = {*content, *style}
    vgg.check_size(image, wanted)
    last = deepest_block(wanted)
    x, feats, by_mask = observe_in_strips(vgg, image, content, style, masks)
    if last > STRIP_BLOCKS:
        _, found = vgg.run(x, range(STRIP_BLOCKS + 1, last + 1), wanted)
        feats |= {n: f for n, f in found.items() if n in content}
        for moments_of, mask in zip(by_mask, masks, strict=True):
            moments_of |= {n: moments(f, mask) for n, f in found.items() if n in style}
    return Observed(feats, by_mask)


def _shrink(image: Tensor, side: int) -> Tensor:
    return image if side == 1 else F.avg_pool2d(image, side)


def _suffix(side: int) -> str:
    return "" if side == 1 else "@" + next(name for name, s in SCALES.items() if s == side)
