"""`faststyle compare` and `faststyle judge`, as a person calls them."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from conftest import draw
from PIL import Image
from typer.testing import CliRunner

from faststyle.checkpoint import About, save_checkpoint
from faststyle.cli import app
from faststyle.compare import slow_vs_fast
from faststyle.files import sha256
from faststyle.networks.johnson import Johnson
from faststyle.perceptual.loss_config import LossConfig
from faststyle.slow.descent import Descent, Step
from faststyle.training.recipe import Recipe

NETWORK = {"name": "johnson", "width": 4, "blocks": 1}
TERMS = {"content_rel", "style_rel", "total", "seconds"}
SCORES = [
    *["style_distance", "style_closed", "content_distance", "clear_distance", "light"],
    *["grid", "stripes", "border", "edges", "high_frequency", "photos"],
]
STEPS = 2
OBJECTIVE = LossConfig(
    content_layers={"relu4_2@1/2": 1.0}, style_layers={"relu1_1": 1.0, "relu5_1@1/2": 1.0}
)


def save_network(path: str, painting: Path, seed: int = 0) -> None:
    torch.manual_seed(seed)
    recipe = Recipe(painting_size=80, network=NETWORK, loss=OBJECTIVE).to_dict()
    about = About(
        NETWORK,
        {"file": painting.name, "sha256": sha256(painting)},
        {"id": "vgg16-tiny"},
        "none",
        recipe,
    )
    save_checkpoint(Path(path), Johnson(4, 1), about)


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a painting, two checkpoints of it and one of another, three photos."""
    monkeypatch.chdir(tmp_path)
    draw(1, 130, 140).save("dots.png")
    draw(2, 130, 140).save("squares.png")
    save_network("checkpoints/dots.safetensors", Path("dots.png"))
    save_network("checkpoints/more.safetensors", Path("dots.png"), seed=1)
    save_network("checkpoints/squares.safetensors", Path("squares.png"))
    Image.new("L", (90, 90), 90).save("plain.png")
    os.mkdir("album")
    for i, name in enumerate(("a.png", "b.jpg", "c.png")):
        draw(20 + i, 100 + 9 * i, 110).save(Path("album") / name)
    os.mkdir("nothing")
    return tmp_path


@pytest.fixture
def call(vgg_file: Path) -> Any:
    def run(command: str, *arguments: str) -> Result:
        options = ["--painting", "dots.png", "--photos", "album", "--device", "cpu"]
        options += ["--vgg-weights", str(vgg_file)]
        if command == "compare":
            options += ["--steps", str(STEPS), "--size", "32", "-o", "report", "--refine", "0"]
        # Of an option that is given twice the last one counts.
        return CliRunner().invoke(app, [command, *options, *arguments])

    return run


def files() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path().rglob("*")) if p.is_file()}


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("command", ["judge", "compare"])
def test_help_gives_an_example(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, [command, "-h"])
    assert result.exit_code == 0
    assert f"Example: faststyle {command} " in result.stdout
    assert re.search(r"Example: .*--painting data/styles/nocturne\.png", result.stdout)


def test_compare_says_the_answer_and_writes_the_report(call: Any) -> None:
    result = call("compare", "--checkpoint", "dots", "--limit", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("On 2 photos at 32 px the network needs ")
    # A network with random weights, which no step is needed to equal.
    told = "By its own objective the network is no better than {} on 2 of 2 photos: "
    assert lines[1].startswith(told.format("the photo itself"))
    assert lines[2].startswith(told.format("noise"))
    assert lines[3:] == ["wrote report/report.html"]
    assert " after 0 " not in result.stdout
    assert sorted(os.listdir("report")) == ["report.csv", "report.html", "report.json"]
    report = strict(Path("report/report.json").read_text())
    assert [row["photo"] for row in report["fast"]] == ["a.png", "b.jpg"]
    assert len(report["slow"]["dots"]) == 2 * 2 * (STEPS + 1)
    with open("report/report.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 + 2 * 2 * (STEPS + 1)
    page = Path("report/report.html").read_text()
    assert "<div>dots: mode relative, content_layers relu4_2@1/2 1, " in page
    assert "<div>dots: 80</div>" in page


def test_compare_refines_the_network_s_pictures(call: Any) -> None:
    result = call("compare", "--checkpoint", "dots", "--limit", "2", "--refine", "0.05")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1].startswith("Refined, its objective is ")
    report = strict(Path("report/report.json").read_text())
    assert report["about"]["refine"] == 0.05
    assert [row["photo"] for row in report["refined"]] == ["a.png", "b.jpg"]
    for before, after in zip(report["fast"], report["refined"], strict=True):
        assert after["total"] < before["total"]
        assert after["seconds"] > before["seconds"]
        assert after["step"] >= 1
    assert "Network, refined: " in Path("report/report.html").read_text()
    assert call("compare", "--checkpoint", "dots", "--refine", "-1", "--overwrite").exit_code == 1


def test_compare_prints_an_object_for_each_size_and_checkpoint(call: Any) -> None:
    checkpoints = ["--checkpoint", "dots", "--checkpoint", "more"]
    result = call("compare", *checkpoints, "--size", "96", "--limit", "1", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    summaries = [strict(line) for line in result.stdout.splitlines()]
    assert [(s["checkpoint"], s["size"]) for s in summaries] == [
        ("dots", 32),
        ("more", 32),
        ("dots", 96),
        ("more", 96),
    ]
    for summary in summaries:
        assert summary["photos"] == 1
        assert set(summary["fast"]) == TERMS
        assert [(r["init"], r["step"]) for r in summary["slow"]] == [
            (init, step) for init in ("content", "noise") for step in range(STEPS + 1)
        ]
        assert all(set(row) == {"init", "step"} | TERMS for row in summary["slow"])
        for key in ("equal_step", "speedup", "equal_seconds", "reached"):
            assert list(summary[key]) == ["content", "noise"]
        for init in ("content", "noise"):  # the one photo got there, or did not
            assert (summary["equal_step"][init] is None) == (summary["reached"][init] == 0)
            assert (summary["speedup"][init] is None) == (summary["reached"][init] == 0)
        judge = summary["judge"]
        if summary["size"] == 32:
            assert judge == {}  # too small for it
        else:
            assert list(judge["fast"]) == SCORES
            assert [(s["init"], s["step"]) for s in judge["slow"]] == [
                ("content", STEPS),
                ("noise", STEPS),
            ]
            assert all(list(scores) == ["init", "step", *SCORES] for scores in judge["slow"])
    page = Path("report/report.html").read_text()
    assert "from the photo, by the objective of dots: objective" in page
    assert "<div>more: mode relative, content_layers relu4_2@1/2 1, " in page


BAD: dict[str, tuple[list[str], str]] = {
    "another painting": (
        ["--checkpoint", "squares"],
        "checkpoints/squares.safetensors was trained for another paint",
    ),
    "a photo for a folder": (
        ["--checkpoint", "dots", "--photos", "dots.png"],
        "--photos dots.png: a file, where a folder of pictures is expected",
    ),
    "a painting for a checkpoint": (
        ["--checkpoint", "dots.png"],
        "dots.png: a picture, where a trained style is expected",
    ),
    "painting of one colour": (
        ["--checkpoint", "dots", "--painting", "plain.png"],
        "plain.png: all of one colour, there is no style to be learned",
    ),
    "missing folder": (
        ["--checkpoint", "dots", "--photos", "none"],
        "--photos none: no such folder",
    ),
    "folder without images": (
        ["--checkpoint", "dots", "--photos", "nothing"],
        "--photos nothing: no images in it",
    ),
    "unknown checkpoint": (["--checkpoint", "dost"], "no checkpoint 'dost'"),
    "small size": (
        ["--checkpoint", "dots", "--size", "16"],
        "--size 16: an image of 8x8 pixels is too small for relu",
    ),
    "no steps": (["--checkpoint", "dots", "--steps", "0"], "--steps and --size must be 1 or more"),
    "negative size": (
        ["--checkpoint", "dots", "--size", "-1"],
        "--steps and --size must be 1 or more",
    ),
    "no photos": (["--checkpoint", "dots", "--limit", "0"], "--limit must be 1 or more, got 0"),
    "unknown optimizer": (
        ["--checkpoint", "dots", "--optimizer", "sgd"],
        "unknown optimizer 'sgd'. Allowed: adam, lb",
    ),
    "missing painting": (
        ["--checkpoint", "dots", "--painting", "none.png"],
        "none.png: no such file",
    ),
    "missing weights": (
        ["--checkpoint", "dots", "--vgg-weights", "none.pth"],
        "none.pth: no such file of VGG weights",
    ),
    "unknown device": (["--checkpoint", "dots", "--device", "gpu"], "unknown device 'gpu'"),
    "report on a file": (
        ["--checkpoint", "dots", "-o", "dots.png"],
        "-o dots.png: a file, where a folder for the rep",
    ),
    "same checkpoint twice": (
        ["--checkpoint", "dots", "--checkpoint", "dots"],
        "two checkpoints are called 'dots'",
    ),
}


def assert_one_line(result: Result, message: str) -> None:
    # Any other exception would be a traceback.
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith(f"error: {message}")


@pytest.mark.parametrize("case", BAD)
def test_bad_input_of_compare_gives_one_line_and_writes_nothing(call: Any, case: str) -> None:
    before = files()
    arguments, message = BAD[case]
    assert_one_line(call("compare", *arguments), message)
    assert files() == before
    assert not (slow_vs_fast.cache_folder() / "slow").exists()


def test_a_report_is_replaced_only_with_overwrite(call: Any) -> None:
    for name in ("report.html", "report.json", "report.csv"):
        Path("report").mkdir(exist_ok=True)
        Path("report", name).write_text("the old one")
        before = files()
        told = f"report/{name} is there already: replace it with --overwrite, or choose another -o"
        assert_one_line(call("compare", "--checkpoint", "dots"), told)
        assert files() == before
        Path("report", name).unlink()
    Path("report", "report.html").write_text("the old one")
    result = call("compare", "--checkpoint", "dots", "--limit", "1", "--overwrite")
    assert result.exit_code == 0, result.stderr
    assert Path("report/report.html").read_text() != "the old one"


def test_panoramas_are_compared_in_their_middle_and_never_equal_at_step_0(call: Any) -> None:
    os.mkdir("wide")
    draw(5, 24, 240).save("wide/a.png")
    result = call("compare", "--checkpoint", "dots", "--photos", "wide", "--json")
    assert result.stderr == "note: a.png: 24x240 pixels, its middle is magnified to 32x32\n"
    summary = strict(result.stdout)
    for init in ("content", "noise"):
        assert summary["equal_step"][init] != 0
        assert summary["speedup"][init] != 0
        assert summary["reached"][init] + summary["start_as_good"][init] <= 1
    assert summary["start_as_good"]["content"] == 1  # random weights


def test_a_missing_package_is_said_before_anything_is_measured(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(slow_vs_fast, "compare", None)  # calling it would be a bug with a traceback
    result = call("compare", "--checkpoint", "dots")
    assert_one_line(result, "this needs matplotlib: pip install 'faststyle-trainer[compare]'")
    assert files() == before


def test_ctrl_c_ends_compare_with_130_and_the_same_command_goes_on(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Descent] = []

    class Interruptible(Descent):
        def run(self, steps: int, first: int = 0) -> Iterator[Step]:
            made.append(self)
            for now in super().run(steps, first):
                if (len(made), now.step) == (4, 1):
                    signal.raise_signal(signal.SIGINT)
                yield now

    monkeypatch.setattr(slow_vs_fast, "Descent", Interruptible)
    result = call("compare", "--checkpoint", "dots")
    assert (result.exit_code, result.stdout) == (130, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("stopped: ")
    assert line.endswith("at step 1 of b.jpg from noise; the same command goes on there")
    assert not Path("report").exists()
    assert call("compare", "--checkpoint", "dots").exit_code == 0
    # Three were kept, the fourth began again, and two more were left.
    assert len(made) == 4 + 3


@pytest.mark.parametrize("command", [["judge", "dots"], ["compare", "--checkpoint", "dots"]])
def test_the_painting_may_be_called_style(call: Any, command: list[str]) -> None:
    """--style is the older name of --painting, and errors name the new one."""
    before = files()
    result = call(*command, "--style", "none.png")
    assert_one_line(result, "none.png: no such file")
    if command[0] == "compare":
        result = call(*command, "--style", "squares.png")
        told = "dots.png: give that file as --painting"
        assert_one_line(result, "checkpoints/dots.safetensors was trained for another painting")
        assert result.stderr.endswith(f", {told}\n")
    assert files() == before


@pytest.mark.parametrize(
    "arguments", [[], ["--checkpoint", "dots", "--steps", "many"], ["--checkpoint"]]
)
def test_wrong_usage_of_compare_exits_with_2(call: Any, arguments: list[str]) -> None:
    before = files()
    assert call("compare", *arguments).exit_code == 2
    assert files() == before


def test_judge_prints_the_scores_of_a_checkpoint_and_of_a_folder(call: Any) -> None:
    before = files()
    for subject in ("dots", "album"):
        result = call("judge", subject, "--limit", "1")
        assert (result.exit_code, result.stderr) == (0, "")
        lines = dict(line.split() for line in result.stdout.splitlines())
        assert list(lines) == [*SCORES, "vgg"]
        assert (lines["photos"], lines["vgg"]) == ("1", "vgg16-tiny")
        scores = strict(call("judge", subject, "--limit", "1", "--json").stdout)
        assert list(scores) == SCORES
        assert {k: f"{scores[k]:.3f}" for k in SCORES[:-1]} == {k: lines[k] for k in SCORES[:-1]}
        if subject == "album":
            assert (scores["style_closed"], scores["content_distance"]) == (0, 0)
        else:
            assert scores["content_distance"] > 0
    assert files() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["stylized"],
            "stylized: no picture named as b.jpg and 1 more; name pictures as their photos",
        ),
        (["nothing"], "nothing: no images in it"),
        (["dost"], "no checkpoint 'dost'"),
        (["dots", "--photos", "none"], "--photos none: no such folder"),
        (["dots", "--photos", "nothing"], "--photos nothing: no images in it"),
        (["dots", "--painting", "none.png"], "none.png: no such file"),
        (["dots", "--photos", "dots.png"], "--photos dots.png: a file, where a folder of pict"),
        (["dots", "--painting", "plain.png"], "plain.png: all of one colour"),
        (["dots", "--limit", "0"], "--limit must be 1 or more, got 0"),
        (["dots", "--threads", "0"], "--threads must be 1 or more"),
    ],
)
def test_bad_input_of_judge_gives_one_line(call: Any, arguments: list[str], message: str) -> None:
    os.mkdir("stylized")
    draw(1, 30, 30).save("stylized/a.jpg")
    before = files()
    assert_one_line(call("judge", *arguments), message)
    assert files() == before
