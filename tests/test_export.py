from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import NETWORK, draw, draw_batch, needs, painted
from torch import Tensor, nn
from typer.testing import CliRunner

import faststyle
from faststyle.checkpoint import About, load_checkpoint, save_checkpoint
from faststyle.cli import app
from faststyle.engines import export, graph
from faststyle.engines.export import (
    ExportError,
    ExportReport,
    export_checkpoint,
    int8_file,
)
from faststyle.engines.graph import EXAMPLE, to_onnx
from faststyle.engines.opening import open_engine
from faststyle.engines.openvino_engine import import_openvino
from faststyle.engines.options import EngineOptions
from faststyle.engines.verify import Check, compare, too_far
from faststyle.errors import CheckpointError, DeviceError, ImageError, OutputError, PhotosError
from faststyle.files import sha256
from faststyle.images import read_image
from faststyle.networks import build_network
from faststyle.networks.johnson import Johnson
from faststyle.stylize.stylizer import Stylizer

pytestmark = pytest.mark.usefixtures("one_cache")


NEEDS_ONNX = needs("onnxruntime", "onnx", "onnxscript")
NEEDS_OPENVINO = needs("openvino", "onnx", "onnxscript")
NEEDS_INT8 = needs("openvino", "onnx", "onnxscript", "nncf")


@pytest.fixture
def written_onnx(checkpoint: Path, tmp_path: Path) -> tuple[Path, ExportReport]:
    output = tmp_path / "folder" / "dots.onnx"
    return output, export_checkpoint(checkpoint, output)


@NEEDS_ONNX
def test_onnx_is_torch_at_any_size_and_batch(
    checkpoint: Path, written_onnx: tuple[Path, ExportReport]
) -> None:
    import onnxruntime

    output, report = written_onnx
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    for count, h, w in ((1, 32, 32), (2, 97, 131), (3, 34, 45), (1, 128, 64)):
        images = draw_batch(count, h, w)
        (got,) = session.run(["stylized"], {"photo": images.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(got), painted(checkpoint, images), atol=1e-3, rtol=0
        )
    assert report.files == (output,)
    assert (report.format, report.precision, report.size_bytes) == (
        "onnx",
        "float32",
        output.stat().st_size,
    )
    assert [check.size for check in report.checks] == ["97x131", "64x257"]
    assert all(
        c.engine == "onnxruntime" and 0 < c.difference < 2 / 255 and c.ssim > 0.99
        for c in report.checks
    )
    assert [p.name for p in output.parent.iterdir()] == ["dots.onnx"]


@NEEDS_ONNX
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 17), (1, 5, 3), (1, 40, 15)])
def test_onnx_takes_any_size_from_one_pixel_up(
    checkpoint: Path, written_onnx: tuple[Path, ExportReport], size: tuple[int, int, int]
) -> None:
    """The edge pixels of small photos are repeated up to 32 pixels, inside of the graph."""
    import onnxruntime

    session = onnxruntime.InferenceSession(written_onnx[0], providers=["CPUExecutionProvider"])
    count, h, w = size
    photos = torch.rand(count, 3, h, w, generator=torch.Generator().manual_seed(0))
    wide = np.pad(
        photos.numpy(), [(0, 0), (0, 0), (0, max(0, 32 - h)), (0, max(0, 32 - w))], mode="edge"
    )
    expected = painted(checkpoint, torch.from_numpy(wide))[..., :h, :w]
    (got,) = session.run(None, {"photo": photos.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-3, rtol=0)


@NEEDS_ONNX
@needs("cv2")
@pytest.mark.parametrize("name", ["johnson", "mobile"])
def test_opencv_reads_an_export_of_a_fixed_size(tmp_path: Path, name: str) -> None:
    import cv2
    import onnx

    config = {"name": name, "width": 8, "blocks": 1}
    torch.manual_seed(0)
    path = tmp_path / "dots.safetensors"
    save_checkpoint(path, build_network(config), About(config, {"file": "a.png"}, {}, "none", {}))
    output = tmp_path / "dots.onnx"
    report = export_checkpoint(path, output, size=(50, 71))
    assert {check.size for check in report.checks} == {"50x71"}
    kinds = {node.op_type for node in onnx.load(output).graph.node}
    assert not kinds & {"Shape", "ConstantOfShape", "Gather", "Mod", "Div", "Concat", "Squeeze"}
    photo = draw_batch(1, 50, 71)
    network = cv2.dnn.readNetFromONNX(str(output))
    network.setInput(photo.numpy())
    got = torch.from_numpy(network.forward())
    torch.testing.assert_close(got, painted(path, photo), atol=2 / 255, rtol=0)


@NEEDS_ONNX
@NEEDS_OPENVINO
@pytest.mark.parametrize(("engine", "suffix"), [("onnxruntime", ".onnx"), ("openvino", ".xml")])
def test_an_export_of_a_fixed_size_is_a_style_for_that_size(
    checkpoint: Path, tmp_path: Path, engine: str, suffix: str
) -> None:
    output = tmp_path / f"dots{suffix}"
    format = "onnx" if suffix == ".onnx" else "openvino"
    export_checkpoint(checkpoint, output, format, size=(33, 50))
    opened = open_engine(output, EngineOptions(engine, precision="float32"))
    assert opened.size == (33, 50)
    images = draw_batch(2, 33, 50)
    torch.testing.assert_close(opened(images), painted(checkpoint, images), atol=1e-3, rtol=0)
    message = "an image of 34x50 pixels: this file was exported for 33x50 only"
    with pytest.raises(ImageError, match=message):
        opened(draw_batch(1, 34, 50))
    with pytest.raises(ImageError, match=message):
        opened.frame(np.zeros((34, 50, 3), np.uint8))
    if suffix == ".xml":
        model = import_openvino().Core().read_model(output)
        assert model.input(0).partial_shape.to_string() == "[1,3,33,50]"


def test_small_sizes_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="`size` 31x40: both sides must be at least 32 pixels"):
        export_checkpoint(checkpoint, tmp_path / "dots.onnx", size=(31, 40))


@pytest.mark.parametrize("name", ["dots.onnx", "dots.xml"])
def test_a_file_that_is_there_is_kept(checkpoint: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    there = output if name == "dots.onnx" else output.with_suffix(".bin")  # one of two is enough
    there.write_bytes(b"an older one")
    result = CliRunner().invoke(app, ["export", str(checkpoint), "-o", str(output)])
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: -o {there}: is there already; --overwrite replaces it\n",
    )
    assert there.read_bytes() == b"an older one"
    assert list(tmp_path.iterdir()) == [there]


@NEEDS_ONNX
def test_onnx_is_a_valid_graph_of_open_sizes(written_onnx: tuple[Path, ExportReport]) -> None:
    import onnx

    model = onnx.load(written_onnx[0])
    onnx.checker.check_model(model, full_check=True)
    for value in (*model.graph.input, *model.graph.output):
        sizes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert sizes == ["batch", 3, "height", "width"]
    # The graph holds no side of the example: neither padded nor not, at full, half or quarter size.
    h, w = EXAMPLE[2:]
    sides = {side for s in (h, w) for side in (s, s + -s % 4, (s + -s % 4) // 2, (s + -s % 4) // 4)}
    integers = [
        onnx.numpy_helper.to_array(i)
        for i in model.graph.initializer
        if i.data_type == onnx.TensorProto.INT64
    ]
    assert integers  # axes, pads and the like
    assert not sides & {abs(int(number)) for array in integers for number in np.ravel(array)}


@NEEDS_ONNX
def test_instance_normalisation_is_exported_as_such(
    written_onnx: tuple[Path, ExportReport],
) -> None:
    """A batch normalisation, or a scale and shift of their own, would take one more pass."""
    import onnx

    nodes = onnx.load(written_onnx[0]).graph.node
    kinds = [node.op_type for node in nodes]
    assert "BatchNormalization" not in kinds
    norms = [node for node in nodes if node.op_type == "InstanceNormalization"]
    assert len(norms) == 5 + 2  # encoder and decoder, the residual block
    assert sum("weight" in node.input[1] for node in norms) == 7


@NEEDS_ONNX
def test_onnx_says_where_it_came_from(
    checkpoint: Path, written_onnx: tuple[Path, ExportReport]
) -> None:
    import onnx

    model = onnx.load(written_onnx[0])
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(found.pop("network")) == NETWORK
    assert found.pop("input") == "RGB float32 (batch, 3, height, width) in [0, 1]"
    assert found == {
        "style": "dots",
        "painting": "dots.png",
        "license": "CC0-1.0",
        "faststyle_version": faststyle.__version__,
        "checkpoint_sha256": sha256(checkpoint),
    }
    assert str(Path(faststyle.__file__).parent).encode() not in written_onnx[0].read_bytes()


@pytest.mark.slow
@NEEDS_ONNX
def test_networks_without_a_palette_are_exported(tmp_path: Path) -> None:
    torch.manual_seed(1)
    path = tmp_path / "plain.safetensors"
    about = About({**NETWORK, "blocks": 0}, {}, {}, "none", {})
    save_checkpoint(path, Johnson(4, 0), about)
    report = export_checkpoint(path, tmp_path / "plain.onnx")
    assert max(check.difference for check in report.checks) < 1e-3


@NEEDS_ONNX
def test_all_group_normalisations_are_translated() -> None:
    """Our norms have one channel a group, or one group; others may come."""
    import onnxruntime

    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, 2, 3]))
            self.shift = nn.Parameter(torch.tensor([0.0, 1, -1]))

        def forward(self, x: Tensor) -> Tensor:
            x = F.group_norm(x, 1, self.scale, self.shift, eps=0.1)
            return F.group_norm(F.group_norm(x, 3, self.scale, self.shift, eps=0.2), 3, eps=0.3)

    session = onnxruntime.InferenceSession(to_onnx(Norms(), {}), providers=["CPUExecutionProvider"])
    images = draw_batch(2, 36, 47)
    (got,) = session.run(None, {"photo": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), Norms()(images).detach(), atol=1e-5, rtol=0)


@NEEDS_OPENVINO
def test_openvino_is_torch_at_any_size_and_batch(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "dots.xml"
    report = export_checkpoint(checkpoint, output, "openvino")
    assert report.files == (output, tmp_path / "dots.bin")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dots.bin", "dots.xml"]
    assert report.size_bytes == sum(p.stat().st_size for p in report.files)
    assert {check.precision for check in report.checks} >= {"float32"}
    model = import_openvino().Core().read_model(output)
    assert model.input(0).partial_shape.to_string() == "[?,3,?,?]"
    assert model.get_rt_info(["faststyle", "checkpoint_sha256"]).value == sha256(checkpoint)
    assert model.get_rt_info(["faststyle", "style"]).value == "dots"
    assert not model.has_rt_info(["faststyle", "precision"])
    engine = open_engine(output, EngineOptions(precision="float32"))
    for count, h, w in ((1, 32, 32), (3, 34, 45)):
        images = draw_batch(count, h, w)
        torch.testing.assert_close(engine(images), painted(checkpoint, images), atol=1e-3, rtol=0)


@NEEDS_INT8
def test_int8_keeps_colours_and_ends_in_float(
    checkpoint: Path, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "CALIBRATION_PHOTOS", 4)
    output = tmp_path / "dots.xml"
    report = export_checkpoint(checkpoint, output, "openvino", int8=True, photos=str(photo_folder))
    assert report.precision == "int8"
    assert all(0.97 <= check.ssim < 1 and check.precision == "int8" for check in report.checks)
    engine = open_engine(output)
    assert (engine.name, engine.precision) == ("openvino", "int8")
    assert engine(draw_batch(2, 33, 50)).shape == (2, 3, 33, 50)

    operations = import_openvino().Core().read_model(output).get_ordered_ops()
    convs = [op for op in operations if op.get_type_name() == "Convolution"]
    in_int8 = [sees_int8(op) for op in convs]
    # encode1 | encode2, encode3, two of the residual block, decode1, decode2 | head
    assert in_int8 == [False] + 6 * [True] + [False]
    # No other operation takes values that were rounded to 8 bits.
    rounded = [op.output(0) for op in operations if op.get_type_name() == "FakeQuantize"]
    users = {
        user.get_node().get_type_name() for output in rounded for user in output.get_target_inputs()
    }
    assert users <= {"Pad", "Convolution"}


@NEEDS_INT8
def test_int8_takes_all_of_mobiles_convolutions(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "CALIBRATION_PHOTOS", 4)
    config = {"name": "mobile", "width": 16, "blocks": 1}
    torch.manual_seed(0)
    network = build_network(config)
    path = tmp_path / "folded.safetensors"
    output = tmp_path / "folded.xml"
    save_checkpoint(path, network, About(config, {"file": "a.png"}, {}, "none", {}))
    report = export_checkpoint(path, output, "openvino", int8=True, photos=str(photo_folder))
    assert all(check.ssim >= 0.97 for check in report.checks)
    operations = import_openvino().Core().read_model(output).get_ordered_ops()
    assert [sees_int8(op) for op in operations if op.get_type_name() == "Convolution"] == [
        *[True] * 5,
        False,
    ]  # the head writes pixels


@NEEDS_INT8
def test_int8_for_a_checkpoint_is_made_once(
    checkpoint: Path, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def fake(source: Path, output: Path, format: str, int8: bool, overwrite: bool) -> None:
        assert (source, format, int8, overwrite) == (checkpoint, "openvino", True, True)
        made.append(output)
        for part in (output, output.with_suffix(".bin")):
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(b"whole")

    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(export, "export_checkpoint", fake)
    first = int8_file(checkpoint)
    said = []
    assert int8_file(checkpoint, said.append) == first
    assert (made, said) == ([first], [])
    made[0].with_suffix(".bin").unlink()  # one of the two files is not enough
    int8_file(checkpoint, said.append)
    assert (len(made), said) == (2, ["converting dots to 8 bits, once"])
    for number, part in enumerate((made[0], made[0].with_suffix(".bin")), 3):
        part.write_bytes(b"changed")
        int8_file(checkpoint)
        assert len(made) == number
    with pytest.raises(ExportError, match="this file has its precision"):
        int8_file(made[0])
    with pytest.raises(ExportError, match="this file has its precision"):
        open_engine(made[0], EngineOptions(precision="int8"))


@NEEDS_INT8
def test_int8_is_the_same_from_the_library_and_from_the_command(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ways run the int8 export of the checkpoint."""
    monkeypatch.setattr(export, "CALIBRATION_PHOTOS", 4)
    photo = tmp_path / "photo.png"
    draw(0, 33, 50).save(photo)
    exported = tmp_path / "dots.xml"
    export_checkpoint(checkpoint, exported, "openvino", int8=True)
    wanted = open_engine(exported)(read_image(photo))

    engine = open_engine(checkpoint, EngineOptions(precision="int8"))
    assert (engine.name, engine.device, engine.precision) == ("openvino", "cpu", "int8")
    torch.testing.assert_close(engine(read_image(photo)), wanted)
    stylizer = Stylizer.load(checkpoint, precision="int8")
    assert stylizer.describe() == "engine: openvino, cpu, int8"
    torch.testing.assert_close(stylizer(read_image(photo)), wanted)

    command = ["stylize", str(photo), "--style", str(checkpoint), "--precision", "int8"]
    result = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "out.png")])
    assert result.exit_code == 0, result.output
    assert "(engine: openvino, cpu, int8)" in result.stdout
    stylizer(photo).save(tmp_path / "library.png")
    assert torch.equal(read_image(tmp_path / "out.png"), read_image(tmp_path / "library.png"))


@NEEDS_INT8
def test_int8_works_without_a_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "CALIBRATION_PHOTOS", 4)
    network, about = load_checkpoint(checkpoint)
    data = graph.cached_graph(network, about, checkpoint)
    monkeypatch.setattr(graph, "to_onnx", lambda *_: data)
    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path))
    (tmp_path / "graphs").write_text("in the way")
    lines: list[str] = []
    engine = open_engine(checkpoint, EngineOptions(precision="int8"), lines.append)
    assert engine.precision == "int8"
    assert engine(draw_batch(1, 36, 46)).shape == (1, 3, 36, 46)
    assert any("is not kept: " in line for line in lines)
    assert [p.name for p in tmp_path.iterdir()] == ["graphs"]


@NEEDS_INT8
def test_a_blend_in_int8_blends_pictures(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CALIBRATION_PHOTOS", 4)
    said: list[str] = []
    styles = [f"{checkpoint}:3", str(checkpoint)]
    blend = Stylizer.blend(styles, EngineOptions(precision="int8"), announce=said.append)
    assert "in int8 the pictures of these styles are blended, not their networks" in said
    photo = draw_batch(1, 33, 50)
    alone = Stylizer.load(checkpoint, precision="int8")(photo)
    torch.testing.assert_close(blend(photo), alone, atol=1e-5, rtol=0)


def test_int8_is_for_checkpoints(checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="`precision` int8: for checkpoints only"):
        open_engine(load_checkpoint(checkpoint), EngineOptions(precision="int8"))
    for other in ({"engine": "torch"}, {"engine": "onnxruntime"}, {"device": "cuda"}):
        with pytest.raises(DeviceError, match="`precision` int8: OpenVINO on the CPU only, not"):
            Stylizer.load(checkpoint, precision="int8", **other)


def test_int8_runs_on_openvino_only(checkpoint: Path, tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    draw(0, 36, 46).save(photo)
    command = [
        "stylize",
        str(photo),
        "--style",
        str(checkpoint),
        "-o",
        str(tmp_path / "b.png"),
        "--precision",
        "int8",
    ]
    result = CliRunner().invoke(app, [*command, "--engine", "torch"])
    assert (result.exit_code, result.stderr) == (
        1,
        "error: --precision int8: OpenVINO on the CPU only, not --engine torch --device auto\n",
    )
    assert not (tmp_path / "b.png").exists()


def sees_int8(operation: Any) -> bool:
    """Whether the first input of an OpenVINO operation is quantised, before any padding."""
    source = operation.input_value(0).get_node()
    while source.get_type_name() == "Pad":
        source = source.input_value(0).get_node()
    return bool(source.get_type_name() == "FakeQuantize")


@pytest.mark.parametrize(
    ("precision", "difference", "ssim", "reason"),
    [
        ("float32", 2 / 255, 0.1, ""),
        ("float32", 2.1 / 255, 1.0, "2.1 of 255 levels off at 97x131; 2 are allowed"),
        ("float32", float("nan"), float("nan"), "nan of 255 levels off at 97x131; 2 are allowed"),
        ("bf16", 0.5, 0.98, ""),
        ("bf16", 0.0, 0.979, "structural similarity 0.979 at 97x131; 0.98 is needed"),
        ("f16", 0.0, 0.979, "structural similarity 0.979 at 97x131; 0.98 is needed"),
        ("int8", 0.5, 0.97, ""),
        ("int8", 0.0, 0.969, "structural similarity 0.969 at 97x131; 0.97 is needed"),
        ("int8", 0.0, float("nan"), "structural similarity nan at 97x131; 0.97 is needed"),
    ],
)
def test_how_near_to_torch_an_export_must_be(
    precision: str, difference: float, ssim: float, reason: str
) -> None:
    assert too_far(Check("openvino", precision, "97x131", difference, ssim)) == reason


def test_a_comparison_takes_the_worst_pixel_and_the_worst_photo() -> None:
    images = draw_batch(2, 32, 40)
    wrong = images.clone()
    wrong[1] = 1 - images[1]
    wrong[0, 0, 3, 4] = images[0, 0, 3, 4] - 0.01

    class Wrong:
        name = "wrong"
        device = "cpu"
        precision = "float32"

        def __call__(self, images: Tensor) -> Tensor:
            return wrong

    check = compare(Wrong(), images, images)
    assert check.size == "32x40"
    assert check.difference == pytest.approx(float((1 - 2 * images[1]).abs().max()))
    assert check.ssim < 0  # a negative of itself


@NEEDS_ONNX
def test_what_is_not_torch_is_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "dots.onnx"
    output.write_bytes(b"an older one")
    monkeypatch.setattr(export, "TorchEngine", lambda *_: lambda images: 1 - images)
    with pytest.raises(
        ExportError, match="nothing written: onnxruntime in float32 is not torch, .* at 97x131"
    ):
        export_checkpoint(checkpoint, output, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["dots.onnx"]
    assert output.read_bytes() == b"an older one"


@NEEDS_OPENVINO
@pytest.mark.parametrize("parent", ["here", "new"])
def test_a_full_disk_leaves_neither_of_two_files(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "_write_openvino", full)
    with pytest.raises(OutputError, match="no space left on device; free some space"):
        export_checkpoint(checkpoint, tmp_path / parent / "dots.xml", "openvino")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.usefixtures("_all_installed")
def test_a_place_that_cannot_be_written_to_is_found_out_first(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(export, "cached_graph", lambda *_: pytest.fail("converted"))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        export_checkpoint(checkpoint, tmp_path / "file" / "dots.onnx")
    (tmp_path / "dots.onnx").mkdir()
    with pytest.raises(OutputError, match="a folder of that name is in the way"):
        export_checkpoint(checkpoint, tmp_path / "dots.onnx")
    monkeypatch.setattr(Path, "touch", forbidden)
    with pytest.raises(
        OutputError, match="permission denied; choose a place that you may write to"
    ):
        export_checkpoint(checkpoint, tmp_path / "other.onnx")


@pytest.fixture
def _all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All packages of the extras can be imported, whether they are installed or not."""
    for package in ("openvino", "onnxruntime", "onnx", "onnxscript", "nncf"):
        monkeypatch.setitem(sys.modules, package, SimpleNamespace(__spec__=None))


@pytest.mark.usefixtures("_all_installed")
@pytest.mark.parametrize(
    ("format", "int8", "missing", "extra"),
    [
        ("onnx", False, "onnx", "onnx"),
        ("onnx", False, "onnxscript", "onnx"),
        ("onnx", False, "onnxruntime", "onnx"),
        ("openvino", False, "openvino", "fast"),
        ("openvino", False, "onnxscript", "fast"),
        ("openvino", True, "nncf", "int8"),
    ],
)
def test_a_package_that_is_missing_names_its_extra(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    format: Any,
    int8: bool,
    missing: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    output = tmp_path / f"dots{export.SUFFIXES[format]}"
    with pytest.raises(
        DeviceError, match=f"this needs {missing}: pip install 'faststyle-trainer\\[{extra}\\]'"
    ):
        export_checkpoint(checkpoint, output, format, int8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("output", "format", "int8", "message"),
    [
        ("dots.onnx", "onxx", False, "`format` onxx: unknown. Did you mean 'onnx'?"),
        ("dots.xml", "onnx", False, "dots.xml: an export for onnx ends in .onnx"),
        ("dots.onnx", "openvino", False, "dots.onnx: an export for openvino ends in .xml"),
        ("dots", "openvino", False, "dots: an export for openvino ends in .xml"),
        (
            "dots.onnx",
            "onnx",
            True,
            "`int8`: ONNX Runtime is slower in int8 than in float32; use `format` openvino",
        ),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    checkpoint: Path, output: str, format: Any, int8: bool, message: str
) -> None:
    with pytest.raises(ExportError) as caught:
        export_checkpoint(checkpoint, Path(output), format, int8)
    assert str(caught.value) == message


@pytest.mark.usefixtures("_all_installed")
def test_a_checkpoint_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        export_checkpoint(tmp_path / "dots.safetensors", tmp_path / "new" / "dots.onnx")
    (tmp_path / "dots.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="not a checkpoint, but some other file"):
        export_checkpoint(tmp_path / "dots.safetensors", tmp_path / "new" / "dots.onnx")
    assert not (tmp_path / "new").exists()


@NEEDS_INT8
def test_photos_to_calibrate_on_must_be_there(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="`photos` /nowhere: no such folder"):
        export_checkpoint(
            checkpoint, tmp_path / "dots.xml", "openvino", int8=True, photos="/nowhere"
        )
    assert not list(tmp_path.iterdir())


@NEEDS_ONNX
def test_the_command_writes_and_says_how_near_it_is(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "dots.onnx"
    result = CliRunner().invoke(app, ["export", str(checkpoint), "-o", str(output)])
    assert result.exit_code == 0, result.output
    assert "of 255 levels from torch, structural similarity" in result.stdout
    assert f"wrote {output}: float32," in result.stdout
    again = CliRunner().invoke(
        app, ["export", str(checkpoint), "-o", str(output), "--format", "openvino"]
    )
    assert (again.exit_code, again.stderr) == (
        1,
        f"error: {output}: an export for openvino ends in .xml\n",
    )
