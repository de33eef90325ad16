"""Training over processes and nodes: launchers, two nodes, states that move between machines."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw
from safetensors.torch import load_file
from test_processes import ROOT, TINY, environment

from faststyle.errors import DeviceError
from faststyle.training.accelerators import _check_launch

pytestmark = pytest.mark.slow
# Of weights after some steps; other photos, or gradients of half of them, give 5e-3.
ROUNDING = 5e-4
GENTLE = ["--precision", "float32", "--set", "learning_rate=1e-4"]  # else rounding grows fast


def port(offset: int) -> str:
    """A port that no other test of this run uses."""
    return str(20000 + offset * 1000 + os.getpid() % 1000)


def torchrun(processes: int, offset: int) -> list[str]:
    names = ["--nproc_per_node", str(processes), "--master_port", port(offset)]
    return [sys.executable, "-m", "torch.distributed.run", *names]


def train_command(style: Path, vgg: Path, name: str, steps: int, *more: str) -> list[str]:
    """Four photos a step, in all processes together: --batch-size is to be among `more`."""
    start = [str(ROOT / "train.py"), "--style", str(style), "--vgg-weights", str(vgg)]
    return [
        *start,
        "--recipe",
        "smoke",
        *TINY,
        *GENTLE,
        "--name",
        name,
        "--steps",
        str(steps),
        *more,
    ]


def run(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=600,
    )


def about(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "outputs" / name / "run.json").read_text())
    return found


def distance(folder: Path, one: str, other: str) -> float:
    """How far the weights of two checkpoints are apart, over the length of the first.

    Without shifts: most of them are taken away again by a normalisation. Their gradients are
    rounding alone, of which Adam makes whole steps.
    """
    a, b = (load_file(folder / "checkpoints" / f"{n}.safetensors") for n in (one, other))
    assert a.keys() == b.keys()
    names = [name for name in a if name.endswith("weight")]
    flat_a, flat_b = (torch.cat([x[n].float().flatten() for n in names]) for x in (a, b))
    return float((flat_a - flat_b).norm() / flat_a.norm())


@pytest.fixture(scope="module")
def alone(painting: Path, vgg_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, "one": eight steps of four photos."""
    folder = tmp_path_factory.mktemp("alone")
    command = train_command(painting, vgg_file, "one", 8, "--batch-size", "4")
    done = run([sys.executable, *command], folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_four_processes_end_in_the_weights_of_one(
    alone: Path, painting: Path, vgg_file: Path
) -> None:
    command = train_command(painting, vgg_file, "four", 8, "--batch-size", "1")
    done = run([*torchrun(4, 0), *command], alone)
    assert done.returncode == 0, done.stderr
    assert about(alone, "four")["processes"] == 4
    assert distance(alone, "one", "four") < ROUNDING


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces with addresses of their own: 10.213.7.1 and .2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    first, second = (f"faststyle-{os.getpid()}-{i}" for i in (1, 2))
    ends = [f"fs{os.getpid() % 10**6}{end}" for end in "ab"]  # at most 15 letters

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)

    with contextlib.ExitStack() as stack:
        for name in (first, second):
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"ip netns does not work here: {error.stderr.decode().strip()}")
            stack.callback(ip, "netns", "delete", name)  # takes the link along
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip((first, second), ends, ("1", "2"), strict=True):
            ip("link", "set", end, "netns", name, "name", "eth9")
            ip("-n", name, "addr", "add", f"10.213.7.{address}/24", "dev", "eth9")
            ip("-n", name, "link", "set", "eth9", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield first, second


def test_two_nodes_end_in_the_weights_of_one(
    alone: Path, painting: Path, vgg_file: Path, two_nodes: tuple[str, str]
) -> None:
    """As docs/scale.md says: the same command on both nodes, but for the rank."""
    command = train_command(painting, vgg_file, "nodes", 8, "--batch-size", "2")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    launch += ["--nproc_per_node", "1", "--master_addr", "10.213.7.1", "--master_port", "29500"]
    nodes = [
        subprocess.Popen(
            ["ip", "netns", "exec", node, *launch, "--node_rank", str(rank), *command],
            cwd=alone,
            env=environment(GLOO_SOCKET_IFNAME="eth9"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, node in enumerate(two_nodes)
    ]
    try:
        said = [node.communicate(timeout=600) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert about(alone, "nodes")["processes"] == 2
    assert distance(alone, "one", "nodes") < ROUNDING


CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_machines: 1
machine_rank: 0
num_processes: 2
main_process_port: {port}
mixed_precision: 'no'
use_cpu: true
"""


def test_accelerate_launch_with_a_config_file_starts_two(
    alone: Path, painting: Path, vgg_file: Path
) -> None:
    """MULTI_GPU with use_cpu: of the kinds that Accelerate has, it alone starts several here."""
    config = alone / "accelerate.yaml"
    config.write_text(CONFIG.format(port=port(1)))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command = train_command(painting, vgg_file, "launched", 8, "--batch-size", "2")
    done = run([*launch, *command], alone)
    assert done.returncode == 0, done.stderr
    assert about(alone, "launched")["processes"] == 2
    assert distance(alone, "one", "launched") < ROUNDING


def test_accelerate_launch_that_starts_one_is_refused(
    alone: Path, painting: Path, vgg_file: Path
) -> None:
    """`--cpu --num_processes 2` starts one process: half of the photos would be missing."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = train_command(painting, vgg_file, "refused", 8, "--batch-size", "2")
    done = run([*launch, *command], alone)
    assert done.returncode == 1
    line = next(line for line in done.stderr.splitlines() if line.startswith("error:"))
    assert "asked for several processes and started one" in line
    assert "torchrun --nproc_per_node" in line
    assert not (alone / "outputs" / "refused").exists()
    launch[-1] = "1"
    done = run([*launch, *command], alone)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def paintings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paintings")
    for i, name in enumerate(("apples", "boats", "cats")):
        draw(20 + i, 70, 90).save(folder / f"{name}.png")
    return folder


NOTED = """
import os, runpy, sys
from faststyle.training.photos import NumberedPhotos
from faststyle.training.trainer import Trainer

take = NumberedPhotos.__getitem__
stop_at = int(os.environ["STOP_AT"])

def noted(self, number):
    with open(os.environ["SEEN"], "a") as file:
        file.write(f"{number}\\n")
    return take(self, number)

def must_stop(self):
    self.stop.number = 15
    return self.state.step == stop_at

NumberedPhotos.__getitem__ = noted
Trainer._must_stop = must_stop
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("many", [False, True], ids=["painting", "collection"])
def test_a_state_moves_between_one_and_two_processes(
    painting: Path, paintings: Path, vgg_file: Path, tmp_path: Path, many: bool
) -> None:
    """The same photos are seen, and the weights are those of a run that was never stopped."""
    script = tmp_path / "noted.py"
    script.write_text(NOTED)
    settings = ["--set", "workers=0", "--set", "content_target=0.4"]
    settings += ["--set", "adversarial_weight=1", "--set", "average=0.9"]

    def train(name: str, processes: int, *more: str, stop_at: int = -1) -> set[int]:
        """Train with four photos a step; return the numbers of the photos that were loaded."""
        seen = tmp_path / "seen.txt"
        seen.write_text("")
        size = ["--batch-size", str(4 // processes)]
        style = paintings if many else painting
        command = train_command(style, vgg_file, name, 12, *settings, *size, *more)
        launch = [sys.executable] if processes == 1 else torchrun(processes, 2 + many)
        command = [*launch, str(script), *command]
        done = run(command, tmp_path, SEEN=str(seen), STOP_AT=str(stop_at))
        stopped = (tmp_path / "outputs" / name / "state").exists()
        assert stopped == (stop_at > 0), done.stderr
        assert ("note: a step takes" in done.stderr) is False
        return set(map(int, seen.read_text().split()))

    assert train("whole", 1) == set(range(48))
    for first in (1, 2):
        name = f"moved{first}"
        assert set(range(16)) <= train(name, first, stop_at=4) <= set(range(24))
        assert train(name, 3 - first, "--resume") == set(range(16, 48))
        assert about(tmp_path, name)["photos_seen"] == 48
        assert distance(tmp_path, "whole", name) < ROUNDING


def test_launchers_that_start_several_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)
    _check_launch()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(DeviceError, match="started one"):
        _check_launch()
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    _check_launch()
