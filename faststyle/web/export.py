"""Write the folder of the page: styles as networks, thumbnails, the runtime, HTML, JavaScript, CSS.

The folder is made beside its place, and its files are moved there when all of them are ready.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import faststyle
from faststyle.checkpoint import find_checkpoint
from faststyle.engines.export import ExportError
from faststyle.errors import OutputError
from faststyle.files import output_error
from faststyle.stylize.stylizer import Stylizer
from faststyle.training.photos import held_out_photos
from faststyle.web.model import WebModel, web_model
from faststyle.web.runtime import RuntimeFiles, find_runtime

PAGE = Path(__file__).with_name("page")
MANIFEST = "styles.json"
MAX_BYTES = 1_000_000  # of a network: more takes long to load on a phone
THUMBNAIL = (240, 160)  # pixels, width and height
JPEG_QUALITY = 88
# Networks of these names in file names say nothing to visitors.
NETWORK_SUFFIXES = ("-mobile", "-johnson")

NOTICE = """onnxruntime-web {version}, from https://www.npmjs.com/package/onnxruntime-web
Copyright (c) Microsoft Corporation. MIT licence: https://github.com/microsoft/onnxruntime
Its files are as they are in the package.
"""

# Static Spaces send the headers that are listed in their README. Source:
# https://huggingface.co/docs/hub/spaces-config-reference
SPACE = """---
title: {title}
emoji: 🎨
colorFrom: blue
colorTo: yellow
sdk: static
app_file: index.html
pinned: false
custom_headers:
  cross-origin-opener-policy: same-origin
  cross-origin-embedder-policy: require-corp
  cross-origin-resource-policy: cross-origin
---
# {title}
Repaints photos and the camera's picture in your browser. Your pictures never leave your device.

| style | licence |
|---|---|
{rows}

Made with faststyle {version}: `faststyle export ... --format web --hf-space`.
"""


@dataclass(frozen=True)
class WebStyle:
    """A style of the page: its file, and how near its pictures are to torch's.

    `difference` and `mean` are the largest and the mean difference of values in [0, 1].
    """

    name: str
    title: str
    file: str
    size_bytes: int
    precision: str
    difference: float
    mean: float


@dataclass(frozen=True)
class WebReport:
    """What was written; `notes` are for the person who exports."""

    folder: Path
    styles: tuple[WebStyle, ...]
    runtime: str
    size_bytes: int
    seconds: float
    notes: tuple[str, ...]


def export_web(
    styles: Sequence[str],
    output: Path,
    *,
    runtime: Path | None = None,
    hf_space: bool = False,
    overwrite: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> WebReport:
    """Write the page with these styles, names or files of checkpoints, to the folder `output`.

    `runtime` is a folder of onnxruntime-web; default: npm's registry, once. `hf_space` adds the
    README of a static Hugging Face Space. `overwrite` replaces an earlier page; files that are not
    of it stay. `announce` is called with a line before each slow step.

    Raises: ExportError when a network does not paint what torch paints; RuntimeFilesError;
    CheckpointError; DeviceError for a package that is not installed; OutputError.

    Example:
        >>> export_web(["the_scream", "great_wave"], Path("page")).styles[0].size_bytes < 1_000_000
        True
    """
    began = time.monotonic()
    _check_place(output, overwrite)
    checkpoints = [find_checkpoint(style) for style in styles]  # before anything takes time
    if len(set(checkpoints)) < len(checkpoints):
        raise ExportError(f"{', '.join(styles)}: a style is named twice")
    files = find_runtime(runtime, announce)
    with _temporary_folder(output) as folder:
        shutil.copytree(PAGE, folder, dirs_exist_ok=True)
        _write_runtime(files, folder / "runtime")
        entries = []
        models = []
        for checkpoint, name in zip(checkpoints, _ids(checkpoints), strict=True):
            announce(f"preparing {checkpoint.stem}")
            model = web_model(checkpoint, folder, announce)
            models.append(model)
            entries.append(_write_style(model, checkpoint, name, folder))
        _write_example(folder / "example.jpg")
        if hf_space:
            _write_space(entries, folder)
        _write_manifest(entries, files, folder)
        size = sum(file.stat().st_size for file in _files_in(folder))
        _move(folder, output)
    return WebReport(
        output,
        tuple(
            WebStyle(
                path.stem,
                entry["title"],
                entry["file"],
                entry["bytes"],
                model.precision,
                model.difference,
                model.mean,
            )
            for path, entry, model in zip(checkpoints, entries, models, strict=True)
        ),
        files.version,
        size,
        time.monotonic() - began,
        tuple(_notes(entries, files)),
    )


def _check_place(output: Path, overwrite: bool) -> None:
    """Raise OutputError where a page must not be written."""
    if os.path.exists(output) and not output.is_dir():  # Path.exists raises for a name too long
        raise OutputError(f"`output` {output}: a file stands where a folder is needed")
    try:
        taken = os.path.isdir(output) and any(output.iterdir())
    except OSError as error:
        raise output_error(output, error) from error
    if taken and not overwrite:
        raise OutputError(f"`output` {output}: is not empty; `overwrite` replaces a page in it")
    # An empty folder and a new Git repository are fine; a folder of other things is a mistake.
    if taken and not (output / MANIFEST).is_file() and not (output / ".git").exists():
        raise OutputError(f"`output` {output}: holds other files than a page; name another folder")


def _notes(entries: Sequence[dict[str, Any]], files: RuntimeFiles) -> Iterator[str]:
    for entry in entries:
        if entry["bytes"] > MAX_BYTES:
            yield (
                f"{entry['file']} has {entry['bytes'] / 1e6:.1f} MB, more than the "
                f"{MAX_BYTES / 1e6:.0f} MB that load quickly; a network of less width is smaller"
            )
    if files.version == "":
        yield "`runtime` has no package.json: its version is not known"


def _ids(checkpoints: Sequence[Path]) -> list[str]:
    """Return a name for each checkpoint that is fit for file names and addresses."""
    found: list[str] = []
    for checkpoint in checkpoints:
        plain = unicodedata.normalize("NFKD", _without_network(checkpoint.stem))
        name = re.sub(r"[^a-z0-9]+", "-", plain.encode("ascii", "ignore").decode().lower())
        name = name.strip("-")[:60] or "style"
        same = sum(other == name or other.startswith(f"{name}--") for other in found)
        found.append(f"{name}--{same + 1}" if same else name)
    return found


def _title(stem: str) -> str:
    """Return the name of a style for visitors: "The scream" for "the_scream-mobile"."""
    words = _without_network(stem).replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _without_network(stem: str) -> str:
    for suffix in NETWORK_SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem


def _write_runtime(files: RuntimeFiles, folder: Path) -> None:
    folder.mkdir()
    for name, content in files.contents.items():
        (folder / name).write_bytes(content)
    notice = NOTICE.format(version=files.version or "(version not known)")
    (folder / "NOTICE.txt").write_text(notice, encoding="utf-8")


def _write_style(model: WebModel, checkpoint: Path, name: str, folder: Path) -> dict[str, Any]:
    """Write a style's network and thumbnail, and return its entry in the manifest."""
    place = folder / "styles" / name
    place.mkdir(parents=True)
    (place / "model.onnx").write_bytes(model.data)
    stylizer = Stylizer.load(str(checkpoint))
    picture = stylizer(_example_photo(THUMBNAIL), abstraction=0.0)  # as the page paints
    (place / "thumbnail.jpg").write_bytes(_jpeg(picture))
    return {
        "id": name,
        "title": _title(checkpoint.stem),
        "file": f"styles/{name}/model.onnx",
        "bytes": len(model.data),
        "thumbnail": f"styles/{name}/thumbnail.jpg",
        "license": model.about.license,
        "painting": str(model.about.painting.get("file", "")),
        "probe": model.probe,
    }


def _write_example(file: Path) -> None:
    with Image.open(held_out_photos()[0]) as photo:
        file.write_bytes(_jpeg(photo.convert("RGB")))


def _example_photo(size: tuple[int, int]) -> Image.Image:
    """Return the photo of the thumbnails, cut to the proportions of `size` (width, height)."""
    from PIL import ImageOps

    with Image.open(held_out_photos()[0]) as photo:
        return ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.LANCZOS)


def _jpeg(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return data.getvalue()


def _write_space(entries: Sequence[dict[str, Any]], folder: Path) -> None:
    rows = "\n".join(f"| {_cell(e['title'])} | {_cell(e['license'])} |" for e in entries)
    text = SPACE.format(title="Your photo, repainted", rows=rows, version=faststyle.__version__)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _write_manifest(entries: Sequence[dict[str, Any]], files: RuntimeFiles, folder: Path) -> None:
    """Write the file that the page reads first: styles, and sizes of files to show progress with.

    `files` are all files of the page, so that a later export can remove those it does not have.
    """
    manifest = {
        "faststyle": faststyle.__version__,
        "runtime": files.version,
        "sizes": {name: len(content) for name, content in files.contents.items()},
        "styles": entries,
        "files": sorted(file.relative_to(folder).as_posix() for file in _files_in(folder)),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@contextmanager
def _temporary_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder on the disk of `output`; it is removed at the end."""
    try:
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".faststyle-", dir=output.absolute().parent, ignore_cleanup_errors=True
        ) as folder:
            yield Path(folder)
    except OSError as error:
        raise output_error(output, error) from error


def _move(folder: Path, output: Path) -> None:
    """Move a finished page to its place, and remove what only an earlier page there had."""
    earlier = _earlier_files(output)
    names = [file.relative_to(folder) for file in _files_in(folder)]
    # The manifest comes last: until then visitors get the earlier styles.
    for name in sorted(names, key=lambda name: name.as_posix() == MANIFEST):
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / name).replace(target)
    for name in earlier - set(names):
        (output / name).unlink(missing_ok=True)
        for parent in (output / name).parents:
            if parent == output or (parent.is_dir() and any(parent.iterdir())):
                break
            with contextlib.suppress(FileNotFoundError):  # somebody removed it
                parent.rmdir()


def _earlier_files(output: Path) -> set[Path]:
    """Return the files that the manifest of an earlier page lists, below the folder only."""
    try:
        names = json.loads((output / MANIFEST).read_bytes())["files"]
        paths = {Path(name) for name in names if isinstance(name, str)}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    return {path for path in paths if not path.is_absolute() and ".." not in path.parts}
