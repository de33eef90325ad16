"""The README.md of the gallery: what the networks themselves hold, and the table of paintings."""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from faststyle.checkpoint import SUFFIX, About, read_about, read_weights
from faststyle.errors import RecipeError
from faststyle.files import write_bytes
from faststyle.networks import build_network, network_options
from faststyle.push import facts, table_row
from faststyle.titles import TABLE, Title, read_titles
from faststyle.training.recipe import load_recipe

CARD = "README.md"
SCORES = ("style_closed", "clear_distance", "light", "grid", "stripes", "border", "edges")
DIGITS = {"grid": 1, "stripes": 1}  # of other scores: two
# Keys of a recipe that do not decide the result, or that training found.
NOT_SET = (
    *("name", "photos", "workers", "compile", "log_every", "preview_every", "state_every"),
    "loss.balance",
    "train",  # auto does the same for so many photos
)
OPTIONS = (
    "steps",
    "batch_size",
    "image_size",
    "init",
    "teacher",
    "precision",
    "seed",
    "stroke_size",
    "loss.strength",
)


def write_card(gallery: Path) -> Path:
    """Write the README.md of a folder of networks, and return its place.

    Raises: CheckpointError, RecipeError for a table that cannot be read, OutputError.
    """
    path = gallery / CARD
    write_bytes(path, card(gallery).encode())
    return path


def card(gallery: Path) -> str:
    """Return the text: a table of all networks, then what is known of each."""
    files = sorted(gallery.glob(f"*{SUFFIX}"))
    titles = read_titles(gallery)
    known = {file: read_about(file) for file in files}
    lines = [
        "# Networks that come with the project",
        f"<!-- Written by scripts/make_gallery from the networks and {TABLE}: edit that. -->",
        "`--style NAME` finds them while you have no network of that name; the end of the name,",
        "`-mobile`, may be left out. `faststyle styles` shows them on a photo of yours.",
        "",
        table_row("name", "painting", "network", *SCORES),
        "|---" * (3 + len(SCORES)) + "|",
    ]
    for file, about in known.items():
        painted = titles.paintings.get(_painting(about))
        painting = painted or facts(about)["painting"]
        network = "{name}-{width}".format(**network_options(about.network))
        lines.append(table_row(file.stem, painting, network, *_scores(about)))
    lines += ["", *_paragraphs(titles.notes)]
    for file, about in known.items():
        lines += _section(file, about, titles.paintings.get(_painting(about)))
    return "\n".join(lines)


def train_command(about: About) -> str:
    """Return the command that trains such a network, from its recipe; "" for one of its own."""
    try:
        flags = {"teacher": about.recipe.get("teacher") or None}  # distill is nothing without
        usual = load_recipe(str(about.recipe.get("name", "")), (), flags).to_dict()
    except RecipeError:
        return ""
    usual["teacher"] = ""
    words = ["faststyle", "train", "--painting", str(about.painting["file"]), "--photos", "FOLDER"]
    words += ["--recipe", str(about.recipe["name"])]
    words += _network_words(network_options(about.network), network_options(usual["network"]))
    by_key = dict(_flat(usual))
    for key, value in _flat(about.recipe):
        if key in NOT_SET or key.startswith("network.") or value in (None, by_key.get(key)):
            continue
        option = ["--" + key.removeprefix("loss.").replace("_", "-"), str(value)]
        words += option if key in OPTIONS else ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(words)


def _network_words(own: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """Return the options of the command for a network that is not that of its recipe."""
    if own == usual:
        return []
    short = {"name": own["name"], "width": own["width"]}
    if network_options(short) == own:
        return ["--network", f"{own['name']}-{own['width']}"]
    return [
        w for key, value in own.items() for w in ("--set", f"network.{key}={json.dumps(value)}")
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of nested tables with their values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _section(file: Path, about: About, title: Title | None) -> Iterator[str]:
    """Yield the lines on one network."""
    known = facts(about)
    painting = known.pop("painting")
    if title is not None:
        painting = f"{title} ({title.licence})" if title.licence else str(title)
    yield f"## {file.stem}"
    yield table_row("painting", painting)
    yield "|---|---|"
    yield table_row("network", _network(file, about))
    for key, value in known.items():
        yield table_row(key, value)
    if command := train_command(about):
        yield table_row("command", f"`{command}`")
    yield table_row("faststyle, torch", ", ".join(map(str, about.versions.values())))
    if "photos" in about.scores:
        yield table_row("judged on", f"{about.scores['photos']} photos")
    yield ""
    if title is not None:
        network = file.stem.removeprefix(f"{_painting(about)}-")
        yield from _paragraphs(title.notes.get(network, ""))


def _network(file: Path, about: About) -> str:
    """Return a network in words, with its parameters and their precision."""
    with torch.device("meta"):
        count = sum(p.numel() for p in build_network(about.network).parameters())
    half = all(tensor.dtype == torch.float16 for tensor in read_weights(file).values())
    precision = ", in half precision" if half else ""
    words = "{name}, width {width}".format(**network_options(about.network))
    return f"{words}, {count:,} parameters{precision}"


def _paragraphs(text: str) -> Iterator[str]:
    """Yield a text of paragraphs in lines, an empty one after each; nothing for no text."""
    for paragraph in filter(None, text.split("\n\n")):
        yield textwrap.fill(paragraph, 100)
        yield ""


def _scores(about: About) -> Iterator[str]:
    for name in SCORES:
        value = about.scores.get(name)
        yield "" if value is None else f"{value:.{DIGITS.get(name, 2)}f}"


def _painting(about: About) -> str:
    return str(about.painting.get("name", ""))
