"""A network of many paintings: trained, stopped, killed, resumed, used. With a tiny VGG."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw
from PIL import Image
from safetensors.torch import load_file
from test_processes import environment, start_until
from test_trainer import stop_after
from typer.testing import CliRunner

from faststyle import Stylizer
from faststyle.checkpoint import (
    MEANS,
    find_checkpoint,
    load_checkpoint,
    load_network,
    read_about,
    save_checkpoint,
)
from faststyle.cli import app
from faststyle.engines.options import EngineOptions
from faststyle.errors import CheckpointError, ImageError, Interrupted, RecipeError
from faststyle.networks import build_network
from faststyle.networks.layers import InstanceNorm
from faststyle.stylize.blend import can_be_mixed
from faststyle.training.photos import NumberedPhotos, SamplePhotos
from faststyle.training.recipe import Recipe, recipe_from_dict
from faststyle.training.report import Result
from faststyle.training.step import optimizers_of
from faststyle.training.train import train_style

pytestmark = pytest.mark.usefixtures("small_run")

ROOT = Path(__file__).parents[1]
TINY: dict[str, Any] = {
    "name": "collection",
    "steps": 6,
    "batch_size": 3,
    "image_size": 32,
    "painting_size": 48,
    "learning_rate": 5e-3,
    "workers": 0,
    "log_every": 2,
    "preview_every": 6,
    "state_every": 3,
    "average": 0.9,
    "schedule": "constant",
    "content_target": 0.5,
    "network": {"name": "mobile", "width": 4, "blocks": 1},
    "loss": {"content_layers": "gatys", "style_layers": "gatys"},  # 32 pixels are few
}


@pytest.fixture(scope="module")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four paintings, and two files that are none."""
    folder = tmp_path_factory.mktemp("paintings")
    for i, name in enumerate(("apples", "boats", "cats", "dunes")):
        draw(20 + i, 70, 90).save(folder / f"{name}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "README.md").write_text("about them")
    return folder


def tiny(**changes: Any) -> Recipe:
    return recipe_from_dict({**TINY, **changes})


@pytest.fixture
def train(paintings: Path, vgg_file: Path) -> Any:
    def run(recipe: Recipe | None = None, **options: Any) -> Result:
        style = options.pop("style", paintings)
        options = {"name": "four", "device": "cpu", **options}
        return train_style(style, recipe, vgg_weights=vgg_file, **options)

    return run


def test_a_folder_of_paintings_makes_one_network_of_all(train: Any) -> None:
    result = train(tiny())
    assert [name for name, _ in result.skipped] == ["broken.jpg"]
    assert result.judge is None
    about = read_about(result.checkpoint)
    assert [p["name"] for p in about.paintings] == ["apples", "boats", "cats", "dunes"]
    assert all(len(p["sha256"]) == 64 and p["balance"] > 0 for p in about.paintings)
    assert about.photos_seen == 18
    assert about.painting == {}
    weights = load_file(result.checkpoint)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert weights["encode1.1.weight"].shape == (4, 1)
    assert len(weights[MEANS]) == 4
    with Image.open(result.preview) as preview:
        assert preview.size == (2 * 96, 5 * 96)  # two photos, and a row for each painting
    run = json.loads(Path("outputs/four/run.json").read_text())
    assert run["photos_seen"] == 18
    assert [Path(p["file"]).stem for p in run["paintings"]] == ["apples", "boats", "cats", "dunes"]


def test_each_painting_is_a_style_of_its_own(train: Any, paintings: Path) -> None:
    train(tiny(steps=40, preview_every=40))
    photo = torch.rand(1, 3, 40, 48)
    pictures = [Stylizer.load(f"four:{name}", device="cpu")(photo) for name in ("apples", "dunes")]
    assert (pictures[0] - pictures[1]).abs().mean() > 1e-3
    about = read_about(find_checkpoint("four:apples"))
    assert about.painting["file"] == "apples.png"
    assert about.paintings == ()
    assert "paintings" not in about.network
    assert find_checkpoint("four:ap") == find_checkpoint("four:apples")
    with pytest.raises(CheckpointError, match=r"has no painting 'boots': Did you mean 'boats'"):
        find_checkpoint("four:boots")
    with pytest.raises(CheckpointError, match="holds 4 paintings; name one, as in four:apples"):
        load_checkpoint(find_checkpoint("four"))


def test_a_painting_is_as_precise_as_the_collection(train: Any) -> None:
    train(tiny())
    whole = find_checkpoint("four")
    for dtype in (torch.float16, torch.float32):
        half = Path(f"checkpoints/as_{str(dtype).rpartition('.')[2]}.safetensors")
        save_checkpoint(half, load_network(whole, read_about(whole)), read_about(whole), dtype)
        painting = load_file(find_checkpoint(f"{half.stem}:cats"))
        assert {value.dtype for value in painting.values()} == {dtype}


def test_a_blend_of_its_paintings_mixes_their_norms(train: Any) -> None:
    train(tiny())
    names = ["four:apples:3", "four:cats:1"]
    paths = [find_checkpoint(name.rpartition(":")[0]) for name in names]
    assert can_be_mixed(paths)
    photo = torch.rand(1, 3, 32, 32)
    mixed = Stylizer.blend(names, EngineOptions(device="cpu"))(photo)
    own, other = (load_checkpoint(path)[0] for path in paths)
    expected = {
        name: torch.lerp(value, other.state_dict()[name], 0.25)
        for name, value in own.state_dict().items()
    }
    own.load_state_dict(expected)
    with torch.no_grad():
        torch.testing.assert_close(mixed, own(photo), atol=1e-5, rtol=0)


def test_list_and_info_show_each_painting(train: Any) -> None:
    train(tiny())
    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    names = [row["name"] for row in listed]
    assert {"four:apples", "four:boats", "four:cats", "four:dunes"} <= set(names)
    assert "four" not in names
    about = CliRunner().invoke(app, ["info", "four", "--json"])
    assert len(json.loads(about.stdout)["paintings"]) == 4


def test_stopping_and_resuming_ends_in_the_same_bits(train: Any) -> None:
    recipe = tiny(steps=24, preview_every=24, state_every=24)
    whole = load_file(train(recipe, name="whole").checkpoint)
    with stop_after(13), pytest.raises(Interrupted):
        train(recipe, name="cut")
    newest = Path("outputs/cut/newest.safetensors")
    assert read_about(newest).photos_seen == 39  # to be used while it trains
    resumed = load_file(train(name="cut", resume=True).checkpoint)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_it_goes_on_from_its_own_checkpoint_with_other_photos(train: Any) -> None:
    """On a new machine there is the checkpoint only: photos go on where they were."""
    first = train(tiny()).checkpoint
    before = read_about(first)
    again = train(tiny(init=str(first), learning_rate=1e-9), name="again").checkpoint
    after = read_about(again)
    assert after.photos_seen == 36
    assert after.photos == before.photos
    balances = [[p["balance"] for p in about.paintings] for about in (before, after)]
    assert balances[0] == pytest.approx(balances[1], rel=0.5)
    for key, value in load_file(first).items():
        torch.testing.assert_close(load_file(again)[key], value, rtol=0, atol=2e-3)


def test_each_painting_gets_as_many_photos() -> None:
    photos = NumberedPhotos(SamplePhotos(0), 32, seed=0, paintings=5)
    drawn = [int(photos._painting(n)) for n in range(20)]
    turns = [drawn[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
    other = NumberedPhotos(SamplePhotos(0), 32, seed=1, paintings=5)
    assert [int(other._painting(n)) for n in range(20)] != drawn


def test_a_new_painting_learns_scales_and_shifts_alone(train: Any, painting: Path) -> None:
    base = train(tiny()).checkpoint
    changes = {"name": "instant", "train": "norms", "average": 0.0, "init": str(base)}
    result = train(tiny(**changes), style=painting, name="dots")
    assert result.judge is not None
    found = load_file(result.checkpoint)
    before = load_file(base)
    for name, value in found.items():
        many = before[name].float()
        if many.shape == value.shape:
            assert torch.equal(value, many), name
        else:
            assert not torch.equal(value, many[0]), name


def test_paintings_of_a_collection_learn_scales_and_shifts_alone(train: Any) -> None:
    base = train(tiny()).checkpoint
    result = train(tiny(train="norms", average=0.0, init=str(base)), name="again")
    before = load_file(base)
    found = load_file(result.checkpoint)
    for name, value in found.items():
        learns = value.shape[0] == 4 and value.dim() == 2  # a row for each painting
        assert learns != torch.equal(value, before[name]) or name == MEANS, name


@pytest.mark.parametrize(
    ("train", "init", "few", "everything"),
    [
        ("all", "base", True, True),
        ("norms", "base", False, False),
        ("auto", "base", True, False),
        ("auto", "base", False, True),
        ("norms", "scratch", True, True),
        ("auto", "scratch", True, True),
    ],
)
def test_what_learns(train: str, init: str, few: bool, everything: bool) -> None:
    network = build_network(TINY["network"])
    optimizers = optimizers_of(network, tiny(train=train, init=init), few)
    learn = {p for o in optimizers for group in o.param_groups for p in group["params"]}
    norms = {p for m in network.modules() if isinstance(m, InstanceNorm) for p in m.parameters()}
    assert learn == (set(network.parameters()) if everything else norms)
    assert learn == {p for p in network.parameters() if p.requires_grad}


def test_the_recipe_collection_needs_a_folder(train: Any, painting: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs a folder of paintings"):
        train(tiny(), style=painting)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no painting in this folder can be used"):
        train(tiny(), style=tmp_path / "empty")


def test_two_paintings_of_one_name_are_refused(train: Any, tmp_path: Path) -> None:
    for suffix in ("png", "jpg"):
        draw(0, 60, 60).save(tmp_path / f"a.{suffix}")
    with pytest.raises(ImageError, match="two paintings are called 'a'"):
        train(tiny(), style=tmp_path)


def test_a_collection_that_changed_is_not_resumed(
    train: Any, paintings: Path, tmp_path: Path
) -> None:
    with stop_after(4), pytest.raises(Interrupted):
        train(tiny())
    folder = tmp_path / "other"
    folder.mkdir()
    draw(20, 70, 90).save(folder / "apples.png")
    with pytest.raises(Exception, match="another painting"):
        train(style=folder, resume=True)


def command(paintings: Path, vgg_file: Path, *more: str) -> list[str]:
    sets = {
        "loss.content_layers": "gatys",
        "loss.style_layers": "gatys",
        "painting_size": 48,
        "image_size": 32,
        "network.width": 4,
        "network.blocks": 1,
        "shift": 0,
        "margin": 0,
        "log_every": 1,
        "state_every": 2,
    }
    options = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    fixed = ["--recipe", "collection", "--photos", "sample", "--device", "cpu", "--threads", "1"]
    weights = ["--vgg-weights", str(vgg_file), "--style", str(paintings), "--name", "four"]
    return [str(ROOT / "train.py"), *weights, *fixed, *options, *more]


@pytest.mark.slow
def test_kill_nine_costs_only_the_steps_since_the_last_state(
    paintings: Path, vgg_file: Path, tmp_path: Path
) -> None:
    started = command(paintings, vgg_file, "--steps", "60")
    process = start_until(started, tmp_path, 7)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = subprocess.run(
        [sys.executable, *started, "--resume"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    resumed = re.search(r"resumed after step (\d+)", done.stderr)
    assert resumed is not None
    assert int(resumed[1]) >= 6
    assert int(resumed[1]) % 2 == 0  # a state every two steps
    assert "left out broken.jpg" in done.stderr
    assert read_about(tmp_path / "checkpoints" / "four.safetensors").photos_seen == 120


@pytest.mark.slow
def test_two_processes_train_what_one_does(paintings: Path, vgg_file: Path, tmp_path: Path) -> None:
    """The same eight photos a step, for the same paintings: the same weights but for rounding."""
    found = {}
    for name, launch, batch in (
        ("one", [sys.executable], "4"),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"], "2"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        more = ["--steps", "6", "--batch-size", batch, "--set", "learning_rate=1e-4"]
        more += ["--precision", "float32"]  # in bf16 rounding alone turns the sign of Adam's steps
        done = subprocess.run(
            [*launch, *command(paintings, vgg_file, *more)],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        found[name] = load_file(folder / "checkpoints" / "four.safetensors")
        assert read_about(folder / "checkpoints" / "four.safetensors").photos_seen == 24
    # A normalisation takes these away: their gradients are rounding, of which Adam makes full
    # steps.
    idle = {key for key in found["one"] if key.endswith(".0.bias")} | {"trunk.0.second.1.bias"}
    assert len(idle) == 6
    for key in found["one"].keys() - idle:
        torch.testing.assert_close(
            found["two"][key], found["one"][key], rtol=2e-3, atol=2e-4, msg=key
        )
    photo = torch.rand(1, 3, 32, 32)
    name = str(
        read_about(tmp_path / "one" / "checkpoints" / "four.safetensors").paintings[1]["name"]
    )
    files = [tmp_path / run / "checkpoints" / "four.safetensors" for run in ("one", "two")]
    with torch.no_grad():
        one, two = (
            Stylizer.load(f"{file}:{name}", device="cpu", precision="float32")(photo)
            for file in files
        )
    torch.testing.assert_close(two, one, rtol=0, atol=2e-3)
