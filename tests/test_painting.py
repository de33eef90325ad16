"""Paintings: read once, whatever happens to their file afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from conftest import draw

from faststyle.errors import ImageError
from faststyle.training.painting import PaintingSet, read_painting, read_paintings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("b.png", "a.jpg")):
        draw(i, 40, 50).save(tmp_path / name)
    (tmp_path / "c.webp").write_bytes(b"nothing")
    (tmp_path / ".hidden.png").write_bytes(b"nothing")
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "more").mkdir()
    return tmp_path


def test_a_painting_is_its_file_and_its_pixels(folder: Path) -> None:
    painting = read_painting(folder / "b.png")
    assert painting.name == "b"
    assert painting.sha256 == hashlib.sha256((folder / "b.png").read_bytes()).hexdigest()
    assert painting.image.shape == (1, 3, 40, 50)
    (folder / "b.png").unlink()
    assert painting.sha256  # nothing is read again


def test_a_folder_is_read_by_name_and_bad_files_are_left_out(folder: Path) -> None:
    found = read_paintings(folder)
    assert found.is_collection
    assert str(found) == "2 paintings"
    assert [painting.name for painting in found] == ["a", "b"]
    assert [name for name, _ in found.left_out] == ["c.webp"]
    assert "not an image" in found.left_out[0][1]


def test_a_file_is_one_painting(folder: Path) -> None:
    found = read_paintings(folder / "b.png")
    assert not found.is_collection
    assert ([painting.name for painting in found], found.left_out) == (["b"], ())
    assert str(found) == str(folder / "b.png")
    with pytest.raises(ImageError, match="no such file"):
        read_paintings(folder / "none.png")


def test_the_hash_knows_each_painting_and_their_order(folder: Path) -> None:
    first, second = read_paintings(folder)
    sets = [PaintingSet(which) for which in ((first,), (first, second), (second, first))]
    assert sets[0].sha256 == first.sha256
    assert len({found.sha256 for found in sets}) == 3
