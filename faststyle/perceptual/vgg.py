"""VGG-16 and VGG-19 as feature extractors: convolutions only, named layers, preprocessing inside.

What it is not: a classifier, or the place where weights come from (that is `weights.py`).

Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition" (2014),
Table 1, columns D and E, https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faststyle.errors import ImageError, WeightsError, did_you_mean

Feats = dict[str, Tensor]

# Convolutions in each of the five blocks; a 2x2 pooling of stride 2 stands between blocks.
CONVS_PER_BLOCK = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS_PER_BLOCK = (64, 128, 256, 512, 512)

# Mean activation after maximum pooling over that after average pooling, at the end of blocks 1 to 4: means over 12
# photos and paintings at 256 px, VGG-16. Averages are multiplied by it, so that deeper layers see what they were
# trained on; Gatys et al. (2015) use average pooling on a network whose mean activations were normalised to 1.
AVERAGE_POOLING_SCALE = (1.66, 1.77, 1.82, 1.94)


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
    `pooling` is "max", as it was trained, or "average", which Gatys et al. (2015) found to look slightly better.

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
        pooling: Literal["max", "average"] = "max",
    ) -> None:
        super().__init__()
        names = layer_names(arch)
        for layer in layers:
            if layer.removeprefix("relu") not in names or not layer.startswith("relu"):
                allowed = [f"relu{n}" for n in names]
                raise WeightsError(f"{arch} has no layer {layer!r}.{did_you_mean(layer, allowed)}")
        self.layers = frozenset(layers)
        self.pooling = pooling
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
        self.check_size(image, wanted)
        x = self.normalise(image)
        feats: Feats = {}
        for number in range(1, deepest_block(wanted) + 1):
            if number > 1:
                x = self.pool(x, number - 1)
            x, found = self.block(x, number, wanted)
            feats |= found
        return feats

    def normalise(self, image: Tensor) -> Tensor:
        """Return RGB in [0, 1] as the first convolution expects it."""
        return (image - self.mean) / self.std

    def block(self, x: Tensor, number: int, wanted: Collection[str]) -> tuple[Tensor, Feats]:
        """Run block `number`, 1 to 5, on what the pooling before it left: its last features, and those wanted.

        It ends early at the deepest layer of `wanted`, when that is in it.
        """
        feats: Feats = {}
        last = max(wanted, key=lambda name: name.removeprefix("relu"))
        for name, conv in self.convs.items():
            if int(name[0]) != number:
                continue
            x = F.relu(conv(x))
            if f"relu{name}" in wanted:
                feats[f"relu{name}"] = x
            if f"relu{name}" == last:
                break
        return x, feats

    def pool(self, x: Tensor, number: int) -> Tensor:
        """Halve (B, C, H, W), as it is done after block `number`, 1 to 4."""
        if self.pooling == "average":
            return F.avg_pool2d(x, kernel_size=2, stride=2) * AVERAGE_POOLING_SCALE[number - 1]
        return F.max_pool2d(x, kernel_size=2, stride=2)

    def check_size(self, image: Tensor, wanted: Collection[str]) -> None:
        """Raise ImageError when the image is too small for the deepest layer of `wanted`."""
        h, w = image.shape[-2:]
        needed = 2 ** (deepest_block(wanted) - 1)
        if min(h, w) < needed:
            raise ImageError(
                f"an image of {h}x{w} pixels is too small for {max(wanted)}: "
                f"its shorter side must be at least {needed} pixels"
            )


def deepest_block(layers: Collection[str]) -> int:
    """Return the number of the block, 1 to 5, that holds the deepest of `layers` ("relu4_2": 4)."""
    return max(int(name.removeprefix("relu")[0]) for name in layers)
