"""What files have beside their pixels: resolution, EXIF, XMP, frames; and files of rarer kinds."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw, needs
from PIL import ExifTags, Image, ImageCms, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational

from faststyle import images
from faststyle.errors import ImageError
from faststyle.image_metadata import MAX_ICC_BYTES
from faststyle.images import encode_picture, fit_metadata, notes_on, open_picture, read_image
from faststyle.sizes import mirror_to

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:title="Harbour"/></rdf:RDF></x:xmpmeta>'
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WRITTEN = ("JPEG", "PNG", "WEBP", "TIFF")


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def of_a_camera() -> bytes:
    """A JPEG of 24x36 pixels, stored on its side, with all that a camera writes."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Acme"
    exif[ExifTags.IFD.Exif] = {0x829A: IFDRational(1, 125), 0x927C: b"secret", 0xA002: 36}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (48.0, 8.0, 1.0)}
    return encode(draw(0, 24, 36), "JPEG", exif=exif, xmp=XMP, dpi=(300, 200))


@pytest.mark.parametrize("format", WRITTEN)
def test_metadata_come_through_every_format_when_asked_for(format: str) -> None:
    picture = open_picture(of_a_camera(), keep_metadata=True)
    assert picture.rgb.shape == (1, 3, 36, 24)  # upright
    data = encode_picture(fit_metadata(picture, format), format)
    image = Image.open(io.BytesIO(data))
    exif = image.getexif()
    assert image.size == (24, 36)
    assert exif[ExifTags.Base.Make] == "Acme"
    assert dict(exif.get_ifd(ExifTags.IFD.Exif)) == {0x829A: IFDRational(1, 125)}
    assert dict(exif.get_ifd(ExifTags.IFD.GPSInfo)) == {1: "N", 2: (48.0, 8.0, 1.0)}
    again = open_picture(data, keep_metadata=True)
    assert again.rgb.shape == picture.rgb.shape  # not turned once more
    assert again.xmp is not None
    assert b"Harbour" in again.xmp
    assert again.notes == ()


@pytest.mark.parametrize("format", WRITTEN)
def test_else_only_the_resolution_does(format: str) -> None:
    picture = open_picture(of_a_camera())
    assert (picture.exif, picture.xmp) == (None, None)
    data = encode_picture(picture, format)
    assert b"Acme" not in data
    assert b"Harbour" not in data
    dpi = open_picture(data).dpi
    # WebP has no place for it.
    assert dpi == (None if format == "WEBP" else pytest.approx((300, 200), abs=0.01))


@pytest.mark.parametrize("dpi", [(0, 0), (1e9, 300), (-5, 300)])
def test_a_resolution_that_makes_no_sense_is_dropped(dpi: tuple[float, float]) -> None:
    image = draw(0, 4, 6)
    image.info["dpi"] = dpi
    picture = open_picture(image)
    assert picture.dpi is None
    assert encode_picture(picture, "JPEG")


def test_metadata_too_long_for_jpeg_are_left_out_with_a_note() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "x" * 70_000
    picture = open_picture(encode(draw(0, 4, 6), "PNG", exif=exif), keep_metadata=True)
    assert fit_metadata(picture, "PNG") is picture
    fitted = fit_metadata(picture, "JPEG")
    assert fitted.notes == ("EXIF that is too long for JPEG is left out",)
    assert encode_picture(fitted, "JPEG")


def test_a_large_profile_is_left_out_with_a_note() -> None:
    for size, kept in ((MAX_ICC_BYTES, True), (MAX_ICC_BYTES + 1, False)):
        picture = open_picture(encode(draw(0, 4, 6), "TIFF", icc_profile=SRGB.ljust(size, b"\0")))
        assert (picture.icc is not None) == kept
        assert [note.split(";")[0] for note in picture.notes] == (
            [] if kept else ["an ICC profile of more than 4 MiB is left out"]
        )


def test_a_png_with_too_much_text_is_not_called_damaged() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    with pytest.raises(ImageError, match="text or colour profile takes more than 1 MiB"):
        read_image(encode(draw(0, 4, 6), "PNG", pnginfo=text))


@pytest.mark.parametrize(
    ("format", "note"),
    [
        ("GIF", "only the first frame of an animation is used"),
        ("WEBP", "only the first frame of an animation is used"),
        ("PNG", "only the first frame of an animation is used"),
        ("TIFF", "only the first page of several pages is used"),
        ("MPO", ""),  # the second picture is another view of the first
    ],
)
def test_frames_and_pages_are_noted(format: str, note: str) -> None:
    frames = [draw(i, 20, 24) for i in range(3)]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    assert open_picture(data).notes == ((note,) if note else ())
    notes_on(data[: len(data) // 20], "cut")  # is not what fails


@pytest.mark.parametrize(
    ("suffix", "format"), [("jp2", "JPEG2000"), ("tga", "TGA"), ("mpo", "MPO")]
)
def test_rarer_formats_are_read(tmp_path: Path, suffix: str, format: str) -> None:
    photo = draw(0, 40, 60)
    photo.save(tmp_path / f"a.{suffix}", format)
    assert f".{suffix}" in images.READABLE
    error = read_image(tmp_path / f"a.{suffix}") - read_image(photo)
    assert float(error.abs().mean()) < 0.04


def test_lab_is_read() -> None:
    lab = Image.merge("LAB", [Image.new("L", (8, 8), value) for value in (255, 128, 128)])
    np.testing.assert_allclose(read_image(encode(lab, "TIFF")).numpy(), 1, atol=0.01)


@needs("pillow_heif")
def test_heic_is_read(tmp_path: Path) -> None:
    import pillow_heif

    photo = draw(0, 64, 96)
    pillow_heif.from_pillow(photo).save(tmp_path / "a.heic", quality=95)
    error = read_image(tmp_path / "a.heic") - read_image(photo)
    assert float(error.abs().mean()) < 0.03


def test_heic_without_its_extra_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    preinit = dict(Image.OPEN)
    monkeypatch.setattr(Image, "OPEN", {k: v for k, v in preinit.items() if k != "HEIF"})
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    head = struct.pack(">I", 24) + b"ftypheic" + bytes(12)
    with pytest.raises(
        ImageError, match=r'a.heic: HEIC needs pillow-heif: pip install -e "\.\[heic'
    ):
        images.decode(head, "a.heic")


@pytest.mark.parametrize(("low", "high"), [(0, 5), (-1, 1), (0, 70_000), (-40, 255)], ids=str)
def test_floats_out_of_known_ranges_are_refused(low: float, high: float) -> None:
    data = encode(Image.fromarray(np.linspace(low, high, 64, dtype=np.float32)[None]), "TIFF")
    with pytest.raises(
        ImageError, match=rf"go from {low:g} to {high:g}; scale them to \[0, 1\] or"
    ):
        read_image(data)


def test_integers_of_more_than_16_bits_are_refused() -> None:
    data = encode(Image.fromarray(np.array([[0, 70_000]], np.int32)), "TIFF")
    with pytest.raises(ImageError, match=r"from 0 to 70000; scale them to \[0, 65535\] first"):
        read_image(data)


def test_a_damaged_bmp_is_not_called_too_large(tmp_path: Path) -> None:
    data = bytearray(encode(draw(0, 40, 60), "BMP"))
    data[18:22] = struct.pack("<i", 2**30)
    with pytest.raises(ImageError, match="damaged or truncated image"):
        read_image(bytes(data))


def test_a_tiff_of_another_kind_is_not_called_another_file() -> None:
    data = encode(Image.new("RGB", (4, 4)), "TIFF")
    # 258 is BitsPerSample: three numbers elsewhere in the file.
    place = next(i for i in range(8, len(data), 2) if data[i : i + 2] == struct.pack("<H", 258))
    where = struct.unpack_from("<I", data, place + 8)[0]
    odd = data[:where] + struct.pack("<3H", 32, 32, 31) + data[where + 6 :]
    with pytest.raises(ImageError, match="a TIFF file of a kind that cannot be read; save it as"):
        read_image(odd)


def test_libtiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encode(draw(0, 40, 60), "TIFF", compression="tiff_lzw", software="x" * 40))
    place = next(i for i in range(len(data)) if data[i : i + 2] == struct.pack("<H", 305))
    data[place : place + 2] = struct.pack("<H", 65_000)  # a tag that libtiff does not know
    read_image(bytes(data))
    with pytest.raises(ImageError):
        read_image(bytes(data[:8] + bytes(300) + data[308:]))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 2), (15, 16), (8, 20)])
def test_small_pictures_are_mirrored(size: tuple[int, int]) -> None:
    h, w = size
    image = read_image(draw(0, h, w))
    more = ((0, 0), (0, 0), (0, max(0, 16 - h)), (0, max(0, 16 - w)))
    expected = np.pad(image.numpy(), more, mode="symmetric")
    np.testing.assert_array_equal(mirror_to(image, 16).numpy(), expected)
