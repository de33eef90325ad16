"""Blend each painted frame with the one before, which is moved to its place by optical flow.

Source: Lai et al. (2018), "Learning blind video temporal consistency",
https://arxiv.org/abs/1808.00449. Their weights of visible pixels are used here to blend.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from faststyle.extras import require
from faststyle.flow import (
    EXTRA,
    SMALLEST,
    Floats,
    find_flow,
    find_visible,
    is_pair,
    warp,
)
from faststyle.video.frames import Clip, Memory, Rgb
from faststyle.video.options import VideoError

LEVELS = 255.0
# How fast the weight falls where two frames of the source differ: exp(-ALIKE * squared difference),
# values in [0, 1] (Lai et al.). A difference of 30 levels halves it.
ALIKE = 50.0
EDGE = 5  # pixels over which the weight falls to nothing, towards what the frame before hides


class Smoother:
    """A function of frames that blends what another one makes of them over time.

    `strength`, from 0 to below 1, is the share of the frame before. It is less where the flow does
    not fit, and 0 where the frame before does not show a pixel, and after a cut. The frame before
    was blended too, so places that stand still are a running mean. `memory` is that of a stopped
    run, with which this one goes on.

    Example:
        >>> stylize = Smoother(Stylizer.load("nocturne").frame, 0.8)
        >>> outputs = [stylize(frame) for frame in frames]
    """

    def __init__(
        self, stylize: Callable[[Rgb], Rgb], strength: float, memory: Memory | None = None
    ) -> None:
        self.memory = memory
        self._stylize = stylize
        self._strength = np.float32(strength)

    def __call__(self, rgb: Rgb) -> Rgb:
        """Return the smoothed picture of the next frame, both (H, W, 3) uint8, as a new array."""
        if self.memory is None:
            output = self._stylize(rgb).astype(np.float32)
        elif np.array_equal(rgb, self.memory.before):  # a frame that is repeated
            output = self.memory.output
        else:
            painted = self._stylize(rgb).astype(np.float32)
            output = self._blend(painted, rgb, self.memory)
        self.memory = Memory(rgb, output)
        rounded: Rgb = np.rint(output).astype(np.uint8)
        return rounded

    def _blend(self, painted: Floats, rgb: Rgb, memory: Memory) -> Floats:
        back = find_flow(rgb, memory.before)
        visible = find_visible(back, find_flow(memory.before, rgb))
        if not is_pair(visible):
            return painted
        cv2 = require("cv2", extra=EXTRA)
        inner = np.minimum(visible, cv2.blur(visible.astype(np.float32), (EDGE, EDGE)))
        moved = warp(memory.before.astype(np.float32), back)
        squared = (((rgb - moved) / np.float32(LEVELS)) ** 2).mean(-1)
        weight = self._strength * inner * np.exp(-ALIKE * squared)
        before = warp(memory.output, back, cubic=True)
        blended: Floats = painted + weight[..., None] * (before - painted)
        return blended.clip(0, LEVELS)


def check_smooth(clip: Clip) -> None:
    """Check that the frames of a clip can be smoothed. Raises: VideoError; DeviceError without
    OpenCV."""
    require("cv2", extra=EXTRA)
    if min(clip.height, clip.width) < SMALLEST:
        raise VideoError(
            f"{clip.path}: {clip.width}x{clip.height} pixels are too few to find motion; "
            f"leave `smooth` out, or use {SMALLEST} or more a side"
        )
