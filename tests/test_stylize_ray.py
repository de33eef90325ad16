"""A collection on a local cluster of Ray, of which a worker is killed: all is done, once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import draw, needs
from PIL import Image

from faststyle.engines.options import EngineOptions
from faststyle.stylize.batch import Job
from faststyle.stylize.collection import Task
from faststyle.stylize.ray import Actor, _absolute, _collect
from faststyle.stylize.report import Record

ROOT = Path(__file__).parents[1]
COUNT = 120
# Ray's workers are nice to other programs: beside other tests they would hardly run.
CLUSTER = {"RAY_worker_niceness": "0"}


def command(source: str, checkpoint: Path, *options: str) -> list[str]:
    start = [sys.executable, str(ROOT / "stylize.py"), source, "-o", "out", "--ray", "local"]
    return [*start, "--style", str(checkpoint), "--engine", "torch", *options]


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of the actors that are painting."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "ray::MapWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def run_and_kill(command: list[str], folder: Path, pattern: str, code: int) -> dict[str, Any]:
    """Run a command, kill one of its two workers in mid-run, and return its report.

    The command must end with an exit code of `code`.
    """
    environment = {**os.environ, **CLUSTER, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--report", "report.json", "--threads", "1"],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list((folder / "out").glob(pattern))) < 10:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    victim = workers(process)[0]
    victim.kill()
    _, stderr = process.communicate(timeout=500)
    assert process.returncode == code, stderr
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def check_workers(report: dict[str, Any], items: int) -> None:
    found = report["by_process"][0]["workers"]
    assert len(found) >= 2
    assert all(worker["networks_loaded"] == 1 for worker in found)
    assert sum(worker["items"] for worker in found) == items


def test_what_actors_tell_is_recorded(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An actor and the one who collects, without a cluster between them."""
    monkeypatch.chdir(tmp_path)
    frames = [draw(i, 20, 20) for i in range(2)]
    for name in ("a", "b"):
        frames[0].save(f"{name}.gif", save_all=True, append_images=frames[1:])
    Path("bad.png").write_text("no photo")
    jobs = [Job(Path(name), Path("out", f"{name}.png")) for name in ("a.gif", "b.gif", "bad.png")]
    items = [_absolute(job) for job in jobs]
    assert all(job.source.is_absolute() and job.target.is_absolute() for job in items)
    actor = Actor(Task((str(checkpoint),), EngineOptions("torch", "cpu")), items)
    rows = [row for ids in ([0, 1], [2]) for row in actor({"id": np.array(ids)})["result"]]
    record = Record()
    done: list[Job] = []
    _collect(map(json.loads, rows), items, record, done.append, print)
    assert (record.report.pictures, done) == (2, items)
    note = "only the first frame of an animation is used"
    assert record.report.notes == [f"{note}: {items[0].source}, {items[1].source}"]
    assert [name for name, _ in record.report.failed] == [str(items[2].source)]
    assert [worker["items"] for worker in record.workers] == [3]
    assert sorted(os.listdir("out")) == ["a.gif.png", "b.gif.png"]


@needs("ray")
@pytest.mark.slow
def test_pictures_are_done_once_though_a_worker_is_killed(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "album").mkdir()
    for i in range(COUNT):
        draw(i, 200, 200).save(tmp_path / "album" / f"{i:03d}.png")
    report = run_and_kill(command("album", checkpoint), tmp_path, "*.png", code=0)
    # A picture that the killed worker wrote and did not tell of is there when it is tried again.
    assert (report["pictures"] + report["kept"], report["failed"]) == (COUNT, 0)
    check_workers(report, COUNT)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(tmp_path / "album"))
    for file in (tmp_path / "out").iterdir():
        with Image.open(file) as image:
            image.load()


KILLER = """
import os
from pathlib import Path
from faststyle.engines.options import EngineOptions
from faststyle.errors import DeviceError
from faststyle.stylize.batch import Job
from faststyle.stylize.collection import Task
from faststyle.stylize.ray import run_on_ray
from faststyle.stylize.report import Record

class Killed(Task):
    def run(self, stylizer, item, report, notes):
        if item.source.name == "bad.png":
            os._exit(1)
        super().run(stylizer, item, report, notes)

names = ("a.png", "bad.png", "c.png")
items = [Job(Path(name), Path("out", name)) for name in names]
task = Killed(({checkpoint!r},), EngineOptions("torch", "cpu", threads=1))
try:
    run_on_ray("local", task, items, Record())
except DeviceError as error:
    print("refused:", error)
"""


@needs("ray")
@pytest.mark.slow
def test_a_picture_that_kills_each_worker_ends_the_run(tmp_path: Path, checkpoint: Path) -> None:
    for name in ("a.png", "bad.png", "c.png"):
        draw(1, 40, 40).save(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", KILLER.format(checkpoint=str(checkpoint))],
        cwd=tmp_path,
        env={**os.environ, **CLUSTER, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    refused = done.stdout.splitlines()[-1]  # before it, Ray tells of each retry
    assert refused.startswith("refused: Ray: "), done.stdout
    assert refused.endswith("the same command goes on there")


@needs("ray")
@pytest.mark.slow
def test_shards_are_done_once_though_a_worker_is_killed(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(40):
        rows = []
        for i in range(5):
            file = io.BytesIO()
            draw(5 * shard + i, 100, 100).save(file, "PNG")
            rows.append({"bytes": file.getvalue() if i else b"bad", "path": f"{i}.png"})
        numbers = list(range(5 * shard, 5 * shard + 5))
        table = pa.table({"image": rows, "number": numbers})
        pq.write_table(table, tmp_path / "shards" / f"{shard:02d}.parquet")
    # Some pictures are bad, so the exit code is 1.
    report = run_and_kill(command("shards", checkpoint), tmp_path, "*.parquet", code=1)
    assert (report["pictures"] + report["kept"], report["failed"]) == (160, 40)
    check_workers(report, 40)
    numbers = [
        number
        for file in sorted((tmp_path / "out").glob("*.parquet"))
        for number in pq.read_table(file)["number"].to_pylist()
    ]
    assert numbers == list(range(200))


@needs("ray")
@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, checkpoint: Path) -> None:
    draw(0, 20, 20).save(tmp_path / "a.png")
    at = command("a.png", checkpoint)
    at[at.index("local")] = "127.0.0.1:1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        at, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --ray 127.0.0.1:1: no cluster to be reached")
    assert len(done.stderr.splitlines()) == 1
