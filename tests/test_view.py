"""What the objective looks at: where crops lie, and that they are a function of seed and step."""

from __future__ import annotations

import torch

from faststyle.training.recipe import Recipe
from faststyle.training.view import draw_view

RECIPE = Recipe(image_size=72, shift=8)


def test_crops_lie_inside_and_take_every_place() -> None:
    views = [draw_view(RECIPE, step) for step in range(400)]
    assert {view.side for view in views} == {64}
    assert {view.top for view in views} == set(range(9))
    assert {view.left for view in views} == set(range(9))


def test_the_margin_is_never_seen() -> None:
    recipe = Recipe(image_size=88, shift=8, margin=8)
    views = [draw_view(recipe, step) for step in range(400)]
    assert {view.side for view in views} == {64}
    assert {view.top for view in views} == {view.left for view in views} == set(range(8, 17))


def test_the_crop_is_those_pixels() -> None:
    images = torch.rand(2, 3, 72, 72)
    view = draw_view(RECIPE, 5)
    expected = images[:, :, view.top : view.top + 64, view.left : view.left + 64]
    assert torch.equal(view.of(images), expected)
    assert (view.top, view.left) != (0, 0)


def test_it_is_a_function_of_seed_and_step() -> None:
    assert draw_view(RECIPE, 3) == draw_view(RECIPE, 3)
    assert len({draw_view(RECIPE, step) for step in range(20)}) > 15
    other = Recipe(image_size=72, shift=8, seed=1)
    assert [draw_view(other, s) for s in range(5)] != [draw_view(RECIPE, s) for s in range(5)]


def test_without_shift_everything_is_seen() -> None:
    images = torch.rand(1, 3, 48, 48)
    assert draw_view(Recipe(image_size=48), 7).of(images) is images
