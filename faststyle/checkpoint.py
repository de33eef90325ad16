"""Checkpoints: .safetensors files whose JSON metadata rebuilds the network and tells its history.

The resumable state of a run is in training/state.py.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from faststyle.errors import CheckpointError, FaststyleError, did_you_mean
from faststyle.files import cache_folder, sha256, write_bytes
from faststyle.images import READABLE
from faststyle.networks import build_network, one_painting, one_painting_config
from faststyle.networks.network import StyleNetwork

FORMAT_VERSION = 2
# the metadata entry: safetensors allows strings only, so all of it is one JSON text
KEY = "faststyle"
SUFFIX = ".safetensors"
PYTORCH = (".pth", ".pt", ".ckpt", ".model")  # of weights that other programs wrote
MEANS = "paintings.means"  # the tensor by which a collection finds the painting nearest to another


@dataclass(frozen=True)
class About:
    """The metadata of a checkpoint.

    `network` is the name and keyword arguments of the network; `painting` its name, file name,
    sha256, size (height, width) and weight of style (`balance`); of a collection it is empty, and
    `paintings` has them all, in the order of the network's scales and shifts; `vgg` the id and
    licence of the weights of the objective; `photos` are those it was trained on, with their terms,
    `photos_seen` how many; `recipe` all settings; `scores` content_rel, style_rel and the judge's
    scores on photos that it never saw; `base` the sha256 of the base that its weights descend from,
    "" when they do not or it is not known.
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
    paintings: Sequence[Mapping[str, Any]] = ()
    photos_seen: int = 0


def save_checkpoint(
    path: Path,
    network: nn.Module,
    about: About,
    dtype: torch.dtype | None = None,
    means: Tensor | None = None,
) -> None:
    """Write weights and metadata to `path`, whole or not at all.

    `dtype` rounds the weights; `means`, (P, C), are kept with a collection. Raises: OutputError.
    """
    state = network.state_dict()
    if means is not None:
        state[MEANS] = means
    tensors: dict[str, Tensor] = {
        name: value.detach().cpu().to(dtype or value.dtype).contiguous()
        for name, value in state.items()
    }
    metadata = {
        KEY: json.dumps({"format_version": FORMAT_VERSION, **asdict(about)}, sort_keys=True)
    }
    write_bytes(path, save(tensors, metadata=metadata))


def read_about(path: Path) -> About:
    """Return the metadata of a checkpoint without reading its weights.

    Raises: CheckpointError when the file is missing, damaged, not ours, or of another version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    _check_suffix(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged or truncated, train or copy it again ({error})"
        ) from None
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
        return About(**{**values, "paintings": tuple(values.get("paintings", ()))})
    except TypeError as error:
        raise CheckpointError(f"{path}: its metadata is incomplete ({error})") from None


def _check_suffix(path: Path) -> None:
    """Raise CheckpointError for a file that is no checkpoint by its name: a picture, or a .pth."""
    suffix = path.suffix.lower()
    if suffix in READABLE:
        raise CheckpointError(
            f"{path}: a picture, where a trained style is expected; "
            f"train one with: faststyle train --style {path}"
        )
    if suffix in PYTORCH:
        raise CheckpointError(
            f"{path}: weights of another program; "
            f"convert them with: faststyle convert {path} -o {path.with_suffix(SUFFIX).name}"
        )


@contextmanager
def check_weights(path: Path) -> Iterator[None]:
    """Turn errors about the weights of a checkpoint into CheckpointErrors."""
    try:
        yield
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, FaststyleError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: its weights do not fit its network, train it again ({reason})"
        ) from None


def load_checkpoint(path: Path) -> tuple[StyleNetwork, About]:
    """Return the network, in evaluation mode on the CPU in float32, and its metadata.

    Raises: CheckpointError, also for a collection: `find_checkpoint` gives one of its paintings.
    """
    about = read_about(path)
    if about.paintings:
        names = painting_names(about)
        raise CheckpointError(
            f"{path} holds {len(names)} paintings; name one, as in {path.stem}:{names[0]}"
        )
    with check_weights(path):
        network = build_network(about.network)
        network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return network.eval(), about


def base_file() -> Path:
    """Return the file of the collection in the package, from which training starts."""
    return Path(__file__).with_name("training") / "bases" / f"collection{SUFFIX}"


def find_checkpoint(name: str, folder: Path = Path("checkpoints")) -> Path:
    """Return the file that `name` means: a path, else a name in `folder`, else in its `gallery`.

    There the name of the network may be left out: "nocturne" finds nocturne-mobile. Last comes the
    collection of the package. "COLLECTION:PAINTING" is one painting of a collection: a checkpoint
    of its own, which is written to the cache. The name of the painting may be cut short.

    Raises: CheckpointError that lists the names at hand.
    """
    found = _find_file(name, folder)
    if found is not None:
        return found
    collection, colon, painting = name.rpartition(":")
    found = _find_file(collection, folder) if colon else None
    if found is not None and found.suffix == SUFFIX and read_about(found).paintings:
        return _one_of(found, painting)
    known = [path.stem for path in checkpoints_at_hand(folder)]
    hint = f"at hand: {', '.join(known)}" if known else ""
    hint = hint or "train one with: faststyle train --style PAINTING"
    raise CheckpointError(f"no checkpoint {name!r}, neither as a path nor in {folder}; {hint}")


def _find_file(name: str, folder: Path) -> Path | None:
    gallery = folder / "gallery"
    candidates = [Path(name), folder / f"{name}{SUFFIX}", gallery / f"{name}{SUFFIX}"]
    if Path(name).name == name:
        candidates += sorted(gallery.glob(f"{glob.escape(name)}-*{SUFFIX}"))
    if name == base_file().stem:
        candidates.append(base_file())
    return next((path for path in candidates if path.is_file()), None)


def painting_names(about: About) -> list[str]:
    """Return the names of the paintings of a collection; none for a checkpoint of one painting."""
    return [str(painting["name"]) for painting in about.paintings]


def _one_of(path: Path, name: str) -> Path:
    """Return the checkpoint of one painting of a collection, from the cache or written now.

    Raises: CheckpointError for a painting that it does not have; OutputError.
    """
    about = read_about(path)
    names = painting_names(about)
    matching = [known for known in names if known.startswith(name)]
    if name in names:
        matching = [name]
    if len(matching) != 1:
        found = f"it could be {', '.join(matching)}" if matching else did_you_mean(name, names)
        raise CheckpointError(
            f"{path} has no painting {name!r}: {found.strip() or 'see faststyle info'}"
        )
    digest = sha256(path)
    target = cache_folder() / "paintings" / digest[:16] / f"{matching[0]}{SUFFIX}"
    if not target.is_file():
        row = names.index(matching[0])
        with check_weights(path):
            network = build_network(about.network)
            network.load_state_dict(
                {k: v.float() for k, v in load_file(path).items() if k != MEANS}
            )
            mix = torch.eye(len(names))[row]
            single = one_painting(network, about.network, mix)
        own = replace(
            about,
            network=one_painting_config(about.network),
            painting=about.paintings[row],
            paintings=(),
            scores={},
            base=digest,
        )
        save_checkpoint(target, single, own)
    return target


def checkpoints_at_hand(folder: Path = Path("checkpoints")) -> list[Path]:
    """Return the files in `folder` and its `gallery`, by name; of two of one name that in `folder`.

    The collection of the package is not among them: `faststyle info collection` names its
    paintings.
    """
    files = (*folder.glob(f"gallery/*{SUFFIX}"), *folder.glob(f"*{SUFFIX}"))
    found = {path.stem: path for path in files}
    return [found[name] for name in sorted(found)]


def names_at_hand(folder: Path = Path("checkpoints")) -> list[str]:
    """Return the names of all styles at hand: of a collection "COLLECTION:PAINTING" for each."""
    names: list[str] = []
    for path in checkpoints_at_hand(folder):
        try:
            paintings = painting_names(read_about(path))
        except CheckpointError:  # a damaged file is named, and says so when it is used
            paintings = []
        names += [f"{path.stem}:{painting}" for painting in paintings] or [path.stem]
    return names
