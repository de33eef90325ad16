"""Animated pictures are clips where the output is one: all frames are done."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from test_video_clips import draw, read_clip, write_clip

from faststyle.video.animated import is_animated
from faststyle.video.job import VideoError, VideoOptions, VideoReport, stylize_video

DURATIONS = [100, 200, 100, 300]  # milliseconds
STARTS = [Fraction(t, 1000) for t in (0, 100, 300, 400)]


def run(source: Path | str, target: Path | str, **options: Any) -> VideoReport:
    return stylize_video(source, target, lambda rgb: rgb.copy(), VideoOptions(threads=1, **options))


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def animate(
    name: str, picture: Callable[[int], np.ndarray[Any, Any]] = draw, **options: Any
) -> Path:
    """Write an animation of four frames, that number 5 times their place: 0, 5, 10, 15."""
    frames = [Image.fromarray(picture(5 * i)) for i in range(4)]
    frames[0].save(
        name, save_all=True, append_images=frames[1:], duration=DURATIONS, loop=0, **options
    )
    return Path(name)


NAMES = ["in.webp", "in.gif", "in.png", *(["in.avif"] if features.check("avif") else [])]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["out.mp4", "out.gif", "out.webm"])
def test_all_frames_are_done_at_their_times(name: str, target: str) -> None:
    animate(name, **({"lossless": True} if name == "in.webp" else {}))
    report = run(name, target)
    assert (report.frames, report.seconds, report.notes) == (4, pytest.approx(0.7), ())
    after = read_clip(Path(target))
    assert (after.times, after.numbers) == (STARTS, [0, 5, 10, 15])


def test_options_of_videos_are_for_animations_too() -> None:
    animate("in.webp", lossless=True)
    report = run("in.webp", "out.mp4", fps=10, start=0.1, end=0.5, size=24)
    after = read_clip(Path("out.mp4"))
    assert (report.frames, after.numbers, after.size) == (4, [5, 5, 10, 15], (24, 32))


def test_alpha_of_animations() -> None:
    def picture(i: int) -> np.ndarray[Any, Any]:
        rgba = np.full((48, 64, 4), (10 * i, 0, 0, 255), np.uint8)
        rgba[:, 32:, 3] = 0
        return rgba

    animate("in.webp", picture, lossless=True)
    assert run("in.webp", "out.mp4").notes == (
        "alpha is left out: transparent pixels are laid on white "
        "(WebM, GIF, PNG, and ProRes in MOV hold it)",
    )
    assert read_clip(Path("out.mp4")).frames[2][:, 40:].min() > 250
    assert run("in.webp", "out.webm").notes == ()


def test_a_damaged_animation_is_named() -> None:
    data = animate("in.webp").read_bytes()
    Path("in.webp").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match="in.webp: "):
        run("in.webp", "out.mp4")
    assert not Path("out.mp4").exists()


def test_what_is_animated() -> None:
    """Only formats that FFmpeg reads one frame of; and the content counts, not the name."""
    Image.fromarray(draw(3)).save("still.webp")
    write_clip(Path("in.mp4"), range(2))
    assert is_animated(animate("in.webp"))
    assert is_animated(animate("in.png", format="WEBP"))
    for name in ("still.webp", "in.mp4", "missing.webp"):
        assert not is_animated(Path(name))
