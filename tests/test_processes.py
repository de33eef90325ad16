"""Training in processes of its own: killed, interrupted, distributed, out of disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
TINY = ["--image-size", "32", "--batch-size", "2", "--device", "cpu", "--threads", "1"]
for pair in (
    "loss.content_layers=gatys",  # 32 pixels are too few for coarser scales
    "loss.style_layers=gatys",
    "painting_size=48",
    "network.width=4",
    "network.blocks=1",
    "workers=1",
    "log_every=1",
    "preview_every=100",
):
    TINY += ["--set", pair]

pytestmark = pytest.mark.slow


@pytest.fixture
def command(painting: Path, vgg_file: Path) -> list[str]:
    return [
        str(ROOT / "train.py"),
        "--style",
        str(painting),
        "--vgg-weights",
        str(vgg_file),
        "--recipe",
        "smoke",
        *TINY,
    ]


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def run(command: list[str], folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def start_until(command: list[str], folder: Path, step: int) -> subprocess.Popen[str]:
    """Start a run and return when it has shown `step` on stderr."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"step {step}/"):
            return process
    raise AssertionError(f"ended before step {step}: {process.wait()}")


def test_kill_9_and_resume_ends_in_the_same_bits(command: list[str], tmp_path: Path) -> None:
    command += ["--steps", "30", "--set", "state_every=5"]
    whole = run([*command, "--name", "whole"], tmp_path)
    assert whole.returncode == 0, whole.stderr
    process = start_until([*command, "--name", "killed"], tmp_path, 17)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "checkpoints" / "killed.safetensors").exists()
    resumed = run([*command, "--name", "killed", "--resume"], tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed after step" in resumed.stderr
    a, b = (load_file(tmp_path / "checkpoints" / f"{n}.safetensors") for n in ("whole", "killed"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_the_state_and_set_the_exit_code(
    command: list[str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start_until([*command, "--steps", "2000", "--set", "state_every=1000"], tmp_path, 3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "go on with the same command and --resume" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert len(list((tmp_path / "outputs" / "dots" / "state").glob("step-*"))) == 1
    assert (
        json.loads((tmp_path / "outputs" / "dots" / "run.json").read_text())["status"]
        == "interrupted"
    )


def losses(folder: Path, name: str) -> list[float]:
    events = EventAccumulator(str(folder / "outputs" / name / "tensorboard")).Reload()
    return [e.value for e in events.Scalars("train/total")]


def test_two_processes_train_as_one_with_the_same_global_batch(
    command: list[str], tmp_path: Path
) -> None:
    """In float32, at a gentle rate: else this network turns the last bit into per cents."""
    command += ["--steps", "20", "--set", "learning_rate=1e-4", "--precision", "float32"]
    # as users type it: the CPU is found, and the processes find each other
    if not torch.cuda.is_available():
        command = [part for part in command if part not in ("--device", "cpu")]
    single = run([*command, "--name", "one", "--batch-size", "4"], tmp_path)
    assert single.returncode == 0, single.stderr
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(29500 + os.getpid() % 500),
    ]
    double = run([*launcher, *command, "--name", "two", "--batch-size", "2"], tmp_path)
    assert double.returncode == 0, double.stderr
    assert double.stdout.count("checkpoint ") == 1
    assert json.loads((tmp_path / "outputs" / "two" / "run.json").read_text())["processes"] == 2
    one = losses(tmp_path, "one")
    two = losses(tmp_path, "two")
    assert len(one) == len(two) == 20
    assert two[:4] == pytest.approx(one[:4], rel=2e-4)  # before rounding has grown
    assert two == pytest.approx(one, rel=0.01)


def test_two_processes_stop_together_and_one_goes_on(command: list[str], tmp_path: Path) -> None:
    """All get SIGTERM, as of a cluster, and torchrun passes it on: they agree on the step and save
    one state.

    One process goes on from it, and counts the photos that two have seen.
    """
    port = str(30100 + os.getpid() % 500)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    command += ["--name", "two", "--set", "state_every=1000", "--set", "precision=float32"]
    process = start_until([*launcher, *command, "--steps", "400"], tmp_path, 3)
    workers = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout
    for pid in (*workers.split(), process.pid):
        os.kill(int(pid), signal.SIGTERM)
    process.communicate(timeout=120)
    states = list((tmp_path / "outputs" / "two" / "state").glob("step-*"))
    assert len(states) == 1
    stopped_at = int(states[0].name.removeprefix("step-"))
    assert 3 <= stopped_at < 400
    assert {p.name for p in states[0].glob("random_states_*")} == {
        "random_states_0.pkl",
        "random_states_1.pkl",
    }
    alone = run([*command, "--steps", "400", "--resume"], tmp_path)
    assert alone.returncode == 0, alone.stderr
    seen = json.loads((tmp_path / "outputs" / "two" / "run.json").read_text())["photos_seen"]
    assert seen == 4 * stopped_at + 2 * (400 - stopped_at)


@pytest.mark.parametrize("limit", [20_000, 60_000])
def test_a_full_disk_gives_one_line_and_keeps_what_was_there(
    command: list[str], tmp_path: Path, limit: int
) -> None:
    """A limit of file sizes makes the kernel refuse writes, as a full disk does."""
    old = tmp_path / "checkpoints" / "dots.safetensors"
    old.parent.mkdir()
    old.write_bytes(b"the old checkpoint")
    limited = "import resource, sys, runpy; "
    limited += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
    limited += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    steps = ["--steps", "8", "--set", "state_every=4", "--overwrite"]
    result = run(["-c", limited, *command, *steps], tmp_path)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, result.stderr
    assert "cannot write" in errors[0]
    assert "free some space" in errors[0]
    assert "Traceback" not in result.stderr
    assert old.read_bytes() == b"the old checkpoint"
    assert not list(tmp_path.rglob("*.part*"))


def test_the_smoke_recipe_takes_less_than_two_minutes(
    painting: Path, vgg_file: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    command = [
        str(ROOT / "train.py"),
        "--style",
        str(painting),
        "--vgg-weights",
        str(vgg_file),
        "--recipe",
        "smoke",
    ]
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began < 120


CRITICS = """
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from faststyle.perceptual.features import extract
from faststyle.perceptual.loss_config import LossConfig, deepest_layers
from faststyle.perceptual.losses import PerceptualLoss
from faststyle.perceptual.weights import load_vgg, read_weights
from faststyle.training.critic import LAYERS, Critic

accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
config = LossConfig(content_layers="gatys", style_layers="gatys")
vgg = load_vgg(read_weights(Path(sys.argv[1])), deepest_layers(config, "vgg16"))
critic = Critic(PerceptualLoss(vgg, torch.rand(1, 3, 64, 64), config), 32, 0, accelerator)
torch.manual_seed(1 + accelerator.process_index)  # pictures differ between processes
for step in range(5):
    pictures = extract(vgg, torch.rand(2, 3, 32, 32), LAYERS)
    critic(pictures, torch.zeros(2, dtype=torch.long), step)
values = torch.cat([p.detach().flatten() for p in critic.nets.parameters()])
both = accelerator.gather(values[None])
if accelerator.is_main_process:
    print(len(both), torch.equal(both[0], both[1]))
"""


def test_two_processes_hold_one_critic(vgg_file: Path, tmp_path: Path) -> None:
    script = tmp_path / "critics.py"
    script.write_text(CRITICS)
    port = str(29500 + os.getpid() % 500)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    done = run([*launcher, str(script), str(vgg_file)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 True\n"
