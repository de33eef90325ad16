"""The perceptual objective: content and style by VGG's features, light, and total variation.

One objective serves training, for the output of a network, and the slow path, for the image that is
optimised. It is a fixed function of the output and the photo. Results are scored by another
function, which nothing is trained on: the judge (judge/).

Sources: Gatys, Ecker, Bethge, "A neural algorithm of artistic style" (2015),
https://arxiv.org/abs/1508.06576; Johnson, Alahi, Fei-Fei (2016), section 3.2,
https://arxiv.org/abs/1603.08155
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.errors import RecipeError
from faststyle.perceptual.features import extract, observe
from faststyle.perceptual.light import (
    light_error,
    light_kept,
    luminance,
    palette,
    recolour,
    squares,
)
from faststyle.perceptual.loss_config import LossConfig, Weights
from faststyle.perceptual.moments import TINY, FeatureMoments
from faststyle.perceptual.texture import texture, textured
from faststyle.perceptual.vgg import VGG, Feats

# The variance of a photo's features counts as at least this share of the painting's. A flat photo
# has next to none: its relative error would drown those of all others.
CONTENT_FLOOR = 0.5

# Features above the photo's count this share of features below it. Strokes on flat places are
# wanted; a face that is wiped out is not.
ADDED = 0.25

# The squared covariance of a painting counts as at least this share of its squared Gram matrix. A
# flat painting has next to none.
STYLE_FLOOR = 0.01

# With `apart`, the squared covariance of flat places of a painting counts as at least this share of
# that of the whole painting.
PLACE_FLOOR = 0.1

PLACES = ("_flat", "_textured")  # the ends of the names of their targets

SQUARES = "squares"  # the key of the photo's colours among the targets
TEXTURED = "textured"  # the key of the mask of the photo's textured places
PALETTE = "palette"  # the key of the painting's colours


class Terms(NamedTuple):
    """The objective of a batch: scalars, means over its images, and two values for each image.

    `total` is the weighted sum that is minimised. `content`, `style`, `mean`, `tv` and `light` are
    its parts, weighted. `content_error` and `content_variance`, (B,), are the squared errors of the
    content layers, and the variances of the photo's features there. Their ratio, `content_rel`, and
    `style_rel` are unweighted relative errors, comparable between runs and paintings: 0 is perfect,
    and features without any structure get 1. `light_kept` is the correlation of light and dark with
    the photo's. `adversarial` is the term that a critic adds to the total in training
    (training/critic.py), `stability` how much pictures change as photos move
    (training/stability.py); elsewhere both are 0.
    """

    total: Tensor
    content: Tensor
    style: Tensor
    mean: Tensor
    tv: Tensor
    light: Tensor
    content_error: Tensor
    content_variance: Tensor
    style_rel: Tensor
    light_kept: Tensor
    adversarial: Tensor
    stability: Tensor

    @property
    def content_rel(self) -> Tensor:
        """The errors of all images over the variances of all.

        A flat photo, whose own ratio would be huge, then hardly counts.
        """
        return self.content_error.mean() / self.content_variance.mean().clamp_min(TINY)

    def scalars(self) -> Tensor:
        """Return the means of all fields over the batch, detached, in float32, as one tensor."""
        return torch.stack([value.detach().float().mean() for value in self])

    def named(self) -> dict[str, Tensor]:
        """Return the total, its parts, and the values that are comparable between runs, by name."""
        parts = ("total", "content", "style", "mean", "tv", "light")
        comparable = ("content_rel", "style_rel", "light_kept")
        return {name: getattr(self, name) for name in parts + comparable}

    @staticmethod
    def only(total: Tensor) -> Terms:
        """Return terms with this total, and 0 for all others."""
        others = [torch.zeros_like(total).detach() for _ in Terms._fields[1:]]
        return Terms(total, *others)

    @staticmethod
    def means(terms: Sequence[Terms]) -> Terms:
        """Return the terms of several batches of one size together."""
        return Terms(*(torch.stack(values).mean() for values in zip(*terms, strict=True)))


class _Place(NamedTuple):
    """Pixels that are compared with the same kind of pixels of the painting.

    `name` is the end of the names of their targets, `mask` is (B, 1, H, W), `share` is (B,).
    """

    name: str
    mask: Tensor | None
    share: Tensor | float


def relative_error(x: Tensor, target: Tensor, norm: Tensor) -> Tensor:
    """Return sum (x - target)^2 / norm over all but the first dimension: (B,).

    `norm` is a scalar or (B,).
    """
    off = (x.float() - target.float()).flatten(1)
    squared: Tensor = torch.linalg.vector_norm(off, dim=1).square()
    return squared / norm.clamp_min(TINY)


def centred(gram: Tensor, mean: Tensor) -> Tensor:
    """Return the covariances, divided by C, of features with these Gram matrices and means.

    `gram` is (..., C, C) and divided by C, `mean` is (..., C), as in `FeatureMoments`.
    """
    scaled = mean / mean.shape[-1] ** 0.5
    return torch.addcmul(gram, scaled.unsqueeze(-1), scaled.unsqueeze(-2), value=-1)


def dampen(error: Tensor) -> Tensor:
    """Return sqrt(1 + 2 e) - 1: about e where it is small, and the root of 2 e where it is large.

    Covariances are squares of contrast, so their squared errors are fourth powers. A photo's error
    is 60 against a misty painting, and 1 against most others. Without damping, a network of many
    paintings would learn the misty ones only.
    """
    return torch.sqrt(1 + 2 * error) - 1


def total_variation(image: Tensor) -> Tensor:
    """Return the sum of squared differences of neighbours, both ways, divided by 3 H W: (B,).

    Source: Johnson et al. (2016), section 3.2, who follow Mahendran and Vedaldi (2015) with an
    exponent of 2.
    """
    _, c, h, w = image.shape
    across = (image[..., :, 1:] - image[..., :, :-1]).square().flatten(1).sum(1)
    down = (image[..., 1:, :] - image[..., :-1, :]).square().flatten(1).sum(1)
    return (across + down) / (c * h * w)


@dataclass(frozen=True)
class WeightedPainting:
    """A painting with its weight among several, and the region of the output where it applies.

    `painting` is (1, 3, H, W) in [0, 1], at the size at which its strokes are to be learned.
    `weight` is relative to the weights of the other paintings. `mask` is (1, 1, h, w) in [0, 1], of
    any size: 1 where the style applies. Without a mask it applies everywhere.
    """

    painting: Tensor
    weight: float = 1.0
    mask: Tensor | None = None


class PerceptualLoss(nn.Module):
    """The objective of one painting, or of several, as a fixed function of (stylized, photo).

    `style` is a painting, RGB, (1, 3, H, W), in [0, 1], at the size at which its strokes are to be
    learned, or several `WeightedPainting`. Of several, the terms are averaged by weight, times the
    share of the output that a mask covers. `lean` saves memory on large images (features.py).
    `judge` returns the features of the layers `watched` beside the terms.

    Relative terms are weighted means over their layers. For an output y, a photo x and a
    painting s:

    - Content is sum (phi(y) - phi(x))^2 / sum (phi(x) - mean phi(x))^2, with one mean for each
      image. The denominator is at least half (`CONTENT_FLOOR`) of the same sum for the painting.
      Where phi(y) is above phi(x), the square counts a quarter (`ADDED`), but not with `gram`.
    - Style is ||C(y) - C(s)||^2 / ||C(s)||^2 of the covariances C of channels. Large errors are
      dampened (`dampen`).
    - Mean is the same of the means of channels, without damping.
    - With `apart`, style and mean are those of flat places, where the photo is flat, against flat
      places of the painting, and those of textured places likewise (texture.py). Each counts by its
      share of the photo. Places of the painting are flat below the median of its texture.

    Differs from Gatys et al. (2015), who compare Gram matrices (`gram`). A Gram matrix is the sum
    of covariances and products of means, and the means are most of it. So a picture all in the
    painting's mean colour is hardly wrong: The Scream, without its blacks and reds, has an error of
    0.13 in the Gram matrix of relu1_1, and of 0.51 in the covariances.

    Absolute terms (Johnson et al. 2016, equations 2 and 4) are squared errors of features divided
    by C H W, and of Gram matrices, summed over layers.

    Example:
        >>> loss = PerceptualLoss(vgg, painting, LossConfig())
        >>> loss(network(photo), loss.targets(photo)).total.backward()
    """

    balance: Tensor

    def __init__(
        self,
        vgg: VGG,
        style: Tensor | Sequence[WeightedPainting],
        config: LossConfig,
        arch: str = "vgg16",
        lean: bool = False,
        watched: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.watched = watched
        styles = [WeightedPainting(style)] if isinstance(style, Tensor) else list(style)
        self.vgg = vgg.requires_grad_(False).eval()
        self.arch = arch
        self.mode = config.mode
        self.lean = lean
        self.gram = config.gram or config.mode == "absolute"
        self.apart = config.apart
        self.contrast = config.contrast
        self.weights = config.weights()
        self.content_layers, self.style_layers = config.layers(arch)
        self.shares = _shares(styles)
        self.paintings = [part.painting for part in styles]
        self.register_buffer("balance", torch.full((len(styles),), float(config.balance)))
        self.style_targets = _Buffers()
        self.masks = _Buffers()
        for i, part in enumerate(styles):
            self.masks.register_buffer(f"mask{i}", part.mask)
        with torch.no_grad():
            observed = [self._observe_painting(part.painting) for part in styles]
        for key in observed[0]:
            self.style_targets.register_buffer(key, torch.stack([o[key] for o in observed]))

    def _observe_painting(self, painting: Tensor) -> dict[str, Tensor]:
        """Return the targets of a painting, by name.

        These are "variance{i}" for each content layer; for each style layer "gram{i}" (the
        covariance, unless Gram matrices are compared), its "norm{i}" and "mean{i}"; and "palette".
        With `apart` there are "gram{i}_flat", "gram{i}_textured" and so on too.
        """
        masks: list[Tensor | None] = [None]
        if self.apart:
            mask = textured(painting, texture(painting).median())
            masks += [1 - mask, mask]
        layers = (self.content_layers, self.style_layers)
        seen = observe(self.vgg, painting, *layers, masks, self.lean)
        found = {}
        for i, layer in enumerate(self.content_layers):
            variance = seen.feats[layer].float().var(correction=0)  # of one element
            found[f"variance{i}"] = variance.clamp_min(TINY)
        for i, layer in enumerate(self.style_layers):
            for place, moments in zip(("", *PLACES), seen.moments, strict=False):
                whole, mean = (moment[0] for moment in moments[layer])
                target = whole if self.gram else centred(whole, mean)
                norm = target.square().sum()
                floor = norm.new_zeros(()) if self.gram else STYLE_FLOOR * whole.square().sum()
                if place:
                    floor = torch.maximum(floor, PLACE_FLOOR * found[f"norm{i}"])
                found[f"gram{i}{place}"] = target
                found[f"norm{i}{place}"] = norm.clamp_min(floor)
                found[f"mean{i}{place}"] = mean
        found[PALETTE] = palette(painting)
        return found

    @torch.no_grad()
    def targets(self, photo: Tensor) -> Feats:
        """Return the photo's features of the content layers, and its colours in squares.

        With `apart`, there is the mask of its textured places too.
        """
        if self.lean:
            feats = observe(self.vgg, photo, self.content_layers, {}, lean=True).feats
        else:
            feats = extract(self.vgg, photo, self.content_layers)
        feats = {**feats, SQUARES: squares(photo)}
        return {**feats, TEXTURED: textured(photo)} if self.apart else feats

    @torch.no_grad()
    def recoloured(self, photo: Tensor, which: Tensor) -> Tensor:
        """Return photos, (B, 3, H, W), in the colours of the paintings `which`, (B,)."""
        return recolour(photo, self._of_paintings(PALETTE, which), self.contrast)

    def forward(self, stylized: Tensor, targets: Feats, which: Tensor | None = None) -> Terms:
        """Return the terms of the objective for `stylized`, (B, 3, H, W), against `targets(photo)`.

        With `which`, (B,), each image is compared with one painting only, by its number.
        """
        return self.evaluate(stylized, targets, which)[0]

    def evaluate(
        self,
        stylized: Tensor,
        targets: Feats,
        which: Tensor | None = None,
    ) -> tuple[Terms, Feats]:
        """Return the terms, as `forward` does, and the features of the layers `watched`."""
        masks: list[Tensor | None] = [
            self.masks.get_buffer(f"mask{i}") for i in range(len(self.shares))
        ]
        if which is not None or all(m is None for m in masks):
            masks = [None]  # the same moments serve all paintings
        layers = (self.content_layers, self.style_layers)
        places = [self._places(targets, mask) for mask in masks]
        cut = [place.mask for part in places for place in part]
        seen = observe(self.vgg, stylized, *layers, cut, self.lean, self.watched)
        content, error, variance = self._content(seen.feats, targets, which)
        moments = iter(seen.moments)
        found = [[(place, next(moments)) for place in part] for part in places]
        if which is not None:
            style, mean, style_rel = self._style(found[0], which)
        else:
            # Without masks there is one set of moments, which is compared with every painting.
            found = found * len(self.shares) if len(masks) == 1 else found
            each = [self._style(part, i) for i, part in enumerate(found)]
            style, mean, style_rel = (self._blend(values) for values in zip(*each, strict=True))
        seen_squares = squares(stylized)
        colours = self._of_paintings(PALETTE, which)
        light = dampen(light_error(seen_squares, targets[SQUARES], colours, self.contrast))
        # reported only, so it needs no gradient
        kept = light_kept(luminance(seen_squares.detach()), luminance(targets[SQUARES]))
        parts = (content, style, mean, total_variation(stylized.float()), light)
        weighted = [w * part.mean() for w, part in zip(self.weights, parts, strict=True)]
        terms = Terms(
            total=torch.stack(weighted).sum(),
            **dict(zip(Weights._fields, weighted, strict=True)),
            content_error=error.detach(),
            content_variance=variance,
            style_rel=style_rel.mean(),
            light_kept=kept.mean(),
            adversarial=torch.zeros_like(weighted[0]),
            stability=torch.zeros_like(weighted[0]),
        )
        return terms, {layer: seen.feats[layer] for layer in self.watched}

    def _blend(self, values: Sequence[Tensor] | Tensor) -> Tensor:
        """Return the mean over styles of one value for each, weighted by their shares."""
        return torch.stack(
            [share * value for share, value in zip(self.shares, values, strict=True)]
        ).sum(0)

    def _of_paintings(self, name: str, which: Tensor | None) -> Tensor:
        """Return a target: that of each image's own painting, (B, ...), or a blend of all."""
        found = self.style_targets.get_buffer(name)
        return self._blend(found) if which is None else found[which]

    def _content(
        self, feats: Feats, targets: Feats, which: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the content term, the squared errors and the photo's variances, (B,) each."""
        terms = []
        errors = []
        variances = []
        for i, (layer, weight) in enumerate(self.content_layers.items()):
            target = targets[layer].float()
            of_painting = self._of_paintings(f"variance{i}", which)
            off = feats[layer].float() - target
            squared = off.square()
            if not self.gram:
                squared = squared * torch.where(off > 0, ADDED, 1.0)
            error = squared.flatten(1).mean(1)
            # (B,), about one mean for all channels
            variance = target.flatten(1).var(1, correction=0)
            errors.append(weight * error)
            variances.append(weight * variance)
            if self.mode == "relative":
                error = error / torch.maximum(variance, CONTENT_FLOOR * of_painting)
            terms.append(weight * error)
        content, error, variance = (
            torch.stack(values).sum(0) for values in (terms, errors, variances)
        )
        if self.mode == "relative":
            content = content / sum(self.content_layers.values())
        return content, error, variance

    def _places(self, targets: Feats, mask: Tensor | None) -> list[_Place]:
        """Return the places, within a mask, that are compared apart: all, or flat and textured."""
        if not self.apart:
            return [_Place("", mask, 1.0)]
        rough = targets[TEXTURED]
        whole = torch.ones_like(rough)
        if mask is not None:
            whole = F.interpolate(mask, size=rough.shape[-2:], mode="area").expand_as(rough)
        parts = (whole * (1 - rough), whole * rough)
        area = whole.mean((1, 2, 3)).clamp_min(TINY)
        return [
            _Place(name, part, part.mean((1, 2, 3)) / area)
            for name, part in zip(PLACES, parts, strict=True)
        ]

    def _style(
        self, found: Sequence[tuple[_Place, dict[str, FeatureMoments]]], which: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return style, mean and style_rel, (B,), of one painting, or of one for each image.

        `found` are places with their moments. The first two results are multiplied by the balance
        of the painting.
        """
        grams = []
        means = []
        relative = []
        for place, moments in found:
            for i, (layer, weight) in enumerate(self.style_layers.items()):
                g, m = moments[layer]
                target, norm, mean = (
                    self.style_targets.get_buffer(f"{name}{i}{place.name}")[which]
                    for name in ("gram", "norm", "mean")  # ([B,] C, C), ([B]) and ([B,] C)
                )
                if not self.gram:
                    g = centred(g, m)
                error = relative_error(g, target, norm)
                scale = weight * place.share
                relative.append(scale * error)
                means.append(scale * relative_error(m, mean, mean.square().sum(-1)))
                if self.mode == "absolute":
                    grams.append(scale * (g - target).square().flatten(1).sum(1))
                else:
                    grams.append(scale * (error if self.gram else dampen(error)))
        share = 1 / sum(self.style_layers.values())
        style_rel = torch.stack(relative).sum(0) * share
        mean_rel = torch.stack(means).sum(0) * share
        style = torch.stack(grams).sum(0) * (1.0 if self.mode == "absolute" else share)
        balance = self.balance[which]
        return balance * style, balance * mean_rel, style_rel


def _shares(styles: Sequence[WeightedPainting]) -> list[float]:
    """Return the share of each style: its weight, times the part of the output that it covers.

    The sum of all shares is 1.
    """
    parts = [s.weight * (1.0 if s.mask is None else float(s.mask.mean())) for s in styles]
    total = sum(parts)
    if not total > 0 or min(parts) < 0:
        raise RecipeError(
            "the weights of styles must not be negative, "
            "and one of them must cover a part of the image"
        )
    return [part / total for part in parts]


class _Buffers(nn.Module):
    """Holds tensors by name, so that they follow the loss to its device."""
