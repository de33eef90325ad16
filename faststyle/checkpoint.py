"""The one artifact: a .safetensors file whose JSON metadata rebuilds the network and tells how it was made.

What it is not: the resumable state of a run (training/trainer.py), which is private to the run.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from faststyle.errors import CheckpointError, FaststyleError
from faststyle.files import write_bytes
from faststyle.networks import build_network
from faststyle.networks.start import StyleNetwork

FORMAT_VERSION = 1
KEY = "faststyle"  # the metadata entry: safetensors allows strings only, so all of it is one JSON text
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class About:
    """What a checkpoint says of itself.

    `network` is the name and keyword arguments of the network; `painting` its file name, sha256 and size (height,
    width); `vgg` the id and licence of the weights of the objective; `photos` what it was trained on, and under which
    terms; `recipe` all settings; `scores` content_rel, style_rel and the judge's scores on photos that it never saw;
    `base` the sha256 of the base that its weights descend from, "" when they do not or it is not known.
    """

    network: Mapping[str, Any]
    painting: Mapping[str, Any]
    vgg: Mapping[str, str]
    photos: str
    recipe: Mapping[str, Any]
    scores: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    license: str = "MIT"
    base: str = ""


def save_checkpoint(path: Path, network: nn.Module, about: About) -> None:
    """Write weights and metadata to `path`, whole or not at all. Raises: OutputError."""
    tensors: dict[str, Tensor] = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    metadata = {KEY: json.dumps({"format_version": FORMAT_VERSION, **asdict(about)}, sort_keys=True)}
    write_bytes(path, save(tensors, metadata=metadata))


def read_about(path: Path) -> About:
    """Return the metadata of a checkpoint without reading its weights.

    Raises: CheckpointError when the file is missing, damaged, not ours, or of another version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated, train or copy it again ({error})") from None
    if text is None:
        raise CheckpointError(f"{path}: not a checkpoint of faststyle: it has no {KEY!r} metadata")
    try:
        values = json.loads(text)
        version = values.pop("format_version")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{path}: its metadata cannot be read") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, this faststyle reads version {FORMAT_VERSION}; "
            "update faststyle, or train it again"
        )
    try:
        return About(**values)
    except TypeError as error:
        raise CheckpointError(f"{path}: its metadata is incomplete ({error})") from None


def load_checkpoint(path: Path) -> tuple[StyleNetwork, About]:
    """Return the network, in evaluation mode on the CPU, and what the checkpoint says of itself.

    Raises: CheckpointError.
    """
    about = read_about(path)
    try:
        network = build_network(about.network)
        network.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, FaststyleError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: its weights do not fit its network, train it again ({reason})") from None
    return network.eval(), about


def find_checkpoint(name: str, folder: Path = Path("checkpoints")) -> Path:
    """Return the file that `name` means: a path, else a name in `folder`, else one in its `gallery`.

    There the name of the network may be left out: "nocturne" finds nocturne-mobile.

    Raises: CheckpointError that lists the names at hand.
    """
    gallery = folder / "gallery"
    candidates = [Path(name), folder / f"{name}{SUFFIX}", gallery / f"{name}{SUFFIX}"]
    if Path(name).name == name:
        candidates += sorted(gallery.glob(f"{glob.escape(name)}-*{SUFFIX}"))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = [path.stem for path in checkpoints_at_hand(folder)]
    hint = f"at hand: {', '.join(known)}" if known else "train one with: faststyle train --style PAINTING"
    raise CheckpointError(f"no checkpoint {name!r}, neither as a path nor in {folder}; {hint}")


def checkpoints_at_hand(folder: Path = Path("checkpoints")) -> list[Path]:
    """Return the files in `folder` and its `gallery`, by name; of two of one name that in `folder`."""
    found = {path.stem: path for path in (*folder.glob(f"gallery/*{SUFFIX}"), *folder.glob(f"*{SUFFIX}"))}
    return [found[name] for name in sorted(found)]
