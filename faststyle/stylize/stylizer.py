"""Use a checkpoint: a picture in, the stylized picture out.

What it is not: what runs the network (engines/engine.py), files and folders (stylize/batch.py), or
videos (video/).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from faststyle.checkpoint import About, find_checkpoint, load_checkpoint, read_about
from faststyle.engines.engine import Engine, engine_line
from faststyle.engines.opening import open_engine
from faststyle.engines.options import is_exported
from faststyle.errors import ImageError
from faststyle.images import (
    ImageSource,
    Picture,
    fit_shorter,
    fitted_size,
    open_picture,
    resize,
    to_pil,
    transfer_luma,
)
from faststyle.networks import bytes_per_pixel
from faststyle.networks.network import StyleNetwork
from faststyle.stylize.blend import MeanOfPictures, can_be_mixed, mean_network, parse_style
from faststyle.stylize.tiles import TILE, stylize_tiles

# bytes a pixel that remain with tiles: the photo and the result, as floats and in 8 bits
TILES_BYTES = 40
FULL_MEMORY = 0.9  # share of the available memory that a picture may take


@dataclass(frozen=True)
class Look:
    """How a stylized picture is to look, whatever the style.

    `keep_colors` takes only lightness from the style. `stroke_size` 2 makes strokes twice as large:
    the network sees half the pixels, and its picture is enlarged. `mix` is how much of the stylized
    picture there is, from 0, the photo, to 1. Raises: ImageError for values that make no sense.
    """

    keep_colors: bool = False
    stroke_size: float = 1.0
    mix: float = 1.0

    def __post_init__(self) -> None:
        if not self.stroke_size > 0:
            raise ImageError(f"--stroke-size must be above 0, got {self.stroke_size}")
        if not 0 <= self.mix <= 1:
            raise ImageError(f"--mix must be 0 (the photo) to 1 (the style), got {self.mix}")


PLAIN = Look()


class Stylizer:
    """A network for one style, ready to be called on pictures of any size.

    Example:
        >>> stylizer = Stylizer.load("nocturne")
        >>> stylizer("photo.jpg").save("out.png")
    """

    def __init__(self, engine: Engine, about: About | None = None) -> None:
        self.engine = engine
        self.about = about
        # what tiles are run with: torch's, whatever the engine
        self.network: Callable[[], StyleNetwork] | None = None
        # pixels a side of tiles; None: only where memory asks for them, 0: never
        self.tile: int | None = None
        # told of tiles done, of how many
        self.progress: Callable[[int, int], None] = lambda done, of: None
        self.tiled = False  # whether a picture has been done in tiles

    @classmethod
    def load(
        cls,
        style: str | Path,
        device: str = "auto",
        threads: int | None = None,
        engine: str = "auto",
        precision: str = "auto",
        convert: bool = False,
        announce: Callable[[str], None] = lambda _: None,
    ) -> Stylizer:
        """Return the stylizer of a checkpoint: a path, or a name in checkpoints/ or
        checkpoints/gallery/.

        A file that was exported for an engine, .onnx or .xml, will do as well; of it nothing else
        is known (`about`). `engine` and the rest are those of `open_engine`; `convert` is for
        videos and many pictures. Raises: CheckpointError, DeviceError.
        """
        path = find_checkpoint(str(style))
        about = None if is_exported(path) else read_about(path)
        stylizer = cls(
            open_engine(path, engine, device, precision, threads, announce, convert), about
        )
        if about is not None:
            stylizer.network = lambda: load_checkpoint(path)[0]
        return stylizer

    @classmethod
    def blend(
        cls,
        styles: Sequence[str],
        device: str = "auto",
        threads: int | None = None,
        engine: str = "auto",
        precision: str = "auto",
        convert: bool = False,
        announce: Callable[[str], None] = lambda _: None,
    ) -> Stylizer:
        """Return the stylizer of one or more styles, each "NAME" or "NAME:WEIGHT"; for the rest see `load`."""
        parsed = [parse_style(style) for style in styles]
        paths = [path for path, _ in parsed]
        weights = [weight for _, weight in parsed]
        if len(paths) == 1:
            return cls.load(paths[0], device, threads, engine, precision, convert, announce)
        if can_be_mixed(paths):
            network, about = mean_network(paths, weights)
            stylizer = cls(
                open_engine(
                    (network, about), engine, device, precision, threads, announce, convert
                ),
                about,
            )
            stylizer.network = lambda: network
            return stylizer
        announce("these styles do not share a base: their pictures are blended, not their networks")
        loaded = [
            cls.load(path, device, threads, engine, precision, convert, announce) for path in paths
        ]
        return cls(MeanOfPictures([one.engine for one in loaded], weights), loaded[0].about)

    def __call__(
        self,
        image: ImageSource,
        size: int | None = None,
        keep_colors: bool = False,
        stroke_size: float = 1.0,
        mix: float = 1.0,
    ) -> Any:
        """Return the stylized picture, as what was given: a tensor, an array (uint8 or float32),
        else Pillow's.

        `image` is a path, bytes, a Pillow image, an array (H, W[, 3 or 4]) or a tensor ([1,] 3, H,
        W) in [0, 1]. `size` resizes its shorter side first, in pixels; for the rest see `Look`.
        Raises: ImageError for what cannot be read, is smaller than 16 pixels, or does not fit in
        memory.
        """
        picture = self.stylize(open_picture(image), size, Look(keep_colors, stroke_size, mix))
        if isinstance(image, Tensor):
            rgb = picture.rgb.to(image.device)
            return rgb if image.dim() == 4 else rgb[0]
        pil = to_pil(picture.rgb, picture.alpha)
        if isinstance(image, np.ndarray):
            return (
                np.array(pil) if image.dtype.kind != "f" else np.array(pil, dtype=np.float32) / 255
            )
        if picture.icc:
            pil.info["icc_profile"] = picture.icc
        return pil

    def stylize(self, picture: Picture, size: int | None = None, look: Look = PLAIN) -> Picture:
        """Return the stylized picture with its alpha and ICC profile kept; for the rest see `__call__`."""
        h, w = picture.rgb.shape[-2:]
        if size is not None:
            if size < 1:
                raise ImageError(f"--size must be 1 or more pixels, got {size}")
            h, w = fitted_size(h, w, size)
        # the shorter side that the network sees
        inside = max(1, round(min(h, w) / look.stroke_size))
        # before resizing, which needs memory of its own
        tile = self.find_tile(*fitted_size(h, w, inside))
        try:
            if size is not None:
                alpha = None if picture.alpha is None else fit_shorter(picture.alpha, size)
                picture = Picture(fit_shorter(picture.rgb, size), alpha, picture.icc)
            with torch.no_grad():  # not inference_mode: what comes out may be used in training
                photo = picture.rgb if inside == min(h, w) else fit_shorter(picture.rgb, inside)
                stylized = resize(
                    self._run_tiles(photo, tile) if tile else self.engine(photo), h, w
                )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise self._too_large(h, w) from error
        except RuntimeError as error:  # how torch's CPU allocator says it
            if "can't allocate memory" not in str(error):
                raise
            raise self._too_large(h, w) from error
        if look.keep_colors:
            stylized = transfer_luma(stylized, picture.rgb)
        if look.mix < 1:
            stylized = torch.lerp(picture.rgb, stylized, look.mix)
        return Picture(stylized, picture.alpha, picture.icc)

    def frame(self, rgb: np.ndarray[Any, Any], look: Look = PLAIN) -> Any:
        """Return a frame of a video, (H, W, 3) uint8, stylized."""
        if look == PLAIN and not self.find_tile(*rgb.shape[:2]):
            return self.engine.frame(rgb)
        photo = torch.from_numpy(rgb).permute(2, 0, 1)[None].float().div_(255)
        stylized = self.stylize(Picture(photo), None, look).rgb[0]
        return stylized.mul(255).round_().byte().permute(1, 2, 0).contiguous().numpy()

    def describe(self) -> str:
        """Return what is printed of what ran: "engine: openvino, cpu, float32"."""
        return "engine: torch, cpu, float32, in tiles" if self.tiled else engine_line(self.engine)

    def _bytes_per_pixel(self) -> int:
        return bytes_per_pixel(self.about.network if self.about else {})

    def find_tile(self, h: int, w: int, on_disk: bool = False) -> int:
        """Return the side of tiles, 0 for the whole picture at once; `on_disk` says where photo and
        result are.

        Raises: ImageError before the system would run out of memory and kill the process.
        """
        if self.tile and self.network is not None:
            return self.tile
        if self.tile:
            raise ImageError(
                "--tile: only checkpoints run in tiles, not exported files or blends of pictures"
            )
        fits = h * w * self._bytes_per_pixel() <= FULL_MEMORY * psutil.virtual_memory().available
        if self.engine.device != "cpu" or fits:
            return 0
        kept = 0 if on_disk else h * w * TILES_BYTES
        if self.tile == 0 or self.network is None or kept > psutil.virtual_memory().available:
            raise self._too_large(h, w)
        return TILE

    def _run_tiles(self, photo: Tensor, tile: int) -> Tensor:
        assert self.network is not None
        rgb = photo[0].mul(255).round_().byte().permute(1, 2, 0).contiguous().numpy()
        out = np.empty_like(rgb)
        stylize_tiles(self.network(), rgb, tile, self.progress, out)
        self.tiled = True
        return torch.from_numpy(out).permute(2, 0, 1)[None].float().div_(255)

    def _too_large(self, h: int, w: int) -> ImageError:
        free = psutil.virtual_memory().available
        if self.engine.device == "cuda":
            free = torch.cuda.mem_get_info()[0]
        fits = FULL_MEMORY * free / (h * w * self._bytes_per_pixel())
        size = max(16, int(min(h, w) * min(0.9, fits**0.5)) // 16 * 16)
        return ImageError(
            f"{h}x{w} pixels are too many for the {free / 2**30:.1f} GiB of free memory; try --size {size}"
        )
