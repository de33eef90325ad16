"""The benchmark of videos runs, and its figures hang together."""

from __future__ import annotations

import json
from pathlib import Path

from test_video_clips import read_clip
from typer.testing import CliRunner

from faststyle.bench_video import write_clip
from faststyle.cli import app


def test_the_clip_is_what_it_should_be(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 48, 64, 0.5)
    clip = read_clip(tmp_path / "clip.mp4")
    assert len(clip.frames) == 15
    assert [track.type for track in clip.tracks] == ["video", "audio"]


def test_the_command_measures_all_of_it() -> None:
    command = ["bench", "video", "--size", "48x64", "--seconds", "0.5", "--engine", "torch", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["engine"], row["precision"], row["size"], row["frames"]) == ("torch", "float32", "48x64", 15)
    assert 0 < row["fps"] < row["network_fps"]
    refused = CliRunner().invoke(app, ["bench", "video", "--size", "48"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
