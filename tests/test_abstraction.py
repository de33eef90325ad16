"""Photos without fine texture, and where they are painted so."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw, painted, write_random_network

import faststyle.abstraction
import faststyle.stylize.huge
from faststyle.abstraction import RADIUS, abstract, reach_of
from faststyle.checkpoint import About, load_checkpoint, save_checkpoint
from faststyle.errors import ImageError, RecipeError
from faststyle.images import read_image
from faststyle.stylize.huge import abstract_rows
from faststyle.stylize.stylizer import Look, Stylizer
from faststyle.training.recipe import load_recipe
from faststyle.training.teacher import open_teacher


@pytest.fixture
def photo() -> torch.Tensor:
    """A photo with noise, (1, 3, 61, 83)."""
    smooth = read_image(draw(4, 61, 83))
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0))
    return (smooth + 0.05 * noise).clamp(0, 1)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """A random network that asks for photos without texture."""
    path = tmp_path / "calm.safetensors"
    write_random_network(path)
    _with_recipe(path, {"abstraction": 4.0})
    return path


def _with_recipe(path: Path, recipe: dict[str, float]) -> None:
    network, about = load_checkpoint(path)
    save_checkpoint(path, network, dataclasses.replace(about, recipe=recipe))


def _edge(slope: float, side: int = 48) -> torch.Tensor:
    """A dark and a bright half-plane, (1, 3, side, side), with an edge of that slope."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    bright = (y - side / 2 > slope * (x - side / 2)).float()
    return (0.2 + 0.6 * bright).expand(1, 3, -1, -1).contiguous()


def test_flat_photos_and_a_radius_of_zero_change_nothing(photo: torch.Tensor) -> None:
    flat = torch.full((1, 3, 40, 50), 0.3)
    assert float((abstract(flat, 6.0) - flat).abs().max()) < 0.501 / 255
    assert abstract(photo, 0.0) is photo


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, -2.0])
def test_edges_stay_sharp_while_noise_goes(slope: float) -> None:
    edge = _edge(slope)
    noisy = edge + 0.05 * torch.randn(edge.shape, generator=torch.Generator().manual_seed(1))
    off = (abstract(noisy, 6.0) - edge)[..., 8:-8, 8:-8]
    # A blur that takes as much of the noise leaves 0.3 along the edge.
    assert float(off.square().mean().sqrt()) < 0.025
    assert float(abstract(edge, 6.0).sub(edge).abs()[..., 8:-8, 8:-8].mean()) < 0.01


@pytest.mark.parametrize("turns", [0, 1])
def test_ellipses_lie_along_edges(turns: int) -> None:
    """Fine stripes are kept along their direction; a filter across them would make them grey."""
    stripes = torch.arange(64)[:, None] // 4 % 2 * 0.6 + 0.2
    image = stripes.expand(1, 3, 64, 64).rot90(turns, (2, 3)).contiguous()
    off = (abstract(image, 6.0) - image).abs()[..., 8:-8, 8:-8]
    assert float(off.mean()) < 0.02
    noise = 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    left = (abstract(image + noise, 6.0) - abstract(image, 6.0))[..., 8:-8, 8:-8]
    assert float(left.std()) < 0.7 * 0.02


def test_the_filter_turns_with_the_photo(photo: torch.Tensor) -> None:
    turned = abstract(photo.rot90(1, (2, 3)), 5.0).rot90(-1, (2, 3))
    off = (turned - abstract(photo, 5.0)).abs()
    # Points halfway between two pixels are rounded another way.
    assert float(off.mean()) < 1e-3


def test_strips_and_bands_change_nothing(
    photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = torch.cat([photo, photo.flip(3)])
    whole = abstract(both, 6.0)
    monkeypatch.setattr(faststyle.abstraction, "STRIP", 83 * 9)
    monkeypatch.setattr(faststyle.abstraction, "BAND", {"cpu": 83 * 4})
    # Another order of adding moves a few points to the next pixel, and a few to the next level.
    assert float((abstract(both, 6.0) - whole).abs().mean()) < 2e-5
    assert float((abstract(photo, 6.0) - whole[:1]).abs().mean()) < 2e-5


def test_no_pixel_depends_on_pixels_farther_than_the_reach(photo: torch.Tensor) -> None:
    other = photo.clone()
    other[..., 50:, :] = 1 - other[..., 50:, :]
    rows = 50 - reach_of(6.0)
    assert rows > 10
    assert torch.equal(abstract(photo, 6.0)[..., :rows, :], abstract(other, 6.0)[..., :rows, :])


def test_rows_in_8_bits_are_those_of_the_photo(
    photo: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = photo[0].mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    whole = abstract(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255, 6.0)
    monkeypatch.setattr(faststyle.stylize.huge, "STRIP", 83 * 9)
    abstract_rows(pixels, 6.0)
    wanted = whole[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, wanted)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 40)])
def test_small_photos(size: tuple[int, int]) -> None:
    tiny = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    found = abstract(tiny, 6.0)
    assert found.shape == tiny.shape
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_a_style_paints_the_abstracted_photo(style: Path, photo: torch.Tensor) -> None:
    stylizer = Stylizer.load(style, engine="torch")
    assert torch.allclose(stylizer(photo), painted(style, abstract(photo, 4.0)), atol=1e-5)
    assert torch.allclose(stylizer(photo, abstraction=0.0), painted(style, photo), atol=1e-5)
    other = stylizer(photo, abstraction=2.0)
    assert torch.allclose(other, painted(style, abstract(photo, 2.0)), atol=1e-5)


def test_batches_are_abstracted_too(style: Path, photo: torch.Tensor) -> None:
    from faststyle.images import open_picture

    stylizer = Stylizer.load(style, engine="torch")
    pictures = [open_picture(photo), open_picture(photo.flip(3))]
    for picture, one in zip(pictures, stylizer.stylize_batch(pictures), strict=True):
        assert torch.allclose(one.rgb, stylizer.stylize(picture).rgb, atol=1e-5)


def test_frames_are_abstracted_only_where_that_is_asked_for(
    style: Path, photo: torch.Tensor
) -> None:
    stylizer = Stylizer.load(style, engine="torch")
    frame = photo[0].mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    seen = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255

    def off(look: Look, wanted: torch.Tensor) -> float:
        found = torch.from_numpy(stylizer.frame(frame, look)).permute(2, 0, 1)[None] / 255
        return float((found - wanted).abs().max())

    assert off(Look(), painted(style, seen)) <= 1 / 255
    assert off(Look(keep_colors=False, mix=1.0), painted(style, seen)) <= 1 / 255
    assert off(Look(abstraction=4.0), painted(style, abstract(seen, 4.0))) <= 1 / 255


def test_tiles_paint_the_abstracted_photo(style: Path) -> None:
    large = read_image(draw(5, 300, 260))
    tiled = Stylizer.load(style, engine="torch", tile=128)(large)
    assert float((tiled - painted(style, abstract(large, 4.0))).abs().max()) < 0.02


def test_of_a_blend_the_larger_radius_counts(tmp_path: Path, photo: torch.Tensor) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, radius in zip(paths, (2.0, 5.0), strict=True):
        write_random_network(path)
        _with_recipe(path, {"abstraction": radius})
    stylizer = Stylizer.blend([str(path) for path in paths])
    assert stylizer.about is not None
    assert stylizer.about.abstraction == 5.0


def test_recipes_from_before_take_the_usual_radius_and_networks_of_others_none() -> None:
    about = About({"name": "mobile"}, {}, vgg={}, photos="none", recipe={})
    assert about.abstraction == 0.0
    assert dataclasses.replace(about, recipe={"steps": 550}).abstraction == RADIUS
    assert dataclasses.replace(about, recipe={"abstraction": 0.0}).abstraction == 0.0


@pytest.mark.parametrize("name", ["instant", "quick", "long", "full", "collection"])
def test_recipes_ask_for_it(name: str) -> None:
    assert load_recipe(name).abstraction == RADIUS


def test_a_copy_learns_it_from_its_teacher(style: Path, photo: torch.Tensor) -> None:
    assert load_recipe("distill", (), {"teacher": str(style)}).abstraction == 0.0
    teacher = open_teacher(str(style), ["calm"])
    assert teacher is not None
    which = torch.zeros(1, dtype=torch.long)
    assert torch.allclose(
        teacher.paint(photo, which), painted(style, abstract(photo, 4.0)), atol=1e-5
    )


@pytest.mark.parametrize("radius", [-1.0, 33.0, float("nan")])
def test_a_radius_that_makes_no_sense(radius: float) -> None:
    with pytest.raises(RecipeError, match="abstraction must be 0 .none. to 32 pixels"):
        load_recipe("quick", (), {"abstraction": radius})
    with pytest.raises(ImageError, match="`abstraction` must be 0 .none. to 32 pixels"):
        Look(abstraction=radius)


@pytest.mark.skipif(find_spec("pyvips") is None, reason="not installed: pyvips")
def test_on_disk_the_photo_is_abstracted_too(style: Path, tmp_path: Path) -> None:
    draw(5, 300, 260).save(tmp_path / "large.png")
    stylizer = Stylizer.load(style, engine="torch")
    for look, radius in ((Look(), 4.0), (Look(abstraction=2.0), 2.0)):
        stylizer.stylize_on_disk(tmp_path / "large.png", tmp_path / "out.png", 128, look)
        wanted = painted(style, abstract(read_image(tmp_path / "large.png"), radius))
        assert float((read_image(tmp_path / "out.png") - wanted).abs().max()) < 2.01 / 255
