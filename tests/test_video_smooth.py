"""Smoothing over time: clips of known motion, cuts, and jobs that are resumed."""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2")

import cv2
import moving

from faststyle.errors import DeviceError
from faststyle.video import parts as video_parts
from faststyle.video import smooth
from faststyle.video.job import VideoReport, stylize_video
from faststyle.video.options import VideoError, VideoOptions
from faststyle.video.smooth import Smoother

H = 96
W = 128

cv2.setNumThreads(1)  # for pictures this small, threads cost more than they save


def no_flow(first: Any, second: Any) -> Any:
    return np.zeros((*first.shape[:2], 2), np.float32)


class Flickering:
    """A network that paints each frame lighter and darker in turns, by `jump` levels."""

    def __init__(self, jump: int = 10) -> None:
        self.jump = jump
        self.seen = 0

    def __call__(self, rgb: Any) -> Any:
        self.seen += 1
        return (rgb // 2 + 64.0 + self.jump * (-1) ** self.seen).astype(np.uint8)


def copy(rgb: Any) -> Any:
    return rgb.copy()


def test_the_noise_of_a_still_place_is_that_of_a_running_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smooth, "find_flow", no_flow)
    frames = moving.still(moving.texture(H, W), H, W, 40, 2.0)
    strength = 0.6
    stylize = Smoother(copy, strength)
    outputs = np.stack([stylize(frame) for frame in frames])[10:]
    # Each frame counts `strength` times as much as the one after it.
    variance = 2.0**2 * (1 - strength) / (1 + strength) + 1 / 12  # and the rounding
    assert outputs.std(0).mean() == pytest.approx(math.sqrt(variance), rel=0.06)


def test_a_pan_keeps_its_picture_and_loses_its_flicker() -> None:
    frames = moving.pan(moving.texture(200, 200), H, W, 14, (3, 2))
    jump = 12  # a quarter of it is whole: no half is rounded up by one CPU and down by another
    stylize = Smoother(Flickering(jump), 0.6)
    outputs = [stylize(frame).astype(float) for frame in frames]
    inside = np.s_[: H - 40, : W - 60]  # seen in all frames
    off = np.array(
        [(o - (f // 2 + 64))[inside].mean() for o, f in zip(outputs, frames, strict=True)][10:]
    )
    # A mean of +12, -12, ... with weights 1, 0.6, 0.36, ... is a quarter of it.
    assert np.abs(off) == pytest.approx(jump * 0.4 / 1.6, rel=0.15)
    assert (np.sign(off[1:]) == -np.sign(off[:-1])).all()
    # The picture itself is where it was, and as sharp.
    steady = Smoother(lambda rgb: rgb // 2 + np.uint8(64), 0.6)
    for frame in frames:
        output = steady(frame).astype(float)
    expected = frames[-1] // 2 + 64
    assert np.abs(output - expected)[inside].mean() < 1
    assert output[inside].std() == pytest.approx(expected[inside].std(), rel=0.03)


def test_what_an_object_uncovers_has_no_ghost_of_it() -> None:
    near = np.full((H, W, 3), 255, np.uint8) - moving.texture(H, W, seed=1) // 4
    frames = moving.parallax(near, moving.texture(H, 2 * W), H, W, 8, (6, 0))
    stylize = Smoother(copy, 0.9)
    for frame in frames:
        output = stylize(frame).astype(float)
    top = (H - moving.SQUARE) // 2
    passed = np.s_[top + 8 : top + 56, : moving.SQUARE // 4 + 7 * 6 - 4]
    assert np.abs(output - frames[-1])[passed].mean() < 2
    # A blend without flow would leave the object there.
    plain = np.float32(frames[0])
    for frame in frames[1:]:
        plain = 0.9 * plain + 0.1 * np.float32(frame)
    assert np.abs(plain - frames[-1])[passed].mean() > 20


def test_nothing_is_carried_over_a_cut() -> None:
    stylize = Smoother(copy, 0.9)
    for _ in range(3):
        stylize(moving.texture(H, W))
    after = moving.texture(H, W, seed=5)
    np.testing.assert_array_equal(stylize(after), after)


def test_light_that_is_switched_on_is_seen_at_once() -> None:
    dark = moving.texture(H, W) // 2
    stylize = Smoother(copy, 0.9)
    for _ in range(3):
        stylize(dark)
    light = dark + np.uint8(80)
    # 80 levels weigh exp(-50 (80 / 255)^2) = 0.007 of 0.9.
    assert np.abs(stylize(light).astype(float) - light).max() < 2


def test_a_frame_that_is_repeated_is_painted_once() -> None:
    network = Flickering()
    stylize = Smoother(network, 0.5)
    frames = moving.still(moving.texture(H, W), H, W, 2, 2.0)
    stylize(frames[0])
    first = stylize(frames[1])
    again = stylize(frames[1].copy())
    assert network.seen == 2
    np.testing.assert_array_equal(first, again)
    assert again is not first


# Jobs.


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lossless clip of 24 frames that become segments of 5, with a cut in the third one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video_parts, "SEGMENT_LENGTH", Fraction(1, 5))
    pans = [moving.pan(moving.texture(160, 160, seed=i), 64, 80, 12, (2, 1)) for i in range(2)]
    moving.write_frames(Path("in.mkv"), pans[0] + pans[1])
    return Path("in.mkv")


class Paint:
    """Inverts frames, with noise that is always the same for the same frame, and may fail."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.seen = 0

    def __call__(self, rgb: Any) -> Any:
        if self.seen == self.fails_at:
            raise RuntimeError("the network failed")
        self.seen += 1
        noise = np.random.default_rng(int(rgb.sum())).integers(-9, 10, rgb.shape)
        return (255 - rgb + noise).clip(0, 255).astype(np.uint8)


def run(target: str, paint: Any = None, **options: Any) -> VideoReport:
    settings = VideoOptions(**{"threads": 1, "smooth": 0.7, **options})
    return stylize_video("in.mkv", target, paint or Paint(), settings, style="a")


def read(folder: str) -> Any:
    return np.stack([np.array(Image.open(file)) for file in sorted(Path(folder).iterdir())])


def test_a_job_smooths_over_the_ends_of_segments(source: Path) -> None:
    frames = moving.pan(moving.texture(160, 160), 64, 80, 12, (2, 1))
    frames += moving.pan(moving.texture(160, 160, seed=1), 64, 80, 12, (2, 1))
    stylize = Smoother(Paint(), 0.7)
    assert run("out/%05d.png").frames == 24
    np.testing.assert_array_equal(read("out"), [stylize(frame) for frame in frames])
    run("plain/%05d.png", smooth=0)
    plain = read("plain")
    assert np.abs(plain.astype(float) - read("out")).mean() > 1
    # The first frame, and the one after the cut, are as they were painted.
    for number in (0, 12):
        np.testing.assert_array_equal(plain[number], read("out")[number])


@pytest.mark.parametrize("fails_at", [3, 10, 12, 18])
def test_a_resumed_job_has_the_same_frames(source: Path, fails_at: int) -> None:
    run("whole/%05d.png")
    with pytest.raises(RuntimeError, match="the network failed"):
        run("out/%05d.png", Paint(fails_at))
    kept = [file.name for file in Path("out.parts").glob("*.npz")]
    assert len(kept) == 1  # that of the last segment
    report = run("out/%05d.png", resume=True)
    assert (report.resumed, report.frames) == (fails_at, 24)
    np.testing.assert_array_equal(read("out"), read("whole"))
    assert sorted(p.name for p in Path().iterdir()) == ["in.mkv", "out", "whole"]


def test_a_job_that_cannot_go_on_alike_says_so(source: Path) -> None:
    with pytest.raises(RuntimeError, match="the network failed"):
        run("out.mp4", Paint(12))
    with pytest.raises(VideoError, match="begun with another smooth"):
        run("out.mp4", smooth=0.5, resume=True)
    (memory,) = Path("out.mp4.parts").glob("*.npz")
    whole = memory.read_bytes()
    for damaged in (b"", b"words", whole[: len(whole) // 2], whole[:500] + whole[700:]):
        memory.write_bytes(damaged)
        with pytest.raises(VideoError, match="what smoothing needs to go on cannot be read"):
            run("out.mp4", resume=True)
    memory.unlink()
    with pytest.raises(VideoError, match="`overwrite` without `resume` deletes them and begins"):
        run("out.mp4", resume=True)
    assert run("out.mp4", overwrite=True).frames == 24


def test_without_smoothing_no_memory_is_written(source: Path) -> None:
    with pytest.raises(RuntimeError, match="the network failed"):
        run("out.mp4", Paint(12), smooth=0)
    assert list(Path("out.mp4.parts").glob("*.npz")) == []


@pytest.mark.parametrize("strength", [-0.1, 0.96, 1, math.nan])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(VideoError, match=r"`smooth` must be 0 to 0.95, got"):
        VideoOptions(smooth=strength)


def test_small_clips_and_a_missing_package_are_said_before_anything_is_written(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VideoError, match="38x30 pixels are too few to find motion; leave `smooth`"):
        run("out.mp4", size=30)
    monkeypatch.setitem(sys.modules, "cv2", None)
    told = r"this needs cv2: pip install 'faststyle-trainer\[flicker\]'"
    with pytest.raises(DeviceError, match=told):
        run("out.mp4")
    assert run("plain.mp4", smooth=0).frames == 24
    assert sorted(p.name for p in Path().iterdir()) == ["in.mkv", "plain.mp4"]
