"""Optical flow between two frames of a clip, and which pixels both of them show.

Pictures are (H, W, 3) uint8 RGB. A flow is (H, W, 2) float32 in pixels, x before y: what is at
(x, y) in one picture is at (x, y) + flow[y, x] in the other.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faststyle.errors import ImageError
from faststyle.extras import require

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

EXTRA = "flicker"
SMALLEST = 32  # pixels; DIS takes 12 or more, and sees no motion in so few
# Thresholds in square pixels: a part of the square length of the flow, and a constant. Source:
# Ruder et al. (2016), "Artistic style transfer for videos", https://arxiv.org/abs/1604.08610.
APART = (0.01, 0.5)
EDGE = (0.01, 0.002)
# Frames that share less than this of their pixels have a cut, or unknown motion, between them.
# Across a cut, up to a tenth of the pixels of photos fits by chance.
LEAST_VISIBLE = 0.25


def find_flow(first: Rgb, second: Rgb) -> Floats:
    """Return the flow from the first picture to the second, by DIS.

    Source: Kroeger et al. (2016), "Fast optical flow using dense inverse search",
    https://arxiv.org/abs/1603.03590. Raises: ImageError for pictures that are too small.
    """
    cv2 = require("cv2", extra=EXTRA)
    if min(first.shape[:2]) < SMALLEST:
        h, w = first.shape[:2]
        raise ImageError(f"{h}x{w} pixels are too few to find motion; {SMALLEST} or more a side")
    grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (first, second)]
    flow: Floats = _dis().calc(*grey, None)
    return flow


@functools.cache
def _dis() -> Any:
    cv2 = require("cv2", extra=EXTRA)
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


def warp(values: Floats, flow: Floats, cubic: bool = False) -> Floats:
    """Return (H, W, C) `values` at the places where `flow` points to, bilinear, or `cubic`.

    Beyond the edges the nearest values go on. Cubic interpolation blurs less, and may go beyond the
    range of the values.
    """
    cv2 = require("cv2", extra=EXTRA)
    way = cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR
    warped: Floats = cv2.remap(values, *_places(flow), way, borderMode=cv2.BORDER_REPLICATE)
    return warped


def _places(flow: Floats) -> tuple[Floats, Floats]:
    """Return where a flow points to: x and y, each (H, W)."""
    h, w = flow.shape[:2]
    across: Floats = np.arange(w).astype(np.float32)
    down: Floats = np.arange(h).astype(np.float32)
    return flow[..., 0] + across, flow[..., 1] + down[:, None]


def find_visible(back: Floats, ahead: Floats) -> Mask:
    """Return the pixels (H, W) of the later of two frames that are seen in the earlier one too.

    `back` is the flow from the later to the earlier frame, `ahead` the opposite one. Hidden are
    pixels whose flow there and back does not end where it began, pixels at edges of motion (both:
    Ruder et al., 2016), and those that come from outside the picture.
    """
    h, w = back.shape[:2]
    there = warp(ahead, back)
    length = squared_length(back)
    closed = squared_length(there + back) <= APART[0] * (squared_length(there) + length) + APART[1]
    down, across = (np.asarray(one) for one in np.gradient(back, axis=(0, 1)))
    smooth = squared_length(down) + squared_length(across) <= EDGE[0] * length + EDGE[1]
    x, y = _places(back)
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    visible: Mask = closed & smooth & inside
    return visible


def is_pair(visible: Mask) -> bool:
    """Return whether two frames share enough: no cut is between them, and motion was found."""
    return bool(visible.mean() >= LEAST_VISIBLE)


def squared_length(vectors: Floats) -> Floats:
    """Return the squared length of vectors, (H, W) from (H, W, 2)."""
    # Much faster than a sum over the last axis.
    squared: Floats = vectors[..., 0] ** 2 + vectors[..., 1] ** 2
    return squared
