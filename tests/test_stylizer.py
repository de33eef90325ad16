from __future__ import annotations

import colorsys
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from conftest import draw, draw_batch, needs, painted
from PIL import Image, ImageCms

from faststyle.checkpoint import About, load_checkpoint, save_checkpoint
from faststyle.errors import CheckpointError, DeviceError, ImageError
from faststyle.images import Picture
from faststyle.networks.johnson import Johnson
from faststyle.sizes import resize
from faststyle.stylize import stylizer as stylizer_module
from faststyle.stylize.strokes import draw_strokes
from faststyle.stylize.stylizer import Look, Stylizer

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NETWORK = {"name": "johnson", "width": 8, "blocks": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "dots.safetensors"
    about = About(network=NETWORK, painting={}, vgg={}, photos="none", recipe={})
    save_checkpoint(path, Johnson(8, 1), about)
    return path


@pytest.fixture(scope="module")
def stylizer(checkpoint: Path) -> Stylizer:
    return Stylizer.load(checkpoint, device="cpu")


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine with 100 MB of free memory."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=100_000_000))
    return 100_000_000


@pytest.mark.parametrize("size", [(33, 49), (32, 32), (49, 33), (64, 48), (32, 301)])
def test_any_size_comes_out_as_it_went_in(
    stylizer: Stylizer, checkpoint: Path, size: tuple[int, int]
) -> None:
    photo = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    got = stylizer(photo)
    assert got.shape == photo.shape
    assert 0 <= float(got.min()) < float(got.max()) <= 1
    with torch.no_grad():
        torch.testing.assert_close(got, load_checkpoint(checkpoint)[0](photo), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(31, 40), (40, 5), (7, 7), (1, 1)])
@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=needs("openvino"))])
@pytest.mark.usefixtures("one_cache")
def test_a_small_photo_is_mirrored_up_to_32_pixels_and_cropped_again(
    checkpoint: Path, size: tuple[int, int], engine: str
) -> None:
    stylizer = Stylizer.load(checkpoint, device="cpu", engine=engine, precision="float32")
    photo = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    h, w = size
    more = ((0, 0), (0, 0), (0, max(0, 32 - h)), (0, max(0, 32 - w)))
    mirrored = torch.from_numpy(np.pad(photo.numpy(), more, mode="symmetric"))
    expected = painted(checkpoint, mirrored)[..., :h, :w]
    # One pixel has no variance, by which norms divide: rounding is enlarged.
    atol = 1e-3 if size == (1, 1) else 1e-4
    torch.testing.assert_close(stylizer(photo), expected, atol=atol, rtol=0)
    frame = photo[0].mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    rounded = torch.from_numpy(np.pad(frame.transpose(2, 0, 1)[None], more, mode="symmetric")) / 255
    expected = painted(checkpoint, rounded)[..., :h, :w]
    got = torch.from_numpy(stylizer.frame(frame)).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(got, expected, atol=0.6 / 255, rtol=0)


def test_what_goes_in_decides_what_comes_out(stylizer: Stylizer, tmp_path: Path) -> None:
    photo = draw(0, 24, 36)
    photo.save(tmp_path / "photo.png")
    array = np.array(photo)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255

    one = stylizer(tensor)
    assert one.shape == (3, 24, 36)
    assert torch.equal(stylizer(tensor[None]), one[None])
    expected = np.round(one.permute(1, 2, 0).numpy() * 255).astype(np.uint8)

    for source in (
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        (tmp_path / "photo.png").read_bytes(),
        photo,
    ):
        image = stylizer(source)
        assert isinstance(image, Image.Image)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.array(image), expected)
    got = stylizer(array)
    assert (type(got), got.dtype) == (np.ndarray, np.uint8)
    np.testing.assert_array_equal(got, expected)
    floats = stylizer(array.astype(np.float32) / 255)
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(np.round(floats * 255).astype(np.uint8), expected)
    got[0, 0] = 7  # the array can be written to


def test_a_photo_is_not_changed(stylizer: Stylizer) -> None:
    photo = torch.rand(3, 20, 20)
    array = np.array(draw(0, 20, 20))
    before = photo.clone(), array.copy()
    stylizer(photo, keep_colors=True)
    stylizer(array)
    assert torch.equal(photo, before[0])
    np.testing.assert_array_equal(array, before[1])


def test_grey_comes_out_in_colour(stylizer: Stylizer) -> None:
    got = stylizer(np.array(draw(0, 20, 30).convert("L")))
    assert got.shape == (20, 30, 3)


def test_alpha_and_profile_are_kept(stylizer: Stylizer) -> None:
    photo = draw(0, 24, 36)
    alpha = Image.fromarray(np.arange(24 * 36, dtype=np.int64).reshape(24, 36).astype(np.uint8))
    photo.putalpha(alpha)
    buffer = io.BytesIO()
    photo.save(buffer, "PNG", icc_profile=SRGB)
    got = stylizer(buffer.getvalue())
    assert got.mode == "RGBA"
    np.testing.assert_array_equal(np.array(got)[..., 3], np.array(alpha))
    assert got.info["icc_profile"] == SRGB
    again = io.BytesIO()
    got.save(again, "PNG")
    assert Image.open(again).info["icc_profile"] == SRGB
    array = stylizer(np.array(photo))
    np.testing.assert_array_equal(array, np.array(got))
    half = stylizer(buffer.getvalue(), size=16)
    assert (half.mode, half.size) == ("RGBA", (24, 16))


def test_keeping_colours_keeps_hue_and_chroma_and_takes_the_luma(stylizer: Stylizer) -> None:
    photo = 0.3 + 0.4 * torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(2))
    plain, kept = (
        stylizer(photo, keep_colors=k)[0].permute(1, 2, 0).double().numpy() for k in (False, True)
    )
    original = photo[0].permute(1, 2, 0).double().numpy()
    # Elsewhere the colour does not exist, and is cut off.
    inside = ((kept > 0) & (kept < 1)).all(2)
    assert inside.mean() > 0.7
    luma = np.array([0.299, 0.587, 0.114])  # Rec. 601
    y_photo, y_plain, y_kept = ((image * luma).sum(2) for image in (original, plain, kept))
    np.testing.assert_allclose(y_kept[inside], y_plain[inside], atol=1e-5)
    for channel in (0, 2):  # R - Y and B - Y are what Cr and Cb are made of
        np.testing.assert_allclose(
            (kept[..., channel] - y_kept)[inside],
            (original[..., channel] - y_photo)[inside],
            atol=1e-5,
        )
    rows, columns = np.nonzero(inside)
    for r, c in list(zip(rows, columns, strict=True))[::50]:
        assert colorsys.rgb_to_hsv(*kept[r, c])[0] == pytest.approx(
            colorsys.rgb_to_hsv(*original[r, c])[0], abs=1e-4
        )
    assert np.abs(plain - kept).mean() > 0.02


def test_size_is_that_of_the_shorter_side(stylizer: Stylizer) -> None:
    assert stylizer(draw(0, 40, 60), size=20).size == (30, 20)
    assert stylizer(draw(0, 60, 40), size=80).size == (80, 120)
    assert stylizer(torch.rand(3, 4, 6), size=16).shape == (3, 16, 24)
    with pytest.raises(ImageError, match="`size` must be 1 or more pixels, got 0"):
        stylizer(draw(0, 40, 60), size=0)
    assert stylizer(draw(0, 40, 25), size=10).size == (10, 16)


def test_a_photo_too_large_for_the_memory_says_which_size_fits(
    checkpoint: Path, little_memory: int
) -> None:
    stylizer = Stylizer.load(checkpoint, device="cpu", tile=0)
    photo = torch.rand(1, 3, 800, 1200)
    with pytest.raises(
        ImageError,
        match=r"800x1200 pixels are too many for the 0\.1 GiB of free memory; try `size`",
    ) as e:
        stylizer(photo)
    size = int(str(e.value).rsplit(" ", 1)[1])
    assert 400 < size < 800  # 22 bytes x 8 channels x pixels into 100 MB: about 590 x 885
    assert min(stylizer(photo, size=size).shape[2:]) == size


@pytest.mark.usefixtures("little_memory")
def test_a_photo_too_large_for_the_memory_is_done_in_tiles(
    stylizer: Stylizer, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = (
        torch.rand(1, 3, 500, 700, generator=torch.Generator().manual_seed(2)).mul(255).round()
        / 255
    )
    with torch.no_grad():
        expected = load_checkpoint(checkpoint)[0](photo)
    # An engine that would run out of memory.
    monkeypatch.setattr(stylizer, "engine", SimpleNamespace(device="cpu", precision="float32"))
    torch.testing.assert_close(stylizer(photo), expected, atol=2 / 255, rtol=0)


def test_tiles_can_be_asked_for_where_there_is_a_checkpoint(
    stylizer: Stylizer, checkpoint: Path
) -> None:
    photo = (
        torch.rand(1, 3, 80, 100, generator=torch.Generator().manual_seed(2)).mul(255).round() / 255
    )
    expected = stylizer(photo)
    done: list[int] = []
    tiled = Stylizer.load(
        checkpoint, device="cpu", tile=64, progress=lambda number, of: done.append(number)
    )
    assert "in tiles" not in tiled.describe()
    torch.testing.assert_close(tiled(photo), expected, atol=2 / 255, rtol=0)
    assert tiled.describe() == "engine: torch, cpu, float32, in tiles"
    assert done == list(range(1, len(done) + 1))
    small = torch.rand(1, 3, 31, 40).mul(255).round() / 255
    torch.testing.assert_close(tiled(small), stylizer(small), atol=2 / 255, rtol=0)
    exported = Stylizer(tiled.engine, tile=64)
    with pytest.raises(ImageError, match="`tile`: only checkpoints run in tiles"):
        exported(photo)


@pytest.mark.parametrize(
    ("free", "side", "tiles"),
    [
        (100, 3600, False),  # 340 bytes for each of 13 million pixels: 4.4 GB of 25
        (100, 8700, True),  # 26 GB are more than a quarter of 100
        (8, 3000, False),  # 3.1 GB are less than 3 GiB, though more than a quarter
        (8, 3100, True),
        (3, 2800, False),
        (2.8, 2800, True),  # 2.7 GB are more than nine tenths
    ],
)
def test_memory_is_bounded_by_default(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, free: float, side: int, tiles: bool
) -> None:
    """Width 8 takes 340 bytes a pixel."""
    available = int(free * 1e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    assert Stylizer.load(checkpoint, device="cpu").find_tile(side, side) == (1024 if tiles else 0)
    if free >= 8:  # asked for, the picture may take nine tenths
        off = Stylizer.load(checkpoint, device="cpu", tile=0)
        assert off.find_tile(min(side, 4000), min(side, 4000)) == 0


class Full:
    """An engine for which memory is always too small."""

    name = "openvino"
    device = "cpu"
    precision = "float32"
    size = None

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        raise self.error

    def frame(self, rgb: np.ndarray) -> np.ndarray:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp: std::bad_alloc"),
        Exception("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer"),
    ],
)
def test_where_memory_is_full_tiles_are_taken_and_it_is_said(
    stylizer: Stylizer, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    photo = draw(0, 300, 200)
    expected = np.array(stylizer(photo)).astype(int)
    sides: list[int] = []
    real = stylizer_module.stylize_tiles

    def tiles(network: object, rgb: object, tile: int, *rest: object) -> object:
        sides.append(tile)
        if tile > 256:
            raise error
        return real(network, rgb, tile, *rest)

    monkeypatch.setattr(stylizer_module, "stylize_tiles", tiles)
    lines: list[str] = []
    full = Stylizer(
        Full(error), stylizer.about, lambda: load_checkpoint(checkpoint)[0], announce=lines.append
    )
    assert np.abs(np.array(full(photo)) - expected).max() <= 1
    assert sides == [1024, 512, 256]
    assert lines == [f"memory is full: painted in tiles of {n} pixels" for n in sides]
    assert full.describe() == "engine: torch, cpu, float32, in tiles"
    # The next picture begins there, and so does a frame.
    assert np.abs(full.frame(np.array(photo)) - expected).max() <= 1
    assert sides[3:] == [256]
    with pytest.raises(ImageError, match="300x200 pixels are too many"):
        Stylizer(Full(error), stylizer.about, full._network_for_tiles, tile=0)(photo)
    with pytest.raises(ImageError, match="300x200 pixels are too many"):
        Stylizer(Full(error), stylizer.about)(photo)


def test_other_errors_of_engines_are_not_taken_for_full_memory(
    stylizer: Stylizer, checkpoint: Path
) -> None:
    broken = Stylizer(Full(RuntimeError("a bug")), stylizer.about, lambda: Johnson(8, 1))
    with pytest.raises(RuntimeError, match="a bug"):
        broken(draw(0, 30, 40))


def test_tiles_take_the_precision_of_the_engine_or_say_that_they_do_not(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_checkpoint(checkpoint)[0]
    photo = draw(0, 80, 100)
    for precision, has_it, taken in (
        ("bf16", True, "bf16"),
        ("bf16", False, "float32"),
        ("int8", True, "float32"),
        ("float32", True, "float32"),
    ):
        monkeypatch.setattr(stylizer_module, "has_fast_bf16", lambda _, has_it=has_it: has_it)
        engine = SimpleNamespace(name="openvino", device="cpu", precision=precision, size=None)
        lines: list[str] = []
        tiled = Stylizer(engine, None, lambda: network, tile=64, announce=lines.append)
        tiled(photo)
        assert tiled.describe() == f"engine: torch, cpu, {taken}, in tiles"
        wanted = [f"tiles run on the CPU in {taken}, not on cpu in {precision}"]
        assert lines == ([] if taken == precision else wanted)


@pytest.mark.usefixtures("little_memory")
def test_a_size_too_large_for_the_memory_is_an_error_before_anything_is_resized(
    stylizer: Stylizer,
) -> None:
    with pytest.raises(ImageError, match="1000000x1000000 pixels are too many"):
        stylizer(torch.rand(1, 3, 20, 20), size=1_000_000)


def test_memory_that_the_system_then_refuses_is_an_error(
    stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**62))
    # It takes 120 petabytes.
    with pytest.raises(ImageError, match="100000000x100000000 pixels are too many"):
        stylizer(torch.rand(1, 3, 20, 20), size=100_000_000)


def test_what_is_not_there_is_an_error(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint 'none'"):
        Stylizer.load("none")
    with pytest.raises(DeviceError, match=r"`device` gpu: unknown\."):
        Stylizer.load(checkpoint, device="gpu")
    with pytest.raises(DeviceError, match="`device` npu: "):
        Stylizer.load(checkpoint, device="npu")
    with pytest.raises(DeviceError, match="`threads` must be 1 or more, got 0"):
        Stylizer.load(checkpoint, threads=0)


def test_a_name_is_looked_for_in_checkpoints(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stylizer: Stylizer
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("checkpoints").mkdir()
    Path("checkpoints/mine.safetensors").write_bytes(checkpoint.read_bytes())
    photo = draw(0, 20, 20)
    loaded = Stylizer.load("mine", device="cpu")
    assert loaded.about.network == NETWORK
    np.testing.assert_array_equal(np.array(loaded(photo)), np.array(stylizer(photo)))


def test_stroke_size_stylizes_at_another_size_and_comes_back(stylizer: Stylizer) -> None:
    photo = torch.rand(1, 3, 40, 66, generator=torch.Generator().manual_seed(3))
    double = stylizer(photo, stroke_size=2.0)
    assert double.shape == photo.shape
    torch.testing.assert_close(
        double, resize(stylizer(resize(photo, 20, 33)), 40, 66), atol=1e-6, rtol=0
    )
    assert torch.equal(stylizer(photo, stroke_size=1.0), stylizer(photo))
    assert stylizer(photo, size=20, stroke_size=0.5).shape == (1, 3, 20, 33)
    for size in (0, 0.09, 101, float("nan")):
        with pytest.raises(ImageError, match="`stroke_size` must be 0.1 to 100, or auto, got"):
            stylizer(photo, stroke_size=size)
    with pytest.raises(ImageError, match="would paint 14000x14000 pixels; take a larger one"):
        stylizer(torch.zeros(1, 3, 1400, 1400), stroke_size=0.1)
    assert stylizer(photo, stroke_size=10).shape == photo.shape


def test_strokes_in_proportion_are_painted_at_the_size_of_the_photo(
    stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = draw_batch(1, 61, 97)
    # No larger than photos of which strokes have their size: nothing changes.
    assert torch.equal(stylizer(photo, stroke_size="auto"), stylizer(photo, stroke_size=1.0))
    monkeypatch.setattr("faststyle.stylize.strokes.SIDE", 24)
    got = stylizer(photo, stroke_size="auto")
    assert torch.equal(got, stylizer(draw_strokes(photo, stylizer), stroke_size=1.0))
    assert float((got - stylizer(photo, stroke_size=1.0)).abs().mean()) > 0.002
    # Sizes, alpha and the other options are as with any size of strokes.
    assert stylizer(photo, size=30, stroke_size="auto").shape == (1, 3, 30, 48)
    assert torch.equal(stylizer(photo, stroke_size="auto", mix=0.0), photo)
    picture = draw(0, 41, 29)
    picture.putalpha(100)
    painted_picture = stylizer(picture, stroke_size="auto")
    assert (painted_picture.size, painted_picture.mode) == ((29, 41), "RGBA")
    with pytest.raises(ImageError, match="`stroke_size` must be 0.1 to 100, or auto, got large"):
        stylizer(photo, stroke_size="large")


def test_strokes_in_proportion_in_tiles_are_the_same(
    stylizer: Stylizer, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faststyle.stylize.strokes.SIDE", 70)
    photo = draw_batch(1, 101, 139)
    tiled = Stylizer.load(checkpoint, device="cpu", tile=64)
    whole = stylizer(photo, stroke_size="auto")
    # Both passes round to 8 bits, and the network makes more of it: 4.6 levels were seen.
    torch.testing.assert_close(tiled(photo, stroke_size="auto"), whole, atol=8 / 255, rtol=0)
    assert float((whole - stylizer(photo)).abs().max()) > 80 / 255


@pytest.mark.parametrize(
    ("size", "look"),
    [
        (None, Look()),
        (20, Look(stroke_size=1.5)),
        (48, Look(keep_colors=True, mix=0.4)),
        (None, Look(stroke_size="auto")),
    ],
)
def test_a_batch_gives_the_pictures_that_each_would_give(
    stylizer: Stylizer, size: int | None, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faststyle.stylize.strokes.SIDE", 18)
    photos = [Picture(image) for image in draw_batch(3, 24, 37).split(1)]
    photos[1] = replace(photos[1], alpha=torch.full((1, 1, 24, 37), 0.5), icc=b"profile")
    alone = [stylizer.stylize(photo, size, look) for photo in photos]
    runs = []
    paint = stylizer._paint
    monkeypatch.setattr(
        stylizer, "_paint", lambda photo, tile: runs.append(len(photo)) or paint(photo, tile)
    )
    for got, expected in zip(stylizer.stylize_batch(photos, size, look), alone, strict=True):
        torch.testing.assert_close(got.rgb, expected.rgb, atol=1e-4, rtol=0)
        assert (got.alpha is None) == (expected.alpha is None)
        assert got.icc == expected.icc
    assert runs == ([3, 3] if look.stroke_size == "auto" else [3])


def test_a_batch_without_memory_is_done_one_at_a_time(
    stylizer: Stylizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [Picture(image) for image in draw_batch(2, 24, 37).split(1)]
    runs = []
    paint = stylizer._paint

    def paint_one(photo: torch.Tensor, tile: int) -> torch.Tensor:
        runs.append(len(photo))
        if len(photo) > 1:
            raise MemoryError
        return paint(photo, tile)

    monkeypatch.setattr(stylizer, "_paint", paint_one)
    assert len(stylizer.stylize_batch(photos)) == 2
    assert runs == [2, 1, 1]
    # Where a batch would take more than a picture may, it is not tried.
    runs.clear()
    monkeypatch.setattr(stylizer_module, "WHOLE_BYTES", 24 * 37 * stylizer._bytes_per_pixel() * 1.5)
    monkeypatch.setattr(stylizer_module, "WHOLE_SHARE", 0.0)
    stylizer.stylize_batch(photos)
    assert runs == [1, 1]
