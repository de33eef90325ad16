"""The settings of the objective: its mode, the layers of VGG that it looks at, and weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from faststyle.errors import RecipeError, did_you_mean
from faststyle.perceptual.features import SCALES, Layers
from faststyle.perceptual.vgg import deepest_block, layer_names

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
    # Contrast and crisp strokes are in the shallow layers. relu5_1 is left out: published networks
    # do not match it either.
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


class Weights(NamedTuple):
    """The weight of each term in the total."""

    content: float
    style: float
    mean: float
    tv: float
    light: float


# What each mode uses where nothing else is asked for. Relative: found by experiment, docs/log/.
# Absolute: the layers of Johnson et al., and the defaults of the code that they published with the
# paper (content 1, style 5, total variation 1e-6), on features of images in 0-255.
LAYER_SETS = {"relative": "pyramid", "absolute": "johnson"}
WEIGHTS = {
    "relative": Weights(content=1.0, style=2.5, mean=2.5, tv=3.0, light=2.0),
    "absolute": Weights(content=1.0, style=5.0, mean=0.0, tv=1e-6, light=0.0),
}


@dataclass(frozen=True)
class LossConfig:
    """The settings of the objective.

    Layers are the name of a set above, or a table {layer: weight}. Layers and weights of None are
    those of the mode. `strength` multiplies the style terms: at 0 only content is left, at infinity
    only style. It is the setting for users to turn. `balance` multiplies the style terms too; its
    value is found in training (training/balance.py). With `gram`, relative terms compare Gram
    matrices, as Gatys et al. (2015) do, instead of covariances. With `apart`, flat and textured
    places are compared apart. `contrast` is the covariance of colours that the light term asks for,
    over the painting's; networks reach two thirds of it.
    """

    mode: Literal["relative", "absolute"] = "relative"
    content_layers: str | Layers | None = None
    style_layers: str | Layers | None = None
    strength: float = 1.0
    balance: float = 1.0
    gram: bool = False
    apart: bool = False
    contrast: float = 1.5
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
            weights = weights._replace(light=0.0)  # its colours are the painting's: that is style
        return weights._replace(
            style=self.strength * weights.style, mean=self.strength * weights.mean
        )


def resolve_layers(layers: str | Layers, sets: Mapping[str, Layers], arch: str) -> dict[str, float]:
    """Return {layer: weight}, from the name of one of the `sets`, or from such a table itself.

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
    """Return the VGG layers of the objective, without their scales."""
    content, style = config.layers(arch)
    return sorted({key.partition("@")[0] for key in (*content, *style)})


def smallest_side(layers: Iterable[str]) -> int:
    """Return the least side of an image, in pixels, for these layers ("relu5_1@1/4": 64)."""
    parts = (name.partition("@") for name in layers)
    # each pooling between blocks halves the size
    return max(SCALES[scale or "1"] << deepest_block([layer]) - 1 for layer, _, scale in parts)
