from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from faststyle.checkpoint import (
    About,
    find_checkpoint,
    load_checkpoint,
    read_about,
    save_checkpoint,
)
from faststyle.errors import CheckpointError, OutputError
from faststyle.networks.johnson import Johnson

ABOUT = About(
    network={"name": "johnson", "width": 8, "blocks": 2},
    painting={"file": "dots.png", "sha256": "ab" * 32, "size": [80, 96]},
    vgg={"id": "vgg16-tiny", "license": "none"},
    photos="six photos",
    recipe={"steps": 3, "loss": {"strength": 1.5}},
    scores={"content_rel": 0.25, "style_rel": 0.5},
    versions={"faststyle": "0", "torch": "0"},
)

# A process of its own knows the file only, not how the network was made.
STYLIZE_ELSEWHERE = """
import sys, torch
from safetensors.torch import load_file, save_file
from faststyle.checkpoint import load_checkpoint
from pathlib import Path
torch.set_num_threads(1)
photo = load_file(sys.argv[2])["photo"]
with torch.no_grad():
    save_file({"stylized": load_checkpoint(Path(sys.argv[1]))[0](photo).contiguous()}, sys.argv[3])
"""


@pytest.fixture
def network() -> Johnson:
    torch.manual_seed(0)
    return Johnson(width=8, blocks=2).eval()


@pytest.fixture
def path(tmp_path: Path, network: Johnson) -> Path:
    save_checkpoint(tmp_path / "dots.safetensors", network, ABOUT)
    return tmp_path / "dots.safetensors"


def rewrite(path: Path, **changes: Any) -> None:
    """Change keys of the metadata; None removes a key."""
    metadata = {"format_version": 2, **asdict(ABOUT), **changes}
    text = json.dumps({k: v for k, v in metadata.items() if v is not None})
    path.write_bytes(save(load_file(path), metadata={"faststyle": text}))


def test_what_is_saved_makes_the_same_pixels_elsewhere(
    tmp_path: Path, path: Path, network: Johnson
) -> None:
    photo = torch.rand(1, 3, 33, 50, generator=torch.Generator().manual_seed(1))
    save_file({"photo": photo}, tmp_path / "photo.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other process
    try:
        with torch.no_grad():
            expected = network(photo)
    finally:
        torch.set_num_threads(threads)
    files = [path, tmp_path / "photo.safetensors", tmp_path / "stylized.safetensors"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(
        [sys.executable, "-c", STYLIZE_ELSEWHERE, *map(str, files)], env=environment, check=True
    )
    got = load_file(tmp_path / "stylized.safetensors")["stylized"]
    assert float(expected.std()) > 0.01
    assert torch.equal(got, expected)


def test_loading_gives_weights_and_metadata_as_they_were(path: Path, network: Johnson) -> None:
    loaded, about = load_checkpoint(path)
    assert about == read_about(path) == ABOUT
    assert not loaded.training
    state = network.state_dict()
    assert list(loaded.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_the_file_is_plain_safetensors_with_one_json_text(path: Path) -> None:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]
    assert list(metadata) == ["faststyle"]
    assert json.loads(metadata["faststyle"])["format_version"] == 2
    assert json.loads(metadata["faststyle"])["painting"]["file"] == "dots.png"


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path, network: Johnson) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        save_checkpoint(tmp_path / "file" / "a.safetensors", network, ABOUT)


@pytest.mark.parametrize("version", [1, 3, "1.1"])
def test_another_version_says_which_one_it_is(path: Path, version: Any) -> None:
    rewrite(path, format_version=version)
    with pytest.raises(
        CheckpointError, match=f"format version {version}, this faststyle reads version 2; update"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_file_is_an_error(path: Path, keep: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"dots\.safetensors: damaged or truncated") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_what_is_not_ours_is_an_error(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match="not a checkpoint of faststyle: it has no 'faststyle' metadata"
    ):
        load_checkpoint(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello " * 100)
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_checkpoint(tmp_path / "text.safetensors")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"faststyle convert \S+/other\.pth -o other\.safetensors"
    ):
        load_checkpoint(tmp_path / "other.pth")


@pytest.mark.parametrize("path_below", ["none.safetensors", "folder"])
def test_what_is_not_there_is_an_error(tmp_path: Path, path_below: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_about(tmp_path / path_below)


@pytest.mark.parametrize("key", ["network", "painting", "vgg", "photos", "recipe"])
def test_missing_metadata_is_named(path: Path, key: str) -> None:
    rewrite(path, **{key: None})
    with pytest.raises(CheckpointError, match=f"its metadata is incomplete .*'{key}'"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["", "{", "3", "[]", '"text"', "{}", "null"])
def test_metadata_that_is_no_table_is_an_error(path: Path, text: str) -> None:
    path.write_bytes(save(load_file(path), metadata={"faststyle": text}))
    with pytest.raises(CheckpointError, match="its metadata cannot be read"):
        read_about(path)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "johnson", "width": 16},
        {"name": "other"},
        {"name": "johnson", "depth": 3},
        {"width": "wide"},
        "johnson",
        3,
    ],
)
def test_weights_that_do_not_fit_the_network_are_an_error(path: Path, config: Any) -> None:
    rewrite(path, network=config)
    with pytest.raises(CheckpointError, match="its weights do not fit its network, train it again"):
        load_checkpoint(path)


def test_names_are_looked_for_in_the_folder_and_then_in_its_gallery(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gallery = tmp_path / "checkpoints" / "gallery"
    gallery.mkdir(parents=True)
    (gallery / "waves.safetensors").touch()
    (gallery / "dots.safetensors").touch()
    (gallery / "stars-mobile.safetensors").touch()
    assert find_checkpoint("stars") == Path("checkpoints/gallery/stars-mobile.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint 'star'"):
        find_checkpoint("star")
    with pytest.raises(CheckpointError, match="no checkpoint 's"):
        find_checkpoint("s*/..")
    assert find_checkpoint("waves") == Path("checkpoints/gallery/waves.safetensors")
    assert find_checkpoint("dots") == Path("checkpoints/gallery/dots.safetensors")
    (tmp_path / "checkpoints" / "dots.safetensors").touch()
    assert find_checkpoint("dots") == Path("checkpoints/dots.safetensors")
    assert find_checkpoint("dots.safetensors") == Path("dots.safetensors")
    assert find_checkpoint(str(path)) == path
    with pytest.raises(
        CheckpointError, match=r"no checkpoint 'wave', .*; at hand: dots, stars-mobile, waves$"
    ):
        find_checkpoint("wave")


def test_with_no_checkpoint_at_all_the_error_says_how_to_train_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="train one with: faststyle train --style PAINTING"):
        find_checkpoint("dots", tmp_path)
    (tmp_path / "dots.safetensors").mkdir()  # a folder is no checkpoint
    with pytest.raises(CheckpointError, match="no checkpoint 'dots'"):
        find_checkpoint("dots", tmp_path)
