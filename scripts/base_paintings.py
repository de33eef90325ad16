"""Paint many different pictures from seeds, for a base network to learn from before it is given a real painting.

    python scripts/base_paintings.py OUT_FOLDER --count 256 --size 384 --first 0

A network that has learned one painting is close only to its like; one that has learned hundreds of painters is close to
every painting. So what counts here is spread: each seed draws a palette, a composition, one or two techniques with
their parameters, marks over them and a surface, mostly log-uniformly, and paints from large masses to fine grain.
Nothing is taken from any existing picture. Lengths marked "px" are pixels of a 384 px picture and scale with the size.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Array = NDArray[Any]
Rng = np.random.Generator

FRAME = 384  # side of the picture that lengths in px refer to
OVERSAMPLE = 1.5  # pictures are painted larger and reduced, which smooths edges
STEP = 0.8  # canvas pixels between samples of a stroke: below 1, so that no pixel inside is missed
KEYS = 65536  # forms are told apart by a key below this


# ---------------------------------------------------------------- numbers and noise


def log(rng: Rng, low: float, high: float) -> float:
    """Draw log-uniformly: lengths and strengths differ by factors, not by amounts."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def any_of(rng: Rng, options: Sequence[Any]) -> Any:
    """Draw one of the options."""
    return options[int(rng.integers(len(options)))]


def ramp(value: Array, low: float | Array, high: float | Array) -> Array:
    """Smooth step from 0 at low to 1 at high."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def noise(rng: Rng, size: int, cell: float, cell_x: float | None = None) -> Array:
    """Smooth noise of unit variance whose blobs measure about `cell` (by `cell_x`) canvas pixels."""
    shape = int(size / cell) + 4, int(size / (cell_x or cell)) + 4
    knots = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))
    field = np.asarray(knots.resize((size, size), Image.Resampling.BICUBIC))
    return (field - field.mean()) / (field.std() + 1e-6)


def fractal(rng: Rng, size: int, cell: float, roughness: float) -> Array:
    """Noise of several octaves, from `cell` down to 2 canvas pixels; roughness is the gain of each next octave."""
    gains = roughness ** np.arange(max(1, int(np.log2(cell / 2))))
    return np.asarray(sum(g * noise(rng, size, cell / 2**k) for k, g in enumerate(gains)) / np.sqrt((gains**2).sum()))


def grid(size: int, reach: float = 1) -> tuple[Array, Array]:
    """Coordinates x and y from -reach to reach."""
    line = np.linspace(-reach, reach, size, dtype=np.float32)
    return np.broadcast_to(line[None, :], (size, size)), np.broadcast_to(line[:, None], (size, size))


def rim(labels: Array) -> Array:
    """Distance in canvas pixels of each pixel from the nearest border between labels."""
    same = np.ones(labels.shape, bool)
    same[:, 1:] &= labels[:, 1:] == labels[:, :-1]
    same[1:] &= labels[1:] == labels[:-1]
    return np.asarray(ndimage.distance_transform_edt(same), np.float32) if not same.all() else same * 1e3


# ---------------------------------------------------------------- palettes

HARMONIES = [[0], [0, 0.1, -0.1], [0, 0.5], [0, 0.42, 0.58], [0, 1 / 3, 2 / 3], [0, 0.25, 0.5, 0.75], [0, 0.12, 0.55]]
LMS = np.array([[1, 0.3963378, 0.2158038], [1, -0.1055613, -0.0638542], [1, -0.0894842, -1.2914855]], np.float32)
RGB = [[4.0767417, -3.3077116, 0.2309699], [-1.2684380, 2.6097574, -0.3413194], [-0.0041961, -0.7034186, 1.7076147]]


def to_rgb(lab: Array) -> Array:
    """OKLab (Ottosson, 2020) as sRGB from 0 to 1; colours outside of the gamut are clipped."""
    linear = np.clip((lab.astype(np.float32) @ LMS.T) ** 3 @ np.array(RGB, np.float32).T, 0, 1)
    return np.where(linear < 0.0031308, 12.92 * linear, 1.055 * np.power(linear, 1 / 2.4) - 0.055).astype(np.float32)


def oklab(light: Array | float, chroma: Array | float, hue: Array | float) -> Array:
    """OKLab from lightness, chroma and hue; hue is a fraction of the circle."""
    turn = np.multiply(2 * np.pi, hue)
    return np.stack(np.broadcast_arrays(light, chroma * np.cos(turn), chroma * np.sin(turn)), -1).astype(np.float32)


@dataclass
class Palette:
    """OKLab paints, what share of the picture each takes, and the colours of bare canvas and of drawn lines."""

    paints: Array
    share: Array
    ground: Array
    ink: Array

    def pick(self, rng: Rng, count: int) -> Array:
        """Draw paints by their shares."""
        return self.paints[rng.choice(len(self.paints), count, p=self.share)]


def mix_palette(rng: Rng) -> Palette:
    """Draw paints of a common harmony, key (how light), contrast and vividness."""
    count = int(rng.integers(2, 13))
    offsets = any_of(rng, HARMONIES) if rng.random() < 0.75 else rng.random(count)
    hue = rng.random() + rng.permutation(np.resize(offsets, count)) + rng.normal(0, 0.025, count)
    if rng.random() < 0.25:  # earths: ochre to umber, with something cold beside them
        hue = np.where(rng.random(count) < 0.75, rng.uniform(0.08, 0.26, count), hue)
    key, contrast = rng.uniform(0.42, 0.75), rng.uniform(0.18, 0.5)
    light = key + contrast * np.linspace(-1, 1, count) + rng.normal(0, 0.06, count)
    # Pure yellow is light and pure blue dark; most painters keep to that.
    light = np.clip(light + rng.choice([0, 0.14]) * np.cos(2 * np.pi * (hue - 0.3)), 0.14, 0.97)
    vivid = log(rng, 0.005, 0.05) if rng.random() < 0.15 else log(rng, 0.06, 0.32)
    chroma = vivid * rng.uniform(0.15, 1.3, count) * (1 - np.abs(2 * light - 1) ** 4)
    level = rng.choice([rng.uniform(0.85, 0.97), rng.uniform(0.12, 0.3), rng.uniform(0.4, 0.8)], p=[0.5, 0.2, 0.3])
    ground = oklab(level, log(rng, 0.005, 0.06), rng.choice([0.22, hue[0]]) + rng.normal(0, 0.05))
    ink = oklab(rng.choice([0.05, 0.2, 0.3, 0.96], p=[0.4, 0.3, 0.2, 0.1]), log(rng, 0.004, 0.08), rng.choice(hue))
    return Palette(oklab(light, chroma, hue), rng.dirichlet(np.full(count, log(rng, 1, 6))), ground, ink)


# ---------------------------------------------------------------- compositions


def cut_shards(rng: Rng, x: Array, y: Array) -> Array:
    """Cut the plane again and again, each time one piece by a straight line."""
    labels, upright = np.zeros(x.shape, np.int32), rng.random() < 0.4
    turns = rng.uniform(0, np.pi, 3) if not upright else rng.uniform(-0.1, 0.1) + np.array([0, np.pi / 2])
    for new in range(1, int(log(rng, 8, 70))):
        row, column = rng.integers(len(x), size=2)
        turn = rng.choice(turns) + rng.normal(0, 0.02 if upright else 0.15)
        side = (x - x[row, column]) * np.cos(turn) + (y - y[row, column]) * np.sin(turn) > 0
        labels[side & (labels == labels[row, column])] = new
    return labels


def stack_hills(rng: Rng, x: Array, y: Array) -> Array:
    """Sky, a far ridge, nearer ones before it; perhaps a sun."""
    labels = np.zeros(x.shape, np.int32)
    if rng.random() < 0.6:
        labels[np.hypot(x - rng.uniform(-0.8, 0.8), y + rng.uniform(0.2, 0.8)) < log(rng, 0.06, 0.35)] = 1
    for layer, level in enumerate(np.sort(rng.uniform(-0.5, 1, int(rng.integers(2, 9))))):
        ridge = level + log(rng, 0.02, 0.3) * np.sin(x * log(rng, 1, 9) + rng.uniform(0, 7))
        labels[y > ridge + rng.uniform(0, 0.1) * np.abs(np.sin(x * log(rng, 4, 25) + layer))] = layer + 2
    return labels


def slice_levels(rng: Rng, x: Array, y: Array) -> Array:
    """Levels of a height, as between the contour lines of a map: of clouds, swinging bands, rings or spirals."""
    turn, size = rng.uniform(0, np.pi), len(x)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    u, v = u - rng.uniform(-0.6, 0.6), v - rng.uniform(-0.6, 0.6)
    clouds = 0.6 * fractal(rng, size, size * log(rng, 0.15, 0.7), rng.uniform(0.15, 0.5))
    bands = u + log(rng, 0.01, 0.4) * np.sin(v * log(rng, 1, 8))
    spiral = (np.hypot(u, v) + rng.integers(0, 4) * np.arctan2(v, u) / 2 / np.pi) % 1.5 - 0.5
    rays = (np.arctan2(v, u) / np.pi + rng.uniform(-0.5, 0.5) * np.hypot(u, v) + 2) % 2 - 1
    height = any_of(rng, [clouds, bands, spiral, rays])
    return np.searchsorted(np.sort(rng.uniform(-1.2, 1.2, int(log(rng, 4, 30)))), height.ravel()).reshape(x.shape)


def add_forms(rng: Rng, x: Array, y: Array, labels: Array) -> Array:
    """Set discs, boxes, moons, leaves, wedges and stars on the labels: a few large ones, many small."""
    labels, count, largest = labels.copy(), int(log(rng, 4, 90)), log(rng, 0.2, 0.9)
    angles, kinds, slack = rng.uniform(0, np.pi, 3), rng.choice(6, int(rng.integers(1, 5))), np.ptp(x) / 2 - 0.9
    for new, radius in enumerate(largest * np.sort(rng.uniform(0.12, 1, count) ** 1.8)[::-1], labels.max() + 1):
        cx, cy, turn = *rng.uniform(-1, 1, 2), rng.choice(angles) + rng.normal(0, 0.2)
        stretch, kind, points = log(rng, 0.4, 2.5), rng.choice(kinds), rng.integers(3, 9)
        reach = radius * max(stretch, 1 / stretch) * 1.2 + slack
        rows, columns = (slice(*(max(0, int((c + d + 1) / 2 * len(x))) for d in (-reach, reach))) for c in (cy, cx))
        dx, dy = x[rows, columns] - cx, y[rows, columns] - cy
        u = (dx * np.cos(turn) + dy * np.sin(turn)) / (radius * stretch)
        v = (dy * np.cos(turn) - dx * np.sin(turn)) / (radius / stretch)
        r, wide = np.hypot(u, v), np.maximum(np.abs(u), np.abs(v))
        star = r < 0.65 + 0.3 * np.cos(points * np.arctan2(v, u)) if kind == 5 else r < 1
        moon, leaf, wedge = star & (np.hypot(u - 0.5, v - 0.2) > 0.8), np.abs(v) + u * u < 0.9, np.abs(v) < (u + 1) / 2
        labels[rows, columns][[star, wide < 0.8, moon, leaf, wedge & (u < 0.9), star][kind]] = new
    return labels


def find_highest(rng: Rng, x: Array, y: Array) -> Array:
    """Soft masses that meet: where each of several noises is the highest; or none at all."""
    return np.argmax([noise(rng, len(x), len(x) * log(rng, 0.12, 0.5)) for _ in range(int(rng.integers(1, 8)))], 0)


LAYOUTS = [find_highest, find_highest, stack_hills, slice_levels, slice_levels, cut_shards]


@dataclass
class Scene:
    """What is to be painted, before any technique."""

    palette: Palette
    labels: Array  # (S, S): the form at each pixel
    lab: Array  # (S, S, 3): its OKLab colour
    flow: Array  # (S, S): direction of the brush in radians
    unit: float  # canvas pixels per px

    @property
    def size(self) -> int:
        """Side of the canvas in pixels."""
        return len(self.flow)


def steer(rng: Rng, light: Array, stride: int = 3) -> Array:
    """Directions of the brush: a mix of straight, swirling, along the forms, radial and spiralling."""
    size, (x, y) = len(light), grid(len(light[::stride]))
    turn, bias = rng.uniform(0, 2 * np.pi), rng.dirichlet(np.full(4, 0.5))
    vx, vy = bias[0] * np.cos(turn) + 0 * x, bias[0] * np.sin(turn) + 0 * x
    forms = ndimage.gaussian_filter(light[::stride, ::stride], len(x) * log(rng, 0.008, 0.04))
    for share, field in ((bias[1], noise(rng, len(x), len(x) * log(rng, 0.2, 1))), (bias[2], forms)):
        gy, gx = np.gradient(field)
        scale = share / (np.hypot(gx, gy).mean() + 1e-9)
        vx, vy = vx - gy * scale, vy + gx * scale
    for _ in range(int(rng.integers(1, 9))):
        dx, dy = x - rng.uniform(-1, 1), y - rng.uniform(-1, 1)
        pull, reach, spin = rng.choice([0, 0.25, 3]), log(rng, 0.1, 0.8), rng.choice([-1, 1])
        weight = 3 * bias[3] * np.exp(-np.hypot(dx, dy) / reach) / (np.hypot(dx, dy) + 0.02) / (1 + pull)
        vx, vy = vx + weight * (-spin * dy - pull * dx), vy + weight * (spin * dx - pull * dy)
    return np.arctan2(vy, vx).repeat(stride, 0).repeat(stride, 1)[:size, :size]


def compose(rng: Rng, palette: Palette, size: int) -> Scene:
    """Draw masses, set forms on them, colour each with two paints, and let light and weather model them."""
    x, y = grid(size)
    reach, bend = size * log(rng, 0.08, 0.6), log(rng, 0.003, 0.12)
    wx, wy = x + bend * noise(rng, size, reach), y + bend * noise(rng, size, reach)
    labels = np.asarray(any_of(rng, LAYOUTS)(rng, wx, wy), np.int32)
    if labels.max() == 0 or rng.random() < 0.65:
        labels = add_forms(rng, wx, wy, labels)
    base, other = palette.pick(rng, labels.max() + 1)[labels], palette.pick(rng, labels.max() + 1)[labels]
    turn = rng.uniform(0, 2 * np.pi, labels.max() + 1)[labels]
    weather = fractal(rng, size, size * log(rng, 0.04, 0.5), rng.uniform(0.2, 0.7))
    blend = ramp(1.2 * (x * np.cos(turn) + y * np.sin(turn)) + log(rng, 0.1, 1) * weather, -1.0, 1.6)
    lab = base + (other - base) * (log(rng, 0.1, 1) * blend)[..., None]
    lab[..., 0] += log(rng, 0.005, 0.07) * fractal(rng, size, size * log(rng, 0.03, 0.3), rng.uniform(0.3, 0.8))
    # Contrast is drawn too, not left to which paints met: a dull ground tells a network little.
    middle, gain = lab[..., 0].mean(), rng.uniform(0.08, 0.24) / (lab[..., 0].std() + 0.01)
    lab[..., 0] = np.clip(middle, 0.3, 0.8) + (lab[..., 0] - middle) * np.clip(gain, 0.8, 4)
    if rng.random() < 0.3:  # a pool of light in the dark
        far = np.hypot(x - rng.uniform(-0.6, 0.6), y - rng.uniform(-0.6, 0.6))
        lab *= (1 - rng.uniform(0.2, 0.7) * ramp(far, 0.1, 1.5))[..., None]
    lab[..., 0] = np.clip(lab[..., 0], 0.05, 0.99)
    return Scene(palette, labels, lab.astype(np.float32), steer(rng, lab[..., 0]), size / FRAME)


# ---------------------------------------------------------------- brushes


@dataclass
class Canvas:
    """Paint (S, S, 3) in sRGB, and how thick it lies (S, S)."""

    rgb: Array
    relief: Array

    def lay(self, colour: Array, opacity: Array) -> None:
        """Cover with an sRGB colour or picture."""
        self.rgb += (colour - self.rgb) * np.asarray(opacity, np.float32)[..., None]


@dataclass(frozen=True)
class Brush:
    """How strokes are laid. `ratio` is of length to width; `cover` of the area of all strokes to that of the canvas."""

    width: float  # px
    ratio: float
    cover: float = 2.5
    opacity: float = 0.95
    bristle: float = 0.3  # how much a second paint streaks the first
    dry: float = 0.2  # how much of a stroke stays bare
    blunt: float = 0.0  # 0: round ends, 1: square
    wander: float = 0.15  # radians off the flow
    bend: float = 0.1  # radians per stroke
    follow: bool = True  # along the flow all the way, not only where the stroke begins
    jitter: float = 0.04  # of the colour, in OKLab
    stray: float = 0.1  # share of strokes in another paint
    thick: float = 0.5  # relief
    spread: float = 0.3  # of the logarithm of the width


def cut_prints(rng: Rng, brush: Brush, shape: tuple[int, int, int] = (12, 64, 20)) -> tuple[Array, Array, Array]:
    """Prints of one brush as (opacity, streak, height), each over the length and the width of a stroke."""
    s, v = np.linspace(0, 1, shape[1])[None, :, None], np.abs(np.linspace(-1, 1, shape[2]))[None, None, :]
    hair = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 14, 0.6))
    hair, edge = hair / hair.std(), max(1.5 / brush.width, 0.12)
    ends = np.minimum(s, 1 - s) * 2 * brush.ratio + 0.25 * hair * brush.dry  # from the nearer end, in half widths
    cap = np.sqrt(np.clip(1 - (1 - np.clip(ends + brush.blunt, 0, 1)) ** 2, 0, 1))
    loaded = ramp(hair + 3 - 3.4 * brush.dry * (0.4 + s), -0.4, 0.4)  # toward its end the brush runs dry
    opacity = ramp(cap - v + edge, 0, 2 * edge) * (ends > 0) * loaded * brush.opacity
    ridge = np.exp(-(((v - 0.8) / 0.2) ** 2)) + 0.7 * np.exp(-(((s - 0.9) / 0.07) ** 2))
    height = 0.5 + 0.35 * hair * (brush.bristle + 0.2) + 0.5 * ridge
    return opacity.astype(np.float32), np.clip(0.3 + brush.bristle * 0.6 * hair, -0.5, 1.2), height.astype(np.float32)


def trace(rng: Rng, scene: Scene, brush: Brush, start: Array, steps: int) -> tuple[Array, Array]:
    """Points (2, N, steps) along the flow from each start, and the direction (N, steps) at each of them."""
    points, turns = np.empty((steps, *start.shape), np.float32), np.empty((steps, start.shape[1]), np.float32)
    off = rng.normal(0, brush.wander, start.shape[1]) + np.pi * rng.integers(0, 2, start.shape[1])
    bend, here = rng.normal(0, brush.bend / steps, start.shape[1]), start.astype(np.float32)
    for k in range(steps):
        if k == 0 or brush.follow:
            turn = scene.flow[tuple(np.clip(here, 0, scene.size - 1).astype(np.int32))]
        points[k], turns[k] = here, turn + off + bend * k
        here = here + STEP * np.stack([np.sin(turns[k]), np.cos(turns[k])])
    return points.transpose(1, 2, 0), turns.T


def stroke(rng: Rng, scene: Scene, canvas: Canvas, brush: Brush, where: Array | None = None, paint: Any = None) -> None:
    """Cover the canvas, or where it says with what chance, with strokes in the scene's colours or in one paint.

    Strokes are laid in batches: within one the later hides the earlier, which costs one look-up per pixel.
    """
    size, prints = scene.size, cut_prints(rng, brush)
    length = min(brush.ratio * brush.width, 120)
    steps, across = (max(3, int(np.ceil(v * scene.unit / STEP))) for v in (length, brush.width * 1.3))
    start = rng.uniform(0, size, (2, int(brush.cover * size**2 / (length * brush.width * scene.unit**2)) + 1))
    if where is not None:
        start = start[:, where[tuple(start.astype(np.int32))] > rng.random(start.shape[1])]
    batch = max(1, min(300_000 // (steps * across), start.shape[1] // 6 + 1))
    v, owner = np.linspace(-1, 1, across, dtype=np.float32), np.zeros(size * size, np.int32)
    flat, relief = canvas.rgb.reshape(-1, 3), canvas.relief.ravel()
    for first in range(0, start.shape[1], batch):
        points, turns = trace(rng, scene, brush, start[:, first : first + batch], steps)
        n = points.shape[1]
        half = brush.width * scene.unit / 2 * np.exp(rng.normal(0, brush.spread, (n, 1, 1))).astype(np.float32) * v
        ys = (points[0][..., None] + np.cos(turns)[..., None] * half).astype(np.int32)
        xs = (points[1][..., None] - np.sin(turns)[..., None] * half).astype(np.int32)
        sample = np.flatnonzero((ys >= 0) & (ys < size) & (xs >= 0) & (xs < size))
        cell = ys.ravel()[sample] * size + xs.ravel()[sample]
        owner[cell] = sample  # of the samples of one pixel one stays: in practice the last
        top = owner[cell] == sample
        cell, (which, s, t) = cell[top], np.unravel_index(sample[top], (n, steps, across))
        look = rng.integers(len(prints[0]), size=n)[which], s * 64 // steps, t * 20 // across
        middle = np.clip(points[:, :, steps // 2], 0, size - 1).astype(np.int32)
        lab, other = scene.lab[tuple(middle)] if paint is None else np.tile(paint, (n, 1)), scene.palette.pick(rng, n)
        lab = lab + 0.7 * (other - lab) * (rng.random((n, 1)) < brush.stray)
        lab = lab + rng.normal(0, brush.jitter, (n, 3)) * [1, 0.6, 0.6]
        streak = to_rgb(lab + (other - lab) * 0.25 + rng.normal(0, 0.06, (n, 1)) * [1, 0, 0])
        colour, alpha = to_rgb(lab), prints[0][look]
        mixed = colour[which] + (streak - colour)[which] * prints[1][look][:, None]
        flat[cell] += (mixed - flat[cell]) * alpha[:, None]
        relief[cell] += (prints[2][look] * brush.thick - 0.7 * relief[cell]) * alpha


# ---------------------------------------------------------------- techniques

Technique = Callable[[Rng, Scene, Canvas], None]


def brush_over(rng: Rng, scene: Scene, canvas: Canvas, passes: int = 1, sparse: float = 0.2, **ranges: Any) -> None:
    """Strokes along the flow with a brush drawn from ranges, in some passes from a wide brush to a narrow one."""
    brush = Brush(**{name: log(rng, *ends) for name, ends in ranges.items()})  # type: ignore[arg-type]
    brush = replace(brush, follow=rng.random() < 0.65, blunt=rng.choice([0, 0, 1]), bend=log(rng, 0.02, 1.2))
    laid = Canvas(canvas.rgb.copy(), canvas.relief.copy())
    for scale in 2.0 ** np.arange(passes - 1, -1, -1) / (1.8 if passes > 2 else 1):
        stroke(rng, scene, laid, replace(brush, width=brush.width * scale))
    tooth = noise(rng, scene.size, scene.unit * log(rng, 1, 2.2)) + 0.5 * noise(rng, scene.size, scene.unit * 4)
    patches, level = noise(rng, scene.size, scene.size * 0.15), rng.normal(-0.5, 0.4)
    # Chalk catches only on the tooth of the paper; a dry brush is rubbed on here and there.
    caught = ramp(any_of(rng, [tooth, patches]), level - 0.5, level + 0.5) if rng.random() < sparse else 1 + 0 * tooth
    canvas.lay(laid.rgb, caught)
    canvas.relief += (laid.relief - canvas.relief) * caught


def wash(rng: Rng, scene: Scene, canvas: Canvas) -> None:
    """Watercolour: washes that filter the light of the paper, dark where they dried at the edge."""
    size, unit = scene.size, scene.unit
    canvas.rgb[:] = to_rgb(np.array([rng.uniform(0.88, 0.98), *scene.palette.ground[1:]]))
    tint = -np.log(np.clip(to_rgb(ndimage.gaussian_filter(scene.lab, (*[unit * log(rng, 0.3, 6)] * 2, 0))), 0.04, 1))
    grain = 1 + rng.uniform(0.05, 0.3) * noise(rng, size, unit * log(rng, 1, 3))
    strength, pool = np.exp(-rim(scene.labels) / (unit * log(rng, 0.6, 2.5))) * rng.uniform(0, 0.7), log(rng, 0.2, 1.5)
    for level in np.linspace(-1.2, 1.2, int(rng.integers(3, 9))):
        wet = fractal(rng, size, size * log(rng, 0.05, 0.4), rng.uniform(0.2, 0.6)) - level * rng.uniform(0.3, 1)
        dried = 0.6 + pool * np.exp(-np.abs(wet - 0.06) / 0.06)
        strength = strength + ramp(wet, 0, log(rng, 0.02, 0.3)) * dried * rng.uniform(0.2, 0.6)
    canvas.rgb *= np.exp(-tint * (strength * grain)[..., None])


def hatch(rng: Rng, scene: Scene, canvas: Canvas) -> None:
    """Etching, engraving and ink: lines that swell in the shade, crossed where it is deep, on paper or a tint."""
    ground, ink = scene.palette.ground, to_rgb(scene.palette.ink)
    canvas.rgb[:] = to_rgb(ground + (scene.lab - ground) * rng.choice([0, rng.uniform(0.2, 0.9)]))
    tone = scene.lab[..., 0] + 0.04 * noise(rng, scene.size, scene.unit * 6)
    low, high = np.percentile(tone, [3, 97])[:: 1 if ground[0] < scene.palette.ink[0] else -1]
    dark = (tone - low) / (high - low + 1e-3)
    x, y = grid(scene.size, FRAME / 2)
    turn, period, bulge = rng.uniform(0, np.pi), log(rng, 2.2, 8), rng.choice([0, rng.uniform(0, 14)])
    curl = rng.choice([0, rng.uniform(2, 20)]) * noise(rng, scene.size, scene.size * log(rng, 0.1, 0.5))
    for k in range(int(rng.integers(1, 4))):
        turn, level = turn + k * rng.uniform(0.5, 1.3), 1.15 - 2.3 * (dark - 0.27 * k)
        phase = (x * np.cos(turn) + y * np.sin(turn) + bulge * dark + curl) * 6.28 / period
        canvas.lay(ink, ramp(np.sin(phase) + 0.25 * noise(rng, scene.size, 4), level - 0.3, level + 0.3))


def shatter(rng: Rng, scene: Scene, cell: float, order: float) -> Array:
    """Split the picture into cells of about `cell` px, from quite irregular (order 0) to a square grid (1)."""
    side, count, turn = cell * scene.unit, int(scene.size / cell / scene.unit) + 2, rng.uniform(0, np.pi)
    u, v = np.stack(np.meshgrid(*[np.arange(-count, count)] * 2)).reshape(2, -1) * side
    seeds = np.stack([u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)]) + scene.size / 2
    seeds = (seeds + rng.normal(0, side * (1 - order) * 0.4 + 0.01, seeds.shape)).astype(np.int32)
    empty = np.ones(scene.flow.shape, bool)
    empty[tuple(seeds[:, ((seeds >= 0) & (seeds < scene.size)).all(0)])] = False
    seat = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    bend = rng.choice([0, rng.uniform(0.05, 0.2)]) * side * noise(rng, scene.size, 1.5 * side)
    rows, columns = np.clip(np.indices(empty.shape) + bend, 0, scene.size - 1).astype(np.int32)
    return (seat[0] * scene.size + seat[1])[rows, columns]


def repeat(rng: Rng, scene: Scene) -> Array:
    """Batik, carpets, tiles: one motif of rings and petals repeated."""
    (x, y), turn, side = grid(scene.size, FRAME / 2), rng.choice([0, np.pi / 4, rng.uniform(0, 3)]), log(rng, 18, 120)
    bend = rng.choice([0, 0, 0.08]) * noise(rng, scene.size, scene.size * 0.3)
    u, v = (x * np.cos(turn) + y * np.sin(turn)) / side + bend, (y * np.cos(turn) - x * np.sin(turn)) / side - bend
    u = u + rng.choice([0, 0.5]) * (np.floor(v) % 2)
    mu, mv = np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)
    round_, square = np.hypot(mu, mv), np.maximum(mu, mv) + rng.uniform(-0.4, 0.4) * np.minimum(mu, mv)
    petals = rng.uniform(0, 0.7) * np.cos(rng.choice([4, 6, 8, 12]) * np.arctan2(mv, mu)) * round_
    band = ((square + rng.choice([0, 0.5, 1]) * (round_ - square) + petals) * log(rng, 3, 14)).astype(int)
    return (band * 2 + rng.choice([0, 1]) * ((np.floor(u) + np.floor(v)) % 2).astype(int)) * 64 + scene.labels % 64


DIVISIONS: list[Callable[[Rng, Scene], Array]] = [
    lambda rng, scene: scene.labels, lambda rng, scene: scene.labels, repeat,
    lambda rng, scene: add_forms(rng, *grid(scene.size), scene.labels * 0) * 128 + scene.labels,  # cut paper
    lambda rng, scene: shatter(rng, scene, log(rng, 14, 70), rng.uniform(0, 0.8)) * 64 + scene.labels,
    lambda rng, scene: shatter(rng, scene, log(rng, 5, 14), rng.uniform(0.5, 1)),
    lambda rng, scene: cut_shards(rng, *grid(scene.size)) * 97 + cut_shards(rng, *grid(scene.size)),
]  # fmt: skip


def fill_forms(rng: Rng, scene: Scene, canvas: Canvas) -> None:
    """Forms with contours and fillings: glass, enamel, print, cut paper, cubist facets, mosaic, batik, quilts."""
    key = any_of(rng, DIVISIONS)(rng, scene).astype(np.int64) * 40503 % KEYS
    count = np.maximum(np.bincount(key.ravel(), minlength=KEYS), 1)
    means = np.stack([np.bincount(key.ravel(), scene.lab[..., k].ravel(), KEYS) / count for k in range(3)], -1)
    paint = means + (scene.palette.pick(rng, KEYS) - means) * rng.choice([0, 1, rng.random()])
    paint = paint + rng.normal(0, log(rng, 0.01, 0.07), (KEYS, 3)) * [1, 0.5, 0.5]
    lab = scene.lab + (paint[key] - scene.lab) * rng.choice([1, rng.uniform(0.3, 1)])
    x, y = grid(scene.size, FRAME / 2)
    turn = rng.choice(rng.uniform(0, 6.3, int(rng.integers(1, 6))), KEYS)[key]
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    streak = noise(rng, scene.size, scene.unit * 2, scene.unit * log(rng, 2, 40))
    lab[..., 0] += rng.choice([0, log(rng, 0.02, 0.2)]) * np.sin(u / log(rng, 15, 90)) + log(rng, 0.004, 0.05) * streak
    canvas.rgb[:] = to_rgb(lab)
    if rng.random() < 0.45:  # lines, dots and checks in some of the forms
        rate = 6.28 / np.exp(rng.uniform(np.log(2.5), np.log(14), KEYS))[key]
        lines = np.sin(u * rate + rng.choice([0, 0, 3], KEYS)[key] * noise(rng, scene.size, 25 * scene.unit))
        kind, duty = rng.choice(4, KEYS, p=[0.4, 0.4, 0.1, 0.1])[key], rng.uniform(-0.3, 0.85, KEYS)[key]
        dots, checks = 1.6 * np.sin(u * rate) * np.sin(v * rate), np.maximum(lines, np.sin(v * rate))
        shades = np.where(rng.random((KEYS, 1)) < 0.5, scene.palette.ink, scene.palette.pick(rng, KEYS))
        mark = ramp(np.select([kind == 1, kind == 2], [lines, dots], checks), duty, duty + 0.3) * (kind > 0)
        canvas.lay(to_rgb(shades)[key], mark * rng.uniform(0.4, 1))
    draw_contours(rng, replace(scene, labels=key), canvas)


# ---------------------------------------------------------------- marks over a painting


def draw_contours(rng: Rng, scene: Scene, canvas: Canvas) -> None:
    """Lines of changing weight around the forms, sunk or raised, or a shadow under their edges, or both."""
    away = rim(scene.labels) / scene.unit
    width = min(log(rng, 0.5, 4.5), 0.5 * away.mean() + 0.3)  # small stones are not to drown in mortar
    width = width * np.exp(rng.uniform(0, 0.5) * noise(rng, scene.size, scene.unit * log(rng, 8, 60)))
    shade = ndimage.shift(np.exp(-away / log(rng, 1, 8)), rng.uniform(-1, 1, 2) * scene.unit, order=1)
    canvas.rgb *= (1 - rng.choice([0, 0, rng.uniform(0, 0.6)]) * shade)[..., None]
    line = 1 - ramp(away + 0.15 * noise(rng, scene.size, scene.unit * 1.5), width * 0.6, width * 0.6 + 0.7)
    colour = scene.palette.ink if rng.random() < 0.75 else scene.palette.ground
    canvas.lay(to_rgb(colour), line * rng.choice([0, 1, rng.uniform(0.4, 1)], p=[0.2, 0.5, 0.3]))
    canvas.relief += line * rng.uniform(-0.5, 0.5)


def draw_figures(rng: Rng, scene: Scene, canvas: Canvas) -> None:
    """Early abstraction: discs, rings, bars, wedges, combs, arcs and waves, some of them glassy."""
    sheet = Image.fromarray((np.clip(canvas.rgb, 0, 1) * 255).astype(np.uint8))
    pen, turns, unit = ImageDraw.Draw(sheet, "RGBA"), rng.uniform(0, np.pi, 4), scene.unit
    black = tuple((to_rgb(scene.palette.ink) * 255).astype(int))
    for paint in to_rgb(scene.palette.pick(rng, int(log(rng, 8, 90)))):
        centre, reach, turn = rng.uniform(0, scene.size, 2), unit * log(rng, 4, 90), rng.choice(turns)
        full = (*(int(c) for c in paint * 255), int(rng.choice([255, 255, 140])))
        thin, line = max(1, round(unit * log(rng, 0.6, 4))), black if rng.random() < 0.6 else full
        box = (*(centre - reach), *(centre + reach))
        along, side = reach * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        start, end, bar = centre - along, centre + along, side * log(rng, 0.03, 0.6)
        kind = int(rng.integers(7))
        if kind < 2:
            pen.ellipse(box, full if kind else None, line, thin * 2)
        elif kind < 4:
            corners = (start, end, end + bar, start + bar) if kind == 2 else (start, end, end + side)
            pen.polygon([tuple(p) for p in corners], full)
        elif kind == 4:
            pen.arc(box, rng.uniform(0, 270), rng.uniform(270, 540), line, thin * 2)
        else:
            t = np.linspace(0, 1, 24)[:, None]
            wave = start + 2 * along * t + side * (0.2 * (kind == 5) * np.sin(9 * t))
            for k in np.linspace(-0.5, 0.5, int(rng.integers(1, 9))):
                pen.line([tuple(p) for p in wave + side * k], line, thin)
    canvas.rgb[:] = np.asarray(sheet, np.float32) / 255


def drip(rng: Rng, scene: Scene, canvas: Canvas) -> None:
    """Thrown threads and drops of paint."""
    wild = replace(scene, flow=4 * noise(rng, scene.size, scene.unit * log(rng, 15, 80)))
    for paint in scene.palette.pick(rng, int(rng.integers(1, 6))):
        thread = Brush(log(rng, 0.8, 3.5), 60, log(rng, 0.03, 0.5), dry=0, bristle=0.1, stray=0, spread=0.6, bend=2)
        stroke(rng, wild, canvas, thread, paint=paint)
        stroke(rng, wild, canvas, replace(thread, ratio=1, cover=log(rng, 0.01, 0.12), spread=0.8), paint=paint)


def draw_loose(rng: Rng, scene: Scene, canvas: Canvas) -> None:
    """Drawing with the brush: strokes of ink along the borders of the forms, not quite closed."""
    near = np.exp(-rim(scene.labels) / (scene.unit * 2))
    gy, gx = np.gradient(ndimage.gaussian_filter(near, scene.unit * 2))
    brush = Brush(log(rng, 1, 5), log(rng, 5, 15), log(rng, 1, 3), dry=rng.uniform(0, 0.5), stray=0.05, wander=0.2)
    stroke(rng, replace(scene, flow=np.arctan2(gx, -gy)), canvas, brush, near**2, scene.palette.ink)


def weather(rng: Rng, scene: Scene, canvas: Canvas) -> None:
    """The surface: linen that shows through, paper or the grain of a block, craquelure, yellow varnish and stains."""
    size, unit, cell = scene.size, scene.unit, scene.unit * log(rng, 0.7, 3)
    if rng.random() < 0.25:
        x, y = (v + 0.7 * noise(rng, size, 12 * unit) for v in grid(size, 192 * 6.28 / log(rng, 2, 4.5)))
        canvas.rgb *= (1 + log(rng, 0.015, 0.1) * (np.sin(x) * np.sin(y) + 0.4 * np.sin(x)))[..., None]
    if rng.random() < 0.5:
        canvas.rgb *= (1 + log(rng, 0.01, 0.12) * noise(rng, size, cell, cell * log(rng, 0.5, 8)))[..., None]
    if rng.random() < 0.1:
        line = 1 - ramp(rim(shatter(rng, scene, log(rng, 6, 40), 0.1)) / unit, 0.1, rng.uniform(0.6, 1.2))
        canvas.lay(to_rgb(scene.palette.ink), line * rng.uniform(0.15, 0.7) * ramp(noise(rng, size, 60), -0.7, 1))
    if rng.random() < 0.12:
        amber = 1 + (to_rgb(oklab(rng.uniform(0.7, 0.9), 0.07, 0.23)) - 1) * rng.uniform(0.2, 0.9)
        canvas.rgb *= amber * (1 + 0.06 * fractal(rng, size, size * 0.4, 0.7))[..., None]


def light(canvas: Canvas, gloss: float) -> None:
    """Light the relief of the paint from the upper left."""
    slope_y, slope_x = np.gradient(ndimage.gaussian_filter(canvas.relief, 0.7))
    facing = 0.6 * slope_x + 0.8 * slope_y
    canvas.rgb *= (1 + np.clip(facing * gloss, -0.4, 0.4))[..., None]
    canvas.rgb += (0.35 * gloss * ramp(facing, 0.15, 0.9))[..., None]


# ---------------------------------------------------------------- paintings

# A technique that stands there twice is drawn twice as often.
LIVELY: dict[str, Any] = {"jitter": (0.015, 0.12), "stray": (0.01, 0.35), "wander": (0.03, 0.6)}
IMPASTO = partial(brush_over, passes=3, width=(2, 9), ratio=(2, 14), bristle=(0.1, 1), thick=(0.1, 1.2), **LIVELY)
DABS = partial(brush_over, passes=2, width=(1.8, 9), ratio=(1, 2.5), cover=(0.8, 3.5), dry=(0.01, 0.3), **LIVELY)
RIBBONS = partial(brush_over, width=(1, 6), ratio=(10, 50), cover=(1, 3.5), thick=(0.1, 1), **LIVELY)
PENCILS = partial(brush_over, width=(0.8, 2.5), ratio=(8, 40), cover=(0.5, 3), dry=(0.1, 0.7), **LIVELY)
KNIFE = partial(brush_over, passes=3, width=(4, 12), ratio=(0.8, 3), dry=(0.1, 0.6), bristle=(0.3, 1), thick=(0.3, 1.4))
GLAZE = partial(brush_over, width=(1, 8), ratio=(2, 6), opacity=(0.08, 0.6), thick=(0.05, 0.2))
SCUMBLE = partial(brush_over, sparse=1, width=(2, 16), ratio=(2, 8), cover=(0.3, 1.5), dry=(0.4, 0.9), stray=(0.1, 0.6))
TECHNIQUES = 8 * [fill_forms] + 5 * [IMPASTO] + 2 * [DABS, RIBBONS, GLAZE, wash] + [PENCILS, KNIFE, KNIFE, hatch]
MARKS = [draw_contours, draw_figures, drip, draw_loose, SCUMBLE, SCUMBLE]


def paint(seed: int, size: int = FRAME) -> NDArray[np.uint8]:
    """Paint picture number `seed`: (size, size, 3), RGB. The same arguments give the same picture."""
    rng, side = np.random.default_rng([seed, 1888]), round(size * OVERSAMPLE)
    palette = mix_palette(rng)
    scene = compose(rng, palette, side)
    under = palette.ground + (scene.lab - palette.ground) * rng.choice([0, 0.6, 1])
    canvas = Canvas(to_rgb(under), np.zeros((side, side), np.float32))
    any_of(rng, TECHNIQUES)(rng, scene, canvas)
    if rng.random() < 0.4:  # another hand in some of the forms, or in one part of the picture
        second = Canvas(canvas.rgb.copy(), canvas.relief.copy())
        any_of(rng, TECHNIQUES)(rng, scene, second)
        part = (rng.random(scene.labels.max() + 1) < 0.5)[scene.labels].astype(np.float32)
        part = part if rng.random() < 0.6 else ramp(fractal(rng, side, side * 0.4, 0.3), -0.1, 0.1)
        canvas.lay(second.rgb, part)
        canvas.relief += (second.relief - canvas.relief) * part
    for _ in range(rng.choice(3, p=[0.4, 0.45, 0.15])):
        any_of(rng, MARKS)(rng, scene, canvas)
    light(canvas, log(rng, 0.15, 1.2))
    weather(rng, scene, canvas)
    picture = Image.fromarray((np.clip(canvas.rgb, 0, 1) * 255 + 0.5).astype(np.uint8))
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS))


def save_painting(seed: int, size: int, folder: Path) -> None:
    """Write one picture, unless it is there; by way of another name, so that a stop leaves no half a file."""
    path = folder / f"{seed:06d}.png"
    if not path.exists():
        Image.fromarray(paint(seed, size)).save(path.with_suffix(".part"), "PNG")
        path.with_suffix(".part").replace(path)


def main() -> None:
    """Read the command line and paint."""
    parser = argparse.ArgumentParser(description="Paint many different pictures from seeds.")
    parser.add_argument("folder", type=Path, metavar="OUT_FOLDER")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--size", type=int, default=FRAME, help="side of each picture in pixels")
    parser.add_argument("--first", type=int, default=0, help="seed of the first picture")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(args.workers) as pool:
        seeds = range(args.first, args.first + args.count)
        list(pool.map(partial(save_painting, size=args.size, folder=args.folder), seeds))


if __name__ == "__main__":
    main()
