"""Trainings of the page: the queue, stopping, going on, and a server that comes back."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import draw

from faststyle.app import jobs as module
from faststyle.app.jobs import Jobs, plain_name
from faststyle.app.options import AppOptions
from faststyle.app.run_log import Progress, RunLog
from faststyle.errors import ImageError, OutputError, RecipeError, StateError
from faststyle.progress import StepProgress

# A training in a few lines: it writes what `faststyle train` writes, and obeys SIGTERM like it.
FAKE = """
import json, os, pathlib, signal, sys, time
arguments = sys.argv[1:]
name = arguments[arguments.index("--name") + 1]
folder = pathlib.Path("outputs", name)
state = folder / "state" / "step-000001"
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
first = 2 if "--resume" in arguments else 0
if first:
    print("resumed after step 2", flush=True)
for step in range(first + 1, 5):
    terms = f"content_rel 0.{step}00  total 1.{step}00"
    print(f"step {step}/4  2.00 images/s  {terms}  0:0{4 - step} left", flush=True)
    while step == 2 and not stopped and not (pathlib.Path("go")).exists():
        time.sleep(0.02)
    if stopped:
        state.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"status": "interrupted"}))
        print("stopped: stopped after step 2 of 4", flush=True)
        sys.exit(143)
    if pathlib.Path("crash").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if pathlib.Path("fail").exists():
        print("error: no photos", flush=True)
        sys.exit(1)
(folder / "run.json").write_text(json.dumps({"status": "finished"}))
"""
WAIT = 60  # seconds; a process starts slowly where others work


@pytest.fixture
def fake_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Replace `python -m faststyle.cli` by FAKE, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    start = module.psutil.Popen
    started = []

    def popen(command: list[str], **settings: object) -> object:
        assert command[1:4] == ["-m", "faststyle.cli", "train"]
        started.append(start([command[0], str(script), *command[4:]], **settings))
        return started[-1]

    monkeypatch.setattr(module.psutil, "Popen", popen)
    yield tmp_path
    for process in started:
        with contextlib.suppress(module.psutil.NoSuchProcess):
            process.kill()  # of a test that failed
        # Two servers in one process: the second may have taken the exit code from the first.
        process.poll()


@pytest.fixture
def jobs(fake_training: Path) -> Iterator[Jobs]:
    made = Jobs(AppOptions(queue=1))
    made.open()
    yield made
    made.close()


@pytest.fixture(scope="module")
def painting(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("painting") / "dots.png"
    draw(1, 80, 96).save(path)
    return path.read_bytes()


def wait_for(jobs: Jobs, name: str, status: str, step: int = 0) -> None:
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        run = jobs.look(name)
        if run.status == status and run.progress.step >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"{name} is {jobs.look(name)}")


def wait_for_pid(name: str) -> None:
    """Wait until app.json names the process: a training may be at step 2 before a slow disk is."""
    until = time.monotonic() + WAIT
    while "pid" not in json.loads(Path("outputs", name, "app.json").read_text()):
        assert time.monotonic() < until, f"{name} has no pid"
        time.sleep(0.02)


def test_a_training_runs_to_its_end_and_the_next_one_starts(jobs: Jobs, painting: bytes) -> None:
    jobs.add(painting, "first", "quick")
    wait_for(jobs, "first", "running", 2)
    jobs.add(painting, "second", "instant")
    assert jobs.look("second").status == "waiting"
    assert jobs.busy
    Path("go").touch()
    wait_for(jobs, "first", "finished")
    wait_for(jobs, "second", "finished")
    assert jobs.look("second").progress.curves["content_rel"] == [
        (1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)
    ]  # fmt: skip
    assert sorted(jobs.names()) == ["first", "second"]


def test_a_run_that_is_stopped_saves_its_state_and_goes_on(jobs: Jobs, painting: bytes) -> None:
    jobs.add(painting, "sea", "quick")
    wait_for(jobs, "sea", "running", 2)
    jobs.stop("sea")
    wait_for(jobs, "sea", "stopped")
    assert jobs.look("sea").can_resume
    Path("go").touch()
    jobs.resume("sea")
    wait_for(jobs, "sea", "finished")
    # The steps after the state are counted once.
    assert [step for step, _ in jobs.look("sea").progress.curves["total"]] == [1, 2, 3, 4]
    with pytest.raises(StateError, match="sea is finished"):
        jobs.resume("sea")


def test_one_that_waits_is_taken_out_of_the_queue(jobs: Jobs, painting: bytes) -> None:
    jobs.add(painting, "first", "quick")
    wait_for(jobs, "first", "running")
    jobs.add(painting, "second", "quick")
    with pytest.raises(StateError, match="1 trainings wait already"):
        jobs.add(painting, "third", "quick")
    jobs.stop("second")
    assert jobs.look("second").status == "stopped"
    with pytest.raises(StateError, match="second does not run"):
        jobs.stop("second")
    assert not Path("outputs/third").exists()


def test_a_run_that_fails_says_why(jobs: Jobs, painting: bytes) -> None:
    Path("fail").touch()
    jobs.add(painting, "sea", "quick")
    wait_for(jobs, "sea", "failed")
    assert jobs.look("sea").progress.error == "no photos"


def test_a_run_that_is_killed_says_so(jobs: Jobs, painting: bytes) -> None:
    Path("crash").touch()
    jobs.add(painting, "sea", "quick")
    wait_for(jobs, "sea", "failed")
    error = jobs.look("sea").progress.error
    assert error == "the training was killed (signal 9); its log is outputs/sea/train.log"
    assert jobs.look("sea").can_resume


def test_a_name_stays_free_where_its_painting_cannot_be_written(
    jobs: Jobs, painting: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_bytes", full)
        with pytest.raises(OutputError, match="the disk is full"):
            jobs.add(painting, "sea", "quick")
    Path("go").touch()
    jobs.add(painting, "sea", "quick")
    wait_for(jobs, "sea", "finished")


def test_the_end_of_the_server_stops_a_run_and_the_next_server_resumes_it(
    jobs: Jobs, painting: bytes
) -> None:
    jobs.add(painting, "sea", "quick")
    wait_for(jobs, "sea", "running", 2)
    jobs.close()
    later = Jobs(AppOptions())
    later.open()
    assert later.look("sea").status == "stopped"
    Path("go").touch()
    later.resume("sea")
    wait_for(later, "sea", "finished")
    later.close()


def test_a_run_that_outlived_its_server_is_taken_over(jobs: Jobs, painting: bytes) -> None:
    jobs.add(painting, "sea", "quick")
    wait_for(jobs, "sea", "running", 2)
    wait_for_pid("sea")
    later = Jobs(AppOptions())
    later.open()
    later.add(painting, "next", "quick")
    assert later.look("sea").status == "running"
    assert later.look("next").status == "waiting"
    later.stop("sea")
    wait_for(later, "sea", "stopped")
    wait_for(later, "next", "running", 2)
    later.close()


def test_a_number_of_a_process_that_was_given_again_is_no_run(jobs: Jobs, painting: bytes) -> None:
    folder = Path("outputs/old")
    folder.mkdir(parents=True)
    (folder / "app.json").write_text(json.dumps({"recipe": "quick", "pid": 1, "started": 5.0}))
    later = Jobs(AppOptions())
    later.open()
    assert later.look("old").status == "stopped"
    later.close()


@pytest.mark.parametrize("name", ["", "../up", "/etc/x", "a b", "-x", "A", "x" * 61, ".hidden"])
def test_names_lead_nowhere_else(jobs: Jobs, painting: bytes, name: str) -> None:
    with pytest.raises(OutputError, match="use small letters"):
        jobs.add(painting, name, "quick")
    with pytest.raises(StateError, match="there is no run"):
        jobs.look(name)


def test_names_that_are_taken_are_refused(jobs: Jobs, painting: bytes) -> None:
    with pytest.raises(OutputError, match="a style sea already"):
        jobs.add(painting, "sea", "quick", taken=["sea"])
    Path("checkpoints").mkdir()
    Path("checkpoints/lake.safetensors").touch()
    with pytest.raises(OutputError, match="a style lake already"):
        jobs.add(painting, "lake", "quick")
    jobs.add(painting, "sea", "quick")
    with pytest.raises(OutputError, match="a run sea already"):
        jobs.add(painting, "sea", "quick")


def test_bad_paintings_are_refused_before_anything_is_written(
    jobs: Jobs, painting: bytes, tmp_path: Path
) -> None:
    draw(1, 20, 20).save(tmp_path / "small.png")
    for data, reason in (
        (b"no picture", "not an image"),
        (painting[:200], "damaged"),
        ((tmp_path / "small.png").read_bytes(), "too few to have strokes"),
    ):
        with pytest.raises(ImageError, match=reason):
            jobs.add(data, "sea", "quick")
    few = Jobs(AppOptions(max_pixels=1000))
    with pytest.raises(ImageError, match="1,000 are allowed"):
        few.add(painting, "sea", "quick")
    short = Jobs(AppOptions(max_bytes=1000))
    with pytest.raises(ImageError, match="more than 1,000 bytes"):
        short.add(painting, "sea", "quick")
    assert not Path("outputs").exists()


def test_recipes_and_pages_that_do_not_train(jobs: Jobs, painting: bytes) -> None:
    with pytest.raises(RecipeError, match="unknown `recipe` 'full'"):
        jobs.add(painting, "sea", "full")
    with pytest.raises(RecipeError, match="does not train"):
        Jobs(AppOptions(train=False)).add(painting, "sea", "quick")


@pytest.mark.parametrize(
    ("file", "name"),
    [("Nuit étoilée (1889).jpg", "nuit_etoilee_1889"), ("夜.png", ""), ("../../x.png", "x")],
)
def test_a_file_gives_its_name_to_the_style(file: str, name: str) -> None:
    assert plain_name(file) == name


def test_the_log_is_read_as_the_trainer_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with StepProgress("training", 40, 0, quiet=False) as progress:
        progress.say("painting dots.png")
        progress.update(10, {"content_rel": 0.5, "style_rel": 0.25, "images_per_second": 1.5})
        progress.update(20, {"content_rel": 0.4, "style_rel": 0.2, "total": 2.0})
    lines = capsys.readouterr().err
    log = tmp_path / "train.log"
    log.write_text(lines[:-5])
    reader = RunLog(log)
    assert reader.read().step == 10  # the last line is not whole yet
    log.write_text(lines)
    read = reader.read()
    assert (read.step, read.steps) == (20, 40)
    assert read.curves == {
        "content_rel": [(10, 0.5), (20, 0.4)],
        "style_rel": [(10, 0.25), (20, 0.2)],
        "total": [(20, 2.0)],
    }


def test_a_run_that_began_anew_has_a_curve_of_its_own() -> None:
    step = "step {0}/40  1.50 images/s  total 2.{0}00  0:20 left".format
    progress = Progress()
    for line in ("painting a.png", step(1), step(2), step(3), "painting a.png", step(1), step(2)):
        progress.add(line)
    assert progress.curves == {"total": [(1, 2.1), (2, 2.2)]}
    for line in ("painting a.png", "resumed after step 1", step(2)):
        progress.add(line)
    assert progress.curves == {"total": [(1, 2.1), (2, 2.2)]}


def test_lines_that_are_no_steps_change_nothing() -> None:
    progress = Progress()
    for line in ("step x", "note: step 3/4", "step 1/2", "\x00", "Traceback"):
        progress.add(line)
    assert (progress.step, progress.curves, progress.error) == (0, {}, "")
    progress.add("error: the disk is full")
    assert progress.error == "the disk is full"
