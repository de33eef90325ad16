"""Reading and writing image files: EXIF, alpha, grey, CMYK, 16 bits, ICC profiles, whole writes.

Only stylize/huge.py opens files itself, for pictures larger than memory. Inside the package
pictures are RGB, (1, 3, H, W), float32 in [0, 1]; integers of 8 bits exist only in files.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from faststyle.errors import ImageError, OutputError
from faststyle.files import write_bytes

ImageSource = str | Path | bytes | Image.Image | np.ndarray[Any, Any] | Tensor

READABLE = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".jfif", ".avif"}
)
WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
LONGEST = {"JPEG": 65_500, "WEBP": 16_383}  # pixels a side that the formats can hold
QUALITY = 95  # of JPEG and WebP, 0-100: below it, 8x8 blocks show in flat brush strokes
MAX_PIXELS = 178_956_970  # where Pillow calls a file a decompression bomb
WHITE = (255, 255, 255)
# Pillow's decoders raise all of these on damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, RuntimeError)

# of red, green and blue in luma: ITU-R BT.601, as in JPEG
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Picture:
    """The content of an image file: colours, and alpha and an ICC profile if it has them.

    `rgb` is (1, 3, H, W) and `alpha` (1, 1, H, W), both in [0, 1].
    """

    rgb: Tensor
    alpha: Tensor | None = None
    icc: bytes | None = None


def decode(
    source: str | Path | bytes | Image.Image, name: str = "image", shrink_to: int | None = None
) -> Image.Image:
    """Return a picture of any format as an upright Pillow image of mode RGB or RGBA.

    With `shrink_to`, JPEG files may be decoded at a fraction of their size, with a shorter side of
    no less than `shrink_to` pixels. Raises: ImageError unless it is a readable, whole image.
    """
    if isinstance(source, str | Path):
        name = str(source)
        source = _read_bytes(Path(source))
    if isinstance(source, bytes) and not source:
        raise ImageError(f"{name}: the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged EXIF and the like, and reads the picture all the same.
            warnings.simplefilter("ignore")
            image = source if isinstance(source, Image.Image) else Image.open(io.BytesIO(source))
            if shrink_to and isinstance(source, bytes):
                # JPEG can leave out high frequencies while it decodes; other formats ignore this.
                image.draft("RGB", (shrink_to, shrink_to))
            if image.width * image.height > MAX_PIXELS:  # before a gigabyte is filled with it
                raise ImageError(f"{name}: more than {MAX_PIXELS:,} pixels; reduce it first")
            image.load()
            image = ImageOps.exif_transpose(image)
            return _to_rgb(image, name)
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that can be read; use {_names(READABLE)}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more than {MAX_PIXELS:,} pixels; reduce it first") from None
    except DAMAGED as error:
        raise ImageError(f"{name}: damaged or truncated image ({error})") from error


def open_picture(source: ImageSource, name: str = "image") -> Picture:
    """Return a picture with its alpha and ICC profile, from any `ImageSource`.

    Arrays are (H, W), (H, W, 3) or (H, W, 4), uint8 or float in [0, 1]; tensors (3, H, W) or (1, 3,
    H, W) in [0, 1]. Raises: ImageError.
    """
    if isinstance(source, Tensor):
        return Picture(_check_tensor(source))
    if isinstance(source, np.ndarray):
        source = _from_array(source)
    image = decode(source, name)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    data = pixels[None].float() / 255  # (1, 3 or 4, H, W)
    alpha = data[:, 3:].contiguous() if data.shape[1] == 4 else None
    icc = image.info.get("icc_profile")
    if icc is not None and icc[16:20] != b"RGB ":  # the profile of a grey picture fits no RGB file
        icc = None
    return Picture(data[:, :3].contiguous(), alpha, icc)


def read_image(source: ImageSource) -> Tensor:
    """Return a picture as RGB, (1, 3, H, W), in [0, 1], with transparent pixels laid on white.

    Raises: ImageError.
    """
    picture = open_picture(source)
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
    h, w = image.shape[-2:]
    if max(h, w) > LONGEST.get(format, math.inf):
        raise ImageError(
            f"{h}x{w} pixels are too many for {format}: at most {LONGEST[format]} a side; "
            "PNG takes more"
        )
    picture = to_pil(image, alpha)
    if format == "JPEG" and picture.mode == "RGBA":
        picture = flatten(picture)
    # No subsampling: JPEG would halve the resolution of colours, and strokes are colours.
    settings: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    options = settings.get(format, {})
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format, icc_profile=icc, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{h}x{w} pixels cannot be written as {format}: {error}") from error
    return buffer.getvalue()


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


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Return the (height, width) that an image has once its shorter side has `size` pixels."""
    scale = size / min(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def fit_shorter(image: Tensor, size: int) -> Tensor:
    """Return (1, C, H, W) in [0, 1] with a shorter side of `size` pixels (antialiased bicubic)."""
    return resize(image, *fitted_size(image.shape[-2], image.shape[-1], size))


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Return (1, C, height, width), resized from (1, C, H, W) in [0, 1] (antialiased bicubic)."""
    if image.shape[-2:] == (height, width):
        return image
    return torch.nn.functional.interpolate(
        image, (height, width), mode="bicubic", antialias=True
    ).clamp(0, 1)


def mirror_to(image: Tensor, side: int) -> Tensor:
    """Return (B, C, H, W) with sides of `side` pixels or more, mirrored at the bottom and right.

    Unlike torch's padding it mirrors as often as needed, from one pixel on.
    """
    for dim in (-2, -1):
        length = image.shape[dim]
        if length < side:
            there_and_back = [*range(length), *reversed(range(length))]
            order = [there_and_back[i % len(there_and_back)] for i in range(side)]
            image = image.index_select(dim, torch.tensor(order, device=image.device))
    return image


def crop_centre(image: Tensor, size: int) -> Tensor:
    """Return the middle (1, C, size, size) of an image, resized to a shorter side of `size`."""
    image = fit_shorter(image, size)
    h, w = image.shape[-2:]
    top = (h - size) // 2
    left = (w - size) // 2
    return image[..., top : top + size, left : left + size]


def transfer_luma(stylized: Tensor, photo: Tensor) -> Tensor:
    """Return the lightness of `stylized` with the colours of `photo`, both (B, 3, H, W) in [0, 1].

    Source: Gatys et al., "Preserving color in neural artistic style transfer" (2016), section 3.2,
    https://arxiv.org/abs/1606.05897. They use luminance in YIQ, which has the weights of luma.
    """
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    change = (stylized * weights).sum(1, keepdim=True) - (photo * weights).sum(1, keepdim=True)
    return (photo + change).clamp(0, 1)


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
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        return _cmyk_to_srgb(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(values: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return grey of 16 or 32 bits, or float in [0, 1] or [0, 255], as 8-bit grey."""
    if not np.isfinite(values).all():
        raise ImageError(f"{name}: has pixels that are not finite")
    # Files of floats do not tell their range: the largest value has to.
    of_floats = 1.0 if values.max(initial=0) <= 1 else 255.0
    full = 65535.0 if values.dtype.kind in "iu" else of_floats
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
