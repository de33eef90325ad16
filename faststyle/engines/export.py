"""Write a checkpoint for other programs: as ONNX, or as OpenVINO's .xml and .bin, also in int8.

Each export is compared with torch on photos of odd sizes. Where the two differ, no file is left.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from faststyle.checkpoint import load_checkpoint
from faststyle.engines.engine import Engine
from faststyle.engines.graph import (
    NEEDS,
    cache_file,
    cached_graph,
    graph_properties,
    is_whole,
    seal,
    to_onnx,
)
from faststyle.engines.onnxruntime_engine import OnnxRuntimeEngine
from faststyle.engines.openvino_engine import OpenVINOEngine, import_openvino, openvino_core
from faststyle.engines.options import EXTRAS, EngineOptions, is_exported
from faststyle.engines.torch_engine import TorchEngine
from faststyle.engines.verify import Check, compare, too_far
from faststyle.errors import FaststyleError, OutputError, PhotosError, did_you_mean
from faststyle.extras import require
from faststyle.files import check_free, sha256, writing
from faststyle.images import read_image
from faststyle.networks.network import MIN_SIDE
from faststyle.sizes import resize
from faststyle.training.photos import NumberedPhotos, held_out_photos, open_photos

Format = Literal["onnx", "openvino"]
SUFFIXES: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml"}

# Heights and widths are odd, so that padding and cropping are compared too.
CHECKED_SIZES = ((97, 131), (64, 257))

CALIBRATION_PHOTOS = 32  # 4 gave the same similarity to 0.001; more of them cover rarer colours
CALIBRATION_SIZE = 256  # pixels a side
# Heads with so few outputs, a pixel or 2x2 of them, stay in float: they have little to gain. The
# head of mobile writes 4x4. In int8 it costs at most 0.0003 of similarity, in float 8 of 34 ms.
PIXEL_OUTPUTS = (3, 12)
# Convolutions are in int8, and so are the operations that pass their numbers on unchanged. With the
# sums of the trunk, the norms, the upsampling and the whitening of colours in int8 too, the
# similarity was 0.97 on average and 0.86 at worst, instead of 0.9995 and 0.997.
INT8_TYPES = {"Convolution", "GroupConvolution", "Pad", "Relu"}


class ExportError(FaststyleError):
    """An export cannot be made, or its results are not those of torch."""


@dataclass(frozen=True)
class ExportReport:
    """The files that were written, and how near to torch their result is."""

    files: tuple[Path, ...]
    format: str
    precision: str
    size_bytes: int
    seconds: float
    checks: tuple[Check, ...]


def export_checkpoint(
    checkpoint: Path,
    output: Path,
    format: str = "onnx",
    int8: bool = False,
    photos: str = "sample",
    announce: Callable[[str], None] = lambda _: None,
    *,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write `output`, .onnx or .xml with a .bin beside it, whole or not at all.

    The file takes images of any size, and batches; with `size` one image of that height and width,
    for programs that need fixed shapes. `int8` (OpenVINO only) computes most convolutions in 8
    bits. Their ranges are taken from `photos`, a source as for `open_photos`. `announce` is called
    with a line before each slow step. `overwrite` replaces files that are there.

    Raises: ExportError for options that do not go together, and when the result is not torch's;
    CheckpointError; PhotosError; DeviceError for a package that is not installed; OutputError.

    Example:
        >>> report = export_checkpoint(Path("nocturne.safetensors"), Path("nocturne.onnx"))
        >>> report.precision
        'float32'
    """
    began = time.monotonic()
    _check_options(output, format, int8, size)  # before anything takes time
    for file in _parts(output):
        check_free(file, overwrite)
    network, about = load_checkpoint(checkpoint)
    if about.abstraction:
        announce(
            f"note: {checkpoint.stem} is for photos without fine texture, which faststyle leaves "
            "out first; the exported file paints photos as they are, as faststyle paints videos"
        )
    with _output_files(output) as (temporary, files):
        properties = graph_properties(about, checkpoint.stem, sha256(checkpoint), size)
        if format == "onnx" and size:
            announce(f"converting {checkpoint.stem} for {size[0]}x{size[1]}")
            temporary.write_bytes(to_onnx(network, properties, size))
        elif format == "onnx":
            temporary.write_bytes(cached_graph(network, about, checkpoint, announce))
        else:
            graph = cached_graph(network, about, checkpoint, announce)
            if int8:
                properties["precision"] = "int8"
            _write_openvino(graph, temporary, properties, photos if int8 else None, announce, size)
        announce("comparing with torch")
        checks = tuple(_compare(network, temporary, format, int8, size))
        written = sum(part.stat().st_size for part in _parts(temporary))
    return ExportReport(
        files, format, "int8" if int8 else "float32", written, time.monotonic() - began, checks
    )


def int8_file(checkpoint: Path, announce: Callable[[str], None] = lambda _: None) -> Path:
    """Return the int8 export of a checkpoint, an .xml file that is made once and kept in the cache.

    Raises: ExportError for a file that was exported already; CheckpointError, and the rest as
    `export_checkpoint`.
    """
    if is_exported(checkpoint):
        raise ExportError(
            f"{checkpoint}: `precision` int8 is for checkpoints; this file has its precision"
        )
    graph_file = cache_file(load_checkpoint(checkpoint)[0], checkpoint)
    # The hash of this module is in the name, so that other ranges or types mean another file.
    file = graph_file.with_suffix(f".{sha256(__file__)[:8]}.xml")
    parts = _parts(file)
    if not is_whole(*parts):
        announce(f"converting {checkpoint.stem} to 8 bits, once")
        export_checkpoint(checkpoint, file, "openvino", int8=True, overwrite=True)
        seal(*parts)
    return file


def _check_options(
    output: Path, format: str, int8: bool, size: tuple[int, int] | None = None
) -> None:
    if size is not None and min(size) < MIN_SIDE:
        raise ExportError(
            f"`size` {size[0]}x{size[1]}: both sides must be at least {MIN_SIDE} pixels"
        )
    if format not in get_args(Format):
        raise ExportError(f"`format` {format}: unknown.{did_you_mean(format, get_args(Format))}")
    if output.suffix != SUFFIXES[format]:
        raise ExportError(f"{output}: an export for {format} ends in {SUFFIXES[format]}")
    if output.is_dir():
        raise OutputError(f"cannot write {output}: a folder of that name is in the way")
    if int8 and format == "onnx":  # measured: 1.13 s where float32 takes 0.85 s
        raise ExportError(
            "`int8`: ONNX Runtime is slower in int8 than in float32; use `format` openvino"
        )
    runtime = "onnxruntime" if format == "onnx" else "openvino"
    require(*NEEDS, extra=EXTRAS[runtime])
    if format == "onnx":
        require(runtime, extra=EXTRAS[runtime])
    else:
        import_openvino()
    if int8:
        require("nncf", extra="int8")


def _parts(output: Path) -> tuple[Path, ...]:
    return (output, output.with_suffix(".bin")) if output.suffix == ".xml" else (output,)


@contextlib.contextmanager
def _output_files(output: Path) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Yield a temporary name for the first file of an export, and the final names of all."""
    files = _parts(output)
    # All files get their names at the end of the block, after the comparison, or none does.
    with contextlib.ExitStack() as stack:
        temporaries = [stack.enter_context(writing(file)) for file in files]
        for temporary in temporaries:
            temporary.touch()  # a place that cannot be written to is found out before the work
        yield temporaries[0], files


def _write_openvino(
    graph: bytes,
    output: Path,
    properties: dict[str, str],
    photos: str | None,
    announce: Callable[[str], None],
    size: tuple[int, int] | None = None,
) -> None:
    """Write the .xml and .bin of a graph; in int8 if there are `photos` to find the ranges with."""
    ov = import_openvino()
    model = openvino_core().read_model(graph)
    if photos is not None:
        announce(f"calibrating int8 on {CALIBRATION_PHOTOS} photos")
        model = _quantize(model, photos)
    if size is not None:
        model.reshape([1, 3, *size])
    for key, value in properties.items():
        model.set_rt_info(value, ["faststyle", key])
    # OpenVINO would store weights in f16, and float32 would not be that of torch.
    ov.save_model(model, output, compress_to_fp16=False)


def _quantize(model: Any, photos: str) -> Any:
    """Return an OpenVINO model with the convolutions of its features in int8."""
    nncf = require("nncf", extra="int8")
    nncf.set_log_level(logging.ERROR)
    batches = list(_calibration_photos(photos))
    # NNCF takes a list of what it must leave alone, not of what it may change.
    float_types = {op.get_type_name() for op in model.get_ops()} - INT8_TYPES
    scope = nncf.IgnoredScope(
        names=_float_convolutions(model), types=sorted(float_types), validate=False
    )
    with contextlib.redirect_stdout(io.StringIO()):  # NNCF prints bars and lists of nodes
        return nncf.quantize(
            model, nncf.Dataset(batches), subset_size=len(batches), ignored_scope=scope
        )


def _float_convolutions(model: Any) -> list[str]:
    """Return the names of the convolutions that see colours or write pixels: they stay in float."""
    convs = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    return [
        op.get_friendly_name() for op in convs if _inputs(op) == 3 or _outputs(op) in PIXEL_OUTPUTS
    ]


def _inputs(convolution: Any) -> int:
    return int(convolution.input_value(0).get_partial_shape()[1].get_length())


def _outputs(convolution: Any) -> int:
    return int(convolution.get_output_partial_shape(0)[1].get_length())


def _calibration_photos(photos: str) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    """Yield photos (1, 3, S, S) in [0, 1], cropped as for training. Raises: PhotosError."""
    # With a fixed seed an export is the same each time.
    samples = NumberedPhotos(open_photos(photos, seed=0), CALIBRATION_SIZE, seed=0)
    for number in range(CALIBRATION_PHOTOS):
        sample = samples[number]
        if sample["failure"]:
            raise PhotosError(sample["failure"])
        yield sample["photo"][None].float().div(255).numpy()


def _compare(
    network: nn.Module, file: Path, format: str, int8: bool, size: tuple[int, int] | None
) -> Iterator[Check]:
    """Yield comparisons of a file with torch. Raises: ExportError when they differ too much."""
    reference = TorchEngine(network, EngineOptions(device="cpu", precision="float32"))
    for engine in _readers(file, format, int8):
        for h, w in [size] if size else CHECKED_SIZES:
            photos = torch.cat([resize(read_image(path), h, w) for path in held_out_photos()])
            check = compare(engine, photos, reference(photos))
            if reason := too_far(check):
                raise ExportError(
                    f"nothing written: {check.engine} in {check.precision} is not torch, {reason}"
                )
            yield check


def _readers(file: Path, format: str, int8: bool) -> Iterator[Engine]:
    """Yield engines that read a file on the CPU: in float32, and in the precision of "auto"."""
    auto = EngineOptions(device="cpu")
    if format == "onnx":
        yield OnnxRuntimeEngine(lambda: file, auto)
        return
    if not int8:  # an int8 file has its precision, whatever is asked for
        yield OpenVINOEngine(lambda: file, replace(auto, precision="float32"))
    engine = OpenVINOEngine(lambda: file, auto)
    if engine.precision != "float32":
        yield engine
