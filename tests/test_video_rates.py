"""Rates and times of frames are right in each container, and stay so from one to the next."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from test_video_clips import VARIABLE, read_clip, write_clip

from faststyle.video import parts as video_parts
from faststyle.video.job import VideoOptions, stylize_video
from faststyle.video.streams import exact_ticks

MILLISECOND = Fraction(1, 1000)
RATES = [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(50)]
CHAINS = [
    ("a.mp4", "b.mkv", "c.mp4"),
    ("a.mov", "b.webm", "c.mov"),
    ("a.mkv", "b.mp4", "c.webm", "d.mp4"),
]


def run(source: Path | str, target: Path | str, **options: Any) -> None:
    stylize_video(source, target, lambda rgb: rgb.copy(), VideoOptions(threads=1, **options))


@pytest.fixture(autouse=True)
def _short_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video_parts, "SEGMENT_LENGTH", Fraction(1, 5))


def rates_of(path: str) -> tuple[Fraction | None, Fraction | None]:
    """Return the average and the guessed rate that FFmpeg tells of a file."""
    with av.open(path) as file:
        stream = file.streams.video[0]
        return stream.average_rate, stream.guessed_rate


def write_constant(rate: Fraction) -> Path:
    """Write 24 frames of 80x80 pixels and a constant rate to in.mp4."""
    times = range(0, 24 * rate.denominator, rate.denominator)
    return write_clip(Path("in.mp4"), times, Fraction(1, rate.numerator), rate=rate, size=(80, 80))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("rate", RATES)
def test_a_constant_rate_stays_in_each_container(rate: Fraction, chain: tuple[str, ...]) -> None:
    source = str(write_constant(rate))
    for target in chain:
        run(source, target)
        assert rates_of(target) == (rate, rate), target
        # Matroska rounds times to milliseconds. They become exact again in the next file.
        error = 0 if target.endswith(("mp4", "mov")) else MILLISECOND / 2
        times = read_clip(Path(target)).times
        assert max(abs(t - i / rate) for i, t in enumerate(times)) <= error, target
        source = target


@pytest.mark.parametrize("chain", CHAINS)
def test_a_varying_rate_has_its_average_in_each_container(chain: tuple[str, ...]) -> None:
    # The last of the 20 frames ends at 1,080 / 600 s.
    source = str(write_clip(Path("in.mkv"), VARIABLE, Fraction(1, 600)))
    with av.open(source) as file:
        end = max(p.pts + p.duration for p in file.demux(video=0) if p.size) * MILLISECOND
    for target in chain:
        run(source, target)
        average = rates_of(target)[0]
        assert average is not None
        assert 20 / average == pytest.approx(float(end), abs=0.001), target
        times = read_clip(Path(target)).times
        for time, expected in zip(times, VARIABLE, strict=True):
            assert abs(time - Fraction(expected, 600)) <= MILLISECOND / 2
        source = target


def test_the_average_counts_the_last_frame_too() -> None:
    """Frames of 0.1, 0.1 and 0.8 s in MP4, whose packets are not stored in order of time."""
    write_clip(Path("in.gif"), [0, 10, 20], Fraction(1, 100), encoder="gif", format="rgb8")
    data = bytearray(Path("in.gif").read_bytes())
    last = data.rindex(b"\x21\xf9\x04")  # a graphic control extension: flags, then the delay
    data[last + 4 : last + 6] = (80).to_bytes(2, "little")
    Path("in.gif").write_bytes(data)
    for source, target in [("in.gif", "a.mp4"), ("a.mp4", "b.mkv"), ("b.mkv", "c.mp4")]:
        run(source, target)
        assert (rates_of(target)[0], len(read_clip(Path(target)).times)) == (3, 3), target


def test_the_rate_of_5994_is_read_right_from_matroska() -> None:
    """FFmpeg cannot store 60000/1001 in Matroska's nanoseconds: it tells 19001/317."""
    rate = Fraction(60000, 1001)
    run(write_constant(rate), "a.mkv")
    assert float(rates_of("a.mkv")[0] or 0) == pytest.approx(float(rate), rel=1e-6)
    run("a.mkv", "b.mp4")
    assert rates_of("b.mp4") == (rate, rate)
    assert read_clip(Path("b.mp4")).times == [i / rate for i in range(24)]


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("out.mkv", {"codec": "hevc"}),
        ("out.mkv", {"codec": "av1"}),
        ("out.mkv", {"codec": "vp9"}),
        ("out.mkv", {"codec": "prores"}),
        ("out.mp4", {"codec": "hevc"}),
        ("out.mp4", {"codec": "av1"}),
        ("out.mov", {"codec": "prores"}),
        ("out.webm", {"codec": "av1"}),
    ],
)
def test_other_codecs_tell_the_rate_too(target: str, options: dict[str, str]) -> None:
    rate = Fraction(30000, 1001)
    run(write_constant(rate), target, **options)
    assert rates_of(target) == (rate, rate)


@pytest.mark.parametrize("target", ["out.mkv", "out.webm", "out.mp4"])
def test_a_rate_that_is_asked_for_is_the_output_s(target: str) -> None:
    run(write_constant(Fraction(25)), target, fps=Fraction(24000, 1001))
    assert rates_of(target) == (Fraction(24000, 1001),) * 2


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(50)])
def test_gif_keeps_rates_that_divide_100(rate: Fraction) -> None:
    run(write_constant(rate), "a.gif")
    assert rates_of("a.gif")[0] == rate
    assert read_clip(Path("a.gif")).times == [i / rate for i in range(24)]
    run("a.gif", "b.mp4")
    assert rates_of("b.mp4") == (rate, rate)


def test_a_resumed_clip_has_the_same_times() -> None:
    """Times are made exact from the first frame on, wherever reading begins."""
    rate = Fraction(24000, 1001)
    run(write_constant(rate), "in.mkv")
    run("in.mkv", "cut.mp4", start=0.5)
    with av.open("cut.mp4") as file:
        assert file.streams.video[0].average_rate == rate
    times = read_clip(Path("cut.mp4")).times
    assert {b - a for a, b in pairwise(times)} == {1 / rate}


@pytest.mark.parametrize(
    ("tick", "rate", "expected"),
    [
        (MILLISECOND, Fraction(25), MILLISECOND),
        (MILLISECOND, Fraction(24000, 1001), Fraction(1, 24000)),
        (MILLISECOND, Fraction(60), Fraction(1, 3000)),
        (Fraction(1, 90000), Fraction(24000, 1001), Fraction(1, 360000)),
        (Fraction(1, 600), Fraction(24), Fraction(1, 600)),
        (Fraction(1, 30000), Fraction(30000, 1001), Fraction(1, 30000)),
        (MILLISECOND, Fraction(800, 89), MILLISECOND),  # an average is no usual rate
    ],
)
def test_exact_ticks(tick: Fraction, rate: Fraction, expected: Fraction) -> None:
    assert exact_ticks(tick, rate) == expected
