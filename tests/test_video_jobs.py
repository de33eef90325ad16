"""Stopping, failing and resuming jobs; queues between threads; refused options and files."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image
from test_video_clips import draw, read_clip, write_clip

from faststyle.errors import DeviceError, Interrupted, OutputError
from faststyle.video import mux as video_mux
from faststyle.video import parts as video_parts
from faststyle.video import pipeline as video_pipeline
from faststyle.video.frames import Frame
from faststyle.video.job import VideoError, VideoOptions, VideoReport, stylize_video
from faststyle.video.read import VideoSource
from faststyle.video.write import SegmentEncoder

ROOT = Path(__file__).parents[1]
Rgb = np.ndarray[Any, Any]


class CountingNetwork:
    """Returns frames unchanged and counts them. Before frame number `at` it calls `act`."""

    def __init__(self, at: int | None = None, act: Callable[[], Any] = lambda: None) -> None:
        self.at = at
        self.act = act
        self.seen = 0

    def __call__(self, rgb: Rgb) -> Rgb:
        if self.seen == self.at:
            self.act()
        self.seen += 1
        return rgb.copy()


def run(
    source: Path | str,
    target: Path | str,
    stylize: Callable[[Rgb], Rgb] | None = None,
    **options: Any,
) -> VideoReport:
    return stylize_video(
        source,
        target,
        stylize or CountingNetwork(),
        VideoOptions(**{"threads": 1, **options}),
        style="a",
    )


def crash() -> None:
    raise RuntimeError("the network failed")


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def names(folder: Path | str) -> list[str]:
    return sorted(p.name for p in Path(folder).iterdir())


def check_same(left: Path, right: Path) -> None:
    """Check that two files have the same frames, times and sound.

    Their bytes may differ: x264 does not always write the same bits for the same frame.
    """
    x = read_clip(left)
    y = read_clip(right)
    assert (x.times, x.of("audio"), x.of("video")[0].times) == (
        y.times,
        y.of("audio"),
        y.of("video")[0].times,
    )
    assert all(np.array_equal(a, b) for a, b in zip(x.frames, y.frames, strict=True))


@pytest.fixture(autouse=True)
def _short_segments_and_nothing_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Segments last 0.2 s, 5 frames. After each test no thread and no temporary file is left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video_parts, "SEGMENT_LENGTH", Fraction(1, 5))
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert list(tmp_path.rglob(".*")) == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A clip of 24 frames with sound, which become segments of 5, 5, 5, 5 and 4."""
    return write_clip(tmp_path / "in.mp4", range(24), sound=["aac"])


def test_a_job_that_failed_goes_on_where_it_was(source: Path) -> None:
    run(source, "whole.mp4")
    with pytest.raises(RuntimeError, match="the network failed"):
        run(source, "out.mp4", CountingNetwork(12, crash))
    assert not Path("out.mp4").exists()
    assert names("out.mp4.parts") == [
        "manifest.json",
        "segment-00000.mp4",
        "segment-00001.mp4",
        "segment-00002.mp4",
    ]
    network = CountingNetwork()
    report = run(source, "out.mp4", network, resume=True)
    assert (report.resumed, network.seen, report.frames) == (12, 12, 24)
    whole = read_clip(Path("whole.mp4"))
    after = read_clip(Path("out.mp4"))
    # Segments begin at other frames than in whole.mp4, so their bits differ, but not their content.
    assert (after.times, after.numbers) == (whole.times, list(range(24)))
    assert after.of("audio") == whole.of("audio")
    assert names(".") == ["in.mp4", "out.mp4", "whole.mp4"]


def test_only_listed_segments_of_a_killed_job_are_used(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 may leave a half segment under another name, and a whole one that is not listed."""
    with monkeypatch.context() as patch:
        patch.setattr(video_parts.Parts, "remove", lambda self: None)
        run(source, "out.mp4")
    Path("whole.mp4").write_bytes(Path("out.mp4").read_bytes())
    Path("out.mp4").unlink()
    parts = Path("out.mp4.parts")
    manifest = json.loads((parts / "manifest.json").read_text())
    del manifest["segments"][4:]
    (parts / "manifest.json").write_text(json.dumps(manifest))
    (parts / "segment-00003.mp4").unlink()  # listed, but lost
    (parts / "segment-00004.mp4").write_bytes(b"not listed")
    (parts / ".segment-00005.123.part.mp4").write_bytes(b"half")
    network = CountingNetwork()
    assert run(source, "out.mp4", network, resume=True).resumed == 15
    assert network.seen == 9
    check_same(Path("out.mp4"), Path("whole.mp4"))


CHILD = """
import sys, time
from fractions import Fraction
from faststyle.video import job, parts

def slow(rgb):
    time.sleep(0.02)
    print("frame", flush=True)
    return rgb.copy()

parts.SEGMENT_LENGTH = Fraction(1, 5)
options = job.VideoOptions(threads=1, resume=True)
print(job.stylize_video(sys.argv[1], sys.argv[2], slow, options, style="a").resumed, flush=True)
"""


def run_and_kill(source: Path, target: str, frames: int, delay: float) -> int | None:
    """Run a job in a process, and kill it `delay` seconds after some frames.

    Return the number of frames that it resumed where it ended before that, else None.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source), target],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    lines = [child.stdout.readline().strip() for _ in range(frames)]
    time.sleep(delay)
    child.kill()
    lines += child.stdout.read().split()
    child.stdout.close()
    child.wait()
    return next((int(line) for line in lines if line.isdigit()), None)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.gif"])
@pytest.mark.parametrize("seed", range(2))
def test_kill_9_at_any_moment(target: str, seed: int) -> None:
    """The output is that of a run that was never stopped, however often another is killed.

    Times of the source are rounded and its frames interlaced: both look at frames before.
    """
    rate = Fraction(24000, 1001)
    source = write_clip(
        Path("in.mkv"),
        [round(i * 1000 / rate) for i in range(36)],
        Fraction(1, 1000),
        rate=rate,
        sound=["aac"],
        options={"x264-params": "tff=1:interlaced=1"},
    )
    whole = f"whole{Path(target).suffix}"
    run(source, whole)
    moments = random.Random(seed)
    resumed = None
    kills = 0
    while resumed is None:
        assert not Path(target).exists()
        # At least one segment is finished between two kills, at most two.
        resumed = run_and_kill(source, target, moments.randint(6, 14), moments.uniform(0, 0.06))
        kills += 1
        assert kills < 20
    assert kills > 2
    assert resumed > 0
    check_same(Path(target), Path(whole))
    assert names(".") == sorted(["in.mkv", target, whole])


def test_ctrl_c_leaves_a_video_that_plays_and_can_be_resumed(source: Path) -> None:
    with pytest.raises(
        Interrupted, match="after 8 frames: out.partial.mp4 holds them; `resume` goes on"
    ) as caught:
        run(source, "out.mp4", CountingNetwork(7, interrupt))
    assert caught.value.exit_code == 130
    assert names(".") == ["in.mp4", "out.mp4.parts", "out.partial.mp4"]
    partial = read_clip(Path("out.partial.mp4"))
    assert partial.numbers == list(range(8))
    assert 0.25 < partial.of("audio")[0].times[-1] < 0.32
    network = CountingNetwork()
    assert run(source, "out.mp4", network, resume=True).resumed == 8
    after = read_clip(Path("out.mp4"))
    assert (network.seen, after.numbers) == (16, list(range(24)))
    assert after.of("audio") == read_clip(source).of("audio")


def once(act: Callable[[], Any]) -> Callable[[], None]:
    """Return a function that calls `act` the first time only."""
    waiting = [act]

    def call() -> None:
        if waiting:
            waiting.pop()()

    return call


def with_call_first(function: Callable[..., Any], act: Callable[[], Any]) -> Callable[..., Any]:
    """Return a function that calls `act` and then `function`."""

    def both(*given: Any, **named: Any) -> Any:
        act()
        return function(*given, **named)

    return both


def test_sigterm_before_the_first_frame_leaves_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # from the thread that reads frames
        time.sleep(0.2)

    reading = with_call_first(VideoSource._to_upright_rgb, once(terminate))
    monkeypatch.setattr(VideoSource, "_to_upright_rgb", reading)
    network = CountingNetwork()
    with pytest.raises(Interrupted, match="before the first frame") as caught:
        run(source, "out.mp4", network)
    assert (caught.value.exit_code, network.seen, names(".")) == (143, 0, ["in.mp4"])


def test_ctrl_c_twice_ends_at_once(source: Path) -> None:
    # A shell disables SIGINT for commands that it runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        run(source, "out.mp4", CountingNetwork(7, lambda: (interrupt(), interrupt())))
    assert names(".") == ["in.mp4", "out.mp4.parts"]
    assert run(source, "out.mp4", resume=True).resumed == 7


def test_ctrl_c_while_all_is_put_together(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        muxing = with_call_first(video_mux._video_packets, interrupt)
        patch.setattr(video_mux, "_video_packets", muxing)
        with pytest.raises(
            Interrupted, match="stopped while out.mp4 was put together; `resume` finishes it"
        ):
            run(source, "out.mp4")
    assert names(".") == ["in.mp4", "out.mp4.parts"]
    network = CountingNetwork()
    assert run(source, "out.mp4", network, resume=True).resumed == 24
    assert (network.seen, read_clip(Path("out.mp4")).numbers) == (0, list(range(24)))


def test_half_outputs_of_killed_jobs_are_removed(source: Path) -> None:
    for name in (".out.123-4.part.mp4", ".other.123-4.part.mp4", ".out.2.123-4.part.mp4"):
        Path(name).write_bytes(b"half")
    Path(".frames.123.part").mkdir()
    Path(".frames.123.part/001.png").write_bytes(b"half")
    run(source, "out.mp4")
    run(source, "frames/%03d.png")
    others = [".other.123-4.part.mp4", ".out.2.123-4.part.mp4"]
    assert names(".") == [*others, "frames", "in.mp4", "out.mp4"]
    for name in others:
        Path(name).unlink()


@pytest.mark.parametrize(
    ("target", "left"), [("out.gif", "out.partial.gif"), ("frames/%03d.png", "frames.partial")]
)
def test_ctrl_c_for_pictures(source: Path, target: str, left: str) -> None:
    with pytest.raises(Interrupted, match=f"after 8 frames: {left} holds them"):
        run(source, target, CountingNetwork(7, interrupt))
    parts = Path(target if target.endswith("gif") else "frames").name + ".parts"
    assert names(".") == sorted(["in.mp4", parts, left])
    if target == "out.gif":
        assert read_clip(Path(left)).numbers == list(range(8))
    else:
        assert names(left) == [f"{i:03d}.png" for i in range(1, 9)]
    assert run(source, target, resume=True).resumed == 8
    assert names(".") == sorted(["in.mp4", Path(target).parts[0], left])


AGAIN = "`overwrite` without `resume` deletes them and begins again"


def stop_after_12_frames(source: Path, **options: Any) -> None:
    with pytest.raises(RuntimeError, match="the network failed"):
        run(source, "out.mp4", CountingNetwork(12, crash), **options)


@pytest.mark.parametrize("resume", [False, True])
def test_a_job_with_other_settings_is_not_resumed(source: Path, resume: bool) -> None:
    stop_after_12_frames(source)
    before = names("out.mp4.parts")
    begun = "out.mp4.parts holds frames of a run that was begun with another"
    with pytest.raises(VideoError, match=f"{begun} size; {AGAIN}"):
        run(source, "out.mp4", resume=resume, size=24)
    with pytest.raises(VideoError, match=f"{begun} style; {AGAIN}"):
        stylize_video(source, "out.mp4", CountingNetwork(), VideoOptions(resume=resume), style="b")
    os.utime(source, (1, 1))
    with pytest.raises(VideoError, match=f"{begun} source; {AGAIN}"):
        run(source, "out.mp4", resume=resume)
    assert names("out.mp4.parts") == before
    Path("out.mp4.parts/manifest.json").write_text("{")
    with pytest.raises(VideoError, match=f"manifest.json: cannot be read; {AGAIN}"):
        run(source, "out.mp4", resume=resume)
    assert names("out.mp4.parts") == before
    stop_after_12_frames(source, overwrite=True)  # from the beginning
    assert run(source, "out.mp4", resume=True).resumed == 12
    assert run(source, "new.mp4", resume=True).resumed == 0


def test_finished_segments_are_only_deleted_when_asked(source: Path) -> None:
    stop_after_12_frames(source)
    before = names("out.mp4.parts")
    network = CountingNetwork()
    with pytest.raises(VideoError) as caught:
        run(source, "out.mp4", network)
    assert str(caught.value) == (
        "out.mp4.parts holds 12 finished frames of a stopped run; "
        "`resume` goes on, `overwrite` deletes them and begins again"
    )
    assert (network.seen, names("out.mp4.parts")) == (0, before)
    # With both, an output is replaced by the job that goes on.
    Path("out.mp4").write_bytes(b"old")
    assert run(source, "out.mp4", resume=True, overwrite=True).resumed == 12
    Path("out.mp4").unlink()
    stop_after_12_frames(source)
    report = run(source, "out.mp4", overwrite=True)
    assert (report.resumed, report.frames) == (0, 24)


def test_a_folder_that_is_not_ours_is_not_touched(source: Path) -> None:
    Path("out.mp4.parts").mkdir()
    Path("out.mp4.parts/diary.txt").write_text("dear diary")
    with pytest.raises(OutputError, match="out.mp4.parts: in the way"):
        run(source, "out.mp4")
    assert Path("out.mp4.parts/diary.txt").read_text() == "dear diary"


@pytest.mark.parametrize(
    ("owner", "name"),
    [(VideoSource, "_to_upright_rgb"), (SegmentEncoder, "_picture")],
    ids=["reading", "writing"],
)
def test_a_failure_in_any_thread_ends_all(
    source: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    calls = iter(range(100))
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, with_call_first(real, lambda: 1 / (9 - next(calls))))
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        run(source, "out.mp4")
    assert time.monotonic() - started < 5
    assert names(".") == ["in.mp4", "out.mp4.parts"]


@pytest.mark.parametrize("slow", ["stylized", "written"])
def test_no_more_frames_wait_than_fit_into_the_queues(slow: str) -> None:
    """Memory does not grow with the clip: the parts before the slow one wait for it."""
    seen = dict.fromkeys(("read", "stylized", "written"), 0)
    waiting: list[int] = []

    def step(this: str, before: str) -> None:
        time.sleep(0.002 * (this == slow))
        waiting.append(seen[before] - seen[this])
        seen[this] += 1

    def frames() -> Iterator[Frame]:
        for i in range(60):
            seen["read"] += 1
            yield Frame(np.full((2, 2, 3), i, np.uint8), i, 1)

    def stylize(rgb: Rgb) -> Rgb:
        step("stylized", "read")
        return rgb.copy()

    def write(styled: Iterator[Frame]) -> None:
        for _ in styled:
            step("written", "stylized")

    assert video_pipeline.run_pipeline(frames(), stylize, write, lambda: False, lambda: None)  # type: ignore[arg-type]
    assert seen == {"read": 60, "stylized": 60, "written": 60}
    # A full queue, a frame that waits to be put in, and one that was just taken out.
    assert max(waiting) == video_pipeline.QUEUE_SIZE + 2


def test_reading_network_and_writing_overlap() -> None:
    """Reading frame 3, stylizing frame 2 and writing frame 1 wait for each other at a barrier."""
    together = threading.Barrier(3, timeout=10)

    def frames() -> Iterator[Frame]:
        for i in range(5):
            if i == 2:
                together.wait()
            yield Frame(np.full((2, 2, 3), i, np.uint8), i, 1)

    def stylize(rgb: Rgb) -> Rgb:
        if rgb[0, 0, 0] == 1:
            together.wait()
        return rgb.copy()

    def write(styled: Iterator[Frame]) -> None:
        for frame in styled:
            if frame.pts == 0:
                together.wait()

    assert video_pipeline.run_pipeline(frames(), stylize, write, lambda: False, lambda: None)  # type: ignore[arg-type]


def test_a_network_that_changes_the_size_is_a_bug(source: Path) -> None:
    with pytest.raises(ValueError, match=r"\(48, 64, 3\) uint8 became \(24, 64, 3\) uint8"):
        run(source, "out.mp4", lambda rgb: rgb[::2].copy())


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Return a function that limits the size of files, in bytes, to act as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def noise(i: int, h: int, w: int) -> Rgb:
    return np.random.default_rng(i).integers(0, 255, (h, w, 3), np.uint8)


def test_a_full_disk_in_the_middle(small_files: Callable[[int], None]) -> None:
    def picture(i: int, h: int, w: int) -> Rgb:
        return draw(i, h, w) if i < 10 else noise(i, h, w)

    source = write_clip(Path("in.mkv"), range(24), picture=picture)
    small_files(8_000)
    with pytest.raises(
        OutputError, match=r"cannot write out.mp4.parts/segment-00002.mp4: .*; free some space"
    ):
        run(source, "out.mp4")
    small_files(resource.RLIM_INFINITY)
    assert names(".") == ["in.mkv", "out.mp4.parts"]
    assert run(source, "out.mp4", resume=True).resumed == 10


def test_a_full_disk_at_the_end(small_files: Callable[[int], None]) -> None:
    source = write_clip(Path("in.mkv"), range(24), picture=noise)
    small_files(50_000)
    with pytest.raises(OutputError, match=r"cannot write out.mp4: .*; free some space"):
        run(source, "out.mp4", quality=1)
    small_files(resource.RLIM_INFINITY)
    assert names(".") == ["in.mkv", "out.mp4.parts"]
    assert run(source, "out.mp4", quality=1, resume=True).resumed == 24


def test_the_old_output_stays_until_the_new_one_is_whole(source: Path) -> None:
    Path("out.mp4").write_bytes(b"old")
    with pytest.raises(
        OutputError, match="`output` out.mp4: is there already; `overwrite` replaces it"
    ):
        run(source, "out.mp4")
    with pytest.raises(RuntimeError):
        run(source, "out.mp4", CountingNetwork(12, crash), overwrite=True)
    assert Path("out.mp4").read_bytes() == b"old"
    run(source, "out.mp4", overwrite=True)
    assert len(read_clip(Path("out.mp4")).times) == 24
    run(source, "frames/%d.png")
    with pytest.raises(OutputError, match="frames/1.png: is there already"):
        run(source, "frames/%d.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -1}, "`start` must be 0 or more seconds, got -1"),
        ({"start": 2, "end": 2}, "`end` must be after `start` (2 s), got 2"),
        ({"end": 0}, "`end` must be after `start` (0 s), got 0"),
        ({"fps": 0}, "`fps` must be 0.01 to 1000, got 0"),
        ({"size": 0}, "`size` must be 1 or more, got 0"),
        ({"threads": 0}, "`threads` must be 1 or more, got 0"),
        ({"start": 1}, "in.mp4: no frames after 1 s"),
        ({"codec": "h265"}, "`codec` h265: not in this build of FFmpeg. Did you mean 'h264'?"),
        ({"codec": "pcm_s16le"}, "`codec` pcm_s16le: not in this build of FFmpeg. Allowed: av1,"),
        ({"codec": "prores"}, "mp4 does not take prores_ks; it takes h264, hevc, vp9, av1"),
        (
            {"codec": "hevc"},
            "libx265 takes sides of 64 pixels or more, not 64x48; use another `codec`, or a larger",
        ),
        ({"preset": "fastest"}, "libx264 refuses 64x48 yuv420p crf=18 preset=fastest"),
        ({"codec": "mpeg4", "preset": "fast"}, "`preset` fast: mpeg4 has none; it has `quality`"),
    ],
)
def test_options_out_of_range_are_refused(
    source: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(VideoError) as caught:
        run(source, "out.mp4", **options)
    assert str(caught.value).removeprefix(f"{source.parent}/").startswith(message)
    assert names(".") == ["in.mp4"]


def write_index_last(path: Path) -> None:
    """Write an MP4 whose index (moov) is behind its frames, as cameras do."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
        for i in range(12):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(draw(i), "rgb24")))
        file.mux(stream.encode())


def test_a_file_that_is_cut_off_is_done_as_far_as_it_goes(source: Path) -> None:
    """An MP4 with its index first tells of frames that are not there."""
    data = source.read_bytes()
    with av.open(str(source)) as file:
        ends = sorted(p.pos + p.size for p in file.demux(video=0) if p.size)
    source.write_bytes(data[: ends[14]])
    report = run(source, "out.mp4")
    after = read_clip(Path("out.mp4"))
    assert 10 <= report.frames <= 16
    assert after.times == [Fraction(number, 25) for number in after.numbers]
    assert after.numbers[:10] == list(range(10))
    assert f"{source} is cut off: its last frames are missing" in report.notes
    assert report.seconds == pytest.approx((after.numbers[-1] + 1) / 25, abs=0.001)


def test_sources_that_are_no_video(source: Path) -> None:
    Path("text.mp4").write_text("no video at all")
    Path("notes.txt").write_text("FFmpeg would show this as a terminal\n" * 50)
    Path("empty.mp4").write_bytes(b"")
    Path("bare").mkdir()
    Image.fromarray(draw(3)).save("photo.mp4", format="PNG")
    Image.fromarray(draw(3)).save("photo.jpg")
    write_index_last(Path("whole.mp4"))
    whole = Path("whole.mp4").read_bytes()
    Path("cut.mp4").write_bytes(whole[:-200])
    Path("half.mp4").write_bytes(whole[: len(whole) // 2])
    write_clip(Path("both.mp4"), sound=["aac"])
    with av.open("both.mp4") as old, av.open("sound.m4a", "w", format="mp4") as new:
        sound = new.add_stream_from_template(old.streams.audio[0])
        cover = new.add_stream("mjpeg", rate=1, width=64, height=48, pix_fmt="yuvj420p")
        cover.disposition = Disposition.attached_pic
        new.mux(cover.encode(av.VideoFrame.from_ndarray(draw(3))))
        new.mux(cover.encode())
        for packet in old.demux(audio=0):
            if packet.size:
                packet.stream = sound
                new.mux(packet)
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as file:
        for packet in file.demux(video=0):
            if packet.size:
                data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    Path("broken.mp4").write_bytes(data)
    for name, message in {
        "missing.mp4": "missing.mp4: no such file",
        "text.mp4": "text.mp4: not a video that can be read",
        "notes.txt": "notes.txt: not a video that can be read",
        "empty.mp4": "empty.mp4: the file is empty",
        "cut.mp4": "cut.mp4: cut off: its index (moov) is missing; copy it or download it again",
        "half.mp4": "half.mp4: cut off: its index (moov) is missing; copy it or download it again",
        "photo.mp4": "photo.mp4: one picture (png), not a video; name a picture as `output`",
        "photo.jpg": "photo.jpg: one picture (jpeg), not a video; name a picture as `output`",
        "sound.m4a": "sound.m4a: has no pictures, only sound",
        "broken.mp4": "broken.mp4: no frame of it can be decoded",
        "bare": "bare: no pictures in it (avif,",
        "bare/%d.png": "bare/%d.png: no pictures of that name",
    }.items():
        before = names(".")
        with pytest.raises(VideoError) as caught:
            run(name, "out.mp4")
        assert str(caught.value).startswith(message.replace("avif", ".avif"))
        assert names(".") == before


def test_targets_that_cannot_be_written(source: Path) -> None:
    Path("taken").write_text("a file")
    Path("folder.mp4").mkdir()
    for name, message in {
        "out.wav": "out.wav: cannot write .wav; use .mp4, .m4v, .mov, .mkv, .webm, .gif, or a ",
        "taken/out.mp4": "cannot write taken/out.mp4: not a directory; a file stands",
        "in.mp4": "`output` in.mp4: the input itself; choose another name",
        "./x/../in.mp4": "`output` x/../in.mp4: the input itself",
        "%d.png": "%d.png: name a folder for the pictures, as in frames/%d.png",
        "frames/%d.heic": "frames/%d.heic: cannot write .heic; use jpeg, jpg, png, tif, tiff, webp",
    }.items():
        Path("x").mkdir(exist_ok=True)
        with pytest.raises((VideoError, OutputError)) as caught:
            run(source, name, overwrite=True)
        assert str(caught.value).startswith(message)
    assert names(".") == ["folder.mp4", "in.mp4", "taken", "x"]
    with pytest.raises(
        VideoError, match="`codec`, `quality` and `preset` are for video files, not for gif"
    ):
        run(source, "out.gif", quality=20)
    run(source, "frames/%d.png")
    with pytest.raises(VideoError, match="gif cannot hold 60 frames a second; use a lower `fps`"):
        run("frames/%d.png", "out.gif", fps=60)


def test_pictures_are_not_written_over_themselves(source: Path) -> None:
    run(source, "frames/%d.png")
    with pytest.raises(OutputError, match="the input itself"):
        run("frames/%d.png", "frames/%d.png", overwrite=True)
    with pytest.raises(OutputError, match="the input itself"):
        run("frames", "frames", overwrite=True)


def test_a_folder_that_is_read_only(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(self: Path, *given: Any, **named: Any) -> None:
        raise PermissionError(13, "Permission denied")

    # A folder without write permission would not do: root may write anywhere.
    monkeypatch.setattr(Path, "mkdir", mkdir)
    network = CountingNetwork()
    with pytest.raises(
        OutputError, match="permission denied; choose a place that you may write to"
    ):
        run(source, "out.mp4", network)
    assert network.seen == 0


def test_without_pyav_the_error_names_the_command_that_installs_it(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        DeviceError, match=r"this needs av: pip install 'faststyle-trainer\[video\]'"
    ):
        run(source, "out.mp4")


def test_names_with_colons_and_percent_signs_are_files(source: Path) -> None:
    Path("10:30 100%.mp4").write_bytes(source.read_bytes())
    run("10:30 100%.mp4", "a:b.mp4")
    assert len(read_clip(Path("a:b.mp4")).times) == 24
