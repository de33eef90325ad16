"""Standard streams that are closed or full: one line and exit code 1, whatever prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLOSED = "error: cannot write standard output: bad file descriptor; it is closed\n"
FULL = (
    "error: cannot write standard output: no space left on device; "
    "free some space or choose another place\n"
)
NEEDS_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")


def shell(command: str, folder: Path, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command of faststyle in a shell, which closes and redirects the streams."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    line = f"{sys.executable} -m faststyle.cli {command}"
    return subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


@NEEDS_FULL
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["list", "list --json", "--help", "--version", "info {style}"])
def test_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, checkpoint: Path, command: str, unbuffered: str
) -> None:
    command = command.format(style=checkpoint)
    for stream, message in ((">&-", CLOSED), (">/dev/full", FULL)):
        done = shell(f"{command} {stream}", tmp_path, unbuffered)
        assert (done.returncode, done.stderr) == (1, message)


@NEEDS_FULL
def test_pictures_through_streams_that_are_closed_or_full(
    tmp_path: Path, checkpoint: Path, painting: Path
) -> None:
    to_file = f"stylize - --style {checkpoint} -o out.png"
    done = shell(f"{to_file} <&-", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard input: cannot be read (bad file descriptor);")
    assert not list(tmp_path.iterdir())
    to_stdout = f"stylize {painting} --style {checkpoint} -o -"
    for stream, message in ((">&-", CLOSED), (">/dev/full", FULL)):
        done = shell(f"{to_stdout} {stream}", tmp_path)
        assert (done.returncode, done.stderr) == (1, message)


@NEEDS_FULL
@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full"])
def test_errors_that_nobody_can_be_told_keep_their_exit_code(tmp_path: Path, stream: str) -> None:
    assert shell(f"info nothing {stream}", tmp_path).returncode == 1
    done = shell(f"--version {stream}", tmp_path)
    assert (done.returncode, done.stdout.split()[0]) == (0, "faststyle")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    done = shell("--help | head -n 1", tmp_path)
    assert done.stderr == ""
