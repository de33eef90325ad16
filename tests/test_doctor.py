"""The state of an installation: engines beside torch, packages that are broken or missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import needs
from torch import Tensor
from typer.testing import CliRunner

from faststyle import doctor
from faststyle.checkpoint import package_collections
from faststyle.cli import app
from faststyle.doctor import Finding, diagnose
from faststyle.files import cache_folder

JUST_TORCH = {"torch": "", "safetensors": ""}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installation with torch alone, in a folder without checkpoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "PACKAGES", JUST_TORCH)
    monkeypatch.setattr(doctor, "ENGINES", ("auto", "torch"))
    return tmp_path


class Lighter:
    """An engine whose pictures are some levels lighter than torch's."""

    name = "lighter"
    device = "cpu"
    precision = "float32"

    def __init__(self, levels: float) -> None:
        self.levels = levels

    def __call__(self, images: Tensor) -> Tensor:
        return images + self.levels / 255


@pytest.mark.parametrize(
    ("levels", "state"), [(0.0, "ok"), (1.5, "ok"), (3.0, "broken"), (float("nan"), "broken")]
)
def test_an_engine_is_compared_with_torch(
    monkeypatch: pytest.MonkeyPatch, levels: float, state: str
) -> None:
    monkeypatch.setitem(doctor.GRAPH_ENGINES, "lighter", lambda graph, options: Lighter(levels))
    photo = torch.rand(1, 3, 20, 24)
    network = torch.nn.Identity()
    found = doctor._check_engine("lighter", network, lambda: b"", photo, photo)  # type: ignore[arg-type]
    assert found.state == state
    assert f"{levels:.1f}"[:3] in found.detail
    assert "of 255 levels" in found.detail


def test_an_engine_that_fails_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(graph: object, options: object) -> Lighter:
        raise RuntimeError("no plugin\nmore")

    monkeypatch.setitem(doctor.GRAPH_ENGINES, "lighter", fail)
    photo = torch.rand(1, 3, 20, 24)
    network = torch.nn.Identity()
    found = doctor._check_engine("lighter", network, lambda: b"", photo, photo)  # type: ignore[arg-type]
    assert found == Finding("lighter", "broken", "RuntimeError: no plugin")


def test_an_engine_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "ENGINES", ("auto", "openvino"))
    packages = (Finding("openvino", "not installed", ""), Finding("onnx", "ok", "1"))
    (found,) = doctor._check_engines(packages)
    install = "openvino: pip install 'faststyle-trainer[fast]'"
    assert found == Finding("openvino", "not installed", install)


def test_packages_that_do_not_load_are_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halfway.py").write_text("raise OSError('libhalf.so: not found')")
    monkeypatch.syspath_prepend(tmp_path)
    broken = doctor._check_package("halfway", "video")
    assert broken == Finding("halfway", "broken", "OSError: libhalf.so: not found")
    install = "pip install 'faststyle-trainer[video]'"
    assert doctor._check_package("nowhere", "video") == Finding("nowhere", "not installed", install)
    # without an extra it is always needed
    assert doctor._check_package("nowhere", "").state == "broken"
    assert doctor._check_package("PIL", "").name == "pillow"


def test_the_command_prints_a_line_for_each_thing(small: Path) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert f"package       torch        {torch.__version__}" in lines
    assert f"here          {small}, " in done.stdout
    assert "styles        checkpoints: 0" in lines
    count = len(package_collections())
    assert any(line.endswith(f"bases: {count}") for line in lines)
    assert any(
        re.match(r"engine        torch        cpu, float32: 0\.0[01] ", line) for line in lines
    )
    assert "weights       vgg16        not there: downloaded when it is first needed" in done.stdout
    assert lines[-1] == "result        all that is installed works"


def test_what_is_broken_is_named_and_the_exit_code_is_1(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_folder().mkdir(exist_ok=True)
    (cache_folder() / "vgg16.safetensors").write_text("hello")
    (small / "checkpoints").mkdir()
    (small / "checkpoints" / "a.safetensors").write_text("hello")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "result        broken: vgg16"
    assert "styles        damaged: checkpoints/a.safetensors: damaged or truncated" in done.stdout


def test_json_has_all_of_it(small: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(done.stdout)
    assert found["broken"] == []
    assert found["engines"][0]["name"] == "torch"
    assert found["engines"][0]["state"] == "ok"
    assert {"cores", "memory", "cpu flags"} <= set(found["machine"])
    assert found["folders"][1]["path"] == str(cache_folder())


def test_a_torch_that_does_not_load_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "faststyle.doctor", None)  # importing it raises ImportError
    done = CliRunner().invoke(app, ["doctor"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("broken: ")


@pytest.mark.slow
@needs("onnx", "onnxscript", "onnxruntime", "openvino")
def test_every_engine_of_this_machine_works() -> None:
    found = diagnose()
    assert [engine.name for engine in found.engines] == ["torch", "onnxruntime", "openvino"]
    assert {engine.state for engine in found.engines} == {"ok"}
    assert found.broken == []
