"""Image files of all kinds: how they are read and written, and errors for damaged ones."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw
from PIL import Image, ImageCms, features

from faststyle.errors import ImageError, OutputError
from faststyle.images import (
    Header,
    TooManyPixelsError,
    decode,
    encode_image,
    open_picture,
    read_header,
    read_image,
    to_pil,
    write_image,
)
from faststyle.sizes import crop_centre, fit_shorter, parse_size

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def values(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """(1, C, H, W) as (H, W, C)."""
    return tensor[0].permute(1, 2, 0).numpy()


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG file with a size in its header, and next to no pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def cmyk_profile(lightness: dict[tuple[int, int, int, int], int]) -> bytes:
    """The profile of a printer with grey inks: CIE lightness, 0-100, at the corners of CMYK.

    Corners that are not in `lightness` have 0. It is an ICC profile of version 2 with one table
    of type lut8 (ICC.1:2001-04, section 6.5.8).
    """
    grid = bytearray()
    for corner in range(16):  # cyan varies slowest
        light = lightness.get((corner >> 3 & 1, corner >> 2 & 1, corner >> 1 & 1, corner & 1), 0)
        grid += bytes([round(light * 2.55), 128, 128])
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    line = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + line * 4 + bytes(grid) + line * 3
    table += bytes(-len(table) % 4)
    header = struct.pack(
        ">I4sI4s4s4s12x4s", 0, b"none", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp"
    )
    header = header.ljust(68, b"\0") + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)  # D50
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(table))
    profile = header.ljust(128, b"\0") + tags + table
    return struct.pack(">I", len(profile)) + profile[4:]


# {EXIF orientation: stored picture -> upright picture}. The EXIF standard gives the places of the
# first row and the first column.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored[::-1].transpose(1, 0, 2),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    stored = noise(5, 7, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = read_image(encode(Image.fromarray(stored), format, exif=exif))
    np.testing.assert_array_equal(
        values(got) * 255, UPRIGHT[orientation](stored).astype(np.float32)
    )


def test_a_jpeg_from_a_phone_stands_upright(tmp_path: Path) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :16] = (255, 0, 0)  # on the upright picture: the red half is on top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    got = values(read_image(tmp_path / "phone.jpg"))
    assert got.shape == (32, 16, 3)
    np.testing.assert_allclose(got[:12].mean((0, 1)), [1, 0, 0], atol=0.02)
    np.testing.assert_allclose(got[20:].mean((0, 1)), [0, 0, 0], atol=0.02)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(34, 36), (38, 40), (44, 46)],
    ids=["directory", "count of entries", "size of an entry"],
)
def test_damaged_exif_spoils_nothing(start: int, stop: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    whole = encode(Image.new("RGB", (8, 6), (255, 255, 255)), "JPEG", exif=exif)
    # Pillow warns of it. In these tests warnings are errors, so this shows that none gets out.
    got = read_image(whole[:start] + b"\xff\xee" + whole[stop:])
    assert got.shape == (1, 3, 6, 8)
    assert got.min() > 0.98


def test_grey_becomes_three_equal_channels() -> None:
    grey = noise(4, 6)
    got = open_picture(encode(Image.fromarray(grey), "PNG"))
    assert got.alpha is None
    assert got.rgb.shape == (1, 3, 4, 6)
    for channel in got.rgb[0].numpy() * 255:
        np.testing.assert_array_equal(channel, grey.astype(np.float32))


def test_one_bit_is_black_and_white() -> None:
    bits = noise(5, 9) > 127
    got = read_image(encode(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(values(got), np.repeat(bits[..., None], 3, 2).astype(np.float32))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_kept_and_laid_on_white_when_read_as_rgb(mode: str) -> None:
    data = noise(4, 6, len(mode))
    image = Image.fromarray(data)
    assert image.mode == mode
    source = encode(image, "PNG")
    colour = data[..., :-1] / 255
    alpha = data[..., -1:] / 255
    picture = open_picture(source)
    assert picture.alpha is not None
    np.testing.assert_allclose(values(picture.rgb), np.broadcast_to(colour, (4, 6, 3)), atol=1e-6)
    np.testing.assert_allclose(values(picture.alpha), alpha, atol=1e-6)
    np.testing.assert_allclose(
        values(read_image(source)),
        np.broadcast_to(colour * alpha + 1 - alpha, (4, 6, 3)),
        atol=1e-6,
    )


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_entry(format: str) -> None:
    image = Image.new("P", (3, 2))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 2, 1, 0])
    picture = open_picture(encode(image, format, transparency=1))
    red = [1, 0, 0]
    green = [0, 1, 0]
    blue = [0, 0, 1]
    opaque = np.array([[[1], [0], [1]], [[1], [0], [1]]])
    expected = np.array([[red, green, blue], [blue, green, red]])
    assert picture.alpha is not None
    np.testing.assert_array_equal(values(picture.alpha), opaque)
    np.testing.assert_array_equal(values(picture.rgb) * opaque, expected * opaque)


def test_a_palette_with_shades_of_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    picture = open_picture(encode(image, "PNG", transparency=bytes([0, 51, 255])))
    assert picture.alpha is not None
    np.testing.assert_allclose(picture.alpha.flatten().numpy(), [0, 0.2, 1], atol=1e-6)


@pytest.mark.parametrize(
    "icc", [None, b"not a profile" * 20, SRGB], ids=["none", "damaged", "of RGB"]
)
@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_without_a_usable_profile(format: str, icc: bytes | None) -> None:
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255)]
    light = [(1, 1, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 0)]
    for ink, expected in zip(inks, light, strict=True):
        picture = open_picture(encode(Image.new("CMYK", (8, 8), ink), format, icc_profile=icc))
        np.testing.assert_allclose(
            values(picture.rgb), np.broadcast_to(expected, (8, 8, 3)), atol=0.01
        )
        assert picture.icc is None


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_is_converted_by_its_profile(format: str) -> None:
    icc = cmyk_profile({(0, 0, 0, 0): 100, (1, 0, 0, 0): 50, (0, 0, 0, 1): 20})
    for ink, lightness in [((0, 0, 0, 0), 100), ((255, 0, 0, 0), 50), ((0, 0, 0, 255), 20)]:
        linear = ((lightness + 16) / 116) ** 3  # CIE 1976
        srgb = 1.055 * linear ** (1 / 2.4) - 0.055  # IEC 61966-2-1
        picture = open_picture(encode(Image.new("CMYK", (8, 8), ink), format, icc_profile=icc))
        np.testing.assert_allclose(values(picture.rgb), np.full((8, 8, 3), srgb), atol=0.015)
        assert picture.icc is None


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_of_16_bits_keeps_its_upper_8(format: str) -> None:
    grey = np.append(noise(62, dtype=np.uint16), [0, 65535]).astype(np.uint16).reshape(8, 8)
    got = read_image(encode(Image.fromarray(grey), format))
    expected = np.round(grey / 257)  # 65535 / 255
    for channel in got[0].numpy() * 255:
        np.testing.assert_array_equal(channel, expected.astype(np.float32))


def test_float_is_of_range_1_or_255() -> None:
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    one = read_image(encode(Image.fromarray(ramp), "TIFF"))
    large = read_image(encode(Image.fromarray(ramp * 255), "TIFF"))
    np.testing.assert_allclose(values(one), np.repeat(ramp[..., None], 3, 2), atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(
        values(large), np.repeat(ramp[..., None], 3, 2), atol=0.5 / 255 + 1e-6
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_float_that_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(ImageError, match="not finite"):
        read_image(encode(Image.fromarray(np.array([[0, bad]], np.float32)), "TIFF"))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16", "F"])
def test_one_pixel_is_a_picture(mode: str) -> None:
    format = "TIFF" if mode in ("CMYK", "F") else "PNG"
    got = read_image(encode(Image.new(mode, (1, 1)), format))
    assert got.shape == (1, 3, 1, 1)
    assert got.dtype == torch.float32


def test_large_jpegs_are_decoded_at_a_fraction() -> None:
    source = encode(draw(0, 400, 640), "JPEG")
    image = decode(source, shrink_to=100)
    assert image.size == (160, 100)
    assert decode(source).size == (640, 400)


def test_bad_files_each_give_one_line_with_their_name(tmp_path: Path) -> None:
    jpeg = encode(draw(0, 40, 60), "JPEG")
    png = encode(draw(0, 40, 60), "PNG")
    cases = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "damaged or truncated"),
        "truncated.png": (png[: len(png) // 2], "damaged or truncated"),
        "empty.png": (b"", "the file is empty"),
        "text.jpg": (b"not a picture\n" * 30, "not an image that can be read; use avif, bmp,"),
        "bomb.png": (png_of_size(60_000, 60_000), "more than 178,956,970 pixels"),
        "large.png": (png_of_size(20_000, 9_000), "more than 178,956,970 pixels"),
        "no_data.png": (png_of_size(200, 90), "damaged or truncated"),
    }
    for name, (data, reason) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ImageError) as caught:
            read_image(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: {reason}"), message
        assert "\n" not in message


def test_a_folder_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r": a folder, where an image is expected"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=r"cannot be read \(not a directory\)"):
        read_image(tmp_path / "file" / "below.png")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_avif_is_an_error() -> None:
    whole = encode(draw(0, 24, 30), "AVIF")
    assert read_image(whole).shape == (1, 3, 24, 30)
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_image(whole[: whole.index(b"mdat") + 8] + bytes(len(whole)))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM"])
def test_a_damaged_file_is_read_or_is_an_image_error(format: str) -> None:
    whole = encode(draw(0, 24, 30), format)
    rng = random.Random(0)
    refused: list[str] = []
    for i in range(60):
        data = bytearray(whole[: rng.randrange(len(whole))] if i % 3 == 0 else whole)
        for _ in range(3 if data else 0):
            data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        try:
            assert read_image(bytes(data)).shape[:2] == (1, 3)
        except ImageError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in message for message in refused)


@pytest.mark.parametrize(
    "shape", [(4,), (4, 6, 1), (4, 6, 2), (4, 6, 5), (1, 4, 6, 3), (0, 6, 3), (4, 0)]
)
def test_arrays_of_other_shapes_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"allowed: \(H, W\), \(H, W, 3\), \(H, W, 4\)"):
        read_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool])
def test_arrays_of_other_types_are_errors(dtype: type) -> None:
    with pytest.raises(ImageError, match="allowed: uint8, or float"):
        read_image(np.zeros((4, 6, 3), dtype))


@pytest.mark.parametrize(
    "shape", [(4, 6), (1, 4, 6), (4, 6, 3), (2, 3, 4, 6), (1, 4, 4, 6), (3, 0, 6)]
)
def test_tensors_of_other_shapes_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"allowed: float in \[0, 1\], \(3, H, W\)"):
        read_image(torch.zeros(shape))


def test_tensors_of_integers_are_errors() -> None:
    with pytest.raises(ImageError, match=r"torch\.uint8 tensor"):
        read_image(torch.zeros(3, 4, 6, dtype=torch.uint8))


def test_values_that_are_not_finite_are_errors() -> None:
    with pytest.raises(ImageError, match="not finite"):
        read_image(np.full((4, 6, 3), np.nan))
    with pytest.raises(ImageError, match="not finite"):
        read_image(torch.full((3, 4, 6), float("inf")))


def test_arrays_and_tensors_keep_their_values() -> None:
    data = noise(4, 6, 3)
    np.testing.assert_array_equal(values(read_image(data)) * 255, data.astype(np.float32))
    np.testing.assert_array_equal(
        values(read_image(data[..., 0])) * 255, np.repeat(data[..., :1], 3, 2) * 1.0
    )
    np.testing.assert_allclose(values(read_image(data / 255)), data / 255, atol=1e-6)
    np.testing.assert_array_equal(values(read_image(data[:, ::-1])) * 255, data[:, ::-1] * 1.0)
    tensor = torch.from_numpy(data).permute(2, 0, 1).float() / 255
    assert torch.equal(read_image(tensor)[0], tensor)
    assert torch.equal(read_image(tensor[None].double()), tensor[None])


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    data = noise(9, 13, 3)
    alpha = noise(9, 13, 1)
    write_image(
        torch.from_numpy(data).permute(2, 0, 1).float() / 255,
        tmp_path / "a.png",
        torch.from_numpy(alpha).permute(2, 0, 1)[None].float() / 255,
    )
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGBA")
        np.testing.assert_array_equal(np.array(image), np.concatenate([data, alpha], 2))
    back = open_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(values(back.rgb) * 255, data * 1.0)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.png", "PNG"),
        ("a.jpg", "JPEG"),
        ("a.JPEG", "JPEG"),
        ("a.webp", "WEBP"),
        ("a.b.PNG", "PNG"),
    ],
)
def test_the_extension_decides_the_format_and_the_profile_is_kept(
    tmp_path: Path, name: str, format: str
) -> None:
    photo = draw(2, 40, 60)
    write_image(read_image(photo), tmp_path / "new" / name, icc=SRGB)
    with Image.open(tmp_path / "new" / name) as image:
        assert (image.format, image.mode, image.size) == (format, "RGB", (60, 40))
        assert image.info["icc_profile"] == SRGB
        error = np.abs(np.array(image).astype(float) - np.array(photo)).mean()
    # WebP halves the resolution of colours
    assert error <= {"PNG": 0, "JPEG": 4, "WEBP": 8}[format]
    assert open_picture(tmp_path / "new" / name).icc == SRGB


def test_the_profile_of_a_grey_picture_is_dropped() -> None:
    grey = bytearray(SRGB)
    grey[16:20] = b"GRAY"
    picture = open_picture(encode(Image.new("L", (4, 4)), "PNG", icc_profile=bytes(grey)))
    assert picture.icc is None


@pytest.mark.parametrize(
    ("format", "expected"), [("PNG", "RGBA"), ("WEBP", "RGBA"), ("JPEG", "RGB")]
)
def test_alpha_is_kept_where_the_format_has_it_and_laid_on_white_elsewhere(
    format: str, expected: str
) -> None:
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    alpha = torch.zeros(1, 1, 16, 16)
    alpha[..., :8] = 1
    image = Image.open(io.BytesIO(encode_image(red, format, alpha)))
    assert image.mode == expected
    on_white = np.array(image.convert("RGB")) / 255
    np.testing.assert_allclose(on_white[:, 1:6], np.broadcast_to([1, 0, 0], (16, 5, 3)), atol=0.03)
    if expected == "RGBA":
        np.testing.assert_array_equal(np.array(image)[..., 3], alpha[0, 0].numpy() * 255)
    else:
        np.testing.assert_allclose(on_white[:, 10:], np.ones((16, 6, 3)), atol=0.03)


@pytest.mark.parametrize("name", ["a.gif", "a.heic", "a", "a.", ".png"])
def test_other_extensions_are_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="use jpeg, jpg, png, tif, tiff, webp"):
        write_image(torch.zeros(1, 3, 4, 4), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("format", "limit"), [("JPEG", 65_500), ("WEBP", 16_383)])
def test_a_picture_too_long_for_its_format_is_an_error(
    format: str, limit: int, capfd: pytest.CaptureFixture[str]
) -> None:
    longest = Image.open(io.BytesIO(encode_image(torch.zeros(1, 3, 1, limit), format)))
    assert longest.size == (limit, 1)
    with pytest.raises(ImageError, match=f"1x{limit + 1} pixels are too many for {format}"):
        encode_image(torch.zeros(1, 3, 1, limit + 1), format)
    assert capfd.readouterr().err == ""  # libjpeg would write a line of its own


def test_values_out_of_range_are_clipped_and_others_rounded() -> None:
    image = torch.tensor([-1.0, 0.0, 0.1, 0.999, 1.0, 2.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    np.testing.assert_array_equal(np.array(to_pil(image))[0, :, 0], [0, 0, 26, 255, 255, 255])


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((100, 200), 50, (50, 100)),
        ((200, 100), 50, (100, 50)),
        ((33, 17), 34, (66, 34)),
        ((10, 15), 3, (3, 4)),  # 4.5 to even
        ((1, 1), 16, (16, 16)),
        ((64, 64), 64, (64, 64)),
    ],
)
def test_the_shorter_side_is_fitted(
    shape: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    got = fit_shorter(torch.full((1, 3, *shape), 0.25), size)
    assert got.shape == (1, 3, *expected)
    torch.testing.assert_close(got, torch.full_like(got, 0.25))


def test_fitting_is_the_bicubic_filter_of_pillow() -> None:
    grey = np.random.default_rng(0).random((60, 90)).astype(np.float32)
    expected = np.array(Image.fromarray(grey).resize((45, 30), Image.Resampling.BICUBIC)).clip(0, 1)
    got = fit_shorter(torch.from_numpy(grey)[None, None], 30)
    np.testing.assert_allclose(got[0, 0].numpy(), expected, atol=1e-4)


def test_the_crop_is_the_middle() -> None:
    image = torch.arange(4 * 9.0).view(1, 1, 4, 9) / 36
    torch.testing.assert_close(crop_centre(image, 4), image[..., 2:6])
    torch.testing.assert_close(crop_centre(image.mT, 4), image.mT[..., 2:6, :])
    assert crop_centre(image, 8).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(("text", "size"), [("480x848", (480, 848)), ("32x32", (32, 32))])
def test_sizes_are_height_and_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text, 32) == size


@pytest.mark.parametrize(
    "text", ["480", "480x", "x480", "480 x 848", "480x848x3", "31x40", "-40x40", "wide"]
)
def test_other_sizes_are_one_line(text: str) -> None:
    with pytest.raises(
        ImageError, match=f"`size` {text}: HEIGHTxWIDTH is needed, both 32 or more, as in 480x848"
    ):
        parse_size(text, 32)


def test_a_header_is_read_without_its_pixels() -> None:
    photo = draw(0, 20, 31)
    for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        assert read_header(encode(photo, format)) == Header(format, 20, 31)
    assert read_header(png_of_size(9_000, 10_000)) == Header("PNG", 10_000, 9_000)
    assert read_header(b"no picture") is None
    assert read_header(b"") is None
    with pytest.raises(TooManyPixelsError, match=r"more than 178,956,970 pixels"):
        read_header(png_of_size(60_000, 60_000))
