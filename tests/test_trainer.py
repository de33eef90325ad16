"""Training with a tiny VGG: the loss falls, stopping loses nothing, failures say why."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import draw
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from faststyle.checkpoint import load_checkpoint, read_about, save_checkpoint
from faststyle.errors import DeviceError, Interrupted, OutputError, StateError, TrainingError
from faststyle.progress import StepProgress
from faststyle.training import held_out, photos, run_files
from faststyle.training import state as state_module
from faststyle.training import trainer as module
from faststyle.training.balance import OF_FEW, Balance
from faststyle.training.recipe import Recipe, learning_rate, recipe_from_dict
from faststyle.training.report import Result
from faststyle.training.run_files import run_name
from faststyle.training.state import newest_state
from faststyle.training.train import train_style

pytestmark = pytest.mark.usefixtures("small_run")

TINY: dict[str, Any] = {
    "name": "tiny",
    "steps": 8,
    "batch_size": 2,
    "image_size": 32,
    "painting_size": 48,
    "learning_rate": 5e-3,
    "workers": 0,
    "log_every": 2,
    "preview_every": 4,
    "state_every": 4,
    "network": {"name": "johnson", "width": 4, "blocks": 1},
    "loss": {
        "content_layers": "gatys",
        "style_layers": "gatys",
        "style_weight": 5.0,
        "mean_weight": 5.0,
    },  # 32 pixels are too few for coarser scales
}


def tiny(**changes: Any) -> Recipe:
    return recipe_from_dict({**TINY, **changes})


@pytest.fixture
def train(painting: Path, vgg_file: Path) -> Any:
    def run(recipe: Recipe | None = None, **options: Any) -> Result:
        return train_style(
            options.pop("style", painting), recipe, vgg_weights=vgg_file, device="cpu", **options
        )

    return run


def scalars(name: str, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(f"outputs/{name}/tensorboard").Reload()
    return [(e.step, e.value) for e in events.Scalars(f"train/{tag}")]


def test_a_run_leaves_what_the_readme_promises(train: Any) -> None:
    result = train(tiny())
    assert result.checkpoint == Path("checkpoints/dots.safetensors")
    assert result.preview == Path("outputs/dots/preview.png")
    with Image.open(result.preview) as preview:
        assert preview.size == (2 * 96, 2 * 96)
    assert sorted(p.name for p in Path("outputs/dots/strips").iterdir()) == [
        "000004.png",
        "000008.png",
    ]
    run = json.loads(Path("outputs/dots/run.json").read_text())
    assert run["status"] == "finished"
    terms = {"content_rel": result.content_rel, "style_rel": result.style_rel}
    assert run["scores"] == {**terms, **dataclasses.asdict(result.judge)}
    assert result.judge.photos == 2
    assert not Path("outputs/dots/state").exists()
    about = read_about(result.checkpoint)
    assert about.vgg["id"] == "vgg16-tiny"
    assert about.recipe["steps"] == 8
    assert about.painting["file"] == "dots.png"
    assert "scikit-image" in about.photos
    assert about.license == "none; photos: public domain, CC0, Middlebury Stereo 2014"
    network, _ = load_checkpoint(result.checkpoint)
    assert network(torch.rand(1, 3, 36, 40)).shape == (1, 3, 36, 40)


def test_few_photos_may_have_a_higher_error(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    adjust = Balance.adjust

    def watched(self: Balance, *rest: Any) -> None:
        seen.append(self.harder)
        adjust(self, *rest)

    monkeypatch.setattr(Balance, "adjust", watched)
    train(tiny(steps=1))
    draw(3, 72, 90).save(tmp_path / "photo.png")
    monkeypatch.setattr(photos, "FEW", 1)
    train(tiny(steps=1, photos=str(tmp_path)), name="many")
    assert seen == [OF_FEW, 1.0]


def test_everything_is_logged(train: Any) -> None:
    train(tiny())
    events = EventAccumulator("outputs/dots/tensorboard").Reload()
    tags = {"total", "content", "style", "mean", "tv", "light"}
    tags |= {"content_rel", "style_rel", "light_kept", "photos_seen"}
    tags |= {"images_per_second", "learning_rate", "gradient_norm", "balance"}
    tags |= {"adversarial", "stability"}
    assert {t.removeprefix("train/") for t in events.Tags()["scalars"]} == tags
    assert [e.step for e in events.Images("strip")] == [4, 8]
    assert [s for s, _ in scalars("dots", "total")] == [1, 2, 4, 6, 8]
    rates = dict(scalars("dots", "learning_rate"))
    assert rates[1] == pytest.approx(5e-3)  # a tenth of 8 steps is one step of rise
    assert rates[8] < 0.1 * rates[1]


def test_the_loss_falls_along_the_golden_curve(train: Any) -> None:
    train(tiny(**GOLDEN_RUN), threads=1)
    totals = [value for _, value in scalars("dots", "total")]
    assert totals[-1] < 0.5 * totals[0]
    assert totals == pytest.approx(GOLDEN, rel=0.02)


def test_a_network_learns_to_copy_before_it_paints(train: Any) -> None:
    """First the photo in the painting's colours is all that is asked for, and it comes closer."""
    train(tiny(steps=120, copying=0.75, learning_rate=1e-3, log_every=10, warmup=0.0))
    totals = dict(scalars("dots", "total"))
    styles = dict(scalars("dots", "style_rel"))
    assert [step for step, value in styles.items() if value == 0] == [1, *range(10, 91, 10)]
    assert totals[90] < 0.7 * totals[1]
    assert all(value > 0 for step, value in styles.items() if step > 90)


def test_a_network_that_comes_from_another_does_not_copy_again(train: Any) -> None:
    first = train(tiny()).checkpoint
    train(tiny(copying=0.5, log_every=1, init=str(first)), name="second")
    assert min(value for _, value in scalars("second", "style_rel")) > 0


# On one thread of a CPU. The rate is low because rounding grows from step to step: at 3e-4 a CPU
# with AVX2 and one with AMX are 7 % apart, at 3e-5 AVX2 and SSE are 0.4 % apart.
GOLDEN_RUN: dict[str, Any] = {
    "steps": 160,
    "learning_rate": 3e-5,
    "log_every": 40,
    "preview_every": 160,
    "seed": 1,
}
GOLDEN = [5.842, 3.801, 2.457, 2.350, 2.321]


def test_in_bf16_the_loss_falls_alike_and_weights_stay_float32(train: Any) -> None:
    """Emulated or not: what is slow without the hardware computes the same."""
    result = train(tiny(**GOLDEN_RUN, precision="bf16"), threads=1)
    totals = [value for _, value in scalars("dots", "total")]
    assert totals == pytest.approx(GOLDEN, rel=0.05)
    assert totals != pytest.approx(GOLDEN, rel=1e-6)
    assert {value.dtype for value in load_file(result.checkpoint).values()} == {torch.float32}


def test_the_same_seed_gives_the_same_bits_and_another_does_not(train: Any) -> None:
    files = [
        load_file(train(tiny(seed=s), name=n).checkpoint) for s, n in ((0, "a"), (0, "b"), (1, "c"))
    ]
    assert all(torch.equal(files[0][k], files[1][k]) for k in files[0])
    assert not all(torch.equal(files[0][k], files[2][k]) for k in files[0])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopping_and_resuming_ends_in_the_same_bits(train: Any, accumulate: int) -> None:
    recipe = tiny(accumulate=accumulate)
    whole = load_file(train(recipe, name="whole").checkpoint)
    with (
        stop_after(5),
        pytest.raises(Interrupted, match="stopped after step 5 of 8; .*`resume`") as error,
    ):
        train(recipe, name="cut")
    assert error.value.exit_code == 143
    state = newest_state(Path("outputs/cut/state"))
    assert state is not None
    assert state.step == 5
    with pytest.raises(
        StateError,
        match="unfinished run .step 5.: go on with `resume`, or start again with `overw",
    ):
        train(recipe, name="cut")
    resumed = load_file(train(name="cut", resume=True).checkpoint)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    # Sorted: TensorBoard reads the files of runs that began in one second in the order of a
    # counter's digits.
    assert sorted(s for s, _ in scalars("cut", "total")) == [1, 2, 4, 6, 8]


def test_the_balance_and_the_critic_resume_too(train: Any) -> None:
    """The weight of style changes after steps 10 and 20; the stop is between them."""
    whole_run = {"steps": 34, "image_size": 52, "shift": 4, "preview_every": 40, "state_every": 40}
    recipe = tiny(**whole_run, content_target=0.3, adversarial_weight=1.0, stability=5.0)
    whole = train(recipe, name="whole").checkpoint
    with stop_after(15), pytest.raises(Interrupted):
        train(recipe, name="cut")
    resumed = train(name="cut", resume=True).checkpoint
    assert all(torch.equal(v, load_file(resumed)[k]) for k, v in load_file(whole).items())
    balances = [read_about(path).recipe["loss"]["balance"] for path in (whole, resumed)]
    assert balances[0] == balances[1] != 1
    assert len({value for _, value in scalars("whole", "balance")}) == 3


def test_training_starts_where_it_is_told(train: Any) -> None:
    """From its own result with a learning rate of next to nothing, it stays what it was.

    What restricts the use of that result restricts the use of what comes of it.
    """
    first = train(tiny()).checkpoint
    network, about = load_checkpoint(first)
    save_checkpoint(first, network, dataclasses.replace(about, license="research use"))
    second = train(tiny(init=str(first), learning_rate=1e-9), name="again").checkpoint
    for key, value in load_file(first).items():
        torch.testing.assert_close(load_file(second)[key], value, rtol=0, atol=1e-6)
    about = read_about(second)
    assert about.recipe["init"] == first.name  # without the folders of this machine
    assert about.license == (
        "none; research use; photos: public domain, CC0, Middlebury Stereo 2014"
    )


def stop_after(step: int) -> Any:
    """Send ourselves SIGTERM, a real one, when the trainer saves or logs at `step`."""

    class Stop:
        def __enter__(self) -> None:
            self.advance = StepProgress.advance

            def advance(progress: Any, now: int) -> None:
                self.advance(progress, now)
                if now == step:
                    signal.raise_signal(signal.SIGTERM)

            StepProgress.advance = advance  # type: ignore[method-assign]

        def __exit__(self, *_: object) -> None:
            StepProgress.advance = self.advance  # type: ignore[method-assign]

    return Stop()


def test_a_signal_that_comes_while_processes_agree_is_not_lost() -> None:
    """A handler may run while processes agree: the next exchange must still see the signal."""
    asked: list[int] = []
    trainer: Any = object.__new__(module.Trainer)

    def gather(flag: torch.Tensor) -> torch.Tensor:
        asked.append(int(flag))
        trainer.stop.number = signal.SIGTERM  # comes too late for this exchange
        return flag.reshape(1)

    trainer.state = SimpleNamespace(step=3)
    trainer.stop = SimpleNamespace(number=0)
    trainer.recipe = recipe_from_dict({"name": "smoke", "steps": 9})
    trainer.accelerator = SimpleNamespace(
        num_processes=2, device=torch.device("cpu"), gather=gather
    )
    assert not trainer._must_stop()
    assert trainer._must_stop()
    assert asked == [0, signal.SIGTERM]


def test_accumulating_is_the_same_as_a_larger_batch(train: Any) -> None:
    slow = {"learning_rate": 2e-4}  # rounding grows with the rate
    train(tiny(batch_size=4, **slow), name="large")
    train(tiny(batch_size=2, accumulate=2, **slow), name="accumulated")
    for tag in ("total", "content_rel", "style_rel"):
        large, accumulated = (dict(scalars(n, tag)) for n in ("large", "accumulated"))
        assert accumulated == pytest.approx(large, rel=0.01)


def test_a_damaged_state_gives_way_to_the_one_before(train: Any) -> None:
    with stop_after(6), pytest.raises(Interrupted):
        train(tiny())
    folder = Path("outputs/dots/state")
    assert sorted(p.name for p in folder.iterdir()) == ["step-000004", "step-000006"]
    weights = folder / "step-000006" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    state = newest_state(folder)
    assert state is not None
    assert state.step == 4
    (folder / "step-000004" / "manifest.json").unlink()
    with pytest.raises(StateError, match="no state there is whole; start again with `overwrite`"):
        train(resume=True)
    assert train(tiny(), overwrite=True).steps == 8


def test_the_newest_states_are_kept_after_a_million_steps_too(tmp_path: Path) -> None:
    for name in ("step-999900", "step-1000000", "step-1000100", "step-x"):
        (tmp_path / name).mkdir()
    found = [path.name for path in state_module._folders(tmp_path)]
    assert found == ["step-1000100", "step-1000000", "step-999900"]


def test_resuming_something_else_is_refused(train: Any, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="nothing to resume"):
        train(resume=True)
    with stop_after(2), pytest.raises(Interrupted):
        train(tiny())
    with pytest.raises(StateError, match="started with steps = 8, now it is 9"):
        train(tiny(steps=9), resume=True)
    draw(9, 60, 60).save(tmp_path / "other.png")
    with pytest.raises(StateError, match="another painting"):
        train(style=tmp_path / "other.png", name="dots", resume=True)


def break_style_term(monkeypatch: pytest.MonkeyPatch, batch: int, value: float) -> None:
    """Multiply the style term of one batch, counted from 1 on, by a value."""
    calls = 0
    original = module.PerceptualLoss._style

    def broken(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        style, mean, rel = original(self, *args)
        return (style * value if calls == batch else style), mean, rel

    monkeypatch.setattr(module.PerceptualLoss, "_style", broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_stops_the_run_and_spares_the_weights(
    train: Any, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """The style term breaks at batch 6; the log of step 6 sees it; the state of step 4 stays."""
    seen = []
    step = torch.optim.Adam.step

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = step(self, *args, **kwargs)
        seen.append(
            all(bool(torch.isfinite(p).all()) for g in self.param_groups for p in g["params"])
        )
        return out

    break_style_term(monkeypatch, 6, value)
    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    with pytest.raises(
        TrainingError,
        match=r"step 6: the style term is not finite; .*last good state is that of step 4",
    ):
        train(tiny())
    assert len(seen) == 6
    assert all(seen)
    assert not Path("checkpoints/dots.safetensors").exists()


def test_the_step_of_such_a_term_is_counted_from_the_first_one(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It breaks at the third batch after step 2 of a run that takes two batches a step."""
    with stop_after(2), pytest.raises(Interrupted):
        train(tiny(accumulate=2))
    break_style_term(monkeypatch, 3, float("nan"))
    with pytest.raises(TrainingError, match="step 4: the style term is not finite"):
        train(tiny(accumulate=2), resume=True)


@pytest.mark.parametrize(("value", "word"), [(0.0, "black"), (0.5, "constant")])
def test_a_dead_output_stops_the_run(
    train: Any, monkeypatch: pytest.MonkeyPatch, value: float, word: str
) -> None:
    from faststyle.networks.johnson import Johnson

    forward = Johnson.forward
    monkeypatch.setattr(module, "DEAD_AFTER", 4)
    monkeypatch.setattr(Johnson, "forward", lambda self, photo: forward(self, photo) * 0 + value)
    with pytest.raises(TrainingError, match=f"step 4: the output is {word}; no state"):
        train(tiny())


def test_outputs_are_tried_before_training_starts(train: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write .*file/x.safetensors"):
        train(tiny(), checkpoint="file/x.safetensors")
    with pytest.raises(OutputError, match="cannot write"):
        train(tiny(), outputs="file")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../esc", "a/b", "/tmp/esc", "a\\b", "x\0", "x" * 300]
)
def test_a_name_is_that_of_one_file(train: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="`name` .*: a name is that of one file"):
        train(tiny(), name=name)
    assert list(tmp_path.iterdir()) == []


def test_the_name_is_that_of_the_painting(tmp_path: Path) -> None:
    assert run_name(None, "somewhere/dots.v2.png") == "dots.v2"
    assert run_name("mine", "somewhere/dots.png") == "mine"
    assert run_name(None, ".") == tmp_path.name  # the working folder
    with pytest.raises(OutputError, match="`name` ''"):
        run_name(None, "/")


def test_nothing_is_replaced_without_overwrite(train: Any) -> None:
    checkpoint = train(tiny()).checkpoint
    before = checkpoint.read_bytes()
    for resume in (False, True):
        with pytest.raises((OutputError, StateError), match="`overwrite`, or choose another `name"):
            train(tiny(steps=1), resume=resume)
    checkpoint.rename("elsewhere.safetensors")
    with pytest.raises(StateError, match="outputs/dots holds a finished run of 8 steps: replace"):
        train(tiny(steps=1))
    with pytest.raises(StateError, match="nothing to resume: outputs/dots finished after 8 steps"):
        train(resume=True)
    Path("elsewhere.safetensors").rename(checkpoint)
    with pytest.raises(OutputError, match=r"dots.safetensors is there .* choose another `output`"):
        train(tiny(steps=1), name="other", checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before
    assert not Path("outputs/other").exists()
    assert train(tiny(steps=1), name="other").steps == 1
    assert train(tiny(steps=1), overwrite=True).steps == 1
    assert checkpoint.read_bytes() != before


def test_a_run_that_replaces_goes_on_to_do_so(train: Any) -> None:
    """What `overwrite` allowed at the start is allowed to the run that goes on."""
    before = train(tiny(seed=1)).checkpoint.read_bytes()
    with stop_after(5), pytest.raises(Interrupted):
        train(tiny(), overwrite=True)
    assert Path("checkpoints/dots.safetensors").read_bytes() == before
    assert train(resume=True).checkpoint.read_bytes() != before


def test_a_checkpoint_that_came_meanwhile_is_kept(train: Any) -> None:
    with stop_after(5), pytest.raises(Interrupted):
        train(tiny())
    Path("checkpoints/dots.safetensors").write_bytes(b"by another run")
    with pytest.raises(OutputError, match=r"dots.safetensors is there already"):
        train(resume=True)
    assert Path("checkpoints/dots.safetensors").read_bytes() == b"by another run"
    other = train(resume=True, checkpoint="other.safetensors").checkpoint
    assert read_about(other).recipe["steps"] == 8
    assert Path("checkpoints/dots.safetensors").read_bytes() == b"by another run"


def test_a_judge_that_fails_loses_nothing(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is written before it is judged, and `resume` only judges."""
    whole = load_file(train(tiny(), name="whole").checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(held_out.HeldOut, "judge", lambda *_: [][1])
        for resume in (False, True):
            with pytest.raises(IndexError):
                train(tiny(), resume=resume)
    path = Path("checkpoints/dots.safetensors")
    assert all(torch.equal(value, whole[key]) for key, value in load_file(path).items())
    assert read_about(path).scores == {}
    monkeypatch.setattr(module.Trainer, "_loop", None)  # a step would be a bug with a traceback
    result = train(resume=True)
    assert result.judge is not None
    assert read_about(path).scores["style_closed"] == result.judge.style_closed
    assert not Path("outputs/dots/state").exists()


def test_a_checkpoint_that_cannot_be_written_is_written_by_resume(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_file(train(tiny(), name="whole").checkpoint)

    def full(path: Path, *_: Any) -> None:
        raise OutputError(f"cannot write {path}: no space left on device; free some space")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_checkpoint", full)
        with pytest.raises(
            OutputError,
            match="cannot write checkpoints/dots.*; the last good state is that of step 8: go on",
        ):
            train(tiny())
    monkeypatch.setattr(module.Trainer, "_loop", None)
    resumed = load_file(train(resume=True).checkpoint)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_disk_that_is_full_before_training_is_said_at_once(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stop_after(5), pytest.raises(Interrupted):
        train(tiny())
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(run_files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"MB or more are needed, 0.0 MB are free; free some"):
        train(resume=True)
    monkeypatch.setattr(run_files, "check_place", lambda path: full_disk(path))
    with pytest.raises(OutputError, match="cannot write outputs/dots/run.json"):
        train(tiny(), overwrite=True)
    state = newest_state(Path("outputs/dots/state"))
    assert state is not None  # nothing is dropped for a run that cannot start
    assert state.step == 5


def full_disk(path: Path) -> None:
    raise OutputError(f"cannot write {path}: no space left on device; free some space")


def test_a_state_that_cannot_be_written_leaves_the_one_before(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = module.save_state

    def full(accelerator: Any, folder: Path, step: int, extra: Any) -> None:
        if step > 4:
            raise OutputError(f"cannot write {folder}: no space left on device; free some space")
        save(accelerator, folder, step, extra)

    monkeypatch.setattr(module, "save_state", full)
    with pytest.raises(
        OutputError, match="cannot write .*; the last good state is that of step 4: go on with the"
    ):
        train(tiny(steps=12))
    # At the last step the checkpoint may still fit.
    assert train(tiny(), name="short").judge is not None


def test_small_paintings_are_said(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(tiny(steps=1), quiet=False)
    (note,) = result.notes
    assert "80x96 pixels are few, its strokes will be soft" in note
    assert capsys.readouterr().err.count(f"note: {note}") == 1


def test_a_device_that_is_not_there_is_an_error(train: Any, painting: Path, vgg_file: Path) -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(DeviceError, match=f"`device` {missing}: not there"):
        train_style(painting, tiny(), vgg_weights=vgg_file, device=missing)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of Linux")
def test_a_step_that_does_not_fit_in_memory_says_what_to_try(
    painting: Path, photo_folder: Path, vgg_file: Path, tmp_path: Path
) -> None:
    # A limit holds for a whole process. A step of 64 photos of 256 pixels takes 10 GB.
    program = (
        "import resource, sys, torch\n"
        "from faststyle.cli import app\n"
        "import faststyle.training.train\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30),) * 2)\n"
        "app()\n"
    )
    options = {
        "--painting": painting,
        "--recipe": "smoke",
        "--photos": photo_folder,
        "--vgg-weights": vgg_file,
        "--batch-size": 64,
        "--image-size": 256,
        "--network": "johnson-32",
        "--threads": 1,
    }
    given = [str(part) for pair in options.items() for part in pair]
    command = [sys.executable, "-c", program, "train", *given]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "error: memory is full: a step of 64 photos of 256 pixels a side does not fit. "
        "Free some, or take --batch-size 32; no state had been saved yet"
    )
    assert "Traceback" not in done.stderr


def test_skipped_photos_are_listed_once(train: Any, photo_folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(photo_folder, tmp_path / "photos")
    (tmp_path / "photos" / "bad.jpg").write_text("text")
    result = train(tiny(photos=str(tmp_path / "photos"), steps=12))
    assert [(Path(n).name, r[:12]) for n, r in result.skipped] == [("bad.jpg", "not an image")]


def test_without_a_compiler_training_stays_eager_and_says_so(
    train: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert train(tiny(compile=True, steps=1), quiet=False).steps == 1
    assert capsys.readouterr().err.count("no C++ compiler found") == 1
    assert json.loads(Path("outputs/dots/run.json").read_text())["compiled"] is False


def test_training_outside_the_main_thread_works(train: Any) -> None:
    """Signals can only be caught in the main thread; a web page trains in another."""
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(train(tiny(steps=1))))
    thread.start()
    thread.join()
    assert results[0].steps == 1


def test_the_learning_rate_rises_then_falls_to_nothing() -> None:
    recipe = dataclasses.replace(Recipe(), steps=100, warmup=0.1, learning_rate=1.0)
    rates = [learning_rate(s, recipe) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert max(rates) == 1.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[54] == pytest.approx(0.5, abs=0.02)
    assert 0 < rates[99] < 0.001
