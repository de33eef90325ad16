"""VGG-16 and VGG-19 as feature extractors: convolutions only, named layers, preprocessing inside.

Their weights come from weights.py.

Source: Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition"
(2014), Table 1, columns D and E, https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from faststyle.errors import ImageError, WeightsError, did_you_mean
from faststyle.perceptual.winograd import Winograd, pays

Feats = dict[str, Tensor]

# Convolutions in each of the five blocks; a 2x2 pooling of stride 2 stands between blocks.
CONVS_PER_BLOCK = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
CHANNELS_PER_BLOCK = (64, 128, 256, 512, 512)

# Mean activation after maximum pooling over that after average pooling, at the end of blocks 1 to
# 4: means over 12 photos and paintings at 256 px, VGG-16. Averages are multiplied by it, so that
# deeper layers get activations of the size that they were trained on. Gatys et al. (2015) use
# average pooling on a network whose mean activations were normalised to 1.
AVERAGE_POOLING_SCALE = (1.66, 1.77, 1.82, 1.94)


def layer_names(arch: str) -> list[str]:
    """Return the convolutions from shallow to deep: "1_1" to "5_3" (VGG-16) or "5_4" (VGG-19).

    Raises: WeightsError for an unknown architecture.
    """
    if arch not in CONVS_PER_BLOCK:
        raise WeightsError(f"unknown VGG {arch!r}.{did_you_mean(arch, CONVS_PER_BLOCK)}")
    return [f"{b}_{i}" for b, n in enumerate(CONVS_PER_BLOCK[arch], 1) for i in range(1, n + 1)]


class VGG(nn.Module):
    """The convolutions of a VGG, built only as deep as the deepest of `layers`.

    The input is RGB, (B, 3, H, W), in [0, 1]; `mean` and `std` (RGB, of the same range) are applied
    inside. `width` scales the numbers of channels: 1 is the published network, less is a tiny one
    for tests. `pooling` is "max", as the network was trained, or "average", with which pictures
    look slightly better according to Gatys et al. (2015).

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
        self._winograd: dict[str, Winograd] = {}
        self._rounded: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor, layers: Collection[str] | None = None) -> Feats:
        """Return {layer: features (B, C, h, w)} of `layers`, by default those of construction.

        Raises: ImageError when the image is too small for the deepest of these layers.
        """
        wanted = self.layers if layers is None else frozenset(layers)
        self.check_size(image, wanted)
        return self.run(self.normalise(image), range(1, deepest_block(wanted) + 1), wanted)[1]

    def normalise(self, image: Tensor) -> Tensor:
        """Return the input of the first convolution, from RGB in [0, 1]."""
        return (image - self.mean) / self.std

    def run(self, x: Tensor, blocks: range, wanted: Collection[str]) -> tuple[Tensor, Feats]:
        """Run `blocks` on `x`, only as deep as the layers `wanted`.

        Returns the last features, and {layer: features} of the wanted layers in these blocks. There
        is a pooling between blocks, but none before the first or after the last. Gradients are of
        `x` only: weights are frozen.
        """
        # Names such as "3_2" are in the order of their depth as strings too.
        deepest = max(name.removeprefix("relu") for name in wanted)
        names = [name for name in self.convs if int(name[0]) in blocks and name <= deepest]
        seen = [name for name in names if f"relu{name}" in wanted or name == names[-1]]
        if x.device.type == "xla" or torch.compiler.is_compiling():
            # Compilers fuse plain operations, and cannot look into the backward pass by hand.
            feats = self._run_plain(x, names, seen)
        else:
            keep = torch.is_grad_enabled() and x.requires_grad
            feats = _Frozen.apply(x, self, names, seen, keep)
        found = {f"relu{name}": f for name, f in zip(seen, feats, strict=True)}
        return feats[-1], {name: f for name, f in found.items() if name in wanted}

    def _run_plain(self, x: Tensor, names: list[str], seen: list[str]) -> list[Tensor]:
        feats = []
        for i, name in enumerate(names):
            if i and name[0] != names[i - 1][0]:  # a new block
                x = self.pool(x, int(names[i - 1][0]))
            x = F.relu(self.convs[name](x))
            if name in seen:
                feats.append(x)
        return feats

    def conv(self, name: str) -> nn.Conv2d:
        """Return convolution `name`, "1_1" to "5_4"."""
        found = self.convs[name]
        assert isinstance(found, nn.Conv2d)
        return found

    def winograd(self, name: str) -> Winograd:
        """Return convolution `name` as a Winograd convolution; its weights are transformed once."""
        if name not in self._winograd:
            conv = self.conv(name)
            self._winograd[name] = Winograd(conv.weight, conv.bias)
        return self._winograd[name]

    def rounded(self, name: str) -> tuple[Tensor, Tensor]:
        """Return weight and bias of convolution `name` in bf16; they are rounded once a device."""
        conv = self.conv(name)
        assert conv.bias is not None
        key = (name, conv.weight.device)
        if key not in self._rounded:
            self._rounded[key] = conv.weight.detach().bfloat16(), conv.bias.detach().bfloat16()
        return self._rounded[key]

    def pool(self, x: Tensor, number: int) -> Tensor:
        """Return (B, C, H, W) at half the size: the pooling after block `number`, 1 to 4."""
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
    return max(block_of(name) for name in layers)


def block_of(layer: str) -> int:
    """Return the number of the block, 1 to 5, of a layer ("relu4_2": 4)."""
    return int(layer.removeprefix("relu")[0])


class _Frozen(torch.autograd.Function):
    """Convolutions, ReLU and pooling, with a backward pass by hand for the input alone.

    The weights are frozen, so they need no gradient. The gradients of the features that are used
    are added up and masked by ReLU in one buffer, where autograd would take new memory each time.
    Convolutions are Winograd's where that pays.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, vgg: VGG, names: list[str], seen: list[str], keep: bool
    ) -> tuple[Tensor, ...]:
        """Return the features `seen` of the convolutions `names`.

        With `keep`, the tensors that the gradient needs are kept.
        """
        kind = x.device.type
        in_bf16 = (
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        )
        kept = [x]
        feats = {}
        for i, name in enumerate(names):
            if i and name[0] != names[i - 1][0]:
                # The order in which tensors are kept is the one in which `backward` takes them off.
                if vgg.pooling == "max" and keep:
                    x, chosen = F.max_pool2d(x, kernel_size=2, stride=2, return_indices=True)
                    kept.append(chosen)
                else:
                    x = vgg.pool(x, int(names[i - 1][0]))
                if keep:
                    kept.append(x)
            conv = vgg.conv(name)
            # In place, since the backward pass of ReLU needs only its output.
            if pays(x, conv.out_channels):
                x = vgg.winograd(name)(x, relu=True)
            elif in_bf16:
                x = F.relu_(F.conv2d(x, *vgg.rounded(name), padding=1))
            else:
                x = F.relu_(conv(x))
            if keep:
                kept.append(x)
            if name in seen:
                feats[name] = x
        if keep:
            ctx.save_for_backward(*kept)
            ctx.vgg = vgg
            ctx.names = names
            ctx.seen = seen
            ctx.set_materialize_grads(False)
        return tuple(feats.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        """Return the gradient of the input, from those of the features that were seen."""
        vgg = ctx.vgg
        names = ctx.names
        kept = list(ctx.saved_tensors)
        # From here on only `kept` holds them, so that each is freed once it is used.
        ctx.maybe_clear_saved_tensors()
        added = dict(zip(ctx.seen, grads, strict=True))
        # The gradient so far; only one of our own may be written to, not those of autograd.
        g = None
        ours = False
        for i in reversed(range(len(names))):
            name = names[i]
            out = kept.pop()
            more = added.get(name)
            if more is not None:
                g, ours = (more, False) if g is None else (g.add_(more), True)
            x = kept[-1]
            if g is not None:
                into = g if ours else torch.empty_like(g)
                g = torch.ops.aten.threshold_backward.grad_input(g, out, 0, grad_input=into)
                if pays(g, x.shape[1]):
                    g = vgg.winograd(name).backward(g)
                else:
                    weight = (
                        vgg.rounded(name)[0] if g.dtype == torch.bfloat16 else vgg.conv(name).weight
                    )
                    g = conv2d_input(x.shape, weight, g, padding=1)  # type: ignore[no-untyped-call]
                ours = True
            if i and name[0] != names[i - 1][0]:
                kept.pop()
                g = _pool_backward(vgg, int(names[i - 1][0]), g, kept)
        return g, None, None, None, None


def _pool_backward(vgg: VGG, number: int, g: Tensor | None, kept: list[Tensor]) -> Tensor | None:
    """Return the gradient of the input of a pooling, from that of its output.

    The input is the last of `kept`. For "max", the indices after it are taken off.
    """
    chosen = kept.pop() if vgg.pooling == "max" else None
    if g is None:
        return None
    window = ((2, 2), (2, 2), (0, 0))
    if chosen is not None:
        g = torch.ops.aten.max_pool2d_with_indices_backward(
            g, kept[-1], *window, (1, 1), False, chosen
        )
    else:
        g = torch.ops.aten.avg_pool2d_backward(g, kept[-1], *window, False, True, None)
        g = g * AVERAGE_POOLING_SCALE[number - 1]
    return g
