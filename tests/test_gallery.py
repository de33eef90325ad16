"""Checkpoints in the gallery: named, licensed and judged, and as clean as their scores say."""

from __future__ import annotations

from pathlib import Path

import pytest

import faststyle
from faststyle.checkpoint import read_about
from faststyle.images import read_image
from faststyle.judge import border, light
from faststyle.sizes import crop_centre
from faststyle.stylize.stylizer import Stylizer
from faststyle.titles import read_titles
from faststyle.training.photos import held_out_photos

GALLERY = Path(faststyle.__file__).with_name("gallery")
SHIPPED = sorted(GALLERY.glob("*.safetensors"))
SMALL = sorted(GALLERY.glob("*-small.safetensors"))


def test_there_is_a_network_to_begin_with() -> None:
    assert {"great_wave-mobile", "the_scream-mobile"} <= {path.stem for path in SHIPPED}
    card = (GALLERY / "README.md").read_text()
    assert all(path.stem in card for path in SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_says_what_it_is_and_how_good(path: Path) -> None:
    about = read_about(path)
    style, _, kind = path.stem.rpartition("-")
    assert style == Path(about.painting["file"]).stem
    assert about.network["name"] == "mobile"
    assert kind == ("small" if about.recipe["name"] == "distill" else "mobile")
    assert "research use" in about.photos
    assert "research use" in about.license
    assert about.scores["photos"] == 100
    assert about.scores["grid"] <= 60  # published networks have 30 to 150
    assert about.scores["stripes"] <= 30
    assert about.scores["border"] <= 1.5
    assert about.scores["edges"] <= 0.5
    assert about.scores["style_closed"] > 0.45
    strength = read_titles(GALLERY).paintings[style].strength
    # A strong style, which is asked for by name, covers more of the photo.
    assert about.scores["clear_distance"] < (0.7 if strength == 1 else 1.6)
    assert about.scores["light"] > 0.7
    assert "/" not in about.recipe["photos"]


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_a_small_network_is_hardly_worse_than_the_one_that_it_copied(path: Path) -> None:
    about = read_about(path)
    teacher = read_about(GALLERY / f"{about.recipe['teacher']}.safetensors")
    assert about.painting["sha256"] == teacher.painting["sha256"]
    assert about.scores["style_closed"] >= teacher.scores["style_closed"] - 0.05
    assert about.scores["clear_distance"] <= teacher.scores["clear_distance"] + 0.05
    assert path.stat().st_size < 250_000


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_paints_the_light_of_the_photo(path: Path) -> None:
    """On two photos that it was not trained on, also at sizes that are no multiples of 4."""
    stylizer = Stylizer.load(path, engine="torch", device="cpu", precision="float32")
    for file, size in zip(held_out_photos() * 2, (256, 256, 203, 381), strict=True):
        photo = crop_centre(read_image(file), size)
        out = stylizer(photo)
        assert out.std() > 0.1  # neither blank nor grey
        assert light(out, photo) > 0.7
        assert border(out, photo) <= 2  # of single photos; the mean of many is in the metadata
