"""A network learns to copy another one, its teacher, before it paints itself. With a tiny VGG."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw, draw_batch, painted
from safetensors.torch import load_file
from test_collection import TINY as COLLECTION
from test_trainer import TINY, scalars, stop_after

from faststyle.checkpoint import find_checkpoint, load_checkpoint, read_about, save_checkpoint
from faststyle.errors import CheckpointError, Interrupted
from faststyle.training.recipe import recipe_from_dict
from faststyle.training.teacher import open_teacher
from faststyle.training.train import train_style

pytestmark = pytest.mark.usefixtures("small_run")

COPIES = {"steps": 160, "learning_rate": 2e-3, "log_every": 10, "warmup": 0.0}


@pytest.fixture(scope="module")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two paintings."""
    folder = tmp_path_factory.mktemp("paintings")
    for seed, name in enumerate(("apples", "boats")):
        draw(20 + seed, 70, 90).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def train(vgg_file: Path) -> Any:
    def run(style: Path, name: str = "taught", **settings: Any) -> Path:
        recipe = recipe_from_dict({**(COLLECTION if style.is_dir() else TINY), **settings})
        return train_style(style, recipe, name=name, vgg_weights=vgg_file, device="cpu").checkpoint

    return run


def test_it_comes_to_paint_what_its_teacher_paints(train: Any, painting: Path) -> None:
    """On photos that it never saw: a picture all grey would be off by the variance."""
    teacher = train(painting, "teacher", steps=10)
    taught = train(painting, **COPIES, copying=1.0, teacher=str(teacher))
    photos = draw_batch(3, 48, 64)
    wanted = painted(teacher, photos)
    variance = wanted.var(dim=(0, 2, 3), correction=0).mean()
    assert (painted(taught, photos) - wanted).square().mean() < 0.5 * variance
    asked = dict(scalars("taught", "style_rel"))
    assert set(asked.values()) == {0.0}  # VGG is not asked


def test_a_collection_teaches_each_of_its_paintings(train: Any, paintings: Path) -> None:
    checkpoint = train(paintings)
    teacher = open_teacher(str(checkpoint), ["boats", "apples"])
    assert teacher is not None
    photos = draw_batch(2, 48, 64)
    pictures = teacher.paint(photos, torch.tensor([1, 0]))
    for picture, photo, name in zip(pictures, photos, ("apples", "boats"), strict=True):
        alone = painted(find_checkpoint(f"{checkpoint}:{name}"), photo[None])[0]
        assert torch.allclose(picture, alone, atol=2e-3)  # that file has half precision
    entries = {entry["name"]: entry["balance"] for entry in read_about(checkpoint).paintings}
    assert teacher.balance().tolist() == pytest.approx([entries["boats"], entries["apples"]])


def test_a_network_that_only_copies_takes_over_the_weight_of_style(
    train: Any, painting: Path
) -> None:
    teacher = train(painting, "teacher", content_target=0.4, steps=20)
    network, of_teacher = load_checkpoint(teacher)
    save_checkpoint(teacher, network, dataclasses.replace(of_teacher, license="lent"))
    balance = of_teacher.painting["balance"]
    assert balance != 1
    taught = train(painting, copying=1.0, content_target=0.4, teacher=str(teacher))
    about = read_about(taught)
    assert about.painting["balance"] == pytest.approx(balance)
    assert "lent" in about.license.split("; ")
    assert about.recipe["teacher"] == teacher.name  # without the folders of this machine


def test_a_collection_is_copied_whole(train: Any, paintings: Path) -> None:
    teacher = train(paintings, "teacher")
    taught = train(paintings, copying=1.0, teacher=str(teacher), steps=4)
    assert len(read_about(taught).paintings) == 2


def test_stopping_and_resuming_ends_in_the_same_bits(
    vgg_file: Path, painting: Path, checkpoint: Path
) -> None:
    changes = {"steps": 8, "copying": 0.75, "teacher": str(checkpoint)}
    recipe = recipe_from_dict({**TINY, **changes})
    options: dict[str, Any] = {"vgg_weights": vgg_file, "device": "cpu"}
    whole = train_style(painting, recipe, name="whole", **options)
    with stop_after(4), pytest.raises(Interrupted):
        train_style(painting, recipe, name="parts", **options)
    parts = train_style(painting, recipe, name="parts", resume=True, **options)
    wanted = load_file(whole.checkpoint)
    for name, value in load_file(parts.checkpoint).items():
        assert torch.equal(value, wanted[name]), name


def test_teachers_that_cannot_teach_are_refused_before_anything_is_written(
    train: Any, painting: Path, paintings: Path, checkpoint: Path
) -> None:
    some = train(paintings, "some")
    with pytest.raises(CheckpointError, match="no checkpoint 'nobody'"):
        train(painting, copying=1.0, teacher="nobody")
    with pytest.raises(CheckpointError, match=r"some.safetensors does not hold dots"):
        train(painting, copying=1.0, teacher=str(some))
    with pytest.raises(CheckpointError, match="of one painting; 2 need a collection"):
        train(paintings, copying=1.0, teacher=str(checkpoint))
    assert not Path("outputs/taught").exists()
