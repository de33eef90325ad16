"""Recipes: all settings of a training run but the files that it reads and writes.

A recipe is a TOML file, read into a frozen dataclass; single keys can be laid over it.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from faststyle.abstraction import check_abstraction
from faststyle.errors import RecipeError, did_you_mean
from faststyle.networks import build_network
from faststyle.networks.network import STRIDE
from faststyle.paintings import SMALLEST
from faststyle.perceptual.loss_config import LossConfig, smallest_side

MAX_BYTES = 2**20  # of a file: ours have a hundred lines at most


@dataclass(frozen=True)
class Recipe:
    """All settings that decide the result of a run.

    Two runs of one recipe on one machine end in the same bits.

    `batch_size` is per process and per accumulated part: a step sees batch_size x accumulate x
    processes photos. Sizes are in pixels: `image_size` the side of the square training crops; the
    objective looks at a part of them that is smaller by `shift` and lies elsewhere at each step,
    `margin` or more from the edges of the output (view.py); `painting_size` the
    shorter side of the painting, which sets how large strokes are; `stroke_size` multiplies it.
    `init` is where the weights start: "base", "scratch", or a checkpoint of the same network
    (start.py). `content_target` is the content_rel at which style is as strong as it gets
    (balance.py; 0: its weight stays). `adversarial_weight` is how much a critic counts (critic.py;
    0: there is none), `stability` how much pictures must follow a photo that moves (stability.py;
    0: not at all). `warmup` is the share of steps in which the learning rate rises; then it
    falls to zero (`schedule` "cosine") or stays ("constant"). `average` is the decay of the running
    mean of the weights that is looked at and saved (0: the weights themselves). `copying` is the
    share of the steps, the first, in which a network from scratch learns to paint photos as they
    are, in the painting's colours; with a `teacher`, a trained style, it copies what that one
    paints (teacher.py). With a `spread` the network learns in two halves, each of them from the
    start: with a content_target so much lower, then so much higher. The mean of both is looked at
    and saved (halves.py). `train` is what learns in a network that begins from another: "all", or
    the "norms" alone, scales and shifts; "auto" is norms for fewer than 100 photos, else all. From
    scratch all of it learns. In a network of many paintings the norms learn `norm_rate` times as
    fast. `abstraction` is the radius, in pixels, by which photos are abstracted before the finished
    network paints them (abstraction.py; 0: not at all). Training sees photos as they are.
    """

    name: str = "custom"
    photos: str = "sample"
    steps: int = 1000
    batch_size: int = 4
    accumulate: int = 1
    image_size: int = 256
    shift: int = 0
    margin: int = 0
    painting_size: int = 384
    stroke_size: float = 1.0
    init: str = "scratch"
    learning_rate: float = 2e-3
    warmup: float = 0.1
    copying: float = 0.0
    teacher: str = ""
    schedule: Literal["cosine", "constant"] = "cosine"
    average: float = 0.0
    train: Literal["all", "norms", "auto"] = "all"
    norm_rate: float = 5.0
    clip_norm: float = 1000.0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    compile: bool = False
    vgg: Literal["vgg16", "vgg19"] = "vgg16"
    workers: int = 1
    seed: int = 0
    log_every: int = 10
    preview_every: int = 100
    state_every: int = 100
    network: Mapping[str, Any] = field(default_factory=lambda: {"name": "johnson"})
    content_target: float = 0.0
    spread: float = 0.0
    adversarial_weight: float = 0.0
    stability: float = 0.0
    abstraction: float = 0.0
    loss: LossConfig = field(default_factory=LossConfig)

    @property
    def seen(self) -> int:
        """Return the side of the part of a crop that the objective looks at, in pixels."""
        return self.image_size - self.shift - 2 * self.margin

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON; `recipe_from_dict` takes it back."""
        return dataclasses.asdict(self)


POSITIVE = (
    "steps",
    "batch_size",
    "accumulate",
    "painting_size",
    "stroke_size",
    "learning_rate",
    "norm_rate",
    "clip_norm",
    "log_every",
    "preview_every",
    "state_every",
)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("faststyle.training") / "recipes"
    return sorted(
        p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")
    )


def load_recipe(
    name: str, sets: Iterable[str] = (), flags: Mapping[str, Any] | None = None
) -> Recipe:
    """Return a recipe by name or .toml path, with settings laid over it.

    First come `sets` ("key=value", dotted keys), then `flags`, but for those that are None.
    Raises: RecipeError.

    Example:
        >>> load_recipe("quick", ["loss.tv_weight=0.1"], {"steps": 100}).steps
        100
    """
    if name.endswith(".toml"):
        try:
            with open(name, "rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise RecipeError(f"recipe {name} has more than {MAX_BYTES:,} bytes: no recipe")
            text = data.decode("utf-8").replace("\r\n", "\n")
        except OSError as error:
            raise RecipeError(
                f"recipe {name} cannot be read: {(error.strerror or str(error)).lower()}"
            ) from None
        except UnicodeDecodeError:
            raise RecipeError(f"recipe {name} is not a text file in UTF-8") from None
    elif name in recipe_names():
        folder = resources.files("faststyle.training") / "recipes"
        text = (folder / f"{name}.toml").read_text(encoding="utf-8")
    else:
        raise RecipeError(f"unknown recipe {name!r}.{did_you_mean(name, recipe_names())}")
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"recipe {name} is not valid TOML: {error}") from None
    values["name"] = Path(name).stem
    for item in sets:
        _set(values, item)
    for key, value in (flags or {}).items():
        if value is not None:
            _assign(values, key, value)
    return recipe_from_dict(values)


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe that plain data describes; keys that are missing take their defaults.

    Raises: RecipeError for an unknown key, a value of the wrong type, or one out of range.
    """
    recipe: Recipe = _build(Recipe, values, "")
    for key in POSITIVE:
        if not getattr(recipe, key) > 0:  # not "<= 0": that would let nan pass
            raise RecipeError(f"{key} must be above 0, got {getattr(recipe, key)}")
    if not recipe.stroke_size < math.inf:
        raise RecipeError(f"stroke_size must be a number, got {recipe.stroke_size}")
    side = round(recipe.painting_size * recipe.stroke_size)
    if side < SMALLEST:
        raise RecipeError(
            f"the painting would be seen with {side} pixels a side, {SMALLEST} are needed: make "
            "painting_size or stroke_size larger"
        )
    if recipe.image_size < 32:
        raise RecipeError(f"image_size must be at least 32 pixels, got {recipe.image_size}")
    if not 0 <= recipe.content_target < 1:
        raise RecipeError(
            f"content_target must be at least 0 and below 1, got {recipe.content_target}"
        )
    seen = recipe.seen
    for name in ("shift", "margin"):
        if getattr(recipe, name) < 0:
            raise RecipeError(f"{name} must be at least 0, got {getattr(recipe, name)}")
    if seen < 32:
        raise RecipeError(f"image_size - shift - 2 margin must be at least 32, got {seen}")
    for key in ("adversarial_weight", "stability"):
        weight = getattr(recipe, key)
        if not 0 <= weight < math.inf:
            raise RecipeError(f"{key} must be a number, 0 or more, got {weight}")
    if not 0 <= recipe.copying <= 1:
        raise RecipeError(f"copying is a share of the steps, from 0 to 1, got {recipe.copying}")
    if recipe.copying == 1 and not recipe.teacher:
        raise RecipeError(
            "a network that copies in all of its steps (copying = 1, as in the recipe distill) "
            "needs a trained style to copy: `teacher` STYLE"
        )
    if recipe.teacher and not (recipe.copying and recipe.init == "scratch"):
        raise RecipeError(
            "a `teacher` is for networks from scratch that copy (recipe distill); `init` is "
            f"{recipe.init}, copying {recipe.copying}"
        )
    if not 0 <= recipe.warmup < 1:
        raise RecipeError(
            f"warmup is a share of the steps, at least 0 and below 1, got {recipe.warmup}"
        )
    if not 0 <= recipe.average < 1:
        raise RecipeError(f"average is a decay, at least 0 and below 1, got {recipe.average}")
    if not 0 <= recipe.spread <= min(recipe.content_target, 1 - recipe.content_target):
        raise RecipeError(
            f"spread must be at least 0, and content_target {recipe.content_target} with it in 0 "
            f"to 1, got {recipe.spread}"
        )
    if recipe.spread and (recipe.average or recipe.init == "scratch" or recipe.steps < 2):
        raise RecipeError(
            "a `spread` needs an `init` (base or a checkpoint), 2 steps and no `average`; "
            "spread=0 trains one network as a whole"
        )
    if recipe.image_size % STRIDE:
        raise RecipeError(f"image_size must be a multiple of {STRIDE}, got {recipe.image_size}")
    check_abstraction(recipe.abstraction)
    if recipe.workers < 0:
        raise RecipeError(f"workers must be 0 or more, got {recipe.workers}")
    if not 0 <= recipe.seed < 2**32:
        raise RecipeError(f"seed must be 0 or more and below 2**32, got {recipe.seed}")
    _check_loss(recipe.loss)
    content, style = recipe.loss.layers(recipe.vgg)
    needed = smallest_side([*content, *style])
    if seen < needed:
        raise RecipeError(
            f"the layers of the loss need crops of {needed} pixels; image_size - shift - 2 margin "
            f"is {seen}. Set image_size to {needed + recipe.image_size - seen} or more, or "
            "loss.style_layers without the coarsest"
        )
    with torch.device("meta"):  # without memory: here it is only checked
        build_network(recipe.network)
    return recipe


class Part(NamedTuple):
    """A part of a run that has a schedule of its own: a half, or all of it.

    `step` counts from 0 in this part of so many `steps`; `target` is the content_rel wanted.
    """

    step: int
    steps: int
    target: float


def part_of(step: int, recipe: Recipe) -> Part:
    """Return where a step, counted from 0, lies."""
    if not recipe.spread:
        return Part(step, recipe.steps, recipe.content_target)
    half = recipe.steps // 2
    if step < half:
        return Part(step, half, recipe.content_target - recipe.spread)
    return Part(step - half, recipe.steps - half, recipe.content_target + recipe.spread)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the rate for a step, counted from 0: a linear rise over `warmup`, then the schedule's.

    That is half a cosine to zero, or a constant; each half of a run in halves has its own. Source:
    Smith and Topin, "Super-convergence" (2018), https://arxiv.org/abs/1708.07120, with a cosine as
    descent. Differs from Johnson et al. (2016), who keep 1e-3 throughout.
    """
    part = part_of(step, recipe)
    rise = max(1, round(recipe.warmup * part.steps))
    if part.step < rise:
        return recipe.learning_rate * (part.step + 1) / rise
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (part.step + 1 - rise) / (part.steps + 1 - rise)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _check_loss(loss: LossConfig) -> None:
    weights = {
        "strength": loss.strength,
        "contrast": loss.contrast,
        **{f"{key}_weight": w for key, w in loss.weights()._asdict().items()},
    }
    for key, value in weights.items():
        if not 0 <= value < math.inf:
            raise RecipeError(f"loss.{key} must be a number, 0 or more, got {value}")
    for key in ("content_layers", "style_layers"):
        layers = getattr(loss, key)
        for layer, value in layers.items() if isinstance(layers, Mapping) else ():
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not 0 < value < math.inf
            ):
                raise RecipeError(f"loss.{key}.{layer} must be a number above 0, got {value!r}")


def _set(values: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    if not equals:
        raise RecipeError(f"`set` takes key=value, got {item!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string, as in loss.mode=absolute
    _assign(values, key.strip(), value)


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at a dotted key: "loss.style_layers.relu1_1" is three levels deep."""
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.get(parent)
        values[parent] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[parent]
    values[last] = value


def _build(cls: type[Any], values: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key not in hints:
            raise RecipeError(
                f"unknown key {prefix + key!r} in the recipe.{did_you_mean(key, hints, prefix)}"
            )
        hint = hints[key]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, Mapping):
                raise RecipeError(f"{prefix}{key} is a table, got {value!r}")
            arguments[key] = _build(hint, value, f"{prefix}{key}.")
        else:
            arguments[key] = _convert(value, hint, prefix + key)
    return cls(**arguments)


def _convert(value: Any, hint: Any, key: str) -> Any:
    """Return `value` as the type of its field. Raises: RecipeError with the types allowed."""
    origin = typing.get_origin(hint)
    options = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if option is types.NoneType and value is None:
            return None
        kind = typing.get_origin(option) or option
        if (
            isinstance(kind, type)
            and isinstance(value, kind)
            and not (kind is int and isinstance(value, bool))
        ):
            return value
    words = {
        int: "a whole number",
        float: "a number",
        str: "a string",
        bool: "true or false",
        types.NoneType: "nothing",
    }
    allowed = [
        ", ".join(map(str, typing.get_args(o)))
        if typing.get_origin(o) is Literal
        else words.get(o, "a table")
        for o in options
        if o is not types.NoneType
    ]
    raise RecipeError(f"{key} must be {' or '.join(allowed)}, got {value!r}")
