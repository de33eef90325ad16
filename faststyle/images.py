"""Reading and writing image files of all kinds, whole or not at all.

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
    Image,
    ImageOps,
    PngImagePlugin,
    UnidentifiedImageError,
    _imaging,
)
from torch import Tensor

from faststyle.errors import DeviceError, ImageError, OutputError
from faststyle.extras import require
from faststyle.files import write_bytes
from faststyle.image_metadata import (
    MAX_ICC_BYTES,
    copied_icc,
    encoder_options,
    read_dpi,
    read_exif,
    read_xmp,
)
from faststyle.pixel_formats import from_array, to_rgb

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

# Bytes of metadata that a JPEG segment holds, less their own headers.
LONGEST_EXIF = 65_533
LONGEST_XMP = 65_504


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
        return to_rgb(ImageOps.exif_transpose(image), name)


def open_picture(source: ImageSource, name: str = "image", keep_metadata: bool = False) -> Picture:
    """Return a picture with its alpha, ICC profile and resolution, from any `ImageSource`.

    Arrays are (H, W), (H, W, 3) or (H, W, 4), uint8 or float in [0, 1]; tensors (3, H, W) or (1, 3,
    H, W) in [0, 1]. `keep_metadata` reads EXIF and XMP too. Raises: ImageError.
    """
    if isinstance(source, Tensor):
        return Picture(_check_tensor(source))
    if isinstance(source, np.ndarray):
        source = from_array(source)
    if isinstance(source, str | Path):
        name = str(source)
        source = _read_bytes(Path(source))
    stored = _load(source, name)
    with _reading(name):
        image = to_rgb(ImageOps.exif_transpose(stored), name)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    data = pixels[None].float() / 255  # (1, 3 or 4, H, W)
    alpha = data[:, 3:].contiguous() if data.shape[1] == 4 else None
    notes = notes_on(source, name) if isinstance(source, bytes) else ()
    icc = copied_icc(image.info.get("icc_profile"))
    picture = Picture(data[:, :3].contiguous(), alpha, icc, read_dpi(stored), notes=notes)
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
    metadata = encoder_options(format, picture.dpi, picture.exif, picture.xmp)
    options = {**settings.get(format, {}), **metadata}
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
    if picture.alpha is not None and bool((picture.alpha < 1).any()):
        note = "JPEG has no alpha: transparent pixels lie on white"
        picture = replace(picture, notes=(*picture.notes, note))
    if picture.exif and len(picture.exif) > LONGEST_EXIF:
        note = "EXIF that is too long for JPEG is left out"
        picture = replace(picture, exif=None, notes=(*picture.notes, note))
    if picture.xmp and len(picture.xmp) > LONGEST_XMP:
        note = "XMP that is too long for JPEG is left out"
        picture = replace(picture, xmp=None, notes=(*picture.notes, note))
    return picture


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


def _with_metadata(picture: Picture, stored: Image.Image, upright: Image.Image) -> Picture:
    """Return a picture with the EXIF and XMP of its file."""
    notes = picture.notes
    exif = None
    try:
        exif = read_exif(stored)
    except (*DAMAGED, KeyError, TypeError, AttributeError):
        notes += ("damaged EXIF is left out",)
    return replace(picture, exif=exif, xmp=read_xmp(upright), notes=notes)


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
