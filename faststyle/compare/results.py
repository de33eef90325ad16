"""The results of comparisons: rows, means and pictures of slow and fast, rows of flicker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from faststyle.judge.flicker import Flicker

INITS = ("content", "noise")  # where the slow path starts: from the photo, or from noise


@dataclass(frozen=True)
class FastRow:
    """A network on one photo: the terms of its objective, and the seconds of one forward pass."""

    checkpoint: str
    photo: str
    size: int
    content_rel: float
    style_rel: float
    total: float
    seconds: float


@dataclass(frozen=True)
class RefinedRow(FastRow):
    """A network's picture after `step` steps of the slow path; `seconds` are those of both."""

    step: int


@dataclass(frozen=True)
class SlowRow:
    """The slow path on one photo after `step` steps: the same terms, seconds since its start."""

    photo: str
    size: int
    init: str  # one of `INITS`
    step: int
    content_rel: float
    style_rel: float
    total: float
    seconds: float


@dataclass(frozen=True)
class Summary:
    """One checkpoint at one size, as `--json` prints it. Values of `fast` and `slow` are means.

    `equal_step`, `equal_seconds` and `speedup` are keyed by init. They are medians over the photos
    on which the slow path reached the network's total in one step or more, and None where fewer
    than half did; `reached` counts these photos. `start_as_good` counts those on which the start
    itself is no worse than the network, so that there is nothing to reach. `judge` is
    {"fast": scores, "slow": [{"init", "step", **scores}]}, and empty for sizes that are too small
    for it. `spread` holds standard deviations of `fast` over photos. `refined` holds the means of
    pictures that were refined, and of their steps; it is empty where none were, else
    `judge["refined"]` has their scores.
    """

    checkpoint: str
    photos: int
    size: int
    fast: Mapping[str, float]
    slow: list[Mapping[str, Any]]
    equal_step: Mapping[str, float | None]
    speedup: Mapping[str, float | None]
    reached: Mapping[str, int]
    judge: Mapping[str, Any]
    spread: Mapping[str, float] = field(default_factory=dict)
    equal_seconds: Mapping[str, float | None] = field(default_factory=dict)
    start_as_good: Mapping[str, int] = field(default_factory=dict)
    refined: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was compared: its network, and how large it is."""

    name: str
    network: Mapping[str, Any]
    parameters: int
    megabytes: float


@dataclass(frozen=True)
class Gallery:
    """Pictures of one photo at one size, each (1, 3, size, size) in [0, 1].

    `slow` is keyed by (init, step), `fast` and `refined` by checkpoint. The slow pictures minimised
    the first checkpoint's objective.
    """

    photo: str
    size: int
    content: Tensor
    slow: Mapping[tuple[str, int], Tensor]
    fast: Mapping[str, Tensor]
    refined: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All measurements and pictures of one call.

    `about` holds versions, machine, threads, the id of the VGG weights, steps, optimizer and the
    painting's file. `slow` is keyed by checkpoint, because checkpoints may have been trained on
    different objectives.
    """

    about: Mapping[str, Any]
    painting: Tensor  # (1, 3, H, W) in [0, 1]
    checkpoints: list[Checkpoint]
    summaries: list[Summary]
    fast: list[FastRow]
    slow: Mapping[str, list[SlowRow]]
    galleries: list[Gallery]
    refined: list[RefinedRow] = field(default_factory=list)


@dataclass(frozen=True)
class FlickerRow:
    """One network on one clip of `frames` frames, and the same figures of the clip itself.

    `noise_gain` is the noise of still places over that of the clip. `video` is the file with input,
    output and error.
    """

    clip: str
    network: str
    height: int
    width: int
    rate: float
    frames: int
    noise_gain: float | None
    output: Flicker
    input: Flicker
    video: str


def plain(value: Any) -> Any:
    """Return `value` in the types of strict JSON; a value of any other type becomes its text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):  # int, and integers of numpy
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return str(value)
