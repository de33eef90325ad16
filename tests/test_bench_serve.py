"""The measurement of the service: its figures hang together. No speed is tested."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from conftest import needs
from typer.testing import CliRunner

from faststyle.bench import serving
from faststyle.bench.serving import ServeRow, bench_serve
from faststyle.cli import app
from faststyle.errors import ServerError
from faststyle.serve.app import PACKAGES

NETWORK = {"name": "johnson", "width": 4, "blocks": 1}
OPTIONS = ("--engine", "torch", "--device", "cpu", "--threads", "1")


@needs(*PACKAGES)
@pytest.mark.slow
def test_a_service_is_started_measured_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WARM_UP", 2)
    rows = bench_serve(NETWORK, (24, 32), requests=20, clients=(1, 4), options=OPTIONS)
    assert [row.clients for row in rows] == [1, 4]
    for row in rows:
        assert (row.requests, row.size, row.refused) == (20, "24x32", 0)
        assert 0 < row.p50_ms <= row.p99_ms
        assert 1 <= row.batch <= row.clients
        assert len(row.rss_mb) == 10
        assert min(row.rss_mb) > 50
    # One client waits for each answer: its throughput is that of the mean latency.
    assert rows[0].requests_per_second <= 2e3 / rows[0].p50_ms


@needs(*PACKAGES)
@pytest.mark.slow
def test_a_service_that_does_not_start_is_an_error() -> None:
    with pytest.raises(ServerError, match="did not start: error: --engine none: unknown"):
        bench_serve(NETWORK, options=("--engine", "none"))


def test_the_command_prints_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ServeRow(8, 100, "24x32", 12.34, 5.6, 78.9, 2.5, 3, list(range(400, 410)))
    monkeypatch.setattr(serving, "bench_serve", lambda *_: [row])
    shown = CliRunner().invoke(app, ["bench", "serve", "mobile-8"]).output
    assert all(value in shown for value in ("24x32", "12.3", "2.5", "400", "409"))
    done = CliRunner().invoke(app, ["bench", "serve", "mobile-8", "--json"])
    assert json.loads(done.output) == [asdict(row)]
