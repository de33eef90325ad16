"""Compare an engine with torch in float32, so that nothing wrong is painted in silence.

Exports are compared before they get their name. Every other engine and precision is compared the
first time that a checkpoint runs in it; the result is kept in the cache.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
import json
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from faststyle.devices import cpu_facts
from faststyle.engines.engine import Engine
from faststyle.engines.options import EngineOptions
from faststyle.engines.torch_engine import TorchEngine
from faststyle.errors import DeviceError, OutputError
from faststyle.files import sha256, write_bytes
from faststyle.images import read_image
from faststyle.sizes import resize

MAX_DIFFERENCE = 2 / 255  # of float32: two of the 256 levels of a picture
# structural similarity, 1 for the same picture
MIN_SSIM = {"bf16": 0.98, "f16": 0.98, "int8": 0.97}
# The size is odd, so that padding and cropping are compared too. float32 takes 0.1 s for it.
SIZE = (161, 243)


@dataclass(frozen=True)
class Check:
    """A comparison with torch, on a batch of photos of one size, "HxW", by one engine.

    `difference` is the largest absolute difference of values in [0, 1]. `ssim` is the lowest
    structural similarity of a photo.
    """

    engine: str
    precision: str
    size: str
    difference: float
    ssim: float


def verify(engine: Engine, network: nn.Module, converted: Path | None = None) -> None:
    """Raise DeviceError if an engine does not paint what its network paints in float32.

    `converted` is the converted file in the cache, if the network has one. The result is kept
    beside it, so that an engine is compared once on each machine.
    """
    if engine.name == "torch" and engine.precision == "float32":
        return
    record = None if converted is None else _record(engine, converted)
    check = None if record is None else _read(record)
    if check is None:
        photos = _photos(*SIZE)
        reference = TorchEngine(
            copy.deepcopy(network), EngineOptions(device="cpu", precision="float32")
        )
        check = compare(engine, photos, reference(photos))
        if record is not None:
            with suppress(OutputError):  # without a cache it is compared each time
                write_bytes(record, json.dumps(asdict(check)).encode())
    if reason := too_far(check):
        fix = "`engine` torch" if engine.precision == "float32" else "`precision` float32"
        raise DeviceError(
            f"`precision` {engine.precision}: {engine.name} on this {engine.device} does not paint "
            f"what torch paints in float32, {reason}; use {fix}"
        )


def verify_exported(engine: Engine, file: Path) -> None:
    """Raise DeviceError if an exported file paints no picture; there is no torch to compare with.

    Values that are not finite are found, and a picture of one colour.
    """
    painted = engine(_photos(*(engine.size or SIZE))[:1])
    if not bool(painted.isfinite().all()):
        wrong = "values that are not numbers"
    elif float(painted.amax() - painted.amin()) == 0:
        wrong = "one colour only"
    else:
        return
    raise DeviceError(
        f"{file}: {engine.name} on this {engine.device} paints {wrong} in {engine.precision}; "
        "use `precision` float32, or export the checkpoint again"
    )


def compare(engine: Engine, photos: Tensor, expected: Tensor) -> Check:
    """Return how far the pictures of an engine are from the expected ones, both (B, 3, H, W)."""
    from skimage.metrics import structural_similarity

    got = engine(photos)
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(got, expected, strict=True)]
    similarity = partial(structural_similarity, channel_axis=0, data_range=1.0)
    ssim = min(float(similarity(a, b)) for a, b in pairs)
    difference = float((got - expected).abs().max())
    h, w = photos.shape[-2:]
    return Check(engine.name, engine.precision, f"{h}x{w}", difference, ssim)


def too_far(check: Check) -> str:
    """Return in words how a comparison failed, or an empty text. NaN fails too."""
    if check.precision == "float32":
        if check.difference <= MAX_DIFFERENCE:
            return ""
        found = f"{255 * check.difference:.1f} of 255 levels off at {check.size}"
        return f"{found}; {255 * MAX_DIFFERENCE:.0f} are allowed"
    needed = MIN_SSIM[check.precision]
    if check.ssim >= needed:
        return ""
    return f"structural similarity {check.ssim:.3f} at {check.size}; {needed} is needed"


def _photos(h: int, w: int) -> Tensor:
    """Return two photos with texture that nothing is trained on, (2, 3, H, W)."""
    from faststyle.training.photos import held_out_photos  # slow, and needed once a checkpoint

    return torch.cat([resize(read_image(path), h, w) for path in held_out_photos()])


def _record(engine: Engine, converted: Path) -> Path:
    """Return the file that keeps the comparison of an engine on this machine.

    The name of the converted file stands for the checkpoint and the code of its network.
    """
    version = str(importlib.import_module(engine.name).__version__)
    parts = (engine.name, version, engine.device, engine.precision, _hardware(engine.device))
    key = hashlib.sha256(" ".join((*parts, sha256(__file__))).encode()).hexdigest()[:16]
    return converted.with_suffix(f".{key}.json")


def _read(record: Path) -> Check | None:
    """Return a comparison that was kept, None where there is none that can be read."""
    try:
        check = Check(**json.loads(record.read_bytes()))
        too_far(check)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return check


@functools.cache
def _hardware(device: str) -> str:
    """Return the name of a processor with its instruction sets, as far as the system tells."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    facts = cpu_facts()
    if facts:
        return " ".join(facts.get(key, "") for key in ("model name", "flags", "Features"))
    return f"{platform.machine()} {platform.processor()}"
