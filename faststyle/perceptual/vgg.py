"""VGG-16 and VGG-19 as feature extractors: convolutions only, named layers, preprocessing inside.

What it is not: a classifier, or the place where weights come from (that is `weights.py`).

Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (2014),
Table 1, columns D and E, https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.errors import ImageError, WeightsError, did_you_mean

Feats = dict[str, Tensor]

# Convolutions in each of the five blocks; a 2x2 pooling of stride 2 stands between blocks.
CONVS_PER_BLOCK = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS_PER_BLOCK = (64, 128, 256, 512, 512)


def layer_names(arch: str) -> list[str]:
    """Return the names of the convolutions, "1_1" to "5_3" (VGG-16) or "5_4" (VGG-19), shallow to deep.

    Raises: WeightsError for an unknown architecture.
    """
    if arch not in CONVS_PER_BLOCK:
        raise WeightsError(f"unknown VGG {arch!r}.{did_you_mean(arch, CONVS_PER_BLOCK)}")
    return [f"{b}_{i}" for b, n in enumerate(CONVS_PER_BLOCK[arch], 1) for i in range(1, n + 1)]


class VGG(nn.Module):
    """The convolutions of a VGG, built only as deep as `layers` asks for.

    The input is RGB, (B, 3, H, W), in [0, 1]; `mean` and `std` (RGB, of the same range) are applied inside.
    `width` scales the channels of the table: 1 is the published network, less makes a tiny one for tests.

    Example:
        >>> vgg = VGG("vgg16", ["relu1_2", "relu2_2"])
        >>> {name: tuple(f.shape) for name, f in vgg(torch.zeros(1, 3, 32, 32)).items()}
        {'relu1_2': (1, 64, 32, 32), 'relu2_2': (1, 128, 16, 16)}
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        arch: str,
        layers: Collection[str],
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        width: float = 1.0,
    ) -> None:
        super().__init__()
        names = layer_names(arch)
        for layer in layers:
            if layer.removeprefix("relu") not in names or not layer.startswith("relu"):
                allowed = [f"relu{n}" for n in names]
                raise WeightsError(f"{arch} has no layer {layer!r}.{did_you_mean(layer, allowed)}")
        self.layers = frozenset(layers)
        deepest = max(names.index(layer.removeprefix("relu")) for layer in layers)
        self.convs = nn.ModuleDict()
        channels = 3
        for name in names[: deepest + 1]:
            out = max(1, round(CHANNELS_PER_BLOCK[int(name[0]) - 1] * width))
            self.convs[name] = nn.Conv2d(channels, out, kernel_size=3, padding=1)
            channels = out
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor, layers: Collection[str] | None = None) -> Feats:
        """Return the features of `layers` (default: those of construction), each (B, C, h, w), by name.

        Raises: ImageError when the image is too small for the deepest layer asked for.
        """
        wanted = self.layers if layers is None else frozenset(layers)
        x = (image - self.mean) / self.std
        feats: Feats = {}
        block = 1
        for name, conv in self.convs.items():
            if int(name[0]) > block:
                block += 1
                if min(x.shape[-2:]) < 2:
                    h, w = image.shape[-2:]
                    raise ImageError(
                        f"an image of {h}x{w} pixels is too small for {max(wanted)}: "
                        f"its shorter side must be at least {2 ** (int(max(wanted)[4]) - 1)} pixels"
                    )
                x = F.max_pool2d(x, kernel_size=2, stride=2)
            x = F.relu(conv(x))
            if f"relu{name}" in wanted:
                feats[f"relu{name}"] = x
                if len(feats) == len(wanted):
                    break
        return feats
