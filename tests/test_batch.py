from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from jobs import run_jobs
from PIL import Image

from faststyle.checkpoint import About, save_checkpoint
from faststyle.errors import ImageError, OutputError
from faststyle.networks.johnson import Johnson
from faststyle.stylize.batch import Job, plan_jobs
from faststyle.stylize.collection import Item
from faststyle.stylize.stylizer import Look, Stylizer

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "dots.safetensors"
    network = {"name": "johnson", "width": 4, "blocks": 1}
    save_checkpoint(
        path, Johnson(4, 1), About(network, painting={}, vgg={}, photos="none", recipe={})
    )
    return path


@pytest.fixture(scope="module")
def stylizer(checkpoint: Path) -> Stylizer:
    return Stylizer.load(checkpoint, device="cpu")


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos in a tree, and other files beside them."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("a.png", "b.jpg", "deep/c.png", "deep/deeper/d.bmp")):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(i, 20 + i, 30).save(path)
    (tmp_path / "album" / "notes.txt").write_text("no photo")
    (tmp_path / "album" / ".hidden.png").write_bytes(b"what some systems leave beside a photo")
    return Path("album")


def pairs(jobs: list[Job]) -> dict[str, str]:
    return {str(job.source): str(job.target) for job in jobs}


def size_of(path: Path | str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_structure_of_a_folder_is_kept(album: Path) -> None:
    assert pairs(plan_jobs(["album"], "out")) == {
        "album/a.png": "out/a.png",
        "album/b.jpg": "out/b.jpg",
        "album/deep/c.png": "out/deep/c.png",
        "album/deep/deeper/d.bmp": "out/deep/deeper/d.png",  # BMP is read, not written
    }


def test_hidden_folders_are_left_out(album: Path) -> None:
    before = plan_jobs(["album"], "out")
    Path("album/.thumbnails").mkdir()
    draw(0, 20, 20).save("album/.thumbnails/a.png")
    assert plan_jobs(["album"], "out") == before


def test_a_format_replaces_the_extensions(album: Path) -> None:
    targets = pairs(plan_jobs(["album"], "out", "webp")).values()
    assert sorted(targets) == [
        "out/a.webp",
        "out/b.webp",
        "out/deep/c.webp",
        "out/deep/deeper/d.webp",
    ]
    with pytest.raises(
        OutputError, match=r"cannot write \.gif; use jpeg, jpg, png, tif, tiff, webp"
    ):
        plan_jobs(["album"], "out", "gif")


def test_one_file_goes_to_a_file_or_into_a_folder(album: Path) -> None:
    assert pairs(plan_jobs(["album/a.png"], "out.jpg")) == {"album/a.png": "out.jpg"}
    assert pairs(plan_jobs(["album/a.png"], "out")) == {"album/a.png": "out/a.png"}
    Path("dotted.jpg").mkdir()
    assert pairs(plan_jobs(["album/a.png"], "dotted.jpg")) == {"album/a.png": "dotted.jpg/a.png"}
    with pytest.raises(OutputError, match="need a folder, not a file"):
        plan_jobs(["album/a.png", "album/b.jpg"], "out.jpg")
    with pytest.raises(OutputError, match=r"cannot write \.heic; use"):
        plan_jobs(["album/a.png"], "out.heic")


def test_globs_are_expanded(album: Path) -> None:
    assert pairs(plan_jobs(["album/*.*g"], "out")) == {
        "album/a.png": "out/a.png",
        "album/b.jpg": "out/b.jpg",
    }
    assert pairs(plan_jobs(["album/**/*.png"], "out")) == {
        "album/a.png": "out/a.png",
        "album/deep/c.png": "out/c.png",
    }
    draw(0, 20, 20).save("album/[1].png")
    assert pairs(plan_jobs(["album/[1].png"], "out")) == {"album/[1].png": "out/[1].png"}
    draw(0, 20, 20).save("album/deep/out.png")
    assert "album/deep/c.png" not in pairs(plan_jobs(["album/**/*.png"], "album/deep"))


def test_finding_nothing_is_an_error(album: Path) -> None:
    Path("empty").mkdir()
    for nothing in ("empty", "album/*.tiff"):
        with pytest.raises(ImageError, match=f"no images in {nothing.replace('*', '.')}"):
            plan_jobs([nothing], "out")


def test_standard_input_and_output(album: Path) -> None:
    assert plan_jobs(["-"], "-") == [Job(None, None)]
    assert plan_jobs(["-"], "out.webp") == [Job(None, Path("out.webp"))]
    assert plan_jobs(["album/a.png"], "-") == [Job(Path("album/a.png"), None)]
    with pytest.raises(OutputError, match="`output` - takes one picture, got 4"):
        plan_jobs(["album"], "-")


def test_two_inputs_for_one_output_are_an_error(album: Path) -> None:
    Path("other").mkdir()
    draw(0, 20, 20).save("other/a.png")
    with pytest.raises(
        OutputError, match=r"album/a\.png and other/a\.png would both be written to out/a\.png"
    ):
        plan_jobs(["album/a.png", "other/a.png"], "out")
    assert len(plan_jobs(["album/a.png", "album/a.png"], "out")) == 1


def test_names_that_differ_in_the_extension_alone_stay_apart(album: Path) -> None:
    for name in ("a.bmp", "a.gif", "e.bmp", "e.gif"):
        draw(0, 20, 20).save(album / name)
    expected = {
        "album/a.bmp": "out/a.bmp.png",
        "album/a.gif": "out/a.gif.png",
        "album/a.png": "out/a.png",
        "album/e.bmp": "out/e.bmp.png",
        "album/e.gif": "out/e.gif.png",
    }
    assert pairs(plan_jobs(["album"], "out")).items() >= expected.items()
    assert pairs(plan_jobs(reversed(list(expected)), "out")) == expected
    assert pairs(plan_jobs(["album/b.jpg", "album/a.gif", "album/a.png"], "out", "jpg")) == {
        "album/a.gif": "out/a.gif.jpg",
        "album/a.png": "out/a.png.jpg",
        "album/b.jpg": "out/b.jpg",
    }


def test_files_that_look_like_pictures_are_not_left_out_in_silence(album: Path) -> None:
    for name in ("c.cr2", "deep/raw.CR2", "icon.svg", "x.jxl", "y.exr"):
        (album / name).touch()
    for inputs in (["album"], ["album/**/*"]):
        notes: list[str] = []
        plan_jobs(inputs, "out", note=notes.append)
        assert notes == [
            "left out, not pictures that can be read: "
            "album/c.cr2, album/deep/raw.CR2, album/icon.svg and 2 more"
        ]


def test_notes_name_the_pictures(album: Path, stylizer: Stylizer) -> None:
    frames = [draw(i, 20, 20) for i in range(3)]
    for name in ("a.gif", "b.webp", "c.png", "d.tif"):
        frames[0].save(name, save_all=True, append_images=frames[1:])
    report = run_jobs(stylizer, plan_jobs(["a.gif", "b.webp", "c.png", "d.tif"], "out"))
    assert report.notes == [
        "only the first frame of an animation is used: a.gif, b.webp, c.png",
        "only the first page of several pages is used: d.tif",
    ]
    np.testing.assert_array_equal(np.array(Image.open("out/d.tif")), np.array(stylizer(frames[0])))


@pytest.mark.parametrize("output", ["album/a.png", "album", "./album/../album/a.png", "album/"])
def test_writing_over_the_input_is_an_error(album: Path, output: str) -> None:
    with pytest.raises(OutputError, match="the input itself; choose another name"):
        plan_jobs(["album/a.png"], output)
    with pytest.raises(OutputError, match="the input itself|need a folder"):
        plan_jobs(["album"], output)


def test_outputs_below_the_input_are_not_stylized_again(album: Path) -> None:
    first = plan_jobs(["album"], "album/stylized")
    for job in first:
        assert job.target is not None
        job.target.parent.mkdir(parents=True, exist_ok=True)
        draw(0, 20, 20).save(job.target)
    assert plan_jobs(["album"], "album/stylized") == first
    assert len(plan_jobs(["album"], "elsewhere")) == 2 * len(first)


def test_a_bad_file_is_listed_and_the_others_are_done(album: Path, stylizer: Stylizer) -> None:
    (album / "bad.jpg").write_text("no photo")
    whole = (album / "b.jpg").read_bytes()
    (album / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    draw(0, 10, 40).save(album / "thin.png")
    draw(0, 1, 1).save(album / "pixel.png")
    done: list[Item] = []
    jobs = plan_jobs(["album", "missing.png"], "out")
    report = run_jobs(stylizer, jobs, done=done.append)
    assert report.written == [
        "out/a.png",
        "out/b.jpg",
        "out/deep/c.png",
        "out/deep/deeper/d.png",
        "out/pixel.png",
        "out/thin.png",
    ]
    assert report.kept == []
    assert [
        (name, reason.split(";")[0].split("(")[0].strip()) for name, reason in report.failed
    ] == [
        ("album/bad.jpg", "not an image that can be read"),
        ("album/cut.jpg", "damaged or truncated image"),
        ("missing.png", "no such file"),
    ]
    assert done == jobs
    outputs = [p.relative_to("out").as_posix() for p in Path("out").rglob("*") if p.is_file()]
    assert sorted(outputs) == [
        "a.png",
        "b.jpg",
        "deep/c.png",
        "deep/deeper/d.png",
        "pixel.png",
        "thin.png",
    ]
    for job in jobs:
        if str(job.target) in report.written:
            assert job.source is not None
            assert size_of(str(job.target)) == size_of(job.source)


def test_the_pixels_are_those_of_the_stylizer(album: Path, stylizer: Stylizer) -> None:
    run_jobs(stylizer, plan_jobs(["album/a.png"], "out.png"), size=24, look=Look(keep_colors=True))
    with Image.open("out.png") as image:
        expected = stylizer("album/a.png", size=24, keep_colors=True)
        assert image.size == expected.size == (36, 24)
        np.testing.assert_array_equal(np.array(image), np.array(expected))


def test_outputs_that_are_there_are_kept_unless_they_are_to_be_overwritten(
    album: Path, stylizer: Stylizer
) -> None:
    jobs = plan_jobs(["album"], "out")
    Path("out").mkdir()
    Path("out/b.jpg").write_text("old")
    report = run_jobs(stylizer, jobs, keep=True)
    assert report.kept == ["out/b.jpg"]
    assert len(report.written) == 3
    assert Path("out/b.jpg").read_text() == "old"
    assert run_jobs(stylizer, jobs, keep=True).kept == [str(job.target) for job in jobs]
    again = run_jobs(stylizer, jobs)
    assert (len(again.written), again.kept) == (4, [])
    assert size_of("out/b.jpg") == size_of("album/b.jpg")


def test_a_bad_photo_leaves_the_old_output(album: Path, stylizer: Stylizer) -> None:
    (album / "a.png").write_text("no photo")
    Path("out.png").write_text("old")
    assert len(run_jobs(stylizer, plan_jobs(["album/a.png"], "out.png")).failed) == 1
    assert Path("out.png").read_text() == "old"
    assert {p.name for p in Path().iterdir()} == {"album", "out.png"}


def test_a_place_that_cannot_be_written_ends_the_run(album: Path, stylizer: Stylizer) -> None:
    Path("file").touch()
    with pytest.raises(OutputError, match="cannot write file/out/a.png: not a directory"):
        plan_jobs(["album"], "file/out")  # before the work
    jobs = plan_jobs(["album"], "out")
    Path("out").touch()
    with pytest.raises(OutputError, match="cannot write out/a.png"):
        run_jobs(stylizer, jobs)


def test_a_photo_too_long_for_the_format_is_listed(album: Path, stylizer: Stylizer) -> None:
    draw(0, 16, 16_384).save(album / "panorama.png")
    report = run_jobs(
        stylizer, plan_jobs(["album/a.png", "album/panorama.png", "album/b.jpg"], "out", "webp")
    )
    assert report.written == ["out/a.webp", "out/b.webp"]
    assert [name for name, _ in report.failed] == ["album/panorama.png"]
    assert "16x16384 pixels are too many for WEBP" in report.failed[0][1]


def test_a_pipe_in_and_out(album: Path, checkpoint: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "stylize.py"),
        "-",
        "--style",
        str(checkpoint),
        "-o",
        "-",
        "--device",
        "cpu",
    ]
    command += ["--precision", "float32"]  # bf16, where there is any, is 4 of 255 off
    stylizer = Stylizer.load(checkpoint, device="cpu", precision="float32")
    photo = (album / "b.jpg").read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=photo, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    image = Image.open(io.BytesIO(done.stdout))
    assert image.format == "PNG"
    np.testing.assert_allclose(
        np.array(image).astype(int), np.array(stylizer(photo)).astype(int), atol=1
    )
