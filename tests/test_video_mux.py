"""Sound, subtitles, chapters and attachments are copied, converted, or left out with a note."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from test_video_clips import CLICK, click_of, read_clip, write_clip

from faststyle.video import mux as video_mux
from faststyle.video.job import VideoOptions, VideoReport, stylize_video


def run(source: Path | str, target: Path | str, **options: Any) -> VideoReport:
    return stylize_video(source, target, lambda rgb: rgb.copy(), VideoOptions(threads=1, **options))


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def add_chapters_and_a_font(source: Path, target: Path) -> Path:
    """Copy a clip, and add chapters at 0, 0.3 and 0.6 s, and in MKV a font."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {s.index: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        for stream in old.streams:
            streams[stream.index].metadata.update(stream.metadata)
        new.metadata.update(old.metadata)
        if target.suffix == ".mkv":
            new.add_attachment("walk.ttf", "font/ttf", b"not much of a font")
        new.set_chapters(
            [
                {
                    "id": i,
                    "start": 300 * i,
                    "end": 300 * i + 300,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": f"part {i}"},
                }
                for i in range(3)
            ]
        )
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


@pytest.fixture
def rich() -> Path:
    """A clip with two tracks of sound, subtitles, chapters, and a font."""
    return add_chapters_and_a_font(
        write_clip(Path("plain.mkv"), range(22), sound=["flac", "aac"], text=True), Path("rich.mkv")
    )


def test_mkv_keeps_all(rich: Path) -> None:
    report = run(rich, "out.mkv")
    before = read_clip(rich)
    after = read_clip(Path("out.mkv"))
    assert report.notes == ()
    for x, y in zip(before.tracks[1:], after.tracks[1:], strict=True):
        assert (x.type, x.codec, x.times, x.data) == (y.type, y.codec, y.times, y.data)
    assert [(t.type, t.codec) for t in after.tracks] == [
        ("video", "h264"),
        ("audio", "flac"),
        ("audio", "aac"),
        ("subtitle", "subrip"),
        ("attachment", ""),
    ]
    assert after.of("subtitle")[0].metadata["language"] == "nor"
    assert after.times == before.times
    assert after.chapters == before.chapters
    assert len(after.chapters) == 3
    assert after.metadata["title"] == "A walk"
    with av.open("out.mkv") as file:
        assert file.streams[4].data == b"not much of a font"  # type: ignore[attr-defined]


def test_mp4_converts_subtitles_and_leaves_out_fonts(rich: Path) -> None:
    report = run(rich, "out.mp4")
    assert report.notes == (
        "subtitle track 1 (subrip) is converted to mov_text: mp4 does not take it",
        "attachment track 1 (walk.ttf) is left out: mp4 does not take it",
    )
    before = read_clip(rich)
    after = read_clip(Path("out.mp4"))
    text = after.of("subtitle")[0]
    shown = [(float(t), d[2:]) for t, d in zip(text.times, text.data, strict=True) if len(d) > 2]
    assert (text.codec, shown, text.metadata["language"]) == (
        "mov_text",
        [(0.2, b"Hello there")],
        "nor",
    )
    for x, y in zip(before.of("audio"), after.of("audio"), strict=True):
        assert x.data == y.data
        assert [float(t) for t in y.times] == pytest.approx([float(t) for t in x.times], abs=0.0006)
    assert [chapter[2] for chapter in after.chapters] == ["part 0", "part 1", "part 2"]
    assert [chapter[0] for chapter in after.chapters] == [0, 0.3, 0.6]
    assert run("out.mp4", "back.mkv").notes == (
        "subtitle track 1 (mov_text) is converted to subrip: matroska does not take it",
    )
    back = read_clip(Path("back.mkv")).of("subtitle")[0]
    shift = read_clip(Path("back.mkv")).times[
        0
    ]  # AAC in MP4 begins before 0; MKV has no such times
    assert ([float(t - shift) for t in back.times], back.data) == ([0.2], [b"Hello there"])


def test_webm_converts_sound_and_subtitles(rich: Path) -> None:
    report = run(rich, "out.webm")
    assert report.notes == (
        "audio track 1 (flac) is encoded again as libopus: webm does not take it",
        "audio track 2 (aac) is encoded again as libopus: webm does not take it",
        "subtitle track 1 (subrip) is converted to webvtt: webm does not take it",
        "attachment track 1 (walk.ttf) is left out: webm does not take it",
    )
    after = read_clip(Path("out.webm"))
    assert [t.codec for t in after.tracks] == ["vp9", "opus", "opus", "webvtt"]
    assert after.of("subtitle")[0].data == [b"Hello there"]
    assert click_of(Path("out.webm")) == pytest.approx(CLICK, abs=0.003)


def test_damaged_sound_is_told(rich: Path) -> None:
    with av.open(str(rich)) as old, av.open("bad.mkv", "w") as new:
        taken = list(old.streams)[:3]
        streams = {s.index: new.add_stream_from_template(s, opaque=True) for s in taken}
        for number, packet in enumerate(old.demux(taken)):
            if not packet.size:
                continue
            if packet.stream.type == "audio" and number % 2:
                damaged = av.Packet(bytes(packet.size))
                damaged.pts = packet.pts
                damaged.dts = packet.dts
                damaged.time_base = packet.time_base
                damaged.stream = streams[packet.stream.index]
                new.mux(damaged)
                continue
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    notes = run(Path("bad.mkv"), "out.webm").notes
    assert any(
        re.fullmatch(r"audio track \d .*: \d+ damaged packets are left out", n) for n in notes
    )


@pytest.mark.parametrize(
    ("codec", "source", "target"),
    [
        ("aac", "in.mp4", "out.mkv"),
        ("aac", "in.mp4", "out.webm"),
        ("libopus", "in.mkv", "out.mp4"),
        ("libopus", "in.mkv", "out.mov"),
        ("pcm_s16le", "in.mkv", "out.mp4"),  # stores the number of channels only, not their names
        ("flac", "in.mkv", "out.mov"),
        ("libmp3lame", "in.mp4", "out.mkv"),
        ("wmav2", "in.mkv", "out.mp4"),  # its frames have no times of their own
    ],
)
@pytest.mark.parametrize("options", [{}, {"start": 0.21, "end": 1.1}])
def test_sound_stays_with_the_frames(
    codec: str, source: str, target: str, options: dict[str, float]
) -> None:
    if codec == "wmav2":
        source = "in.wma.asf"
    clip = write_clip(
        Path(source), range(30), sound=[codec], encoder="mpeg4" if codec == "wmav2" else "libx264"
    )
    run(clip, target, **options)
    before = read_clip(clip).times
    first = float(next(t for t in before if t >= options.get("start", 0)) - before[0])
    assert click_of(Path(target)) == pytest.approx(click_of(clip) - first, abs=0.004)
    sound = read_clip(Path(target)).of("audio")[0]
    frames = read_clip(Path(target)).times
    assert float(sound.times[-1] - frames[0]) == pytest.approx(
        (1.1 - 0.21 if options else 1.2), abs=0.06
    )


def test_a_hole_in_the_sound_stays_when_it_is_encoded_again() -> None:
    clip = write_clip(Path("in.mkv"), range(40), sound=["pcm_s16le"])
    with av.open(str(clip)) as old, av.open("hole.mkv", "w") as new:
        streams = [new.add_stream_from_template(s, opaque=True) for s in old.streams]
        for packet in old.demux():
            if packet.size and not (
                packet.stream.type == "audio" and 0.2 <= packet.pts * packet.time_base < 0.4
            ):
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    run("hole.mkv", "out.webm")
    assert click_of(Path("out.webm")) == pytest.approx(CLICK, abs=0.004)


def test_sound_that_goes_back_in_time_is_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged or badly cut recordings have such times. No muxer writes them, so they are faked."""
    clip = write_clip(Path("in.mkv"), range(20), sound=["libmp3lame"])
    real = video_mux.read_packets

    def read_packets(*given: Any) -> Iterator[Any]:
        for i, packet in enumerate(real(*given)):
            if packet.stream.type == "audio" and packet.size and i % 5 == 0:
                packet.pts = max(0, packet.pts - 60)
                packet.dts = packet.pts
            yield packet

    monkeypatch.setattr(video_mux, "read_packets", read_packets)
    run(clip, "out.mp4")
    sound = read_clip(Path("out.mp4")).of("audio")[0]
    assert sound.times == sorted(set(sound.times))
    assert sound.data == read_clip(clip).of("audio")[0].data


def test_tracks_are_read_side_by_side(rich: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If they were read one after the other, the muxer would hold all of the first in memory."""
    order: list[str] = []

    def watch(function: Callable[..., Iterator[Any]], name: str) -> Callable[..., Iterator[Any]]:
        def watched(*given: Any) -> Iterator[Any]:
            for packet in function(*given):
                order.append(name)
                yield packet

        return watched

    for name in ("_video_packets", "_track_packets"):
        monkeypatch.setattr(video_mux, name, watch(getattr(video_mux, name), name))
    run(rich, "out.mkv")
    changes = sum(a != b for a, b in pairwise(order))
    assert changes > 20


def test_a_cut_keeps_the_chapters_inside_it(rich: Path) -> None:
    run(rich, "out.mkv", start=0.2, end=0.52)
    assert read_clip(Path("out.mkv")).chapters == [(0, 0.1, "part 0"), (0.1, 0.32, "part 1")]


def test_a_layout_that_opus_does_not_have_becomes_a_similar_one() -> None:
    layout = "5.1(side)"
    with av.open("in.mkv", "w") as file:
        video = file.add_stream("libx264", rate=25, width=64, height=48)
        sound = file.add_stream("ac3", rate=48000, layout=layout)
        for i in range(5):
            file.mux(
                video.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9 * i, np.uint8)))
            )
        file.mux(video.encode())
        for i in range(9):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 6 * 1024), np.int16), format="s16", layout=layout
            )
            frame.rate = 48000
            frame.pts = i * 1024
            frame.time_base = Fraction(1, 48000)
            file.mux(sound.encode(frame))
        file.mux(sound.encode(None))
    run("in.mkv", "out.webm")
    with av.open("out.webm") as file:
        assert file.streams.audio[0].layout.name == "5.1"


def test_second_videos_and_covers_are_left_out() -> None:
    write_clip(Path("in.mp4"), range(5))
    with av.open("in.mp4") as old, av.open("two.mp4", "w") as new:
        streams = [new.add_stream_from_template(old.streams[0], opaque=True) for _ in range(2)]
        cover = new.add_stream("mjpeg", rate=1, width=64, height=48, pix_fmt="yuvj420p")
        cover.disposition = Disposition.attached_pic
        for packet in old.demux(video=0):
            if packet.size:
                for stream in streams:
                    copy = av.Packet(bytes(packet))
                    copy.pts = packet.pts
                    copy.dts = packet.dts
                    copy.time_base = packet.time_base
                    copy.stream = stream
                    copy.is_keyframe = packet.is_keyframe
                    new.mux(copy)
        new.mux(cover.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9, np.uint8))))
        new.mux(cover.encode())
    report = run("two.mp4", "out.mp4")
    assert report.notes == (
        "video track 2 (h264) is left out: mp4 does not take it",
        "video track 3 (mjpeg) is left out: mp4 does not take it",
    )
    after = read_clip(Path("out.mp4"))
    assert (len(after.tracks), after.numbers) == (1, list(range(5)))
