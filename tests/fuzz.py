"""Damaged files for every reader: each gives a result, or one error of ours.

    scripts/fuzz --count 20000 --seed 0          # of all readers together
    scripts/fuzz --count 500 --only video
    scripts/fuzz --guided 120 --only state   # led by coverage, with atheris

Seeds are files of many kinds that Pillow, FFmpeg and this project write. A mutation flips bits,
sets lengths to extreme values, cuts, copies or drops parts, or joins two seeds. A reader fails when
it raises anything but a FaststyleError, takes more than 10 s or 2 GiB, kills its process, leaves a
file outside its folder, or puts control characters into its message. The inputs that failed are
kept. The exit code is then 1. tests/test_fuzz.py runs it shortly.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from conftest import draw, write_random_network, write_tiny_vgg
from PIL import Image
from test_convert import their_network

from faststyle.errors import FaststyleError

SECONDS = 10  # that a reader may take for one file
MEMORY = 2 * 2**20  # KiB that a reader may add to the memory of its process
BATCH = 50  # files that one process reads
FRAMES = 20  # of a damaged video that are read
LENGTHS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Reader = Callable[[Path], None]


@dataclass(frozen=True)
class Target:
    """A reader, and the files that are damaged for it."""

    read: Reader
    seeds: list[Path]


# ---- seeds


def picture_seeds(folder: Path) -> list[Path]:
    """Write pictures of all kinds that Pillow can, in small."""
    photo = draw(0, 40, 52)
    alpha = photo.convert("RGBA")
    alpha.putalpha(120)
    grey16 = Image.fromarray(np.arange(40 * 52, dtype=np.uint16).reshape(40, 52) * 20)
    floats = Image.fromarray(np.linspace(0, 1, 40 * 52, dtype=np.float32).reshape(40, 52))
    exif = photo.getexif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    more = {"save_all": True, "append_images": [draw(1, 40, 52)]}
    kinds: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("rgb.png", photo, {"dpi": (72, 72)}),
        ("alpha.png", alpha, {}),
        ("palette.png", photo.quantize(16), {"transparency": 3}),
        ("grey16.png", grey16, {}),
        ("bits.png", photo.convert("1"), {}),
        ("animation.png", photo, more),
        ("plain.jpg", photo, {"exif": exif, "quality": 80}),
        ("progressive.jpg", photo, {"progressive": True}),
        ("cmyk.jpg", photo.convert("CMYK"), {}),
        ("grey.jpg", photo.convert("L"), {}),
        ("lossy.webp", alpha, {"quality": 60}),
        ("lossless.webp", photo, {"lossless": True}),
        ("animation.webp", photo, more),
        ("plain.gif", photo, {}),
        ("animation.gif", photo, more),
        ("plain.bmp", photo, {}),
        ("palette.bmp", photo.quantize(8), {}),
        ("plain.ppm", photo, {}),
        ("plain.tga", photo, {"compression": "tga_rle"}),
        ("plain.jp2", photo, {}),
        ("plain.avif", photo, {}),
        ("floats.tif", floats, {}),
        ("pages.tif", photo, more),
        ("plain.mpo", photo, more),
    ]
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "raw"):
        kinds.append((f"{compression}.tif", photo, {"compression": compression}))
    return [_saved(folder / name, image, options) for name, image, options in kinds]


def _saved(path: Path, image: Image.Image, options: dict[str, object]) -> Path:
    image.save(path, **options)
    return path


def video_seeds(folder: Path) -> list[Path]:
    """Write short clips in the containers and codecs that PyAV has."""
    import av

    kinds = {
        "h264.mp4": ("libx264", "yuv420p"),
        "h264.mkv": ("libx264", "yuv420p"),
        "vp9.webm": ("libvpx-vp9", "yuv420p"),
        "prores.mov": ("prores_ks", "yuv422p10le"),
        "mpeg4.avi": ("mpeg4", "yuv420p"),
        "mpeg2.ts": ("mpeg2video", "yuv420p"),
        "moving.gif": ("gif", "rgb8"),
    }
    for name, (codec, pixels) in kinds.items():
        with av.open(str(folder / name), "w") as file:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
            for i in range(6):
                frame = av.VideoFrame.from_ndarray(np.asarray(draw(i, 48, 64)), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
    return [folder / name for name in kinds]


def checkpoint_seeds(folder: Path) -> list[Path]:
    write_random_network(folder / "dots.safetensors")
    return [folder / "dots.safetensors"]


def weights_seeds(folder: Path) -> list[Path]:
    import torch

    state = their_network().state_dict()
    torch.save(state, folder / "new.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    return [folder / "new.pth", folder / "old.pth"]


def recipe_seeds(folder: Path) -> list[Path]:
    from faststyle.training.recipe import recipe_names

    recipes = Path(sys.modules["faststyle"].__file__ or "").parent / "training" / "recipes"
    return [recipes / f"{name}.toml" for name in recipe_names()]


def state_seeds(folder: Path) -> list[Path]:
    """Write a manifest as a run has it; its files are beside it when it is read."""
    text = '{"step": 3, "extra": {"painting": "ab", "recipe": {"steps": 9}}, "files": {"a": "00"}}'
    (folder / "manifest.json").write_text(text)
    return [folder / "manifest.json"]


def parts_seeds(folder: Path) -> list[Path]:
    text = '{"job": {"style": "a", "size": 3}, "segments": [{"file": "segment-00000.mkv", '
    text += '"start": 0, "end": 10, "last": 9, "frames": 10}]}'
    (folder / "parts.json").write_text(text)
    return [folder / "parts.json"]


def vgg_seeds(folder: Path) -> list[Path]:
    """Write features of VGG as the cache keeps them, and as torchvision has them."""
    import torch
    from safetensors.torch import load_file

    write_tiny_vgg(folder / "kept.safetensors")
    tensors = load_file(folder / "kept.safetensors")
    torch.save({f"features.{k}": v for k, v in tensors.items()}, folder / "torchvision.pth")
    return [folder / "kept.safetensors", folder / "torchvision.pth"]


def verdict_seeds(folder: Path) -> list[Path]:
    """Write the comparison of an engine with torch, as the cache keeps it."""
    text = '{"engine": "openvino", "precision": "bf16", "size": "256x256", '
    (folder / "verdict.json").write_text(text + '"difference": 0.02, "ssim": 0.99}')
    return [folder / "verdict.json"]


def slow_seeds(folder: Path) -> list[Path]:
    """Write results of the slow path, as `compare` keeps them."""
    import torch
    from safetensors.torch import save_file

    pictures = {"step0": torch.zeros(3, 16, 16, dtype=torch.uint8)}
    rows = {"rows": "[[0, 1.0, 0.9, 2.0, 0.0]]"}
    save_file(pictures, folder / "slow.safetensors", metadata=rows)
    return [folder / "slow.safetensors"]


# ---- readers


def read_picture(path: Path) -> None:
    from faststyle.images import open_picture
    from faststyle.stylize.huge import picture_size

    with contextlib.suppress(FaststyleError):
        picture_size(path)
    open_picture(path)


def read_video(path: Path) -> None:
    from faststyle.video.job import stylize_video
    from faststyle.video.options import VideoOptions

    target = path.parent / "out.mp4"
    stylize_video(path, target, lambda rgb: 255 - rgb, VideoOptions(overwrite=True, end=0.5))


def read_checkpoint(path: Path) -> None:
    from faststyle.checkpoint import load_checkpoint

    load_checkpoint(path)


def read_weights(path: Path) -> None:
    from faststyle.convert import convert_checkpoint

    convert_checkpoint(path, path.parent / "out.safetensors")


def read_recipe(path: Path) -> None:
    from faststyle.training.recipe import load_recipe

    load_recipe(str(path))


def read_state(path: Path) -> None:
    from faststyle.training.run_files import RunFiles, open_run

    folder = path.parent / "run"
    state = folder / "state" / "step-000003"
    state.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, state / "manifest.json")
    shutil.copy(path, folder / "run.json")
    files = RunFiles(folder, path.parent / "run.safetensors")
    for resume in (True, False):
        with contextlib.suppress(FaststyleError):
            open_run(files, None, "ab", resume, False)
    open_run(files, None, "ab", True, False)


def read_parts(path: Path) -> None:
    from faststyle.video.parts import Parts

    folder = path.parent / "out.parts"
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / "manifest.json")
    Parts(folder, {"style": "a", "size": 3}, True, False)


def read_vgg(path: Path) -> None:
    from faststyle.perceptual.weights import read_weights

    read_weights(path)


def read_verdict(path: Path) -> None:
    from faststyle.engines.verify import _read

    _read(path)


def read_slow(path: Path) -> None:
    from faststyle.compare.slow_vs_fast import _read_kept

    _read_kept(path, "photo.png", 256, "noise")


READERS: dict[str, tuple[Callable[[Path], list[Path]], Reader, int]] = {
    "picture": (picture_seeds, read_picture, 10),
    "video": (video_seeds, read_video, 4),
    "checkpoint": (checkpoint_seeds, read_checkpoint, 2),
    "weights": (weights_seeds, read_weights, 1),
    "recipe": (recipe_seeds, read_recipe, 1),
    "state": (state_seeds, read_state, 1),
    "parts": (parts_seeds, read_parts, 1),
    "vgg": (vgg_seeds, read_vgg, 1),
    "verdict": (verdict_seeds, read_verdict, 1),
    "slow": (slow_seeds, read_slow, 1),
}


# ---- mutations


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return damaged data; `other` is another seed of the same reader."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out)) if out else 0
        near = min(at, rng.choice((64, 512, 1 << 30)))  # headers are at the start
        kind = rng.randrange(7)
        if not out:
            break
        if kind == 0:
            out[near] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[near] = rng.randrange(256)
        elif kind == 2:
            size = rng.choice((1, 2, 4))
            value = rng.choice(LENGTHS) & ((1 << 8 * size) - 1)
            out[near : near + size] = value.to_bytes(size, rng.choice(("big", "little")))
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at : at + rng.randrange(1, 64)]
        elif kind == 5:
            out[at:at] = out[near : near + rng.randrange(1, 64)]
        else:
            out[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(out)


# ---- running


def failure(read: Reader, path: Path) -> str:
    """Return how a reader fails on a file, "" where it does not."""
    began = time.monotonic()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            read(path)
    except FaststyleError as error:
        if not str(error).isprintable():
            return f"control characters in {str(error)!r}"
    except Exception:
        return traceback.format_exc()
    took = time.monotonic() - began
    return f"{took:.0f} s" if took > SECONDS else ""


def run_batch(
    name: str, seeds: list[Path], first: int, count: int, seed: int, keep: Path
) -> list[str]:
    """Read `count` files in a process of its own; return what failed, a line for each.

    File n is a function of (seed, reader, n). A file that kills or stops the process is named too.
    """
    failures: list[str] = []
    while count > 0:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            progress = Path(folder) / "progress"
            pid = os.fork()
            if pid == 0:
                _read_files(name, seeds, first, count, seed, keep, Path(folder))
            _, status = os.waitpid(pid, 0)
            done, *lines = progress.read_text().split("\0")
            failures += [line for line in lines if line]
        number = int(done)
        if os.waitstatus_to_exitcode(status) == 0:
            return failures
        failures.append(
            f"{name} {number}: the process ended with {os.waitstatus_to_exitcode(status)}"
        )
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{name}-{number}").write_bytes(make(name, seeds, number, seed)[1])
        count -= number + 1 - first
        first = number + 1
    return failures


def make(name: str, seeds: list[Path], number: int, seed: int) -> tuple[str, bytes]:
    """Return the suffix and the content of a damaged file."""
    rng = random.Random(f"{seed} {name} {number}")
    source = rng.choice(seeds)
    data = mutate(source.read_bytes(), rng.choice(seeds).read_bytes(), rng)
    return rng.choice(seeds).suffix if rng.random() < 0.05 else source.suffix, data


def _read_files(
    name: str, seeds: list[Path], first: int, count: int, seed: int, keep: Path, folder: Path
) -> None:
    """Read files in this process, a child, and end it."""
    read = READERS[name][1]
    place = folder / "inside"
    place.mkdir()
    os.chdir(place)
    null = os.open(os.devnull, os.O_WRONLY)  # libraries in C write to stderr as they like
    os.dup2(null, 2)
    lines: list[str] = []
    ours = {place.name, "progress"}
    for number in range(first, first + count):
        (folder / "progress").write_text("\0".join([str(number), *lines]))
        suffix, data = make(name, seeds, number, seed)
        path = place / f"damaged{suffix}"
        path.write_bytes(data)
        signal.alarm(SECONDS + 5)  # ends the process: no Python code can be trusted to run
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        reason = failure(read, path)
        signal.alarm(0)
        added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
        if added > MEMORY:
            reason = reason or f"{added / 2**20:.1f} GiB more"
        if {p.name for p in folder.iterdir()} != ours:
            reason = reason or "a file outside of its folder"
        if reason:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{number}{suffix}").write_bytes(data)
            lines.append(f"{name} {number}: {reason}")
        for left in place.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    (folder / "progress").write_text("\0".join([str(first + count - 1), *lines]))
    os._exit(0)


def fuzz(count: int, seed: int, keep: Path, only: str = "") -> tuple[Counter[str], list[str]]:
    """Read `count` damaged files; return how many of each reader, and what failed."""
    names = [name for name in READERS if only in name]
    shares = {name: READERS[name][2] for name in names}
    tried: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="seeds-") as folder:
        for name in names:
            place = Path(folder) / name
            place.mkdir()
            seeds = READERS[name][0](place)
            wanted = -(-count * shares[name] // sum(shares.values()))
            while tried[name] < wanted:
                size = min(BATCH, wanted - tried[name])
                failures += run_batch(name, seeds, tried[name], size, seed, keep)
                tried[name] += size
            print(f"{name}: {tried[name]} files of {len(seeds)} seeds", flush=True)
    return tried, failures


def _functions(*packages: str) -> list[types.FunctionType]:
    """Return the Python functions and methods of packages that are imported."""
    found = (o for o in gc.get_objects() if isinstance(o, types.FunctionType))
    return [f for f in found if (f.__module__ or "").split(".")[0] in packages]


def fuzz_guided(name: str, seconds: float, keep: Path) -> int:
    """Read files that atheris makes from the seeds of one reader, led by the lines they reach.

    Only Python code is followed: ours, and json, tomllib and Pillow's readers. The process ends at
    the first failure, and the file is kept. Return the exit code of that process.
    """
    import atheris

    read = READERS[name][1]
    with tempfile.TemporaryDirectory(prefix="guided-") as folder:
        place = Path(folder) / "inside"
        corpus = Path(folder) / "corpus"
        place.mkdir()
        corpus.mkdir()
        suffix = READERS[name][0](corpus)[0].suffix
        keep.mkdir(parents=True, exist_ok=True)

        def try_one(data: bytes) -> None:
            path = place / f"damaged{suffix}"
            path.write_bytes(data)
            if reason := failure(read, path):
                raise RuntimeError(reason)

        pid = os.fork()
        if pid == 0:
            os.chdir(place)
            for path in corpus.iterdir():
                failure(read, path)  # imports what it needs
            for function in _functions("faststyle", "json", "tomllib", "PIL", "safetensors"):
                with contextlib.suppress(Exception):  # some cannot be followed
                    atheris.instrument_func(function)
            limits = [f"-max_total_time={seconds:.0f}", f"-timeout={SECONDS}", "-rss_limit_mb=4096"]
            atheris.Setup(
                ["fuzz", *limits, f"-artifact_prefix={keep}/{name}-", str(corpus)], try_one
            )
            atheris.Fuzz()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the name of a reader")
    parser.add_argument("--guided", type=float, default=0, help="seconds for each reader")
    parser.add_argument("--keep", type=Path, default=Path("outputs/fuzz"))
    args = parser.parse_args()
    if args.guided:
        keep = args.keep.absolute()
        names = [name for name in READERS if args.only in name]
        codes = {name: fuzz_guided(name, args.guided, keep) for name in names}
        print(f"failed: {', '.join(n for n, code in codes.items() if code) or 'none'}")
        raise SystemExit(any(codes.values()))
    tried, failures = fuzz(args.count, args.seed, args.keep.absolute(), args.only)
    for line in failures:
        print(line)
    print(f"{tried.total()} files, {len(failures)} failed")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
