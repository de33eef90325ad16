"""What is known of paintings: a table, paintings.toml, in a folder of checkpoints.

It has an entry for each painting, under the name of its file without suffix. Only `title` must be
there. `notes` are for those who choose a network, by the network's name; an empty line ends a
paragraph:

    notes = "What holds for all networks of the folder."

    [great_wave]
    title = "The Great Wave off Kanagawa"
    painter = "Katsushika Hokusai"
    year = "about 1831"
    licence = "public domain"
    strength = 1.0
    notes.mobile = "It sets small curls evenly on textured places."

`strength` is that of style in training, as in `faststyle train --strength`; 1 where it is left out.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from faststyle.errors import RecipeError, did_you_mean

TABLE = "paintings.toml"
MAX_BYTES = 2**20  # of a table


@dataclass(frozen=True)
class Title:
    """An entry of the table; its text is that below a picture on a wall."""

    title: str
    painter: str = ""
    year: str = ""
    licence: str = ""
    strength: float = 1.0
    notes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.painter, self.title, self.year)))


@dataclass(frozen=True)
class Titles:
    """A table: notes that hold for all networks, and the entries by name of the painting."""

    notes: str = ""
    paintings: Mapping[str, Title] = field(default_factory=dict)


def read_titles(folder: Path) -> Titles:
    """Return the table of a folder, empty where there is none. Raises: RecipeError."""
    path = folder / TABLE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise RecipeError(f"{path}: more than {MAX_BYTES:,} bytes: no table of paintings")
        values = tomllib.loads(data.decode("utf-8"))
    except FileNotFoundError:
        return Titles()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    notes = values.pop("notes", "")
    return Titles(
        _notes(f"{path}: notes", notes),
        {name: _read_entry(f"{path}: {name}", entry) for name, entry in values.items()},
    )


def _read_entry(where: str, entry: Any) -> Title:
    known = [one.name for one in fields(Title)]
    if not isinstance(entry, dict) or "title" not in entry:
        raise RecipeError(f'{where} must be a table with a title, as in [name] title = "..."')
    for key in entry:
        if key not in known:
            raise RecipeError(f"{where} has the unknown key {key!r}.{did_you_mean(key, known)}")
    notes = entry.get("notes", {})
    if not isinstance(notes, dict):
        raise RecipeError(f'{where}: notes are those of a network, as in notes.mobile = "..."')
    others = ("strength", "notes")
    texts = {key: _text(f"{where}.{key}", entry[key]) for key in entry if key not in others}
    strength = _strength(f"{where}.strength", entry.get("strength", 1.0))
    by_network = {key: _notes(f"{where}.notes.{key}", value) for key, value in notes.items()}
    return Title(**texts, strength=strength, notes=by_network)


def _strength(where: str, value: Any) -> float:
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or not 0 < value < math.inf:
        raise RecipeError(f"{where} must be a number above 0, got {value!r}")
    return float(value)


def _text(where: str, value: Any) -> str:
    """Return a text, or a whole number, such as a year, as a text. Raises: RecipeError."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RecipeError(f"{where} must be a text, got {value!r}")
    return " ".join(str(value).split())


def _notes(where: str, value: Any) -> str:
    """Return a text of paragraphs, each one line, with an empty line between them."""
    paragraphs = re.split(r"\n\s*\n", value) if isinstance(value, str) else [value]
    return "\n\n".join(filter(None, (_text(where, paragraph) for paragraph in paragraphs)))


def painting_words(checkpoint: Path, painting: Mapping[str, Any]) -> str:
    """Return words on the painting of a checkpoint: its entry in the table beside, else its file.

    `painting` is the entry in the checkpoint's own metadata. Raises: RecipeError.
    """
    title = read_titles(checkpoint.parent).paintings.get(str(painting.get("name", "")))
    return str(title or painting.get("file", ""))
