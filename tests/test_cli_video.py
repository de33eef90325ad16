"""`faststyle stylize` on videos: which inputs are videos, options, errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from test_video_clips import read_clip, write_clip
from typer.testing import CliRunner

from faststyle.checkpoint import About, save_checkpoint
from faststyle.cli import app
from faststyle.networks import build_network
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
    assert "--fps, --resume" in result.stderr


def test_what_counts_as_a_video(workplace: Path) -> None:
    Path("photo.png").write_bytes(b"")
    for inputs, output in [
        (["in.mp4"], "out.mp4"),
        (["in.mp4"], "frames"),
        (["in.mp4"], "frames/%05d.jpg"),
        (["frames/%05d.png"], "out.webm"),
        (["frames"], "out.gif"),
    ]:
        assert wants_video(inputs, output), (inputs, output)
    for inputs, output in [
        (["photo.png"], "out.png"),
        (["photo.png"], "folder"),
        (["photo.png", "in.mp4"], "folder"),
        (["-"], "out.png"),
        (["in.mp4"], "out.png"),
        (["nothing"], "out"),
    ]:
        assert not wants_video(inputs, output), (inputs, output)
