"""One image from a photo and paintings, by gradient descent on its pixels: the reference slow path.

It minimises the same PerceptualLoss as training does, so that its numbers can be compared with a
network's. The optimiser is in descent.py; files, progress and intermediates are in run.py.

Source: Gatys, Ecker, Bethge (2015), https://arxiv.org/abs/1508.06576; sizes going up as in their
"Controlling perceptual factors in neural style transfer" (2017), section 6,
https://arxiv.org/abs/1611.07865
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from faststyle.devices import find_device, find_precision, keep_freed_memory
from faststyle.errors import ImageError, RecipeError, did_you_mean
from faststyle.perceptual.features import Layers, extract
from faststyle.perceptual.loss_config import LossConfig, deepest_layers, resolve_layers
from faststyle.perceptual.losses import PerceptualLoss, WeightedPainting, total_variation
from faststyle.perceptual.vgg import Feats
from faststyle.perceptual.weights import VGGWeights, find_weights, load_vgg
from faststyle.sizes import cut_strip, fit_bounded, fit_shorter, resize
from faststyle.slow.descent import Descent, Objective, Step, check_optimizer

# Shorter side of the first size, in pixels. Large shapes are settled there at little cost.
SMALLEST = 128
GROWTH = math.sqrt(2)  # from one size to the next: twice the pixels
# Pixels of the image. Above it, activations of VGG are computed again in the backward pass instead
# of kept: that saves memory, and takes half as long again.
LEAN_FROM = 640 * 640
INITS = ("content", "noise", "style")

# The paper's layers. Each error of Gram matrices is relative to the error of a black image. Differs
# from Gatys et al. (2015): their errors are not relative, so that each picture needs a ratio of
# weights of its own. This ratio suits all pictures.
PAPER = LossConfig(
    content_layers="gatys",
    style_layers="gatys",
    gram=True,
    style_weight=20.0,
    mean_weight=0.0,
    tv_weight=10.0,
    light_weight=0.0,
)
TRAINING = LossConfig()
LAYERS = {"paper": PAPER, "training": TRAINING}


@dataclass(frozen=True)
class SlowConfig:
    """Settings of an optimisation: sizes, steps, start and objective.

    `size` is the shorter side in pixels, reached from `smallest` by factors of sqrt(2). `steps` are
    taken at each size. `init` is "content", "noise", "style", or the image to start from, (1, 3, H,
    W). `style_scale` is the painting's shorter side over the image's: 2 doubles the strokes.
    `average` is the decay of a running mean of the images. `dream` holds layers whose activations
    are maximised, with their weights.
    """

    size: int = 512
    smallest: int = SMALLEST
    steps: int = 300
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    learning_rate: float | None = None
    average: float | None = None  # None: 0.98 for Adam, 0 (no mean) for L-BFGS
    init: str | Tensor = "content"
    loss: LossConfig = PAPER
    style_scale: float = 1.0
    pooling: Literal["max", "average"] = "max"
    vgg: str = "vgg16"
    dream: Layers = field(default_factory=dict)
    precision: str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """A step at one size; `total_step`, `total_steps` and `seconds` count through all sizes."""

    total_step: int
    total_steps: int
    size: int
    seconds: float
    terms: Mapping[str, float]
    image: Tensor
    last: bool  # whether this is the last step of all sizes


def optimize_image(
    content: Tensor,
    styles: Sequence[WeightedPainting],
    config: SlowConfig | None = None,
    weights: VGGWeights | None = None,
    device: str = "auto",
    on_step: Callable[[Progress], bool | None] | None = None,
) -> Tensor:
    """Return the photo `content` in the style of the paintings, (1, 3, H, W) in [0, 1].

    Pictures are RGB in [0, 1], of any size; paintings are resized here. The shorter side of the
    result is `config.size`. Without paintings the objective is content alone, or `dream` alone
    where it is given. `on_step` sees every step and the image after it; it ends the work by
    returning True. Raises: ImageError for images that are too small for the layers, RecipeError,
    WeightsError, DeviceError, TrainingError.

    Example:
        >>> painting = WeightedPainting(read_image("painting.jpg"))
        >>> optimize_image(read_image("photo.jpg"), [painting], SlowConfig(size=256))
    """
    config = config or SlowConfig()
    check_config(config)
    if config.size**2 <= LEAN_FROM:  # above it, memory is scarce
        keep_freed_memory()
    where = find_device(device)
    found = weights or find_weights(config.vgg)
    torch.manual_seed(config.seed)
    if not styles and not config.dream:
        config = replace(config, loss=replace(config.loss, strength=0.0))
    image = None
    for now in _climb(content.to(where), styles, config, found):
        image = now.image
        if on_step and on_step(now):
            break
    assert image is not None
    return image.cpu()


def _climb(
    content: Tensor,
    styles: Sequence[WeightedPainting],
    config: SlowConfig,
    weights: VGGWeights,
) -> Iterator[Progress]:
    """Yield every step at every size, from the smallest size up to the last one."""
    sizes = image_sizes(config.size, config.smallest)
    image = None
    moments = None
    seconds = 0.0
    for turn, size in enumerate(sizes):
        photo = fit_shorter(content, size)
        start = _start(config, photo, styles) if image is None else resize(image, *photo.shape[-2:])
        paintings = _at_size(styles, size, config.style_scale, content.device)
        objective = _objective(config, photo, paintings, weights)
        descent = Descent(
            start, objective, config.optimizer, config.learning_rate, _average(config)
        )
        descent.warm_start(moments)
        first = turn * config.steps
        step: Step | None = None
        for step in descent.run(config.steps, first):
            last = turn == len(sizes) - 1 and step.step == config.steps
            if step.step == config.steps and not last:
                continue  # the first step of the next size shows the same image
            yield Progress(
                first + step.step,
                config.steps * len(sizes),
                size,
                seconds + step.seconds,
                step.terms,
                step.image,
                last,
            )
        assert step is not None
        image = step.image
        moments = descent.moments()
        seconds += step.seconds


def image_sizes(size: int, smallest: int = SMALLEST) -> list[int]:
    """Return the shorter sides on the way to `size`: from `smallest` up by sqrt(2).

    The last factor may be smaller. Where it would be below 2^(1/4), the size before it is left out.

    Example:
        >>> image_sizes(512)
        [128, 181, 256, 362, 512]
    """
    sizes = [
        smallest * GROWTH**i
        for i in range(1 + max(0, math.ceil(math.log(max(1, size / smallest), GROWTH))))
    ]
    return [round(s) for s in sizes if s * math.sqrt(GROWTH) < size] + [size]


def check_config(config: SlowConfig) -> None:
    """Check settings before anything is loaded. Raises: ImageError, RecipeError, WeightsError."""
    if config.size < 1 or config.smallest < 1:
        raise ImageError(f"sizes must be 1 or more pixels, got {min(config.size, config.smallest)}")
    if config.steps < 1:
        raise RecipeError(f"`steps` must be 1 or more, got {config.steps}")
    if not 0 < config.style_scale < math.inf:
        raise RecipeError(f"`style_scale` must be above 0, got {config.style_scale}")
    if isinstance(config.init, str) and config.init not in INITS:
        raise RecipeError(f"unknown start {config.init!r}.{did_you_mean(config.init, INITS)}")
    if not 0 <= config.seed < 2**64:
        raise RecipeError(f"`seed` must be 0 or more, and below 2^64, got {config.seed}")
    check_optimizer(config.optimizer, config.learning_rate, _average(config))
    if config.dream:
        resolve_layers(config.dream, {}, config.vgg)


def _average(config: SlowConfig) -> float:
    if config.average is not None:
        return config.average
    return 0.98 if config.optimizer == "adam" else 0.0


def _start(config: SlowConfig, photo: Tensor, styles: Sequence[WeightedPainting]) -> Tensor:
    if isinstance(config.init, Tensor):
        return resize(config.init.to(photo), *photo.shape[-2:])
    if config.init == "noise":
        return torch.rand(photo.shape).to(photo)
    if config.init == "style":
        if not styles:
            raise RecipeError("`init` style needs a painting: give one as `painting`")
        h, w = photo.shape[-2:]
        # As large as covers the image, so that its middle can be cut out.
        painting = fit_shorter(cut_strip(styles[0].painting), max(h, w)).to(photo)
        top = (painting.shape[-2] - h) // 2
        left = (painting.shape[-1] - w) // 2
        return painting[..., top : top + h, left : left + w]
    return photo


def _at_size(
    styles: Sequence[WeightedPainting], size: int, style_scale: float, device: torch.device
) -> list[WeightedPainting]:
    side = max(1, round(size * style_scale))
    return [
        WeightedPainting(
            fit_bounded(s.painting.to(device), side),
            s.weight,
            None if s.mask is None else s.mask.to(device),
        )
        for s in styles
    ]


def _objective(
    config: SlowConfig, photo: Tensor, styles: list[WeightedPainting], weights: VGGWeights
) -> Objective:
    """Return the objective at this size: content, style, total variation and dream."""
    lean = photo.shape[-1] * photo.shape[-2] > LEAN_FROM
    layers = {name.partition("@")[0] for name in config.dream}
    perceptual = bool(styles) or not config.dream
    if perceptual:
        layers |= set(deepest_layers(config.loss, config.vgg))
    vgg = load_vgg(weights, layers, config.pooling)
    layout = torch.channels_last  # convolutions on CPUs and on tensor cores are fastest in it
    vgg = vgg.to(photo.device).to(memory_format=layout)
    photo = photo.contiguous(memory_format=layout)
    precision = find_precision(config.precision, photo.device)
    autocast = torch.autocast(photo.device.type, torch.bfloat16, enabled=precision == "bf16")
    loss: PerceptualLoss | None = None
    targets: Feats = {}
    if perceptual:
        with autocast:
            loss = PerceptualLoss(
                vgg, styles or [WeightedPainting(photo)], config.loss, config.vgg, lean
            ).to(photo.device)
            targets = loss.targets(photo)
    tv_weight = config.loss.weights().tv

    def objective(image: Tensor) -> Mapping[str, Tensor]:
        image = image.contiguous(memory_format=layout)
        with autocast:
            if loss is None:
                tv = tv_weight * total_variation(image).mean()
                terms = {"total": tv, "tv": tv}
            else:
                terms = loss(image, targets).named()
            if config.dream:
                terms["dream"] = _dream(extract(vgg, image, config.dream), config.dream)
                terms["total"] = terms["total"] + terms["dream"]
        return terms

    return objective


def _dream(feats: Feats, layers: Layers) -> Tensor:
    """Return minus the logarithm of the mean square of activations, a weighted sum over layers.

    Differs from Mordvintsev et al., "Inceptionism" (2015), who normalise the gradient at each step.
    The gradient of the logarithm is such a normalised one, and all layers have one scale in it.
    """
    terms = [
        -weight * feats[layer].float().square().mean().clamp_min(1e-12).log()
        for layer, weight in layers.items()
    ]
    return torch.stack(terms).sum()
