"""Paintings that hold no style are refused; small ones and strips are said so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image

from faststyle.errors import ImageError
from faststyle.judge import LAYERS, Judge, protocol_photo
from faststyle.paintings import painting_note, read_painting
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.sizes import bounded_size, cut_strip, fit_bounded
from faststyle.training.painting import read_paintings
from faststyle.training.recipe import Recipe
from faststyle.training.step import build_objective


def flat(colour: tuple[int, ...]) -> Image.Image:
    return Image.new("RGBA" if len(colour) == 4 else "RGB", (200, 200), colour)


def paper() -> Image.Image:
    """White paper, scanned: grain of one level."""
    grain = np.random.default_rng(0).normal(250, 1, (200, 200, 3))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


BAD: dict[str, tuple[Image.Image, str]] = {
    "black": (flat((0, 0, 0)), "all of one colour"),
    "white": (flat((255, 255, 255)), "all of one colour"),
    "grey": (flat((128, 128, 128)), "all of one colour"),
    "red": (flat((200, 0, 0)), "all of one colour"),
    "transparent": (flat((0, 90, 200, 0)), "all of one colour"),
    "paper": (paper(), "all of one colour"),
    "one pixel": (draw(0, 1, 1), "1x1 pixels are too few"),
    "a stamp": (draw(0, 20, 20), "20x20 pixels are too few"),
    "a thread": (draw(0, 20, 2000), "20x2000 pixels are too few"),
    "a ribbon": (draw(0, 40, 2000), "longer than 32:1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_painting_without_a_style_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "bad.png"
    image, message = BAD[case]
    image.save(path)
    for read in (read_painting, read_paintings, Judge.load):
        with pytest.raises(ImageError, match=message) as error:
            read(path)  # type: ignore[operator]
        assert str(error.value).startswith(f"{path}: ")


def test_in_a_folder_it_is_left_out(tmp_path: Path) -> None:
    draw(0, 60, 60).save(tmp_path / "good.png")
    flat((0, 0, 0)).save(tmp_path / "black.png")
    found = read_paintings(tmp_path)
    assert [painting.name for painting in found] == ["good"]
    ((name, reason),) = found.left_out
    assert (name, reason[:17]) == ("black.png", "all of one colour")
    (tmp_path / "good.png").unlink()
    with pytest.raises(ImageError, match="no painting in this folder can be used; the first is al"):
        read_paintings(tmp_path)


def test_a_pale_painting_is_taken(tmp_path: Path) -> None:
    """White on white: brush strokes of a few levels."""
    strokes = np.asarray(draw(0, 200, 200)).astype(float)
    pale = Image.fromarray((240 + (strokes - 128) / 12).astype(np.uint8))
    pale.save(tmp_path / "pale.png")
    assert read_painting(tmp_path / "pale.png").shape == (1, 3, 200, 200)


@pytest.mark.parametrize(
    ("height", "width", "word"),
    [(128, 512, ""), (400, 300, ""), (127, 300, "soft"), (150, 900, "finer than painted")],
)
def test_what_suits_badly_is_said(height: int, width: int, word: str) -> None:
    note = painting_note(torch.zeros(1, 3, height, width), "a.png")
    assert (word in note) if word else note == ""
    assert note == "" or note.startswith("a.png: ")


def test_the_area_of_a_strip_is_bounded() -> None:
    assert bounded_size(300, 400, 384) == (384, 512)
    assert bounded_size(100, 400, 384) == (384, 1536)  # 4:1 is as before
    for size in (48, 384, 2000):
        h, w = bounded_size(100, 3200, size)
        assert h * w == pytest.approx(4 * size**2, rel=0.02)
        assert w / h == pytest.approx(32, rel=0.02)
    assert fit_bounded(torch.rand(1, 3, 3200, 100), 64).shape == (1, 3, 736, 23)


def test_a_strip_is_bounded_wherever_it_is_looked_at(tiny_weights: VGGWeights) -> None:
    strip = torch.rand(1, 3, 40, 400)
    recipe = Recipe(painting_size=96)
    (seen,) = build_objective(recipe, [strip], tiny_weights).paintings
    assert seen.shape[-2] * seen.shape[-1] <= 4.1 * 96**2
    judge = Judge(load_vgg(tiny_weights, LAYERS), strip, 96)
    assert judge.painting.shape[-2] * judge.painting.shape[-1] <= 4.1 * 144**2


def test_the_middle_of_a_strip() -> None:
    image = torch.arange(1000.0).expand(1, 3, 10, 1000)
    assert cut_strip(image)[0, 0, 0].tolist() == list(range(480, 520))
    assert cut_strip(image.transpose(2, 3)).shape == (1, 3, 40, 10)
    assert torch.equal(cut_strip(image[..., :40]), image[..., :40])


def test_the_photo_of_a_strip_is_its_middle() -> None:
    """Cut before it is enlarged: 8x8000 pixels would become 256x256000."""
    picture = draw(3, 8, 8000)
    found = protocol_photo(picture, 256)
    assert found.shape == (1, 3, 256, 256)
    middle = protocol_photo(picture.crop((3996, 0, 4004, 8)), 256)
    assert (found - middle)[..., 48:-48].abs().max() < 4 / 255
