"""`faststyle stylize` on videos: which inputs are videos, options, errors in one line."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from test_video_clips import read_clip, write_clip
from typer.testing import CliRunner

from faststyle.checkpoint import About, save_checkpoint
from faststyle.cli import app
from faststyle.networks import build_network
from faststyle.video import parts as video_parts
from faststyle.video.options import wants_video

NETWORK = {"name": "johnson", "width": 4, "blocks": 1}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a clip of 12 frames and a checkpoint that makes every frame red."""
    monkeypatch.chdir(tmp_path)
    network = build_network(NETWORK)
    network.get_parameter("head.weight").data.zero_()
    network.get_parameter("head.bias").data.copy_(torch.tensor([0.8, -0.8, -0.8]))
    save_checkpoint(
        tmp_path / "checkpoints" / "red.safetensors", network, About(NETWORK, {}, {}, "none", {})
    )
    write_clip(tmp_path / "in.mp4", range(12), sound=["aac"])
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(
        app, ["stylize", *arguments, "--style", "red", "--threads", "1", "--engine", "torch"]
    )


def test_frames_are_stylized_and_the_sound_is_kept(workplace: Path) -> None:
    result = call("in.mp4", "-o", "out.mp4", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["output"], report["frames"], report["skipped"], report["resumed"]) == (
        "out.mp4",
        12,
        0,
        0,
    )
    source = read_clip(Path("in.mp4"))
    out = read_clip(Path("out.mp4"))
    assert (
        [track.type for track in out.tracks]
        == [track.type for track in source.tracks]
        == ["video", "audio"]
    )
    assert out.tracks[1].data == source.tracks[1].data
    assert out.times == source.times
    red, green, blue = out.frames[5].reshape(-1, 3).mean(0)
    assert abs(red - 229.5) < 4
    assert abs(green - 25.5) < 4
    assert abs(blue - 25.5) < 4


def test_options_reach_the_encoder(workplace: Path) -> None:
    result = call(
        "in.mp4", "-o", "out.mkv", "--codec", "vp9", "--fps", "10", "--end", "0.4", "--size", "32"
    )
    assert result.exit_code == 0, result.output
    out = read_clip(Path("out.mkv"))
    assert out.tracks[0].codec == "vp9"
    assert len(out.frames) == 4
    assert min(out.frames[0].shape[:2]) == 32


def test_a_second_run_needs_overwrite(workplace: Path) -> None:
    assert call("in.mp4", "-o", "out.mp4").exit_code == 0
    again = call("in.mp4", "-o", "out.mp4")
    assert (again.exit_code, again.stderr) == (
        1,
        "error: -o out.mp4: is there already; --overwrite replaces it\n",
    )
    assert call("in.mp4", "-o", "out.mp4", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("in.mp4", "-o", "out.mp4", "--codec", "h265"), "Did you mean"),
        (("in.mp4", "-o", "out.mp4", "--fps", "fast"), "a number or a fraction such as 24000/1001"),
        (("in.mp4", "-o", "out.wmv"), "cannot write .wmv"),
        (("no.mp4", "-o", "out.mp4"), "no.mp4: no such file"),
        (("red.txt", "-o", "out.mp4"), "not a video that can be read"),
        (("in.mp4", "-o", "out.png"), "-o out.png: a picture, but in.mp4 is a video; use .mp4,"),
        (("in.mp4", "-o", "out.png"), "or numbered pictures: frames/%05d.png"),
        (("in.mp4", "-o", "-"), "-o -: takes one picture, but in.mp4 is a video; name a file"),
        (("-", "-o", "out.mp4"), "-o out.mp4: standard input is read as one picture; name a file"),
        (("in.mp4", "in.mp4", "-o", "out.mp4"), "-o out.mp4: several inputs need a folder, not a"),
        (("in.mp4", "in.mp4", "-o", "out"), "would both be written to out/in.mp4; rename one"),
        (("in.mp4", "red.txt", "-o", "."), "-o in.mp4: the input itself; choose another name"),
        (
            ("in.mp4", "-o", "out.mp4", "--stroke-size", "auto"),
            "--stroke-size auto is for pictures; give a number for videos",
        ),
        (
            ("in.mp4", "red.txt", "-o", "out", "--stroke-size", "auto"),
            "--stroke-size auto is for pictures; give a number for videos",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    workplace: Path, arguments: tuple[str, ...], message: str
) -> None:
    Path("red.txt").write_text("red")
    result = call(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(workplace.glob("out.*"))


def test_options_of_videos_are_refused_for_pictures(workplace: Path) -> None:
    result = call("photo.png", "-o", "out.png", "--fps", "10", "--resume")
    assert result.exit_code == 2
    assert "--fps" in result.stderr


def test_what_counts_as_a_video(workplace: Path) -> None:
    Path("photo.png").write_bytes(b"")
    for inputs, output in [
        (["in.mp4"], "out.mp4"),
        (["in.mp4"], "frames"),
        (["in.mp4"], "frames/%05d.jpg"),
        (["frames/%05d.png"], "out.webm"),
        (["frames"], "out.gif"),
        (["dance.webp"], "out.mp4"),
        (["dance.webp"], "out.gif"),
    ]:
        assert wants_video(inputs, output), (inputs, output)
    for inputs, output in [
        (["photo.png"], "out.png"),
        (["photo.png"], "folder"),
        (["photo.png", "in.mp4"], "folder"),
        (["-"], "out.png"),
        (["in.mp4"], "out.png"),
        (["dance.webp"], "out.png"),
        (["in.mp4", "in.mp4"], "folder"),
        (["nothing"], "out"),
    ]:
        assert not wants_video(inputs, output), (inputs, output)


def test_several_clips_go_into_a_folder_with_their_names(workplace: Path) -> None:
    write_clip(Path("walk.avi"), range(5), encoder="mpeg4")
    result = call("in.mp4", "walk.avi", "-o", "out", "--size", "32")
    assert result.exit_code == 0, result.output
    lines = [line.partition(" (")[0] for line in result.stdout.splitlines()]
    assert lines == ["wrote out/in.mp4: 12 frames, 0.5 s", "wrote out/walk.mp4: 5 frames, 0.2 s"]
    assert [p.name for p in sorted(Path("out").iterdir())] == ["in.mp4", "walk.mp4"]
    for name, count in (("in", 12), ("walk", 5)):
        clip = read_clip(Path(f"out/{name}.mp4"))
        assert (len(clip.times), min(clip.size)) == (count, 32)
        assert clip.frames[3][..., 0].mean() > 200  # red
    again = call("in.mp4", "walk.avi", "-o", "out", "--json")
    report = json.loads(again.stdout)
    assert (again.exit_code, report["kept"]) == (0, ["out/in.mp4", "out/walk.mp4"])


def test_a_folder_of_pictures_and_clips(workplace: Path) -> None:
    """All are done but those that cannot be read, and each of these is listed."""
    Path("trip/day").mkdir(parents=True)
    for name in ("photo", "shot"):
        Image.new("RGB", (40, 30), "white").save(f"trip/{name}.png")
    Path("trip/day/walk.mkv").write_bytes(b"no video")
    write_clip(Path("trip/day/ride.mkv"), range(4), encoder="ffv1", format="bgra")
    Path("trip/talk.mp4").write_bytes(Path("in.mp4").read_bytes())
    result = call("trip", "-o", "trip/out", "--codec", "h264", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert sorted(report["written"]) == [
        "trip/out/day/ride.mkv",
        "trip/out/photo.png",
        "trip/out/shot.png",
        "trip/out/talk.mp4",
    ]
    assert report["failed"] == [["trip/day/walk.mkv", "not a video that can be read"]]
    assert [video["frames"] for video in report["videos"]] == [4, 12]
    again = json.loads(call("trip", "-o", "trip/out", "--json").stdout)
    assert (again["written"], len(again["kept"])) == ([], 4)  # and no output is an input


def test_a_folder_of_clips_only(workplace: Path) -> None:
    Path("trip").mkdir()
    Path("in.mp4").rename("trip/in.mp4")
    for arguments in (("trip",), ("trip/*.mp4",)):
        result = call(*arguments, "-o", "out", "--overwrite")
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("wrote out/in.mp4: 12 frames")


def test_a_stopped_clip_of_several_goes_on_with_resume(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_parts, "SEGMENT_LENGTH", Fraction(1, 5))
    Path("two.mp4").write_bytes(Path("in.mp4").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(video_parts.Parts, "remove", lambda self: None)
        assert call("in.mp4", "-o", "out/in.mp4").exit_code == 0
    Path("out/in.mp4").unlink()
    refused = call("in.mp4", "two.mp4", "-o", "out")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "error: in.mp4: out/in.mp4.parts holds 12 finished frames of a stopped run; "
        "--resume goes on, --overwrite deletes them and begins again\n",
    )
    assert [p.name for p in sorted(Path("out").iterdir())] == ["in.mp4.parts", "two.mp4"]
    result = call("in.mp4", "two.mp4", "-o", "out", "--resume")
    assert (result.exit_code, Path("out/in.mp4").exists()) == (0, True), result.output
    assert "12 frames, 0.5 s, 12 of them from before" in result.stdout


def test_smooth_reaches_the_frames(workplace: Path) -> None:
    pytest.importorskip("cv2")
    for name, more in (("plain", ()), ("smooth", ("--smooth", "0.9"))):
        # Half of each frame is the photo, whose brightness changes.
        result = call("in.mp4", "-o", f"{name}/%05d.png", "--mix", "0.5", *more)
        assert result.exit_code == 0, result.output
    first, *_, plain = sorted(Path("plain").iterdir())
    *_, smooth = sorted(Path("smooth").iterdir())
    means = [np.array(Image.open(file), float).mean() for file in (first, smooth, plain)]
    assert means == sorted(means)  # a running mean lags behind
    assert means[1] < means[2] - 2


def test_smooth_is_refused_out_of_range_and_for_pictures(workplace: Path) -> None:
    result = call("in.mp4", "-o", "out.mp4", "--smooth", "1")
    assert (result.exit_code, result.stderr) == (1, "error: --smooth must be 0 to 0.95, got 1\n")
    result = call("photo.png", "-o", "out.png", "--smooth", "0.5")
    assert result.exit_code == 2
    assert "Invalid value for --smooth: is for videos" in result.stderr


@pytest.mark.parametrize(
    "option", [("--tile", "256"), ("--allow-huge",), ("--format", "png")], ids=lambda x: x[0]
)
def test_options_of_pictures_are_refused_for_videos(
    workplace: Path, option: tuple[str, ...]
) -> None:
    for output in ("out.mp4", "out"):
        result = call("in.mp4", *(["in.mp4"] if output == "out" else []), "-o", "out", *option)
        assert result.exit_code != 0
        assert not Path(output).exists()
