"""`faststyle compare flicker`: clips whose motion, noise and flicker are known."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from conftest import needs
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("cv2")

import cv2
import moving

from faststyle import flow
from faststyle.cli import app
from faststyle.compare import flicker as command
from faststyle.errors import ImageError
from faststyle.judge import flicker
from faststyle.judge.flicker import FlickerMeter, Warping

H = 96
W = 128

cv2.setNumThreads(1)  # for pictures this small, threads cost more than they save


def no_flow(first: Any, second: Any) -> Any:
    return np.zeros((*first.shape[:2], 2), np.float32)


def measure(frames: list[Any], stylize: Any = lambda i, rgb: rgb, **settings: Any) -> Any:
    """Return the figures of a clip, and of what a function of number and frame makes of it."""
    meter = FlickerMeter(1, **settings)
    for number, frame in enumerate(frames):
        meter.add(frame, [stylize(number, frame)])
    return meter.figures()


def squared(warping: Warping) -> float:
    assert warping.squared is not None
    return warping.squared


@pytest.mark.parametrize("distance", [1, 5])
def test_a_pan_by_whole_pixels_has_no_error_under_its_exact_flow(distance: int) -> None:
    step = (3, 2)
    earlier, *_, later = moving.pan(moving.texture(200, 200), H, W, distance + 1, step)
    back = moving.pan_flow(H, W, step, distance)
    visible = flow.find_visible(back, -back)
    # What came from outside: the camera moves right and down, so from there.
    expected = np.zeros((H, W), bool)
    expected[: H - step[1] * distance, : W - step[0] * distance] = True
    np.testing.assert_array_equal(visible, expected)
    error = flicker.warping_error(flicker.find_difference(earlier, later, back), visible)
    assert error == pytest.approx((0, 0), abs=1e-12)
    # Without the flow the textures do not fit: the error is a sum of two variances.
    still = flicker.find_difference(earlier, later, np.zeros_like(back))
    assert flicker.warping_error(still, visible)[0] > 0.01


def test_a_pan_has_a_small_error_under_the_flow_of_dis() -> None:
    frames = moving.pan(moving.texture(200, 200), H, W, 8, (3, 2))
    clip, same = measure(frames)
    assert same == clip
    for warping in clip.warping:
        assert squared(warping) < 3e-5  # without a flow it would be 0.01 and more
        assert warping.visible > 0.7
    assert clip.still_share == 0


@pytest.mark.parametrize("distance", [1, 5])
def test_a_zoom_has_a_small_error_under_its_exact_flow(distance: int) -> None:
    photo = moving.texture(200, 240, smooth=4)
    earlier, *_, later = moving.zoom(photo, H, W, distance + 1)
    back = moving.zoom_flow(H, W, distance)
    ahead = moving.zoom_flow(H, W, -distance)
    # What the first flow moves to a place, the other one moves back.
    there = flow.warp(ahead, back)[4:-4, 4:-4]
    np.testing.assert_allclose(there, -back[4:-4, 4:-4], atol=0.002)
    visible = flow.find_visible(back, ahead)
    assert visible.mean() > 0.9  # it magnifies: all was there before, but for edges of motion
    error, _ = flicker.warping_error(flicker.find_difference(earlier, later, back), visible)
    assert error < 2e-5  # 1.1 levels: bilinear against bicubic, and 8 bits


def test_noise_of_a_still_scene_has_an_error_of_twice_its_variance_and_a_gain_of_1() -> None:
    sigma = 3.0
    frames = moving.still(moving.texture(H, W), H, W, 40, sigma)
    variance = sigma**2 + 1 / 12  # with the rounding to whole levels
    clip, same = measure(frames, find_flow=no_flow)
    for warping in clip.warping:
        assert squared(warping) == pytest.approx(2 * variance / 255**2, rel=0.01)
        # The mean absolute difference of a normal distribution.
        expected = math.sqrt(2 * variance) * math.sqrt(2 / math.pi) / 255
        assert warping.absolute == pytest.approx(expected, rel=0.01)
        assert warping.visible == 1
    assert clip.still_share == 1
    assert clip.still.noise == pytest.approx(math.sqrt(variance), rel=0.01)
    assert flicker.noise_gain(same.still, clip.still) == 1


def test_a_network_that_doubles_contrast_has_a_noise_gain_of_2() -> None:
    frames = moving.still(moving.texture(H, W), H, W, 24, 2.0)
    clip, output = measure(
        frames,
        lambda i, rgb: (2.0 * rgb - 127).clip(0, 255).astype(np.uint8),
        find_flow=no_flow,
    )
    assert flicker.noise_gain(output.still, clip.still) == pytest.approx(2, rel=0.03)
    assert squared(output.warping[0]) == pytest.approx(4 * squared(clip.warping[0]), rel=0.03)


def test_white_noise_has_a_flat_spectrum_with_the_energy_of_its_variance() -> None:
    frames = moving.still(moving.texture(H, W), H, W, 40, 4.0)
    clip, _ = measure(frames, find_flow=no_flow)
    still = clip.still
    # One-sided: the variance is spread over 0 to half a period a frame.
    inner = np.array(still.spectrum[2:])
    np.testing.assert_allclose(inner, 2 * (4.0**2 + 1 / 12), rtol=0.05)
    assert still.frequencies == tuple(i / 16 for i in range(9))
    # Frequencies 5 to 7 of 8, and the last one, which stands for half.
    assert still.fast == pytest.approx(math.sqrt(3.5 / 8) * still.noise, rel=0.03)


def test_jumps_of_brightness_are_the_error_and_the_fast_energy_of_an_output() -> None:
    jump = 10  # levels: up and down with each frame
    frames = [moving.texture(H, W)] * 32
    clip, output = measure(
        frames, lambda i, rgb: rgb // 2 + np.uint8(jump * (i % 2)), find_flow=no_flow
    )
    one, five = output.warping
    # From any frame to that of another parity, as 1 and 5 frames before are.
    assert squared(one) == pytest.approx((jump / 255) ** 2, rel=1e-4)
    assert squared(five) == pytest.approx((jump / 255) ** 2, rel=1e-4)
    assert one.absolute == pytest.approx(jump / 255, rel=1e-4)
    assert one.by_frame == (pytest.approx(squared(one)),) * 31
    assert clip.warping[0].squared == 0
    # A square wave of +- jump / 2, all of it at the highest frequency.
    assert output.still.fast == pytest.approx(jump / 2, rel=0.01)
    assert output.still.fast_share == pytest.approx(1, abs=0.01)
    assert flicker.noise_gain(output.still, clip.still) is None  # the clip has none


def test_a_slow_change_of_brightness_has_little_fast_energy() -> None:
    frames = [moving.texture(H, W)] * 64
    _, output = measure(
        frames,
        lambda i, rgb: rgb // 2 + np.uint8(round(20 + 20 * math.sin(i * math.pi / 16))),
        find_flow=no_flow,
    )
    assert output.still.fast_share < 0.01
    assert output.still.noise > 5


def test_what_a_moving_square_hides_and_shows_is_not_visible() -> None:
    step = 6
    far = moving.texture(H, 2 * W)
    near = 255 - moving.texture(H, W, seed=1)
    before, now = moving.parallax(near, far, H, W, 2, (step, 0))
    top = (H - moving.SQUARE) // 2
    first = moving.SQUARE // 4
    back = np.zeros((H, W, 2), np.float32)
    back[top : top + moving.SQUARE, first + step : first + step + moving.SQUARE, 0] = -step
    ahead = np.zeros((H, W, 2), np.float32)
    ahead[top : top + moving.SQUARE, first : first + moving.SQUARE, 0] = step
    visible = flow.find_visible(back, ahead)
    uncovered = np.s_[top : top + moving.SQUARE, first : first + step]
    assert not visible[uncovered].any()
    inside = np.s_[top + 2 : top + moving.SQUARE - 2, first + step + 2 : first + moving.SQUARE]
    assert visible[inside].all()
    # The rim of the square is an edge of motion; the background around it is seen.
    assert not visible[top : top + moving.SQUARE, first + step].any()
    assert visible[: top - 2].all()
    assert visible[:, first + step + moving.SQUARE + 2 :].all()
    difference = flicker.find_difference(before, now, back)
    assert flicker.warping_error(difference, visible) == pytest.approx((0, 0), abs=1e-12)
    assert flicker.warping_error(difference, np.ones((H, W), bool))[0] > 1e-3


def test_a_cut_is_left_out_and_what_follows_is_measured() -> None:
    frames = [moving.texture(H, W)] * 17 + [moving.texture(H, W, seed=5)] * 16
    clip, _ = measure(frames)
    one, five = clip.warping
    assert [i for i, error in enumerate(one.by_frame) if error is None] == [16]
    assert [i for i, error in enumerate(five.by_frame) if error is None] == [12, 13, 14, 15, 16]
    assert one.squared == five.squared == 0
    assert clip.still.noise == 0  # no window has frames of both


def test_still_places_are_those_that_do_not_move_in_any_frame() -> None:
    far = moving.texture(H, 2 * W)
    frames = moving.parallax(255 - moving.texture(H, W, seed=1), far, H, W, 16, (2, 0))
    clip, _ = measure(frames)
    area = moving.SQUARE * (moving.SQUARE + 2 * 15) / (H * W)  # that the square passes
    assert 0.2 < clip.still_share < 1 - area
    assert clip.still.noise < 0.5
    moved = measure(moving.pan(moving.texture(200, 200), H, W, 20, (1, 0)))[0]
    assert (moved.still_share, moved.still) == (0, None)


def test_six_frames_are_kept() -> None:
    meter = FlickerMeter(1)
    frames = moving.still(moving.texture(48, 48), 48, 48, 9, 2.0)
    for frame in frames:
        meter.add(frame, [frame])
    assert [id(held[0]) for held in meter._held] == [id(frame) for frame in frames[-6:]]
    assert meter.frames == 9
    assert len(meter.figures()[0].warping[1].by_frame) == 9 - 5


def test_few_frames_have_no_figures_of_5_frames_and_no_spectrum() -> None:
    clip, _ = measure(moving.still(moving.texture(48, 48), 48, 48, 5, 2.0))
    assert clip.warping[0].squared is not None
    assert (clip.warping[1].squared, clip.warping[1].by_frame, clip.still) == (None, (), None)


def test_the_heat_map_is_black_without_error_and_bright_with_it() -> None:
    frame = moving.texture(H, W)
    error = np.zeros((H, W), np.float32)
    error[:, W // 2 :] = command.HOTTEST
    visible = np.ones((H, W), bool)
    visible[: H // 2] = False
    shown = command.side_by_side(frame, 255 - frame, flicker.ErrorMap(error, visible))
    assert shown.shape == (H, 3 * W, 3)
    np.testing.assert_array_equal(shown[:, :W], frame)
    np.testing.assert_array_equal(shown[:, W : 2 * W], 255 - frame)
    heat = shown[:, 2 * W :]
    assert (heat[: H // 2] == command.HIDDEN).all()
    assert heat[H // 2 :, : W // 2].max() < 10
    assert heat[H // 2 :, W // 2 :].mean() > 150
    assert (command.side_by_side(frame, frame, None)[:, 2 * W :] == 0).all()


# The command.


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> Path:
    """The working folder: two networks, and two clips of known motion."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path(f"{name}.safetensors").write_bytes(checkpoint.read_bytes())
    moving.write_frames(Path("pan.mkv"), moving.pan(moving.texture(200, 200), 64, 80, 18, (2, 0)))
    moving.write_frames(Path("still.mkv"), moving.still(moving.texture(64, 80), 64, 80, 18, 2.0))
    return tmp_path


def call(*arguments: str) -> Result:
    settings = ["--engine", "torch", "--device", "cpu", "--threads", "1", "-o", "out"]
    return CliRunner().invoke(app, ["compare", "flicker", *settings, *arguments])


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def assert_one_line(result: Result, message: str) -> None:
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


OUTPUTS = [
    *["flicker.json", "flicker.png", "pan-one.mp4", "pan-two.mp4"],
    *["still-one.mp4", "still-two.mp4"],
]
BOTH = ["one.safetensors", "two.safetensors", "--video", "pan.mkv", "--video", "still.mkv"]


def test_the_command_writes_figures_plot_and_clips(workplace: Path) -> None:
    result = call(*BOTH)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in Path("out").iterdir()) == OUTPUTS
    report = strict(Path("out/flicker.json").read_text())
    rows = report["rows"]
    names = [(row["clip"], row["network"], row["video"]) for row in rows]
    assert names[:2] == [("pan", "one", "pan-one.mp4"), ("pan", "two", "pan-two.mp4")]
    for row in rows:
        assert (row["frames"], row["height"], row["width"], row["rate"]) == (18, 64, 80, 25)
        assert [len(one["by_frame"]) for one in row["output"]["warping"]] == [17, 13]
        for one in row["input"]["warping"]:
            assert 0 < one["squared"] < 1e-3
    # The networks are the same, and so are their figures.
    assert rows[0]["output"] == rows[1]["output"]
    assert rows[2]["noise_gain"] > 0
    assert rows[2]["input"]["still"]["noise"] == pytest.approx(2, rel=0.05)
    assert rows[0]["noise_gain"] is None
    for name in ("pan", "still"):
        assert result.stdout.count(f"{name} ") >= 2
    assert result.stderr == "note: pan.mkv: too few still places for noise and spectrum\n"
    assert result.stdout.endswith("wrote out/flicker.json, flicker.png and a clip of each row\n")
    with Image.open("out/flicker.png") as plot:
        assert plot.width == 900


@needs("av")
def test_the_clips_show_input_output_and_error(workplace: Path, checkpoint: Path) -> None:
    import av

    from faststyle import Stylizer

    assert call("one.safetensors", "--video", "pan.mkv", "--frames", "4").exit_code == 0
    with av.open("out/pan-one.mp4") as file:
        stream = file.streams.video[0]
        assert stream.average_rate == 25
        shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(shown) == 4
    assert {one.shape for one in shown} == {(64, 240, 3)}
    with av.open("pan.mkv") as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)][:4]
    stylizer = Stylizer.load(checkpoint, engine="torch", device="cpu")
    for one, frame in zip(shown, frames, strict=True):
        # H.264 keeps half the colours.
        assert np.abs(one[:, :80].astype(float) - frame).mean() < 12
        assert np.abs(one[:, 80:160].astype(float) - stylizer.frame(frame)).mean() < 12
    assert shown[0][:, 160:].max() < 30
    assert shown[1][:, 160:].mean() > shown[0][:, 160:].mean()


def test_json_is_printed_as_it_is_written(workplace: Path) -> None:
    result = call("one.safetensors", "--video", "still.mkv", "--frames", "3", "--json")
    assert result.stdout == Path("out/flicker.json").read_text()
    assert strict(result.stdout)["about"]["frames"] == 3


def test_larger_clips_are_reduced_and_smaller_ones_are_not_enlarged(workplace: Path) -> None:
    more = ["--frames", "2", "--overwrite", "--video", "pan.mkv", "--json"]
    small = strict(call("one.safetensors", *more, "--size", "32").stdout)
    assert (small["rows"][0]["height"], small["rows"][0]["width"]) == (32, 40)
    whole = strict(call("one.safetensors", *more, "--size", "1000").stdout)
    assert (whole["rows"][0]["height"], whole["rows"][0]["width"]) == (64, 80)


def test_smoothed_outputs_flicker_less(workplace: Path) -> None:
    more = ["--frames", "18", "--video", "still.mkv", "--json", "--overwrite"]
    plain = strict(call("one.safetensors", *more).stdout)
    smooth = strict(call("one.safetensors", *more, "--smooth", "0.8").stdout)
    assert (plain["about"]["smooth"], smooth["about"]["smooth"]) == (0, 0.8)
    # A running mean with 0.8 has a third of the noise, and changes by less from frame to frame.
    assert smooth["rows"][0]["noise_gain"] < 0.6 * plain["rows"][0]["noise_gain"]
    errors = [one["rows"][0]["output"]["warping"][0]["squared"] for one in (smooth, plain)]
    assert errors[0] < 0.2 * errors[1]


@pytest.mark.parametrize("there", OUTPUTS)
def test_results_that_are_there_are_only_replaced_with_overwrite(
    workplace: Path, there: str
) -> None:
    Path("out").mkdir()
    (Path("out") / there).write_text("mine")
    result = call(*BOTH, "--frames", "2")
    assert_one_line(result, f"out/{there} is there already: replace it with --overwrite")
    assert [p.name for p in Path("out").iterdir()] == [there]
    if there == "flicker.json":
        assert call(*BOTH, "--frames", "2", "--overwrite").exit_code == 0
        assert sorted(p.name for p in Path("out").iterdir()) == OUTPUTS
        assert "rows" in strict(Path("out/flicker.json").read_text())


def test_bad_input_is_one_line_and_nothing_is_written(workplace: Path) -> None:
    Path("more").mkdir()
    Path("more/one.safetensors").write_bytes(Path("one.safetensors").read_bytes())
    Path("more/pan.mp4").write_bytes(Path("pan.mkv").read_bytes())
    Path("words.mp4").write_text("words")
    Path("file").write_text("words")
    moving.write_frames(Path("tiny.mkv"), [moving.texture(24, 40)] * 3)
    moving.write_frames(Path("one.mkv"), [moving.texture(40, 40)])
    video = ["--video", "pan.mkv"]
    for arguments, message in (
        (["three", *video], "no checkpoint 'three'"),
        (["one.safetensors", "more/one.safetensors", *video], "two networks are called 'one'"),
        (["one.safetensors", *video, "--video", "more/pan.mp4"], "two clips are called 'pan'"),
        (["one.safetensors", "--video", "none.mp4"], "none.mp4: no such file"),
        (["one.safetensors", "--video", "words.mp4"], "words.mp4: "),
        (["one.safetensors", "--video", "tiny.mkv"], "tiny.mkv: 40x24 pixels are too few"),
        (["one.safetensors", "--video", "one.mkv"], "one.mkv: one frame only"),
        (["one.safetensors", *video, "--size", "31"], "--size must be 32 or more, got 31"),
        (["one.safetensors", *video, "--smooth", "1"], "--smooth must be 0 to 0.95, got 1"),
        (["one.safetensors", *video, "-o", "file"], "-o file: a file, where a folder"),
    ):
        assert_one_line(call(*arguments), message)
        assert not Path("out").exists() or not list(Path("out").iterdir())


def test_no_output_replaces_a_clip_or_another_output(workplace: Path) -> None:
    Path("out").mkdir()
    clip = Path("out/pan-one.mp4")
    clip.write_bytes(Path("pan.mkv").read_bytes())
    clips = ["--video", "pan.mkv", "--video", str(clip), "--overwrite"]
    told = "out/pan-one.mp4: one of the clips itself; choose another -o"
    assert_one_line(call("one.safetensors", *clips), told)
    assert clip.read_bytes() == Path("pan.mkv").read_bytes()
    Path("a-b.mkv").write_bytes(Path("pan.mkv").read_bytes())
    Path("a.mkv").write_bytes(Path("pan.mkv").read_bytes())
    Path("b-one.safetensors").write_bytes(Path("one.safetensors").read_bytes())
    clips = ["--video", "a.mkv", "--video", "a-b.mkv"]
    told = "out/a-b-one.mp4 would be written twice; rename a clip or a network"
    assert_one_line(call("one.safetensors", "b-one.safetensors", *clips), told)


@pytest.mark.parametrize("package", ["cv2", "scipy", "matplotlib", "av"])
def test_a_missing_package_is_said_before_anything_is_measured(
    workplace: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = call(*BOTH)
    assert_one_line(result, f"this needs {package}: pip install 'faststyle-trainer[flicker]'")
    assert not Path("out").exists()


def test_a_clip_among_the_checkpoints_is_told_where_it_belongs(workplace: Path) -> None:
    result = call("one.safetensors", "--video", "pan.mkv", "still.mkv")
    assert result.exit_code == 2
    assert "still.mkv is a clip; write --video still.mkv" in result.stderr


def test_options_of_compare_are_not_those_of_flicker(workplace: Path) -> None:
    before = ["--painting", "x.png", "--checkpoint", "x", "--photos", "x", "-o", "x"]
    result = CliRunner().invoke(app, ["compare", *before, "flicker", *BOTH])
    assert result.exit_code == 2
    assert "options go after 'flicker'" in result.stderr
    assert CliRunner().invoke(app, ["compare", "flickr"]).exit_code == 2


def test_ctrl_c_ends_with_130_and_leaves_no_half_clip(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(FlickerMeter):
        def add(self, *arguments: Any) -> Any:
            if self.frames == 3:
                signal.raise_signal(signal.SIGINT)
            return super().add(*arguments)

    monkeypatch.setattr(command, "FlickerMeter", Interrupted)
    result = call(*BOTH)
    assert (result.exit_code, result.stdout) == (130, "")
    assert "stopped: stopped at frame 4 of pan.mkv" in result.stderr
    assert list(Path("out").iterdir()) == []


def test_a_stopped_run_leaves_no_old_figures_beside_new_clips(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(*BOTH, "--frames", "2").exit_code == 0
    before = {name: Path("out", name).read_bytes() for name in OUTPUTS}
    # What stops a run before it measures loses nothing.
    assert call(*BOTH, "--overwrite", "--size", "31").exit_code == 1
    assert {name: Path("out", name).read_bytes() for name in OUTPUTS} == before

    class Interrupted(FlickerMeter):
        def figures(self) -> Any:
            signal.raise_signal(signal.SIGINT)  # after the first clip
            return super().figures()

    monkeypatch.setattr(command, "FlickerMeter", Interrupted)
    result = call(*BOTH, "--frames", "4", "--overwrite")
    assert (result.exit_code, result.stdout) == (130, "")
    left = [name for name in OUTPUTS if name.endswith(".mp4")]
    assert sorted(p.name for p in Path("out").iterdir()) == left
    assert Path("out/pan-one.mp4").read_bytes() != before["pan-one.mp4"]
    assert Path("out/still-one.mp4").read_bytes() == before["still-one.mp4"]


def test_a_disk_that_is_full_is_one_line_and_leaves_no_half_clip(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = command.SegmentEncoder.write

    def fail(self: Any, path: Path, frames: Any) -> Any:
        if "two" in path.name:
            next(iter(frames))
            raise OSError(28, "No space left on device")
        return write(self, path, frames)

    monkeypatch.setattr(command.SegmentEncoder, "write", fail)
    result = call(*BOTH)
    assert_one_line(result, "cannot write out/pan-two.mp4: no space left on device")
    assert list(Path("out").iterdir()) == []


def test_a_network_that_fails_leaves_no_half_clip(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise ImageError("too large")

    monkeypatch.setattr(command.Stylizer, "frame", fail)
    assert_one_line(call(*BOTH), "too large")
    assert list(Path("out").iterdir()) == []
