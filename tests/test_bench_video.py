"""The benchmark of videos runs, and its figures hang together."""

from __future__ import annotations

import json
from pathlib import Path

import av
from test_video_clips import read_clip
from typer.testing import CliRunner

from faststyle.bench.videos import read_facts, write_clip
from faststyle.cli import app


def test_the_clip_is_what_it_should_be(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 48, 64, 0.5)
    clip = read_clip(tmp_path / "clip.mp4")
    assert len(clip.frames) == 15
    assert [track.type for track in clip.tracks] == ["video", "audio"]


def test_the_command_measures_all_of_it() -> None:
    command = [
        "bench",
        "video",
        "--size",
        "48x64",
        "--seconds",
        "0.5",
        "--engine",
        "torch",
        "--json",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["engine"], row["precision"], row["size"], row["frames"]) == (
        "torch",
        "float32",
        "48x64",
        15,
    )
    assert 0 < row["fps"] < row["network_fps"]
    assert (row["frames_in"], row["same_sound"]) == (15, True)
    assert max(row["off_ms"], row["length_off_ms"], row["sound_off_ms"]) < 0.01
    refused = CliRunner().invoke(app, ["bench", "video", "--size", "48"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)


def test_a_clip_of_ones_own_and_what_the_facts_tell_apart(tmp_path: Path) -> None:
    whole, cut, mute = (tmp_path / f"{name}.mp4" for name in ("whole", "cut", "mute"))
    write_clip(whole, 48, 64, 0.5)
    command = ["bench", "video", "--clip", str(whole), "--engine", "torch"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "15 of 15 frames" in done.stdout
    assert (
        "times 0.00 ms off at most, length 0.00 ms off; sound: the same bytes, 0.00 ms off"
        in done.stdout
    )
    refused = CliRunner().invoke(app, [*command, "--size", "64x64"])
    assert refused.exit_code == 2
    assert "keeps its size" in refused.stderr
    write_clip(cut, 48, 64, 0.4)
    with av.open(str(whole)) as source, av.open(str(mute), "w") as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                packet.pts = packet.pts + packet.duration
                file.mux(packet)
    facts = {file: read_facts(file) for file in (whole, cut, mute)}
    assert len(facts[cut].times) == 12
    assert facts[cut].sound not in (None, facts[whole].sound)
    assert (facts[mute].sound, facts[mute].sound_starts) == (None, None)
    assert facts[mute].times == facts[whole].times
    assert abs(facts[whole].seconds - 0.5) < 1e-6


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 48, 64, 0.5)
    with (
        av.open(str(tmp_path / "clip.mp4")) as source,
        av.open(str(tmp_path / "bare.h264"), "w") as file,
    ):
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    (tmp_path / "text.mp4").write_text("no video")
    for name, reason in {"bare.h264": "frames without times", "text.mp4": "not a video"}.items():
        refused = CliRunner().invoke(
            app, ["bench", "video", "--clip", str(tmp_path / name), "--engine", "torch"]
        )
        assert refused.exit_code == 1
        assert reason in refused.stderr.splitlines()[-1]
