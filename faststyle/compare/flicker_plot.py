"""The plot of `faststyle compare flicker`: a row for each clip, as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from faststyle.compare.charts import chart_style, plain_ticks, printable
from faststyle.compare.results import FlickerRow
from faststyle.judge.flicker import FAST, LEVELS, Flicker, Still

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 9.0  # inches of 100 pixels
HEIGHT = 2.2  # of a clip
INK = "#202020"
# The colours of the page of `faststyle compare`, then more.
COLOURS = ("#0068a8", "#b34d00", "#00795a", "#8b3a8b", "#a08000", "#5a5a9a")
POINTS = 9  # of letters


def plot_flicker(rows: Sequence[FlickerRow]) -> bytes:
    """Return a PNG file: errors over time, and spectra of still places, with a row for each clip.

    Both are in levels of 255, with logarithmic axes. The clip itself is the dashed line. Spectra
    have a column where any clip has still places.
    """
    from matplotlib.figure import Figure

    clips = list(dict.fromkeys(row.clip for row in rows))
    columns = 2 if any(row.input.still for row in rows) else 1
    with chart_style(INK, {"font.size": POINTS}):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(clips) + 0.6), layout="constrained")
        axes = figure.subplots(len(clips), columns, squeeze=False)
        for (left, *right), clip in zip(axes, clips, strict=True):
            of_clip = [row for row in rows if row.clip == clip]
            _draw_errors(left, of_clip)
            left.set_title(printable(clip), loc="left", fontsize=POINTS, fontweight="bold")
            for spectra in right:
                _draw_spectra(spectra, of_clip)
        axes[-1, 0].set_xlabel("frame")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=4, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _lines(rows: Sequence[FlickerRow]) -> list[tuple[str, Flicker, dict[str, Any]]]:
    """Return label, figures and look of each line: the clip first, then the networks."""
    lines: list[tuple[str, Flicker, dict[str, Any]]] = [
        ("the clip itself", rows[0].input, {"color": INK, "linestyle": (0, (4, 2))})
    ]
    for number, row in enumerate(rows):
        colour = COLOURS[number % len(COLOURS)]
        lines.append((printable(row.network), row.output, {"color": colour}))
    return lines


def _draw_errors(axes: Axes, rows: Sequence[FlickerRow]) -> None:
    for label, flicker, look in _lines(rows):
        errors = flicker.warping[0].by_frame
        levels = [math.nan if error is None else LEVELS * math.sqrt(error) for error in errors]
        frames = range(1, 1 + len(levels))
        axes.plot(frames, levels, label=label, linewidth=1.4, **look)
    axes.set_ylabel("error (levels)")
    _finish(axes)


def _draw_spectra(axes: Axes, rows: Sequence[FlickerRow]) -> None:
    found = [(flicker.still, look) for _, flicker, look in _lines(rows)]
    spectra = [(still, look) for still, look in found if still is not None and still.noise > 0]
    if not spectra:
        nothing = "nothing changes in still places"
        words = nothing if found[0][0] is not None else "too few frames, or still places"
        axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    rate = rows[0].rate
    for still, look in spectra:
        axes.plot(*_without_zero(still, rate), linewidth=1.4, **look)
    axes.set_xlabel("Hz, in still places")
    axes.set_ylabel("power (levels\u00b2)")
    _finish(axes)
    axes.axvline(FAST * rate, color=INK, linewidth=0.8, alpha=0.4)


def _without_zero(still: Still, rate: float) -> tuple[list[float], list[float]]:
    """Return the spectrum over Hz. Its first value says nothing: the mean was taken away."""
    hertz = [frequency * rate for frequency in still.frequencies]
    return hertz[1:], list(still.spectrum[1:])


def _finish(axes: Axes) -> None:
    """Give the axes a logarithmic scale that fits all lines above zero."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
    positive = drawn[np.isfinite(drawn) & (drawn > 0)]
    if len(positive):
        low = float(positive.min()) / 1.15
        high = float(positive.max()) * 1.15
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        plain_ticks(axes.yaxis, low, high)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
