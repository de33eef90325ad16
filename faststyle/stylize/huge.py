"""Pictures larger than memory: their pixels are kept in files, and stylized tile by tile.

libvips (pyvips) decodes the picture into a scratch file, and encodes the result from another one.
It does so strip by strip. So memory holds one tile, whatever the size of the picture. Source:
https://www.libvips.org/API/current/how-it-opens-files.html
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from faststyle.abstraction import STRIP, abstract, reach_of
from faststyle.errors import ImageError, Interrupted, OutputError
from faststyle.extras import require
from faststyle.files import output_error, writing
from faststyle.image_metadata import copied_icc
from faststyle.images import DAMAGED, MAX_PIXELS, is_cut_bmp
from faststyle.networks.network import MIN_SIDE, StyleNetwork
from faststyle.signals import noted_signals
from faststyle.stylize.tiles import TILE, Canvas, Pixels, stylize_tiles

SUFFIXES = (".png", ".tif", ".tiff")  # of formats that can be written strip by strip
SCRATCH_BYTES = 6  # a pixel: the photo and the result, in 8 bits
BIG_TIFF_BYTES = 2**32  # a TIFF file of this size or more needs offsets of 64 bits
VIPS_CACHE_BYTES = 64 << 20  # that libvips may keep of results


@contextmanager
def pillow_without_limit() -> Iterator[None]:
    """Let Pillow read headers of pictures of any size; nothing may be decoded meanwhile."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def picture_size(path: Path) -> tuple[int, int] | None:
    """Return height and width from the header of a file, None where it makes no sense."""
    try:
        with path.open("rb") as file:
            if is_cut_bmp(file.read(34), path.stat().st_size):
                return None
        with pillow_without_limit(), Image.open(path) as image:
            return image.height, image.width
    except DAMAGED:
        return None


def check_pixels(path: Path | str, h: int, w: int, allow_huge: bool) -> None:
    """Raise ImageError for a picture that may be a decompression bomb, unless `allow_huge`."""
    if h * w > MAX_PIXELS and not allow_huge:
        raise ImageError(
            f"{path}: {h}x{w} is more than {MAX_PIXELS:,} pixels; "
            "`allow_huge` takes it all the same"
        )


def stylize_huge(
    network: StyleNetwork,
    source: Path,
    target: Path,
    tile: int = TILE,
    progress: Callable[[int, int], None] = lambda done, of: None,
    precision: str = "float32",
    abstraction: float = 0.0,
) -> None:
    """Stylize a picture file of any size into a PNG or TIFF file, whole or not at all.

    A TIFF file of 4 GB or more is a BigTIFF. The disk of `target` needs 6 bytes a pixel meanwhile.
    EXIF rotation is applied, and an ICC profile of RGB is kept. Transparent pixels are laid on
    white. `progress` is told of tiles done, and of how many there are. `precision` is as for
    `stylize_tiles`, `abstraction` as for `abstract`.

    Raises: ImageError; OutputError; Interrupted after SIGINT or SIGTERM, with nothing left behind;
    DeviceError where pyvips is not installed.

    Example:
        >>> stylize_huge(load_checkpoint(path)[0], Path("scan.tif"), Path("painted.tif"))
    """
    vips = require_vips()
    with noted_signals() as stop:

        def check(done: int, of: int) -> None:
            if stop.number:
                raise Interrupted(f"stopped: {target} is not written", stop.number)
            progress(done, of)

        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".faststyle-", dir=target.parent) as folder:
                _stylize_in(
                    Path(folder), vips, network, source, target, tile, check, precision, abstraction
                )
        except OSError as error:
            raise output_error(target, error) from error
        if stop.number:
            raise Interrupted(f"stopped after {target} was written", stop.number)


def _stylize_in(
    folder: Path,
    vips: Any,
    network: StyleNetwork,
    source: Path,
    target: Path,
    tile: int,
    progress: Callable[[int, int], None],
    precision: str,
    abstraction: float,
) -> None:
    """Stylize a picture file with scratch files in `folder`."""
    photo = folder / "photo"
    painted = folder / "painted"
    picture = _open(vips, source)
    # Networks take no side of less than `MIN_SIDE`: the rest is mirrored, and cut off again.
    h = max(picture.height, MIN_SIDE)
    w = max(picture.width, MIN_SIDE)
    _check_space(target, h, w)
    try:
        picture.embed(0, 0, w, h, extend="mirror").rawsave(str(photo))
    except vips.Error as error:
        raise ImageError(f"{source}: damaged or truncated image ({_last_line(error)})") from error
    with (
        closing(PixelFile(photo, h, w)) as read,
        closing(PixelFile(painted, h, w, new=True)) as write,
    ):
        if abstraction:
            abstract_rows(read, abstraction)
        stylize_tiles(network, read, tile, progress, write, precision)
    photo.unlink()  # the disk may need the space for the result
    with writing(target) as temporary:
        _save(vips, painted, temporary, (h, w), picture)


def abstract_rows(pixels: Canvas, radius: float) -> None:
    """Abstract pixels, (H, W, 3) in 8 bits, in their place, some rows at a time."""
    h, w = pixels.shape[:2]
    reach = reach_of(radius)
    rows = max(1, STRIP // w)
    every = slice(0, w)
    above = pixels[0:0, every]  # as they were
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        seen = np.concatenate([above, pixels[top : min(bottom + reach, h), every]])
        first = len(above)
        last = first + bottom - top
        photo = torch.from_numpy(seen).permute(2, 0, 1)[None] / 255
        done = abstract(photo, radius)[0, :, first:last]
        above = seen[max(0, last - reach) : last]
        pixels[top:bottom, every] = done.mul(255).round().byte().permute(1, 2, 0).numpy()


class PixelFile:
    """Pixels, (H, W, 3) in 8 bits, in a file that slices are read from and written to.

    Nothing stays in memory. The file is not mapped into memory: there a full disk would end the
    process instead of raising an error.
    """

    def __init__(self, path: Path, height: int, width: int, new: bool = False) -> None:
        self.shape = (height, width, 3)
        self._file: FileIO = path.open("w+b" if new else "r+b", buffering=0)

    def close(self) -> None:
        """Close the file; it stays on disk."""
        self._file.close()

    def __getitem__(self, where: tuple[slice, slice]) -> Pixels:
        top, bottom, left, right = self._edges(where)
        out = np.empty((bottom - top, right - left, 3), np.uint8)
        for row, line in enumerate(out, top):
            self._go_to(row, left)
            if self._file.readinto(line.data.cast("B")) != line.nbytes:
                raise OSError(errno.EIO, "a scratch file is shorter than it was written")
        return out

    def __setitem__(self, where: tuple[slice, slice], pixels: Pixels) -> None:
        top, _, left, _ = self._edges(where)
        for row, line in enumerate(np.ascontiguousarray(pixels), top):
            self._go_to(row, left)
            if self._file.write(line.data.cast("B")) != line.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _edges(self, where: tuple[slice, slice]) -> tuple[int, int, int, int]:
        (top, bottom, _), (left, right, _) = (
            part.indices(n) for part, n in zip(where, self.shape, strict=False)
        )
        return top, bottom, left, right

    def _go_to(self, row: int, column: int) -> None:
        self._file.seek((row * self.shape[1] + column) * 3)


def require_vips() -> Any:
    """Return pyvips with a small cache. Raises: DeviceError with the command that installs it."""
    vips = require("pyvips", extra="huge")
    vips.cache_set_max_mem(VIPS_CACHE_BYTES)
    return vips


def has_alpha(source: Path) -> bool:
    """Return whether a picture may have transparent pixels, from its header."""
    vips = require_vips()
    try:
        return bool(vips.Image.new_from_file(str(source)).hasalpha())
    except vips.Error:
        return False


def why_not_by_vips(source: Path) -> str:
    """Return why libvips cannot read a picture as we do, the end of a sentence, or an empty text.

    Levels that are no whole numbers have another range there.
    """
    vips = require_vips()
    try:
        picture = vips.Image.new_from_file(str(source))
    except vips.Error:
        return " of a kind that libvips cannot read; save it as .png or .tif"
    if picture.format in ("float", "double"):
        return " of levels that are no whole numbers; save it with 8 or 16 bits"
    return ""


def _open(vips: Any, source: Path) -> Any:
    """Return an upright picture in sRGB of 8 bits, not decoded yet. Raises: ImageError."""
    if not source.is_file():
        raise ImageError(f"{source}: no such file")
    try:
        picture = vips.Image.new_from_file(str(source), access="sequential", fail_on="truncated")
        # Rotation does not read from top to bottom, so the file is opened for random access.
        if "orientation" in picture.get_fields() and picture.get("orientation") > 1:
            picture = vips.Image.new_from_file(
                str(source), access="random", fail_on="truncated"
            ).autorot()
        # A profile of CMYK is applied here. A profile of RGB is kept in the result.
        if picture.interpretation == "cmyk":
            picture = picture.icc_transform("srgb")
        picture = picture.colourspace("srgb")
        if picture.hasalpha():
            picture = picture.flatten(background=[255, 255, 255])
        return picture.extract_band(0, n=3).cast("uchar")
    except vips.Error as error:
        raise ImageError(
            f"{source}: not an image that can be read ({_last_line(error)})"
        ) from error


def _profile(picture: Any) -> bytes | None:
    """Return the ICC profile of a picture if it can be copied."""
    if "icc-profile-data" not in picture.get_fields():
        return None
    return copied_icc(bytes(picture.get("icc-profile-data")))


def _save(vips: Any, painted: Path, target: Path, size: tuple[int, int], photo: Any) -> None:
    """Write the pixels of a scratch file, `size` = (H, W), in the format of the target.

    Size, resolution and ICC profile are those of the photo. Raises: OutputError.
    """
    h, w = size
    picture = vips.Image.rawload(str(painted), w, h, 3, access="sequential")
    picture = picture.crop(0, 0, photo.width, photo.height).copy(
        interpretation="srgb", xres=photo.xres, yres=photo.yres
    )
    profile = _profile(photo)
    if profile:
        picture.set_type(vips.GValue.blob_type, "icc-profile-data", profile)
    try:
        if target.suffix.lower() == ".png":
            picture.pngsave(str(target))
        else:
            options = {"compression": "deflate", "predictor": "horizontal", "tile": True}
            picture.tiffsave(str(target), bigtiff=h * w * 3 >= BIG_TIFF_BYTES, **options)
    except vips.Error as error:
        raise OutputError(f"cannot write {target}: {_last_line(error)}") from error


def _check_space(target: Path, h: int, w: int) -> None:
    """Raise OutputError before the work if the disk is too full for the scratch files.

    The result takes space too, but nobody knows how much before it is encoded.
    """
    needed = h * w * SCRATCH_BYTES
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise OutputError(
            f"cannot write {target}: {needed / 2**30:.1f} GiB are needed beside it, "
            f"{free / 2**30:.1f} are free"
        )


def _last_line(error: Exception) -> str:
    """Return the last line of an error of libvips, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
