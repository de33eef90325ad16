"""A comparison in words: sentences, numbers and times for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from faststyle.compare.results import Summary

STARTS = {"content": "from the photo", "noise": "from noise"}
ITSELF = {"content": "the photo itself", "noise": "noise"}
OPTIMIZERS = {"lbfgs": "L-BFGS", "adam": "Adam"}


def answer(summary: Summary, optimizer: str, last_step: Mapping[str, int]) -> list[str]:
    """Return a summary in sentences. `last_step` is the last step of the slow path, by start."""
    photos = summary.photos
    seconds = summary.fast["seconds"]
    optimizer = OPTIMIZERS.get(optimizer.lower(), optimizer)
    few = f"On {photos} photo{'s' * (photos != 1)} at {summary.size} px"
    sentences = [f"{few} the network needs {format_duration(seconds)} a photo."]
    if summary.refined:
        better = format_number(summary.refined["total"])
        spent = format_duration(summary.refined["seconds"])
        sentences.append(
            f"Refined, its objective is {better} instead of "
            f"{format_number(summary.fast['total'])}, after {spent}."
        )
    for init, limit in last_step.items():
        step = summary.equal_step.get(init)
        reached = summary.reached.get(init, 0)
        start = STARTS.get(init, init)
        as_good = summary.start_as_good.get(init, 0)
        if as_good:
            sentences.append(
                f"By its own objective the network is no better than {ITSELF.get(init, init)} on "
                f"{as_good} of {photos} photos: there the slow path has nothing to reach. "
                "Train it longer."
            )
            if as_good == photos:
                continue
        if step is None:
            count = f"none of the {photos}" if reached == 0 else f"only {reached} of {photos}"
            sentences.append(
                f"Started {start}, the slow path reached the same objective on {count} photos "
                f"within {limit} {optimizer} steps."
            )
            continue
        some = "" if reached == photos else f" on {reached} of {photos} photos"
        sentences.append(
            f"Started {start}, the slow path reaches the same objective{some} after "
            f"{_steps(step, optimizer)}{_cost(summary, init)}."
        )
    return sentences


def _cost(summary: Summary, init: str) -> str:
    """Return ": 13 s, 270 times as long", the time of the slow path until it is equal."""
    slower = summary.speedup.get(init)
    if slower is None:
        return ""
    seconds = summary.equal_seconds.get(init)
    if seconds is None:  # not measured: the product of two medians is close
        seconds = slower * summary.fast["seconds"]
    return f": {format_duration(seconds)}, {format_times(slower)} as long"


def verdict(summary: Summary, judge: Mapping[str, Any]) -> str:
    """Return the judge's view at the step nearest to equality; it need not be the objective's."""
    fast = judge.get("fast") or {}  # the judge takes no small pictures
    slow = [s for s in judge.get("slow") or [] if s["init"] == "content"]
    if fast.get("style_closed") is None or not slow:
        return ""
    equal = summary.equal_step.get("content")
    near = (
        min(slow, key=lambda s: abs(s["step"] - equal))
        if equal is not None
        else max(slow, key=lambda s: s["step"])
    )
    if near.get("style_closed") is None:
        return ""
    return (
        f"By the judge, which nothing is trained on, the network goes {fast['style_closed']:.0%} "
        f"of the way from photo to painting; the slow path {near['style_closed']:.0%} after "
        f"{near['step']} steps from the photo."
    )


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, or a dash for None, NaN and infinity.

    It has an exponent only below 0.0001.
    """
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) < 0.0001:
        return f"{value:.1e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def format_duration(seconds: float) -> str:
    """Return a time in milliseconds, seconds or minutes, whatever reads best."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 1:
        return f"{format_number(seconds * 1000)}\N{NO-BREAK SPACE}ms"
    if seconds < 120:
        return f"{format_number(seconds)}\N{NO-BREAK SPACE}s"
    return f"{format_number(seconds / 60)}\N{NO-BREAK SPACE}minutes"


def format_times(ratio: float) -> str:
    """Return "270 times", or "1.5 times" for a ratio below ten."""
    return f"{ratio:,.0f} times" if ratio >= 9.95 else f"{ratio:.1f} times"


def _steps(step: float, optimizer: str) -> str:
    return f"{step:g} {optimizer} step{'s' * (step != 1)}"
