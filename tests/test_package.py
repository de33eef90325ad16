"""The built wheel, alone in an environment of its own: all that the README shows works there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import draw, needs
from test_convert import their_network

from faststyle.bench.videos import write_clip

ROOT = Path(__file__).parent.parent
BUILD = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]

# What makes a command of the README quick enough for a test. Options that come twice count once.
SHORTER = {
    "stylize": ["--threads", "1"],
    "slow": ["--steps", "2", "--size", "64", "--vgg-weights", "{vgg}"],
    "compare": ["--steps", "2", "--size", "96", "--refine", "0.1", "--vgg-weights", "{vgg}"],
    "judge": ["--vgg-weights", "{vgg}"],
    "serve": ["--port", "0", "--threads", "1"],
    "app": ["--port", "0", "--threads", "1"],
}
# These run until they are stopped; SIGTERM ends them in good order.
STOPPED = {
    "serve": "timeout --preserve-status 40 ",
    "app": "timeout --preserve-status 60 ",
}
NEEDS_A_CAMERA = "webcam"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist, as a package index would have both."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([*BUILD, str(folder), str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel, and the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Files that are listed there are not read again for paths: an editable install of this project
    # in the environment of the tests is not seen.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder), "install", "--no-deps", str(wheel)],
        check=True,
        capture_output=True,
    )
    return folder / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the project, with what the commands of the README name."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "holiday/one.png", "photos/two.png", "data/styles/nocturne.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(5, 130, 140).save(path)
    torch.save(their_network().state_dict(), tmp_path / "mosaic.pth")
    return tmp_path


def run(installed: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a shell line in the current folder, with the programs of the environment first."""
    path = f"{installed}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], env=environment, capture_output=True, text=True
    )


def readme_lines() -> list[str]:
    """Return the commands of the README that use the program, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.match(r"(cat .*\| )?faststyle ", line)]


def test_the_sdist_and_the_wheel_hold_what_is_needed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    for needed in (
        "faststyle/gallery/the_scream-mobile.safetensors",
        "faststyle/gallery/README.md",
        "faststyle/gallery/paintings.toml",
        "faststyle/stylize/styles.html.j2",
        "faststyle/training/bases/collection.safetensors",
        "faststyle/training/recipes/quick.toml",
        "faststyle/compare/report.html.j2",
        "faststyle/web/page/index.html",
        "faststyle/web/page/worker.js",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "checkpoints/"))]
    (sdist,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        assert any(name.endswith("/pyproject.toml") for name in file.getnames())


@needs("av", "cv2", "gradio", "jinja2", "matplotlib", "onnx", "onnxruntime")
def test_every_command_of_the_readme_works_outside_the_project(
    installed: Path, elsewhere: Path, vgg_file: Path
) -> None:
    write_clip(elsewhere / "clip.mp4", 64, 96, 0.4)
    where = run(installed, "python -c 'import faststyle; print(faststyle.__file__)'")
    assert str(installed.parent) in where.stdout, where
    # The README trains nocturne in its first command, which is one for a clone.
    tiny = "--steps 2 --batch-size 1 --image-size 96 --set shift=0 --set margin=0"
    trained = run(
        installed,
        f"faststyle train --painting data/styles/nocturne.png {tiny} --vgg-weights {vgg_file}",
    )
    assert trained.returncode == 0, trained.stderr
    assert Path("checkpoints/nocturne.safetensors").is_file()
    tried = []
    for line in readme_lines():
        command = line.partition("faststyle ")[2].split()[0]
        tried.append(command)
        if command == NEEDS_A_CAMERA:
            continue
        shorter = SHORTER.get(command, [])
        if command == "stylize" and "--refine" in line:
            shorter = [*shorter, "--refine", "0.1", "--vgg-weights", "{vgg}"]
        more = " ".join(shorter).format(vgg=vgg_file)
        whole = f"{line} {more}" if ">" not in line else line
        result = run(installed, STOPPED.get(command, "") + whole)
        assert result.returncode == 0, f"{line}: {result.stderr}"
        assert "Traceback" not in result.stderr
    assert {"stylize", "export", "slow", "compare", "judge"} <= set(tried)


def test_the_styles_that_come_along_are_listed_and_found(installed: Path, elsewhere: Path) -> None:
    listed = run(installed, "faststyle list --json")
    assert "the_scream" in listed.stdout, listed.stderr
    info = run(installed, "faststyle info collection --json")
    assert "klee_senecio" in info.stdout, info.stderr
    sheet = run(installed, "faststyle sheet photo.jpg -o sheet.png")
    assert sheet.returncode == 0, sheet.stderr
    missing = run(installed, "faststyle stylize photo.jpg --style nothing -o out.png")
    assert missing.returncode == 1
    assert (
        "at hand: composition_vii-mobile, composition_vii-small, great_wave-mobile"
        in missing.stderr
    )
