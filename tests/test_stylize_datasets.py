"""Data sets in and out: rows and metadata stay, pictures are repainted, each shard once."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import draw
from hub import COUNT, NAME, open_hub
from PIL import Image

from faststyle.errors import ImageError, OutputError
from faststyle.files import writing
from faststyle.stylize.batch import Report
from faststyle.stylize.collection import Task, run_items
from faststyle.stylize.processes import Process
from faststyle.stylize.shards import Shard, plan_shards, wants_dataset
from faststyle.stylize.stylizer import Stylizer

ROOT = Path(__file__).parents[1]
ROWS = 7


def file_of(seed: int, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    draw(seed, 20 + seed % 3, 24).save(file, format)
    return file.getvalue()


def table(rows: int = ROWS, first: int = 0) -> pa.Table:
    numbers = range(first, first + rows)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int16()),
            "image": [{"bytes": file_of(i), "path": f"{i}.png"} for i in numbers],
            "caption": [None if i == 1 else f"photo {i}" for i in numbers],
            "boxes": [[1.5, i] for i in numbers],
        }
    )


@pytest.fixture
def stylizer(checkpoint: Path) -> Stylizer:
    return Stylizer.load(checkpoint, engine="torch", device="cpu")


@pytest.fixture
def task(checkpoint: Path) -> Task:
    return Task((str(checkpoint),))


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two parquet files in `shards`, one in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards" / "deep").mkdir(parents=True)
    pq.write_table(table(), "shards/a.parquet")
    pq.write_table(table(3, 100), "shards/deep/b.parquet")
    return Path("shards")


def run(
    task: Task, stylizer: Stylizer, inputs: list[str], output: str = "out", **options: Any
) -> Report:
    report = Report()
    run_items(task, stylizer, plan_shards(inputs, output, **options), report)
    return report


def pictures(file: str) -> list[Image.Image]:
    rows = pq.read_table(file)["image"].to_pylist()
    return [Image.open(io.BytesIO(row["bytes"])) for row in rows]


def test_rows_and_metadata_stay_and_pictures_are_repainted(
    shards: Path, task: Task, stylizer: Stylizer
) -> None:
    report = run(task, stylizer, ["shards"])
    assert report.written == ["out/a.parquet", "out/deep/b.parquet"]
    assert (report.pictures, report.failed) == (ROWS + 3, [])
    for name, original in (("a", table()), ("deep/b", table(3, 100))):
        painted = pq.read_table(f"out/{name}.parquet")
        assert painted.drop_columns("image").equals(original.drop_columns("image"))
        assert painted.schema.equals(original.schema)
        for row, old in zip(painted["image"], original["image"], strict=True):
            assert row["path"] == old["path"]
            expected = stylizer(old["bytes"].as_py())
            found = Image.open(io.BytesIO(row["bytes"].as_py()))
            np.testing.assert_array_equal(np.array(found), np.array(expected))


def test_what_datasets_writes_is_what_it_reads(
    shards: Path, task: Task, stylizer: Stylizer, tmp_path: Path
) -> None:
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["cat", "cup"]), "photo": datasets.Image()}
    )
    photos = [draw(i, 20, 30) for i in range(4)]
    rows = datasets.Dataset.from_dict({"label": [0, 1, 1, 0], "photo": photos}, features=features)
    rows.to_parquet("mine.parquet")
    report = run(task, stylizer, ["mine.parquet"])
    assert report.pictures == 4
    again = datasets.Dataset.from_parquet("out/mine.parquet", cache_dir=str(tmp_path / "cache"))
    assert again.features == features
    assert again["label"] == [0, 1, 1, 0]
    np.testing.assert_array_equal(np.array(again[2]["photo"]), np.array(stylizer(photos[2])))


def test_formats_are_kept_unless_one_is_asked_for(
    shards: Path, checkpoint: Path, stylizer: Stylizer
) -> None:
    files = [file_of(0, "JPEG"), file_of(1, "WEBP"), file_of(2, "BMP")]
    pq.write_table(pa.table({"image": files, "n": [0, 1, 2]}), "plain.parquet")  # plain bytes
    run(Task((str(checkpoint),)), stylizer, ["plain.parquet"])
    run(Task((str(checkpoint),), format="jpg", size=16), stylizer, ["plain.parquet"], "out2")

    def opened(file: str) -> list[Image.Image]:
        return [Image.open(io.BytesIO(v)) for v in pq.read_table(file)["image"].to_pylist()]

    assert [p.format for p in opened("out/plain.parquet")] == ["JPEG", "WEBP", "PNG"]
    assert [p.format for p in opened("out2/plain.parquet")] == ["JPEG"] * 3
    assert [min(p.size) for p in opened("out2/plain.parquet")] == [16] * 3


def test_a_bad_picture_is_null_and_listed_by_each_run(
    shards: Path, task: Task, stylizer: Stylizer
) -> None:
    rows = table()
    values = rows["image"].to_pylist()
    values[2]["bytes"] = b"no picture"
    values[4] = None
    values[5]["bytes"] = None
    kind = rows.schema.field("image").type
    pq.write_table(rows.set_column(1, "image", pa.array(values, kind)), "bad.parquet")
    first = run(task, stylizer, ["bad.parquet"])
    assert first.pictures == 4
    assert [name for name, _ in first.failed] == [f"bad.parquet, row {n}" for n in (2, 4, 5)]
    assert [reason.split(";")[0] for _, reason in first.failed] == [
        "not an image that can be read",
        "holds no picture",
        "holds the path 5.png only",
    ]
    column = pq.read_table("out/bad.parquet")["image"]
    assert [value.is_valid for value in column] == [True, True, False, True, False, False, True]
    assert pq.read_table("out/bad.parquet")["id"].to_pylist() == list(range(ROWS))
    again = run(task, stylizer, ["bad.parquet"])
    assert (again.kept, again.pictures, again.pictures_kept) == (["out/bad.parquet"], 0, 4)
    assert again.failed == first.failed


def test_shards_that_are_there_are_kept_and_others_are_done(
    shards: Path, checkpoint: Path, task: Task, stylizer: Stylizer
) -> None:
    run(task, stylizer, ["shards"])
    old = Path("out/a.parquet").stat().st_mtime_ns
    Path("out/deep/b.parquet").unlink()
    report = run(task, stylizer, ["shards"])
    assert (report.kept, report.written) == (["out/a.parquet"], ["out/deep/b.parquet"])
    assert Path("out/a.parquet").stat().st_mtime_ns == old
    other = Task((str(checkpoint),), size=16)
    with pytest.raises(OutputError, match="painted with another style or other options"):
        run(other, stylizer, ["shards"])
    assert Path("out/a.parquet").stat().st_mtime_ns == old
    replaced = run(Task((str(checkpoint),), size=16, keep=False), stylizer, ["shards"])
    assert len(replaced.written) == 2
    assert min(pictures("out/a.parquet")[0].size) == 16
    Path("out/a.parquet").write_bytes(b"of somebody else")
    with pytest.raises(OutputError, match="not written by faststyle"):
        run(task, stylizer, ["shards"])


class Stopped(Exception):
    """Stands for a kill."""


def test_a_stopped_shard_leaves_no_file(
    shards: Path, task: Task, stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stylizer.stylize
    calls: list[int] = []

    def stop_in_the_second_shard(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == ROWS + 2:
            raise Stopped
        return real(*arguments)

    monkeypatch.setattr(stylizer, "stylize", stop_in_the_second_shard)
    with pytest.raises(Stopped):
        run(task, stylizer, ["shards"])
    assert [p.name for p in Path("out").rglob("*") if p.is_file()] == ["a.parquet"]
    with writing("out/deep/b.parquet") as half:
        half.write_bytes(b"half")
        left = half.name
    Path("out/deep/b.parquet").unlink()
    for name in (left, ".b.4711.part.parquet", ".b.c.4711.part.parquet"):  # of kill -9; of others
        Path("out/deep", name).write_bytes(b"half")
    report = run(task, stylizer, ["shards"])
    assert (report.kept, report.pictures) == (["out/a.parquet"], 3)
    assert sorted(os.listdir("out/deep")) == [".b.c.4711.part.parquet", "b.parquet"]


def test_a_damaged_shard_does_not_stop_the_others(
    shards: Path, task: Task, stylizer: Stylizer
) -> None:
    whole = Path("shards/a.parquet").read_bytes()
    Path("shards/cut.parquet").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[40:2000] = bytes(1960)  # of the pages of data, not of the footer
    Path("shards/flipped.parquet").write_bytes(flipped)
    report = run(task, stylizer, ["shards"])
    assert [Path(name).name.split(",")[0] for name, _ in report.failed][:1] == ["cut.parquet"]
    assert "flipped" in report.failed[-1][0]
    assert {"out/a.parquet", "out/deep/b.parquet"} <= set(report.written)
    assert not Path("out/cut.parquet").exists()


def test_a_large_file_becomes_several_and_any_number_of_processes_does_each_once(
    shards: Path, task: Task, stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faststyle.stylize.shards.ROWS", 4)
    pq.write_table(table(11), "large.parquet", row_group_size=2)
    plan = plan_shards(["large.parquet"], "out")
    assert [shard.target.name for shard in plan] == [
        f"large-{i:05d}-of-00003.parquet" for i in range(3)
    ]
    reports = [Report(), Report()]
    for rank, report in enumerate(reports):
        run_items(task, stylizer, plan, report, Process(rank, 2))
    assert [report.pictures for report in reports] == [7, 4]
    parts = pa.concat_tables(pq.read_table(shard.target) for shard in plan)
    assert parts.drop_columns("image").equals(table(11).drop_columns("image"))


def test_memory_does_not_grow_with_a_group_of_rows(tmp_path: Path) -> None:
    """Batches are read from the file as they are asked for, not the whole group at once."""
    noise = np.random.default_rng(0)
    rows = [{"bytes": noise.bytes(1 << 20), "path": "x.png"} for _ in range(96)]
    # Pages of four rows, which can be read one by one. By default a page has 1024.
    file = tmp_path / "one_group.parquet"
    pq.write_table(pa.table({"image": rows}), file, use_dictionary=False, write_batch_size=4)
    del rows
    (shard,) = plan_shards([str(file)], str(tmp_path / "out"))
    before = pa.total_allocated_bytes()
    most = 0
    _, batches = shard.read()
    for _ in batches:
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 64 << 20


def test_columns_of_pictures_are_found_or_named(shards: Path, tmp_path: Path) -> None:
    both = table().append_column("mask", table()["image"])
    pq.write_table(both, "both.parquet")
    with pytest.raises(ImageError, match="several columns of pictures; choose `column` image or"):
        plan_shards(["both.parquet"], "out")
    assert plan_shards(["both.parquet"], "out", "mask")[0].column == "mask"
    with pytest.raises(ImageError, match="has no column 'photo'; it has id, image, caption"):
        plan_shards(["shards"], "out", "photo")
    with pytest.raises(ImageError, match="the column 'id' is of type int16; pictures are stored"):
        plan_shards(["shards"], "out", "id")
    pq.write_table(table().select(["id"]), "none.parquet")
    with pytest.raises(ImageError, match="no column of pictures among id"):
        plan_shards(["none.parquet"], "out")


def test_what_is_a_data_set(shards: Path) -> None:
    for inputs in (["hf:some/photos"], ["shards"], ["shards/*.parquet"], ["x.parquet"]):
        assert wants_dataset(inputs, "out")
    Path("album").mkdir()
    draw(0, 20, 20).save("album/a.png")
    assert not wants_dataset(["album", "photo.png", "-"], "out")
    with pytest.raises(ImageError, match=r"photo\.png: no data set, as the other inputs are"):
        wants_dataset(["shards", "photo.png"], "out")
    draw(0, 20, 20).save("shards/a.png")
    with pytest.raises(ImageError, match="pictures and parquet files; name one kind"):
        wants_dataset(["shards"], "out")


def test_places_that_are_refused(shards: Path) -> None:
    for output in ("-", "out.parquet", "out.png"):
        with pytest.raises(OutputError, match="a data set needs a folder"):
            plan_shards(["shards"], output)
    with pytest.raises(OutputError, match="the input itself; choose another folder"):
        plan_shards(["shards/a.parquet"], "shards")
    Path("other").mkdir()
    pq.write_table(table(), "other/a.parquet")
    with pytest.raises(OutputError, match=r"would both be written to out/a\.parquet"):
        plan_shards(["shards/a.parquet", "other/a.parquet"], "out")


def test_the_hub_without_a_network_is_one_line(shards: Path) -> None:
    with pytest.raises(ImageError, match="hf:some/photos: cannot open the data set") as error:
        plan_shards(["hf:some/photos"], "out")
    assert "without a network, name parquet files of this machine" in str(error.value)


def test_a_folder_of_files_that_datasets_can_load(
    shards: Path, task: Task, stylizer: Stylizer
) -> None:
    """The rows of such a data set hold paths, not pictures."""
    Path("album").mkdir()
    lines = []
    for i in range(3):
        draw(i, 20, 24).save(f"album/{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "caption": f"photo {i}"}))
    Path("album/metadata.jsonl").write_text("\n".join(lines))
    plan: list[Shard] = plan_shards(["hf:album"], "out")
    report = Report()
    run_items(task, stylizer, plan, report)
    assert (report.pictures, report.failed) == (3, [])
    painted = pa.concat_tables(pq.read_table(name) for name in report.written)
    assert sorted(painted["caption"].to_pylist()) == ["photo 0", "photo 1", "photo 2"]


@pytest.mark.slow
def test_a_data_set_of_the_hub(tmp_path: Path, checkpoint: Path) -> None:
    command = [sys.executable, str(ROOT / "stylize.py"), f"hf:{NAME}:train:image", "-o", "out"]
    command += ["--style", str(checkpoint), "--engine", "torch", "--report", "report.json"]
    with open_hub() as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **online}, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["pictures"], report["failed"]) == (COUNT, 0)
    (file,) = (tmp_path / "out").glob("*.parquet")
    assert file.name == "photos-train-00000-of-00001.parquet"
    assert len(pictures(str(file))) == COUNT
