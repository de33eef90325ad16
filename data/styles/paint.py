"""Paint the project's own style pictures: ``nocturne``, ``window`` and ``waves``.

    python data/styles/paint.py [NAME ...] [--out DIR] [--size 1024]

Style networks are trained from the feature statistics of one painting. So each picture here is rich
in texture at every scale, from bristle grain (3 px) to composition (200 px and more). All three are
drawn by this script alone, from seeded random numbers. The script and the pictures are original
work under the project's MIT licence.

Lengths marked "px" are pixels of a canvas of 1024 px, and are scaled to the size of the picture.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Array = NDArray[np.floating]
Rng = np.random.Generator

REFERENCE_PX = 1024  # canvas side for which every "px" constant below was chosen


# ---------------------------------------------------------------- shared helpers


def make_noise(
    rng: Rng, shape: tuple[int, int], cell_y: float, cell_x: float | None = None
) -> Array:
    """Return smooth noise of unit variance, with blobs of about cell_y by cell_x pixels."""
    height, width = shape
    cell_x = cell_y if cell_x is None else cell_x
    knots = rng.standard_normal((int(height / cell_y) + 3, int(width / cell_x) + 3)).astype(
        np.float32
    )
    noise = np.asarray(Image.fromarray(knots).resize((width, height), Image.Resampling.BICUBIC))
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def read_colours(colours: list[str]) -> Array:
    """Return hex colours as an (n, 3) table of values from 0 to 1."""
    return np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in colours], np.float32) / 255


def mix_palette(colours: list[str], position: Array) -> Array:
    """Return colours of a hex palette, interpolated at positions from 0 (first) to 1 (last)."""
    table = read_colours(colours)
    # Between which two colours of the table each position lies, and how far.
    where = np.clip(position, 0, 1) * (len(colours) - 1)
    low = np.minimum(where.astype(int), len(colours) - 2)
    part = (where - low)[..., None].astype(np.float32)
    return table[low] * (1 - part) + table[low + 1] * part


def mix_paints(
    rng: Rng, colours: list[str], tone: Array, shift: float, spread: float
) -> tuple[Array, Array]:
    """Return two paints for each stroke: one at its tone of the palette, one near it by chance."""
    return mix_palette(colours, tone), mix_palette(
        colours, tone + rng.normal(shift, spread, len(tone))
    )


def ramp(value: Array, low: float | Array, high: float | Array) -> Array:
    """Return a smooth step from 0 at low to 1 at high."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def shrink(picture: Array, size: int) -> Array:
    """Reduce a supersampled picture to its final size."""
    bands = (Image.fromarray(np.ascontiguousarray(picture[..., k])) for k in range(3))
    return np.stack(
        [np.asarray(b.resize((size, size), Image.Resampling.LANCZOS)) for b in bands], -1
    )


def light_relief(height: Array, strength: float, gloss: float) -> tuple[Array, Array]:
    """Return shade (to multiply) and gloss (to add) of a height map lit from the upper left."""
    slope_y, slope_x = np.gradient(height)
    facing = np.asarray(slope_x * 0.6 + slope_y * 0.8) * strength
    return 1 + np.clip(facing, -0.45, 0.5), gloss * ramp(facing, 0.15, 0.8)


# ---------------------------------------------------------------- nocturne: oil brush strokes


@dataclass
class Strokes:
    """Brush strokes in canvas pixels; each carries two paints that streak along its bristles."""

    x: Array
    y: Array
    angle: Array  # radians
    bend: Array  # curvature, 1 / px
    length: Array
    width: Array
    paint: Array  # (n, 3)
    streak: Array  # (n, 3)


def make_brushes(
    rng: Rng, count: int = 16, along: int = 96, across: int = 32
) -> list[tuple[Array, ...]]:
    """Return brush prints: maps of opacity, relief and streak over length and width of a stroke."""
    brushes: list[tuple[Array, ...]] = []
    s = np.linspace(0, 1, along, dtype=np.float32)[:, None]
    w = np.abs(np.linspace(-1, 1, across, dtype=np.float32))[None, :]
    for _ in range(count):
        bristle = 0.75 * make_noise(rng, (along, across), 60, 2.4)
        bristle = bristle + 0.45 * make_noise(rng, (along, across), 24, 5)
        ragged = make_noise(rng, (1, across), 1, 3)
        start = ramp(s, 0.02 + 0.03 * ragged, 0.09 + 0.03 * ragged + 0.10 * w**2)
        end = 1 - ramp(s + 0.10 * w**2, 0.84 + 0.06 * ragged, 0.95 + 0.06 * ragged)
        wobble = 0.05 * make_noise(rng, (along, 1), 20, 1)
        side = 1 - ramp(w + wobble, 0.80, 0.97)
        # The brush runs dry: toward the end only the fullest bristles still leave paint.
        loaded = ramp(bristle + 2.6 - 2.4 * s, -0.5, 0.5)
        ridge = np.exp(-(((w + wobble - 0.74) / 0.14) ** 2)) + 0.8 * np.exp(
            -(((s - 0.90) / 0.05) ** 2)
        )
        relief = 0.5 + 0.22 * bristle + 0.55 * ridge
        streak = 0.45 + 0.42 * bristle
        brushes.append((start * end * side * loaded, relief, streak))
    return brushes


def apply_strokes(canvas: Array, relief: Array, strokes: Strokes, brushes: list, rng: Rng) -> None:
    """Lay strokes on the canvas one after another; `relief` records how thick the paint is."""
    size = canvas.shape[0]
    picks = rng.integers(len(brushes), size=len(strokes.x))
    widths = strokes.width * rng.uniform(0.7, 1.3, len(strokes.x))
    for i in range(len(strokes.x)):
        length = strokes.length[i]
        width = widths[i]
        bend = strokes.bend[i]
        cos = np.cos(strokes.angle[i])
        sin = np.sin(strokes.angle[i])
        half = width / 2 + abs(bend) * length**2 / 8
        reach_x, reach_y = (
            abs(a) * length / 2 + abs(b) * half + 1 for a, b in ((cos, sin), (sin, cos))
        )
        x0 = max(int(strokes.x[i] - reach_x), 0)
        x1 = min(int(strokes.x[i] + reach_x) + 2, size)
        y0 = max(int(strokes.y[i] - reach_y), 0)
        y1 = min(int(strokes.y[i] + reach_y) + 2, size)
        if x0 >= x1 or y0 >= y1:
            continue
        dx = np.arange(x0, x1, dtype=np.float32)[None, :] - np.float32(strokes.x[i])
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(strokes.y[i])
        s = dx * np.float32(cos) + dy * np.float32(sin)
        # A parabola stands in for the arc: strokes bend little enough not to show the difference.
        t = dy * np.float32(cos) - dx * np.float32(sin) - np.float32(bend / 2) * s * s
        opacity, height, streak = brushes[picks[i]]
        along, across = opacity.shape
        row = (s * np.float32(along / length) + np.float32(along / 2)).astype(np.int32)
        column = (t * np.float32(across / width) + np.float32(across / 2)).astype(np.int32)
        inside = (row >= 0) & (row < along) & (column >= 0) & (column < across)
        ys, xs = np.nonzero(inside)
        cell = row[ys, xs] * across + column[ys, xs]
        ys = ys + y0
        xs = xs + x0
        a = opacity.ravel()[cell]
        colour = (
            strokes.paint[i]
            + (strokes.streak[i] - strokes.paint[i]) * streak.ravel()[cell][:, None]
        )
        canvas[ys, xs] += (colour - canvas[ys, xs]) * a[:, None]
        # Wet paint half buries the paint below. A wide brush spreads it thinner than its width
        # suggests.
        thick = height.ravel()[cell] * min(width, 0.0105 * size) / 12
        relief[ys, xs] += (thick - 0.65 * relief[ys, xs]) * a


# Sky vortices and the moon: centre x, y and radius as fractions of the side, spin, pull to the
# centre.
VORTICES = [
    (0.79, 0.25, 0.17, -1.0, 0.25), (0.13, 0.17, 0.11, 1.0, 0.20), (0.60, 0.08, 0.08, 1.0, 0.20),
    (0.11, 0.50, 0.12, -1.0, 0.25), (0.64, 0.53, 0.11, 1.0, 0.25), (0.97, 0.49, 0.09, 1.0, 0.20),
]  # fmt: skip
MOON = (0.385, 0.345, 0.058)  # x, y, disc radius
STARS = [  # x, y, radius of the halo
    (0.05, 0.06, 0.036), (0.30, 0.08, 0.046), (0.74, 0.05, 0.034), (0.94, 0.09, 0.050),
    (0.58, 0.24, 0.040), (0.06, 0.34, 0.044), (0.19, 0.33, 0.026), (0.40, 0.56, 0.036),
    (0.25, 0.62, 0.042), (0.52, 0.44, 0.026), (0.84, 0.46, 0.048), (0.44, 0.10, 0.028),
    (0.96, 0.33, 0.032), (0.75, 0.62, 0.030), (0.66, 0.38, 0.028), (0.03, 0.62, 0.028),
    (0.53, 0.63, 0.024),
]  # fmt: skip
NIGHT = ["0a1038", "101c5e", "172f8c", "1f49ad", "2a68bd", "2f8fb4", "5fb3b8", "a9d3bd", "e9e3a6"]
GOLD = ["fffbe4", "ffeda0", "fdd354", "f2ae2c", "e8d890", "8fc4b4", "3f8fc0", "2257b4"]


def trace_flow(x: Array, y: Array) -> Array:
    """Return the angle of the wind in the sky, at points in fractions of the side."""
    vx = 0.9 + 0 * x
    vy = 0.55 * np.sin(5.2 * x + 2.2 * y) + 0.25 * np.sin(11 * y - 3 * x)
    lights = [(MOON[0], MOON[1], 0.125), *STARS]
    eddies = VORTICES + [(star_x, star_y, halo * 1.2, 1.0, 0.0) for star_x, star_y, halo in lights]
    for cx, cy, radius, spin, pull in eddies:
        dx = x - cx
        dy = y - cy
        distance = np.hypot(dx, dy) + 1e-6
        weight = 5.0 * np.exp(-((distance / radius) ** 2)) / distance
        vx = vx + weight * (-spin * dy - pull * dx)
        vy = vy + weight * (spin * dx - pull * dy)
    return np.arctan2(vy, vx)


def brush_sky(
    rng: Rng, size: int, ribbons: Array, count: int, length: float, width: float, lift: float
) -> Strokes:
    """Return strokes that follow the wind, coloured in ribbons, and warmer around the lights."""
    x = rng.random(count)
    y = rng.random(count) * 0.86
    angle = trace_flow(x, y)
    # Coarse noise, averaged along the streamline, gives neighbours on one line the same colour.
    last = len(ribbons) - 1
    tone = np.zeros(count)
    for sign in (-1, 1):
        px = x.copy()
        py = y.copy()
        for _ in range(22):
            turn = trace_flow(px, py)
            px = px + sign * 0.006 * np.cos(turn)
            py = py + sign * 0.006 * np.sin(turn)
            tone += ribbons[
                (py * last).astype(int).clip(0, last), (px * last).astype(int).clip(0, last)
            ]
    tone = np.argsort(np.argsort(tone)) / count
    tone = 0.02 + 0.80 * tone**1.35 + lift + rng.normal(0, 0.06, count)
    distance = np.hypot(x - MOON[0], y - MOON[1]) - MOON[2]
    glow = np.exp(-np.clip(distance, 0, 1) / 0.075) * (
        0.70 + 0.45 * np.cos(distance * 2 * np.pi / 0.042)
    )
    paint, streak = mix_paints(rng, NIGHT, tone, 0.14, 0.12)
    # Broken colour: a stroke is either moonlit or not, for blended gold and blue would turn to mud.
    lit = rng.random(count) < glow
    fade = 0.20 + 3.0 * np.clip(distance, 0, 1) + rng.normal(0, 0.06, count)
    paint[lit], streak[lit] = mix_paints(rng, GOLD, fade[lit], 0.05, 0.08)
    ahead = trace_flow(x + 0.012 * np.cos(angle), y + 0.012 * np.sin(angle))
    bend = np.angle(np.exp(1j * (ahead - angle))) / (0.012 * size)
    # Near an eye of the wind the stroke must be short enough to turn with it.
    lengths = np.minimum(
        length * rng.uniform(0.7, 1.3, count), np.maximum(1.3 / np.abs(bend), 1.2 * width)
    )
    bend = bend.clip(-1.3 / lengths, 1.3 / lengths)
    return Strokes(x * size, y * size, angle, bend, lengths, np.full(count, width), paint, streak)


def brush_halo(
    rng: Rng, size: int, x: float, y: float, radius: float, step: float, warm: float
) -> Strokes:
    """Return rings of short strokes around a light, from the dim rim to the bright centre."""
    rings = np.append(np.arange(radius, step, -step), 0.0) * size
    counts = [max(int(2 * np.pi * r / (step * size * 2.0)), 4) for r in rings]
    counts[-1] = 7  # enough to close the bright core
    r = np.repeat(rings, counts) * rng.uniform(0.92, 1.08, sum(counts))
    turn = np.concatenate([np.arange(n) * 2 * np.pi / n + rng.uniform(0, 6.3) for n in counts])
    keep = rng.random(len(r)) > 0.8 * ramp(r / size / radius, warm, 1.0)
    r = r[keep]
    turn = turn[keep] + rng.normal(0, 0.10, keep.sum())
    fade = r / size / radius
    fade = np.where(
        fade < warm, 0.42 * (fade / warm) ** 1.5, 0.50 + 0.5 * (fade - warm) / (1 - warm)
    )
    fade = fade + rng.normal(0, 0.05, len(r))
    width = np.full(len(r), step * size * 1.6)
    length = np.minimum(width * 3.8, 1.2 * r + 1.9 * width)
    px = x * size + r * np.cos(turn)
    py = y * size + r * np.sin(turn)
    bend = np.minimum(1 / np.maximum(r, 1), 1.2 / length)
    return Strokes(
        px, py, turn + np.pi / 2, bend, length, width, *mix_paints(rng, GOLD, fade, 0.04, 0.10)
    )


LAND = [  # ridge height as a fraction of the side, swell, phase, palette from shade to light
    (0.705, 0.040, 3.4, ["10164a", "1f2f7c", "3c5fa8", "86a9c8"]),
    (0.890, 0.026, 5.6, ["060a22", "0c1c3c", "123f4e", "4a7a5c"]),
]
LAKE = (0.755, 0.90)  # far and near shore


def find_ridge(x: Array, level: float, swell: float, phase: float) -> Array:
    """Return the height of a ridge line at x, in fractions of the side."""
    return level + swell * np.sin(4.1 * x + phase) + 0.35 * swell * np.sin(11.3 * x + 2 * phase)


def brush_land(rng: Rng, size: int, layer: int, count: int, length: float, width: float) -> Strokes:
    """Return strokes that hang along one ridge and follow its slope down the hill side."""
    level, swell, phase, palette = LAND[layer]
    x = rng.uniform(-0.02, 1.02, count)
    depth = np.sort(rng.random(count) ** 0.8)  # paint downward, so that the ridge stays readable
    bottom = (LAKE[0] + 0.02, 1.04)[layer]
    ridge = find_ridge(x, level, swell, phase)
    y = ridge + width / size * 0.4 + depth * (bottom - ridge)
    slope = (find_ridge(x + 0.01, level, swell, phase) - ridge) / 0.01
    wander = 0.55 * np.sin(9 * x + 5 * y + phase) * np.minimum(depth * 3, 1)
    angle = np.arctan(slope * (1 - 0.5 * depth)) + wander
    tone = (
        0.32
        + 0.24 * np.sin(46 * depth + 14 * x)
        + rng.normal(0, 0.17, count)
        + 0.35 * (depth < 0.06)
    )
    paint, streak = mix_paints(rng, palette, tone, 0.2, 0.2)
    lengths = length * rng.uniform(0.7, 1.3, count)
    bend = rng.normal(0, 0.25, count) / lengths
    return Strokes(x * size, y * size, angle, bend, lengths, np.full(count, width), paint, streak)


def brush_lake(rng: Rng, size: int, count: int, length: float, width: float) -> Strokes:
    """Return level strokes of water, with broken reflections of the moon and of the stars."""
    x = rng.uniform(-0.02, 1.02, count)
    depth = np.sort(rng.random(count))
    y = LAKE[0] + depth * (LAKE[1] - LAKE[0])
    tone = (
        0.26 + 0.20 * np.sin(70 * y + 5 * np.sin(6 * x)) + rng.normal(0, 0.12, count) - 0.10 * depth
    )
    paint, streak = mix_paints(rng, NIGHT, tone, 0.12, 0.12)
    lights = [(MOON[0], 0.035 + 0.075 * depth, 0.9)]
    lights += [(star_x, 0.012 + 0 * depth, 0.5) for star_x, star_y, _ in STARS if star_y > 0.4]
    chance = sum(peak * np.exp(-(((x - at) / spread) ** 2)) for at, spread, peak in lights)
    lit = rng.random(count) < chance
    fade = 0.12 + 0.30 * rng.random(count) + 0.5 * (rng.random(count) > chance)
    paint[lit], streak[lit] = mix_paints(rng, GOLD, fade[lit], 0.15, 0.02)
    lengths = length * rng.uniform(0.6, 1.3, count) * np.where(lit, 0.6, 1)
    angle = rng.normal(0, 0.06, count)
    bend = rng.normal(0, 0.3, count) / lengths
    return Strokes(x * size, y * size, angle, bend, lengths, np.full(count, width), paint, streak)


CYPRESSES = [  # foot x, y, height, half width
    (0.715, 0.99, 0.22, 0.026), (0.965, 1.00, 0.31, 0.036), (0.785, 1.00, 0.34, 0.036),
    (0.895, 1.01, 0.25, 0.032), (0.845, 1.02, 0.42, 0.042),
]  # fmt: skip
NEEDLES = ["04081c", "081a2e", "0d3038", "1d4f45", "5a7d4a"]


def brush_cypress(
    rng: Rng, size: int, foot: tuple[float, float, float, float], count: int
) -> Strokes:
    """Return flame-like strokes that lick upward inside the outline of one tree."""
    foot_x, foot_y, height, half = foot
    up = np.sort(rng.random(count) ** 1.15)  # from the foot to the tip
    side = rng.uniform(-1, 1, count)
    outline = (
        half
        * (1 - up) ** 0.62
        * (0.55 + 0.9 * up)
        * (1 + 0.18 * np.sin(34 * up + 3 * np.sign(side)))
    )
    x = foot_x + side * outline + 0.010 * np.sin(9 * up + 40 * foot_x)
    y = foot_y - up * height
    angle = -np.pi / 2 + side * 0.34 * (1 - up) + 0.30 * np.sin(20 * up + 2.5 * side)
    tone = 0.22 + 0.26 * np.abs(side) ** 3 + rng.normal(0, 0.16, count) + 0.16 * (side > 0.2)
    length = size * rng.uniform(0.030, 0.060, count) * (1 - 0.45 * up)
    paint, streak = mix_paints(rng, NEEDLES, tone, 0.15, 0.2)
    bend = -np.sign(side) * rng.uniform(0.2, 0.9, count) / length
    return Strokes(x * size, y * size, angle, bend, length, 0.21 * length, paint, streak)


def brush_village(rng: Rng, size: int) -> Strokes:
    """Return cottages in the valley: walls and roofs of a few flat strokes, and lamplit windows."""
    rows: list[tuple[float, float, float, float, float, str, str]] = []
    for x in np.array([0.05, 0.12, 0.16, 0.23, 0.31, 0.36, 0.47, 0.56, 0.61]):
        y = float(find_ridge(np.array(x), *LAND[1][:3])) + rng.uniform(0.002, 0.010)
        wide = rng.uniform(0.042, 0.058)
        tall = rng.uniform(0.024, 0.032)
        for k in range(3):
            rows.append((x, y - tall * (0.2 + 0.3 * k), 0.0, wide, tall * 0.62, "33507f", "8ba3bd"))
        for k in range(3):
            roof = wide * (1.22 - 0.20 * k)
            ridge = y - tall * (1.0 + 0.22 * k)
            rows.append((x, ridge, rng.normal(0, 0.04), roof, tall * 0.42, "4a1f3a", "a8503f"))
        for k in rng.permutation([-0.25, 0.0, 0.25])[: rng.integers(1, 3)]:
            rows.append(
                (x + k * wide, y - tall * 0.5, 1.57, tall * 0.5, tall * 0.36, "ffd34d", "ffef9f")
            )
    columns = list(zip(*rows, strict=True))
    xs, ys, angles, lengths, widths = (np.array(c, float) for c in columns[:5])
    paint = read_colours(list(columns[5]))
    streak = read_colours(list(columns[6]))
    return Strokes(
        xs * size, ys * size, angles, 0 * xs, lengths * size, widths * size, paint, streak
    )


def paint_nocturne(size: int) -> Array:
    """Paint a windy night over a lake: oil on canvas, thick strokes that follow the wind."""
    rng = np.random.default_rng(1889)
    fine = int(size * 1.5)  # painted larger and reduced, for smooth bristle edges
    unit = fine / REFERENCE_PX
    brushes = make_brushes(rng)
    canvas = np.tile(read_colours(["0d1440"]), (fine, fine, 1))
    relief = 0.2 * make_noise(rng, (fine, fine), 3)
    ribbons = make_noise(np.random.default_rng(5), (256, 256), 7)
    layers = [
        brush_sky(rng, fine, ribbons, 1500, 120 * unit, 24 * unit, -0.06),
        brush_sky(rng, fine, ribbons, 4200, 70 * unit, 13 * unit, 0.0),
        brush_sky(rng, fine, ribbons, 1500, 46 * unit, 7 * unit, 0.08),
        *[brush_halo(rng, fine, x, y, r, 0.0066, 0.42) for x, y, r in STARS],
        brush_halo(rng, fine, MOON[0], MOON[1], MOON[2] * 1.45, 0.0090, 0.69),
        brush_land(rng, fine, 0, 1000, 56 * unit, 11 * unit),
        brush_lake(rng, fine, 1900, 52 * unit, 9 * unit),
        brush_village(rng, fine),
        brush_land(rng, fine, 1, 1700, 54 * unit, 10 * unit),
        *[brush_cypress(rng, fine, tree, int(2300 * tree[2])) for tree in CYPRESSES],
    ]
    for strokes in layers:
        apply_strokes(canvas, relief, strokes, brushes, rng)
    shade, gloss = light_relief(ndimage.gaussian_filter(relief, 0.7 * unit), 1.2, 0.2)
    picture = shrink(canvas * shade[..., None] + gloss[..., None], size)
    weave = 1 + 0.012 * make_noise(rng, (size, size), 2.2 * size / REFERENCE_PX)
    return picture * weave[..., None]


# ---------------------------------------------------------------- window: leaded glass

SUN = (0.47, 0.33)  # x, y as fractions of the side
FRAME = 0.052  # width of the border of small panes, fraction of the side
LEAD = 3.1  # px, half width of the cames
SKY_GLASS = [
    "ffd873",
    "f79a2e",
    "d8323f",
    "8d2a8c",
    "4a35b8",
    "1f4fd0",
    "1c7fd6",
    "163fa8",
    "2a2a9a",
]
HILL_GLASS = [
    ["0f9a8a", "1fb5a5", "1378a8"],
    ["1c9a4a", "5fb83a", "0f7f5f"],
    ["14613f", "2f8f2f", "0f5a6a"],
]
LEAF_GLASS = ["0a8a48", "1fb04f", "5cc03f", "a3cf3a", "0c9c74"]
FIRE_GLASS = ["ffc02e", "ff8a1f", "ffd95f", "e8481f"]
PETAL_GLASS = ["d0152f", "f0406a", "b3124f", "f2683a"]
FRAME_GLASS = ["c8142f", "f2a71f", "1b49c8", "0f8f5a", "7a2aa8"]
PLAIN, CONTOUR, HATCH, STIPPLE = range(4)  # grisaille patterns


@dataclass
class Panes:
    """Panes of glass: a label image, and for every label a colour and a grisaille pattern."""

    image: Image.Image
    colours: list[Array]
    patterns: list[int]

    def cut_pane(self, outline: Array, colour: Array, pattern: int) -> None:
        """Cut one pane with the given outline (pixels) into the panes that are there."""
        ImageDraw.Draw(self.image).polygon(
            [(float(x), float(y)) for x, y in outline], fill=len(self.colours)
        )
        self.colours.append(colour)
        self.patterns.append(pattern)


def pick_colour(rng: Rng, palette: list[str]) -> Array:
    """Return a colour of the palette, a little off as hand-made glass is."""
    colour = mix_palette(palette, rng.integers(len(palette)) / (len(palette) - 1) * np.ones(1))[0]
    return np.clip(colour * rng.uniform(0.82, 1.12) + rng.normal(0, 0.03, 3), 0.02, 1).astype(
        np.float32
    )


def cut_background(rng: Rng, size: int) -> Panes:
    """Return irregular panes in rings around the sun, cut along the crests of three hills."""
    seeds = np.ones((size, size), bool)
    numbers = np.zeros((size, size), np.int32)
    for ring, radius in enumerate(np.arange(0.09, 1.0, 0.066)):
        count = 12 if ring < 2 else int(5 + radius * 52)
        turns = (
            (np.arange(count) + 0.5 * (ring % 2) + rng.normal(0, 0.13, count)) * 2 * np.pi / count
        )
        radii = radius + rng.normal(0, 0.009, count)
        for k, (turn, r) in enumerate(zip(turns, radii, strict=True)):
            x = int((SUN[0] + r * np.cos(turn)) * size)
            y = int((SUN[1] + r * np.sin(turn)) * size)
            if 0 <= x < size and 0 <= y < size:
                seeds[y, x] = False
                numbers[y, x] = 100 * ring + k
    nearest = ndimage.distance_transform_edt(seeds, return_distances=False, return_indices=True)
    labels = numbers[nearest[0], nearest[1]]
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    sway = [(size * 0.006 * make_noise(rng, (size, size), size / 14)).astype(int) for _ in range(2)]
    row = np.arange(size)[:, None] + sway[0]
    column = np.arange(size) + sway[1]
    labels = labels[row.clip(0, size - 1), column.clip(0, size - 1)]
    hill = np.zeros((size, size), np.int32)
    for level, phase in ((0.68, 0.6), (0.77, 3.0), (0.875, 5.2)):
        hill += y > level + 0.035 * np.sin(5.5 * x + phase) + 0.010 * np.sin(17 * x + phase)
    names, flat = np.unique(labels + 10000 * hill, return_inverse=True)
    labels = flat.reshape(size, size)
    area = np.bincount(labels.ravel())
    centre_x, centre_y = (np.bincount(labels.ravel(), weights=c.ravel()) / area for c in (x, y))
    far = np.hypot(centre_x - SUN[0], centre_y - SUN[1])
    colours = []
    patterns = []
    for i, name in enumerate(names):
        if name < 10000:
            tone = (far[i] - 0.07) / 0.52 + rng.normal(0, 0.05)
            colour = mix_palette(SKY_GLASS, np.array([tone]))[0] * np.float32(
                rng.uniform(0.8, 1.15)
            )
            colour = pick_colour(rng, PETAL_GLASS + FIRE_GLASS) if rng.random() < 0.06 else colour
        else:
            colour = pick_colour(rng, HILL_GLASS[name // 10000 - 1])
        colours.append(colour)
        patterns.append(
            int(rng.choice([PLAIN, CONTOUR, HATCH, STIPPLE], p=[0.15, 0.30, 0.35, 0.20]))
        )
    return Panes(Image.fromarray(labels.astype(np.int32)), colours, patterns)


def smooth_curve(points: list[tuple[float, float]], count: int) -> Array:
    """Return a Catmull-Rom curve through the points, as (count, 2) positions."""
    p = np.array(points, float)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    where = np.linspace(0, len(points) - 1 - 1e-9, count)
    i = where.astype(int)
    t = (where % 1)[:, None]
    a = p[i]
    b = p[i + 1]
    c = p[i + 2]
    d = p[i + 3]
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def turn_normals(curve: Array) -> Array:
    """Return the unit normals of a curve, to the left of its direction where y points down."""
    step = np.gradient(curve, axis=0)
    return np.stack([step[:, 1], -step[:, 0]], 1) / (
        np.hypot(step[:, 0], step[:, 1])[:, None] + 1e-9
    )


def cut_sun(rng: Rng, panes: Panes, size: int) -> None:
    """Cut a sun of wavy rays around a ring of petals."""
    s = np.linspace(0, 1, 24)
    for k in range(16):
        turn = (k + 0.5) * np.pi / 8
        reach, broad = (0.315, 0.135) if k % 2 else (0.225, 0.165)
        radius = 0.10 + (reach - 0.10) * s
        wave = turn + 0.10 * np.sin(s * 6.0) * s
        half = broad * (1 - s) ** 0.75 * (0.10 / radius) ** 0.6 * 1.3
        ray = [
            (radius * np.cos(wave + e * half), radius * np.sin(wave + e * half)) for e in (-1, 1)
        ]
        outline = np.concatenate([np.stack(ray[0], 1), np.stack(ray[1], 1)[::-1]])
        panes.cut_pane(
            (outline + SUN) * size, pick_colour(rng, FIRE_GLASS), HATCH if k % 2 else CONTOUR
        )
    for k in range(12):
        arc = np.linspace(k, k + 1, 12) * np.pi / 6
        outer = 0.108 + 0.012 * np.sin(np.linspace(0, np.pi, 12))
        rims = ((outer, arc), (0.062, arc[::-1]))
        petal = np.concatenate([np.stack([r * np.cos(t), r * np.sin(t)], 1) for r, t in rims])
        panes.cut_pane(
            (petal + SUN) * size, pick_colour(rng, [FIRE_GLASS, PETAL_GLASS][k % 2]), CONTOUR
        )
    arc = np.linspace(0, 2 * np.pi, 60)
    disc = 0.062 * np.stack([np.cos(arc), np.sin(arc)], 1) + SUN
    panes.cut_pane(disc * size, read_colours(["ffdb6b"])[0], CONTOUR)


def cut_leaf(
    rng: Rng,
    panes: Panes,
    ink: ImageDraw.ImageDraw,
    base: Array,
    turn: float,
    length: float,
    palette: list[str],
) -> None:
    """Cut one leaf or petal in two panes along its midrib, with painted veins."""
    s = np.linspace(0, 1, 24)
    heading = turn + 0.5 * s * rng.choice([-1, 1])
    rib = base + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * length / 24
    normal = turn_normals(rib)
    half = 0.26 * length * np.sin(np.pi * s**0.75) ** 0.9
    for side in (-1, 1):
        edge = rib + side * normal * half[:, None]
        panes.cut_pane(np.concatenate([rib, edge[::-1]]), pick_colour(rng, palette), PLAIN)
        for k in range(3, 21, 2):
            tip = min(k + 4, 23)
            end = rib[tip] + side * normal[tip] * half[tip] * 0.82
            middle = (rib[k] + end) / 2 + (rib[k] - rib[k - 1]) * 0.6
            vein = [(float(x), float(y)) for x, y in (rib[k], middle, end)]
            ink.line(vein, fill=210, width=max(int(length / 60), 2))


def cut_vines(rng: Rng, panes: Panes, ink: ImageDraw.ImageDraw, size: int) -> None:
    """Cut three flowering stems that climb from the lower edge."""
    stems = [
        [(0.82, 1.0), (0.76, 0.84), (0.86, 0.68), (0.77, 0.52), (0.85, 0.36), (0.80, 0.20)],
        [(0.17, 1.0), (0.24, 0.86), (0.14, 0.72), (0.21, 0.58), (0.15, 0.47)],
        [(0.53, 1.0), (0.46, 0.90), (0.54, 0.80), (0.49, 0.72)],
    ]
    for points in stems:
        curve = smooth_curve(points, 12 * len(points)) * size
        normal = turn_normals(curve)
        half = np.linspace(0.013, 0.006, len(curve))[:, None] * size
        for k in range(0, len(curve) - 1, 10):
            part = slice(k, k + 11)
            outline = np.concatenate(
                [(curve + normal * half)[part], (curve - normal * half)[part][::-1]]
            )
            panes.cut_pane(outline, pick_colour(rng, ["7a4a1f", "a8752a", "5f5a1f"]), HATCH)
        for k in range(7, len(curve) - 5, 6):
            side = 1 if (k // 6) % 2 else -1
            along = np.arctan2(*(curve[k + 1] - curve[k])[::-1])
            base = curve[k] + side * normal[k] * half[k]
            cut_leaf(
                rng,
                panes,
                ink,
                base,
                along - side * 0.95,
                size * rng.uniform(0.095, 0.125),
                LEAF_GLASS,
            )
        for k in range(7):
            turn = k * 2 * np.pi / 7 + 0.3
            out = curve[-1] + 0.016 * size * np.array([np.cos(turn), np.sin(turn)])
            cut_leaf(rng, panes, ink, out, turn, size * 0.085, PETAL_GLASS)
        arc = np.linspace(0, 2 * np.pi, 30)
        disc = curve[-1] + 0.021 * size * np.stack([np.cos(arc), np.sin(arc)], 1)
        panes.cut_pane(disc, pick_colour(rng, FIRE_GLASS[:3]), STIPPLE)


def cut_frame(rng: Rng, panes: Panes, size: int) -> None:
    """Cut a border of small panes in alternating jewel colours."""
    count = 14
    edge = FRAME * size
    cuts = np.linspace(edge, size - edge, count + 1)
    boxes = [(a, a + edge, b, b + edge) for a in (0, size - edge) for b in (0, size - edge)]
    for a, b in itertools.pairwise(cuts):
        boxes += [
            (a, b, 0, edge),
            (a, b, size - edge, size),
            (0, edge, a, b),
            (size - edge, size, a, b),
        ]
    for i, (x0, x1, y0, y1) in enumerate(boxes):
        outline = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        colour = FRAME_GLASS[(i // 4 + 2 * (i % 4)) % 5]
        panes.cut_pane(
            outline, pick_colour(rng, [colour, colour]), [CONTOUR, HATCH, STIPPLE][i % 3]
        )


def cast_glass(
    rng: Rng, labels: NDArray[np.integer], panes: Panes, depth: Array, unit: float
) -> Array:
    """Return the light through the panes: uneven thickness, streaks, ripples, painted grisaille."""
    size = labels.shape[0]
    count = len(panes.colours)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    area = np.maximum(np.bincount(labels.ravel(), minlength=count), 1)
    middle = [
        np.bincount(labels.ravel(), weights=c.ravel(), minlength=count) / area for c in (x, y)
    ]
    turn = rng.uniform(0, np.pi, count)
    u = x - middle[0].astype(np.float32)[labels]
    v = y - middle[1].astype(np.float32)[labels]
    cos, sin = (f(turn).astype(np.float32)[labels] for f in (np.cos, np.sin))
    u, v = u * cos + v * sin, v * cos - u * sin
    streaks = make_noise(rng, (size, size), 9 * unit, 120 * unit)
    streaks = streaks + 0.7 * make_noise(rng, (size, size), 3 * unit, 50 * unit)
    shift = rng.integers(0, size, (2, count))
    # Mirrored indices keep the streaks unbroken where a pane reaches over the edge of the noise.
    row = v.astype(int) + shift[0][labels]
    column = u.astype(int) + shift[1][labels]
    streak = streaks[tuple(np.abs(k % (2 * size - 2) - size + 1) for k in (row, column))]
    ripple = make_noise(rng, (size, size), 13 * unit) + 0.5 * make_noise(
        rng, (size, size), 5 * unit
    )
    tilt = v / np.sqrt(area).astype(np.float32)[labels]
    density = 1.0 + 0.16 * streak + 0.55 * tilt + 0.10 * ripple
    glass = (
        np.stack(panes.colours).astype(np.float32)[labels] ** np.clip(density, 0.35, 2.2)[..., None]
    )
    bumps, glints = light_relief(
        ndimage.gaussian_filter(0.5 * streak + ripple, unit) * unit, 0.5, 0.10
    )
    wobble = 1.2 * unit * ripple
    pattern = np.array(panes.patterns)[labels]
    inner = (depth + wobble) / unit
    lines = {
        CONTOUR: ramp(np.cos(2 * np.pi * inner / 6.5), 0.35, 0.8) * (1 - ramp(inner, 15, 19)),
        HATCH: ramp(
            np.cos(2 * np.pi * (v + wobble) / unit / 6.0), 0.80 - 1.2 * tilt, 1.15 - 1.2 * tilt
        ),
        STIPPLE: ramp(
            np.cos(0.9 * (u + wobble) / unit) * np.cos(0.9 * (v + wobble) / unit), 0.25, 0.6
        ),
    }
    worn = 0.55 + 0.25 * np.clip(make_noise(rng, (size, size), 20 * unit), -1.5, 1.5)
    for kind, drawn in lines.items():
        glass *= (1 - (pattern == kind) * drawn * worn)[..., None]
    return glass * bumps[..., None] + glints[..., None]


def draw_bubbles(rng: Rng, size: int, count: int) -> Array:
    """Return small air bubbles, a dark rim with a bright heart, as a factor on the light."""
    image = Image.new("L", (size, size), 128)
    draw = ImageDraw.Draw(image)
    for _ in range(count):
        x, y = rng.uniform(0, size, 2)
        r = rng.uniform(0.0008, 0.0026) * size
        draw.ellipse(
            (x - r, y - r * 1.3, x + r, y + r * 1.3), fill=190, outline=70, width=max(int(r / 3), 1)
        )
    return np.asarray(image, np.float32) / 128


def paint_window(size: int) -> Array:
    """Paint a garden under the sun: leaded stained glass against the light."""
    rng = np.random.default_rng(1248)
    fine = 2 * size
    unit = fine / REFERENCE_PX
    panes = cut_background(rng, fine)
    veins = Image.new("L", (fine, fine))
    cut_sun(rng, panes, fine)
    cut_vines(rng, panes, ImageDraw.Draw(veins), fine)
    cut_frame(rng, panes, fine)
    labels = np.asarray(panes.image)
    a = labels[:-1, :-1]
    b = labels[:-1, 1:]
    c = labels[1:, :-1]
    d = labels[1:, 1:]
    seam = np.ones_like(labels, bool)
    joint = np.ones_like(labels, bool)
    # How many panes meet at the corner of four pixels: two at a seam, three or more at a joint.
    kinds = 1 + (a != b).astype(int) + ((c != a) & (c != b)) + ((d != a) & (d != b) & (d != c))
    seam[:-1, :-1] = kinds < 2
    joint[:-1, :-1] = kinds < 3
    depth = ndimage.distance_transform_edt(seam).astype(np.float32)
    solder = np.exp(
        -((ndimage.distance_transform_edt(joint).astype(np.float32) / (6.5 * unit)) ** 2)
    )
    glass = cast_glass(rng, labels, panes, depth, unit) * draw_bubbles(rng, fine, 1600)[..., None]
    glass *= (1 - np.asarray(veins, np.float32) / 330)[..., None]
    y, x = np.mgrid[:fine, :fine].astype(np.float32) / fine
    glow = 1.0 + 0.50 * np.exp(-((x - SUN[0]) ** 2 + (y - SUN[1]) ** 2) / 0.12)
    half = LEAD * unit * (1 + 0.10 * make_noise(rng, (fine, fine), 18 * unit)) + 2.6 * unit * solder
    glass *= (glow * (0.50 + 0.50 * ramp(depth, half, half + 7 * unit)))[..., None]
    patina = make_noise(rng, (fine, fine), 3 * unit) + make_noise(rng, (fine, fine), 12 * unit)
    came = np.sqrt(np.clip(1 - (depth / half) ** 2, 0, 1)) * 5 * unit + 0.25 * unit * patina
    shade, gloss = light_relief(ndimage.gaussian_filter(came, 0.6 * unit), 0.45, 0.30)
    metal = (0.060 + 0.014 * patina + 0.10 * solder) * shade + gloss * (0.7 + solder)
    lead = metal[..., None] * np.array([0.92, 0.97, 1.10], np.float32)
    cover = 1 - ramp(depth, half - 0.6 * unit, half + 0.6 * unit)[..., None]
    picture = shrink(glass + (lead - glass) * cover, size)
    # Halation: strong light spills over the lead around each pane.
    reach = 9 * size / REFERENCE_PX
    spill = ndimage.gaussian_filter(picture, (reach, reach, 0))
    return 1 - (1 - np.clip(picture, 0, 1)) * (1 - 0.30 * np.clip(spill, 0, 1) ** 1.5)


# ---------------------------------------------------------------- waves: woodblock print

PAPER = read_colours(["f4e7c8"])[0]
# hex colour of each ink at full strength, and how far its block slipped (px, down and right)
INKS = {
    "ochre": ("f2c785", (0, 1)),
    "red": ("db4a2e", (-2, 1)),
    "pale": ("9ec7d1", (1, -2)),
    "blue": ("2b66a3", (1, 1)),
    "key": ("172954", (0, 0)),
}
DISC = (0.27, 0.20, 0.105)  # the sun: x, y, radius as fractions of the side
MIST = [  # height, left and right end of each band, as fractions of the side
    (0.105, 0.46, 0.90), (0.137, 0.60, 1.10), (0.252, -0.10, 0.25), (0.285, -0.02, 0.40),
    (0.385, 0.74, 1.10), (0.415, -0.10, 0.20), (0.042, -0.10, 0.20), (0.355, 0.86, 1.20),
]  # fmt: skip
# One breaking wave of height 1 with its foot at the origin, curling to the right, y up.
BACK = [
    (-1.95, -0.70), (-1.40, -0.10), (-0.90, 0.14), (-0.50, 0.46), (-0.16, 0.82),
    (0.16, 1.0), (0.45, 0.98), (0.66, 0.82), (0.72, 0.62), (0.62, 0.46),
]  # fmt: skip
FACE = [
    (1.50, -0.70), (1.00, -0.10), (0.60, 0.01), (0.28, 0.15), (0.10, 0.35),
    (0.07, 0.56), (0.18, 0.73), (0.37, 0.77), (0.53, 0.68), (0.62, 0.46),
]  # fmt: skip
# foot x, y, height as fractions of the side, direction of the curl; far to near, by row of the sea
WAVES = [
    [(0.08, 0.55, 0.11, 1), (0.33, 0.56, 0.13, -1), (0.93, 0.55, 0.12, 1)],
    [(0.62, 0.77, 0.52, -1), (0.06, 0.66, 0.17, 1)],
    [(0.30, 0.82, 0.25, -1), (0.97, 0.80, 0.30, -1), (-0.03, 0.83, 0.22, 1)],
    [(0.68, 0.95, 0.24, 1), (0.12, 0.97, 0.24, 1), (1.02, 0.98, 0.20, -1)],
    [(0.42, 1.08, 0.24, -1), (0.90, 1.10, 0.20, 1)],
]
STEPS = 110  # points along each edge of a wave, from the foot (0) to the tip
# ink of the hatching
SEA_LINES = [{"key": 0.9, "blue": 0.7}, {"pale": 0.9, "blue": 0.95}, {"pale": 0.15}]
SEA = [0.53, 0.63, 0.74, 0.87, 0.985]  # height of the rows


class Blocks:
    """The carved blocks of a print: one coverage image for each ink, drawn on together."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images = {name: Image.new("L", (size, size)) for name in INKS}

    def carve(self, outline: Array, **cover: float) -> None:
        """Fill an outline (fractions of the side) on every block; inks not named are cut away."""
        points = [(float(x), float(y)) for x, y in np.asarray(outline) * self.size]
        for name, image in self.images.items():
            ImageDraw.Draw(image).polygon(points, fill=int(255 * cover.get(name, 0.0)))

    def ink_line(self, curve: Array, width: float, rng: Rng, **cover: float) -> None:
        """Carve a line that swells in the middle and wavers, as a knife's cut does."""
        s = np.linspace(0, 1, len(curve))
        waver = 1 + 0.22 * np.sin(s * 40 + rng.uniform(0, 6))
        half = width / 2 * np.sin(np.pi * (0.02 + 0.96 * s)) ** 0.5 * waver
        normal = turn_normals(curve) * half[:, None]
        self.carve(np.concatenate([curve + normal, (curve - normal)[::-1]]), **cover)


def draw_disc(x: float, y: float, radius: float) -> Array:
    """Return the outline of a circle."""
    turn = np.linspace(0, 2 * np.pi, 40)
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1)


def draw_claw(rng: Rng, base: Array, turn: float, length: float, hook: float) -> list[Array]:
    """Return the outlines of one claw of foam: a hooked finger with smaller ones on its outside."""
    s = np.linspace(0, 1, 18)
    heading = turn + hook * s**1.5
    spine = base + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * length / 18
    half = length * 0.14 * (1 - s**2) ** 0.8 * (1 + 0.20 * np.sin(s * 11))
    normal = turn_normals(spine) * half[:, None]
    shapes = [np.concatenate([spine + normal, (spine - normal)[::-1]])]
    if length > 0.010:
        for k in (4, 8, 12):
            aside = heading[k] - np.sign(hook) * rng.uniform(0.5, 1.0)
            shapes += draw_claw(rng, spine[k], aside, length * (0.55 - 0.02 * k), hook * 0.6)
    return shapes


def carve_union(blocks: Blocks, shapes: list[Array], rim: float) -> None:
    """Carve shapes in the white of the paper, merged under one dark outline."""
    for shape in shapes:
        away = turn_normals(np.concatenate([shape[-1:], shape, shape[:1]]))[1:-1] * rim
        blocks.carve(shape + away, key=0.95)  # one of the two is the grown shape,
        blocks.carve(shape - away, key=0.95)  # whichever way round the outline runs
    for shape in shapes:
        blocks.carve(shape, pale=0.06)


def carve_foam(
    blocks: Blocks, rng: Rng, crest: Array, lip: Array, height: float, curl: int
) -> None:
    """Carve foam along a crest: hooked claws, rooted in lobes with small inner marks."""
    rim = 0.0011 + 0.0020 * height
    lobes = []
    hearts = []
    for path, outward in ((lip, -1), (crest, 1)):
        grow = ramp(np.linspace(0, 1, len(path)), -0.1, 0.55) * height
        normal = turn_normals(path) * curl * outward
        inward = grow[:, None] * normal
        lobes.append(np.concatenate([path, (path - 0.045 * inward)[::-1]]))
        for k in range(0, len(path), 2):
            x, y = path[k] - inward[k] * rng.uniform(0.0, 0.045)
            hearts.append((x, y, grow[k] * rng.uniform(0.018, 0.036)))
        for k in range(len(path) // 4, len(path), 3):
            # Claws lean out of the water and hook down the way the wave falls.
            lean = np.arctan2(normal[k, 1] + 0.25, normal[k, 0] + 0.8 * curl)
            length = grow[k] * rng.uniform(0.13, 0.22) * (1.0 if outward > 0 else 0.7)
            claw = draw_claw(
                rng, path[k] - 0.02 * inward[k], lean, length, curl * rng.uniform(1.0, 2.2)
            )
            carve_union(blocks, claw, rim)
            spine = (claw[0][3:13] + claw[0][::-1][3:13]) / 2
            blocks.ink_line(spine, 0.0006 + 0.016 * length, rng, pale=0.95, blue=0.3)
    # The tip, where both sides meet, is foam through and through, with a lobed edge to the water.
    lobes.append(np.concatenate([crest[32:], lip[19:][::-1]]))
    inner = list(
        zip(rng.random(30), rng.integers(33, 50, 30), rng.integers(20, 30, 30), strict=True)
    )
    for share, i, j in [*inner, *((share, 32, 19) for share in np.linspace(0.05, 0.95, 8))]:
        x, y = crest[i] * share + lip[j] * (1 - share)
        hearts.append((x, y, height * rng.uniform(0.016, 0.030)))
    carve_union(blocks, lobes + [draw_disc(*heart) for heart in hearts], rim)
    for x, y, radius in hearts:
        turn = np.linspace(0.2, 2.1, 12) + rng.uniform(-0.6, 0.6)
        for scale in (0.35, 0.75):
            arc = np.stack(
                [x + curl * radius * scale * np.cos(turn), y + radius * scale * np.sin(turn)], 1
            )
            blocks.ink_line(arc, 0.0006 + radius * 0.14, rng, pale=0.95, blue=0.45)
        for dx, dy in rng.normal(0, 0.6 * radius, (2, 2)):
            blocks.carve(draw_disc(x + dx, y + dy, 0.0006 + 0.035 * radius), key=0.8)


def carve_wave(blocks: Blocks, rng: Rng, foot: tuple[float, float, float, int]) -> None:
    """Carve one breaking wave: blue bands and parallel lines, from its foot into the curl."""
    x, y, height, curl = foot
    sway = rng.normal(0, 0.016, (2, len(BACK), 2)) * (np.arange(len(BACK)) < len(BACK) - 2)[:, None]
    back, face = (
        smooth_curve(list(np.array(p) + w), STEPS) * [curl * height, -height] + [x, y]
        for p, w in zip((BACK, FACE), sway, strict=True)
    )
    blocks.carve(np.concatenate([back, face[::-1]]), pale=0.9, blue=0.20)
    count = int(9 + 26 * height)
    edges = np.linspace(0, 1, count + 1) ** 0.9
    lines = [back + (face - back) * e for e in edges]
    for k in range(count):
        stop = STEPS if k % 2 else int(rng.uniform(84, 100))
        deep = 0.95 if k % 2 == 0 else 0.12
        hollow = float(ramp(edges[k], 0.5, 0.7))
        band = np.concatenate([lines[k][:stop], lines[k + 1][:stop][::-1]])
        blocks.carve(
            band, pale=0.9, blue=deep + 0.25 * hollow * (k % 2), key=0.55 * hollow * (k % 2 == 0)
        )
        for part in (0.33, 0.66):
            thin = lines[k] + (lines[k + 1] - lines[k]) * part
            start = int(rng.uniform(0, 40))
            thin = thin[start : start + int(rng.uniform(35, 65))]
            cover = {"pale": 0.25} if k % 2 == 0 else {"pale": 0.9, "blue": 0.85}
            blocks.ink_line(thin, 0.0013 + 0.004 * height, rng, **cover)
    for line in lines:
        blocks.ink_line(line, 0.0016 + 0.0045 * height, rng, key=0.95, blue=0.6)
    for _ in range(int(10 + 30 * height)):  # rivulets of foam that drain back down the face
        e = rng.uniform(0.04, 0.97)
        start = int(rng.uniform(42, 80))
        trail = (back + (face - back) * e)[start : start + int(rng.uniform(14, 30))]
        blocks.ink_line(trail, height * rng.uniform(0.006, 0.013), rng, pale=0.06)
    carve_foam(blocks, rng, back[60:], face[80:], height, curl)
    for _ in range(int(60 * height) + 12):  # spray
        px, py = (
            back[88] + height * rng.normal(0, [0.30, 0.22]) + [curl * 0.22 * height, -0.10 * height]
        )
        radius = rng.uniform(0.0012, 0.0034) * (0.6 + height)
        blocks.carve(draw_disc(px, py, radius))


def carve_sea(blocks: Blocks, rng: Rng, level: float, row: int) -> None:
    """Carve one row of open water down to the lower edge, hatched along its swell."""
    x = np.linspace(-0.02, 1.02, 240)
    phase = rng.uniform(0, 6)
    top = level + 0.016 * np.sin(9 * x + phase) + 0.007 * np.sin(23 * x + 2 * phase)
    edge = np.stack([x, top], 1)
    blocks.carve(
        np.concatenate([edge, [(1.02, 1.1), (-0.02, 1.1)]]), pale=0.9, blue=0.30 + 0.09 * row
    )
    blocks.ink_line(edge, 0.004, rng, key=0.9, blue=0.6)
    for depth in np.arange(0.006, 0.17, 0.0052 + 0.0007 * row):
        start = int(rng.uniform(-60, 20))
        while start < 235:
            stop = start + int(rng.uniform(25, 80))
            part = slice(max(start, 0), min(stop, 240))
            sag = 0.5 * depth * np.sin(9 * x[part] + phase + 1.5)
            line = np.stack([x[part], top[part] + depth + 0.12 * sag], 1)
            if len(line) > 6:
                cover = SEA_LINES[rng.integers(len(SEA_LINES))]
                blocks.ink_line(line, rng.uniform(0.0016, 0.0036), rng, **cover)
            start = stop + int(rng.uniform(2, 14))


def carve_sky(blocks: Blocks, rng: Rng) -> None:
    """Carve the sky: wiped gradations of blue and ochre, the sun, wind lines, bands of mist."""
    y = np.linspace(0, 1, blocks.size, dtype=np.float32)[:, None] * np.ones(
        (1, blocks.size), np.float32
    )
    wipes = {
        "ochre": ramp(y, 0.12, 0.50),
        "red": 0.42 * ramp(y, 0.30, 0.58),
        "pale": 1 - ramp(y, 0.06, 0.34),
        "blue": 1 - ramp(y, -0.04, 0.21),
    }
    for name, wipe in wipes.items():
        blocks.images[name] = Image.fromarray((255 * wipe).astype(np.uint8))
    x = np.linspace(-0.02, 1.02, 200)
    for level in np.arange(0.008, 0.62, 0.0082):
        wind = level + 0.010 * np.sin(7 * x + 16 * level) + 0.005 * np.sin(19 * x - 23 * level)
        warm = float(ramp(np.array(level + rng.normal(0, 0.03)), 0.20, 0.34))
        cover = {"pale": 1 - warm, "blue": 0.85 * (1 - warm), "red": 0.70 * warm, "ochre": warm}
        start = int(rng.uniform(-40, 10))
        while start < 195:
            stop = start + int(rng.uniform(30, 110))
            line = np.stack([x, wind], 1)[max(start, 0) : stop]
            if len(line) > 6:
                blocks.ink_line(line, rng.uniform(0.0013, 0.0030), rng, **cover)
            start = stop + int(rng.uniform(4, 20))
    blocks.carve(draw_disc(DISC[0], DISC[1], DISC[2] + 0.004))
    blocks.carve(draw_disc(*DISC), red=0.95, ochre=0.6)
    for level in np.arange(-0.9, 0.95, 0.075) * DISC[2]:
        reach = np.sqrt(DISC[2] ** 2 - level**2) * np.sort(rng.uniform(-0.96, 0.96, 2))
        chord = DISC[0] + np.linspace(reach[0], reach[1], 20)
        cut = np.stack([chord, DISC[1] + level + 0.002 * np.sin(60 * chord)], 1)
        blocks.ink_line(cut, 0.0024, rng, red=0.45, ochre=0.9)
    for level, left, right in MIST:
        s = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 80))
        half = (
            0.0135 * (1 - np.abs(2 * s - 1) ** 5) ** 0.7 * (1 + 0.22 * np.sin(9 * s + 40 * level))
        )
        x = left + s * (right - left)
        for extra, cover in ((0.0016, {"key": 0.8}), (0.0, {"pale": 0.10})):
            rim = half + extra
            upper = np.stack([x, level - rim], 1)
            lower = np.stack([x, level + rim], 1)
            blocks.carve(np.concatenate([upper, lower[::-1]]), **cover)
        for e in np.arange(-0.7, 0.8, 0.28):
            part = slice(int(rng.uniform(5, 40)), int(rng.uniform(45, 76)))
            blocks.ink_line(np.stack([x, level + e * half], 1)[part], 0.0020, rng, pale=0.8)


def carve_seal(blocks: Blocks, rng: Rng) -> None:
    """Carve a small vermilion seal with a whorl instead of letters."""
    turn = np.linspace(0, 2 * np.pi, 60)
    square = np.stack([np.sign(f) * np.abs(f) ** 0.35 for f in (np.cos(turn), np.sin(turn))], 1)
    centre = np.array([0.940, 0.062])
    blocks.carve(centre + 0.031 * square, red=1.0, ochre=0.8)
    spin = np.linspace(0.6, 13, 90)
    blocks.ink_line(
        centre + 0.0017 * spin[:, None] * np.stack([np.cos(spin), np.sin(spin)], 1), 0.0052, rng
    )


def press_print(rng: Rng, blocks: Blocks) -> Array:
    """Print the blocks on paper, with gradations, wood grain, baren marks and slipped blocks."""
    size = blocks.size
    unit = size / REFERENCE_PX
    shape = (size, size)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    fibre = make_noise(rng, shape, 1.7 * unit, 22 * unit) + 0.35 * make_noise(
        rng, shape, 9 * unit, 2 * unit
    )
    paper = PAPER * (1 + 0.015 * fibre + 0.014 * make_noise(rng, shape, 40 * unit))[..., None]
    # Year rings of the block: slanting, drifting bands, each darkening slowly and ending sharply.
    ring = 30 * y + 5 * x * y + 1.7 * make_noise(rng, shape, 130 * unit, 380 * unit)
    ring = ring + 0.10 * make_noise(rng, shape, 7 * unit, 160 * unit)
    # Wide rings with finer ones between them; each is a saw-tooth wave.
    grain = 0.75 * (ring % 1) ** 3 + 0.25 * (3.7 * ring % 1) ** 2
    grain = grain + 0.13 * make_noise(rng, shape, 1.8 * unit, 60 * unit)
    baren = make_noise(rng, shape, 30 * unit) * 0.5 + make_noise(rng, shape, 3.2 * unit) * 0.5
    wipe = {
        "red": 0.62 + 0.38 * ramp(y, DISC[1] + DISC[2], DISC[1] - 0.3 * DISC[2]),
        "blue": 0.95 + 0.16 * make_noise(rng, shape, 110 * unit, 200 * unit),
    }
    picture = paper
    for name, (ink, slip) in INKS.items():
        cover = np.asarray(blocks.images[name], np.float32) / 255
        cover = ndimage.shift(cover, [round(k * unit) for k in slip], order=0, mode="nearest")
        # Pressure squeezes ink outward, so that every printed shape is a little darker along its
        # rim.
        squeeze = 1 + 0.22 * (cover - ndimage.gaussian_filter(cover, 3.5 * unit))
        cover = ndimage.gaussian_filter(cover, 0.45 * unit) * squeeze * wipe.get(name, 1.0)
        strength = 0.35 if name == "key" else 1.0
        cover = cover * (1 - strength * (0.38 * grain + 0.07 * baren + 0.02 * fibre))
        picture = picture * (1 - np.clip(cover, 0, 1)[..., None] * (1 - read_colours([ink])[0]))
    return picture


def paint_waves(size: int) -> Array:
    """Paint breaking waves at sunrise: a woodblock print in Prussian blue."""
    rng = np.random.default_rng(1831)
    blocks = Blocks(2 * size)
    carve_sky(blocks, rng)
    for row, level in enumerate(SEA):
        carve_sea(blocks, rng, level, row)
        for foot in WAVES[row]:
            carve_wave(blocks, rng, foot)
    carve_seal(blocks, rng)
    return shrink(press_print(rng, blocks), size)


# ---------------------------------------------------------------- command line

Painter = Callable[[int], Array]
PAINTERS: dict[str, Painter] = {
    "nocturne": paint_nocturne,
    "window": paint_window,
    "waves": paint_waves,
}


def save_picture(picture: Array, path: Path) -> None:
    """Write the picture as an optimised PNG; the rename makes it appear only when complete."""
    pixels = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    draft = path.with_name(path.name + ".tmp")
    Image.fromarray(pixels).save(draft, format="PNG", optimize=True)
    os.replace(draft, path)


def main() -> None:
    """Paint the pictures named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Paint the style pictures of this folder.")
    names = ", ".join(PAINTERS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {names} (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to"
    )
    parser.add_argument(
        "--size", type=int, default=REFERENCE_PX, help="side in px (default: %(default)s)"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(PAINTERS))
    if unknown:
        parser.error(f"unknown picture: {', '.join(unknown)} (choose from {names})")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or PAINTERS:
        path = options.out / f"{name}.png"
        save_picture(PAINTERS[name](options.size), path)
        print(path)


if __name__ == "__main__":
    main()
