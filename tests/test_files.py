"""Files that are written whole or not at all, whatever stops the writing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from faststyle.errors import OutputError
from faststyle.files import sha256, write_bytes, writing

ROOT = Path(__file__).parents[1]

# Run in a process of its own: a limit on file sizes would hit pytest's own files too.
WRITE_UNDER_A_LIMIT = """
import resource, sys
from faststyle.files import write_bytes
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
write_bytes(sys.argv[1], b"x" * 100_000)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB, which only root may mount.

    The test of a limit on file sizes tries nearly the same for everybody.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_writes_whole_and_makes_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.txt"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["out.txt"]


def test_the_new_file_takes_the_place_of_the_old_one_at_once(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with path.open() as reader:
        write_bytes(path, b"new")
        assert reader.read() == "old"  # renamed over it, not written into it
    assert path.read_text() == "new"


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    together = threading.Barrier(2)

    def write(letter: str) -> None:
        with writing(path) as temporary:
            temporary.write_text(letter * 10)
            together.wait(60)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, "ab"))
    assert path.read_text() in ("a" * 10, "b" * 10)
    assert os.listdir(tmp_path) == ["out.txt"]


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with writing(tmp_path / "out.png") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        assert temporary.name != "out.png"
        temporary.write_bytes(b"")


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_exception_in_the_block_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")

    def fail() -> None:
        with writing(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_target_below_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(
        OutputError,
        match=r"cannot write .*file/below/out\.txt: not a directory; "
        "a file stands where a folder is needed",
    ):
        write_bytes(tmp_path / "file" / "below" / "out.txt", b"new")
    with pytest.raises(
        OutputError,
        match=r"cannot write .*file/out\.txt: file exists; a file stands where a folder",
    ):
        write_bytes(tmp_path / "file" / "out.txt", b"new")
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out.txt").mkdir()
    with pytest.raises(OutputError, match="a folder of that name is in the way"):
        write_bytes(tmp_path / "out.txt", b"new")
    assert [p.name for p in tmp_path.rglob("*")] == ["out.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such file"), writing(tmp_path / "out.txt"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_limit_on_file_sizes_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", WRITE_UNDER_A_LIMIT, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("faststyle.errors.OutputError")
    assert "file too large; free some space" in last
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    path = small_disk / "out.bin"
    path.write_text("old")
    with pytest.raises(
        OutputError, match="no space left on device; free some space or choose another place"
    ):
        write_bytes(path, b"x" * 100_000)
    assert path.read_text() == "old"
    assert list(small_disk.iterdir()) == [path]


def test_sha256_is_that_of_hashlib(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
