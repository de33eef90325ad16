"""What an output cannot hold is said in a note: alpha, other sizes, interlacing."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from test_video_clips import draw, read_clip, write_clip

from faststyle.video.job import VideoOptions, VideoReport, stylize_video
from faststyle.video.options import CONTAINERS, numbered_files
from faststyle.video.read import VideoSource

Rgb = np.ndarray[Any, Any]
ON_WHITE = (
    "alpha is left out: transparent pixels are laid on white "
    "(WebM, GIF, PNG, and ProRes in MOV hold it)"
)
DEINTERLACED = "interlaced frames are deinterlaced: two fields become one frame"


def run(
    source: Path | str,
    target: Path | str,
    stylize: Callable[[Rgb], Rgb] = lambda rgb: rgb.copy(),
    **options: Any,
) -> VideoReport:
    return stylize_video(source, target, stylize, VideoOptions(threads=1, **options))


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_alpha(name: str, encoder: str, format: str, alphas: list[int]) -> str:
    """Write a frame of (200, 40, 90) for each alpha: 255 in its left half, `alpha` in its right."""
    with av.open(name, "w") as file:
        stream = file.add_stream(encoder, rate=25, width=64, height=48, pix_fmt=format)
        for alpha in alphas:
            rgba = np.full((48, 64, 4), (200, 40, 90, 255), np.uint8)
            rgba[:, 32:, 3] = alpha
            file.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, "rgba")))
        file.mux(stream.encode())
    return name


@pytest.mark.parametrize(
    ("name", "encoder", "format"),
    [
        ("in.mov", "prores_ks", "yuva444p10le"),
        ("in.mov", "qtrle", "argb"),
        ("in.mkv", "ffv1", "bgra"),
        ("in.mov", "png", "rgba"),
    ],
)
def test_transparent_pixels_are_laid_on_white(name: str, encoder: str, format: str) -> None:
    # The first frame is opaque: all are looked at.
    source = write_alpha(name, encoder, format, [255, 0, 128])
    report = run(source, "out.mp4", codec="libx264rgb", quality=1)
    assert ON_WHITE in report.notes
    frames = [frame.astype(int) for frame in read_clip(Path("out.mp4")).frames]
    color = np.array((200, 40, 90))
    for frame, alpha in zip(frames, (255, 0, 128), strict=True):
        assert np.abs(frame[:, :30] - color).max() <= 4
        expected = color * alpha / 255 + 255 - alpha
        assert np.abs(frame[:, 34:] - expected).max() <= 4


def test_opaque_clips_have_no_note() -> None:
    assert ON_WHITE not in run(write_alpha("in.mkv", "ffv1", "bgra", [255]), "out.mp4").notes
    write_clip(Path("walk.mp4"), range(3))
    run("walk.mp4", "walk.gif")
    assert run("walk.gif", "again.mp4").notes == ()


def read_alpha(name: str) -> list[Rgb]:
    """Return the alpha of all frames of a clip, or of numbered pictures."""
    if "%" in name:
        return [np.array(Image.open(p).convert("RGBA"))[..., 3] for p in numbered_files(Path(name))]
    source = VideoSource(Path(name), VideoOptions(), CONTAINERS[".mov"], keeps_alpha=True)
    return [np.asarray(frame.alpha) for frame in source.frames()]


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("out.webm", {}),
        ("out.mkv", {"codec": "vp9"}),
        ("out.mkv", {"codec": "ffv1"}),
        ("out.mov", {"codec": "prores"}),
        ("out.mov", {"codec": "qtrle"}),
        ("out.gif", {}),
        ("frames/%03d.png", {}),
        ("frames/%03d.webp", {}),
    ],
)
@pytest.mark.parametrize(
    ("name", "encoder", "format"),
    [("in.mov", "prores_ks", "yuva444p10le"), ("in.webm", "libvpx-vp9", "yuva420p")],
)
def test_alpha_is_kept(
    name: str, encoder: str, format: str, target: str, options: dict[str, Any]
) -> None:
    alphas = [0, 255, 0, 0, 255, 0] if target.endswith("gif") else [128, 255, 0, 64, 192, 128]
    source = write_alpha(name, encoder, format, alphas)
    seen = []
    report = run(source, target, lambda rgb: seen.append(rgb) or 255 - rgb, **options)
    assert not [note for note in report.notes if "alpha" in note]
    # What is hidden is a colour like any other for the network, as it is in single pictures.
    assert len(seen) == len(alphas)
    kept = read_alpha(target)
    assert len(kept) == len(alphas)
    for alpha, expected in zip(kept, alphas, strict=True):
        assert alpha.shape == (48, 64)
        assert (alpha[:-1, :28] >= 250).all()
        assert np.abs(alpha[:-1, 36:].astype(int) - expected).max() <= 6  # GIF clears a corner


def test_alpha_of_pictures_is_kept() -> None:
    Path("frames").mkdir()
    for number, alpha in enumerate((10, 200)):
        Image.new("RGBA", (64, 48), (200, 40, 90, alpha)).save(f"frames/{number}.png")
    Image.new("RGB", (32, 24), (200, 40, 90)).save("frames/2.png")  # of another size, and opaque
    report = run("frames", "out/%03d.png")
    assert report.notes == ("frames of another size are resized to 64x48: 1",)
    assert [set(alpha.flat) for alpha in read_alpha("out/%03d.png")] == [{10}, {200}, {255}]


def test_a_profile_that_was_asked_for_has_no_alpha() -> None:
    source = write_alpha("in.mov", "prores_ks", "yuva444p10le", [0])
    assert ON_WHITE in run(source, "out.mov", codec="prores", preset="hq").notes


def test_a_stopped_clip_with_alpha_goes_on() -> None:
    source = write_alpha("in.mov", "qtrle", "argb", [i % 250 for i in range(300)])
    count = 0

    def stopping(rgb: Rgb) -> Rgb:
        nonlocal count
        count += 1
        if count > 200:
            raise RuntimeError("stopped")
        return rgb.copy()

    with pytest.raises(RuntimeError):
        run(source, "out.webm", stopping)
    report = run(source, "out.webm", resume=True)
    assert report.resumed > 0
    kept = read_alpha("out.webm")
    assert [int(np.median(alpha[:, 40:])) for alpha in kept] == pytest.approx(
        [i % 250 for i in range(300)], abs=6
    )


def test_alpha_that_the_decoder_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's own decoder of VP9 does not read the second stream that holds alpha."""
    monkeypatch.setattr("faststyle.video.streams.ALPHA_DECODERS", {"vp9": "not in this build"})
    source = write_alpha("in.webm", "libvpx-vp9", "yuva420p", [0, 0])
    assert run(source, "out.mp4").notes == ("alpha is left out: colours that it hid are shown",)


def test_pictures_of_other_sizes_and_with_alpha() -> None:
    Path("frames").mkdir()
    Image.new("RGB", (64, 48), (200, 40, 90)).save("frames/1.png")
    Image.new("RGBA", (32, 24), (200, 40, 90, 0)).save("frames/2.png")
    report = run("frames", "out.mp4")
    assert report.notes == ("frames of another size are resized to 64x48: 1", ON_WHITE)
    assert read_clip(Path("out.mp4")).frames[1].min() > 250


def test_frames_of_another_size_are_resized() -> None:
    data = b""
    for size in [(48, 64), (96, 128)]:
        write_clip(
            Path("one.mkv"), range(5), size=size, options={"x264-params": "repeat-headers=1"}
        )
        with av.open("one.mkv") as file:
            annexb = av.BitStreamFilterContext("h264_mp4toannexb", file.streams.video[0])
            for packet in file.demux(video=0):
                data += b"".join(map(bytes, annexb.filter(packet if packet.size else None)))
    Path("in.h264").write_bytes(data)
    report = run("in.h264", "out.mp4")
    assert report.notes == ("frames of another size are resized to 64x48: 5",)
    after = read_clip(Path("out.mp4"))
    assert (after.size, after.numbers) == ((48, 64), [*range(5), *range(5)])


def combing(picture: Rgb) -> float:
    """Return how much rows differ from the rows above and below them, in levels."""
    rows = picture.astype(float).mean(2)
    return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())


def write_interlaced(path: Path, times: list[int], **options: Any) -> Path:
    """Write a bar that moves by 4 pixels from field to field, two fields in each frame."""

    def picture(i: int, h: int, w: int) -> Rgb:
        fields = np.full((2, h, w, 3), 40, np.uint8)
        for field in range(2):
            left = 4 + 8 * i + 4 * field
            fields[field, :, left : left + 12] = 220
        woven = fields[0].copy()
        woven[1::2] = fields[1, 1::2]
        return woven

    x264 = {"x264-params": "tff=1:interlaced=1"}
    return write_clip(path, times, Fraction(1, 100), options=x264, picture=picture, **options)


def test_interlaced_frames_become_progressive() -> None:
    times = [0, 4, 8, 13, 16, 20]
    source = write_interlaced(Path("in.mp4"), times)
    report = run(source, "out.mp4")
    assert report.notes == (DEINTERLACED,)
    before = read_clip(source)
    after = read_clip(Path("out.mp4"))
    assert after.times == before.times == [Fraction(t, 100) for t in times]
    assert min(map(combing, before.frames)) > 8
    assert max(map(combing, after.frames)) < 3
    # The bar moves on by 8 pixels a frame: no frame stands for its neighbour.
    centres = [
        float(np.nonzero(frame.astype(int).mean((0, 2)) > 130)[0].mean()) for frame in after.frames
    ]
    assert np.diff(centres) == pytest.approx([8] * 5, abs=1.5)


def test_one_interlaced_frame_is_a_clip_too() -> None:
    report = run(write_interlaced(Path("in.mp4"), [0]), "out.mp4")
    assert (report.frames, report.notes) == (1, (DEINTERLACED,))


def test_deinterlaced_frames_keep_colour_and_rotation() -> None:
    red = np.full((48, 64, 3), (200, 40, 90), np.uint8)
    write_clip(
        Path("in.mp4"),
        range(4),
        color=(2, 1, 1, 1),
        turned=(90, False, False),
        options={"x264-params": "tff=1:interlaced=1"},
        picture=lambda i, h, w: red if i < 3 else draw(i, h, w),
    )
    report = run("in.mp4", "out.mp4")
    assert DEINTERLACED in report.notes
    after = read_clip(Path("out.mp4"))
    assert (after.size, after.color) == ((64, 48), (2, 1, 1, 1))
    assert np.abs(after.frames[0].astype(int) - (200, 40, 90)).max() <= 4
    assert np.abs(after.frames[3].astype(int) - np.rot90(draw(3))).mean() < 3


@pytest.mark.parametrize(
    ("encoder", "format", "option", "parameters", "name"),
    [
        ("libx264", "yuv420p", "x264-params", "frame-packing=3", "stereo 3D"),
        ("libx265", "yuv420p", "x265-params", "log-level=none:max-cll=1000,400", "HDR"),
    ],
)
def test_metadata_of_frames_is_named(
    encoder: str, format: str, option: str, parameters: str, name: str
) -> None:
    write_clip(
        Path("in.mp4"),
        range(3),
        encoder=encoder,
        format=format,
        size=(80, 80),
        options={option: parameters},
    )
    assert run("in.mp4", "out.mp4").notes == (f"metadata of frames is left out: {name}",)
    assert run("out.mp4", "again.mp4").notes == ()
