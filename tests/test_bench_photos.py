"""The speed of photos, from the sources that are made for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import draw
from typer.testing import CliRunner

from faststyle.bench.photos import made_and_served
from faststyle.cli import app
from faststyle.training.photos import open_photos


def test_the_sources_that_are_made_hold_the_same_photos() -> None:
    with made_and_served(8) as sources:
        found = []
        for source in sources:
            opened = open_photos(source, 0)
            raws = [opened.photo(number, 0)[1] for number in range(8)]
            found.append(sorted(r if isinstance(r, bytes) else Path(r).read_bytes() for r in raws))
    assert len(found) == 5
    assert all(photos == found[0] for photos in found)
    assert len(set(found[0])) == 8


@pytest.mark.slow
def test_a_source_is_timed(tmp_path: Path) -> None:
    for i in range(3):
        draw(i, 60, 60).save(tmp_path / f"{i}.png")
    done = CliRunner().invoke(app, ["bench", "photos", str(tmp_path), "--count", "5", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["photos"] == 5
    assert row["photos_per_cpu_second"] > 0
    assert CliRunner().invoke(app, ["bench", "photos", "nowhere"]).exit_code == 1
