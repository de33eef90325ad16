"""Pictures on disk: the same as in memory, in every format; failures leave nothing behind."""

from __future__ import annotations

import shutil
import signal
from collections import namedtuple
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from jobs import run_jobs
from PIL import Image, ImageCms

from faststyle.checkpoint import About, save_checkpoint
from faststyle.cli import app
from faststyle.errors import ImageError, Interrupted, OutputError
from faststyle.images import read_image
from faststyle.networks import build_network
from faststyle.networks.network import StyleNetwork
from faststyle.stylize import batch, huge
from faststyle.stylize import stylizer as stylizer_module
from faststyle.stylize.batch import plan_jobs
from faststyle.stylize.huge import PixelFile, picture_size, stylize_huge
from faststyle.stylize.stylizer import Stylizer
from faststyle.stylize.tiles import stylize_tiles

NEEDS_VIPS = pytest.mark.skipif(find_spec("pyvips") is None, reason="not installed: pyvips")
CONFIG = {"name": "mobile", "width": 4, "blocks": 1}


@pytest.fixture
def network() -> StyleNetwork:
    torch.manual_seed(0)
    built = build_network(CONFIG)
    torch.nn.init.normal_(built.get_parameter("head.weight"), std=0.1)
    return built.eval()


@pytest.fixture
def checkpoint(network: StyleNetwork, tmp_path: Path) -> Path:
    path = tmp_path / "dots.safetensors"
    save_checkpoint(path, network, About(CONFIG, {"file": "dots.png"}, {}, "none", {}))
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_slices_of_a_file_are_those_of_an_array(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    with closing(PixelFile(tmp_path / "pixels", 13, 17, new=True)) as file:
        file[0:13, 0:17] = array
        file[4:9, 3:10] = 255 - array[4:9, 3:10]
    array[4:9, 3:10] = 255 - array[4:9, 3:10]
    with closing(PixelFile(tmp_path / "pixels", 13, 17)) as file:
        np.testing.assert_array_equal(file[2:20, 5:40], array[2:20, 5:40])
    (tmp_path / "pixels").write_bytes(array.tobytes()[:-1])
    with (
        closing(PixelFile(tmp_path / "pixels", 13, 17)) as file,
        pytest.raises(OSError, match="shorter"),
    ):
        file[0:13, 0:17]


@NEEDS_VIPS
@pytest.mark.parametrize(
    ("source", "target"), [("a.png", "o.tif"), ("a.tif", "o.png"), ("a.jpg", "new/o.tiff")]
)
def test_on_disk_is_as_in_memory(
    network: StyleNetwork, tmp_path: Path, source: str, target: str
) -> None:
    photo = tmp_path / source
    draw(0, 99, 130).save(photo)
    seen: list[tuple[int, int]] = []
    stylize_huge(network, photo, tmp_path / target, 48, lambda *done: seen.append(done))
    wanted = stylize_tiles(network, pixels(photo), 48)
    np.testing.assert_array_equal(pixels(tmp_path / target), wanted[:, :])
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert not list((tmp_path / target).parent.glob(".*"))


@NEEDS_VIPS
def test_rotation_transparency_depth_and_profile(network: StyleNetwork, tmp_path: Path) -> None:
    rgb = read_image(draw(0, 40, 64))[0].mul(255).byte().permute(1, 2, 0).numpy()
    turned = Image.fromarray(rgb)
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter to the right
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned.save(tmp_path / "turned.png", exif=exif, icc_profile=profile)
    stylize_huge(network, tmp_path / "turned.png", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert (image.size, image.info["icc_profile"]) == ((40, 64), profile)
    np.testing.assert_array_equal(
        pixels(tmp_path / "out.png"), stylize_tiles(network, np.rot90(rgb, -1))[:, :]
    )

    clear = np.dstack([rgb, np.full((40, 64), 0, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    stylize_huge(network, tmp_path / "clear.png", tmp_path / "white.tif")
    np.testing.assert_array_equal(
        pixels(tmp_path / "white.tif"),
        stylize_tiles(network, np.full((40, 64, 3), 255, np.uint8))[:, :],
    )
    grey = rgb[..., 0].astype(np.uint16) * 257
    Image.fromarray(grey).save(tmp_path / "grey.tif")
    stylize_huge(network, tmp_path / "grey.tif", tmp_path / "grey.png")
    same = np.repeat(rgb[..., :1], 3, 2)
    assert (
        np.abs(pixels(tmp_path / "grey.png") - stylize_tiles(network, same)[:, :].astype(int)).max()
        <= 2
    )


@NEEDS_VIPS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_nothing(
    checkpoint: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = checkpoint.with_name("a.png")
    out = checkpoint.with_name("out.png")
    draw(0, 99, 130).save(photo)
    there = set(checkpoint.parent.iterdir())

    def stop(done: int, of: int) -> None:
        if done == 3:
            signal.raise_signal(number)

    stylizer = Stylizer.load(checkpoint, engine="torch", tile=48, progress=stop)
    monkeypatch.setattr(batch, "MAX_PIXELS", 99 * 130 - 1)
    jobs = plan_jobs([str(photo)], str(out))
    with pytest.raises(Interrupted, match="out.png is not written") as stopped:
        run_jobs(stylizer, jobs, allow_huge=True)
    assert stopped.value.exit_code == 128 + number
    assert set(checkpoint.parent.iterdir()) == there


@NEEDS_VIPS
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    network: StyleNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "a.png"
    out = tmp_path / "out.png"
    draw(0, 300, 400).save(photo)
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:20_000])
    (tmp_path / "text.png").write_text("no picture")
    for name, message in {
        "cut.png": "cut.png: damaged or truncated image",
        "text.png": "text.png: not an image that can be read",
        "gone.png": "gone.png: no such file",
    }.items():
        with pytest.raises(ImageError, match=message):
            stylize_huge(network, tmp_path / name, out)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30, 1000))
    with pytest.raises(OutputError, match=r"out.png: 0.0 GiB are needed beside it, 0.0 are free"):
        stylize_huge(network, photo, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "cut.png", "text.png"]


@NEEDS_VIPS
@pytest.mark.parametrize("size", [(1, 1), (15, 200), (200, 7), (2, 90)])
def test_a_side_of_less_than_16_pixels_is_as_in_memory(
    network: StyleNetwork, checkpoint: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    draw(0, *size).save(tmp_path / "a.png", dpi=(300, 300))
    stylize_huge(network, tmp_path / "a.png", tmp_path / "out.tif", tile=64)
    expected = Stylizer.load(checkpoint, device="cpu", precision="float32")(tmp_path / "a.png")
    np.testing.assert_allclose(pixels(tmp_path / "out.tif"), np.array(expected), atol=1)
    with Image.open(tmp_path / "out.tif") as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)


def test_sizes_come_from_the_header(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "text.png").write_text("no picture")
    assert picture_size(tmp_path / "bomb.png") == (60_000, 50_000)
    assert picture_size(tmp_path / "text.png") is None


def bomb() -> bytes:
    """The beginning of a PNG file of 3,000 million pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 50_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))


def test_a_bomb_is_refused_unless_it_is_allowed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = tmp_path / "bomb.png"
    photo.write_bytes(bomb())
    stylizer = Stylizer.load(checkpoint, engine="torch", device="cpu")
    jobs = plan_jobs([str(photo)], str(tmp_path / "out.png"))
    ((_, reason),) = run_jobs(stylizer, jobs).failed
    assert (
        reason == "60000x50000 is more than 178,956,970 pixels; `allow_huge` takes it all the same"
    )
    jpeg = plan_jobs([str(photo)], str(tmp_path / "out.jpg"))
    ((_, reason),) = run_jobs(stylizer, jpeg, allow_huge=True).failed
    assert reason == "60000x50000 pixels go to .png or .tif files only, with no other options"
    taken: list[Path] = []
    monkeypatch.setattr(batch, "require_vips", lambda: None)
    monkeypatch.setattr(batch, "why_not_by_vips", lambda source: "")
    monkeypatch.setattr(batch, "has_alpha", lambda source: False)
    monkeypatch.setattr(
        stylizer_module, "stylize_huge", lambda network, source, *_: taken.append(source)
    )
    assert run_jobs(stylizer, jobs, allow_huge=True).failed == []
    assert taken == [photo]


@NEEDS_VIPS
def test_what_vips_would_lose_goes_through_memory(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alpha, levels that are no whole numbers, and formats that it does not read."""
    folder = checkpoint.parent
    photo = draw(0, 99, 130)
    clear = photo.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "clear.png")
    Image.fromarray(np.asarray(photo.convert("L"), np.float32) / 255).save(folder / "float.tif")
    photo.save(folder / "a.bmp")
    stylizer = Stylizer.load(checkpoint, engine="torch", tile=64)
    monkeypatch.setattr(stylizer_module, "stylize_huge", None)
    names = ("clear.png", "float.tif", "a.bmp")
    jobs = plan_jobs([str(folder / name) for name in names], str(folder / "out"), "png")
    assert run_jobs(stylizer, jobs).failed == []
    with Image.open(folder / "out" / "clear.png") as out:
        assert out.mode == "RGBA"
        assert out.getextrema()[3] == clear.getextrema()[3]
    assert pixels(folder / "out" / "float.png").std() > 10
    monkeypatch.setattr(batch, "MAX_PIXELS", 99 * 130 - 1)
    failed = dict(run_jobs(stylizer, jobs[1:], allow_huge=True, keep=False).failed)
    assert "levels that are no whole numbers; save it" in failed[str(folder / "float.tif")]
    assert "a kind that libvips cannot read; save it" in failed[str(folder / "a.bmp")]


@NEEDS_VIPS
def test_a_signal_after_the_last_tile_ends_the_run_with_the_picture(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = checkpoint.with_name("a.png")
    draw(0, 99, 130).save(photo)

    def stop(done: int, of: int) -> None:
        if done == of:
            signal.raise_signal(signal.SIGTERM)

    stylizer = Stylizer.load(checkpoint, engine="torch", tile=64, progress=stop)
    out = checkpoint.with_name("out.png")
    with pytest.raises(Interrupted, match="stopped after .*out.png was written"):
        run_jobs(stylizer, plan_jobs([str(photo)], str(out)))
    assert pixels(out).shape == (99, 130, 3)


@NEEDS_VIPS
def test_tiles_that_are_asked_for_go_over_disk(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    photo = tmp_path / "a.png"
    draw(0, 99, 130).save(photo)
    calls: list[int] = []
    real = huge.stylize_huge
    monkeypatch.setattr(
        stylizer_module, "stylize_huge", lambda *given: (calls.append(given[3]), real(*given))
    )
    command = [
        "stylize",
        str(photo),
        "--style",
        str(checkpoint),
        "--engine",
        "torch",
        "--tile",
        "64",
        "-o",
    ]
    for name in ("a.tif", "b.jpg"):
        result = CliRunner().invoke(app, [*command, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert pixels(tmp_path / name).shape == (99, 130, 3)
        assert "(engine: torch, cpu, float32, in tiles)" in result.output
    assert calls == [64]
