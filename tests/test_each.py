"""Many paintings in one command: the same bits as alone, failures apart, stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw
from PIL import Image
from safetensors.torch import load_file
from test_processes import ROOT, TINY, run, start_until
from test_trainer import stop_after, tiny
from typer.testing import CliRunner

from faststyle.cli import app
from faststyle.errors import (
    CheckpointError,
    ImageError,
    Interrupted,
    PhotosError,
    RecipeError,
    StateError,
)
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.training.each import EachResult, name_paintings, train_each
from faststyle.training.photos import SamplePhotos
from faststyle.training.recipe import Recipe
from faststyle.training.train import train_style
from faststyle.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("small_run")

NAMES = ("apples", "boats", "cats")
# With a critic, a weight of style that changes, and a view that moves.
ALL: dict[str, Any] = {
    "steps": 14,
    "image_size": 52,
    "shift": 4,
    "content_target": 0.3,
    "adversarial_weight": 1.0,
    "stability": 5.0,
}


@pytest.fixture(scope="module")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three paintings, and one of one colour."""
    folder = tmp_path_factory.mktemp("paintings")
    for i, name in enumerate(NAMES):
        draw(20 + i, 70, 90).save(folder / f"{name}.png")
    Image.new("RGB", (80, 80), "grey").save(folder / "blank.png")
    (folder / "README.md").write_text("about them")
    return folder


@pytest.fixture
def train(paintings: Path, vgg_file: Path) -> Any:
    def run(recipe: Recipe | None = None, **options: Any) -> EachResult:
        folder = options.pop("folder", paintings)
        result = train_each(folder, recipe, vgg_weights=vgg_file, device="cpu", **options)
        assert result is not None
        return result

    return run


def names(result: EachResult) -> list[str]:
    return [one["name"] for one in result.trained]


def same(path: Path, other: Path) -> bool:
    weights = load_file(path)
    others = load_file(other)
    return all(torch.equal(value, others[key]) for key, value in weights.items())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_ends_in_the_same_bits_as_alone(
    train: Any, paintings: Path, vgg_file: Path, accumulate: int
) -> None:
    recipe = tiny(**ALL, accumulate=accumulate)
    result = train(recipe, at_once=2)
    assert names(result) == list(NAMES)
    assert [name for name, _ in result.failed] == ["blank"]
    assert "all of one colour" in result.failed[0][1]
    for name in NAMES:
        alone = train_style(
            paintings / f"{name}.png",
            recipe,
            name=f"{name}-alone",
            vgg_weights=vgg_file,
            device="cpu",
        )
        assert same(Path("checkpoints") / f"{name}.safetensors", alone.checkpoint), name
        run = json.loads(Path(f"outputs/{name}/run.json").read_text())
        assert run["status"] == "finished"
        assert run["photos_seen"] == 28 * accumulate


def test_features_of_photos_are_computed_once_for_all(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    targets = PerceptualLoss.targets
    monkeypatch.setattr(
        PerceptualLoss, "targets", lambda self, x: (calls.append(x.shape), targets(self, x))[1]
    )
    decoded = []
    photo = SamplePhotos.photo
    monkeypatch.setattr(
        SamplePhotos, "photo", lambda self, n, a: (decoded.append(n), photo(self, n, a))[1]
    )
    train(tiny(), at_once=3)
    of_batches = [shape for shape in calls if shape[0] == 2]
    assert len(of_batches) == 8
    assert decoded == list(range(16))


def test_one_that_fails_while_it_trains_does_not_stop_the_others(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = Trainer.learn

    def broken(self: Any, batch: Any, photos: torch.Tensor) -> bool:
        if self.paintings[0].name == "apples" and self.state.step == 3:
            self.loss.balance.fill_(float("nan"))
        return learn(self, batch, photos)

    monkeypatch.setattr(Trainer, "learn", broken)
    result = train(tiny())
    assert names(result) == ["boats", "cats"]
    failed = dict(result.failed)
    assert failed.keys() == {"apples", "blank"}
    assert "term is not finite" in failed["apples"]
    assert not Path("checkpoints/apples.safetensors").exists()


def test_a_network_of_one_painting_teaches_no_others(train: Any, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="of one painting; 4 need a collection"):
        train(tiny(copying=1.0, init="scratch", teacher=str(checkpoint)))
    assert not Path("outputs").exists()


def test_stopping_and_resuming_ends_in_the_same_bits(train: Any) -> None:
    """Two of the three in a group are stopped at a step, the third has not begun."""
    recipe = tiny(**ALL)
    train(recipe, at_once=2)
    whole = {name: load_file(f"checkpoints/{name}.safetensors") for name in NAMES}
    for place in ("checkpoints", "outputs"):
        Path(place).rename(f"{place}-whole")
    with (
        stop_after(5),
        pytest.raises(Interrupted, match="stopped after step 5 of 14; .*`resume`") as error,
    ):
        train(recipe, at_once=2)
    assert error.value.exit_code == 143
    assert not Path("outputs/cats").exists()
    result = train(resume=True, at_once=2)
    assert sorted(names(result)) == list(NAMES)
    for name, weights in whole.items():
        found = load_file(f"checkpoints/{name}.safetensors")
        assert all(torch.equal(weights[k], found[k]) for k in weights), name
    again = train(resume=True)
    assert again.finished == list(NAMES)
    assert again.trained == []
    assert [name for name, _ in again.failed] == ["blank"]


def test_those_that_are_behind_catch_up(train: Any) -> None:
    """One was killed between the states of two others: each photo is seen once by each."""
    recipe = tiny(**ALL, state_every=2)
    train(recipe)
    whole = {name: load_file(f"checkpoints/{name}.safetensors") for name in NAMES}
    with stop_after(5), pytest.raises(Interrupted):
        train(recipe, overwrite=True)
    newest = Path("outputs/boats/state/step-000005")
    assert newest.is_dir()
    for file in newest.iterdir():
        file.write_bytes(b"")
    result = train(recipe, resume=True)
    assert names(result) == list(NAMES)
    for name, weights in whole.items():
        found = load_file(f"checkpoints/{name}.safetensors")
        assert all(torch.equal(weights[k], found[k]) for k in weights), name


def test_nothing_is_replaced_without_overwrite(train: Any) -> None:
    train(tiny())
    Path("checkpoints/boats.safetensors").unlink()
    before = Path("checkpoints/apples.safetensors").read_bytes()
    result = train(tiny(seed=1))
    assert names(result) == []
    failed = dict(result.failed)
    assert "is there already" in failed["apples"]
    assert "holds a finished run" in failed["boats"]
    assert Path("checkpoints/apples.safetensors").read_bytes() == before
    resumed = dict(train(tiny(seed=1), resume=True).failed)
    assert "finished with another recipe" in resumed["apples"]
    assert names(train(tiny(seed=1), overwrite=True)) == list(NAMES)
    assert Path("checkpoints/apples.safetensors").read_bytes() != before


def test_photos_that_fail_stop_all_of_them_with_their_states(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = SamplePhotos.photo

    def failing(self: Any, number: int, attempt: int) -> Any:
        if number == 10:
            raise PhotosError("`photos`: the server is gone")
        return photo(self, number, attempt)

    with monkeypatch.context() as patch:
        patch.setattr(SamplePhotos, "photo", failing)
        with pytest.raises(PhotosError, match=r"the server is gone; go on with .*`resume`"):
            train(tiny())
    for name in NAMES:
        assert Path(f"outputs/{name}/state/step-000005").is_dir()
    assert names(train(resume=True)) == list(NAMES)


def test_what_does_not_suit_is_refused(train: Any, paintings: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a folder of paintings is needed with `each`"):
        train(tiny(), folder=paintings / "apples.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no image file in this folder"):
        train(tiny(), folder=tmp_path / "empty")
    with pytest.raises(RecipeError, match="leave out `each`"):
        train(tiny(name="collection"))
    with pytest.raises(StateError, match="nothing to resume: none of these paintings"):
        train(resume=True)
    done = CliRunner().invoke(app, ["train", "--style", str(paintings), "--each", "--name", "x"])
    assert done.exit_code == 1
    assert "with --each, styles are named by their files: no --name, -o" in done.stderr
    done = CliRunner().invoke(app, ["train", "--style", str(paintings), "--at-once", "2"])
    assert (done.exit_code, "--at-once is for --each" in done.stderr) == (1, True)


def test_names_are_made_apart() -> None:
    files = [Path(name) for name in ("a.jpg", "A.png", "b.png", "a-jpg.png")]
    assert list(name_paintings(files)) == ["a-jpg", "A-png", "b", "a-jpg-2"]


def command(paintings: Path, vgg_file: Path, *more: str) -> list[str]:
    fixed = ["--style", str(paintings), "--each", "--vgg-weights", str(vgg_file)]
    return [str(ROOT / "train.py"), *fixed, "--recipe", "smoke", *TINY, *more]


@pytest.mark.slow
def test_kill_nine_and_resume(paintings: Path, vgg_file: Path, tmp_path: Path) -> None:
    arguments = command(paintings, vgg_file, "--steps", "30", "--set", "state_every=5")
    process = start_until(arguments, tmp_path, 17)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = run([*arguments, "--resume"], tmp_path)
    assert done.returncode == 1  # the one without a style
    assert [line for line in done.stderr.splitlines() if line.startswith("failed")] == [
        f"failed blank: {paintings / 'blank.png'}: all of one colour, there is no style to be "
        "learned; use another painting"
    ]
    assert "Traceback" not in done.stderr
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run(arguments, whole).returncode == 1
    for name in NAMES:
        file = Path("checkpoints") / f"{name}.safetensors"
        assert same(tmp_path / file, whole / file), name


@pytest.mark.slow
def test_two_processes_share_out_the_paintings(
    paintings: Path, vgg_file: Path, tmp_path: Path
) -> None:
    """One has a painting that fails at once; the other trains to its end."""
    arguments = command(paintings, vgg_file, "--steps", "30")
    port = str(29500 + os.getpid() % 500)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    two = run([*launcher, *arguments], tmp_path)
    assert two.returncode == 1
    assert two.stderr.count("failed blank: ") == 1, two.stderr
    trained = [line.partition(":")[0] for line in two.stdout.splitlines()]
    assert sorted(trained) == list(NAMES)
    one = tmp_path / "one"
    one.mkdir()
    assert run(arguments, one).returncode == 1
    for name in NAMES:
        file = Path("checkpoints") / f"{name}.safetensors"
        assert same(tmp_path / file, one / file), name
        about = json.loads((tmp_path / "outputs" / name / "run.json").read_text())
        assert about["processes"] == 1
