"""The page of a comparison: the answer in words, tables, curves and pictures, in one file.

charts.py draws, and report.html.j2 holds the words and the looks of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PureWindowsPath
from statistics import fmean
from typing import Any

from torch import Tensor

from faststyle.compare.charts import (
    Curve,
    Point,
    objective_by_seconds,
    objective_by_step,
    speed_and_quality,
)
from faststyle.compare.results import Comparison, FastRow, Gallery, SlowRow, Summary, plain
from faststyle.compare.words import (
    STARTS,
    answer,
    format_duration,
    format_number,
    format_times,
    verdict,
)
from faststyle.extras import require
from faststyle.images import data_uri
from faststyle.sizes import fit_bounded

TERMS = ("content_rel", "style_rel", "total", "seconds")
# The judge's scores, and where good ones lie.
HINTS = {
    "style_distance": "lower \N{DOWNWARDS ARROW}",
    "style_closed": "higher \N{UPWARDS ARROW}",
    "content_distance": "lower \N{DOWNWARDS ARROW}",
    "clear_distance": "lower \N{DOWNWARDS ARROW}",
    "light": "higher \N{UPWARDS ARROW}",
    "grid": "near 2",
    "stripes": "near 1",
    "border": "near 1",
    "edges": "near 0",
    "high_frequency": "near 1",
}
# (shorter side in pixels, quality). The first pair whose pictures stay below MAX_PICTURES is taken.
PICTURE_SIZES = ((256, 88), (256, 75), (192, 75), (128, 70))
# Bytes as base64. With charts, the page is then below 10 MB, which still goes by mail.
MAX_PICTURES = 9_000_000
# Rows of one start in a table. Of more, only those that the judge scored and the last are shown.
MOST_STEPS = 12


@dataclass(frozen=True)
class Shown:
    """A picture of the page with its alt text and caption, and its place on a wide screen."""

    uri: str  # data:
    alt: str
    caption: str
    detail: str  # a second line of the caption, or ""
    row: int
    column: int


def require_packages() -> None:
    """Check that the packages for the page are installed. Raises: DeviceError."""
    require("matplotlib", extra="compare")


def report_html(comparison: Comparison) -> str:
    """Return the page: the answer in words, tables, curves and pictures. It loads nothing.

    Raises: DeviceError when packages of the extra "compare" are missing.
    """
    require_packages()
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("faststyle.compare", "."),
        autoescape=True,  # names of files may hold < and &
        undefined=jinja2.StrictUndefined,  # a misspelt name is an error, not an empty place
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = format_number
    sections = [_section(comparison, summary, i) for i, summary in enumerate(comparison.summaries)]
    return environment.get_template("report.html.j2").render(
        painting=_base_name(comparison.about.get("painting", "the painting")),
        checkpoints=comparison.checkpoints,
        sections=sections,
        several=len(sections) > 1,
        charted=any(s["by_step"] for s in sections),
        scores=list(HINTS),
        hints=HINTS,
        times=format_times,
        terms=TERMS,
        starts=STARTS,
        **_picture_rows(comparison),
        scatter=_scatter(comparison),
        about=_about_lines(plain(comparison.about), [c.name for c in comparison.checkpoints]),
    )


def _section(comparison: Comparison, summary: Summary, number: int) -> dict[str, Any]:
    """Return the values that the page shows for one checkpoint at one size."""
    rows = [r for r in comparison.slow.get(summary.checkpoint, []) if r.size == summary.size]
    curves = [curve for init in _starts(rows) if (curve := _curve(rows, init)).steps]
    optimizer = str(comparison.about.get("optimizer", "optimisation"))
    judge = plain(summary.judge)
    level = summary.fast["total"]
    seconds = summary.fast["seconds"]
    # The comparison is False for NaN, which has no place in a chart.
    drawn = curves if level > 0 and seconds > 0 else []
    last_step = {init: max(r.step for r in rows if r.init == init) for init in _starts(rows)}
    by_step = ""
    by_seconds = ""
    refined = None
    if summary.refined and summary.refined["total"] > 0:  # False for NaN too
        refined = summary.refined["seconds"], summary.refined["total"]
    if drawn:
        by_step = objective_by_step(drawn, level, summary.equal_step, f"steps{number}")
        by_seconds = objective_by_seconds(drawn, level, seconds, f"seconds{number}", refined)
    return {
        "summary": summary,
        "sentences": answer(summary, optimizer, last_step),
        "verdict": verdict(summary, judge),
        "networks": _network_rows(summary, judge),
        "judged": bool(judge.get("fast") or judge.get("slow")),
        "slow": _slow_table(summary, judge.get("slow") or []),
        "last_step": last_step,
        "by_step": by_step,
        "by_seconds": by_seconds,
    }


def _network_rows(summary: Summary, judge: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the network, and of its refined pictures: name, means, spread, scores."""
    fast = {"name": "Network", "terms": summary.fast, "spread": summary.spread}
    rows = [{**fast, "judge": judge.get("fast") or {}}]
    if summary.refined:
        name = f"Network, refined: {format_number(summary.refined['step'])} steps"
        further = {"name": name, "terms": summary.refined, "spread": {}}
        rows.append({**further, "judge": judge.get("refined") or {}})
    return rows


def _slow_table(
    summary: Summary, judged: Sequence[Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the slow path by start, with the judge's scores where there are any."""
    scores = {(s["init"], s["step"]): s for s in judged}
    table: dict[str, list[dict[str, Any]]] = {}
    for row in plain(summary.slow):
        table.setdefault(row["init"], []).append(
            {**scores.get((row["init"], row["step"]), {}), **row}
        )
    for init, rows in table.items():
        if len(rows) > MOST_STEPS:
            table[init] = [r for r in rows if (init, r["step"]) in scores or r is rows[-1]]
    return table


def _curve(rows: Iterable[SlowRow], init: str) -> Curve:
    """Return mean and range of the total over photos, by step.

    A total that is not finite, or not above 0, is left out: a log scale has no place for it.
    """
    by_step: dict[int, list[SlowRow]] = {}
    for row in rows:
        if row.init == init and math.isfinite(row.total) and row.total > 0:
            by_step.setdefault(row.step, []).append(row)
    steps = sorted(by_step)
    totals = [[r.total for r in by_step[s]] for s in steps]
    return Curve(
        init=init,
        label=STARTS.get(init, init),
        steps=steps,
        seconds=[fmean(r.seconds for r in by_step[s]) for s in steps],
        mean=[fmean(t) for t in totals],
        low=[min(t) for t in totals],
        high=[max(t) for t in totals],
    )


def _starts(rows: Iterable[SlowRow]) -> list[str]:
    return list(dict.fromkeys(row.init for row in rows))


def _scatter(comparison: Comparison) -> str:
    """Return the chart of speed against quality, or "" where there are not several checkpoints."""
    sizes = {s.size for s in comparison.summaries}
    points = []
    for summary in comparison.summaries:
        label = summary.checkpoint + (f" {summary.size} px" if len(sizes) > 1 else "")
        for key, means, end in (
            ("fast", summary.fast, ""),
            ("refined", summary.refined, " refined"),
        ):
            scores = plain(summary.judge).get(key) or {}
            seconds = means.get("seconds", 0)
            closed = scores.get("style_closed")
            content = scores.get("clear_distance")
            if seconds > 0 and closed is not None and content is not None:
                points.append(Point(label + end, seconds, closed, content))
    if len({s.checkpoint for s in comparison.summaries}) < 2 or len(points) < 2:
        return ""
    return speed_and_quality(points, "scatter")


def _picture_rows(comparison: Comparison) -> dict[str, Any]:
    """Return the painting and a row of pictures for each gallery, as large as the page allows."""
    for side, quality in PICTURE_SIZES:
        painting = _data_uri(comparison.painting, side, quality)
        rows = [
            _pictures_of(comparison, gallery, painting, side, quality)
            for gallery in comparison.galleries
        ]
        if len(painting) + sum(len(shown.uri) for row in rows for shown in row) <= MAX_PICTURES:
            break
    columns = max((shown.column for row in rows for shown in row), default=0)
    return {
        "painting_uri": painting,
        "columns": columns,
        "rows": [
            {"photo": g.photo, "size": g.size, "pictures": r}
            for g, r in zip(comparison.galleries, rows, strict=True)
        ],
    }


def _pictures_of(
    comparison: Comparison, gallery: Gallery, painting: str, side: int, quality: int
) -> list[Shown]:
    """Return the pictures of one gallery, in the order of a phone's screen.

    The photo and the painting come first, then the networks, then the slow path. On a wide screen
    each start of the slow path has a row, and the networks stand behind its last column.
    """
    encode = partial(_data_uri, side=side, quality=quality)
    inits = list(dict.fromkeys(init for init, _ in gallery.slow))
    steps = sorted({step for _, step in gallery.slow})
    return [
        Shown(encode(gallery.content), f"Photo {gallery.photo}", "photo", "", 1, 1),
        Shown(painting, "The painting", "painting", "", 1, 2),
        *_network_pictures(comparison, gallery, encode, max(1, len(inits)), 3 + len(steps)),
        *_slow_pictures(comparison, gallery, encode, inits, steps),
    ]


def _network_pictures(
    comparison: Comparison,
    gallery: Gallery,
    encode: Callable[[Tensor], str],
    rows: int,
    first_column: int,
) -> list[Shown]:
    """Return the networks' pictures, below each other in as many rows as there are."""
    kinds = (
        ("", gallery.fast, comparison.fast),
        (", refined", gallery.refined, comparison.refined),
    )
    pictures = [
        (name, end, images[name], rows_of)
        for name in gallery.fast
        for end, images, rows_of in kinds
        if name in images
    ]
    shown = []
    for i, (name, end, image, rows_of) in enumerate(pictures):
        column, row = divmod(i, rows)
        alt = f"{gallery.photo} by the network {name}{end}"
        found = (r for r in rows_of if r.checkpoint == name and _belongs(r, gallery))
        detail = _measured(next(found, None))
        place = (row + 1, first_column + column)
        shown.append(Shown(encode(image), alt, f"network {name}{end}", detail, *place))
    return shown


def _slow_pictures(
    comparison: Comparison,
    gallery: Gallery,
    encode: Callable[[Tensor], str],
    inits: Sequence[str],
    steps: Sequence[int],
) -> list[Shown]:
    """Return the slow path's pictures, with a row for each start and a column for each step."""
    names = [c.name for c in comparison.checkpoints]
    rows = comparison.slow.get(names[0], [])
    measured = {(r.init, r.step): r for r in rows if _belongs(r, gallery)}
    # Checkpoints may have been trained on different objectives; these pictures belong to one.
    whose = f", by the objective of {names[0]}" if len(names) > 1 else ""
    shown = []
    for row, init in enumerate(inits, 1):
        start = STARTS.get(init, init)
        for column, step in enumerate(steps, 3):
            if (init, step) not in gallery.slow:
                continue
            alt = f"{gallery.photo} by the slow path, {step} steps {start}"
            cost = _measured(measured.get((init, step)))
            detail = f"{start}{whose}: {cost}" if cost else start + whose
            uri = encode(gallery.slow[init, step])
            shown.append(Shown(uri, alt, f"slow, {step} steps", detail, row, column))
    return shown


def _belongs(row: FastRow | SlowRow, gallery: Gallery) -> bool:
    return (row.photo, row.size) == (gallery.photo, gallery.size)


def _measured(row: FastRow | SlowRow | None) -> str:
    if row is None:
        return ""
    return f"objective {format_number(row.total)}, {format_duration(row.seconds)}"


def _data_uri(image: Tensor, side: int, quality: int) -> str:
    small = fit_bounded(image, side) if min(image.shape[-2:]) > side else image
    return data_uri(small, quality)


def _about_lines(
    about: Mapping[str, Any], checkpoints: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """Return `about` as (name, lines) for the end of the page.

    A value that is given by checkpoint has a line for each of them.
    """
    return [
        (
            name.replace("_", " "),
            [f"{checkpoint}: {_text(part)}" for checkpoint, part in value.items()]
            if isinstance(value, Mapping) and set(value) == set(checkpoints)
            else [_text(value)],
        )
        for name, value in about.items()
    ]


def _text(value: Any) -> str:
    """Return a value, nested or not, in one line. A None in a table is left out: it was not set."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _base_name(path: Any) -> str:
    path = path.get("file", "the painting") if isinstance(path, Mapping) else path
    return PureWindowsPath(str(path)).name or str(path)  # it knows both separators
