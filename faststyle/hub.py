"""Checkpoints of the Hugging Face Hub: "hf:USER/REPO", "hf:USER/REPO@REVISION/FILE".

Only .safetensors files are taken, which hold no code. A repository is used in the version of its
first use, until another one is named: so a style does not change while nobody looks.
Source: https://huggingface.co/docs/huggingface_hub/guides/download
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faststyle.errors import CheckpointError, OutputError, did_you_mean
from faststyle.files import cache_folder, write_bytes

PREFIX = "hf:"
SUFFIX = ".safetensors"
PYTORCH = (".pth", ".pt", ".ckpt", ".model")  # of weights that other programs wrote
COMMIT = re.compile(r"[0-9a-f]{40}")
ADDRESS = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>[^:]+))?")
# Bytes; our networks have some millions. Larger files are refused before they are downloaded.
MOST = 2**30


@dataclass(frozen=True)
class Address:
    """A file of the Hub; an empty `revision` is the pinned one, an empty `file` the only one."""

    repo: str
    revision: str
    file: str


def parse_address(name: str) -> Address | None:
    """Return the address that a name of a style means, None for a name of another kind.

    The suffix .safetensors may be left out.
    """
    found = ADDRESS.fullmatch(name)
    if found is None:
        return None
    file = found["file"] or ""
    if file and Path(file).suffix not in (SUFFIX, *PYTORCH):  # a name may have a dot in it
        file += SUFFIX
    return Address(found["repo"], found["revision"] or "", file)


def fetch(address: Address) -> Path:
    """Return the file of an address, from the cache of the Hub's client, or downloaded into it.

    With no revision it is that of the first use, which is written down. Raises: CheckpointError
    where it is not there, is no .safetensors file, or the Hub cannot be reached.
    """
    import huggingface_hub

    if address.file and Path(address.file).suffix != SUFFIX:
        raise CheckpointError(f"{_name(address)}: only {SUFFIX} files are taken from the Hub")
    if ".." in Path(address.file).parts:
        raise CheckpointError(f"{_name(address)}/{address.file}: no name of a file on the Hub")
    pin = {} if address.revision else _read_pin(address.repo)
    revision = address.revision or pin.get("commit", "")
    file = address.file or pin.get("file", "")
    if file and COMMIT.fullmatch(revision):
        cached = huggingface_hub.try_to_load_from_cache(address.repo, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        info = huggingface_hub.HfApi().model_info(
            address.repo, revision=revision or None, files_metadata=True
        )
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or ()}
        file = _choose(address, file, sizes)
        commit = str(info.sha)
        path = huggingface_hub.hf_hub_download(address.repo, file, revision=commit)
    except CheckpointError:
        raise
    except Exception as error:  # a zoo: no such repository, no access, no network
        raise CheckpointError(f"{_name(address)}: {_reason(error)}") from error
    if not address.revision:
        only = sum(name.endswith(SUFFIX) for name in sizes) == 1
        named = pin.get("file") or (file if only else "")
        _write_pin(address.repo, {"commit": commit, "file": named})
    return Path(path)


def _choose(address: Address, file: str, sizes: dict[str, int]) -> str:
    """Return the file that is meant. Raises: CheckpointError for none, several, or a huge one."""
    known = sorted(n for n in sizes if n.endswith(SUFFIX) and ".." not in Path(n).parts)
    name = _name(address)
    if not known:
        raise CheckpointError(f"{name}: the repository has no {SUFFIX} file")
    if not file and len(known) > 1:
        example = f"{name}/{known[0].removesuffix(SUFFIX)}"
        raise CheckpointError(f"{name} has {len(known)} styles; name one, as in {example}")
    chosen = file or known[0]
    if chosen not in known:
        raise CheckpointError(f"{name}: no such file.{did_you_mean(chosen, known)}")
    if sizes[chosen] > MOST:
        raise CheckpointError(
            f"{name}: {chosen} has {sizes[chosen] / 2**30:.1f} GiB, too many for a style"
        )
    return chosen


def _name(address: Address) -> str:
    revision = f"@{address.revision}" if address.revision else ""
    return f"{PREFIX}{address.repo}{revision}"


def _reason(error: Exception) -> str:
    """Return in one line why the Hub gave nothing, with the way on."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "it is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub"
    if isinstance(error, errors.GatedRepoError):
        return "access must be asked for on its page, and a token given (hf auth login)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository; a private one needs a token (hf auth login)"
    first = (str(error) or type(error).__name__).splitlines()[0]
    return f"the Hub cannot be asked ({first}); a file or a name of this machine works without it"


def _pin_file(repo: str) -> Path:
    return cache_folder() / "hub" / f"{repo.replace('/', '--')}.json"


def _read_pin(repo: str) -> dict[str, str]:
    """Return the version and the file that a repository is used in; empty before its first use."""
    try:
        pin: Any = json.loads(_pin_file(repo).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(pin, dict) or not COMMIT.fullmatch(str(pin.get("commit"))):
        return {}
    return {"commit": str(pin["commit"]), "file": str(pin.get("file", ""))}


def _write_pin(repo: str, pin: dict[str, str]) -> None:
    try:
        write_bytes(_pin_file(repo), json.dumps(pin).encode())
    except OutputError:  # a cache that cannot be written; the style works all the same
        return
