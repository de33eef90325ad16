"""`faststyle slow` from files to files: input, output, messages, signals and errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from conftest import draw
from PIL import Image, ImageSequence
from torch import Tensor
from typer.testing import CliRunner

from faststyle.cli import app
from faststyle.errors import RecipeError
from faststyle.perceptual.loss_config import LossConfig
from faststyle.perceptual.losses import PerceptualLoss, Terms
from faststyle.perceptual.weights import VGGWeights
from faststyle.slow import optimize
from faststyle.slow import run as module
from faststyle.slow.optimize import PAPER, Progress, SlowConfig
from faststyle.slow.run import (
    SlowJob,
    SlowResult,
    configure,
    parse_layers,
    parse_objective,
    parse_painting,
    run_slow,
)

ROOT = Path(__file__).parents[1]
TERMS = (
    *("total", "content", "style", "mean", "tv", "light"),
    *("content_rel", "style_rel", "light_kept"),
)
HEIGHT = 48
WIDTH = 65
ONE_SIZE = ["--smallest", "48", "--optimizer", "adam", "--device", "cpu"]

Slow = Callable[..., Result]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a photo and two paintings."""
    monkeypatch.chdir(tmp_path)
    draw(0, HEIGHT, WIDTH).save("photo.png")
    draw(1, 130, 140).save("dots.png")
    draw(2, 130, 140).save("waves.png")
    return tmp_path


@pytest.fixture
def slow(workplace: Path, vgg_file: Path) -> Slow:
    """Run the command on the photo and a painting, with the arguments of a test."""

    def go(
        *arguments: str | Path,
        content: str = "photo.png",
        painting: str = "dots.png",
        output: str = "out.png",
    ) -> Result:
        paintings = ["--painting", painting] if painting else []
        files = [content, *paintings, "-o", output, "--vgg-weights", vgg_file]
        command = ["slow", *files, *ONE_SIZE, *arguments]
        return CliRunner().invoke(app, [str(a) for a in command])

    return go


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def coarse(picture: Image.Image | str) -> np.ndarray:
    """Return means over 6 x 5 pixels, which the 256 colours of a GIF hardly change."""
    array = pixels(picture) if isinstance(picture, str) else np.asarray(picture.convert("RGB"))
    return array[..., :3].reshape(HEIGHT // 6, 6, WIDTH // 5, 5, 3).mean((1, 3))


def distance(a: Image.Image | str, b: Image.Image | str) -> float:
    return float(np.abs(coarse(a) - coarse(b)).mean())


def frames_of(path: str) -> list[Image.Image]:
    with Image.open(path) as gif:
        return [frame.copy() for frame in ImageSequence.Iterator(gif)]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return all files below a folder with their bytes, and all folders."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


# Texts of the command line.


@pytest.mark.parametrize(
    ("text", "name", "weight"),
    [
        ("a.jpg", "a.jpg", 1.0),
        ("a.jpg:0.7", "a.jpg", 0.7),
        ("a.jpg:.5", "a.jpg", 0.5),
        ("a.jpg:2.", "a.jpg", 2.0),
        ("a.jpg:3e-1", "a.jpg", 0.3),
        ("a.jpg:+2", "a.jpg", 2.0),
        ("a.jpg:0", "a.jpg", 0.0),
        ("a.jpg:", "a.jpg:", 1.0),
        ("12:30 sketch.png", "12:30 sketch.png", 1.0),
        ("a:b:c.png:0.25", "a:b:c.png", 0.25),
        ("a:1:2", "a:1", 2.0),
        (r"C:\pictures\1.jpg", r"C:\pictures\1.jpg", 1.0),
        (r"C:\pictures\1.jpg:0.5", r"C:\pictures\1.jpg", 0.5),
        ("c:/a.jpg:1x", "c:/a.jpg:1x", 1.0),
        ("a.jpg:nan", "a.jpg:nan", 1.0),
        (":1", ":1", 1.0),
    ],
)
def test_a_weight_is_a_number_behind_the_last_colon(text: str, name: str, weight: float) -> None:
    assert parse_painting(text) == (Path(name), weight)


@pytest.mark.parametrize("text", ["a.jpg:-1", "a.jpg:-0.001", "a.jpg:1e999"])
def test_a_painting_of_negative_or_infinite_weight_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"`painting` {text}: a weight")):
        parse_painting(text)


def test_layers_have_weights_and_scales() -> None:
    assert parse_layers(["relu3_1", "relu2_1:0.5", "relu4_1@1/2:2"]) == {
        "relu3_1": 1.0,
        "relu2_1": 0.5,
        "relu4_1@1/2": 2.0,
    }
    for text in ("relu3_1:0", "relu3_1:-1", "relu3_1:1e999"):
        with pytest.raises(RecipeError, match="weight must be above 0"):
            parse_layers([text])


def settings(**changes: Any) -> tuple[SlowConfig, Path | None]:
    plain: dict[str, Any] = {
        "loss": parse_objective(),
        "dream": [],
        "init": "content",
        "precision": "auto",
    }
    return configure(**(plain | changes))


def test_without_options_all_is_the_default() -> None:
    assert settings() == (SlowConfig(), None)
    assert parse_objective("training") == LossConfig()


def test_options_change_the_objective() -> None:
    objective = parse_objective("paper", ["relu3_3"], ["relu2_1:2"], 0.5, 3.5)
    config, file = settings(loss=objective, dream=["relu4_3:0.1"], steps=7)
    loss = replace(
        PAPER,
        strength=0.5,
        tv_weight=3.5,
        content_layers={"relu3_3": 1.0},
        style_layers={"relu2_1": 2.0},
    )
    assert (config, file) == (SlowConfig(loss=loss, dream={"relu4_3": 0.1}, steps=7), None)


@pytest.mark.parametrize(
    ("init", "expected"), [("content", None), ("noise", None), ("style", None), ("a.png", "a.png")]
)
def test_a_start_is_a_word_or_a_file(init: str, expected: str | None) -> None:
    config, file = settings(init=init)
    assert file == (None if expected is None else Path(expected))
    assert config.init == (init if expected is None else "content")


# All options of the objective and of the descent, each away from its default.
EVERY_OPTION = """--painting waves.png:0.3 --mask left.png --mask right.png --size 40 --smallest 20
    --strength inf --tv 0.25 --layers training --content-layer relu3_3 --style-layer relu1_1:2
    --style-scale 1.5 --dream relu4_1:0.2 --pooling average --optimizer lbfgs --steps 9
    --init first.png --learning-rate 0.5 --average 0.75 --seed 11 --precision float32 --threads 1
    --json"""
EVERY_SETTING = SlowConfig(
    size=40,
    smallest=20,
    steps=9,
    optimizer="lbfgs",
    learning_rate=0.5,
    average=0.75,
    loss=LossConfig(
        strength=float("inf"),
        tv_weight=0.25,
        content_layers={"relu3_3": 1.0},
        style_layers={"relu1_1": 2.0},
    ),
    style_scale=1.5,
    pooling="average",
    dream={"relu4_1": 0.2},
    precision="float32",
    seed=11,
)


def as_tensor(path: str) -> Tensor:
    return torch.from_numpy(pixels(path) / 255).permute(2, 0, 1)[None].float()


def test_every_option_reaches_the_work(
    slow: Slow, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: dict[str, Any] = {}

    def spy(
        content: Tensor,
        styles: Any,
        config: SlowConfig,
        weights: VGGWeights,
        device: str,
        on_step: Any,
    ) -> None:
        got.update(styles=styles, config=config, weights=weights, device=device)
        on_step(Progress(9, 9, 20, 1.5, {"total": 2.0}, content, True))

    monkeypatch.setattr(module, "optimize_image", spy)
    left = np.zeros((10, 10), np.uint8)
    left[:, :5] = 255
    Image.fromarray(left).save("left.png")
    Image.fromarray(255 - left).save("right.png")
    draw(7, 30, 30).save("first.png")
    result = slow(*EVERY_OPTION.split(), painting="dots.png:0.7")
    assert (result.exit_code, result.stderr) == (0, "")
    assert torch.equal(got["config"].init, as_tensor("first.png"))
    assert replace(got["config"], init="content") == EVERY_SETTING
    assert (got["weights"].id, got["device"]) == ("vgg16-tiny", "cpu")
    first, second = got["styles"]
    assert (first.weight, second.weight) == (0.7, 0.3)
    assert torch.equal(first.painting, as_tensor("dots.png"))
    assert torch.equal(second.painting, as_tensor("waves.png"))
    assert np.array_equal(first.mask[0, 0].numpy() > 0.5, left > 0)
    assert np.array_equal(second.mask[0, 0].numpy() > 0.5, left == 0)
    assert json.loads(result.stdout) == {
        "output": "out.png",
        "size": [40, 54],
        "steps": 9,
        "seconds": 1.5,
        "terms": {"total": 2.0},
        "intermediates": [],
        "notes": [],
    }


def test_a_painting_may_be_called_style(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """--style is the older name of --painting; both may stand in one command."""
    got: list[tuple[Path, float]] = []

    def spy(job: SlowJob, *_: Any, **__: Any) -> SlowResult:
        got.extend(job.styles)
        return SlowResult(job.output, (HEIGHT, WIDTH), 1, 1.0, {})

    monkeypatch.setattr(module, "run_slow", spy)
    result = slow("--style", "waves.png:2")
    assert result.exit_code == 0, result.stderr
    assert got == [(Path("dots.png"), 1.0), (Path("waves.png"), 2.0)]
    result = slow("--style", "waves.png:-1", painting="")
    assert result.stderr == (
        "error: --painting waves.png:-1: a weight must not be negative, or infinite\n"
    )


def test_help_shows_the_panels_and_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["slow", "--help"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Example: faststyle slow photo.jpg --painting painting.jpg -o out.png" in result.stdout
    panels = re.findall(r"^╭─ ([\w ]+?) ─", result.stdout, re.MULTILINE)
    assert sorted(panels) == [
        "Arguments",
        "Descent",
        "Machine",
        "Objective",
        "On the way",
        "Options",
        "Output",
    ]
    assert all(
        f"--{name} " in result.stdout
        for name in ("painting", "mask", "dream", "init", "gif", "trace", "tv")
    )
    assert CliRunner().invoke(app, ["slow", "-h"]).stdout == result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["slow"],
        ["slow", "photo.png"],
        ["slow", "photo.png", "-o", "out.png", "--steps", "many"],
        ["slow", "--stile", "x"],
    ],
)
def test_wrong_usage_exits_with_2(workplace: Path, arguments: list[str]) -> None:
    before = tree(workplace)
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert tree(workplace) == before


# Files that are written.


@pytest.mark.parametrize(
    ("name", "kind"), [("o.png", "PNG"), ("o.jpg", "JPEG"), ("o.JPEG", "JPEG"), ("o.webp", "WEBP")]
)
def test_the_extension_is_the_format(slow: Slow, workplace: Path, name: str, kind: str) -> None:
    before = tree(workplace)
    result = slow("--steps", "1", output=f"new/deep/{name}")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(
        r"1 steps in \d+ s  content_rel [\d.]+  style_rel [\d.]+  total [\d.]+\n"
        rf"wrote new/deep/{name}\n",
        result.stdout,
    )
    assert set(tree(workplace)) - set(before) == {"new", "new/deep", f"new/deep/{name}"}
    with Image.open(f"new/deep/{name}") as image:
        assert (image.format, image.size) == (kind, (WIDTH, HEIGHT))


def test_photos_are_reduced_to_512_and_never_enlarged(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.LARGEST_DEFAULT == 512
    monkeypatch.setattr(module, "LARGEST_DEFAULT", 32)
    assert slow("--steps", "1").exit_code == 0
    assert pixels("out.png").shape == (32, 43, 3)  # 65 * 32 / 48 = 43.3
    monkeypatch.setattr(module, "LARGEST_DEFAULT", 64)
    assert slow("--steps", "1", "--overwrite").exit_code == 0
    assert pixels("out.png").shape == (HEIGHT, WIDTH, 3)
    # unless --size says so
    assert slow("--steps", "1", "--size", "60", "--overwrite").exit_code == 0
    assert pixels("out.png").shape == (60, 81, 3)


def test_the_last_image_is_written(slow: Slow) -> None:
    """Without style and smoothing the photo is the minimum: the file has its very pixels."""
    assert slow("--strength", "0", "--tv", "0", "--steps", "2").exit_code == 0
    assert np.array_equal(pixels("out.png"), pixels("photo.png"))
    assert slow("--steps", "4", "--overwrite").exit_code == 0
    assert np.abs(pixels("out.png") - pixels("photo.png")).mean() > 1


def test_the_alpha_of_a_photo_is_kept(slow: Slow) -> None:
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    Image.fromarray(np.dstack([pixels("photo.png").astype(np.uint8), alpha])).save("clear.png")
    assert slow("--steps", "1", content="clear.png").exit_code == 0
    assert np.array_equal(pixels("out.png")[..., 3], alpha)
    assert slow("--steps", "1", content="clear.png", output="out.jpg").exit_code == 0
    flat = pixels("out.jpg")
    assert flat.shape == (HEIGHT, WIDTH, 3)
    assert flat[:, 0].min() > 200  # where all is transparent: white


def test_kept_colours_are_those_of_the_photo(slow: Slow) -> None:
    """Where nothing is clipped all channels change alike, so their differences are the photo's."""
    assert slow("--keep-colors", "--steps", "6", "--strength", "inf").exit_code == 0
    out = pixels("out.png")
    photo = pixels("photo.png")
    inside = ((out > 0) & (out < 255)).all(2)
    assert inside.mean() > 0.5
    for a, b in ((0, 1), (2, 1)):
        difference = (out[..., a] - out[..., b]) - (photo[..., a] - photo[..., b])
        assert np.abs(difference[inside]).max() <= 1  # rounding
    assert np.abs(out - photo)[inside].mean() > 2
    assert slow("--steps", "6", "--strength", "inf", "--overwrite").exit_code == 0
    free = pixels("out.png")
    assert np.abs((free[..., 0] - free[..., 1]) - (photo[..., 0] - photo[..., 1])).max() > 5


def test_the_image_of_every_n_steps_is_kept(slow: Slow, workplace: Path) -> None:
    result = slow(
        "--steps", "7", "--save-every", "3", "--average", "0", "--json", output="o.ut.png"
    )
    assert json.loads(result.stdout)["intermediates"] == ["o.ut-000003.png", "o.ut-000006.png"]
    assert sorted(p.name for p in workplace.glob("o.ut*")) == [
        "o.ut-000003.png",
        "o.ut-000006.png",
        "o.ut.png",
    ]
    # Adam's third image is the same, however many follow
    slow("--steps", "3", "--average", "0", output="three.png")
    assert np.array_equal(pixels("o.ut-000003.png"), pixels("three.png"))
    assert not np.array_equal(pixels("o.ut-000006.png"), pixels("three.png"))


def test_the_last_image_is_not_kept_twice(slow: Slow, workplace: Path) -> None:
    slow("--steps", "6", "--save-every", "3")
    assert sorted(p.name for p in workplace.glob("out*")) == ["out-000003.png", "out.png"]


def test_images_on_the_way_up_have_the_size_of_the_result(slow: Slow, workplace: Path) -> None:
    """48 x 61 pixels are 24 x 30 at half the size, and those 48 x 60: no pixel must be lost."""
    array = np.asarray(draw(3, 48, 61))
    Image.fromarray(np.dstack([array, np.full((48, 61), 200, np.uint8)])).save("odd.png")
    result = slow(
        "--steps",
        "2",
        "--smallest",
        "24",
        "--save-every",
        "1",
        "--keep-colors",
        "--gif",
        "o.gif",
        content="odd.png",
    )
    assert (result.exit_code, result.stderr) == (0, "")
    found = sorted(workplace.glob("out*"))
    assert len(found) == 6  # sizes 24, 34 and 48, two steps each
    assert {pixels(path).shape for path in found} == {(48, 61, 4)}


def test_an_animation_shows_the_way(slow: Slow) -> None:
    assert (
        slow(
            "--steps", "5", "--gif", "way.gif", "--strength", "inf", "--learning-rate", "0.1"
        ).exit_code
        == 0
    )
    frames = frames_of("way.gif")
    assert [frame.info["duration"] for frame in frames] == [120] * 5 + [2000]
    assert {frame.size for frame in frames} == {(WIDTH, HEIGHT)}
    assert distance(frames[0], "photo.png") < 4
    assert distance(frames[-1], "out.png") < 4
    assert distance(frames[0], "out.png") > 6


def test_an_animation_ends_in_the_colours_of_the_result(slow: Slow) -> None:
    assert (
        slow(
            "--steps",
            "4",
            "--gif",
            "way.gif",
            "--strength",
            "inf",
            "--init",
            "noise",
            "--keep-colors",
        ).exit_code
        == 0
    )
    assert distance(frames_of("way.gif")[-1], "out.png") < 4


@pytest.mark.parametrize("steps", [3, 5, 9, 11])
def test_an_animation_has_few_frames_and_is_small(
    slow: Slow, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    monkeypatch.setattr(module, "GIF_FRAMES", 5)
    monkeypatch.setattr(module, "GIF_SIDE", 26)
    # Pillow joins equal frames, and a flat photo would have such. Noise changes at each step.
    assert (
        slow(
            "--steps", steps, "--gif", "way.gif", "--init", "noise", "--style-layer", "relu1_1"
        ).exit_code
        == 0
    )
    with Image.open("way.gif") as gif:
        assert gif.size == (26, 19)  # 48 * 26 / 65 = 19.2
        assert min(3, steps) <= gif.n_frames <= 5


def test_a_trace_has_a_line_for_each_step(slow: Slow) -> None:
    result = slow("--steps", "4", "--smallest", "24", "--trace", "t.jsonl", "--json")
    rows = [json.loads(line) for line in Path("t.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(13))  # sizes 24, 34 and 48
    assert [row["size"] for row in rows] == [24] * 4 + [34] * 4 + [48] * 5
    assert {tuple(row) for row in rows} == {("step", "size", "seconds", *TERMS, "rss_mb")}
    seconds = [row["seconds"] for row in rows]
    assert seconds[0] == 0
    assert seconds == sorted(seconds)
    assert seconds[-1] > 0
    assert all(50 < row["rss_mb"] < 100_000 for row in rows)  # torch alone takes more than 50 MiB
    final = json.loads(result.stdout)
    assert {name: rows[-1][name] for name in TERMS} == final["terms"]
    assert final["steps"] == 12


def test_terms_are_printed_every_n_steps(slow: Slow) -> None:
    result = slow("--steps", "7", "--print-every", "3")
    line = re.compile(
        r"step (\d+)/7  content_rel [\d.]+  style_rel [\d.]+  total [\d.]+  \d+:\d\d left"
    )
    found = [line.fullmatch(text) for text in result.stderr.splitlines()]
    assert all(found), result.stderr
    assert [int(match[1]) for match in found if match] == [0, 3, 6, 7]


def test_a_dream_needs_no_painting(slow: Slow) -> None:
    result = slow("--dream", "relu3_1:1", "--steps", "2", "--json", painting="")
    assert result.exit_code == 0, result.stderr
    assert set(json.loads(result.stdout)["terms"]) == {"total", "tv", "dream"}


def test_what_is_left_out_of_a_photo_is_told(slow: Slow, workplace: Path) -> None:
    first, second = (draw(seed, 64, 64) for seed in (1, 2))
    first.save(workplace / "photo.gif", save_all=True, append_images=[second])
    result = slow("--steps", "1", content="photo.gif")
    assert "only the first frame of an animation is used" in result.stderr


def test_it_starts_from_a_file(slow: Slow) -> None:
    result = slow("--init", "waves.png", "--steps", "1", "--learning-rate", "1e-6")
    assert result.exit_code == 0, result.stderr
    with Image.open("waves.png") as waves:
        expected = np.asarray(waves.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(pixels("out.png") - expected).mean() < 1


def test_vgg_weights_are_looked_for_where_none_are_given(
    workplace: Path, tiny_weights: VGGWeights
) -> None:
    asked = []

    def find() -> VGGWeights:
        asked.append(1)
        return tiny_weights

    job = SlowJob(Path("photo.png"), Path("out.png"), [(Path("dots.png"), 1.0)])
    result = run_slow(job, SlowConfig(steps=1, smallest=48), None, find, "cpu")
    assert (asked, result.output, result.size, result.steps) == (
        [1],
        Path("out.png"),
        (HEIGHT, WIDTH),
        1,
    )


# Bad input.


def break_things(folder: Path) -> None:
    """Put the bad inputs of `BAD` into a folder."""
    Path("text.jpg").write_text("no picture\n")
    Path("empty.png").touch()
    Path("file").touch()
    Path("folder.png").mkdir()
    Path("folder.gif").mkdir()
    Image.new("L", (20, 20)).save("black.png")
    Image.new("L", (20, 20), 255).save("white.png")
    draw(0, 12, 40).save("flat.png")
    Image.new("L", (90, 90), 90).save("plain.png")
    Path("out-000100.png").write_bytes(Path("photo.png").read_bytes())
    Path("link.png").symlink_to("photo.png")
    Path("out.png.probe").write_text("not ours")


PHOTO = ["photo.png", "--painting", "dots.png"]
OUT = ["-o", "out.png"]
BAD: dict[str, tuple[list[str], str]] = {
    "missing photo": (["none.png", "--painting", "dots.png", *OUT], "none.png: no such file"),
    "missing painting": (["photo.png", "--painting", "none.png", *OUT], "none.png: no such file"),
    "painting and new folder": (
        ["photo.png", "--painting", "none.png", "-o", "new/out.png"],
        "none.png: no such file",
    ),
    "painting with a bad weight": (
        ["photo.png", "--painting", "dots.png:x", *OUT],
        "dots.png:x: no such file",
    ),
    "painting of negative weight": (
        ["photo.png", "--painting", "dots.png:-1", *OUT],
        "must not be negative",
    ),
    "painting that is text": (
        ["photo.png", "--painting", "text.jpg", *OUT],
        "text.jpg: not an image that can be read",
    ),
    "painting that is empty": (
        ["photo.png", "--painting", "empty.png", *OUT],
        "empty.png: the file is empty",
    ),
    "photo that is a folder": (
        ["folder.png", "--painting", "dots.png", *OUT],
        "folder.png: a folder",
    ),
    "mask missing": ([*PHOTO, *OUT, "--mask", "none.png"], "none.png: no such file"),
    "mask black": (
        [*PHOTO, *OUT, "--mask", "black.png"],
        "black.png: the mask is black everywhere",
    ),
    "masks too few": (
        [*PHOTO, *OUT, "--painting", "waves.png", "--mask", "white.png"],
        "2 --painting and 1 --mask",
    ),
    "mask without painting": (
        ["photo.png", *OUT, "--mask", "white.png"],
        "0 --painting and 1 --mask",
    ),
    "start missing": (
        [*PHOTO, *OUT, "--init", "noize"],
        "unknown start 'noize'. Did you mean 'noise'?",
    ),
    "output over photo": (
        [*PHOTO, "-o", "photo.png"],
        "photo.png would be written over a file of this command",
    ),
    "output over photo, elsewhere": (
        [*PHOTO, "-o", "folder.png/../photo.png"],
        "would be written over",
    ),
    "output over a link to the photo": (
        ["link.png", "--painting", "dots.png", "-o", "photo.png"],
        "would be written over",
    ),
    "output over painting": ([*PHOTO, "-o", "dots.png"], "dots.png would be written over"),
    "output over mask": (
        [*PHOTO, "--mask", "white.png", "-o", "white.png"],
        "white.png would be written over",
    ),
    "output over start": (
        [*PHOTO, "--init", "waves.png", "-o", "waves.png"],
        "waves.png would be written over",
    ),
    "trace over output": ([*PHOTO, *OUT, "--trace", "out.png"], "out.png would be written over"),
    "trace over photo": ([*PHOTO, *OUT, "--trace", "photo.png"], "photo.png would be written over"),
    "trace over animation": (
        [*PHOTO, *OUT, "--gif", "a.gif", "--trace", "a.gif"],
        "a.gif would be written over",
    ),
    "image on the way over photo": (
        ["out-000100.png", "--painting", "dots.png", *OUT, "--save-every", "50"],
        "out-000100.png could be written over by --save-every",
    ),
    "unknown format": (
        [*PHOTO, "-o", "out.heic"],
        "out.heic: cannot write .heic; use jpeg, jpg, png, tif, tiff, webp",
    ),
    "no format": ([*PHOTO, "-o", "out"], "out: cannot write a file without extension"),
    "animation of another format": (
        [*PHOTO, *OUT, "--gif", "way.png"],
        "--gif way.png: an animation is a file",
    ),
    "output in a file": (
        [*PHOTO, "-o", "file/out.png"],
        "cannot write file/out.png: not a directory",
    ),
    "output deep in a file": (
        [*PHOTO, "-o", "file/new/out.png"],
        "cannot write file/new/out.png: not a directory",
    ),
    "output where a folder is": (
        [*PHOTO, "-o", "folder.png"],
        "folder.png: a folder, where a file is to be written",
    ),
    "output in no place for files": (
        [*PHOTO, "-o", "/proc/new/out.png"],
        "cannot write /proc/new/out.png",
    ),
    "name too long": ([*PHOTO, "-o", "o" * 300 + ".png"], "file name too long"),
    "animation where a folder is": ([*PHOTO, *OUT, "--gif", "folder.gif"], "folder.gif: a folder"),
    "trace in a file": (
        [*PHOTO, *OUT, "--trace", "file/t.jsonl"],
        "cannot write file/t.jsonl: not a directory",
    ),
    "unknown layers": (
        [*PHOTO, *OUT, "--layers", "papers"],
        "unknown --layers 'papers'. Did you mean 'paper'?",
    ),
    "unknown content layer": (
        [*PHOTO, *OUT, "--content-layer", "relu4_5"],
        "vgg16 has no layer 'relu4_5'",
    ),
    "unknown style layer": (
        [*PHOTO, *OUT, "--style-layer", "conv1_1:2"],
        "vgg16 has no layer 'conv1_1'",
    ),
    "unknown dream": ([*PHOTO, *OUT, "--dream", "relu3_9"], "vgg16 has no layer 'relu3_9'"),
    "unknown scale": ([*PHOTO, *OUT, "--dream", "relu3_1@1/3"], "unknown scale '1/3'"),
    "layer without weight": (
        [*PHOTO, *OUT, "--style-layer", "relu1_1:0"],
        "layer relu1_1: its weight must be above 0",
    ),
    "unknown optimizer": ([*PHOTO, *OUT, "--optimizer", "sgd"], "unknown optimizer 'sgd'"),
    "unknown pooling": ([*PHOTO, *OUT, "--pooling", "mean"], "unknown --pooling 'mean'"),
    "unknown precision": ([*PHOTO, *OUT, "--precision", "fp16"], "unknown --precision 'fp16'"),
    "negative strength": (
        [*PHOTO, *OUT, "--strength", "-1"],
        "--strength must be 0 or more, got -1",
    ),
    "no strength": ([*PHOTO, *OUT, "--strength", "nan"], "--strength must be 0 or more, got nan"),
    "negative tv": ([*PHOTO, *OUT, "--tv", "-1"], "--tv must be 0 or more"),
    "no tv": ([*PHOTO, *OUT, "--tv", "nan"], "--tv must be 0 or more"),
    "no style scale": ([*PHOTO, *OUT, "--style-scale", "inf"], "--style-scale must be above 0"),
    "no steps": ([*PHOTO, *OUT, "--steps", "0"], "--steps must be 1 or more"),
    "no size": ([*PHOTO, *OUT, "--size", "0"], "sizes must be 1 or more pixels, got 0"),
    "no smallest": ([*PHOTO, *OUT, "--smallest", "-2"], "sizes must be 1 or more pixels, got -2"),
    "no learning rate": (
        [*PHOTO, *OUT, "--learning-rate", "0"],
        "the learning rate must be above 0",
    ),
    "no decay": ([*PHOTO, *OUT, "--average", "1"], "at least 0 and below 1, got 1.0"),
    "negative seed": ([*PHOTO, *OUT, "--seed", "-1"], "--seed must be 0 or more"),
    "negative print": (
        [*PHOTO, *OUT, "--print-every", "-1"],
        "--print-every and --save-every must not be negative",
    ),
    "negative save": (
        [*PHOTO, *OUT, "--save-every", "-1"],
        "--print-every and --save-every must not be negative",
    ),
    "no threads": ([*PHOTO, *OUT, "--threads", "0"], "--threads must be 1 or more"),
    "painting of one colour": (
        ["photo.png", "--painting", "plain.png", *OUT],
        "plain.png: all of one colour, there is no style to be learned",
    ),
    "painting of few pixels": (
        ["photo.png", "--painting", "black.png", *OUT],
        "black.png: 20x20 pixels are too few to have strokes",
    ),
    "missing weights": ([*PHOTO, *OUT], "absent.pth: no such file of VGG weights"),
}
# Errors that are found only once VGG is there.
LATE: dict[str, tuple[list[str], str]] = {
    "size that is too small": (
        [*PHOTO, "-o", "new/out.png", "--size", "15"],
        "too small for relu5_1: its shorter side must be at least 16",
    ),
    "photo that is too small": (
        ["flat.png", "--painting", "dots.png", *OUT],
        "too small for relu5_1: its shorter side must be",
    ),
    "smallest that is too small": ([*PHOTO, *OUT, "--smallest", "8"], "too small for relu5_1"),
    "strokes that are too small": ([*PHOTO, *OUT, "--style-scale", "0.1"], "too small for relu5_1"),
    "paintings without weight": (
        ["photo.png", "--painting", "dots.png:0", *OUT],
        "the weights of styles must not be",
    ),
    "start from no painting": (
        ["photo.png", *OUT, "--init", "style"],
        "--init style needs a painting",
    ),
    "unknown device": ([*PHOTO, *OUT, "--device", "gpu"], "unknown device 'gpu'"),
    "another VGG": ([*PHOTO, *OUT, "--vgg", "vgg19"], "holds vgg16, where vgg19 was asked for"),
}


@pytest.mark.parametrize("case", [*BAD, *LATE])
def test_bad_input_gives_one_line_and_leaves_nothing(
    workplace: Path, vgg_file: Path, case: str
) -> None:
    """Weights are missing in the cases of `BAD`: other errors must come before a download."""
    break_things(workplace)
    before = tree(workplace)
    arguments, message = (BAD | LATE)[case]
    weights = ["--vgg-weights", "absent.pth" if case in BAD else str(vgg_file)]
    result = CliRunner().invoke(app, ["slow", *arguments, *weights])
    # anything else is a traceback
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert tree(workplace) == before


def test_a_place_that_nobody_may_write_to(slow: Slow) -> None:
    """/proc takes no files, not even from root."""
    result = slow(output="/proc/out.png")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "error: cannot write /proc/out.png: " in result.stderr


def test_an_output_that_is_there_is_replaced_only_at_the_end(slow: Slow, workplace: Path) -> None:
    Path("out.png").write_bytes(b"the old one")
    assert slow("--vgg-weights", "absent.pth", "--overwrite").exit_code == 1
    assert Path("out.png").read_bytes() == b"the old one"
    assert slow("--steps", "1", "--overwrite").exit_code == 0
    assert pixels("out.png").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("there", "arguments"),
    [
        ("out.png", []),
        ("way.gif", ["--gif", "way.gif"]),
        ("way.jsonl", ["--trace", "way.jsonl"]),
        ("out-000200.png", ["--save-every", "50"]),
    ],
)
def test_nothing_is_replaced_without_overwrite(
    slow: Slow, there: str, arguments: list[str]
) -> None:
    """It is said before weights are looked for: they may be a download."""
    Path(there).write_bytes(b"the old one")
    result = slow(*arguments, "--vgg-weights", "absent.pth")
    assert result.exit_code == 1
    told = f"error: {there}: there already; write over with --overwrite, or choose another name\n"
    assert result.stderr == told
    assert Path(there).read_bytes() == b"the old one"


def test_a_strip_is_refused_in_a_size_that_no_memory_holds(slow: Slow) -> None:
    draw(0, 20, 2000).save("thread.png")
    result = slow("--size", "512", content="thread.png")
    assert result.exit_code == 1
    told = "error: thread.png: the result would have 512x51200 pixels, at most 16,777,216 can be"
    assert result.stderr == f"{told} optimised; use --size 409\n"


# Early ends.


def at_look(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Terms], Terms]) -> None:
    """Let `act` change the terms at one evaluation of the objective, counted from 0."""
    original = PerceptualLoss.forward
    count = [0]

    def forward(self: PerceptualLoss, stylized: Tensor, targets: Any) -> Terms:
        terms = original(self, stylized, targets)
        count[0] += 1
        return act(terms) if count[0] == number + 1 else terms

    monkeypatch.setattr(optimize.PerceptualLoss, "forward", forward)


def test_a_term_that_is_not_finite_keeps_the_last_good_image(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        slow("--steps", "8", "--save-every", "4", "--average", "0", output="good.png").exit_code
        == 0
    )
    at_look(monkeypatch, 5, lambda terms: terms._replace(style=terms.style * float("nan")))
    result = slow("--steps", "8", "--average", "0", "--trace", "t.jsonl", "--gif", "o.gif")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: step 5: the style term is not finite; "
        "try a lower --learning-rate, or --optimizer adam. out.png is the image of step 4"
    ]
    assert np.array_equal(pixels("out.png"), pixels("good-000004.png"))
    assert len(Path("t.jsonl").read_text().splitlines()) == 5
    with Image.open("o.gif") as gif:
        assert gif.n_frames > 1


def test_its_step_is_counted_through_all_sizes(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes 24, 34 and 48, with three steps and four evaluations each: the sixth is at step 4."""
    at_look(monkeypatch, 5, lambda terms: terms._replace(total=terms.total / 0))
    result = slow("--steps", "3", "--smallest", "24")
    assert result.exit_code == 1
    assert "error: step 4: the total term is not finite" in result.stderr
    assert "out.png is the image of step 3\n" in result.stderr
    assert pixels("out.png").shape == (HEIGHT, WIDTH, 3)


def test_a_first_term_that_is_not_finite_leaves_nothing(
    slow: Slow, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_look(monkeypatch, 0, lambda terms: terms._replace(total=terms.total * float("nan")))
    before = tree(workplace)
    result = slow(output="new/out.png")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "error: step 0: the total term is not finite" in result.stderr
    assert tree(workplace) == before


def send(number: int) -> Callable[[Terms], Terms]:
    def act(terms: Terms) -> Terms:
        signal.raise_signal(number)
        return terms

    return act


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_the_image_so_far(
    slow: Slow, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.setattr(module, "GIF_FRAMES", 4)  # of steps 0, 4 and 8, and of the last one
    fast = ["--steps", "8", "--average", "0", "--learning-rate", "0.1"]
    assert slow(*fast, "--save-every", "2", output="good.png").exit_code == 0
    at_look(monkeypatch, 2, send(number))
    result = slow(*fast, "--trace", "t.jsonl", "--gif", "o.gif")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "stopped: stopped after step 2 of 8; out.png is the image so far\n"
    assert np.array_equal(pixels("out.png"), pixels("good-000002.png"))
    assert len(Path("t.jsonl").read_text().splitlines()) == 3
    first, last = frames_of("o.gif")
    assert distance(first, "photo.png") < 4
    assert distance(last, "out.png") < 4
    assert distance(first, "out.png") > 6


def test_a_signal_at_a_small_size_leaves_an_image_of_the_size_asked_for(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_look(monkeypatch, 1, send(signal.SIGINT))
    result = slow("--steps", "5", "--smallest", "24", "--keep-colors")
    assert (result.exit_code, pixels("out.png").shape) == (130, (HEIGHT, WIDTH, 3))
    assert "stopped after step 1 of 15" in result.stderr


def test_a_signal_before_the_first_step_leaves_the_start(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PerceptualLoss.__init__

    def init(self: PerceptualLoss, *arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        original(self, *arguments)

    monkeypatch.setattr(optimize.PerceptualLoss, "__init__", init)
    result = slow("--steps", "5")
    assert (result.exit_code, result.stdout) == (130, "")
    assert "stopped after step 0 of 5" in result.stderr
    assert np.array_equal(pixels("out.png"), pixels("photo.png"))


def test_a_signal_at_the_last_evaluation_comes_too_late(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_look(monkeypatch, 3, send(signal.SIGINT))
    result = slow("--steps", "3")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "wrote out.png" in result.stdout


def test_two_signals_in_one_step_end_it_at_once(
    slow: Slow, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(terms: Terms) -> Terms:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return terms

    at_look(monkeypatch, 2, act)
    before = tree(workplace)
    result = slow("--steps", "8")
    assert (result.exit_code, result.stderr) == (130, "stopped\n")
    assert tree(workplace) == before


def launch(code: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Start the command in a process of its own, `code` before it."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{code}\nfrom faststyle.cli import app\napp()", "slow", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside(
    workplace: Path, vgg_file: Path, number: signal.Signals, code: int
) -> None:
    arguments = [
        *PHOTO,
        *OUT,
        "--vgg-weights",
        str(vgg_file),
        *ONE_SIZE,
        "--steps",
        "100000",
        "--print-every",
        "1",
    ]
    process = launch("", *arguments, folder=workplace)
    assert process.stderr is not None
    assert any(line.startswith("step 3/") for line in process.stderr)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (code, "")
    assert re.fullmatch(
        r"stopped: stopped after step \d+ of 100000; out.png is the image so far",
        stderr.splitlines()[-1],
    )
    assert "Traceback" not in stderr
    assert pixels("out.png").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.slow
def test_two_signals_from_outside_do_not_wait_for_the_step(workplace: Path, vgg_file: Path) -> None:
    """Here a step takes ten minutes: the first signal waits for its end, the second does not."""
    code = """
import sys, time
from faststyle.perceptual.losses import PerceptualLoss

def wait(*_):
    print("looking", file=sys.stderr, flush=True)
    time.sleep(600)

PerceptualLoss.forward = wait
"""
    process = launch(
        code, *PHOTO, *OUT, "--vgg-weights", str(vgg_file), *ONE_SIZE, folder=workplace
    )
    assert process.stderr is not None
    assert any(line.startswith("looking") for line in process.stderr)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (130, "stopped\n")
    assert not Path("out.png").exists()
