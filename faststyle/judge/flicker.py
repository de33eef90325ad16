"""Measure how much videos flicker that were made from one clip, frame by frame.

Two things are measured. The warping error compares a frame with an earlier one that is moved to its
place. The noise and the spectrum are those of places that do not move in the clip. Nothing is
trained on either.

Pictures are (H, W, 3) uint8 RGB. flow.py says what a flow is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faststyle.extras import require
from faststyle.flow import (
    EXTRA,
    Floats,
    Mask,
    Rgb,
    find_flow,
    find_visible,
    is_pair,
    squared_length,
    warp,
)

FindFlow = Callable[[Rgb, Rgb], Floats]

DISTANCES = (1, 5)  # frames between the two that are compared
LEVELS = 255.0
# A place is still where the mean flow around it is below this, in pixels. Flow of a still place is
# not zero, because the noise of the camera moves it.
STILL = 0.25
AROUND = 17  # pixels; the side of the square that must be still around a place
POINTS = 4096  # places, at random, whose brightness is followed
FEWEST_POINTS = 100  # that must be still in a window
WINDOW = 16  # frames of a spectrum; a window begins every half of them
FAST = 0.25  # periods a frame; faster is what a viewer calls flicker


@dataclass(frozen=True)
class Warping:
    """The warping error at one distance, the mean over pairs of frames; None without any pair.

    `squared` and `absolute` are means over visible pixels and channels, of values in [0, 1].
    `by_frame` holds `squared` of each pair, None for a pair that shares too little: a cut.
    `visible` is the share of visible pixels in the pairs that count.
    """

    distance: int
    squared: float | None
    absolute: float | None
    visible: float | None
    by_frame: tuple[float | None, ...]


@dataclass(frozen=True)
class Still:
    """The changes over time of places that are still in the clip, in levels of 255.

    `noise` is their standard deviation. `fast` is that of the part with periods below 4 frames, and
    `fast_share` its share of the energy. `spectrum` is the power density in square levels, at
    `frequencies` in periods a frame.
    """

    noise: float
    fast: float
    fast_share: float
    frequencies: tuple[float, ...]
    spectrum: tuple[float, ...]


@dataclass(frozen=True)
class Flicker:
    """How much one video flickers. `still` is None where too few places are still for long enough.

    `still_share` is the share of such places.
    """

    warping: tuple[Warping, ...]
    still_share: float
    still: Still | None


def noise_gain(output: Still | None, clip: Still | None) -> float | None:
    """Return the noise of still places over that of the clip; None where the clip has no noise."""
    if output is None or clip is None or clip.noise == 0:
        return None
    return output.noise / clip.noise


def find_still(back: Floats) -> Mask:
    """Return the pixels (H, W) around which the mean flow is about zero."""
    cv2 = require("cv2", extra=EXTRA)
    still: Mask = squared_length(cv2.blur(back, (AROUND, AROUND))) <= STILL**2
    return still


def find_difference(earlier: Rgb, later: Rgb, back: Floats) -> Floats:
    """Return the later frame less the earlier one that is warped to it, (H, W, 3) in [-1, 1]."""
    before = earlier.astype(np.float32) / LEVELS
    difference: Floats = later.astype(np.float32) / LEVELS - warp(before, back)
    return difference


def warping_error(difference: Floats, visible: Mask) -> tuple[float, float] | None:
    """Return the mean squared and mean absolute difference over visible pixels and channels.

    None where the frames are no pair (`is_pair`). Source: Lai et al. (2018),
    "Learning blind video temporal consistency", https://arxiv.org/abs/1808.00449. The paper has the
    sum over channels; the code of its authors takes their mean, as here.
    """
    if not is_pair(visible):
        return None
    seen = difference[visible].astype(np.float64)
    return float((seen**2).mean()), float(np.abs(seen).mean())


@dataclass(frozen=True)
class ErrorMap:
    """The mean absolute difference over channels (H, W) in [0, 1], and the visible pixels."""

    error: Floats
    visible: Mask


class FlickerMeter:
    """Measures a clip and several videos that were made from it, one frame of each at a time.

    The flow is that of the clip, for all of them. Six frames of each are kept.

    Example:
        >>> meter = FlickerMeter(videos=1)
        >>> for frame in frames:
        ...     maps = meter.add(frame, [stylize(frame)])
        >>> clip, video = meter.figures()
    """

    def __init__(self, videos: int, find_flow: FindFlow = find_flow) -> None:
        self.frames = 0
        self._find_flow = find_flow
        self._held: deque[list[Rgb]] = deque(maxlen=max(DISTANCES) + 1)
        self._pairs = {distance: _Pairs(1 + videos) for distance in DISTANCES}
        self._points = _StillPoints(1 + videos)

    def add(self, frame: Rgb, videos: Sequence[Rgb]) -> Sequence[ErrorMap | None]:
        """Add a frame of the clip, and the same one of each video.

        Return the error of each video since the frame before: None for the first frame.
        """
        self.frames += 1
        now = [frame, *videos]
        self._held.append(now)
        still = np.ones(frame.shape[:2], bool)
        maps: Sequence[ErrorMap | None] = [None] * len(videos)
        for distance, pairs in self._pairs.items():
            if len(self._held) <= distance:
                continue
            before = self._held[-1 - distance]
            back = self._find_flow(frame, before[0])
            visible = find_visible(back, self._find_flow(before[0], frame))
            # Flat places look still across a cut.
            still &= find_still(back) & is_pair(visible)
            differences = [find_difference(*pair, back) for pair in zip(before, now, strict=True)]
            pairs.add(differences, visible)
            if distance == 1:
                maps = [ErrorMap(np.abs(one).mean(-1), visible) for one in differences[1:]]
        self._points.add(now, still)
        return maps

    def figures(self) -> list[Flicker]:
        """Return the figures of the clip, and of each video."""
        share = self._points.share
        figures = []
        for number, still in enumerate(self._points.figures()):
            warping = (pairs.figures(number, d) for d, pairs in self._pairs.items())
            figures.append(Flicker(tuple(warping), share, still))
        return figures


class _Pairs:
    """The errors of all pairs of frames at one distance, for each video."""

    def __init__(self, videos: int) -> None:
        self.errors: list[list[tuple[float, float] | None]] = [[] for _ in range(videos)]
        self.visible: list[float] = []

    def add(self, differences: Sequence[Floats], visible: Mask) -> None:
        for errors, difference in zip(self.errors, differences, strict=True):
            errors.append(warping_error(difference, visible))
        if is_pair(visible):
            self.visible.append(float(visible.mean()))

    def figures(self, number: int, distance: int) -> Warping:
        """Return the means of one video."""
        errors = self.errors[number]
        by_frame = tuple(error and error[0] for error in errors)
        counted = [error for error in errors if error is not None]
        if not counted:
            return Warping(distance, None, None, None, by_frame)
        squared, absolute = np.mean(counted, 0)
        return Warping(
            distance, float(squared), float(absolute), float(np.mean(self.visible)), by_frame
        )


class _StillPoints:
    """Follows the brightness of random places in windows of frames, for each video.

    A place counts in a window if it is still in each of its frames. At random, because networks
    have patterns that a grid of places would meet again and again.
    """

    def __init__(self, videos: int) -> None:
        self.frames = 0
        self.windows = 0
        self.still = 0  # places, summed over windows
        self.counted = 0  # those of windows with enough of them
        self.traces: deque[list[Rgb]] = deque(maxlen=WINDOW)
        self.masks: deque[Mask] = deque(maxlen=WINDOW)
        self.places: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        # Sums over the places that count, of means over channels.
        self.variance = np.zeros(videos)
        self.power = np.zeros((videos, WINDOW // 2 + 1))

    @property
    def share(self) -> float:
        """Return the share of places that were still, over all windows."""
        return self.still / (self.windows * POINTS) if self.windows else 0.0

    def add(self, pictures: Sequence[Rgb], still: Mask) -> None:
        """Add the same frame of all videos."""
        if self.places is None:
            h, w = still.shape
            rng = np.random.default_rng(0)
            self.places = (rng.integers(h, size=POINTS), rng.integers(w, size=POINTS))
        self.traces.append([picture[self.places] for picture in pictures])
        self.masks.append(still[self.places])
        self.frames += 1
        if self.frames >= WINDOW and self.frames % (WINDOW // 2) == 0:
            self._add_window()

    def _add_window(self) -> None:
        signal = require("scipy.signal", extra=EXTRA)
        still = np.all(self.masks, 0)
        self.windows += 1
        self.still += int(still.sum())
        if still.sum() < FEWEST_POINTS:
            return
        self.counted += int(still.sum())
        for number in range(len(self.variance)):
            # (frames, places, channels)
            traces = np.stack([one[number][still] for one in self.traces]).astype(np.float64)
            self.variance[number] += traces.var(0, ddof=1).mean(-1).sum()
            _, power = signal.welch(traces, nperseg=WINDOW, axis=0)
            self.power[number] += power.mean(-1).sum(-1)

    def figures(self) -> list[Still | None]:
        """Return the figures of each video."""
        if not self.counted:
            return [None] * len(self.variance)
        return [
            _summarise(variance / self.counted, power / self.counted)
            for variance, power in zip(self.variance, self.power, strict=True)
        ]


def _summarise(variance: float, power: NDArray[np.float64]) -> Still:
    """Return the figures of a mean variance and a mean spectrum of Welch, in square levels."""
    frequencies = np.arange(len(power)) / WINDOW
    energy = power / WINDOW  # of each frequency: the density times the distance to the next one
    fast = float(energy[frequencies > FAST].sum())
    total = float(energy.sum())
    # The last frequency stands for half of that distance.
    density = [*power[:-1].tolist(), 2 * float(power[-1])]
    return Still(
        noise=float(np.sqrt(variance)),
        fast=float(np.sqrt(fast)),
        fast_share=fast / total if total else 0.0,
        frequencies=tuple(frequencies.tolist()),
        spectrum=tuple(density),
    )
