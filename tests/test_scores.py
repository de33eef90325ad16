"""Scores of checkpoints, and of folders of pictures that are matched with photos by name."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw
from PIL import Image, ImageOps

from faststyle.checkpoint import About, save_checkpoint
from faststyle.compare.scores import judge_results
from faststyle.errors import CheckpointError, ImageError
from faststyle.images import read_image
from faststyle.judge import LAYERS, Judge, Scores, protocol_photo
from faststyle.networks.johnson import Johnson
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.stylize.stylizer import Stylizer


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    draw(20, 270, 300).save(folder / "a.png")
    draw(21, 310, 260).save(folder / "b.png")
    return folder


def score(
    subject: str | Path, painting: Path, album: Path, vgg_file: Path, **options: Any
) -> Scores:
    return judge_results(subject, painting, album, vgg_weights=vgg_file, device="cpu", **options)[0]


def expected_scores(
    outputs: list[Any], photos: list[Path], painting: Path, weights: VGGWeights
) -> dict[str, Any]:
    judge = Judge(load_vgg(weights, LAYERS), read_image(painting))
    return dataclasses.asdict(judge.score(outputs, [protocol_photo(photo) for photo in photos]))


def test_photos_are_no_nearer_to_the_painting_than_themselves(
    painting: Path, album: Path, vgg_file: Path
) -> None:
    scores, vgg = judge_results(album, painting, album, vgg_weights=vgg_file, device="cpu")
    assert (scores.style_closed, scores.content_distance) == (0, 0)
    assert (scores.border, scores.photos) == (1, 2)
    assert scores.style_distance > 0
    assert vgg == "vgg16-tiny"


def test_photos_that_differ_in_their_extension_only_are_told_apart(
    tmp_path: Path, painting: Path, vgg_file: Path
) -> None:
    for i, name in enumerate(("a.png", "a.bmp")):
        draw(30 + i, 256, 256).save(tmp_path / name)
    scores = score(tmp_path, painting, tmp_path, vgg_file)
    assert (scores.style_closed, scores.content_distance, scores.photos) == (0, 0, 2)


def test_pictures_of_whole_photos_are_matched_by_name_and_cropped_as_they_are(
    tmp_path: Path, painting: Path, album: Path, vgg_file: Path, tiny_weights: VGGWeights
) -> None:
    for name, kind in (("a", "bmp"), ("b", "tiff")):
        with Image.open(album / f"{name}.png") as photo:
            ImageOps.invert(photo).save(tmp_path / f"{name}.{kind}")
    draw(40, 50, 50).save(tmp_path / "unrelated.png")
    photos = [album / "a.png", album / "b.png"]
    outputs = [protocol_photo(tmp_path / name) for name in ("a.bmp", "b.tiff")]
    expected = expected_scores(outputs, photos, painting, tiny_weights)
    assert dataclasses.asdict(score(tmp_path, painting, album, vgg_file)) == pytest.approx(expected)
    assert expected["content_distance"] > 0.1


def test_a_checkpoint_is_judged_by_its_pictures_of_the_photos(
    tmp_path: Path,
    painting: Path,
    album: Path,
    vgg_file: Path,
    tiny_weights: VGGWeights,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    about = About({"name": "johnson", "width": 4, "blocks": 1}, {}, {}, "none", {})
    path = tmp_path / "checkpoints" / "dots.safetensors"
    save_checkpoint(path, Johnson(4, 1), about)
    stylizer = Stylizer.load(path, device="cpu")
    photos = [album / "a.png", album / "b.png"]
    expected = expected_scores(
        [stylizer(protocol_photo(p)) for p in photos], photos, painting, tiny_weights
    )
    assert dataclasses.asdict(score(path, painting, album, vgg_file)) == pytest.approx(expected)
    monkeypatch.chdir(tmp_path)
    one = expected_scores([stylizer(protocol_photo(photos[0]))], photos[:1], painting, tiny_weights)
    assert dataclasses.asdict(score("dots", painting, album, vgg_file, limit=1)) == pytest.approx(
        one
    )


def test_a_picture_that_is_missing_is_named(
    tmp_path: Path, painting: Path, album: Path, vgg_file: Path
) -> None:
    shutil.copy(album / "a.png", tmp_path)
    with pytest.raises(
        ImageError, match=r": no picture named as b\.png; name pictures as their photos$"
    ):
        score(tmp_path, painting, album, vgg_file)
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    with pytest.raises(ImageError, match=r": no picture named as a\.png and 1 more; name"):
        score(tmp_path, painting, album, vgg_file)
    assert score(album, painting, album, vgg_file, limit=1).photos == 1
    for name in ("a.webp", "a.jpg", "b.jpg"):
        shutil.copy(album / "a.png", tmp_path / name)
    with pytest.raises(ImageError, match=r"several pictures named a; which is .*a\.png\?"):
        score(tmp_path, painting, album, vgg_file)


def test_an_empty_folder_of_pictures_is_told_from_one_of_photos(
    tmp_path: Path, painting: Path, album: Path, vgg_file: Path
) -> None:
    with pytest.raises(ImageError, match=rf"^{tmp_path}: no images in it"):
        score(tmp_path, painting, album, vgg_file)
    with pytest.raises(ImageError, match=rf"^`photos` {tmp_path}: no images in it"):
        score(album, painting, tmp_path, vgg_file)


def test_a_name_of_no_checkpoint_and_no_folder_is_refused(
    painting: Path, album: Path, vgg_file: Path
) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint 'nothing'"):
        score("nothing", painting, album, vgg_file)
