"""Whole jobs: the output keeps the times, sound, colours and sizes of the source."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from test_video_clips import CLICK, VARIABLE, H, W, click_of, draw, read_clip, write_clip
from test_video_jobs import CountingNetwork, names

from faststyle.video import parts as video_parts
from faststyle.video import read as video_read
from faststyle.video.job import VideoOptions, VideoProgress, VideoReport, stylize_video
from faststyle.video.read import VideoSource

ROOT = Path(__file__).parents[1]
Rgb = np.ndarray[Any, Any]


def keep(rgb: Rgb) -> Rgb:
    return rgb.copy()


def run(
    source: Path | str, target: Path | str, stylize: Callable[[Rgb], Rgb] = keep, **options: Any
) -> VideoReport:
    return stylize_video(source, target, stylize, VideoOptions(threads=1, **options))


def noise(seed: int, h: int, w: int) -> Rgb:
    return np.random.default_rng(seed).integers(0, 255, (h, w, 3), np.uint8)


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each test no thread is left, and no temporary file beside the output."""
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


@pytest.fixture
def _short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 0.2 s: 5 frames of 25 a second."""
    monkeypatch.setattr(video_parts, "SEGMENT_LENGTH", Fraction(1, 5))


short_segments = pytest.mark.usefixtures("_short_segments")


@short_segments
def test_sound_is_copied_and_every_frame_keeps_its_time(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", range(24), sound=["aac"])
    report = run(source, "out.mp4", lambda rgb: 255 - rgb)
    before = read_clip(source)
    after = read_clip(Path("out.mp4"))
    assert report == VideoReport("out.mp4", 24, 0.96, 0, 0, ())
    assert (after.times, after.time_base) == (before.times, before.time_base)
    assert after.seconds == pytest.approx(before.seconds, abs=1e-3)
    assert after.of("video")[0].duration == before.of("video")[0].duration == Fraction(96, 100)
    assert after.of("audio") == before.of("audio")
    assert len(after.of("audio")[0].data) > 40
    for x, y in zip(before.frames, after.frames, strict=True):
        assert np.abs(255 - x.astype(int) - y).mean() < 2
    assert after.metadata["title"] == "A walk"
    assert click_of(Path("out.mp4")) == pytest.approx(CLICK, abs=0.002)
    assert names(tmp_path) == ["in.mp4", "out.mp4"]


@short_segments
@pytest.mark.parametrize(
    ("name", "error"), [("out.mp4", 0), ("out.mov", 0), ("out.mkv", 0.0005), ("out.webm", 0.0005)]
)
def test_varying_times_pass_through(tmp_path: Path, name: str, error: float) -> None:
    source = write_clip(tmp_path / "in.mp4", VARIABLE, Fraction(1, 600))
    report = run(source, name)
    after = read_clip(Path(name))
    assert after.numbers == list(range(20))
    assert (
        max(abs(t - Fraction(v, 600)) for t, v in zip(after.times, VARIABLE, strict=True)) <= error
    )
    assert after.seconds == pytest.approx(report.seconds, abs=0.03)
    assert report.seconds == pytest.approx(1080 / 600, abs=0.03)


def test_a_late_first_frame_stays_late(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", range(7, 27), Fraction(1, 30), sound=["aac"])
    run(source, "out.mp4")
    assert read_clip(Path("out.mp4")).times == [Fraction(t, 30) for t in range(7, 27)]
    assert click_of(Path("out.mp4")) == pytest.approx(click_of(source), abs=0.002)


def test_the_clock_of_a_broadcast_is_set_to_zero(tmp_path: Path) -> None:
    source = write_clip(
        tmp_path / "in.ts", encoder="mpeg2video", sound=["mp2"], options={"b": "2M"}
    )
    before = read_clip(source)
    assert before.times[0] > 1
    run(source, "out.mp4")
    after = read_clip(Path("out.mp4"))
    assert [t - before.times[0] for t in before.times] == [t - after.times[0] for t in after.times]
    assert min(after.times[0], after.of("audio")[0].times[0]) == 0
    assert after.of("audio")[0].data == before.of("audio")[0].data
    assert click_of(Path("out.mp4")) == pytest.approx(click_of(source), abs=0.002)


def test_a_cut_keeps_sound_and_frames_together(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", range(40), sound=["aac"])
    assert run(source, "out.mp4", start=0.2, end=1.2).frames == 25
    after = read_clip(Path("out.mp4"))
    sound = read_clip(source).of("audio")[0]
    assert after.numbers == list(range(5, 30))
    assert after.times == [Fraction(t, 25) for t in range(25)]
    assert click_of(Path("out.mp4")) == pytest.approx(CLICK - 0.2, abs=0.002)
    inside = [
        d
        for d, t in zip(sound.data, sound.times, strict=True)
        if Fraction(1, 5) <= t < Fraction(6, 5)
    ]
    assert after.of("audio")[0].data == inside


def test_a_coarse_time_base_does_not_part_sound_and_frames(tmp_path: Path) -> None:
    """MP4 counts the delay of sound in a unit of its own; 1/10 s would be too coarse."""
    source = write_clip(tmp_path / "in.mp4", range(40), sound=["aac"])
    run(source, "out.mp4", start=0.21, fps=10)
    frames = read_clip(Path("out.mp4")).times
    assert frames[0] == 0
    assert click_of(Path("out.mp4")) == pytest.approx(CLICK - 0.21, abs=0.002)


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_clip(
        tmp_path / "in.mp4",
        range(150),
        options={"g": "10"},
        picture=lambda i, h, w: draw(i % 40, h, w),
    )
    decoded: list[int] = []
    real = VideoSource._decode

    def spy(self: VideoSource, *given: Any) -> Iterator[Any]:
        for timed in real(self, *given):
            decoded.append(timed.pts)
            yield timed

    monkeypatch.setattr(VideoSource, "_decode", spy)
    run(source, "out.mp4", start=5)
    assert read_clip(Path("out.mp4")).numbers == [i % 40 for i in range(125, 150)]
    assert len(decoded) < 80


def test_a_file_that_cannot_seek_is_read_from_its_beginning(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mkv", range(100), picture=lambda i, h, w: draw(i % 40, h, w))
    # A bare H.264 stream has neither times nor an index.
    with av.open("in.mkv") as file, open("in.h264", "wb") as raw:
        annexb = av.BitStreamFilterContext("h264_mp4toannexb", file.streams.video[0])
        for packet in file.demux(video=0):
            for out in annexb.filter(packet if packet.size else None):
                raw.write(bytes(out))
    run("in.h264", "out.mp4", start=3)
    assert read_clip(Path("out.mp4")).numbers == [i % 40 for i in range(75, 100)]


@pytest.mark.parametrize(
    ("fps", "start", "numbers"),
    [
        (50, None, [n for n in range(10) for _ in range(2)]),
        (12.5, None, [0, 2, 4, 6, 8]),
        (50, 0.2, [n for n in range(5, 10) for _ in range(2)]),
    ],
)
def test_a_constant_rate_repeats_and_leaves_out_frames(
    tmp_path: Path, fps: float, start: float | None, numbers: list[int]
) -> None:
    source = write_clip(tmp_path / "in.mp4", range(10))
    network = CountingNetwork()
    report = run(source, "out.mp4", network, fps=fps, start=start)
    after = read_clip(Path("out.mp4"))
    assert (after.numbers, report.frames) == (numbers, len(numbers))
    assert [b - a for a, b in zip(after.times, after.times[1:], strict=False)] == [
        1 / Fraction(fps)
    ] * (len(numbers) - 1)
    assert network.seen == len(set(numbers))


@pytest.mark.parametrize(
    ("name", "options", "size", "note"),
    [
        (
            "out.mp4",
            {},
            (96, 72),
            "71x95 becomes 72x96, its last row or column repeated: libx264 takes even sizes only",
        ),
        ("out.mp4", {"codec": "hevc"}, (96, 72), "libx265 takes even sizes only"),
        ("out.webm", {}, (95, 71), None),
        ("out.mp4", {"codec": "av1"}, (95, 71), None),
        ("out.mov", {"codec": "prores"}, (95, 71), None),
        ("out.mkv", {"codec": "ffv1"}, (96, 72), "ffv1 takes even sizes only"),
        ("out.gif", {}, (95, 71), None),
    ],
)
def test_odd_sizes(
    tmp_path: Path, name: str, options: dict[str, str], size: tuple[int, int], note: str | None
) -> None:
    source = write_clip(tmp_path / "in.mkv", range(4), encoder="ffv1", format="bgr0", size=(95, 71))
    seen: list[Any] = []
    report = run(source, name, lambda rgb: (seen.append(rgb.shape), rgb.copy())[1], **options)
    after = read_clip(Path(name))
    assert (set(seen), after.size) == ({(95, 71, 3)}, size)
    assert ([note] if note else []) == [n[-len(note or "") :] for n in report.notes]
    for i, frame in enumerate(after.frames):
        assert np.abs(frame[:95, :71].astype(int) - draw(i, 95, 71)).mean() < 4
        assert np.abs(frame[-1].astype(int) - frame[94]).mean() < 3
        assert np.abs(frame[:, -1].astype(int) - frame[:, 70]).mean() < 3


def turn(picture: Rgb, degrees: int, mirrored: bool, upside_down: bool) -> Rgb:
    """Return the picture that a player shows: turned anticlockwise, then mirrored."""
    picture = np.rot90(picture, degrees // 90)
    return picture[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


@pytest.mark.parametrize(
    "turned",
    [
        (90, False, False),
        (180, False, False),
        (270, False, False),
        (0, True, False),
        (90, True, False),
        (270, False, True),
    ],
)
def test_frames_are_turned_upright_once(tmp_path: Path, turned: tuple[int, bool, bool]) -> None:
    source = write_clip(tmp_path / "in.mp4", range(3), turned=turned, aspect=Fraction(4, 3))
    report = run(source, "out.mp4")
    after = read_clip(Path("out.mp4"))
    sideways = turned[0] % 180 == 90
    assert (after.size, after.rotation) == ((W, H) if sideways else (H, W), 0)
    assert after.aspect == (Fraction(3, 4) if sideways else Fraction(4, 3))
    assert "turned upright" in report.notes[0]
    for i, frame in enumerate(after.frames):
        assert np.abs(frame.astype(int) - turn(draw(i), *turned)).mean() < 3


# Range, matrix, primaries and transfer, by FFmpeg's numbers: BT.709, BT.601 of full range, BT.2020
# with PQ, and a video that tells nothing.
COLORS = [(1, 1, 1, 1), (2, 6, 6, 6), (1, 9, 9, 16), (0, 2, 2, 2)]


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.webm"])
def test_colours_and_their_tags_are_kept(
    tmp_path: Path, color: tuple[int, int, int, int], name: str
) -> None:
    red = np.full((H, W, 3), (200, 40, 90), np.uint8)
    source = write_clip(tmp_path / "in.mp4", range(3), color=color, picture=lambda i, h, w: red)
    seen: list[Rgb] = []
    report = run(source, name, lambda rgb: (seen.append(rgb), rgb.copy())[1])
    if name == "out.webm" and not color[0]:
        color = (1, *color[1:])  # VP9 has no "unspecified"; players assume limited range then
    assert (read_clip(Path(name)).color, report.notes) == (color, ())
    with av.open(str(source)) as a, av.open(name) as b:
        x = next(a.decode(video=0))
        y = next(b.decode(video=0))
        for plane in range(3):
            assert bytes(y.planes[plane])[0] == pytest.approx(bytes(x.planes[plane])[0], abs=2)
    assert np.abs(seen[0].astype(int) - red).max() <= 3


def test_full_range_is_narrowed_where_it_cannot_be_stored(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", range(3), color=(2, 1, 1, 1))
    report = run(source, "out.mov", codec="prores")
    after = read_clip(Path("out.mov"))
    assert (after.color, report.notes) == (
        (1, 1, 1, 1),
        ("levels of 0-255 become 16-235: prores_ks cannot store that they are full",),
    )
    assert after.numbers == [0, 1, 2]


def test_large_videos_without_color_tags_are_read_as_players_do(tmp_path: Path) -> None:
    green = np.full((600, 64, 3), (30, 200, 60), np.uint8)
    source = write_clip(
        tmp_path / "in.mp4",
        range(2),
        color=(0, 1, 2, 2),
        size=(600, 64),
        picture=lambda i, h, w: green,
    )
    with av.open(str(source)) as tagged, av.open("plain.mp4", "w") as plain:
        stream = plain.add_stream(
            "libx264", rate=25, width=64, height=600, pix_fmt="yuv420p", options={"crf": "12"}
        )
        for frame in tagged.decode(video=0):
            frame.colorspace = 2
            plain.mux(stream.encode(frame))
        plain.mux(stream.encode())
    seen: list[Rgb] = []
    run("plain.mp4", "out.mp4", lambda rgb: (seen.append(rgb), rgb.copy())[1])
    assert np.abs(seen[0].astype(int) - green).max() <= 3


def test_size_is_of_the_shorter_side(tmp_path: Path) -> None:
    source = write_clip(
        tmp_path / "in.mp4", range(3), turned=(90, False, False), aspect=Fraction(4, 3)
    )
    run(source, "out.mp4", size=24)
    after = read_clip(Path("out.mp4"))
    assert (after.size, after.aspect) == ((32, 24), Fraction(3, 4))
    assert np.abs(after.frames[2].astype(int) - np.rot90(draw(2))[::2, ::2]).mean() < 3


def test_ten_bits_become_eight(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", range(4), encoder="ffv1", format="yuv420p10le")
    report = run(source, "out.mp4")
    after = read_clip(Path("out.mp4"))
    assert (after.format, after.numbers) == ("yuv420p", [0, 1, 2, 3])
    assert report.notes == ("10 bits a channel are reduced to 8",)


def test_a_gif_becomes_a_gif_and_a_video(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", [0, 10, 20, 50, 60], Fraction(1, 100), sound=["aac"])
    report = run(source, "walk.gif")
    assert report.notes == ("audio track 1 (aac) is left out: the output is pictures only",)
    gif = read_clip(Path("walk.gif"))
    assert ([float(t) for t in gif.times], gif.numbers) == (
        [0, 0.1, 0.2, 0.5, 0.6],
        [0, 1, 2, 3, 4],
    )
    assert run("walk.gif", "again.gif").notes == ()
    assert read_clip(Path("again.gif")).times == gif.times
    run("walk.gif", "again.mp4")
    after = read_clip(Path("again.mp4"))
    assert (after.times, after.numbers, after.color) == (gif.times, [0, 1, 2, 3, 4], (1, 1, 1, 13))


def test_a_gif_has_a_palette_of_its_own_colours(tmp_path: Path) -> None:
    """In a fixed palette of 6x6x6 colours, shades of one hue would be off by up to 25 levels."""
    shades = np.zeros((48, 64, 3), np.uint8)
    shades[..., 0] = np.arange(64) + 100
    shades[..., 2] = np.arange(48)[:, None] * 2
    write_clip(
        tmp_path / "in.mkv", range(3), encoder="ffv1", format="bgr0", picture=lambda i, h, w: shades
    )
    run("in.mkv", "out.gif")
    frame = read_clip(Path("out.gif")).frames[1].astype(int)
    assert np.abs(frame - shades).mean() < 4
    with av.open("out.gif") as file:
        assert file.streams.video[0].codec_context.pix_fmt == "bgra"


def test_frames_too_fast_for_a_gif_are_left_out_before_the_network(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", range(20), Fraction(1, 100))
    network = CountingNetwork()
    totals: list[int | None] = []
    report = stylize_video(source, "out.gif", network, progress=lambda p: totals.append(p.total))
    assert (report.frames, network.seen) == (10, 10)
    assert totals[-1] == pytest.approx(10, abs=2)  # not 20
    assert report.notes == ("10 frames are left out that came less than 20 ms after another",)


def test_pictures_in_and_out(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", range(12))
    assert run(source, "frames/%03d.png").frames == 12
    assert names(tmp_path / "frames") == [f"{i:03d}.png" for i in range(1, 13)]
    report = run("frames/%03d.png", "out.mp4", fps=10)
    after = read_clip(Path("out.mp4"))
    assert (after.numbers, after.times) == (list(range(12)), [Fraction(i, 10) for i in range(12)])
    assert report.seconds == pytest.approx(1.2)
    run("frames", "more", start=0.2, end=0.4)  # a folder counts as 25 frames a second
    assert names(tmp_path / "more") == [f"{i:05d}.png" for i in range(1, 6)]
    run("more/%05d.png", "frames/%03d.jpg")  # into a folder that is there
    assert len(names(tmp_path / "frames")) == 17
    # None of the 12 pictures from before is left.
    run("more/%05d.png", "frames/%03d.png", overwrite=True)
    assert names(tmp_path / "frames") == sorted(
        f"{i:03d}.{s}" for i in range(1, 6) for s in ("jpg", "png")
    )
    with av.open("frames/003.jpg") as file:
        assert (
            abs(
                int(next(file.decode(video=0)).to_ndarray(format="rgb24")[5, 5, 0])
                - int(draw(7)[5, 5, 0])
            )
            <= 4
        )


def test_pictures_that_cannot_be_read_are_skipped_and_counted(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", range(12))
    run(source, "frames/%d.png")
    (tmp_path / "frames/4.png").write_bytes(b"no picture")
    report = run("frames", "out.mp4")
    after = read_clip(Path("out.mp4"))
    assert (report.skipped, report.frames) == (1, 11)
    assert after.numbers == [0, 1, 2, *range(4, 12)]  # by number: 10 comes after 9
    assert after.times == [Fraction(i, 25) for i in after.numbers]


def damage(path: Path, number: int) -> None:
    """Overwrite the data of one video packet with zeros."""
    with av.open(str(path)) as file:
        packets = [(p.pos or 0, p.size) for p in file.demux(video=0) if p.size]
    position, size = packets[number]
    with path.open("r+b") as file:
        file.seek(position)
        file.write(bytes(size))


def test_a_damaged_frame_is_skipped_and_counted(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", sound=["aac"], options={"bf": "0", "g": "5"})
    before = read_clip(source)
    damage(source, 9)  # the last before a key frame: no other frame needs it
    report = run(source, "out.mp4")
    after = read_clip(Path("out.mp4"))
    assert (report.skipped, report.frames) == (1, 19)
    assert after.numbers == [i for i in range(20) if i != 9]
    assert after.times == [Fraction(i, 25) for i in after.numbers]
    assert after.of("audio") == before.of("audio")


def test_frames_that_need_a_damaged_one_count_too(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", options={"bf": "0", "g": "5"})
    damage(source, 5)
    report = run(source, "out.mp4")
    after = read_clip(Path("out.mp4"))
    assert report.skipped == 20 - report.frames >= 4
    assert after.numbers[:5] + after.numbers[-10:] == [*range(5), *range(10, 20)]


def test_a_frame_with_missing_data_is_skipped_and_counted(tmp_path: Path) -> None:
    source = write_clip(
        tmp_path / "in.ts",
        encoder="mpeg2video",
        sound=["mp2"],
        options={"b": "4M", "g": "1"},
        picture=noise,
    )
    before = read_clip(source)
    data = source.read_bytes()
    # Packets of 188 bytes of the first track. One of them is taken out.
    video = [i for i in range(0, len(data), 188) if data[i + 1] & 31 == 1 and data[i + 2] == 0]
    lost = video[len(video) // 2]
    source.write_bytes(data[:lost] + data[lost + 188 :])
    report = run(source, "out.mp4")
    after = read_clip(Path("out.mp4"))
    assert (report.skipped, report.frames) == (1, 19)
    missing = {t - before.times[0] for t in before.times} - {
        t - after.times[0] for t in after.times
    }
    assert len(missing) == 1
    assert after.of("audio")[0].data == before.of("audio")[0].data


def test_an_empty_packet_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theora and others write an empty packet where the frame before is shown on."""
    source = write_clip(tmp_path / "in.mp4", range(6), options={"bf": "0"})
    real = video_read.read_packets

    def read_packets(*given: Any) -> Iterator[Any]:
        for packet in real(*given):
            yield packet
            if packet.size:
                empty = av.Packet(b"")
                empty.pts = packet.pts + 1
                empty.time_base = packet.time_base
                empty.stream = packet.stream
                yield empty

    monkeypatch.setattr(video_read, "read_packets", read_packets)
    report = run(source, "out.mp4")
    assert (report.skipped, read_clip(Path("out.mp4")).numbers) == (0, list(range(6)))


def test_a_file_that_was_cut_off_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4", range(40), picture=noise)
    data = source.read_bytes()
    source.write_bytes(data[: len(data) // 2])
    report = run(source, "out.mp4")
    assert 10 < report.frames < 30
    assert read_clip(Path("out.mp4")).times == [Fraction(i, 25) for i in range(report.frames)]


def test_progress_counts_frames_and_knows_what_is_left(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mp4")
    seen: list[VideoProgress] = []
    stylize_video(
        source, "out.mp4", lambda rgb: (time.sleep(0.002), rgb.copy())[1], progress=seen.append
    )
    assert [(p.done, p.total) for p in seen] == [(i, 20) for i in range(1, 21)]
    assert seen[-1].seconds_left == 0
    assert all(0 < p.fps < 500 for p in seen)
    assert seen[9].seconds_left == pytest.approx(10 / seen[9].fps)


@pytest.mark.parametrize(
    ("name", "options", "total"),
    [
        ("in.mp4", {"end": 0.4}, 10),
        ("in.mp4", {"start": 0.6}, 5),
        ("in.mkv", {}, 20),
        ("in.mp4", {"fps": 5}, 4),
    ],
)
def test_the_number_of_frames_is_estimated(
    tmp_path: Path, name: str, options: dict[str, float], total: int
) -> None:
    source = write_clip(tmp_path / name, sound=["aac"])
    seen: list[VideoProgress] = []
    stylize_video(source, "out.mp4", keep, VideoOptions(**options), progress=seen.append)  # type: ignore[arg-type]
    assert seen[-1].done == total
    # The estimate is from the length of the file. In MKV the sound may be longer than the frames.
    assert seen[-1].total == pytest.approx(total, abs=1)


def test_mp4_starts_with_its_index_and_hevc_has_the_tag_that_plays(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", size=(64, 64))
    run(source, "out.mp4", codec="hevc")
    data = Path("out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"hvc1" in data
    assert read_clip(Path("out.mp4")).of("video")[0].codec == "hevc"


def test_quality_and_preset_reach_the_encoder(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "in.mkv", encoder="ffv1", format="bgr0", picture=noise)
    sizes = {}
    for name, options in {
        "18": {},
        "same": {"quality": 18, "preset": "superfast"},
        "40": {"quality": 40},
        "slow": {"preset": "slow"},
    }.items():
        run(source, f"{name}.mkv", **options)
        sizes[name] = len(b"".join(read_clip(Path(f"{name}.mkv")).of("video")[0].data))
    assert sizes["18"] == sizes["same"] > 2 * sizes["40"]
    assert sizes["slow"] != sizes["18"]
    for quantiser in (2, 20):
        run(source, f"q{quantiser}.mkv", codec="mpeg4", quality=quantiser)
    assert Path("q2.mkv").stat().st_size > 2 * Path("q20.mkv").stat().st_size
