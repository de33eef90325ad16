"""onnxruntime-web, the runtime of the page: from npm's registry, or from a folder.

Its version and the hash of its package are pinned. Only the files that the page loads are copied.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faststyle.errors import FaststyleError
from faststyle.files import cache_folder, writing

VERSION = "1.30.0"
REGISTRY = "https://registry.npmjs.org"
URL = f"{REGISTRY}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
# As npm states it: `npm view onnxruntime-web@1.30.0 dist.integrity`.
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3j"
    "L02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
MEGABYTES = 33
# A visitor loads three of them: the interface, and the core that goes with it.
FILES = (
    "ort.wasm.min.mjs",  # for WebAssembly
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",  # for WebGPU
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
TIMEOUT = 30  # seconds without an answer
BLOCK = 2**20  # bytes
BY_HAND = f"download {URL} elsewhere, unpack it, and give its folder with `runtime`"


class RuntimeFilesError(FaststyleError):
    """The files of onnxruntime-web cannot be had, or are not those that were asked for."""


@dataclass(frozen=True)
class RuntimeFiles:
    """The version of a runtime, "" where it is not known, and the contents of its files by name."""

    version: str
    contents: dict[str, bytes]


def find_runtime(
    folder: Path | None = None, announce: Callable[[str], None] = lambda _: None
) -> RuntimeFiles:
    """Return the runtime's files from a folder, from the cache, or from npm's registry.

    `folder` is an unpacked package of onnxruntime-web, or its dist/. `announce` is called with a
    line before a download. Raises: RuntimeFilesError.

    Example:
        >>> find_runtime(Path("node_modules/onnxruntime-web")).version
        '1.30.0'
    """
    if folder is not None:
        return _read_folder(folder)
    package = cache_folder() / f"onnxruntime-web-{VERSION}.tgz"
    if not package.is_file() or integrity(package) != INTEGRITY:
        announce(f"downloading onnxruntime-web {VERSION} from npm ({MEGABYTES} MB), once")
        _download(package)
    return RuntimeFiles(VERSION, dict(_unpack(package)))


def integrity(file: Path) -> str:
    """Return the hash of a file as npm writes it: "sha512-" and base64."""
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode()}"


def _download(package: Path) -> None:
    """Download the package to a file in the cache. It gets its name after its hash was compared."""
    with writing(package) as temporary:
        try:
            # The address is a constant, https.
            with (
                urllib.request.urlopen(URL, timeout=TIMEOUT) as answer,  # nosec B310
                open(temporary, "wb") as file,
            ):
                while block := answer.read(BLOCK):
                    file.write(block)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise RuntimeFilesError(f"cannot download {URL}: {reason}; {BY_HAND}") from error
        if (got := integrity(temporary)) != INTEGRITY:
            raise RuntimeFilesError(f"{URL}: its hash is {got}, not {INTEGRITY}: refused")


def _unpack(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the needed files of a package, in memory: nothing else of it is ever written."""
    with tarfile.open(package) as archive:
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # the hash says so
            yield name, member.read()


def _read_folder(folder: Path) -> RuntimeFiles:
    root, dist = (
        (folder, folder / "dist") if (folder / "dist").is_dir() else (folder.parent, folder)
    )
    missing = [name for name in FILES if not (dist / name).is_file()]
    if missing:
        raise RuntimeFilesError(
            f"`runtime` {folder}: no {missing[0]} in it; give a folder of onnxruntime-web "
            f"{VERSION}, or its dist/"
        )
    try:
        contents = {name: (dist / name).read_bytes() for name in FILES}
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RuntimeFilesError(f"`runtime` {folder}: cannot be read ({reason})") from error
    return RuntimeFiles(_version(root / "package.json"), contents)


def _version(package: Path) -> str:
    """Return the version in a package.json of onnxruntime-web, "" where there is none."""
    try:
        about = json.loads(package.read_bytes())
        return str(about["version"]) if about["name"] == "onnxruntime-web" else ""
    except (OSError, ValueError, TypeError, KeyError):
        return ""
