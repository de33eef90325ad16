"""A collection over several processes: each picture once, after kills too, and one report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import draw
from typer.testing import CliRunner

from faststyle.cli import app
from faststyle.errors import DeviceError
from faststyle.stylize.processes import ALONE, Process, take_gpu, this_process
from faststyle.stylize.report import recorded

ROOT = Path(__file__).parents[1]


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a folder `album` of 13 photos, of which two share a name."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "album"
    folder.mkdir()
    for i in range(11):
        draw(i, 24 + i % 2, 30).save(folder / f"{i:02d}.png")
    for name in ("00.gif", "00.bmp"):
        draw(12, 24, 30).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ALONE),
        ({"RANK": "1", "WORLD_SIZE": "3"}, Process(1, 3, 0, 1)),
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
            Process(5, 8, 1, 4),
        ),
        ({"RANK": "3", "WORLD_SIZE": "3"}, "RANK 3 of WORLD_SIZE 3: ranks go from 0 to 2"),
        ({"RANK": "1"}, "RANK and WORLD_SIZE go together"),
        ({"WORLD_SIZE": "2"}, "RANK and WORLD_SIZE go together"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK in the environment must be a number from 0 up"),
    ],
)
def test_the_environment_tells_which_process_this_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Process | str
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, Process):
        assert this_process() == expected
    else:
        with pytest.raises(DeviceError, match=expected):
            this_process()


@pytest.mark.parametrize(("items", "count"), [(10, 3), (2, 4), (0, 2), (7, 1)])
def test_each_item_belongs_to_one_process(items: int, count: int) -> None:
    shares = [Process(rank, count).share(range(items)) for rank in range(count)]
    assert sorted(item for share in shares for item in share) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_processes_of_a_machine_share_its_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faststyle.stylize.processes.cores", lambda: 12)
    assert Process(1, 8, 1, 4).threads(None) == 3
    assert Process(1, 8, 1, 4).threads(5) == 5
    assert Process(1, 8, 0, 1).threads(None) is None
    assert Process(1, 99, 1, 99).threads(None) == 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    take_gpu(Process(3, 4, 3, 4))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"


def stylize(*options: str) -> list[str]:
    return [sys.executable, str(ROOT / "stylize.py"), *options, "--engine", "torch"]


def test_a_report_of_one_process(album: Path, checkpoint: Path) -> None:
    (album / "bad.jpg").write_text("no photo")
    arguments = ["stylize", "album", "--style", str(checkpoint), "-o", "out"]
    arguments += ["--engine", "torch", "--report", "report.json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    report = json.loads(Path("report.json").read_text())
    assert (report["pictures"], report["kept"], report["failed"]) == (13, 0, 1)
    assert report["complete"] is True
    assert report["failures"][0]["file"] == "album/bad.jpg"
    assert report["failures"][0]["reason"].startswith("not an image that can be read")
    assert report["files_per_second"] == pytest.approx(13 / report["seconds"], rel=0.01)
    assert sorted(os.listdir()) == ["album", "out", "report.json"]
    again = CliRunner().invoke(app, [*arguments, "--resume"])
    assert again.exit_code == 1
    report = json.loads(Path("report.json").read_text())
    assert (report["pictures"], report["kept"], report["failed"]) == (0, 13, 1)


def test_a_run_that_ends_with_an_error_is_reported(
    album: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def fill_the_disk(path: Path, data: bytes) -> None:
        if len(written) == 4:
            raise OSError(28, "no space left on device")
        written.append(path)

    def write(path: Path, data: bytes) -> None:
        from faststyle.files import output_error

        try:
            fill_the_disk(path, data)
        except OSError as error:
            raise output_error(path, error) from None

    monkeypatch.setattr("faststyle.stylize.batch.write_bytes", write)
    arguments = ["stylize", "album", "--style", str(checkpoint), "-o", "out"]
    result = CliRunner().invoke(app, [*arguments, "--report", "report.json"])
    assert result.exit_code == 1
    report = json.loads(Path("report.json").read_text())
    assert report["pictures"] == 4
    assert report["complete"] is False
    assert "no space left on device" in report["by_process"][0]["ended_by"]


def test_the_last_process_to_end_writes_the_whole_report(tmp_path: Path) -> None:
    """Whatever the order, and where they end at the same moment."""
    file = tmp_path / "report.json"
    count = 8
    barrier = threading.Barrier(count)

    def work(rank: int) -> None:
        with recorded(file, Process(rank, count)) as record:
            record.report.pictures = rank
            barrier.wait()

    for _ in range(5):
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        report = json.loads(file.read_text())
        assert (report["pictures"], report["complete"]) == (sum(range(count)), True)
        assert [part["process"] for part in report["by_process"]] == list(range(count))


def test_parts_of_an_earlier_run_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    for rank in range(2):
        with recorded(file, Process(rank, 2)) as record:
            record.report.pictures = 5
    part = tmp_path / "report.1-of-2.json"
    assert part.exists()

    def stop() -> None:
        with recorded(file, Process(1, 2)):
            assert not part.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    report = json.loads(file.read_text())
    assert (report["pictures"], report["complete"]) == (5, False)
    assert report["by_process"][1]["ended_by"] == "KeyboardInterrupt"


@pytest.mark.parametrize("kind", ["pictures", "parquet"])
def test_a_process_loads_its_network_once(
    album: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from faststyle.stylize import stylizer

    opened: list[object] = []
    real = stylizer.open_engine

    def count(*arguments: object) -> object:
        opened.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stylizer, "open_engine", count)
    source = "album"
    if kind == "parquet":
        source = "shards"
        Path("shards").mkdir()
        rows = [{"bytes": p.read_bytes(), "path": p.name} for p in sorted(album.glob("*.png"))]
        for i in range(3):
            pq.write_table(pa.table({"image": rows}), f"shards/{i}.parquet")
    arguments = ["stylize", source, "--style", str(checkpoint), "-o", "out", "--engine", "torch"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert len(opened) == 1


def test_options_that_do_not_fit(album: Path, checkpoint: Path) -> None:
    arguments = ["stylize", "album", "--style", str(checkpoint), "-o", "out"]
    huge = ["stylize", "x.parquet", *arguments[2:], "--allow-huge"]
    assert "is for files, not for data sets" in CliRunner().invoke(app, huge).stderr
    result = CliRunner().invoke(app, [*arguments, "--column", "image"])
    assert result.exit_code == 2
    assert "is for data sets" in result.stderr
    result = CliRunner().invoke(app, ["stylize", "-", *arguments[2:-1], "-", "--ray", "local"])
    assert result.exit_code == 2
    assert "is for files of pictures and data sets" in result.stderr


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.slow
def test_torchrun_does_each_picture_once_and_a_failure_stops_nobody(
    album: Path, checkpoint: Path
) -> None:
    """torchrun stops all processes when one exits with an error: it may not exit too early."""
    (album / "000.jpg").write_text("no photo")  # the first of process 0
    for i in range(20, 60):
        draw(i, 200, 200).save(album / f"{i}.png")
    for name in list(album.glob("[2-5]?.png"))[::2]:  # process 0 has less to do
        draw(0, 16, 16).save(name)
    port = str(29700 + os.getpid() % 200)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command = [*launcher, "--master_port", port, *stylize("album", "-o", "out")[1:]]
    command += ["--style", str(checkpoint), "--report", "report.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    report = read(Path("report.json"))
    assert (report["pictures"], report["failed"], report["complete"]) == (53, 1, True)
    assert [part["pictures"] + part["failed"] for part in report["by_process"]] == [27, 27]
    assert {"00.png", "00.gif.png", "00.bmp.png"} <= set(os.listdir("out"))
    assert len(os.listdir("out")) == 53


# Runs a script that gets kill -9 while it gives its sixth file the final name.
KILLED = """
import os, pathlib, runpy, signal, sys
real = pathlib.Path.replace
renamed = []

def replace(self, target):
    if target.parent.name == "out":
        renamed.append(target)
    if len(renamed) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)

pathlib.Path.replace = replace
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pictures", "parquet"])
def test_a_killed_process_is_made_up_for(album: Path, checkpoint: Path, kind: str) -> None:
    """Two processes without torchrun, as on two machines; one gets kill -9, and is run again."""
    count = 20
    source = "album"
    if kind == "pictures":
        for i in range(count - 13):
            draw(i, 30, 30).save(album / f"more{i:03d}.png")
    else:
        source = "shards"
        Path(source).mkdir()
        rows = [{"bytes": p.read_bytes(), "path": p.name} for p in sorted(album.glob("*.png"))]
        for i in range(count):
            pq.write_table(pa.table({"image": rows, "n": list(range(11))}), f"shards/{i}.parquet")
    each = 1 if kind == "pictures" else 11
    command = stylize(source, "-o", "out", "--style", str(checkpoint), "--report", "report.json")

    def run(rank: int, command: list[str], code: int = 0) -> dict[Path, int]:
        """Run a process; return the times of the files that are there then."""
        environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (code, "")
        return {path: path.stat().st_mtime_ns for path in Path("out").glob("[!.]*")}

    killed = [command[0], "-c", KILLED, *command[1:]]
    assert len(run(1, killed, -signal.SIGKILL)) == 5
    before = run(0, command)
    assert len(before) == count // 2 + 5
    report = read(Path("report.json"))
    assert (report["complete"], report["processes_missing"]) == (False, [1])
    after = run(1, command)
    assert len(after) == count
    assert before.items() <= after.items()  # nothing was done twice
    report = read(Path("report.json"))
    assert (report["complete"], report["failed"]) == (True, 0)
    assert (report["pictures"], report["kept"]) == ((count - 5) * each, 5 * each)


@pytest.mark.slow
def test_sigterm_ends_a_process_in_good_order(album: Path, checkpoint: Path) -> None:
    for i in range(300):
        draw(i, 100, 100).save(album / f"more{i}.png")
    command = stylize("album", "-o", "out", "--style", str(checkpoint), "--report", "report.json")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(list(Path("out").glob("*.png"))) < 5:
        time.sleep(0.01)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr == "stopped: the same command goes on where it was\n"
    report = read(Path("report.json"))
    assert report["complete"] is False
    assert report["pictures"] == len(list(Path("out").iterdir()))
