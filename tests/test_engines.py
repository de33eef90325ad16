from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_batch, needs, painted

import faststyle
from faststyle.checkpoint import load_checkpoint
from faststyle.devices import cpu_facts, is_out_of_memory
from faststyle.engines import graph, onnxruntime_engine, opening, torch_engine
from faststyle.engines.engine import engine_line
from faststyle.engines.onnxruntime_engine import OnnxRuntimeEngine
from faststyle.engines.opening import open_engine
from faststyle.engines.openvino_engine import OpenVINOEngine, import_openvino
from faststyle.engines.options import EngineOptions
from faststyle.engines.torch_engine import TorchEngine
from faststyle.errors import CheckpointError, DeviceError, ImageError
from faststyle.networks.johnson import Johnson

pytestmark = pytest.mark.usefixtures("one_cache")
ON_CPU = EngineOptions(device="cpu", precision="float32")


NEEDS_OPENVINO = needs("openvino", "onnx", "onnxscript")
NEEDS_ONNXRUNTIME = needs("onnxruntime", "onnx", "onnxscript")
ALL = [
    "torch",
    pytest.param("onnxruntime", marks=NEEDS_ONNXRUNTIME),
    pytest.param("openvino", marks=NEEDS_OPENVINO),
]


@pytest.fixture
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(*_: Any) -> bytes:
        raise AssertionError("converted")

    monkeypatch.setattr(graph, "to_onnx", convert)
    monkeypatch.setattr(opening, "to_onnx", convert)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("threads", [None, 1])
def test_each_gives_what_the_network_gives(
    checkpoint: Path, name: str, threads: int | None
) -> None:
    before = torch.get_num_threads()
    engine = open_engine(checkpoint, EngineOptions(name, "cpu", "float32", threads))
    torch.set_num_threads(before)
    assert (engine.name, engine.device, engine.precision) == (name, "cpu", "float32")
    for count, h, w in ((1, 32, 32), (2, 33, 70), (1, 97, 64), (3, 33, 131)):
        images = draw_batch(count, h, w)
        got = engine(images)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, painted(checkpoint, images), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_images_of_a_batch_do_not_see_each_other(checkpoint: Path, name: str) -> None:
    """Each image has its own statistics: instance normalisation, the whitening of colours."""
    engine = open_engine(checkpoint, EngineOptions(name, "cpu", "float32"))
    together = draw_batch(2, 40, 52)
    alone = torch.cat([engine(together[:1]), engine(together[1:])])
    torch.testing.assert_close(engine(together), alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_what_was_returned_stays_as_it_is(checkpoint: Path, name: str) -> None:
    engine = open_engine(checkpoint, EngineOptions(name, "cpu", "float32"))
    images = draw_batch(1, 32, 32)
    before = images.clone()
    first = engine(images)
    kept = first.clone()
    engine(1 - images)
    assert torch.equal(first, kept)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ALL)
def test_frames_are_images_in_8_bits(checkpoint: Path, name: str) -> None:
    """Sizes may change, frames need not be contiguous, and results are not overwritten."""
    engine = open_engine(checkpoint, EngineOptions(name, "cpu", "float32"))
    for h, w in ((33, 70), (48, 32), (33, 70)):
        images = draw_batch(1, h, w)
        frame = images[0].mul(255).round().byte().permute(1, 2, 0).numpy()  # not contiguous
        got = engine.frame(frame)
        kept = got.copy()
        wanted = painted(checkpoint, torch.from_numpy(frame.copy()).permute(2, 0, 1)[None] / 255)
        assert (got.dtype, got.shape) == (np.uint8, (h, w, 3))
        # Rounding alone is 0.5.
        np.testing.assert_allclose(got, wanted[0].permute(1, 2, 0).numpy() * 255, atol=0.8)
        engine.frame(255 - frame)
        assert (got == kept).all()
    with pytest.raises(ImageError, match="31x40 pixels is too small"):
        engine.frame(np.zeros((31, 40, 3), np.uint8))


@pytest.mark.parametrize("name", ALL)
def test_any_memory_layout_is_taken(checkpoint: Path, name: str) -> None:
    engine = open_engine(checkpoint, EngineOptions(name, "cpu", "float32"))
    images = draw_batch(1, 32, 48)
    strided = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(engine(strided), engine(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_small_and_wrong_images_are_errors(checkpoint: Path, name: str) -> None:
    engine = open_engine(checkpoint, EngineOptions(name, "cpu"))
    with pytest.raises(ImageError, match="31x40 pixels is too small: .* at least 32"):
        engine(torch.zeros(1, 3, 31, 40))
    for wrong in (
        torch.zeros(3, 32, 32),
        torch.zeros(1, 4, 32, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match="images are float32"):
            engine(wrong)


@NEEDS_OPENVINO
def test_openvino_never_returns_the_picture_before(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where memory is full, `infer` ends without an error and paints nothing.
    engine = OpenVINOEngine(lambda: converted(checkpoint), ON_CPU)
    engine(draw_batch(1, 32, 48))
    request = engine._any_size
    idle = SimpleNamespace(
        infer=lambda inputs: None,
        set_output_tensor=request.set_output_tensor,
        get_compiled_model=request.get_compiled_model,
    )
    monkeypatch.setattr(engine, "_any_size", idle)
    with pytest.raises(MemoryError, match="can't allocate memory") as full:
        engine(draw_batch(1, 48, 32))
    assert is_out_of_memory(full.value)


@NEEDS_OPENVINO
def test_openvino_compiles_for_a_size_that_comes_twice_in_a_row(checkpoint: Path) -> None:
    engine = OpenVINOEngine(lambda: converted(checkpoint), ON_CPU)
    compiled: list[tuple[int, ...]] = []
    compile_once = engine._compile

    def spy(model: Any) -> Any:
        compiled.append(tuple(model.input(0).partial_shape.to_shape()))
        return compile_once(model)

    engine._compile = spy  # type: ignore[method-assign]
    a = draw_batch(1, 32, 48)
    b = draw_batch(2, 48, 32)
    for images, so_far in (
        (a, 0),
        (b, 0),
        (a, 0),
        (a, 1),
        (a, 1),
        (b, 1),
        (a, 1),
        (b, 1),
        (b, 2),
        (a, 2),
    ):
        torch.testing.assert_close(engine(images), painted(checkpoint, images), atol=1e-3, rtol=0)
        assert len(compiled) == so_far
    assert compiled == [tuple(a.shape), tuple(b.shape)]


@NEEDS_OPENVINO
def test_openvino_does_not_compile_for_sizes_that_take_turns(checkpoint: Path) -> None:
    engine = OpenVINOEngine(lambda: converted(checkpoint), ON_CPU)
    compiled = []
    compile_once = engine._compile
    engine._compile = lambda model: compiled.append(1) or compile_once(model)  # type: ignore
    batches = [draw_batch(count, 32, 48) for count in (1, 2)]
    for _ in range(10):
        for images in batches:
            engine(images)
            engine(images)
    assert sum(compiled) == 2
    for _ in range(5):  # a longer row pays again
        engine(batches[0])
    assert sum(compiled) == 3


def converted(checkpoint: Path) -> bytes:
    network, about = load_checkpoint(checkpoint)
    return graph.cached_graph(network, about, checkpoint)


@NEEDS_OPENVINO
def test_openvino_tells_nobody() -> None:
    import_openvino()
    assert sys.modules["openvino_telemetry"] is None


@NEEDS_OPENVINO
def test_ctrl_c_is_safe_after_two_networks_were_let_go(checkpoint: Path) -> None:
    """Two cores that went in the order in which they came left a freed stack for signals."""
    lines = (
        "import signal",
        "from pathlib import Path",
        "from faststyle.engines.opening import open_engine",
        "from faststyle.engines.options import EngineOptions",
        f"path = Path({str(checkpoint)!r})",
        "one, other = (open_engine(path, EngineOptions('openvino')) for _ in range(2))",
        "del one; del other",
        "try: signal.raise_signal(signal.SIGINT)",
        "except KeyboardInterrupt: print('alive')",
    )
    converted(checkpoint)
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "alive\n"), ended.stderr


@NEEDS_ONNXRUNTIME
def test_a_second_start_does_not_convert(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = converted(checkpoint)
    conversions = []
    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path))
    monkeypatch.setattr(graph, "to_onnx", lambda *_: conversions.append("once") or data)
    lines: list[str] = []
    for _ in range(2):
        open_engine(checkpoint, EngineOptions("onnxruntime"), lines.append)
    assert lines == ["converting dots, once"]
    assert conversions == ["once"]
    monkeypatch.setattr(faststyle, "__version__", "999")
    open_engine(checkpoint, EngineOptions("onnxruntime"))
    assert len(conversions) == 2


@NEEDS_ONNXRUNTIME
@pytest.mark.parametrize("damage", ["cut", "changed", "no seal", "empty", "a folder"])
def test_a_damaged_file_in_the_cache_is_made_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    data = converted(checkpoint)
    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path))
    monkeypatch.setattr(graph, "to_onnx", lambda *_: data)
    open_engine(checkpoint, EngineOptions("onnxruntime", "cpu"))
    (file,) = tmp_path.glob("graphs/*.onnx")
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        file.write_bytes(data[:-100] + bytes(100))
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "no seal":
        file.with_suffix(".onnx.sha256").unlink()
    else:
        file.unlink()
        file.mkdir()
    lines: list[str] = []
    engine = open_engine(checkpoint, EngineOptions("onnxruntime", "cpu"), lines.append)
    assert lines[0] == "converting dots, once"
    images = draw_batch(1, 36, 46)
    torch.testing.assert_close(engine(images), painted(checkpoint, images), atol=1e-3, rtol=0)
    if damage == "a folder":
        assert "the converted network is not kept: " in lines[1]
    else:
        assert file.read_bytes() == data
        open_engine(checkpoint, EngineOptions("onnxruntime", "cpu"), lines.append)
        assert len(lines) == 1


def test_the_name_in_the_cache_changes_with_weights_code_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Johnson(4, 1)
    code = tmp_path / "johnson.py"
    code.write_text("as it was")
    monkeypatch.setattr(graph.inspect, "getfile", lambda _: str(code))
    names = [graph._key(network, "a" * 64), graph._key(network, "b" * 64)]
    code.write_text("as it is")
    names.append(graph._key(network, "b" * 64))
    monkeypatch.setattr(torch, "__version__", "999")
    names.append(graph._key(network, "b" * 64))
    assert len(set(names)) == 4
    assert names[3] == graph._key(network, "b" * 64)


def test_a_cache_that_cannot_be_written_costs_a_conversion_only(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graphs").write_text("in the way")
    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path))
    monkeypatch.setattr(graph, "to_onnx", lambda *_: b"a graph")
    lines: list[str] = []
    network, about = load_checkpoint(checkpoint)
    assert graph.cached_graph(network, about, checkpoint, lines.append) == b"a graph"
    assert "a file stands where a folder is needed" in lines[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "opnvino"}, "`engine` opnvino: unknown. Did you mean 'openvino'?"),
        ({"device": "cudda"}, "`device` cudda: unknown. Did you mean 'cuda'?"),
        ({"precision": "f15"}, "`precision` f15: unknown. Did you mean 'f16'?"),
        ({"threads": 0}, "`threads` must be 1 or more, got 0"),
    ],
)
def test_what_is_unknown_is_one_line(
    checkpoint: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        open_engine(checkpoint, EngineOptions(**options))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("openvino", "openvino", "fast"),
        ("openvino", "onnxscript", "fast"),
        ("onnxruntime", "onnxruntime", "onnx"),
        ("onnxruntime", "onnx", "onnx"),
    ],
)
def test_an_engine_that_is_not_installed_names_the_extra(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str, missing: str, extra: str
) -> None:
    for package in ("openvino", "onnxruntime", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, SimpleNamespace(__spec__=None))  # there
    monkeypatch.setitem(sys.modules, missing, None)  # type: ignore[arg-type]
    with pytest.raises(
        DeviceError, match=f"this needs {missing}: pip install 'faststyle-trainer\\[{extra}\\]'"
    ):
        open_engine(checkpoint, EngineOptions(name))


def test_auto_is_torch_where_nothing_else_is_installed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # type: ignore[arg-type]
    lines: list[str] = []
    engine = open_engine(checkpoint, replace(ON_CPU, convert=True), lines.append)
    assert engine_line(engine) == "engine: torch, cpu, float32"
    assert lines == []


def test_an_npu_without_openvino_names_the_extra(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # type: ignore[arg-type]
    with pytest.raises(
        DeviceError, match=r"openvino: this needs openvino: pip install 'faststyle-trainer\[fast\]'"
    ):
        open_engine(checkpoint, EngineOptions(device="npu"))


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        pytest.param("x86_64", "openvino", marks=[NEEDS_OPENVINO, NEEDS_ONNXRUNTIME]),
        pytest.param("arm64", "onnxruntime", marks=NEEDS_ONNXRUNTIME),
    ],
)
def test_auto_is_the_fastest_of_what_is_installed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, machine: str, name: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert open_engine(checkpoint, replace(ON_CPU, convert=True)).name == name


@NEEDS_OPENVINO
@NEEDS_ONNXRUNTIME
def test_auto_goes_on_to_the_next_and_says_so(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setitem(opening.GRAPH_ENGINES, "openvino", refuse("no libtbb.so"))
    lines: list[str] = []
    many = EngineOptions(device="cpu", convert=True)
    assert open_engine(checkpoint, many, lines.append).name == "onnxruntime"
    assert lines[-1] == "not used here: openvino: no libtbb.so"
    monkeypatch.setitem(opening.GRAPH_ENGINES, "onnxruntime", refuse("no AVX"))
    monkeypatch.setattr(opening, "TorchEngine", refuse("no torch"))
    with pytest.raises(
        DeviceError, match="openvino: no libtbb.so; onnxruntime: no AVX; torch: no torch"
    ):
        open_engine(checkpoint, many)


def refuse(reason: str) -> Callable[..., Any]:
    def open_it(*_: Any) -> Any:
        raise DeviceError(reason)

    return open_it


def test_an_accelerator_that_torch_knows_is_what_auto_means(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda")
    )

    def fake(network: Any, options: EngineOptions) -> Any:
        asked.append(options.device)
        return SimpleNamespace(name="torch", precision="float32")

    monkeypatch.setattr(opening, "TorchEngine", fake)
    open_engine(checkpoint)
    assert asked == ["cuda"]


@NEEDS_ONNXRUNTIME
def test_onnxruntime_must_have_the_device_that_was_asked_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for device in ("cuda", "xpu", "npu"):
        with pytest.raises(
            DeviceError, match=f"`device` {device}: this build of ONNX Runtime has cpu only"
        ):
            open_engine(checkpoint, EngineOptions("onnxruntime", device))


@NEEDS_ONNXRUNTIME
def test_onnxruntime_may_not_fall_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with CUDA names its provider on a machine without CUDA, and runs on the CPU."""
    import onnxruntime

    given = SimpleNamespace(shape=["batch", 3, "height", "width"])
    fallen = SimpleNamespace(
        get_providers=lambda: ["CPUExecutionProvider"], get_inputs=lambda: [given]
    )
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_: fallen)
    with pytest.raises(
        DeviceError, match="`device` cuda: ONNX Runtime could not start CUDAExecutionProvider"
    ):
        OnnxRuntimeEngine(lambda: b"", EngineOptions(device="cuda"))
    monkeypatch.setattr(onnxruntime_engine, "find_device", lambda _: torch.device("cpu"))
    assert OnnxRuntimeEngine(lambda: b"").device == "cpu"


@NEEDS_OPENVINO
# A device that is missing is found out before anything is converted.
@pytest.mark.usefixtures("no_conversion")
def test_openvino_must_have_the_device_that_was_asked_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVINOEngine, "_known_plugins", lambda _: {"CPU"})
    for device in ("xpu", "npu", "cuda", "mps"):
        with pytest.raises(DeviceError, match=f"`device` {device}: OpenVINO finds cpu only"):
            open_engine(checkpoint, EngineOptions("openvino", device))


def test_torch_takes_bf16_where_the_hardware_has_it(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_checkpoint(checkpoint)[0]
    for has_it in (True, False):
        monkeypatch.setattr("faststyle.devices.has_fast_bf16", lambda _, has_it=has_it: has_it)
        monkeypatch.setattr(torch_engine, "has_fast_bf16", lambda _, has_it=has_it: has_it)
        engine = TorchEngine(network, EngineOptions(device="cpu"))
        assert engine.precision == ("bf16" if has_it else "float32")
        difference = (
            (engine(draw_batch(1, 48, 64)) - painted(checkpoint, draw_batch(1, 48, 64))).abs().max()
        )
        assert (1e-3 < difference < 0.1) if has_it else (difference < 1e-3)
    with pytest.raises(DeviceError, match="`precision` bf16: cpu has none in hardware"):
        TorchEngine(network, EngineOptions("torch", "cpu", "bf16"))
    with pytest.raises(DeviceError, match="`precision` f16: not on CPUs with torch"):
        TorchEngine(network, EngineOptions("torch", "cpu", "f16"))


@pytest.mark.parametrize(
    ("device", "capabilities", "asked", "taken"),
    [
        ("cpu", ["FP32", "INT8"], "auto", "float32"),
        ("cpu", ["FP32", "BF16", "INT8"], "auto", "bf16"),
        ("cpu", ["FP32", "BF16", "INT8"], "float32", "float32"),
        ("cpu", ["FP32", "BF16", "INT8"], "bf16", "bf16"),
        ("cpu", ["FP32", "INT8"], "bf16", None),
        ("xpu", ["FP32", "FP16"], "auto", "float32"),
        ("xpu", ["FP32", "FP16"], "f16", "f16"),
        ("xpu", ["FP32", "FP16"], "bf16", None),
        ("npu", ["FP16", "INT8"], "auto", "f16"),
        ("npu", ["FP16", "INT8"], "float32", None),
    ],
)
def test_openvino_never_takes_bf16_that_is_emulated(
    device: str, capabilities: list[str], asked: str, taken: str | None
) -> None:
    machine: Any = SimpleNamespace(
        device=device,
        _plugin=device.upper(),
        _core=SimpleNamespace(get_property=lambda *_: capabilities),
    )
    if taken is None:
        with pytest.raises(DeviceError, match=f"`precision` {asked}"):
            OpenVINOEngine._find_precision(machine, asked)
    else:
        assert OpenVINOEngine._find_precision(machine, asked) == taken


@NEEDS_OPENVINO
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs may compute in f16"
)
def test_openvino_may_not_take_another_precision_without_a_word(checkpoint: Path) -> None:
    """Without AVX512-FP16, its plugin for CPUs takes float32 or bf16 instead of f16, silently."""
    compiled = import_openvino().Core()
    if "FP16" in compiled.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has f16")
    with pytest.raises(
        DeviceError, match="`precision` f16: this cpu computes in (f32|bf16); leave"
    ):
        open_engine(checkpoint, EngineOptions("openvino", precision="f16"))


def test_a_plugin_that_computes_in_another_precision_is_refused() -> None:
    """The same with a plugin that is made up, so that it runs on every CPU."""
    compiled = SimpleNamespace(get_property=lambda name: SimpleNamespace(to_string=lambda: "f32"))
    machine: Any = SimpleNamespace(
        _core=SimpleNamespace(compile_model=lambda *args: compiled),
        _config={"INFERENCE_PRECISION_HINT": "f16"},
        _plugin="CPU",
        precision="f16",
        device="cpu",
    )
    with pytest.raises(DeviceError, match="`precision` f16: this cpu computes in f32; leave"):
        OpenVINOEngine._compile(machine, None)


@NEEDS_ONNXRUNTIME
def test_onnxruntime_knows_float32_only(checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="`precision` bf16: ONNX Runtime runs float32 only"):
        open_engine(checkpoint, EngineOptions("onnxruntime", precision="bf16"))


@pytest.mark.parametrize("name", ALL[1:])
def test_an_exported_file_is_opened_as_it_is(checkpoint: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "dots.onnx"
    file.write_bytes(converted(checkpoint))
    engine = open_engine(file, EngineOptions(name, precision="float32"))
    images = draw_batch(2, 33, 50)
    assert engine.name == name
    torch.testing.assert_close(engine(images), painted(checkpoint, images), atol=1e-3, rtol=0)
    file.write_bytes(b"no graph")
    with pytest.raises(DeviceError, match="cannot run this network on cpu"):
        open_engine(file, EngineOptions(name))


def test_exported_files_are_not_for_torch_and_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"`engine` torch does not read .onnx files; openvino or onnxruntime does"
    ):
        open_engine(tmp_path / "dots.onnx", EngineOptions("torch"))
    with pytest.raises(
        DeviceError, match=r"`engine` onnxruntime does not read .xml files; openvino does"
    ):
        open_engine(tmp_path / "dots.xml", EngineOptions("onnxruntime"))
    with pytest.raises(CheckpointError, match=r"dots.xml: no such file"):
        open_engine(tmp_path / "dots.xml")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        open_engine(tmp_path / "dots.safetensors")


@pytest.mark.parametrize("name", ALL)
def test_a_network_in_memory_is_opened_too(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name != "torch":
        data = converted(checkpoint)
        monkeypatch.setattr(opening, "to_onnx", lambda *_: data)
    engine = open_engine(load_checkpoint(checkpoint), EngineOptions(name, "cpu", "float32"))
    images = draw_batch(1, 36, 46)
    torch.testing.assert_close(engine(images), painted(checkpoint, images), atol=1e-3, rtol=0)


def test_linux_tells_of_its_cpu() -> None:
    facts = cpu_facts()
    if Path("/proc/cpuinfo").exists():
        assert facts["processor"] == "0"  # the first core alone
    else:
        assert facts == {}
