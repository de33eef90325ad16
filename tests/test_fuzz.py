"""Damaged files and odd arguments, in short; scripts/fuzz reads 20,000 files."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import needs
from fuzz import fuzz
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from faststyle.cli import app

# They need no input, and would start to work.
WORKING = ("bench", "doctor", "weights", "list", "webcam", "serve", "app")
COMMANDS = {
    name: command
    for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
    if name not in WORKING
}
FLAGS = {
    name: sorted(flag for option in command.params for flag in option.opts if flag[0] == "-")
    for name, command in COMMANDS.items()
}
VALUES = st.one_of(
    st.sampled_from(["none.png", "none", "-", "", ".", "..", "/", "a:b", "a:0", "nan", "inf"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=8),
)


@needs("av")
@pytest.mark.slow
def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    tried, failures = fuzz(400, 5, tmp_path / "kept")
    assert not failures, failures[0]
    assert tried.total() >= 400


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_odd_arguments_are_one_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command without any file that exists: it ends with an error, and writes nothing."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    part = st.one_of(st.sampled_from(FLAGS[name]), VALUES)

    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(part, max_size=8))
    @example(["--", "-x"])
    def run(parts: list[str]) -> None:
        result = runner.invoke(app, [name, *parts])
        assert isinstance(result.exception, SystemExit | None), (parts, result.exc_info)
        asked = "--help" in parts or "-h" in parts
        assert result.exit_code in ((0, 1, 2) if asked else (1, 2)), (parts, result.output)
        assert not list(tmp_path.iterdir()), parts

    run()
