"""Use a checkpoint: a picture in, the stylized picture out.

engines/ runs the network. batch.py does files and folders, clip.py videos.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor

from faststyle.abstraction import MOST, abstract
from faststyle.checkpoint import About, find_checkpoint, load_checkpoint, read_about
from faststyle.devices import has_fast_bf16, is_out_of_memory
from faststyle.engines.engine import Engine, engine_line
from faststyle.engines.opening import open_engine
from faststyle.engines.options import AUTO, EngineOptions, is_exported
from faststyle.engines.torch_engine import TorchEngine
from faststyle.errors import ImageError
from faststyle.images import MAX_PIXELS, ImageSource, Picture, open_picture, to_pil
from faststyle.networks import bytes_per_pixel
from faststyle.networks.network import MIN_SIDE, StyleNetwork
from faststyle.perceptual.light import transfer_luma
from faststyle.sizes import fit_shorter, fitted_size, mirror_to, resize
from faststyle.stylize.blend import MeanOfPictures, can_be_mixed, mean_network, parse_style
from faststyle.stylize.huge import stylize_huge
from faststyle.stylize.strokes import AUTO as AUTO_STROKES
from faststyle.stylize.strokes import draw_strokes
from faststyle.stylize.tiles import TILE, stylize_tiles

if TYPE_CHECKING:  # it imports training/, which takes seconds
    from faststyle.stylize.refine import Refiner

# The size of strokes of pictures where none is asked for: a number, or "auto".
STROKE_SIZE: float | str = 1.0
STROKE_SIZES = (0.1, 100.0)  # the smallest and the largest; at 0.1 a photo has 100 times the pixels
# Bytes a pixel that are held with tiles: the photo and the result, as floats and in 8 bits, and the
# photo with strokes drawn in.
TILES_BYTES = 52
FULL_MEMORY = 0.9  # share of the available memory that a picture may take
# What a picture takes by default before it is painted in tiles: this, or a quarter of the free
# memory if that is more. A photo of 12 million pixels takes 2.6 GB in float32.
WHOLE_BYTES = 3 * 2**30
WHOLE_SHARE = 0.25
SMALLEST_TILE = 128  # pixels; a smaller tile is mostly the halo around it

T = TypeVar("T")
Announce = Callable[[str], None]  # is called with a line before each slow step
TileProgress = Callable[[int, int], None]  # is called with tiles done, and how many there are


@dataclass(frozen=True)
class Look:
    """How a stylized picture is to look, whatever the style.

    `keep_colors` takes only lightness from the style. `stroke_size` 2 makes strokes twice as large:
    the network gets half the pixels a side, and its picture is enlarged. "auto" keeps strokes in
    proportion to large photos, and detail with them (strokes.py). `mix` is the share of the
    stylized picture, from 0, the photo, to 1. `abstraction` is the radius, in pixels, of the
    texture that is left out of the photo first (abstraction.py). None leaves out what the style
    asks for, of pictures only: frames have no time for it. Raises: ImageError for values that make
    no sense.
    """

    keep_colors: bool = False
    stroke_size: float | str = 1.0
    mix: float = 1.0
    abstraction: float | None = None

    def __post_init__(self) -> None:
        size = self.stroke_size
        smallest, largest = STROKE_SIZES
        if size != AUTO_STROKES and (isinstance(size, str) or not smallest <= size <= largest):
            raise ImageError(
                f"`stroke_size` must be {smallest:g} to {largest:g}, or auto, got {size}"
            )
        if not 0 <= self.mix <= 1:
            raise ImageError(f"`mix` must be 0 (the photo) to 1 (the style), got {self.mix}")
        if self.abstraction is not None and not 0 <= self.abstraction <= MOST:
            raise ImageError(
                f"`abstraction` must be 0 (none) to {MOST:g} pixels, got {self.abstraction}"
            )


PLAIN = Look()


class Stylizer:
    """A network for one style, ready to be called on pictures of any size.

    Example:
        >>> stylizer = Stylizer.load("nocturne")
        >>> stylizer("photo.jpg").save("out.png")
    """

    def __init__(
        self,
        engine: Engine,
        about: About | None = None,
        network_for_tiles: Callable[[], StyleNetwork] | None = None,
        *,
        tile: int | None = None,
        progress: TileProgress = lambda done, of: None,
        announce: Announce = lambda line: None,
        refiner: Refiner | None = None,
    ) -> None:
        """Take an engine, and the metadata of its network.

        `network_for_tiles` returns a torch network: tiles run in torch on the CPU, whatever the
        engine, in bf16 if the engine does and the CPU can. `tile` is the side of tiles in pixels;
        None takes tiles only where memory asks for them, 0 never. `progress` is told of tiles done,
        and of how many there are. `announce` is called with a line where tiles run otherwise than
        was asked for. `refiner` trains the network a little more for each picture.
        """
        self.engine = engine
        self.about = about
        self.tile = tile
        self.progress = progress
        self._network_for_tiles = network_for_tiles
        self.announce = announce
        self.refiner = refiner
        self._tiled = False  # whether a picture has been done in tiles
        # The pixels that memory once was too small for, and the side of tiles that it is not.
        self._full: tuple[int, int] | None = None

    @classmethod
    def load(
        cls,
        style: str | Path,
        *,
        engine: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        convert: bool = False,
        tile: int | None = None,
        progress: TileProgress = lambda done, of: None,
        announce: Announce = lambda line: None,
    ) -> Stylizer:
        """Return the stylizer of a checkpoint: a path, or a name (`find_checkpoint`).

        A file that was exported for an engine, .onnx or .xml, will do as well. Of it nothing else
        is known (`about`), and it cannot run in tiles. `engine` to `convert` are those of
        `EngineOptions`, `tile` and `progress` those of `Stylizer`. `announce` is called with a line
        before each slow step. Raises: the errors of `open_engine`.
        """
        options = EngineOptions(engine, device, precision, threads, convert)
        path = find_checkpoint(str(style))
        return cls._open(path, options, tile, progress, announce)

    @classmethod
    def blend(
        cls,
        styles: Sequence[str],
        options: EngineOptions = AUTO,
        *,
        tile: int | None = None,
        progress: TileProgress = lambda done, of: None,
        announce: Announce = lambda line: None,
    ) -> Stylizer:
        """Return the stylizer of one or more styles, each "NAME" or "NAME:WEIGHT".

        Networks that began from one base are blended into one network. Other styles, and int8, run
        each network and blend the pictures. For the arguments see `load`.
        """
        parsed = [parse_style(style) for style in styles]
        paths = [path for path, _ in parsed]
        weights = [weight for _, weight in parsed]
        if len(paths) == 1:
            return cls._open(paths[0], options, tile, progress, announce)
        if options.precision == "int8":
            announce("in int8 the pictures of these styles are blended, not their networks")
        elif can_be_mixed(paths):
            network, about = mean_network(paths, weights)
            engine = open_engine((network, about), options, announce)
            return cls(
                engine, about, lambda: network, tile=tile, progress=progress, announce=announce
            )
        else:
            announce(
                "these styles do not share a base: their pictures are blended, not their networks"
            )
        engines = [open_engine(path, options, announce) for path in paths]
        mean = MeanOfPictures(engines, weights)
        # Memory is reckoned by the network that needs the most.
        abouts = [_read_about(path) for path in paths]
        neediest = max(abouts, key=lambda one: bytes_per_pixel(one.network if one else {}))
        if neediest is not None:
            radius = max(one.abstraction for one in abouts if one)
            neediest = replace(neediest, recipe={**neediest.recipe, "abstraction": radius})
        return cls(mean, neediest, tile=tile, progress=progress)

    @classmethod
    def _open(
        cls,
        path: Path,
        options: EngineOptions,
        tile: int | None,
        progress: TileProgress,
        announce: Announce,
    ) -> Stylizer:
        """Return the stylizer of one file."""
        about = _read_about(path)
        engine = open_engine(path, options, announce)
        network = None if about is None else partial(_load_network, path)
        return cls(engine, about, network, tile=tile, progress=progress, announce=announce)

    def __call__(
        self,
        image: ImageSource,
        size: int | None = None,
        keep_colors: bool = False,
        stroke_size: float | str = STROKE_SIZE,
        mix: float = 1.0,
        abstraction: float | None = None,
    ) -> Any:
        """Return the stylized picture: a tensor or an array where that was given, else Pillow's.

        `image` is a path, bytes, a Pillow image, an array (H, W[, 3 or 4]), uint8 or float32, or a
        tensor ([1,] 3, H, W) in [0, 1]. `size` resizes its shorter side first, in pixels. For the
        rest see `Look`. An image of less than 32 pixels a side is mirrored up to that for the
        network, and cropped again. Raises: ImageError for an image that cannot be read, or does not
        fit in memory.
        """
        look = Look(keep_colors, stroke_size, mix, abstraction)
        picture = self.stylize(open_picture(image), size, look)
        # The result has the type and the number of dimensions of the image.
        if isinstance(image, Tensor):
            rgb = picture.rgb.to(image.device)
            return rgb if image.dim() == 4 else rgb[0]
        pil = to_pil(picture.rgb, picture.alpha)
        if isinstance(image, np.ndarray):
            floats = image.dtype.kind == "f"
            return np.array(pil, dtype=np.float32) / 255 if floats else np.array(pil)
        if picture.icc:
            pil.info["icc_profile"] = picture.icc
        return pil

    def stylize(self, picture: Picture, size: int | None = None, look: Look = PLAIN) -> Picture:
        """Return the stylized picture; alpha and ICC profile are kept. See `__call__`."""
        if self.refiner is not None:
            return self._stylize_refined(self.refiner, picture, size, look)
        h, w, inside = self._find_sizes(picture, size, look)
        # Memory is checked before resizing, which needs memory too.
        tile = self.find_tile(*fitted_size(h, w, inside))
        try:
            picture = _fit(picture, size)
            with torch.no_grad():  # not inference_mode: the result may be used in training
                photo = self._photo_for_network(picture, inside, look)
                drawn = photo
                if look.stroke_size == AUTO_STROKES:
                    drawn = draw_strokes(photo, self._paint_first)
                painted = self._in_memory(partial(self._paint, drawn), tile, photo.shape[-2:])
                stylized = resize(painted, h, w)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_large(h, w) from error
        return _with_look(picture, stylized, look)

    def _stylize_refined(
        self, refiner: Refiner, picture: Picture, size: int | None, look: Look
    ) -> Picture:
        """Return what a network that is refined for the photo paints of it."""
        _, _, inside = self._find_sizes(picture, size, look)
        photo = self._photo_for_network(_fit(picture, size), inside, look)
        try:
            refined = refiner(photo)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ImageError("`refine` needs more memory than is free; take a `size`") from error
        painter = Stylizer(
            TorchEngine(refined.network, refiner.options),
            self.about,
            lambda: refined.network,
            tile=self.tile,
            progress=self.progress,
            announce=self.announce,
        )
        stylized = painter.stylize(picture, size, look)
        self._tiled |= painter._tiled
        return replace(stylized, notes=(*stylized.notes, refined.describe()))

    def stylize_batch(
        self, pictures: Sequence[Picture], size: int | None = None, look: Look = PLAIN
    ) -> list[Picture]:
        """Return the stylized pictures, from one run of the network where memory allows it.

        All pictures have one size. Each result is that of `stylize`, within rounding.
        """
        h, w, inside = self._find_sizes(pictures[0], size, look)
        batch = len(pictures)
        inner = fitted_size(h, w, inside)
        at_once = batch > 1 and self.refiner is None and not self.find_tile(*inner)
        if at_once and self._batch_fits(batch, *inner):
            try:
                fitted = [_fit(picture, size) for picture in pictures]
                with torch.no_grad():
                    photos = torch.cat(
                        [self._photo_for_network(one, inside, look) for one in fitted]
                    )
                    if look.stroke_size == AUTO_STROKES:
                        photos = draw_strokes(photos, lambda small: self._paint(small, 0))
                    painted = resize(self._paint(photos, 0), h, w)
                pairs = zip(fitted, painted, strict=True)
                return [_with_look(picture, rgb[None], look) for picture, rgb in pairs]
            except Exception as error:  # one at a time needs less memory
                if not is_out_of_memory(error):
                    raise
        return [self.stylize(picture, size, look) for picture in pictures]

    def _find_sizes(self, picture: Picture, size: int | None, look: Look) -> tuple[int, int, int]:
        """Return height and width of the result, and the shorter side of the last photo painted.

        Strokes in proportion need a smaller photo before it.
        """
        h, w = picture.rgb.shape[-2:]
        if size is not None:
            if size < 1:
                raise ImageError(f"`size` must be 1 or more pixels, got {size}")
            h, w = fitted_size(h, w, size)
        if isinstance(look.stroke_size, str):
            return h, w, min(h, w)
        # Larger strokes: the network gets a smaller photo.
        inside = max(1, round(min(h, w) / look.stroke_size))
        inner = fitted_size(h, w, inside)
        if look.stroke_size < 1 and math.prod(inner) > MAX_PIXELS:
            raise ImageError(
                f"`stroke_size` {look.stroke_size:g}: the network would paint "
                f"{inner[0]}x{inner[1]} pixels; take a larger one"
            )
        return h, w, inside

    def _photo_for_network(self, picture: Picture, inside: int, look: Look) -> Tensor:
        """Return the photo with a shorter side of `inside` pixels, abstracted."""
        photo = picture.rgb
        if inside != min(photo.shape[-2:]):
            photo = fit_shorter(photo, inside)
        radius = self._abstraction(look)
        if not radius:
            return photo
        device = self.engine.device if self.engine.name == TorchEngine.name else "cpu"
        return abstract(photo.to(device), radius).to(photo.device)

    def _abstraction(self, look: Look) -> float:
        """Return the radius of the look, or else of the style."""
        if look.abstraction is not None:
            return look.abstraction
        return self.about.abstraction if self.about else 0.0

    def _batch_fits(self, batch: int, h: int, w: int) -> bool:
        """Return whether a batch takes no more memory than a single picture may."""
        if self.engine.device != "cpu":
            return True
        seen = batch * max(h, MIN_SIDE) * max(w, MIN_SIDE)
        return seen * self._bytes_per_pixel() <= max(
            WHOLE_BYTES, WHOLE_SHARE * psutil.virtual_memory().available
        )

    def frame(self, rgb: np.ndarray[Any, Any], look: Look = PLAIN) -> Any:
        """Return the stylized frame of a video, (H, W, 3) uint8."""
        # Engines have a faster way for frames in 8 bits, which takes no small ones.
        small = min(rgb.shape[:2]) < MIN_SIDE
        if look == PLAIN and not small and not self.find_tile(*rgb.shape[:2]):
            try:
                return self.engine.frame(rgb)
            except Exception as error:  # the way below takes tiles where memory is full
                if not is_out_of_memory(error):
                    raise
        photo = torch.from_numpy(rgb).permute(2, 0, 1)[None].float().div_(255)
        if look.abstraction is None:
            look = replace(look, abstraction=0.0)
        stylized = self.stylize(Picture(photo), None, look).rgb[0]
        return stylized.mul(255).round_().byte().permute(1, 2, 0).contiguous().numpy()

    def stylize_on_disk(self, source: Path, target: Path, tile: int, look: Look = PLAIN) -> None:
        """Stylize a file into a PNG or TIFF file, in tiles, without holding either in memory.

        Of `look` only the abstraction counts.

        Raises: the errors of `stylize_huge`.
        """
        network = self._network_on_cpu()
        precision = self._tile_precision()

        def run(tile: int) -> None:
            stylize_huge(
                network, source, target, tile, self.progress, precision, self._abstraction(look)
            )

        try:
            self._in_memory(run, tile, (tile, tile))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_large(tile, tile) from error
        self._tiled = True

    def describe(self) -> str:
        """Return the line that describes the engine that ran: "engine: openvino, cpu, float32"."""
        if self._tiled:
            return f"engine: torch, cpu, {self._tile_precision()}, in tiles"
        return engine_line(self.engine)

    def can_run_tiles(self) -> bool:
        """Return whether there is a torch network, which tiles need."""
        return self._network_for_tiles is not None

    def find_tile(self, h: int, w: int, on_disk: bool = False) -> int:
        """Return the side of tiles for a picture, 0 for the whole picture at once.

        With `on_disk`, photo and result take no memory. Raises: ImageError where the system would
        run out of memory and kill the process.
        """
        if self.tile and self.can_run_tiles():
            return min(self.tile, self._full[1]) if self._full else self.tile
        if self.tile:
            raise ImageError(
                "`tile`: only checkpoints run in tiles, not exported files or blends of pictures"
            )
        no_tiles = self.tile == 0 or not self.can_run_tiles()
        if self._full and h * w >= self._full[0] and not no_tiles:
            return self._full[1]
        # Elsewhere than on CPUs, running out of memory is an error and not the end of the process.
        if self.engine.device != "cpu":
            return 0
        free = psutil.virtual_memory().available
        seen = max(h, MIN_SIDE) * max(w, MIN_SIDE)  # pixels that the network sees
        needed = seen * self._bytes_per_pixel()
        allowed = FULL_MEMORY * free
        if not no_tiles:
            allowed = min(allowed, max(WHOLE_BYTES, WHOLE_SHARE * free))
        if needed <= allowed:
            return 0
        kept = 0 if on_disk else h * w * TILES_BYTES
        if no_tiles or kept > free:
            raise self._too_large(h, w)
        return TILE

    def _bytes_per_pixel(self) -> int:
        return bytes_per_pixel(self.about.network if self.about else {})

    def _in_memory(self, run: Callable[[int], T], tile: int, size: Sequence[int]) -> T:
        """Return `run(tile)` for a picture of `size`; take smaller tiles where memory is full."""
        while True:
            try:
                return run(tile)
            except Exception as error:
                smaller = self._smaller(tile)
                if not smaller or not is_out_of_memory(error):
                    raise
            # Here, after the handler, the tensors that the error held are free.
            tile = smaller
            self._full = (size[0] * size[1], tile)
            self.announce(f"memory is full: painted in tiles of {tile} pixels")
            if self.engine.device == "cuda":
                torch.cuda.empty_cache()

    def _smaller(self, tile: int) -> int:
        """Return the next smaller side of tiles, 0 where there is none."""
        if self.tile == 0 or not self.can_run_tiles():
            return 0
        half = tile // 2 if tile else TILE
        return half if half >= SMALLEST_TILE else 0

    def _paint_first(self, small: Tensor) -> Tensor:
        """Return the small photo, (1, 3, H, W), painted for its strokes."""
        h, w = small.shape[-2:]
        return self._in_memory(partial(self._paint, small), self.find_tile(h, w), (h, w))

    def _paint(self, photo: Tensor, tile: int) -> Tensor:
        """Return the painted photo, of any size, at its own size."""
        h, w = photo.shape[-2:]
        padded = mirror_to(photo, MIN_SIDE)
        painted = self._run_tiles(padded, tile) if tile else self.engine(padded)
        return painted[..., :h, :w]

    def _run_tiles(self, photo: Tensor, tile: int) -> Tensor:
        # Tiles are read from 8 bits, as they would be from a file.
        rgb = photo[0].mul(255).round_().byte().permute(1, 2, 0).contiguous().cpu().numpy()
        out = np.empty_like(rgb)
        precision = self._tile_precision()
        stylize_tiles(self._network_on_cpu(), rgb, tile, self.progress, out, precision)
        self._tiled = True
        return torch.from_numpy(out).permute(2, 0, 1)[None].float().div_(255).to(photo.device)

    def _network_on_cpu(self) -> StyleNetwork:
        """Return the network for tiles; one that an engine runs elsewhere stays there."""
        assert self._network_for_tiles is not None
        network = self._network_for_tiles()
        here = all(parameter.device.type == "cpu" for parameter in network.parameters())
        return network if here else copy.deepcopy(network).cpu()

    def _tile_precision(self) -> str:
        """Return the precision of tiles: that of the engine, where torch has it on this CPU."""
        asked = (self.engine.device, self.engine.precision)
        bf16 = asked[1] == "bf16" and has_fast_bf16(torch.device("cpu"))
        precision = "bf16" if bf16 else "float32"
        if asked != ("cpu", precision) and not self._tiled:
            self.announce(f"tiles run on the CPU in {precision}, not on {' in '.join(asked)}")
        return precision

    def _too_large(self, h: int, w: int) -> ImageError:
        free = psutil.virtual_memory().available
        if self.engine.device == "cuda":
            free = torch.cuda.mem_get_info()[0]
        # The share of the pixels that fits; its root is the share of a side.
        fits = FULL_MEMORY * free / (h * w * self._bytes_per_pixel())
        size = max(16, int(min(h, w) * min(0.9, fits**0.5)) // 16 * 16)
        return ImageError(
            f"{h}x{w} pixels are too many for the {free / 2**30:.1f} GiB of free memory; "
            f"try `size` {size}"
        )


def _fit(picture: Picture, size: int | None) -> Picture:
    """Return a picture whose shorter side has `size` pixels; None leaves it as it is."""
    if size is None:
        return picture
    alpha = None if picture.alpha is None else fit_shorter(picture.alpha, size)
    return replace(picture, rgb=fit_shorter(picture.rgb, size), alpha=alpha)


def _with_look(picture: Picture, stylized: Tensor, look: Look) -> Picture:
    """Return the picture with its stylized colours, as the look wants them."""
    if look.keep_colors:
        stylized = transfer_luma(stylized, picture.rgb)
    if look.mix < 1:
        stylized = torch.lerp(picture.rgb, stylized, look.mix)
    return replace(picture, rgb=stylized)


def _read_about(path: Path) -> About | None:
    """Return the metadata of a checkpoint, None for an exported file."""
    return None if is_exported(path) else read_about(path)


def _load_network(checkpoint: Path) -> StyleNetwork:
    return load_checkpoint(checkpoint)[0]
