"""Photos in tars and parquet files, from the disk and from a web server: each once an epoch."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from conftest import draw
from test_processes import ROOT, environment
from web import Web, open_web

from faststyle.bench.photos import made_sources, make_photos, write_tar
from faststyle.errors import PhotosError
from faststyle.training import lanes, remote
from faststyle.training.lanes import count_lanes
from faststyle.training.photos import NumberedPhotos, open_photos, photo_loader
from faststyle.training.remote import RemoteFile
from faststyle.training.shards import expand_braces

SHARDS = 6
EACH = 40  # photos of a shard
COUNT = SHARDS * EACH
SIZE = 32
SOURCES = ("folder", "tars", "parquet", "web tars", "web parquet", "hf tars", "hf folder")


def jpeg(i: int) -> bytes:
    """Return a small photo that no other is like."""
    out = io.BytesIO()
    draw(i, 40, 48).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 photos as files, in 6 tars beside labels, and in 6 parquet files of row groups of 9."""
    folder = tmp_path_factory.mktemp("photos")
    for kind in ("folder", "tars", "parquet"):
        (folder / kind).mkdir()
    for shard in range(SHARDS):
        names = [f"{shard}{i:03d}" for i in range(EACH)]
        mine = [(f"{name}.jpg", jpeg(int(name))) for name in names]
        for name, data in mine:
            (folder / "folder" / name).write_bytes(data)
        labelled = [item for pair in mine for item in (pair, (f"{pair[0][:-4]}.cls", b"7"))]
        write_tar(folder / "tars" / f"train-{shard:02d}.tar", labelled)
        write_parquet(folder / "parquet" / f"train-{shard:02d}.parquet", mine)
    return folder


def write_parquet(path: Path, files: list[tuple[str, bytes]], group: int = 9) -> None:
    rows = [{"bytes": data, "path": name} for name, data in files]
    table = pyarrow.table({"image": rows, "label": list(range(len(rows)))})
    pyarrow.parquet.write_table(table, path, row_group_size=group)


@pytest.fixture
def web(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(remote, "WAIT", 0.01)
    with open_web(photos) as server:
        yield server


def source(kind: str, photos: Path, web: Web) -> str:
    return {
        "folder": str(photos / "folder"),
        "tars": str(photos / "tars" / "train-*.tar"),
        "parquet": str(photos / "parquet"),
        "web tars": f"{web.url}/tars/train-{{00..05}}.tar",
        "web parquet": f"{web.url}/parquet/train-{{00..05}}.parquet",
        "hf tars": f"hf:{photos / 'tars'}",
        "hf folder": f"hf:{photos / 'folder'}",
    }[kind]


@pytest.mark.parametrize("kind", SOURCES)
def test_two_processes_see_each_photo_once_an_epoch(kind: str, photos: Path, web: Web) -> None:
    """Batches of four are dealt to two processes, each with a source of its own."""
    seen: list[list[bytes]] = [[], []]
    sources = [open_photos(source(kind, photos, web), 3) for _ in range(2)]
    for batch in range(2 * COUNT // 4):
        process = batch % 2
        for number in range(4 * batch, 4 * batch + 4):
            raw = sources[process].photo(number, 0)[1]
            seen[number // COUNT].append(raw if isinstance(raw, bytes) else Path(raw).read_bytes())
    for epoch in seen:
        assert len(set(epoch)) == COUNT
    assert seen[0] != seen[1]
    ordered = sorted(seen[0])
    assert ordered == sorted(jpeg(1000 * s + i) for s in range(SHARDS) for i in range(EACH))


@pytest.mark.parametrize("kind", SOURCES[1:])
def test_a_sample_is_a_function_of_seed_and_number(kind: str, photos: Path, web: Web) -> None:
    def samples(first: int, last: int, workers: int = 0, seed: int = 0) -> torch.Tensor:
        opened = open_photos(source(kind, photos, web), seed)
        numbers = {"start": first, "stop": last, "seed": seed, "workers": workers}
        loader = photo_loader(opened, size=SIZE, batch_size=4, **numbers)
        return torch.cat([batch["photo"] for batch in loader])

    whole = samples(0, COUNT + 40)
    assert torch.equal(samples(100, COUNT + 40), whole[100:]), "resumed in the middle"
    assert torch.equal(samples(0, 80, workers=2), whole[:80]), "with two workers"
    assert not torch.equal(samples(0, 80, seed=1), whole[:80]), "with another seed"


def test_neighbours_in_a_file_are_not_neighbours_in_a_batch(photos: Path, web: Web) -> None:
    for kind in ("tars", "parquet", "web tars", "web parquet"):
        opened = open_photos(source(kind, photos, web), 0)
        names = [opened.photo(number, 0)[0] for number in range(24)]
        files = {name.partition("train-")[2][:2] for name in names}
        assert len(files) >= 4, kind


def test_bad_pictures_are_replaced_and_listed(tmp_path: Path) -> None:
    files = [(f"{i}.jpg", jpeg(i)) for i in range(12)]
    files[3] = ("3.jpg", b"no picture")
    files[7] = ("7.jpg", files[7][1][:400])
    write_tar(tmp_path / "a.tar", files)
    write_parquet(tmp_path / "a.parquet", files)
    with open_web(tmp_path) as server:
        for name in ("a.tar", "a.parquet"):
            for place in (str(tmp_path / name), f"{server.url}/{name}"):
                data = NumberedPhotos(open_photos(place, 0), SIZE, 0)
                found = [data[number] for number in range(12)]
                assert all(sample["failure"] is None for sample in found)
                assert len({name for sample in found for name, _ in sample["skipped"]}) == 2


def test_a_block_of_bad_pictures_is_replaced_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last block, or row group, holds bad pictures only; the next ones are whole."""
    monkeypatch.setattr(lanes, "BLOCK", 9)
    files = [(f"{i}.jpg", jpeg(i)) for i in range(9)]
    for bad in (1, 9):
        broken = [(f"bad{i}.jpg", b"no picture") for i in range(bad)]
        write_tar(tmp_path / f"{bad}.tar", files + broken)
        write_parquet(tmp_path / f"{bad}.parquet", files + broken)
        for name in (f"{bad}.tar", f"{bad}.parquet"):
            data = NumberedPhotos(open_photos(str(tmp_path / name), 0), SIZE, 0)
            found = [data[number] for number in range(9 + bad)]
            assert [sample["failure"] for sample in found] == [None] * (9 + bad), name
            assert {n for sample in found for n, _ in sample["skipped"]}, name


def test_a_failing_server_is_asked_again_then_told(photos: Path, web: Web) -> None:
    for kind in ("web tars", "web parquet"):
        name = source(kind, photos, web)
        expected = [open_photos(name, 0).photo(n, 0) for n in range(40)]
        for fault in ("error", "cut"):
            opened = open_photos(name, 0)
            web.fault = fault
            web.faults = 3
            assert [opened.photo(n, 0) for n in range(40)] == expected
            opened = open_photos(name, 0)
            web.faults = 10**9
            sample = NumberedPhotos(opened, SIZE, 0)[COUNT // 2]
            if (fault, kind) == ("cut", "web tars"):  # each answer brings it further
                assert sample["failure"] is None
            else:
                reason = {"error": "the server says 500", "cut": "the connection was cut off"}
                assert f"reading {web.url}/" in str(sample["failure"])
                assert reason[fault] in str(sample["failure"])
            web.fault = ""
            assert [opened.photo(n, 0) for n in range(40)] == expected, "the server is back"


def test_a_missing_shard_is_one_clear_error(photos: Path, web: Web) -> None:
    for kind in ("tar", "parquet"):
        folder = {"tar": "tars"}.get(kind, kind)
        with pytest.raises(PhotosError, match=rf"/train-06.{kind}: not there \(the server says 40"):
            open_photos(f"{web.url}/{folder}/train-{{00..06}}.{kind}", 0)
        with pytest.raises(PhotosError, match=rf"there is no file .*train-06.{kind}"):
            open_photos(str(photos / folder / f"train-{{00..06}}.{kind}"), 0)
    with pytest.raises(PhotosError, match="no file matches"):
        open_photos(str(photos / "tars" / "other-*.tar"), 0)
    with pytest.raises(PhotosError, match="web servers have no list of files; use braces"):
        open_photos(f"{web.url}/tars/*.tar", 0)
    with pytest.raises(PhotosError, match="nothing.png is neither a .tar nor a .parquet file"):
        open_photos(f"{web.url}/nothing.png", 0)
    with pytest.raises(PhotosError, match="together; name one kind"):
        open_photos(str(photos / "*" / "train-00*"), 0)


@pytest.mark.parametrize("cut", [0.3, 0.62, -1024 * 10])
def test_a_cut_tar_is_one_clear_error(
    photos: Path, tmp_path: Path, cut: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it ends between two members, which tarfile takes for the end."""
    data = (photos / "tars" / "train-00.tar").read_bytes()
    with tarfile.open(photos / "tars" / "train-00.tar") as tar:
        ends = tar.getmembers()[40].offset
    for end in (int(cut * len(data)) if cut > 0 else len(data) + int(cut), ends):
        (tmp_path / "cut.tar").write_bytes(data[:end])
        with pytest.raises(PhotosError, match=r"cut.tar is no whole tar: damaged, or cut off"):
            open_photos(str(tmp_path / "cut.tar"), 0)
        with open_web(tmp_path) as server:
            opened = open_photos(f"{server.url}/cut.tar", 0)
            sample = NumberedPhotos(opened, SIZE, 0)[EACH - 1]
            assert "cut.tar is no whole tar" in str(sample["failure"])


def test_a_damaged_header_is_one_clear_error(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(photos / "tars" / "train-00.tar") as tar:
        place = tar.getmembers()[40].offset
    data = bytearray((photos / "tars" / "train-00.tar").read_bytes())
    data[place : place + 512] = b"x" * 512
    (tmp_path / "bad.tar").write_bytes(data)
    with pytest.raises(PhotosError, match=rf"bad.tar is no whole tar.* after {place:,} bytes"):
        open_photos(str(tmp_path / "bad.tar"), 0)


def test_a_cut_parquet_file_is_one_clear_error(photos: Path, tmp_path: Path) -> None:
    data = (photos / "parquet" / "train-00.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    with open_web(tmp_path) as server:
        for name in ("cut", "empty"):
            for place in (tmp_path / f"{name}.parquet", f"{server.url}/{name}.parquet"):
                with pytest.raises(PhotosError, match="cannot be read as parquet; damaged"):
                    open_photos(str(place), 0)


def test_files_without_pictures_say_what_they_hold(tmp_path: Path) -> None:
    write_tar(tmp_path / "text.tar", [("a.txt", b"a"), ("b.json", b"{}"), ("._c.jpg", b"x")])
    write_tar(tmp_path / "empty.tar", [])
    with open_web(tmp_path) as server:
        for place in (tmp_path, server.url):
            with pytest.raises(PhotosError, match=r"text.tar holds no picture, but .txt, .json"):
                open_photos(f"{place}/text.tar", 0)
            with pytest.raises(PhotosError, match=r"empty.tar holds no picture, but nothing"):
                open_photos(f"{place}/empty.tar", 0)


def test_the_column_of_a_parquet_file_is_found_or_asked_for(tmp_path: Path) -> None:
    pictures = [jpeg(i) for i in range(4)]
    plain = {"id": [1, 2, 3, 4], "jpg": pictures}
    pyarrow.parquet.write_table(pyarrow.table(plain), tmp_path / "plain.parquet")
    two = {"mask": [b"x"] * 4, **plain}
    pyarrow.parquet.write_table(pyarrow.table(two), tmp_path / "two.parquet")
    none = {"id": [1], "url": ["https://example.org/1.jpg"]}
    pyarrow.parquet.write_table(pyarrow.table(none), tmp_path / "none.parquet")
    assert open_photos(str(tmp_path / "plain.parquet"), 0).photo(0, 0)[1] in pictures
    assert open_photos(f"{tmp_path / 'two.parquet'}:jpg", 0).photo(0, 0)[1] in pictures
    with pytest.raises(
        PhotosError, match=r"which column holds the pictures\? It has mask, id, jpg.*two.parquet:m"
    ):
        open_photos(str(tmp_path / "two.parquet"), 0)
    with pytest.raises(PhotosError, match=r"It has id, url; name one of bytes, as in none.parquet"):
        open_photos(str(tmp_path / "none.parquet"), 0)
    with pytest.raises(PhotosError, match="no column 'id' of pictures; it is int64; it has id, ur"):
        open_photos(f"{tmp_path / 'none.parquet'}:id", 0)
    with pytest.raises(PhotosError, match="no column 'x' of pictures; it has id, url"):
        open_photos(f"{tmp_path / 'none.parquet'}:x", 0)
    with pytest.raises(PhotosError, match=r"plain.parquet has no column 'mask' of pictures"):
        open_photos(f"{tmp_path}/{{two,plain}}.parquet:mask", 0)


def test_a_server_without_parts_gives_tars_only(photos: Path, web: Web) -> None:
    expected = [
        open_photos(source("web tars", photos, web), 0).photo(n, 0) for n in range(COUNT + 7)
    ]
    web.parts = False
    opened = open_photos(source("web tars", photos, web), 0)
    web.fault = "cut"
    web.faults = 3
    assert [opened.photo(n, 0) for n in range(COUNT + 7)] == expected
    web.fault = ""
    with pytest.raises(PhotosError, match="the server sends no parts of files .* use tars"):
        open_photos(source("web parquet", photos, web), 0)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/ü.tar", "http://[a/x.tar?secret"])
def test_urls_that_are_none_are_one_line(url: str) -> None:
    with pytest.raises(PhotosError, match="not a valid URL") as caught:
        open_photos(url, 0).photo(0, 0)
    assert "secret" not in str(caught.value)


def test_a_file_that_changes_on_the_server_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(200)))
    with open_web(tmp_path) as server:
        file = RemoteFile(f"{server.url}/a", parts=True)
        assert file.read(10) == bytes(range(10))
        file.seek(-3, 2)
        assert file.read() == bytes([197, 198, 199])
        (tmp_path / "a").write_bytes(bytes(150))
        file.seek(20)
        with pytest.raises(PhotosError, match="/a changed while it was read"):
            file.read(10)


def test_secrets_of_urls_are_not_told(photos: Path, web: Web) -> None:
    place = f"{web.url}/tars/train-00.tar"
    assert remote.public("https://me:secret@example.org/a.tar?key=1") == "https://example.org/a.tar"
    opened = open_photos(f"{place}?key=secret", 0)
    assert "secret" not in opened.description + opened.photo(0, 0)[0]
    with pytest.raises(PhotosError, match="not there") as error:
        open_photos(f"{place}x.tar?key=secret", 0)
    assert "secret" not in str(error.value)
    with pytest.raises(PhotosError, match="a user and a password in a URL are not sent") as error:
        open_photos("https://me:secret@example.org/a.tar", 0)
    assert "secret" not in str(error.value)


def test_large_row_groups_are_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faststyle.training.shards.LARGEST_GROUP", 1000)
    with pytest.raises(PhotosError, match=r"which is read at once; .*row_group_size=100"):
        open_photos(str(photos / "parquet"), 0)


def test_each_process_reads_its_part_of_a_web_server(photos: Path, web: Web) -> None:
    """Two processes of batches of 3 take turns in 6 lanes: together they read each tar once."""
    total = sum(path.stat().st_size for path in (photos / "tars").iterdir())
    sources = [open_photos(source("web tars", photos, web), 0) for _ in range(2)]
    web.sent = 0
    for batch in range(COUNT // 3):
        for number in range(3 * batch, 3 * batch + 3):
            sources[batch % 2].photo(number, 0)
    assert web.sent <= 1.01 * total


def test_braces_are_those_of_a_shell() -> None:
    assert expand_braces("a.tar") == ["a.tar"]
    assert expand_braces("{a,b}-{8..10}") == ["a-8", "a-9", "a-10", "b-8", "b-9", "b-10"]
    assert expand_braces("{08..10}") == ["08", "09", "10"]
    assert expand_braces("{a}{1..x}{}") == ["{a}{1..x}{}"]


def test_lanes_have_about_as_many_shards() -> None:
    for shards in range(1, 300):
        lanes = count_lanes(shards)
        sizes = [len(range(lane, shards, lanes)) for lane in range(lanes)]
        assert max(sizes) <= 1.1 * np.mean(sizes)
        assert lanes >= min(5, shards)
    assert [count_lanes(n) for n in (1, 12, 16, 41, 1000)] == [1, 12, 16, 15, 16]


EPOCH = """
import sys
import psutil
import torch
from faststyle.training.photos import open_photos, photo_loader

torch.set_num_threads(1)
source, count = sys.argv[1], int(sys.argv[2])
numbers = {"start": 0, "stop": 2 * count, "seed": 0, "workers": 0}
seen = []
for i, batch in enumerate(photo_loader(open_photos(source, 0), size=64, batch_size=8, **numbers)):
    assert batch["failure"] is None, batch["failure"]
    if i % (count // 80) == 0:
        seen.append(psutil.Process().memory_info().rss >> 20)
settled = seen[len(seen) // 4 :]
print(max(settled) - settled[0], max(settled))
"""


@pytest.mark.slow
def test_memory_is_flat_and_nothing_is_seen_twice_in_thousands(tmp_path: Path) -> None:
    """4,000 photos of 30 kB: two epochs of each source, in little more memory than at the start."""
    count = 4000
    make_photos(tmp_path, count, height=240, width=360)
    total = sum(path.stat().st_size for path in (tmp_path / "pictures").iterdir()) >> 20
    assert total > 80
    with open_web(tmp_path) as server:
        for place in made_sources(tmp_path, server.url):
            done = subprocess.run(
                [sys.executable, "-c", EPOCH, place, str(count)],
                env=environment(),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, done.stderr
            grown, most = map(int, done.stdout.split())
            assert grown < 40, (place, grown, most)
            sources = [open_photos(place, 0) for _ in range(2)]
            names = [sources[n // 4 % 2].photo(n, 0)[0] for n in range(count)]
            assert len(set(names)) == count, place
