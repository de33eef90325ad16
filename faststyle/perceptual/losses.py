"""The perceptual objective: content and style as VGG-16 sees them, and total variation.

One objective serves training (the output of a network is judged) and the slow path (an image is
optimised). It is a fixed function of the output and the photo. How good a result is, is judged
elsewhere, by something that nobody trains on.

Sources: Gatys, Ecker, Bethge, "A neural algorithm of artistic style" (2015),
https://arxiv.org/abs/1508.06576; Johnson, Alahi, Fei-Fei (2016), section 3.2,
https://arxiv.org/abs/1603.08155
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from faststyle.errors import RecipeError, did_you_mean
from faststyle.perceptual.features import SCALES, Layers, extract, observe
from faststyle.perceptual.light import (
    light_error,
    light_kept,
    luminance,
    palette,
    recolour,
    squares,
)
from faststyle.perceptual.moments import TINY, FeatureMoments
from faststyle.perceptual.vgg import VGG, Feats, deepest_block, layer_names

# Layers and their weights. "relu4_1@1/2" is relu4_1 of the image at half its size: deep features at
# a coarse scale see strokes twice as large, at a quarter of the cost.
CONTENT_LAYERS: dict[str, Layers] = {
    "gatys": {"relu4_2": 1.0},
    "johnson": {"relu3_3": 1.0},  # section 4.1 says relu3_3, the supplementary material relu2_2
    # At full size, as Johnson et al. (2016): faces are kept, and flat places are free for strokes.
    # Layers of a half and a quarter of the size ask for the opposite.
    "pyramid": {"relu2_2": 1.0, "relu3_3": 1.0},
}
STYLE_LAYERS: dict[str, Layers] = {
    "gatys": {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0},
    "johnson": {"relu1_2": 1.0, "relu2_2": 1.0, "relu3_3": 1.0, "relu4_3": 1.0},
    # Contrast and crisp strokes are in the shallow layers; relu5_1 published networks do not match
    # either.
    "pyramid": {
        "relu1_1": 2.0,
        "relu2_1": 1.5,
        "relu3_1": 1.5,
        "relu4_1": 1.5,
        "relu2_1@1/2": 1.0,
        "relu3_1@1/2": 1.0,
        "relu4_1@1/2": 1.0,
        "relu3_1@1/4": 0.5,
        "relu4_1@1/4": 0.5,
    },
}

# A flat photo has next to no variance to be relative to, and would drown the others: the variance
# of its features counts as at least this share of the painting's.
CONTENT_FLOOR = 0.5

# What is added to the photo's features counts this share of what is missing: strokes on flat places
# are wanted, a face that is wiped out is not.
ADDED = 0.25

# A flat painting has next to no covariance: it counts as at least this share of its Gram matrix.
STYLE_FLOOR = 0.01

SQUARES = "squares"  # the key of the photo's colours among the targets
PALETTE = "palette"  # the key of the painting's colours


class Weights(NamedTuple):
    """How much each term counts in the total."""

    content: float
    style: float
    mean: float
    tv: float
    light: float


# What each mode uses where nothing else is asked for. Relative: found by experiment, docs/log/objective.md.
# Absolute: the layers of Johnson et al., and the defaults of the code that they published with the
# paper (content 1, style 5, total variation 1e-6), on features of images in 0-255.
LAYER_SETS = {"relative": "pyramid", "absolute": "johnson"}
WEIGHTS = {
    "relative": Weights(content=1.0, style=2.5, mean=2.5, tv=3.0, light=2.0),
    "absolute": Weights(content=1.0, style=5.0, mean=0.0, tv=1e-6, light=0.0),
}


@dataclass(frozen=True)
class LossConfig:
    """What the objective is made of. Layers are a name of a set above, or a table of layer ->
    weight.

    Layers and weights of None are the mode's own. `strength` multiplies the style terms: the one
    knob to turn. At 0 only content is left, at infinity only style. `balance` multiplies them too:
    what training finds (balance.py). With `gram` relative terms compare Gram matrices, as Gatys et
    al. (2015) do, not covariances.
    """

    mode: Literal["relative", "absolute"] = "relative"
    content_layers: str | Layers | None = None
    style_layers: str | Layers | None = None
    strength: float = 1.0
    balance: float = 1.0
    gram: bool = False
    content_weight: float | None = None
    style_weight: float | None = None
    mean_weight: float | None = None
    tv_weight: float | None = None
    light_weight: float | None = None

    def layers(self, arch: str) -> tuple[dict[str, float], dict[str, float]]:
        """Return the layers of content and of style, each as {layer: weight}.

        Raises: RecipeError for an unknown set, layer or scale.
        """
        own = LAYER_SETS.get(self.mode, "pyramid")
        content = resolve_layers(
            own if self.content_layers is None else self.content_layers, CONTENT_LAYERS, arch
        )
        style = resolve_layers(
            own if self.style_layers is None else self.style_layers, STYLE_LAYERS, arch
        )
        return content, style

    def weights(self) -> Weights:
        """Return the weights of the terms: those given, else those of the mode.

        Raises: RecipeError for an unknown mode.
        """
        if self.mode not in WEIGHTS:
            raise RecipeError(f"unknown loss.mode {self.mode!r}.{did_you_mean(self.mode, WEIGHTS)}")
        own = WEIGHTS[self.mode]
        given = (
            self.content_weight,
            self.style_weight,
            self.mean_weight,
            self.tv_weight,
            self.light_weight,
        )
        weights = Weights(*(o if g is None else g for o, g in zip(own, given, strict=True)))
        if math.isinf(self.strength):
            return weights._replace(content=0.0, light=0.0)
        if self.strength == 0:
            weights = weights._replace(light=0.0)  # it asks for the painting's range
        return weights._replace(
            style=self.strength * weights.style, mean=self.strength * weights.mean
        )


class Terms(NamedTuple):
    """The objective of a batch; each a scalar, the mean over its images, but for two.

    `total` is the weighted sum that is minimised; `content`, `style`, `mean`, `tv` and `light` are
    its parts, weighted. `content_error` and `content_variance`, (B,), are the squared errors of the
    content layers and the variances of the photo's. Their ratio, `content_rel`, and `style_rel` are
    unweighted relative errors, comparable between runs and paintings: 0 is perfect; 1 is what
    features without any structure would get, of content and of style alike. `light_kept`
    is the correlation of light and dark with the photo's. `adversarial` is what a critic adds to
    the total in training (training/critic.py); elsewhere it is 0.
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

    @property
    def content_rel(self) -> Tensor:
        """The errors of all images over the variances of all, so that a flat photo weighs no more than it holds."""
        return self.content_error.mean() / self.content_variance.mean().clamp_min(TINY)

    def scalars(self) -> Tensor:
        """Return the means of all fields over the batch, detached, in float32, as one tensor."""
        return torch.stack([value.detach().float().mean() for value in self])

    def named(self) -> dict[str, Tensor]:
        """Return the total, its parts, and what is comparable between runs, by name."""
        parts = ("total", "content", "style", "mean", "tv", "light")
        comparable = ("content_rel", "style_rel", "light_kept")
        return {name: getattr(self, name) for name in parts + comparable}

    @staticmethod
    def only(total: Tensor) -> Terms:
        """Return terms of which there is a total only."""
        others = [torch.zeros_like(total).detach() for _ in Terms._fields[1:]]
        return Terms(total, *others)

    @staticmethod
    def means(terms: Sequence[Terms]) -> Terms:
        """Return the terms of several batches of one size together."""
        return Terms(*(torch.stack(values).mean() for values in zip(*terms, strict=True)))


def relative_error(x: Tensor, target: Tensor, norm: Tensor) -> Tensor:
    """Return sum (x - target)^2 / norm over all but the first dimension: (B,), `norm` broadcast to it."""
    off = (x.float() - target.float()).flatten(1)
    squared: Tensor = torch.linalg.vector_norm(off, dim=1).square()
    return squared / norm.clamp_min(TINY)


def centred(gram: Tensor, mean: Tensor) -> Tensor:
    """Return the covariances, divided by C, of features with these Gram matrices and means.

    `gram` is (..., C, C) and divided by C, `mean` (..., C), as `FeatureMoments` has them.
    """
    scaled = mean / mean.shape[-1] ** 0.5
    return torch.addcmul(gram, scaled.unsqueeze(-1), scaled.unsqueeze(-2), value=-1)


def dampen(error: Tensor) -> Tensor:
    """Return sqrt(1 + 2 e) - 1: about e where it is small, and the root of 2 e where it is large.

    Covariances are squares, and their errors fourth powers of contrast: a photo's against those of
    a misty painting are 60, against those of most paintings 1. Undampened, of many paintings the
    network would learn the misty ones only.
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


def resolve_layers(layers: str | Layers, sets: Mapping[str, Layers], arch: str) -> dict[str, float]:
    """Return the table of layer -> weight that `layers` names or is.

    Raises: RecipeError for an unknown set, layer or scale.
    """
    if isinstance(layers, str):
        if layers not in sets:
            raise RecipeError(f"unknown set of layers {layers!r}.{did_you_mean(layers, sets)}")
        return dict(sets[layers])
    names = [f"relu{name}" for name in layer_names(arch)]
    for key in layers:
        layer, _, scale = key.partition("@")
        if layer not in names:
            raise RecipeError(f"{arch} has no layer {layer!r}.{did_you_mean(layer, names)}")
        if scale and scale not in SCALES:
            raise RecipeError(
                f"unknown scale {scale!r} of layer {key!r}.{did_you_mean(scale, SCALES)}"
            )
    if not layers:
        raise RecipeError("a table of layers must name at least one layer, as in {relu4_2 = 1.0}")
    return {str(k): float(v) for k, v in layers.items()}


def deepest_layers(config: LossConfig, arch: str) -> list[str]:
    """Return the VGG layers that the objective looks at, whatever their scale."""
    content, style = config.layers(arch)
    return sorted({key.partition("@")[0] for key in (*content, *style)})


def smallest_side(layers: Iterable[str]) -> int:
    """Return the pixels that a side of an image needs for all of these layers ("relu5_1@1/4": 64)."""
    parts = (name.partition("@") for name in layers)
    # each pooling halves
    return max(SCALES[scale or "1"] << deepest_block([layer]) - 1 for layer, _, scale in parts)


@dataclass(frozen=True)
class WeightedPainting:
    """One painting's part in the style: `painting` (1, 3, H, W) in [0, 1], at the size of its
    strokes.

    `weight` is relative to that of the other styles. `mask`, (1, 1, h, w) in [0, 1] and of any
    size, says where in the output the style applies; without one it is everywhere.
    """

    painting: Tensor
    weight: float = 1.0
    mask: Tensor | None = None


class PerceptualLoss(nn.Module):
    """The objective of one painting, or of several, as a fixed function of (stylized, photo).

    `style` is a painting, RGB, (1, 3, H, W), in [0, 1], at the size at which its strokes are to be
    learned, or several `WeightedPainting`. `lean` saves memory on large images (features.py). Features of the
    layers `watched` are returned by `judge`, beside the terms. Relative terms: content is sum
    (phi(y) - phi(x))^2 / sum (phi(x) - mean phi(x))^2 (the mean one scalar per image, the
    denominator at least half of what the painting's features would give; where phi(y) is more than
    phi(x) a quarter counts, but with `gram`), style is ||C(y) - C(s)||^2 / ||C(s)||^2 of the
    covariances of channels, dampened where it is large, mean the same of channel means, undampened;
    each a weighted mean over its layers. Differs from Gatys et al. (2015), who compare Gram
    matrices (`gram`), the sum of both: the means are most of them, and a picture that is all in the
    painting's mean colour is hardly wrong (The Scream, without its blacks and reds: 0.13 of the
    Gram matrix of relu1_1, 0.51 of covariances). Absolute terms (Johnson et al. 2016, equations 2
    and 4): squared errors of features divided by C H W, and of Gram matrices, summed over layers.
    Several styles: a mean of their terms by weight, times the share of the output that a mask
    covers.

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
        self.mode = config.mode
        self.lean = lean
        self.gram = config.gram or config.mode == "absolute"
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
        """Return what is asked for of a painting.

        These are "variance{i}", "gram{i}" (of relative terms the covariance), its "norm{i}",
        "mean{i}" and "palette".
        """
        seen = observe(self.vgg, painting, self.content_layers, self.style_layers, lean=self.lean)
        found = {}
        for i, layer in enumerate(self.content_layers):
            variance = seen.feats[layer].float().var(correction=0)  # of one element
            found[f"variance{i}"] = variance.clamp_min(TINY)
        for i, layer in enumerate(self.style_layers):
            whole, mean = (moment[0] for moment in seen.moments[0][layer])
            target = whole if self.gram else centred(whole, mean)
            norm = target.square().sum()
            floor = 0.0 if self.gram else STYLE_FLOOR * whole.square().sum()
            found[f"gram{i}"] = target
            found[f"norm{i}"] = norm.clamp_min(floor)
            found[f"mean{i}"] = mean
        found[PALETTE] = palette(painting)
        return found

    @torch.no_grad()
    def targets(self, photo: Tensor) -> Feats:
        """Return what the content term compares with.

        That is the photo's features, computed only as deep as it needs them.
        """
        if self.lean:
            feats = observe(self.vgg, photo, self.content_layers, {}, lean=True).feats
        else:
            feats = extract(self.vgg, photo, self.content_layers)
        return {**feats, SQUARES: squares(photo)}

    @torch.no_grad()
    def recoloured(self, photo: Tensor, which: Tensor) -> Tensor:
        """Return photos, (B, 3, H, W), in the colours of the paintings `which`, (B,)."""
        return recolour(photo, self._of_paintings(PALETTE, which))

    def forward(self, stylized: Tensor, targets: Feats, which: Tensor | None = None) -> Terms:
        """Return the terms of the objective for `stylized`, (B, 3, H, W), against `targets(photo)`.

        With `which`, (B,), each image is asked for one of the paintings only, by its number.
        """
        return self.judge(stylized, targets, which)[0]

    def judge(
        self,
        stylized: Tensor,
        targets: Feats,
        which: Tensor | None = None,
    ) -> tuple[Terms, Feats]:
        """Return what `forward` does, and the features of the layers that are watched."""
        masks: list[Tensor | None] = [
            self.masks.get_buffer(f"mask{i}") for i in range(len(self.shares))
        ]
        if which is not None or all(m is None for m in masks):
            masks = [None]  # one look at the image serves all paintings
        layers = (self.content_layers, self.style_layers)
        seen = observe(self.vgg, stylized, *layers, masks, self.lean, self.watched)
        content, error, variance = self._content(seen.feats, targets, which)
        if which is not None:
            style, mean, style_rel = self._style(seen.moments[0], which)
        else:
            found = seen.moments * len(self.shares) if len(masks) == 1 else seen.moments
            each = [self._style(moments, i) for i, moments in enumerate(found)]
            style, mean, style_rel = (self._blend(values) for values in zip(*each, strict=True))
        seen_squares = squares(stylized)
        colours = self._of_paintings(PALETTE, which)
        light = dampen(light_error(seen_squares, targets[SQUARES], colours))
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
        )
        return terms, {layer: seen.feats[layer] for layer in self.watched}

    def _blend(self, values: Sequence[Tensor] | Tensor) -> Tensor:
        """Return the mean of one value for each style, by their shares."""
        return torch.stack(
            [share * value for share, value in zip(self.shares, values, strict=True)]
        ).sum(0)

    def _of_paintings(self, name: str, which: Tensor | None) -> Tensor:
        """Return what was observed of the paintings: of each image's, (B, ...), or blended."""
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
            # (B,), of all channels about one mean
            variance = target.flatten(1).var(1, correction=0)
            errors.append(weight * error)
            variances.append(weight * variance)
            if self.mode == "relative":
                error = error / torch.maximum(variance, CONTENT_FLOOR * of_painting)
            terms.append(weight * error)
        content, error, variance = (
            torch.stack(values).sum(0) for values in (terms, errors, variances)
        )
        return (
            (content / sum(self.content_layers.values()) if self.mode == "relative" else content),
            error,
            variance,
        )

    def _style(
        self, found: dict[str, FeatureMoments], which: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return style, mean and style_rel, (B,), of one style, or of one for each image.

        The first two are multiplied by the balance of their painting.
        """
        grams = []
        means = []
        relative = []
        for i, (layer, weight) in enumerate(self.style_layers.items()):
            g, m = found[layer]
            target = self.style_targets.get_buffer(f"gram{i}")[which]  # ([B,] C, C)
            norm = self.style_targets.get_buffer(f"norm{i}")[which]  # ([B])
            mean = self.style_targets.get_buffer(f"mean{i}")[which]  # ([B,] C)
            if not self.gram:
                g = centred(g, m)
            error = relative_error(g, target, norm)
            relative.append(weight * error)
            means.append(weight * relative_error(m, mean, mean.square().sum(-1)))
            if self.mode == "absolute":
                grams.append(weight * (g - target).square().flatten(1).sum(1))
            else:
                grams.append(weight * (error if self.gram else dampen(error)))
        share = 1 / sum(self.style_layers.values())
        style_rel = torch.stack(relative).sum(0) * share
        mean_rel = torch.stack(means).sum(0) * share
        style = torch.stack(grams).sum(0) * (1.0 if self.mode == "absolute" else share)
        balance = self.balance[which]
        return balance * style, balance * mean_rel, style_rel


def _shares(styles: Sequence[WeightedPainting]) -> list[float]:
    """Return how much each style counts: its weight, times the share of the output that it covers; their sum is 1."""
    parts = [s.weight * (1.0 if s.mask is None else float(s.mask.mean())) for s in styles]
    total = sum(parts)
    if not total > 0 or min(parts) < 0:
        raise RecipeError(
            "the weights of styles must not be negative, and one of them must cover a part of the image"
        )
    return [part / total for part in parts]


class _Buffers(nn.Module):
    """Holds tensors by name, so that they follow the loss to its device."""
