"""What image files hold besides pixels: EXIF, XMP, ICC profiles, the resolution."""

from __future__ import annotations

import warnings
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

MAX_ICC_BYTES = 4 << 20  # larger profiles of RGB are not copied; those of printers have 2 MB
# EXIF of the whole picture that is kept when asked for: description, camera, software, author.
# Left out are sizes and places of pixels, orientation, and the thumbnail of the photo.
KEPT_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
# EXIF of the exposure that is left out: the notes of the maker, which hold places of bytes in the
# old file, the size in pixels, and the place of a table.
DROPPED_TAGS = (0x927C, 0xA002, 0xA003, 0xA005)
XMP_IN_PNG = "XML:com.adobe.xmp"


def copied_icc(icc: bytes | None) -> bytes | None:
    """Return an ICC profile if it is one of RGB and of a sensible size."""
    # The profile of a grey picture fits no RGB file.
    if not icc or len(icc) > MAX_ICC_BYTES or icc[16:20] != b"RGB ":
        return None
    return icc


def read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Return the resolution of a picture, None where it has none that makes sense."""
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # Pillow makes 1 up where a TIFF file tells none; 65,535 is the most that JPEG can hold.
    if not (1 < across <= 65_535 and 1 < down <= 65_535):
        return None
    return across, down


def read_exif(stored: Image.Image) -> bytes | None:
    """Return the EXIF of a picture that still holds for the picture made of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = stored.getexif()
        kept = Image.Exif()
        kept.update({tag: old[tag] for tag in KEPT_TAGS if tag in old})
        for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            values = old.get_ifd(part)
            values = {tag: value for tag, value in values.items() if tag not in DROPPED_TAGS}
            if values:
                kept[part] = values
        return kept.tobytes() if len(kept) else None


def read_xmp(upright: Image.Image) -> bytes | None:
    """Return the XMP of an upright picture, which has no orientation in it any more."""
    xmp = upright.info.get("xmp") or upright.info.get(XMP_IN_PNG)
    return xmp.encode() if isinstance(xmp, str) else xmp


def encoder_options(
    format: str, dpi: tuple[float, float] | None, exif: bytes | None, xmp: bytes | None
) -> dict[str, Any]:
    """Return the options of Pillow's encoders for resolution, EXIF and XMP."""
    options: dict[str, Any] = {}
    if dpi and format != "WEBP":
        options["dpi"] = dpi
    if exif:
        options["exif"] = exif
    if xmp and format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt(XMP_IN_PNG, xmp.decode("utf-8", "replace"))
        options["pnginfo"] = text
    elif xmp and format != "TIFF":
        options["xmp"] = xmp
    if format == "TIFF" and (exif or xmp):
        table = Image.Exif()
        if exif:
            table.load(exif)
            # Pillow cannot write tables of EXIF into a compressed file.
            options["compression"] = "raw"
        if xmp:
            table[ExifTags.Base.XMLPacket] = xmp
        options["exif"] = table
    return options
