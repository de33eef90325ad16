"""The benchmark of several processes: the model by hand, and a short run of two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from faststyle.bench.scale import Machine, decoding_speed, predict, sent_bytes
from faststyle.cli import app

GPU = Machine(
    step_seconds=0.05,
    batch_size=4,
    gradient_bytes=4_000_000,
    link=1e9,
    latency=0.0,
    cores=4,
    decoded_per_second=100.0,
)


def test_a_ring_sends_nearly_twice_the_gradients() -> None:
    assert [sent_bytes(1200, n) for n in (1, 2, 3, 4)] == [0, 1200, 1600, 1800]


def test_the_model_by_hand() -> None:
    one = predict(GPU, 1)
    assert (one["seconds"], one["photos_per_second"], one["limit"]) == (0.05, 80.0, "computing")
    two = predict(GPU, 2)  # 4 MB each way at 1 GB/s: 4 ms
    assert two["seconds"] == pytest.approx(0.054)
    assert two["photos_per_second"] == pytest.approx(2 * 4 / 0.054)
    assert two["efficiency"] == pytest.approx(0.05 / 0.054)


def test_the_model_names_the_limit() -> None:
    assert predict(replace(GPU, link=1e8), 8)["limit"] == "all-reduce"  # 70 ms against 50
    starved = predict(replace(GPU, cores=0.5), 8)  # 4 photos at 50 a second: 80 ms
    assert starved["limit"] == "decoding"
    assert starved["seconds"] == pytest.approx(0.08)
    # 2 exchanges over 2 * 63 hops of 1 ms
    assert predict(replace(GPU, latency=1e-3), 64)["exchange_seconds"] > 0.252


def test_a_stream_is_read_by_all() -> None:
    """Of 8 devices each reads half of all photos: 16 of 100 kB at 10 MB/s."""
    slow = replace(GPU, photo_bytes=1e5, download=1e7, read_share=0.5)
    found = predict(slow, 8)
    assert found["reading_seconds"] == pytest.approx(0.16)
    assert found["limit"] == "reading"
    assert predict(slow, 1)["reading_seconds"] == pytest.approx(0.04)  # its own at least


def test_decoding_is_measured() -> None:
    assert 1 < decoding_speed(64) < 1e5


@pytest.mark.slow
def test_two_processes_send_what_the_model_says(
    vgg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        "batch_size = 2\nimage_size = 64\npainting_size = 64\nadversarial_weight = 1.0\n"
        'loss.content_layers = "gatys"\nloss.style_layers = "gatys"\n'
        'network = {name = "mobile", width = 64}\n'
    )
    command = ["bench", "scale", "--recipe", str(recipe), "--vgg-weights", str(vgg_file), "--json"]
    command += ["--processes", "1", "--processes", "2", "--steps", "4"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    one, two = found["rows"]
    assert (one["sent_bytes"], one["efficiency"]) == (0, 1.0)
    assert two["sent_bytes"] == found["gradient_bytes"] > 1_000_000
    # The interface counts what is sent, its frames, and other programs of this machine.
    assert two["loopback_bytes"] > two["sent_bytes"]
    assert two["seconds"] > 0
    assert two["exchange_seconds"] > 0
