"""Pixels of any kind as 8-bit RGB or RGBA: grey, CMYK, LAB, 16 bits, floats, arrays."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from faststyle.errors import ImageError

FLOAT_RANGES = (1.0, 255.0)  # that pixels of files of floats may fill
FLOAT_SURPLUS = 0.1  # of the range: filters overshoot


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Return a Pillow image of any mode as RGB, or as RGBA where it is transparent.

    Raises: ImageError for pixels out of range; what Pillow raises.
    """
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


def from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    """Return (H, W), (H, W, 3) or (H, W, 4), uint8 or float in [0, 1], as a Pillow image.

    Raises: ImageError for any other array.
    """
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
