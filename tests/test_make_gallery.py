"""scripts/make_gallery with tiny networks: the same again, stopped and resumed, faults apart."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw
from PIL import Image
from test_trainer import TINY, stop_after
from typer.testing import CliRunner

import faststyle
from faststyle.checkpoint import About, read_about, read_weights, save_checkpoint
from faststyle.cli.common import Program
from faststyle.networks.johnson import Johnson
from faststyle.titles import read_titles
from faststyle.training.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("small_run")

ROOT = Path(__file__).parents[1]
SHIPPED = Path(faststyle.__file__).with_name("gallery")
TERMS = "6 drawn photos (research use)"
TABLE = """
notes = '''
All of them
are tiny.

They are quick.
'''

[dots]
title = "Dots | lines"
painter = "Anna"
year = 1901
licence = "public domain"
notes.johnson = "It is not without faults."
[blank]
title = "Blank"
"""
RECIPE = """
steps = {steps}
batch_size = 2
image_size = 32
painting_size = 48
workers = 0
state_every = 4
network = {{ name = "johnson", width = 4, blocks = 1 }}
loss = {{ content_layers = "gatys", style_layers = "gatys", style_weight = 5.0, mean_weight = 5.0 }}
"""


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules make_gallery and gallery_card."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    made = importlib.import_module("make_gallery")
    # No alarm for tiny networks; clips are for a test of their own.
    monkeypatch.setattr(made, "MOST", {"grid": 1e9})
    monkeypatch.setattr(made, "_clips", lambda folder, announce: [])
    return made


@pytest.fixture
def make(scripts: Any, painting: Path, photo_folder: Path, vgg_file: Path, tmp_path: Path) -> Any:
    """Run the script on two paintings, one of one colour, in the working folder."""
    (tmp_path / "paintings").mkdir()
    shutil.copy(painting, tmp_path / "paintings" / "dots.png")
    Image.new("RGB", (80, 80), "grey").save(tmp_path / "paintings" / "blank.png")
    (tmp_path / "held_out").mkdir()
    draw(50, 256, 260).save(tmp_path / "held_out" / "a.png")
    (tmp_path / "tiny.toml").write_text(RECIPE.format(steps=TINY["steps"]))
    program = Program()
    program.command()(scripts.make_gallery)

    def run(*args: str, gallery: str = "gallery", work: str = "work", table: str = TABLE) -> Any:
        Path(gallery).mkdir(exist_ok=True)
        Path(gallery, "paintings.toml").write_text(table)
        words = ["--paintings", "paintings", "--photos", str(photo_folder)]
        words += ["--judged-on", "held_out", "--photos-are", TERMS, "--license", "research use"]
        words += ["--recipe", "tiny.toml", "--networks", "johnson", "--compare-photos", "0"]
        words += ["--vgg-weights", str(vgg_file), "--device", "cpu", "--threads", "1"]
        words += ["--gallery", gallery, "--work", work]
        return CliRunner().invoke(program, [*words, *args])

    return run


def about(gallery: str = "gallery") -> About:
    return read_about(Path(gallery, "dots-johnson.safetensors"))


def test_a_network_is_trained_judged_and_shipped_and_one_that_fails_is_listed(make: Any) -> None:
    result = make("--compare-photos", "1", "--compare-steps", "2")
    assert result.exit_code == 1, result.output
    assert "dots-johnson: wrote gallery/dots-johnson.safetensors" in result.stdout
    assert "failed blank-johnson: paintings/blank.png: all of one colour" in result.stderr
    shipped = about()
    weights = read_weights(Path("gallery/dots-johnson.safetensors"))
    assert {str(value.dtype) for value in weights.values()} == {"torch.float16"}
    assert shipped.photos == TERMS
    assert shipped.license == "research use; none"  # of the photos; of the VGG weights
    assert shipped.recipe["photos"] == TERMS
    assert shipped.scores["photos"] == 1
    assert {"content_rel", "style_closed", "edges"} <= set(shipped.scores)
    assert shipped.measured["seconds"] > 0
    equal = shipped.measured["equal_step"]
    assert (equal["steps"], equal["photos"]) == (2, 1)
    card = Path("gallery/README.md").read_text()
    for part in (
        "| dots-johnson | Anna, Dots \\| lines, 1901 | johnson-4 | ",
        "| painting | Anna, Dots \\| lines, 1901 (public domain) |",
        f"| photos | {TERMS} |",
        "| steps | 8 |",
        f"| hours of training | {shipped.measured['seconds'] / 3600:.2f} |",
        "| equal L-BFGS step | ",
        "It is not without faults.",
        "\nAll of them are tiny.\n\nThey are quick.\n",
    ):
        assert part in card
    assert "blank" not in card
    assert str(Path.cwd()) not in card + str(shipped)


def test_the_same_seed_gives_the_same_scores_and_another_does_not(make: Any) -> None:
    for gallery, seed in (("one", "0"), ("two", "0"), ("three", "1")):
        make("--seed", seed, gallery=gallery, work=f"work-{gallery}")
    assert about("one").scores == about("two").scores
    assert about("one").scores != about("three").scores
    first, second = (read_weights(Path(g, "dots-johnson.safetensors")) for g in ("one", "two"))
    assert all((first[key] == second[key]).all() for key in first)


def test_what_is_finished_is_left_alone_and_what_was_stopped_goes_on(
    make: Any, scripts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stop_after(5):
        stopped = make()
    assert stopped.exit_code == 143, stopped.output  # SIGTERM
    assert "stopped after step 5 of 8" in stopped.stderr
    assert not Path("gallery/dots-johnson.safetensors").exists()
    make()
    make(gallery="whole", work="work-whole")
    assert about().scores == about("whole").scores
    for work in ("train_style", "judge_results"):  # neither is done again
        monkeypatch.setattr(scripts, work, None)
    Path("paintings/blank.png").unlink()
    Path("gallery/dots-johnson.safetensors").unlink()
    again = make()
    assert again.exit_code == 0, again.output
    assert about().scores == about("whole").scores


def test_the_table_says_how_strong_the_style_of_a_painting_is(
    make: Any, scripts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    made = scripts._make

    def keep(style: str, painting: Path, recipe: Any, settings: Any) -> Path:
        asked.append(recipe.loss.strength)
        target: Path = made(style, painting, recipe, settings)
        return target

    monkeypatch.setattr(scripts, "_make", keep)
    make(table=TABLE.replace("year = 1901", "strength = 2"))
    assert asked == [1.0, 2.0]  # blank, dots
    assert about().recipe["loss"]["strength"] == 2.0


def test_a_network_with_a_fault_is_not_shipped(
    make: Any, scripts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "MOST", {"border": 0.0})
    result = make()
    assert "failed dots-johnson: not shipped: border " in result.stderr
    assert not Path("gallery/dots-johnson.safetensors").exists()


def test_what_cannot_be_made_is_said_before_the_work(make: Any, photo_folder: Path) -> None:
    assert "would be trained on" in make("--judged-on", str(photo_folder / "more")).stderr
    assert "one johnson only" in make("--networks", "johnson,johnson-8").stderr
    assert "unknown network 'vgg'" in make("--networks", "vgg").stderr
    assert "--license" in make("--license", "").stderr
    draw(2, 80, 80).save("paintings/other.png")
    missing = make("--networks", "johnson")
    assert "failed other-johnson: gallery/paintings.toml has no entry [other]" in missing.stderr


def test_a_network_that_is_not_that_of_the_base_begins_from_scratch(scripts: Any) -> None:
    said: list[str] = []
    found = scripts._recipes("long", "mobile,johnson", {"seed": 3}, said.append)
    assert (found["mobile"].init, found["mobile"].copying) == ("base", 0)
    assert (found["johnson"].init, found["johnson"].copying) == ("scratch", 0.05)
    assert (found["mobile"].spread, found["johnson"].spread) == (0.1, 0)
    assert {recipe.seed for recipe in found.values()} == {3}
    assert len(said) == 1


def test_a_small_network_copies_the_one_in_the_gallery(
    make: Any, scripts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("paintings/blank.png").unlink()
    assert make().exit_code == 0
    asked: list[Any] = []
    monkeypatch.setattr(scripts, "TEACHER", "johnson")
    monkeypatch.setattr(scripts, "_make", lambda style, painting, recipe, _: asked.append(recipe))
    make("--networks", "small")
    assert [(r.name, r.teacher) for r in asked] == [("distill", "gallery/dots-johnson.safetensors")]


@pytest.mark.slow
def test_flicker_is_measured_on_clips(
    make: Any, scripts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = pytest.importorskip("moving")
    Path("clips").mkdir()
    frames = moving.still(np.asarray(draw(1, 64, 64)), 64, 64, 17, sigma=4)
    moving.write_frames(Path("clips/still.mkv"), frames)
    monkeypatch.setattr(scripts, "_clips", lambda folder, announce: [Path("clips/still.mkv")])
    make()
    flicker = about().measured["flicker"]
    assert flicker["clips"] == 1
    # Noise of 4 of 255 levels, cut to 8 bits, differs by twice its variance from frame to frame.
    assert flicker["error_of_clips"] == pytest.approx(2 * (4 / 255) ** 2, rel=0.1)
    assert flicker["noise_gain"] > 0
    assert "| flicker | warping error " in Path("gallery/README.md").read_text()


def test_the_card_of_the_gallery_is_up_to_date(scripts: Any) -> None:
    card = importlib.import_module("gallery_card").card(SHIPPED)
    assert card == (SHIPPED / "README.md").read_text()


def test_the_card_alone_says_what_is_known_and_no_more(make: Any, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    little = About(
        {"name": "johnson", "width": 4, "blocks": 1},
        {"name": "dots", "file": "dots.png"},
        {},
        "none",
        {},
    )
    save_checkpoint(gallery / "dots-johnson.safetensors", Johnson(4, 1), little)
    result = make("--cards")
    assert result.exit_code == 0, result.output
    card = (gallery / "README.md").read_text()
    assert "| dots-johnson | Anna, Dots \\| lines, 1901 | johnson-4 |  |  |  |  |  |  |  |" in card
    for unknown in ("hours", "machine", "command", "judged", "flicker", "equal", "half"):
        assert unknown not in card
    assert not (tmp_path / "work").exists()


def test_the_command_of_a_card_trains_with_the_same_recipe(scripts: Any) -> None:
    command = importlib.import_module("gallery_card").train_command
    for file in SHIPPED.glob("*.safetensors"):
        known = read_about(file)
        painting = known.painting["file"]
        strength = read_titles(SHIPPED).paintings[known.painting["name"]].strength
        recipe = "long" if strength == 1 else f"long --strength {strength}"
        if file.stem.endswith("-small"):
            recipe = f"distill --teacher {file.stem.removesuffix('-small')}-mobile"
        assert command(known) == (
            f"faststyle train --painting {painting} --photos FOLDER --recipe {recipe}"
        )
    small = load_recipe("distill", (), {"teacher": "dots-mobile"}).to_dict()
    copied = About({"name": "mobile", "width": 32}, known.painting, {}, "none", small)
    assert command(copied).endswith("--photos FOLDER --recipe distill --teacher dots-mobile")
    quick = load_recipe("quick", (), {"loss.strength": 2.0}).to_dict()
    stronger = About(quick["network"], known.painting, {}, "none", quick)
    assert command(stronger).endswith("--photos FOLDER --recipe quick --strength 2.0")
    recipe = {**known.recipe, "seed": 7, "init": "scratch", "copying": 0.05, "spread": 0.0}
    other = About({"name": "johnson"}, known.painting, {}, "none", recipe)
    assert command(other).endswith(
        "--recipe long --network johnson-32 --set copying=0.05 --init scratch --seed 7 "
        "--set spread=0.0"
    )


@pytest.mark.slow
def test_the_command_is_found_from_anywhere() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "make_gallery", "--help"],
        capture_output=True,
        text=True,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert "--judged-on" in done.stdout
