"""Curves as SVG that grow while a page is open: they cost no time that the work would miss.

The charts of finished comparisons are those of compare/charts.py, by matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 480
HEIGHT = 240
LEFT = 46  # pixels for the numbers of the y axis
BOTTOM = 34
TOP = 8
RIGHT = 8
COLOURS = ("#d9480f", "#1c7ed6", "#2b8a3e")  # 3:1 or more on white and on Gradio's dark grey
TICKS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Line:
    """A curve with its name; a `dashed` one is a level that others are to reach."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def chart(lines: Sequence[Line], x_label: str, log: bool = False) -> str:
    """Return the lines as an SVG element with a legend; "" while there are no two points.

    With `log` the y axis is logarithmic. Values that are not finite are left out, and with `log`
    those that are not above 0.
    """
    kept = [
        Line(line.name, [p for p in line.points if _can_be_drawn(p, log)], line.dashed)
        for line in lines
    ]
    points = [point for line in kept for point in line.points]
    if len({x for x, _ in points}) < 2:
        return ""
    low_x = min(x for x, _ in points)
    high_x = max(x for x, _ in points)
    low, high = _range([_scale(y, log) for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / (high_x - low_x)
        up = (_scale(y, log) - low) / (high - low)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP), 1),
        )

    parts = [_axes(low, high, low_x, high_x, x_label, log)]
    for number, line in enumerate(kept):
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in line.points))
        dash = ' stroke-dasharray="5 3"' if line.dashed else ""
        colour = COLOURS[number % len(COLOURS)]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2"{dash} points="{path}"/>'
        )
    told = "; ".join(
        f"{line.name}: {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}"
        for line in kept
        if line.points
    )
    return (
        f'<figure class="curves"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(told)}">{"".join(parts)}</svg>'
        f"<figcaption>{_legend(kept)}</figcaption></figure>"
    )


def _can_be_drawn(point: tuple[float, float], log: bool) -> bool:
    return math.isfinite(point[1]) and (point[1] > 0 or not log)


def _scale(y: float, log: bool) -> float:
    return math.log10(y) if log else y


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis for values, with some room."""
    low = min(values)
    high = max(values)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Return round numbers on a y axis that goes from `low` to `high`, in logarithms with `log`."""
    if log:
        decades = range(math.floor(low) - 1, math.ceil(high) + 1)
        found = [tick * 10.0**decade for decade in decades for tick in TICKS]
        return [value for value in found if low <= math.log10(value) <= high]
    rough = (high - low) / 4
    decade = 10.0 ** math.floor(math.log10(rough))
    step = next(tick * decade for tick in (*TICKS, 10.0) if tick * decade >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _axes(low: float, high: float, low_x: float, high_x: float, x_label: str, log: bool) -> str:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in _ticks(low, high, log):
        y = bottom - (_scale(value, log) - low) / (high - low) * (bottom - TOP)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="currentColor" stroke-opacity="0.15"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}" '
        f'stroke="currentColor"/>'
        f'<text x="{LEFT}" y="{bottom + 16}">{low_x:g}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{bottom + 16}" text-anchor="end">{high_x:g}</text>'
        f'<text x="{middle}" y="{bottom + 28}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return f'<g fill="currentColor" font-size="13">{"".join(parts)}</g>'


def _legend(lines: Sequence[Line]) -> str:
    return " ".join(
        f'<span><i style="border-top:3px {"dashed" if line.dashed else "solid"} '
        f'{COLOURS[number % len(COLOURS)]}"></i>{escape(line.name)}</span>'
        for number, line in enumerate(lines)
        if line.points
    )
