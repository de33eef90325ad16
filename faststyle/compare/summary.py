"""Measurements of slow and fast in one summary: means, and the step at which both are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median, pstdev
from typing import Any

from faststyle.compare.results import INITS, FastRow, RefinedRow, SlowRow, Summary


def summarise(
    name: str,
    size: int,
    fast: list[FastRow],
    slow: list[SlowRow],
    judge: Mapping[str, Any],
    refined: Sequence[RefinedRow] = (),
) -> Summary:
    """Return the means of a checkpoint at one size, and when the slow path is as good.

    `fast`, `slow` and `refined` are all rows at that size, `judge` the judge's scores: see
    `Summary`.
    """
    terms = ("content_rel", "style_rel", "total", "seconds")

    def means(rows: Sequence[FastRow | SlowRow]) -> dict[str, float]:
        return {term: fmean(getattr(row, term) for row in rows) for term in terms}

    by_step: dict[tuple[str, int], list[SlowRow]] = {}
    by_photo: dict[tuple[str, str], list[SlowRow]] = {}
    for row in slow:
        by_step.setdefault((row.init, row.step), []).append(row)
        by_photo.setdefault((row.init, row.photo), []).append(row)
    steps = {}
    seconds = {}
    speedups = {}
    reached = {}
    as_good = {}
    for init in INITS:
        # Medians over the photos that got there, where at least half of them did. A start that is
        # no worse than a bad network says nothing of the slow path: step 0 is counted apart.
        equal = [equal_row(by_photo[init, row.photo], row.total) for row in fast]
        as_good[init] = sum(e is not None and e.step == 0 for e in equal)
        pairs = [(e, f) for e, f in zip(equal, fast, strict=True) if e is not None and e.step > 0]
        reached[init] = len(pairs)
        enough = 2 * len(pairs) >= len(fast)
        steps[init] = median(e.step for e, _ in pairs) if enough else None
        seconds[init] = median(e.seconds for e, _ in pairs) if enough else None
        speedups[init] = median(e.seconds / f.seconds for e, f in pairs) if enough else None
    return Summary(
        checkpoint=name,
        photos=len(fast),
        size=size,
        fast=means(fast),
        slow=[
            {"init": init, "step": step, **means(rows)} for (init, step), rows in by_step.items()
        ],
        equal_step=steps,
        speedup=speedups,
        reached=reached,
        judge=judge,
        spread={term: pstdev(getattr(row, term) for row in fast) for term in terms},
        equal_seconds=seconds,
        start_as_good=as_good,
        refined={**means(refined), "step": fmean(r.step for r in refined)} if refined else {},
    )


def equal_row(rows: Sequence[SlowRow], total: float) -> SlowRow | None:
    """Return the first row whose total is no more than `total`; None where there is none."""
    return next((row for row in rows if row.total <= total), None)
