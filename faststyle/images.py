"""Reading and writing image files: EXIF, alpha, grey, CMYK, 16 bits, ICC profiles, whole writes.

Only stylize/huge.py opens files itself, for pictures larger than memory. Inside the package
pictures are RGB, (1, 3, H, W), float32 in [0, 1]; integers of 8 bits exist only in files.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import io
import math
import mimetypes
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import (
    ExifTags,
    Image,
    ImageCms,
    ImageOps,
    PngImagePlugin,
    UnidentifiedImageError,
    _imaging,
)
from torch import Tensor

from faststyle.errors import DeviceError, ImageError, OutputError
from faststyle.extras import require
from faststyle.files import write_bytes

ImageSource = str | Path | bytes | Image.Image | np.ndarray[Any, Any] | Tensor

HEIF = frozenset({".heic", ".heif"})  # photos of phones; they need the extra [heic]
READABLE = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jfif", ".avif"}
    | {".mpo", ".jp2", ".j2k", ".psd", ".tga"}
    | (HEIF if find_spec("pillow_heif") else set())
)
WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
# Suffixes of pictures that Python has no media type for: camera raws, and formats of editors.
UNREAD = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"}
    | {".exr", ".hdr", ".jxl", ".kra", ".xcf", ".mkv", ".m4v", ".mts", ".m2ts", ".wmv", ".flv"}
)
LONGEST = {"JPEG": 65_500, "WEBP": 16_383}  # pixels a side that the formats can hold
QUALITY = 95  # of JPEG and WebP, 0-100: below it, 8x8 blocks show in flat brush strokes
MAX_PIXELS = 178_956_970  # where Pillow calls a file a decompression bomb
WHITE = (255, 255, 255)
# Pillow's decoders raise all of these on damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, RuntimeError)

MAX_ICC_BYTES = 4 << 20  # larger profiles of RGB are not copied; those of printers have 2 MB
# Bytes of metadata that a JPEG segment holds, less their own headers.
LONGEST_EXIF = 65_533
LONGEST_XMP = 65_504
# EXIF of the whole picture that is kept when asked for: description, camera, software, author.
# Left out are sizes and places of pixels, orientation, and the thumbnail of the photo.
KEPT_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
# EXIF of the exposure that is left out: the notes of the maker, which hold places of bytes in the
# old file, the size in pixels, and the place of a table.
DROPPED_TAGS = (0x927C, 0xA002, 0xA003, 0xA005)
XMP_IN_PNG = "XML:com.adobe.xmp"
FLOAT_RANGES = (1.0, 255.0)  # that pixels of files of floats may fill
FLOAT_SURPLUS = 0.1  # of the range: filters overshoot


class TooManyPixelsError(ImageError):
    """A picture has more pixels than are ever decoded."""


@dataclass(frozen=True)
class Header:
    """The format of an image file, by Pillow's name, and its size in pixels, as it is stored."""

    format: str
    height: int
    width: int


@dataclass(frozen=True)
class Picture:
    """The content of an image file: colours, and what else the file has.

    `rgb` is (1, 3, H, W) and `alpha` (1, 1, H, W), both in [0, 1]. `icc` is an ICC profile, `dpi`
    the resolution across and down. `exif` and `xmp` are only read when asked for. `notes` say what
    was left out of the file.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()


def decode(
    source: str | Path | bytes | Image.Image, name: str = "image", shrink_to: int | None = None
) -> Image.Image:
    """Return a picture of any format as an upright Pillow image of mode RGB or RGBA.

    With `shrink_to`, JPEG files may be decoded at a fraction of their size, with a shorter side of
    no less than `shrink_to` pixels. Raises: ImageError unless it is a readable, whole image.
    """
    name = str(source) if isinstance(source, str | Path) else name
    image = _load(source, name, shrink_to)
    with _reading(name):
        return _to_rgb(ImageOps.exif_transpose(image), name)


def open_picture(source: ImageSource, name: str = "image", keep_metadata: bool = False) -> Picture:
    """Return a picture with its alpha, ICC profile and resolution, from any `ImageSource`.

    Arrays are (H, W), (H, W, 3) or (H, W, 4), uint8 or float in [0, 1]; tensors (3, H, W) or (1, 3,
    H, W) in [0, 1]. `keep_metadata` reads EXIF and XMP too. Raises: ImageError.
    """
    if isinstance(source, Tensor):
        return Picture(_check_tensor(source))
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    if isinstance(source, str | Path):
        name = str(source)
        source = _read_bytes(Path(source))
    stored = _load(source, name)
    with _reading(name):
        image = _to_rgb(ImageOps.exif_transpose(stored), name)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    data = pixels[None].float() / 255  # (1, 3 or 4, H, W)
    alpha = data[:, 3:].contiguous() if data.shape[1] == 4 else None
    notes = notes_on(source, name) if isinstance(source, bytes) else ()
    icc = copied_icc(image.info.get("icc_profile"))
    picture = Picture(data[:, :3].contiguous(), alpha, icc, _read_dpi(stored), notes=notes)
    return _with_metadata(picture, stored, image) if keep_metadata else picture


def read_header(data: bytes, name: str = "image") -> Header | None:
    """Return the format and size of an image file without decoding it, None for no image at all.

    Raises: TooManyPixelsError; ImageError for a damaged header.
    """
    try:
        with _reading(name), _open_bytes(data, name) as image:
            return Header(image.format or "", image.height, image.width)
    except ImageError as error:
        if isinstance(error.__context__, UnidentifiedImageError):
            return None
        raise


def notes_on(source: Path | bytes, name: str) -> tuple[str, ...]:
    """Return what is left out of a picture, from its header: frames, pages, an ICC profile."""
    notes = []
    # A damaged header is an error of whoever decodes the file.
    with (
        contextlib.suppress(ImageError, *DAMAGED),
        _reading(name),
        Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image,
    ):
        # The further images of these are no frames: views for 3D, layers.
        if image.format not in ("MPO", "PSD") and getattr(image, "is_animated", False):
            several = "of several pages" if image.format == "TIFF" else "of an animation"
            part = "page" if image.format == "TIFF" else "frame"
            notes.append(f"only the first {part} {several} is used")
        icc = image.info.get("icc_profile") or b""
        if len(icc) > MAX_ICC_BYTES and copied_icc(icc[:MAX_ICC_BYTES]):
            notes.append(
                f"an ICC profile of more than {MAX_ICC_BYTES >> 20} MiB is left out; "
                "colours may look different"
            )
    return tuple(notes)


def copied_icc(icc: bytes | None) -> bytes | None:
    """Return an ICC profile if it is one of RGB and of a sensible size."""
    # The profile of a grey picture fits no RGB file.
    if not icc or len(icc) > MAX_ICC_BYTES or icc[16:20] != b"RGB ":
        return None
    return icc


def looks_like_picture(path: Path) -> bool:
    """Return whether the name of a file is that of a picture or a video, of any kind."""
    kind = _media_types().guess_type(path.name)[0] or ""
    return kind.startswith(("image/", "video/")) or path.suffix.lower() in UNREAD


@functools.cache
def _media_types() -> mimetypes.MimeTypes:
    return mimetypes.MimeTypes()  # those of Python alone, which are the same on every machine


def read_image(source: ImageSource) -> Tensor:
    """Return a picture as RGB, (1, 3, H, W), in [0, 1], with transparent pixels laid on white.

    Raises: ImageError.
    """
    return on_white(open_picture(source))


def on_white(picture: Picture) -> Tensor:
    """Return the colours of a picture, with transparent pixels laid on white."""
    if picture.alpha is None:
        return picture.rgb
    return picture.rgb * picture.alpha + (1 - picture.alpha)


def write_image(
    image: Tensor,
    path: str | Path,
    alpha: Tensor | None = None,
    icc: bytes | None = None,
    quality: int = QUALITY,
) -> None:
    """Write (1, 3, H, W) or (3, H, W) in [0, 1], whole or not at all.

    The extension of `path` decides between PNG, JPEG, WebP and TIFF. JPEG has no alpha: there the
    picture is laid on white. Raises: OutputError, and ImageError for too many pixels.
    """
    path = Path(path)
    write_bytes(path, encode_image(image, output_format(path), alpha, icc, quality))


def output_format(path: str | Path) -> str:
    """Return the format of an output path, by its extension.

    Raises: OutputError for an extension that cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in WRITABLE:
        raise OutputError(
            f"{path}: cannot write {suffix or 'a file without extension'}; use {_names(WRITABLE)}"
        )
    return WRITABLE[suffix]


def encode_image(
    image: Tensor,
    format: str,
    alpha: Tensor | None = None,
    icc: bytes | None = None,
    quality: int = QUALITY,
) -> bytes:
    """Return an image file of `format`: PNG, JPEG, WEBP or TIFF.

    Raises: ImageError when the picture is too large for the format.
    """
    return encode_picture(Picture(image, alpha, icc), format, quality)


def data_uri(image: Tensor, quality: int = QUALITY) -> str:
    """Return an image, (1, 3, H, W) in [0, 1], as the address of a picture inside of a page."""
    data = encode_image(image, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def encode_picture(picture: Picture, format: str, quality: int = QUALITY) -> bytes:
    """Return an image file of `format`, as `encode_image` does, with all that the picture has.

    WebP has no place for a resolution. Metadata must fit: see `fit_metadata`. Raises: ImageError.
    """
    h, w = picture.rgb.shape[-2:]
    check_format_size(h, w, format)
    image = to_pil(picture.rgb, picture.alpha)
    if format == "JPEG" and image.mode == "RGBA":
        image = flatten(image)
    # No subsampling: JPEG would halve the resolution of colours, and strokes are colours.
    settings: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    options = {**settings.get(format, {}), **_metadata_options(picture, format)}
    buffer = io.BytesIO()
    try:
        image.save(buffer, format, icc_profile=picture.icc, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{h}x{w} pixels cannot be written as {format}: {error}") from error
    return buffer.getvalue()


def check_format_size(h: int, w: int, format: str) -> None:
    """Raise ImageError for a picture that is too large for a format."""
    if max(h, w) > LONGEST.get(format, math.inf):
        raise ImageError(
            f"{h}x{w} pixels are too many for {format}: at most {LONGEST[format]} a side; "
            "PNG takes more"
        )


def fit_metadata(picture: Picture, format: str) -> Picture:
    """Return a picture without the metadata that a format cannot hold, and with a note of it."""
    if format != "JPEG":
        return picture
    if picture.exif and len(picture.exif) > LONGEST_EXIF:
        note = "EXIF that is too long for JPEG is left out"
        picture = replace(picture, exif=None, notes=(*picture.notes, note))
    if picture.xmp and len(picture.xmp) > LONGEST_XMP:
        note = "XMP that is too long for JPEG is left out"
        picture = replace(picture, xmp=None, notes=(*picture.notes, note))
    return picture


def _metadata_options(picture: Picture, format: str) -> dict[str, Any]:
    """Return the options of Pillow's encoders for resolution, EXIF and XMP."""
    options: dict[str, Any] = {}
    if picture.dpi and format != "WEBP":
        options["dpi"] = picture.dpi
    if picture.exif:
        options["exif"] = picture.exif
    if picture.xmp and format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt(XMP_IN_PNG, picture.xmp.decode("utf-8", "replace"))
        options["pnginfo"] = text
    elif picture.xmp and format != "TIFF":
        options["xmp"] = picture.xmp
    if format == "TIFF" and (picture.exif or picture.xmp):
        exif = Image.Exif()
        if picture.exif:
            exif.load(picture.exif)
            # Pillow cannot write tables of EXIF into a compressed file.
            options["compression"] = "raw"
        if picture.xmp:
            exif[ExifTags.Base.XMLPacket] = picture.xmp
        options["exif"] = exif
    return options


def to_pil(image: Tensor, alpha: Tensor | None = None) -> Image.Image:
    """Return (1, 3, H, W) or (3, H, W) in [0, 1], with alpha if given, as an 8-bit Pillow image."""
    data = image if image.dim() == 4 else image[None]
    if alpha is not None:
        data = torch.cat([data, alpha.to(data)], 1)
    bytes_ = data[0].detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(bytes_.permute(1, 2, 0).cpu().numpy())


def flatten(image: Image.Image) -> Image.Image:
    """Return an RGB or RGBA image as RGB, with transparent pixels laid on white."""
    if image.mode != "RGBA":
        return image
    white = Image.new("RGBA", image.size, (*WHITE, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _load(
    source: str | Path | bytes | Image.Image, name: str, shrink_to: int | None = None
) -> Image.Image:
    """Return a decoded Pillow image, as it is stored. Raises: ImageError. See `decode`."""
    if isinstance(source, str | Path):
        name = str(source)
        source = _read_bytes(Path(source))
    if isinstance(source, bytes) and not source:
        raise ImageError(f"{name}: the file is empty")
    if isinstance(source, bytes) and is_cut_bmp(source, len(source)):
        raise ImageError(f"{name}: damaged or truncated image (shorter than its header says)")
    with _reading(name):
        image = source if isinstance(source, Image.Image) else _open_bytes(source, name)
        if shrink_to and isinstance(source, bytes):
            # JPEG can leave out high frequencies while it decodes; other formats ignore this.
            image.draft("RGB", (shrink_to, shrink_to))
        if image.width * image.height > MAX_PIXELS:  # before a gigabyte is filled with it
            raise _too_many_pixels(name)
        image.load()
        return image


def _too_many_pixels(name: str) -> TooManyPixelsError:
    return TooManyPixelsError(f"{name}: more than {MAX_PIXELS:,} pixels; reduce it first")


def _open_bytes(data: bytes, name: str) -> Image.Image:
    """Return a Pillow image that is not decoded yet. Raises: ImageError; what Pillow raises."""
    _silence_libtiff()
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf"):
            _register_heif(name)
            return Image.open(io.BytesIO(data))
        if data[:4] in (b"II*\0", b"MM\0*"):
            raise ImageError(
                f"{name}: a TIFF file of a kind that cannot be read; "
                "save it as RGB with 8 bits a channel"
            ) from None
        raise


def _register_heif(name: str) -> None:
    """Let Pillow read HEIF. Raises: ImageError with the command that installs what it needs."""
    try:
        require("pillow_heif", extra="heic").register_heif_opener()
    except DeviceError:
        raise ImageError(f'{name}: HEIC needs pillow-heif: pip install -e ".[heic]"') from None


@functools.cache
def _silence_libtiff() -> None:
    """Stop Pillow's libtiff from printing warnings, a hundred for some files, to the terminal.

    Pillow has no setting for it. What ends the decoding is raised by Pillow all the same.
    """
    # Where libtiff is linked statically, its functions cannot be found, and it stays as it is.
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(_imaging.__file__)
        for setter in (library.TIFFSetWarningHandler, library.TIFFSetErrorHandler):
            setter.argtypes = [ctypes.c_void_p]
            setter.restype = ctypes.c_void_p
            setter(None)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what Pillow raises into ImageErrors, and keep its warnings quiet."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged EXIF and the like, and reads the picture all the same.
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that can be read; use {_names(READABLE)}") from None
    except Image.DecompressionBombError:
        raise _too_many_pixels(name) from None
    except DAMAGED as error:
        if "MAX_TEXT" in str(error):  # Pillow's limits of what a PNG file may hold compressed
            raise ImageError(
                f"{name}: its text or colour profile takes more than "
                f"{PngImagePlugin.MAX_TEXT_CHUNK >> 20} MiB; save it again without metadata"
            ) from None
        raise ImageError(f"{name}: damaged or truncated image ({error})") from error


def is_cut_bmp(head: bytes, size: int) -> bool:
    """Return whether a file of `size` bytes is a BMP whose header tells of more pixels than it has.

    `head` are its first 34 bytes. Pillow would say that it has too many pixels.
    """
    if head[:2] != b"BM" or len(head) < 34:
        return False
    w, h, _, bits, compression = struct.unpack_from("<iiHHI", head, 18)
    header = struct.unpack_from("<I", head, 14)[0]
    return bool(header >= 40 and compression == 0 and abs(w * h) * bits > 8 * size)


def _read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Return the resolution of a picture, None where it has none that makes sense."""
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # Pillow makes 1 up where a TIFF file tells none; 65,535 is the most that JPEG can hold.
    if not (1 < across <= 65_535 and 1 < down <= 65_535):
        return None
    return across, down


def _with_metadata(picture: Picture, stored: Image.Image, upright: Image.Image) -> Picture:
    """Return a picture with the EXIF and XMP of its file."""
    notes = picture.notes
    exif = None
    try:
        exif = _read_exif(stored)
    except (*DAMAGED, KeyError, TypeError, AttributeError):
        notes += ("damaged EXIF is left out",)
    # The upright image has no orientation in its XMP any more.
    xmp = upright.info.get("xmp") or upright.info.get(XMP_IN_PNG)
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return replace(picture, exif=exif, xmp=xmp, notes=notes)


def _read_exif(stored: Image.Image) -> bytes | None:
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


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: a folder, where an image is expected") from None
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({(error.strerror or str(error)).lower()})"
        ) from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bit(np.asarray(image), name)).convert("RGB")
    if image.mode == "LAB":  # Pillow converts it by profiles only
        lab = ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(
            image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert converted is not None
        converted.info.pop("icc_profile", None)
        return converted
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        return _cmyk_to_srgb(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return grey of 16 or 32 bits, or float in [0, 1] or [0, 255], as 8-bit grey.

    Raises: ImageError for pixels out of these ranges.
    """
    if not np.isfinite(values).all():
        raise ImageError(f"{name}: has pixels that are not finite (NaN or infinite)")
    least = float(values.min(initial=0))
    most = float(values.max(initial=0))
    whole = values.dtype.kind in "iu"
    ranges = (65535.0,) if whole else FLOAT_RANGES
    surplus = 0.0 if whole else FLOAT_SURPLUS
    # Files of floats do not tell their range: the largest value has to.
    full = next((end for end in ranges if most <= end * (1 + surplus)), None)
    # Between the ranges, as in HDR, a guess would be black or white in most places.
    between = full == 255.0 and most < 16
    if full is None or between or least < -full * surplus:
        allowed = " or ".join(f"[0, {end:g}]" for end in ranges)
        raise ImageError(
            f"{name}: its pixels go from {least:g} to {most:g}; scale them to {allowed} first"
        )
    return np.asarray((values.astype(np.float64) / full * 255).round().clip(0, 255), dtype=np.uint8)


def _cmyk_to_srgb(image: Image.Image) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        converted = ImageCms.profileToProfile(
            image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):  # a damaged profile: a conversion without one will do
        converted = image.convert("RGB")
    if converted is None:
        converted = image.convert("RGB")
    converted.info.pop("icc_profile", None)  # that is the profile of CMYK
    return converted


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if (
        array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (3, 4))
        or 0 in array.shape
    ):
        raise ImageError(
            f"an array of shape {array.shape} is not a picture; "
            "allowed: (H, W), (H, W, 3), (H, W, 4)"
        )
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ImageError("an array with values that are not finite is not a picture")
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(
            f"an array of {array.dtype} is not a picture; allowed: uint8, or float in [0, 1]"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _check_tensor(image: Tensor) -> Tensor:
    image = image[None] if image.dim() == 3 else image
    if (
        image.dim() != 4
        or image.shape[:2] != (1, 3)
        or not image.is_floating_point()
        or 0 in image.shape
    ):
        raise ImageError(
            f"a {image.dtype} tensor of shape {tuple(image.shape)} is not a picture; "
            "allowed: float in [0, 1], (3, H, W) or (1, 3, H, W)"
        )
    if not image.isfinite().all():
        raise ImageError("a tensor with values that are not finite is not a picture")
    return image.float()


def _names(suffixes: Any) -> str:
    return ", ".join(sorted(s.removeprefix(".") for s in suffixes))
