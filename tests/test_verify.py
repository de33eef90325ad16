"""Engines against torch in float32: what paints another picture is refused, or not taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import NETWORK, draw_batch, needs, painted
from torch import Tensor

from faststyle.checkpoint import About, load_checkpoint, save_checkpoint
from faststyle.engines import graph, opening, torch_engine, verify
from faststyle.engines.graph import cache_file
from faststyle.engines.opening import open_engine
from faststyle.engines.openvino_engine import import_openvino
from faststyle.engines.options import EngineOptions
from faststyle.engines.torch_engine import TorchEngine
from faststyle.errors import DeviceError
from faststyle.networks.johnson import Johnson

NEEDS_OPENVINO = needs("openvino", "onnx", "onnxscript")
NEEDS_ONNX = needs("onnx", "onnxscript", "onnxruntime")
Paint = Callable[[Tensor], Tensor]


def fake_engine(
    name: str, precision: str, paint: Paint, checkpoint: Path, runs: list[str]
) -> Callable[..., Any]:
    """Return an opener of an engine that paints the picture of a network, changed by `paint`."""

    class Fake:
        device = "cpu"
        size = None

        def __call__(self, images: Tensor) -> Tensor:
            runs.append(name)
            return paint(painted(checkpoint, images))

    Fake.name = name  # type: ignore[attr-defined]
    Fake.precision = precision  # type: ignore[attr-defined]
    return lambda *_: Fake()


def right(picture: Tensor) -> Tensor:
    return picture


def black(picture: Tensor) -> Tensor:
    return torch.zeros_like(picture)


def not_finite(picture: Tensor) -> Tensor:
    return torch.full_like(picture, float("nan"))


def a_bit_off(picture: Tensor) -> Tensor:
    """In bf16 this is the same picture, in float32 it is not."""
    return picture + 3 / 255


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """All engines look installed, nothing is converted; the list is of the engines that ran."""
    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path))
    monkeypatch.setattr(opening, "require", lambda *_, **__: None)
    monkeypatch.setattr(opening, "_is_installed", lambda _: True)
    monkeypatch.setattr(verify, "_record", lambda engine, file: tmp_path / engine.name)
    return []


@pytest.mark.parametrize(
    ("precision", "paint", "reason"),
    [
        ("f16", black, "structural similarity -?0.[0-9]+ at 161x243; 0.98 is needed"),
        ("bf16", not_finite, "structural similarity nan at 161x243; 0.98 is needed"),
        ("float32", a_bit_off, "3.0 of 255 levels off at 161x243; 2 are allowed"),
    ],
)
def test_a_wrong_picture_is_an_error_where_the_engine_was_asked_for(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    runs: list[str],
    precision: str,
    paint: Paint,
    reason: str,
) -> None:
    fake = fake_engine("openvino", precision, paint, checkpoint, runs)
    monkeypatch.setitem(opening.GRAPH_ENGINES, "openvino", fake)
    fix = "`engine` torch" if precision == "float32" else "`precision` float32"
    wanted = (
        f"^`precision` {precision}: openvino on this cpu does not paint what torch paints in "
        f"float32, {reason}; use {fix}$"
    )
    for _ in range(2):
        with pytest.raises(DeviceError, match=wanted):
            open_engine(checkpoint, EngineOptions("openvino", "cpu", precision))
    assert runs == ["openvino"]  # the second time, the result is known


@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_a_right_picture_is_compared_once(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    runs: list[str],
    tmp_path: Path,
    precision: str,
) -> None:
    paint = a_bit_off if precision == "bf16" else right
    fake = fake_engine("openvino", precision, paint, checkpoint, runs)
    monkeypatch.setitem(opening.GRAPH_ENGINES, "openvino", fake)
    options = EngineOptions("openvino", "cpu", precision)
    for _ in range(2):
        assert open_engine(checkpoint, options).name == "openvino"
    assert len(runs) == 1
    (tmp_path / "openvino").write_text('{"engine": "openv')  # a record that was cut
    open_engine(checkpoint, options)
    open_engine(checkpoint, options)
    assert len(runs) == 2
    # A network in memory has no file that could be known again.
    open_engine(load_checkpoint(checkpoint), options)
    assert len(runs) == 3


def test_auto_takes_the_next_engine_and_says_so(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, runs: list[str]
) -> None:
    for name, precision, paint in (("openvino", "bf16", black), ("onnxruntime", "float32", black)):
        fake = fake_engine(name, precision, paint, checkpoint, runs)
        monkeypatch.setitem(opening.GRAPH_ENGINES, name, fake)
    lines: list[str] = []
    engine = open_engine(checkpoint, EngineOptions(device="cpu", convert=True), lines.append)
    assert (engine.name, engine.precision) == ("torch", "float32")
    assert [line.split(" does")[0] for line in lines] == [
        "not used here: openvino: `precision` bf16: openvino on this cpu",
        "not used here: onnxruntime: `precision` float32: onnxruntime on this cpu",
    ]


def test_auto_leaves_bf16_where_it_paints_another_picture(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, runs: list[str]
) -> None:
    def fake(network: Any, options: EngineOptions) -> Any:
        if options.precision == "float32":
            return TorchEngine(network, options)
        return fake_engine("torch", "bf16", black, checkpoint, runs)()

    monkeypatch.setattr(opening, "TorchEngine", fake)
    lines: list[str] = []
    engine = open_engine(checkpoint, EngineOptions(device="cpu"), lines.append)
    assert (engine.name, engine.precision) == ("torch", "float32")
    assert len(lines) == 1
    assert lines[0].startswith("not used here: torch: `precision` bf16: torch on this cpu does not")
    with pytest.raises(DeviceError, match="`precision` bf16: torch on this cpu does not paint"):
        open_engine(checkpoint, EngineOptions("torch", "cpu", "bf16"))


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """A checkpoint with large weights: float32 is right, f16 overflows.

    The norms cancel the length of the weights, so it paints the picture of the small ones.
    """
    torch.manual_seed(0)
    network = Johnson(4, 1)
    network.head.weight.data.mul_(0.1)
    network.encode1.conv.weight.data.mul_(1e6)
    path = tmp_path / "overflowing.safetensors"
    save_checkpoint(path, network, About(NETWORK, {"file": "a.png"}, {}, "none", {}))
    return path


@NEEDS_OPENVINO
@pytest.mark.usefixtures("one_cache")
def test_f16_that_overflows_is_refused(overflowing: Path) -> None:
    core = import_openvino().Core()
    if "FP16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no f16")
    with pytest.raises(DeviceError, match="`precision` f16: openvino on this cpu does not paint"):
        open_engine(overflowing, EngineOptions("openvino", "cpu", "f16"))
    records = list(
        cache_file(load_checkpoint(overflowing)[0], overflowing).parent.glob("over*.json")
    )
    assert len(records) == 1
    images = draw_batch(1, 33, 50)
    engine = open_engine(overflowing, EngineOptions("openvino", "cpu", "float32"))
    torch.testing.assert_close(engine(images), painted(overflowing, images), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("paint", "reason"), [(black, "one colour only"), (not_finite, "values that are not numbers")]
)
def test_an_exported_file_must_paint_something(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    runs: list[str],
    tmp_path: Path,
    paint: Paint,
    reason: str,
) -> None:
    file = tmp_path / "dots.onnx"
    file.touch()
    for how in (paint, right):
        fake = fake_engine("onnxruntime", "float32", how, checkpoint, runs)
        monkeypatch.setitem(opening.GRAPH_ENGINES, "onnxruntime", fake)
        options = EngineOptions("onnxruntime")
        if how is right:
            open_engine(file, options)
            continue
        with pytest.raises(DeviceError, match=f"dots.onnx: onnxruntime .* paints {reason} in"):
            open_engine(file, options)


def test_a_record_is_of_one_engine_version_precision_and_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine: Any = SimpleNamespace(name="torch", device="cpu", precision="bf16")
    file = Path("graphs/dots-123.onnx")
    names = [verify._record(engine, file)]
    assert names[0].parent == file.parent
    assert names[0].name.startswith("dots-123.")
    names.append(verify._record(engine, Path("graphs/dots-124.onnx")))
    engine.precision = "f16"
    names.append(verify._record(engine, file))
    monkeypatch.setattr(torch, "__version__", "999")
    names.append(verify._record(engine, file))
    monkeypatch.setattr(verify, "_hardware", lambda _: "another one")
    names.append(verify._record(engine, file))
    assert len(set(names)) == 5
    assert verify._record(engine, file) == names[-1]


def test_torch_in_bf16_is_compared_without_any_conversion(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_engine, "has_fast_bf16", lambda _: True)
    monkeypatch.setattr(graph, "to_onnx", lambda *_: pytest.fail("converted"))
    engine = open_engine(checkpoint, EngineOptions("torch", "cpu", "bf16"))
    assert engine.precision == "bf16"
