from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from conftest import draw
from PIL import Image
from safetensors.torch import load_file, save
from typer.main import get_command
from typer.testing import CliRunner

from faststyle.checkpoint import About, base_file, painting_names, read_about, save_checkpoint
from faststyle.cli import app
from faststyle.cli.common import reports_errors, with_flags
from faststyle.cli.stylizing import stylize
from faststyle.images import read_image
from faststyle.networks.johnson import Johnson
from faststyle.sizes import fit_shorter
from faststyle.stylize.stylizer import Stylizer

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "train",
    "stylize",
    "webcam",
    "export",
    "convert",
    "push",
    "sheet",
    "styles",
    "info",
    "list",
    "weights",
    "doctor",
    "bench train",
    "bench stylize",
    "bench video",
)
TINY = [
    "--recipe",
    "smoke",
    "--steps",
    "1",
    "--image-size",
    "64",
    "--batch-size",
    "1",
    "--device",
    "cpu",
]
for pair in ("painting_size=80", "network.width=4", "network.blocks=1", "workers=0"):
    TINY += ["--set", pair]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, painting: Path) -> Path:
    """The working folder, with a painting, a photo and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dots.png").write_bytes(painting.read_bytes())
    draw(0, 24, 36).save(tmp_path / "photo.png")
    torch.manual_seed(0)
    network = {"name": "johnson", "width": 4, "blocks": 1}
    about = About(
        network, {"file": "dots.png"}, {"id": "tiny"}, "none", {"steps": 3}, {"style_rel": 0.5}
    )
    save_checkpoint(tmp_path / "checkpoints" / "dots.safetensors", Johnson(4, 1), about)
    return tmp_path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, as a shell does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_gives_an_example(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = call(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: faststyle {command}" in result.stdout
    assert call(*command.split(), "-h").stdout == result.stdout


@pytest.mark.parametrize("script", ["train", "stylize"])
def test_help_of_the_scripts_gives_an_example(script: str, tmp_path: Path) -> None:
    done = run(ROOT / f"{script}.py", "--help", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: faststyle {script}" in done.stdout
    assert run(ROOT / f"{script}.py", "-h", folder=tmp_path).stdout == done.stdout


def test_help_lists_all_commands_and_is_instant(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom faststyle.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL'}\n"
        "heavy |= {'accelerate', 'datasets', 'safetensors', 'skimage'}\n"
        "print('imported:', sorted(heavy & set(sys.modules)))\n"
    )
    done = run("-c", code, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "imported: []"
    assert all(f" {command.split()[0]} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["paint"],
        ["train"],
        ["train", "--style"],
        ["train", "--style", "dots.png", "--stepz", "3"],
        ["train", "--style", "dots.png", "--steps", "many"],
        ["stylize", "photo.png", "--style", "dots"],
        ["stylize", "--style", "dots", "-o", "out.png"],
        ["info"],
    ],
)
def test_wrong_usage_exits_with_2(workplace: Path, arguments: list[str]) -> None:
    before = files(workplace)
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr
    assert result.stdout == ""
    assert files(workplace) == before


def break_things(folder: Path) -> None:
    """Put the bad inputs of `BAD` into a folder with dots.png and its checkpoint."""
    (folder / "text.jpg").write_text("no picture\n")
    (folder / "empty.png").touch()
    (folder / "file").touch()
    (folder / "nothing").mkdir()
    whole = (folder / "checkpoints" / "dots.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-100])
    about = asdict(About({}, {}, {}, "none", {}))
    tensors = load_file(folder / "checkpoints" / "dots.safetensors")
    newer = json.dumps({"format_version": 99, **about})
    (folder / "newer.safetensors").write_bytes(save(tensors, metadata={"faststyle": newer}))
    (folder / "other.safetensors").write_bytes(save(tensors))


TRAIN = ["train", *TINY, "--name", "new", "--style"]
STYLIZE = ["stylize", "photo.png", "--style"]
BAD: dict[str, tuple[list[str], str]] = {
    "missing painting": ([*TRAIN, "none.png"], "none.png: no such file"),
    "painting that is text": ([*TRAIN, "text.jpg"], "text.jpg: not an image that can be read"),
    "empty painting": ([*TRAIN, "empty.png"], "empty.png: the file is empty"),
    "painting that is a folder": (
        [*TRAIN, "nothing"],
        "nothing: no painting in this folder can be used",
    ),
    "empty photo folder": (
        [*TRAIN, "dots.png", "--photos", "nothing"],
        "--photos nothing: no images in it",
    ),
    "missing photo folder": (
        [*TRAIN, "dots.png", "--photos", "none"],
        "--photos none: no such folder",
    ),
    "photo for a photo folder": (
        [*TRAIN, "dots.png", "--photos", "photo.png"],
        "--photos photo.png: a file that holds no photos",
    ),
    "no photo folder": ([*TRAIN, "dots.png", "--photos", ""], "--photos is empty"),
    "no painting": ([*TRAIN, ""], "--painting is empty"),
    "start that is a picture": (
        [*TRAIN, "dots.png", "--init", "photo.png"],
        "--init photo.png: a picture, where a trained style is expected",
    ),
    "start that is another network": (
        [*TRAIN, "dots.png", "--set", "network.width=8", "--init", "checkpoints/dots.safetensors"],
        "--init checkpoints/dots.safetensors holds another network: width 4",
    ),
    "name that leads elsewhere": (
        [*TRAIN, "dots.png", "--name", "../esc"],
        "--name '../esc': a name is that of one file",
    ),
    "checkpoint that is there": (
        [*TRAIN, "dots.png", "--name", "dots"],
        "checkpoints/dots.safetensors is there already: replace it with --overwrite",
    ),
    "unwritable checkpoint": (
        [*TRAIN, "dots.png", "-o", "file/new.safetensors"],
        "cannot write file/new.safetensors",
    ),
    "unknown recipe": (
        [*TRAIN, "dots.png", "--recipe", "quik"],
        "unknown recipe 'quik'. Did you mean 'quick'?",
    ),
    "unknown key": ([*TRAIN, "dots.png", "--set", "stepz=3"], "unknown key 'stepz'"),
    "precision": (
        [*TRAIN, "dots.png", "--precision", "fp16"],
        "precision must be auto, float32, bf16",
    ),
    "negative seed": ([*TRAIN, "dots.png", "--seed", "-1"], "seed must be 0 or more"),
    "no strength": ([*TRAIN, "dots.png", "--strength", "nan"], "loss.strength must be a number"),
    "unknown device": ([*TRAIN, "dots.png", "--device", "gpu"], "unknown device 'gpu'"),
    "no threads": ([*TRAIN, "dots.png", "--threads", "0"], "--threads must be 1 or more"),
    "nothing to resume": ([*TRAIN, "dots.png", "--resume"], "nothing to resume"),
    "missing VGG weights": (
        [*TRAIN, "dots.png", "--vgg-weights", "none.pth"],
        "none.pth: no such file of VGG weights",
    ),
    "bad VGG weights": (
        [*TRAIN, "dots.png", "--vgg-weights", "cut.safetensors"],
        "cut.safetensors: damaged",
    ),
    "unknown style": (
        [*STYLIZE, "dost", "-o", "out.png"],
        "no checkpoint 'dost', .* at hand: dots",
    ),
    "newer checkpoint": (
        [*STYLIZE, "newer.safetensors", "-o", "out.png"],
        "format version 99, this faststyle reads",
    ),
    "truncated checkpoint": (
        [*STYLIZE, "cut.safetensors", "-o", "out.png"],
        "cut.safetensors: damaged or truncated",
    ),
    "foreign checkpoint": (
        [*STYLIZE, "other.safetensors", "-o", "out.png"],
        "not a checkpoint of faststyle",
    ),
    "text as checkpoint": (
        [*STYLIZE, "text.jpg", "-o", "out.png"],
        "text.jpg: a picture, where a trained style is expected",
    ),
    "unwritable output": ([*STYLIZE, "dots", "-o", "file/out.png"], "cannot write file/out.png"),
    "unknown format": (
        [*STYLIZE, "dots", "-o", "out.heic"],
        "cannot write .heic; use jpeg, jpg, png, tif, tiff, webp",
    ),
    "photo over itself": ([*STYLIZE, "dots", "-o", "photo.png"], "the input itself"),
    "missing photo": (
        ["stylize", "none.png", "--style", "dots", "-o", "out.png"],
        "none.png: no such file",
    ),
    "photo that is text": (
        ["stylize", "text.jpg", "--style", "dots", "-o", "out.png"],
        "text.jpg: not an image",
    ),
    "folder without photos": (
        ["stylize", "nothing", "--style", "dots", "-o", "out"],
        "no images in nothing",
    ),
    "checkpoint that is a folder": (
        [*TRAIN, "dots.png", "-o", "nothing"],
        "a checkpoint is a file that ends in .safetensors",
    ),
    "checkpoint that is a picture": (
        [*TRAIN, "dots.png", "-o", "x.png"],
        "a checkpoint is a file that ends in .safetensors",
    ),
    "no width": ([*TRAIN, "dots.png", "--set", "network.width=0"], "width is at least 1"),
    "no such network": (
        [*TRAIN, "dots.png", "--network", "mobil"],
        "unknown network 'mobil'. Did you mean 'mobile'?",
    ),
    "no size": ([*STYLIZE, "dots", "-o", "out.png", "--size", "0"], "--size must be 1 or more"),
    "info on nothing": (["info", "none"], "no checkpoint 'none'"),
    "info on newer": (["info", "newer.safetensors"], "format version 99"),
    "weights of nothing": (
        ["weights", "--vgg-weights", "none.h5"],
        "none.h5: no such file of VGG weights",
    ),
    "unknown VGG": (["weights", "--vgg", "vgg11"], "unknown VGG 'vgg11'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_and_exit_code_1(
    workplace: Path, vgg_file: Path, case: str
) -> None:
    break_things(workplace)
    before = files(workplace)
    arguments, message = BAD[case]
    if arguments[0] == "train" and "--vgg-weights" not in arguments:
        arguments = [*arguments, "--vgg-weights", str(vgg_file)]
    result = call(*arguments)
    # Any other exception is a traceback.
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert all(part in lines[0] for part in message.split(" .* "))
    after = files(workplace)
    assert {name: after.get(name) for name in before} == before
    new = set(after) - set(before)
    assert not new


@pytest.mark.parametrize("arguments", [["-dash.png"], ["photo.png", "-other.png"]])
def test_a_file_that_looks_like_an_option_is_not_taken_for_one(
    workplace: Path, arguments: list[str]
) -> None:
    for name in ("-dash.png", "-other.png"):
        shutil.copy("photo.png", name)
    result = call("stylize", *arguments, "--style", "dots", "-o", "out.png")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {arguments[-1]}: looks like an option; write ./{arguments[-1]}\n"
    )
    assert not Path("out.png").exists()
    paths = [f"./{name}" for name in arguments]
    assert call("stylize", *paths, "--style", "dots", "-o", "out").exit_code == 0
    assert call("stylize", "--style", "dots", "-o", "out2", "--", *arguments).exit_code == 0


def leaf_commands(command: Any, name: str = "faststyle") -> dict[str, Any]:
    """Return all commands by their full names."""
    found = {name: command}
    for part, below in getattr(command, "commands", {}).items():
        found |= leaf_commands(below, f"{name} {part}")
    return found


def test_no_help_text_loses_its_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes [huge] for markup, and prints nothing."""
    monkeypatch.setenv("COLUMNS", "400")
    for name, command in leaf_commands(get_command(app)).items():
        shown = " ".join(call(*name.split()[1:], "--help").stdout.split())
        texts = [command.help or "", *(getattr(p, "help", "") or "" for p in command.params)]
        for text in texts:
            for bracket in re.findall(r"\\?(\[[^]]*\])", text):
                assert bracket in shown, f"{name}: {text}"
    assert "needs [huge]" in " ".join(call("stylize", "--help").stdout.split())


def test_notes_come_first_and_bad_files_last(workplace: Path) -> None:
    os.mkdir("album")
    photo = draw(0, 20, 24)
    photo.save("album/film.gif", save_all=True, append_images=[draw(1, 20, 24)])
    photo.save("album/a\x1b[31m.png")
    Path("album/walk.cr2").touch()
    Path("album/bad\x07.png").write_text("no picture")
    result = call("stylize", "album", "--style", "dots", "-o", "out")
    assert result.exit_code == 1
    assert result.stdout == "wrote 2 pictures (engine: torch, cpu, float32)\n"
    notes = [
        "note: left out, not pictures that can be read: album/walk.cr2",
        "note: only the first frame of an animation is used: album/film.gif",
    ]
    assert result.stderr.splitlines()[:2] == notes
    assert result.stderr.splitlines()[2].startswith("error: album/bad\\x07.png: not an image")
    one = call("stylize", "album/a\x1b[31m.png", "--style", "dots", "-o", "new\x1b[31m.png")
    assert one.stdout.startswith("wrote new\\x1b[31m.png (")
    again = call("stylize", "album/film.gif", "--style", "dots", "-o", "out.png", "--json")
    assert json.loads(again.stdout)["notes"] == [notes[1].removeprefix("note: ")]


def test_a_sheet_says_what_cannot_be_written_before_the_work(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stylizer, "__call__", lambda *_: pytest.fail("has begun to paint"))
    draw(0, 20, 2000).save("panorama.png")
    for photo, output, reason in (
        ("photo.png", "out.gif", "cannot write .gif"),
        ("photo.png", "/proc/out.png", "cannot write /proc/out.png"),
        ("panorama.png", "out.webp", "pixels are too many for WEBP"),
    ):
        result = call("sheet", photo, "--style", "dots", "-o", output)
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
        assert reason in result.stderr


def test_metadata_are_kept_when_asked_for(workplace: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Acme"
    draw(0, 20, 24).save("photo.jpg", exif=exif, dpi=(300, 300))
    for options, make in (([], None), (["--keep-metadata"], "Acme")):
        result = call(
            "stylize", "photo.jpg", "--style", "dots", "-o", "out.jpg", "--overwrite", *options
        )
        assert result.exit_code == 0, result.stderr
        with Image.open("out.jpg") as image:
            assert image.getexif().get(0x010F) == make
            assert image.info["dpi"] == (300, 300)


def test_so_it_is_in_a_process_of_its_own(workplace: Path, vgg_file: Path) -> None:
    break_things(workplace)
    (_, *arguments), message = BAD["empty photo folder"]
    done = run(ROOT / "train.py", *arguments, "--vgg-weights", vgg_file, folder=workplace)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert message in done.stderr


def test_one_bad_photo_among_good_ones_is_one_line_and_exit_code_1(workplace: Path) -> None:
    (workplace / "album").mkdir()
    for name in ("a.png", "c.png"):
        draw(0, 20, 20).save(workplace / "album" / name)
    (workplace / "album" / "b.jpg").write_text("no photo")
    result = call("stylize", "album", "--style", "dots", "-o", "out")
    assert result.exit_code == 1
    assert result.stdout == "wrote 2 pictures (engine: torch, cpu, float32)\n"
    assert result.stderr.startswith("error: album/b.jpg: not an image that can be read")
    assert len(result.stderr.splitlines()) == 1
    assert sorted(os.listdir("out")) == ["a.png", "c.png"]
    again = call("stylize", "album", "--style", "dots", "-o", "out", "--json")
    report = json.loads(again.stdout)
    assert report["written"] == []
    assert report["kept"] == ["out/a.png", "out/c.png"]
    assert [name for name, _ in report["failed"]] == ["album/b.jpg"]
    assert again.exit_code == 1


def test_stylize_says_what_it_wrote(workplace: Path) -> None:
    result = call(
        "stylize",
        "photo.png",
        "--style",
        "dots",
        "-o",
        "new/out.jpg",
        "--keep-colors",
        "--size",
        "20",
    )
    wrote = "wrote new/out.jpg (engine: torch, cpu, float32)\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, wrote, "")
    assert os.listdir("new") == ["out.jpg"]
    before = Path("new/out.jpg").read_bytes()
    again = call("stylize", "photo.jpg", "--style", "dots", "-o", "new/out.jpg")
    assert (again.exit_code, Path("new/out.jpg").read_bytes()) == (1, before)
    assert again.stderr == "error: -o new/out.jpg: is there already; --overwrite replaces it\n"


def test_the_size_of_strokes_is_a_number_or_auto(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faststyle.stylize.strokes.SIDE", 16)
    stylizer = Stylizer.load("dots", device="cpu")
    for size in ("auto", "2", "0.5"):
        out = f"{size}.png"
        result = call("stylize", "photo.png", "--style", "dots", "-o", out, "--stroke-size", size)
        assert result.exit_code == 0, result.stderr
        expected = stylizer("photo.png", stroke_size="auto" if size == "auto" else float(size))
        np.testing.assert_array_equal(np.array(Image.open(out)), np.array(expected))
    result = call("stylize", "photo.png", "--style", "dots", "-o", "x.png", "--stroke-size", "big")
    assert result.exit_code == 2
    assert "Invalid value for --stroke-size: auto, or a number, got 'big'" in result.stderr


def test_info_says_how_a_checkpoint_was_made(workplace: Path) -> None:
    result = call("info", "dots", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    about = json.loads(result.stdout)
    assert about["network"] == {"name": "johnson", "width": 4, "blocks": 1}
    assert (about["painting"], about["scores"]) == ({"file": "dots.png"}, {"style_rel": 0.5})
    text = call("info", "checkpoints/dots.safetensors").stdout
    assert text.startswith("checkpoints/dots.safetensors  0.")
    assert '"file": "dots.png"' in text


def test_list_and_info_show_names_as_they_are(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets are no markup, and nothing in a file controls the terminal."""
    monkeypatch.setenv("COLUMNS", "200")
    network = {"name": "johnson", "width": 4, "blocks": 1}
    about = About(network, {"file": "dots.png"}, {}, "\x1b[2Jgone", {})
    save_checkpoint(Path("checkpoints/other [draft].safetensors"), Johnson(4, 1), about)
    assert "other [draft]" in call("list").stdout
    text = call("info", "other [draft]").stdout
    assert "\x1b" not in text
    assert '"\\u001b[2Jgone"' in text


def test_metadata_of_a_checkpoint_send_the_terminal_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    about = About(
        {"name": "johnson", "width": 4, "blocks": 1},
        {"file": "\x1b[31mred"},
        {},
        "none\x1b]0;title\x07",
        {},
    )
    save_checkpoint(workplace / "checkpoints" / "dots.safetensors", Johnson(4, 1), about)
    for command in (["info", "dots"], ["list"]):
        shown = call(*command).stdout
        assert "\x1b" not in shown
        assert "\x07" not in shown


def test_version_is_that_of_the_package() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"faststyle {version('faststyle-trainer')}\n")


def test_weights_says_where_they_are_from(vgg_file: Path) -> None:
    result = call("weights", "--vgg-weights", vgg_file, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "id": "vgg16-tiny",
        "arch": "vgg16",
        "source": str(vgg_file),
        "license": "none",
    }
    assert "vgg16-tiny" in call("weights", "--vgg-weights", vgg_file).stdout


def test_train_then_stylize(workplace: Path, vgg_file: Path) -> None:
    trained = call(
        *TRAIN, "dots.png", "--name", "mine", "--strength", "2", "--vgg-weights", vgg_file, "--json"
    )
    assert trained.exit_code == 0, trained.stderr
    result: dict[str, Any] = json.loads(trained.stdout)
    assert (result["checkpoint"], result["steps"], result["skipped"]) == (
        "checkpoints/mine.safetensors",
        1,
        [],
    )
    assert Path(result["preview"]).is_file()
    recipe = json.loads(call("info", "mine", "--json").stdout)["recipe"]
    assert (recipe["name"], recipe["steps"], recipe["image_size"], recipe["batch_size"]) == (
        "smoke",
        1,
        64,
        1,
    )
    assert (recipe["loss"]["strength"], recipe["network"]["width"], recipe["painting_size"]) == (
        2.0,
        4,
        80,
    )
    assert call("stylize", "photo.png", "--style", "mine", "-o", "out.png").exit_code == 0
    assert Path("out.png").is_file()


def test_a_full_disk_is_one_line(workplace: Path) -> None:
    (workplace / "out.png").write_text("old")
    before = files(workplace)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        result = call("stylize", "photo.png", "--style", "dots", "-o", "out.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (result.exit_code, result.stdout) == (1, "")
    assert (
        result.stderr
        == "error: cannot write out.png: file too large; free some space or choose another place\n"
    )
    assert files(workplace) == before


def test_list_names_what_is_in_checkpoints_and_in_the_package(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = workplace / "package"
    gallery.mkdir()
    monkeypatch.setattr("faststyle.checkpoint.GALLERY", gallery)
    for name in ("dots", "lines"):  # the first is in checkpoints/ too, and is hidden by that
        (gallery / f"{name}.safetensors").write_bytes(
            (workplace / "checkpoints" / "dots.safetensors").read_bytes()
        )
    (gallery / "broken.safetensors").write_bytes(b"nothing")
    result = call("list", "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    paintings = painting_names(read_about(base_file()))
    collections = ["collection", "collection-small"]
    of_collections = [f"{name}:{painting}" for name in collections for painting in paintings]
    assert [row["name"] for row in rows] == ["dots", "lines", *of_collections]
    assert rows[0]["network"]["width"] == 4
    assert rows[0]["painting"] == "dots.png"
    assert result.stderr.startswith("left out: ")
    assert "broken.safetensors" in result.stderr
    assert "milliseconds" not in rows[0]
    monkeypatch.setenv("COLUMNS", "80")
    table = call("list").stdout
    assert "lines" in table
    assert "johnson 4" in table
    assert " ms " not in table
    assert "…" not in table  # nothing is cut short
    assert max(map(len, table.splitlines())) <= 80
    for name in collections:
        assert f"\n{name}:{paintings[-1]} and {len(paintings) - 1} more: mobile " in table


def test_the_list_names_no_other_collection_than_what_is_found_by_that_name(
    workplace: Path,
) -> None:
    (workplace / "checkpoints" / "collection.safetensors").write_bytes(
        (workplace / "checkpoints" / "dots.safetensors").read_bytes()
    )
    assert "\ncollection: " not in call("list").stdout
    names = [row["name"] for row in json.loads(call("list", "--json").stdout)]
    assert names[:2] == ["collection", "dots"]
    assert not any(name.startswith("collection:") for name in names)


def test_a_collection_of_the_package_that_is_damaged_is_named(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = workplace / "collection.safetensors"
    damaged.write_bytes(b"nothing")
    monkeypatch.setattr("faststyle.checkpoint.package_collections", lambda: [damaged])
    result = call("list")
    assert result.exit_code == 0
    assert "dots" in result.stdout
    assert result.stderr.startswith("left out: ")


def test_the_list_measures_speed_where_it_is_asked_to(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    painted = Stylizer.__call__

    def paint(self: Stylizer, photo: torch.Tensor, abstraction: float | None) -> Any:
        seen.append((*photo.shape[-2:], abstraction))
        return painted(self, photo, abstraction=abstraction)

    monkeypatch.setattr(Stylizer, "__call__", paint)
    row = json.loads(call("list", "--speed", "--json").stdout)[0]
    assert row["milliseconds"] > 0
    assert set(seen) == {(480, 848, 0.0)}  # as frames are painted
    monkeypatch.setattr("faststyle.cli.about._milliseconds", lambda style: 1234.4)
    table = call("list", "--speed").stdout
    assert " ms " in table
    assert " 1234 " in table
    assert re.search(r"\ncollection:.* MB, 1234 ms\n", table)


def test_a_sheet_has_the_photo_and_every_style(workplace: Path) -> None:
    (workplace / "checkpoints" / "more.safetensors").write_bytes(
        (workplace / "checkpoints" / "dots.safetensors").read_bytes()
    )
    result = call("sheet", "photo.png", "-o", "sheet.png", "--size", "32")
    assert (result.exit_code, result.stdout) == (0, "wrote sheet.png: dots, more\n")
    sheet = read_image("sheet.png")
    # 36x24 becomes 48x32; two columns, two rows, two lines of 20 pixels below each
    assert sheet.shape == (1, 3, 2 * (32 + 2 * 20) + 3 * 8, 2 * 48 + 3 * 8)
    below = (1 - sheet).mean(1)[0, 40:80]  # how much is written below the photo, and beside it
    assert below[:20, 8:56].sum() > 1  # its name
    assert below[20:, 8:56].sum() == 0  # the photo has no scores
    assert below[20:, 64:112].sum() > 1  # milliseconds
    torch.testing.assert_close(
        sheet[..., 8:40, 8:56], fit_shorter(read_image("photo.png"), 32), atol=1 / 255, rtol=0
    )
    again = call("sheet", "photo.png", "-o", "sheet.png")
    told = "error: -o sheet.png: is there already; --overwrite replaces it\n"
    assert (again.exit_code, again.stderr) == (1, told)
    one = call("sheet", "photo.png", "-o", "one.png", "--size", "32", "--style", "dots")
    assert one.stdout == "wrote one.png: dots\n"
    missing = call("sheet", "photo.png", "-o", "none.png", "--style", "nothing")
    assert missing.exit_code == 1
    assert not Path("none.png").exists()


def test_tiles_of_the_command(workplace: Path) -> None:
    plain = call("stylize", "photo.png", "--style", "dots", "-o", "plain.png")
    tiled = call("stylize", "photo.png", "--style", "dots", "-o", "tiled.png", "--tile", "64")
    assert (plain.exit_code, tiled.exit_code) == (0, 0)
    torch.testing.assert_close(
        read_image("tiled.png"), read_image("plain.png"), atol=2.01 / 255, rtol=0
    )
    for wrong in ("63", "small", "-1"):
        refused = call(
            "stylize", "photo.png", "--style", "dots", "-o", "wrong.png", "--tile", wrong
        )
        assert refused.exit_code == 2
        assert "--tile" in refused.stderr


def test_fields_of_the_library_are_named_as_flags() -> None:
    said = with_flags("`precision` f16: no; `keep_colors`, `style`, `as_json`, `stride`", stylize)
    assert said == "--precision f16: no; --keep-colors, --style, --json, stride"
    assert with_flags("`output` a.png: `size`", stylize) == "-o a.png: --size"


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 50331648 bytes")],
)
def test_full_memory_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raise_error(*_: object, **__: object) -> None:
        raise error

    with pytest.raises(typer.Exit) as exit:
        reports_errors(raise_error)()
    assert exit.value.exit_code == 1
    assert capsys.readouterr().err.startswith("error: memory is full: ")


def test_other_errors_keep_their_traceback() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        reports_errors(fail)()
