"""The charts of the report, as SVG elements that follow the theme of the page.

Colours are placeholders that become `currentColor` and CSS variables of the page (--content,
--noise, --network), so that one chart serves light and dark. Text stays text, in the page's font.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches of 72 points. Letters of 10 points stay readable when a phone shows 360 pixels.
WIDTH = 5.6
HEIGHT = 3.7
POINTS = 10  # of letters
LABEL_GAP = 0.07  # between two labels, as a part of the height of the axes: one line of text
LONGEST_LABEL = 16  # letters
DOTTED_UP_TO = 15  # points of a curve that has dots; with more, the dots would be a fat line

# Colours that occur nowhere else, so that they can be replaced in the SVG.
INK = "#010203"
COLOURS = {"content": "#010204", "noise": "#010205", "network": "#010206"}
THEME = {INK: "currentColor", **{colour: f"var(--{name})" for name, colour in COLOURS.items()}}

# What all charts share; the colour of letters and axes comes from `chart_style`.
PLAIN: Any = {
    "text.parse_math": False,  # names of files may hold dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
OF_PAGES: Any = {
    "font.size": POINTS,
    # Letters instead of outlines: they can be searched, read aloud, and take the page's font.
    "svg.fonttype": "none",
    "svg.hashsalt": "faststyle",  # the same chart has the same bytes
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.labelpad": 7,  # points: phones show letters a little larger than matplotlib measures them
}


@contextmanager
def chart_style(ink: str, more: dict[str, Any]) -> Iterator[None]:
    """Draw with the settings that all charts share, in `ink`, and `more` of them."""
    import matplotlib

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a matplotlibrc of the user must not change the chart
        settings: Any = {**PLAIN, **dict.fromkeys(inked, ink), **more}
        matplotlib.rcParams.update(settings)
        yield


def printable(name: str) -> str:
    """Return a name that matplotlib takes: it refuses text that is not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Curve:
    """The slow path from one start: mean, lowest and highest total over photos, step by step."""

    init: str
    label: str
    steps: Sequence[int]
    seconds: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Point:
    """A network: seconds for a photo, the judge's style_closed and clear_distance."""

    label: str
    seconds: float
    style_closed: float
    clear_distance: float


def objective_by_step(
    curves: Sequence[Curve], level: float, equal: Mapping[str, float | None], name: str
) -> str:
    """Return the objective against the step, both in logarithms, with the network's level across.

    `equal` is the step at which each start reached that level. `name` makes the ids of the SVG
    unique in its page.
    """

    def draw(axes: Axes) -> None:
        steps = [s for c in curves for s in c.steps]
        _limit_objective(axes, curves, level)
        axes.set_xscale("symlog", linthresh=1)  # step 0 is the start itself, and has no logarithm
        axes.set_xlim(min(steps), 1.05 * max(*steps, 1))
        ticks = [
            t for t in (0, 1, 3, 10, 30, 100, 300, 1000, 3000) if min(steps) <= t <= max(steps)
        ]
        axes.xaxis.set_ticks(ticks, [str(t) for t in ticks])
        axes.xaxis.set_ticks([], minor=True)
        axes.set_xlabel("step (log scale)")
        for curve in curves:
            _draw_curve(axes, curve, curve.steps)
        _draw_level(axes, level)
        _label_right(axes, curves, level)
        for row, curve in enumerate(c for c in curves if equal.get(c.init) is not None):
            colour = COLOURS.get(curve.init, INK)
            _mark_equal(axes, float(equal[curve.init] or 0), colour, 1.03 + row * LABEL_GAP)

    told = "; ".join(
        f"{c.label} {c.mean[0]:.3g} at step {c.steps[0]}, {c.mean[-1]:.3g} at {c.steps[-1]}"
        for c in curves
    )
    return _svg(draw, name, f"Objective against step. Slow: {told}. Network: {level:.3g} at once.")


def objective_by_seconds(
    curves: Sequence[Curve],
    level: float,
    seconds: float,
    name: str,
    refined: tuple[float, float] | None = None,
) -> str:
    """Return the objective against the seconds of a photo; the network is a point at `level`.

    `refined` are seconds and objective of its refined pictures, which are a point too.
    """
    further = [] if refined is None else [refined]

    def draw(axes: Axes) -> None:
        times = [t for c in curves for t in c.seconds if t > 0] + [seconds]
        times += [t for t, _ in further]
        _limit_objective(axes, curves, level, [value for _, value in further])
        axes.set_xscale("log")
        axes.set_xlim(min(times) / 1.6, max(times) * 1.05)
        plain_ticks(axes.xaxis, *axes.get_xlim())
        axes.set_xlabel("seconds for a photo (log scale)")
        for curve in curves:
            _draw_curve(axes, curve, [t if t > 0 else math.nan for t in curve.seconds])
        _draw_level(axes, level)
        axes.plot([seconds], [level], "o", color=COLOURS["network"], markersize=8)
        for point in further:
            axes.plot(*point, "D", color=COLOURS["network"], markersize=7)
            axes.annotate(
                f"refined {point[1]:.3g}",
                point,
                (0, -8),  # points, below the mark: curves come from above
                textcoords="offset points",
                ha="center",
                va="top",
                color=COLOURS["network"],
            )
        _label_right(axes, curves, level)

    told = "; ".join(
        f"{c.label} {c.mean[-1]:.3g} after {c.seconds[-1]:.3g} seconds" for c in curves
    )
    return _svg(
        draw,
        name,
        f"Objective against seconds. Slow: {told}. "
        f"Network: {level:.3g} after {seconds:.3g} seconds."
        + "".join(f" Refined: {value:.3g} after {t:.3g} seconds." for t, value in further),
    )


def speed_and_quality(points: Sequence[Point], name: str) -> str:
    """Return seconds against style_closed; the area of a point grows with its clear_distance."""

    def draw(axes: Axes) -> None:
        times = [p.seconds for p in points]
        closed = [p.style_closed for p in points]
        room = max(0.02, 0.25 * (max(closed) - min(closed)))
        axes.set_xscale("log")
        axes.set_xlim(min(times) / 1.4, max(times) * 1.4)
        axes.set_ylim(min(closed) - room, max(closed) + room)
        plain_ticks(axes.xaxis, *axes.get_xlim())
        axes.set_xlabel("seconds for a photo (log scale)")
        axes.set_ylabel("style_closed, higher is better")
        axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
        # In square points. A clear_distance of 0.3 to 2 is usual.
        areas = [60 * max(0.1, p.clear_distance) for p in points]
        axes.scatter(
            times, closed, s=areas, color=COLOURS["network"], alpha=0.8, linewidths=0, clip_on=False
        )
        starts = [_up(axes, p.style_closed) for p in points]
        for point, start, y in zip(points, starts, spread_out(starts, LABEL_GAP), strict=True):
            axes.annotate(
                f"{_shorten(point.label)}, {point.clear_distance:.2f}",
                (_across(axes, point.seconds), start),
                (1.03, y),
                xycoords="axes fraction",
                textcoords="axes fraction",
                va="center",
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": INK, "alpha": 0.3, "shrinkB": 5},
            )

    told = "; ".join(
        f"{p.label}: {p.seconds:.3g} s, style_closed {p.style_closed:.2f}, "
        f"clear_distance {p.clear_distance:.2f}"
        for p in points
    )
    return _svg(draw, name, f"Seconds against style_closed. {told}.", right=0.63)


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Return `places`, moved apart so that no two are nearer than `gap`; their order stays.

    A pass upwards moves each as little as it must. The topmost stays at 1 or below where they fit.

    Example:
        >>> spread_out([0.5, 0.5], 0.1)
        [0.5, 0.6]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    ceiling = max(1.0, max(places, default=1.0))
    for i in reversed(order):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def _draw_curve(axes: Axes, curve: Curve, x: Sequence[float]) -> None:
    colour = COLOURS.get(curve.init, INK)
    if any(high > low for low, high in zip(curve.low, curve.high, strict=True)):
        axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
    marker = "o" if len(x) <= DOTTED_UP_TO else None
    axes.plot(x, curve.mean, color=colour, linewidth=1.8, marker=marker, markersize=3.5)


def _draw_level(axes: Axes, level: float) -> None:
    axes.axhline(level, color=COLOURS["network"], linewidth=1.5, linestyle=(0, (5, 3)))


def _mark_equal(axes: Axes, step: float, colour: str, height: float) -> None:
    """Draw a line at `step`, and name it above the axes."""
    axes.axvline(step, color=colour, linewidth=1, linestyle=(0, (1, 2)))
    across = _across(axes, step)
    # Near an end the words would reach over the edge of the chart if they were centred.
    side = "right" if across > 0.7 else "left" if across < 0.3 else "center"
    words = f"equal at step {step:.0f}"
    over = axes.get_xaxis_transform()
    axes.text(step, height, words, color=colour, transform=over, ha=side)


def _limit_objective(
    axes: Axes, curves: Sequence[Curve], level: float, more: Sequence[float] = ()
) -> None:
    values = [v for c in curves for v in (*c.low, *c.high) if v > 0] + [level, *more]
    low = min(values) / 1.15
    high = max(values) * 1.15
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    plain_ticks(axes.yaxis, low, high)
    axes.set_ylabel("objective (log scale)")
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)


def _label_right(axes: Axes, curves: Sequence[Curve], level: float) -> None:
    """Write names at the ends of the lines, where the eye is already, instead of in a legend."""
    labels = [(c.label, COLOURS.get(c.init, INK), c.mean[-1]) for c in curves]
    labels.append((f"network {level:.3g}", COLOURS["network"], level))
    heights = spread_out([_up(axes, value) for _, _, value in labels], LABEL_GAP)
    for (label, colour, _), y in zip(labels, heights, strict=True):
        axes.text(1.02, y, label, color=colour, transform=axes.transAxes, va="center")


def _up(axes: Axes, y: float) -> float:
    """Return the height of a value, as a fraction of the axes."""
    at = axes.transData.transform((axes.get_xlim()[1], y))
    return float(axes.transAxes.inverted().transform(at)[1])


def _across(axes: Axes, x: float) -> float:
    at = axes.transData.transform((x, axes.get_ylim()[1]))
    return float(axes.transAxes.inverted().transform(at)[0])


def _shorten(label: str) -> str:
    """Return a name that fits beside the axes, without its middle: versions differ at the end."""
    label = printable(label)
    return (
        label
        if len(label) <= LONGEST_LABEL
        else f"{label[: LONGEST_LABEL - 8]}\N{HORIZONTAL ELLIPSIS}{label[-7:]}"
    )


def plain_ticks(axis: Any, low: float, high: float) -> None:
    """Set four to eight ticks of a logarithmic axis, as plain numbers: 0.5 and not 5 x 10^-1."""
    from matplotlib.ticker import MaxNLocator

    decades = math.log10(high / low)
    digits = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3.5 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [d * 10.0**e for e in exponents for d in digits if low <= d * 10.0**e <= high]
    if len(ticks) < 3:
        ticks = [
            float(t)
            for t in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
            if low <= t <= high
        ]
    axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
    axis.set_ticks([], minor=True)


def _svg(draw: Callable[[Axes], None], name: str, told: str, right: float = 0.755) -> str:
    from matplotlib.figure import Figure

    with chart_style(INK, OF_PAGES), warnings.catch_warnings():
        # The browser draws the letters with fonts of its own, so letters that are missing from the
        # font that measures them do not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, HEIGHT))
        axes = figure.add_axes((0.145, 0.155, right - 0.145, 0.705))
        draw(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", dpi=72)
    return _fit_into_page(buffer.getvalue().decode(), name, told)


def _fit_into_page(svg: str, name: str, told: str) -> str:
    """Return an SVG file as an element of a page, with ids of its own and the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Its rule for * would apply to the whole page.
    svg = re.sub(r"<style .*?</style>\s*", "", svg, flags=re.DOTALL)
    # Without width and height the page decides the size.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    for colour, themed in THEME.items():
        svg = svg.replace(colour, themed)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(told)}"', 1).strip()
