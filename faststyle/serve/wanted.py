"""The options of a request: read from its query and its form, and the format of the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from faststyle.abstraction import MOST
from faststyle.errors import ImageError, did_you_mean
from faststyle.images import QUALITY
from faststyle.serve.options import RequestError
from faststyle.stylize.strokes import AUTO, parse_stroke_size
from faststyle.stylize.stylizer import STROKE_SIZE, STROKE_SIZES, Look

PHOTO = "photo"  # the field of a form that holds the file
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}  # of answers, by Pillow's names
ALIASES = {"jpg": "jpeg"}
TRUE = ("true", "1", "yes", "on")
FALSE = ("false", "0", "no", "off")


@dataclass(frozen=True)
class Parameter:
    """An option of a request: how it is read, and its description as a JSON schema."""

    read: Callable[[str], Any]
    schema: dict[str, Any]
    about: str


@dataclass(frozen=True)
class Wanted:
    """The picture that a request asks for. Without `format`, Accept and the photo decide."""

    style: str
    size: int | None
    look: Look
    format: str | None
    quality: int


def _read_bool(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError("true or false")
    return text.lower() in TRUE


def _read_format(text: str) -> str:
    name = ALIASES.get(text.lower(), text.lower())
    if name not in FORMATS:
        raise ValueError(", ".join(FORMATS))
    return name


def _read_quality(text: str) -> int:
    number = _read_whole(text)
    if not 1 <= number <= 100:
        raise ValueError("1 to 100")
    return number


def _read_size(text: str) -> int:
    number = _read_whole(text)
    if not 1 <= number < 10**9:
        raise ValueError("pixels, 1 or more")
    return number


def _read_whole(text: str) -> int:
    """Return a whole number, 0 for a text that is none, or that is too long for one.

    Digits beyond the tenth are far above any limit, and long numbers are slow to read.
    """
    return int(text) if text.isdecimal() and len(text) <= 10 else 0


def _read_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number") from None


def _read_strokes(text: str) -> float | str:
    try:
        return parse_stroke_size(text)
    except ValueError:
        raise ValueError(f"a number, or {AUTO}") from None


PARAMETERS = {
    "style": Parameter(
        str, {"type": "string"}, "A name that GET /styles lists, such as NAME or NAME:PAINTING."
    ),
    "size": Parameter(
        _read_size,
        {"type": "integer", "minimum": 1},
        "Shorter side of the result, in pixels. Without it the photo keeps its size.",
    ),
    "stroke_size": Parameter(
        _read_strokes,
        {
            "anyOf": [
                {"type": "number", "minimum": STROKE_SIZES[0], "maximum": STROKE_SIZES[1]},
                {"const": AUTO},
            ],
            "default": STROKE_SIZE,
        },
        "Size of strokes: 2 is twice as large as trained; auto is in proportion to the photo.",
    ),
    "mix": Parameter(
        _read_number,
        {"type": "number", "minimum": 0, "maximum": 1, "default": 1.0},
        "How much of the style: 0 is the photo, 1 all of it.",
    ),
    "abstraction": Parameter(
        _read_number,
        {"type": "number", "minimum": 0, "maximum": MOST},
        "Radius in pixels of the texture that is left out of the photo; 0 keeps it. Without it "
        "the style decides.",
    ),
    "keep_colors": Parameter(
        _read_bool, {"type": "boolean", "default": False}, "Keep the colours of the photo."
    ),
    "format": Parameter(
        _read_format,
        {"type": "string", "enum": list(FORMATS)},
        "Format of the result. Without it the header Accept decides, then the photo's own format.",
    ),
    "quality": Parameter(
        _read_quality,
        {"type": "integer", "minimum": 1, "maximum": 100, "default": QUALITY},
        "Quality of JPEG and WebP.",
    ),
}


def read_wanted(given: Iterable[tuple[str, str]]) -> Wanted:
    """Return the options of a request, from the pairs of its query and of its form.

    An empty value counts as not given: browsers send empty fields of forms. Raises: RequestError.
    """
    values: dict[str, Any] = {}
    for name, text in given:
        if name not in PARAMETERS:
            raise _wrong(f"no option {name!r:.80}.{did_you_mean(name, PARAMETERS)}")
        if name in values:
            raise _wrong(f"`{name}` is given twice")
        if text == "":
            continue
        try:
            values[name] = PARAMETERS[name].read(text)
        except ValueError as error:
            raise _wrong(f"`{name}` {text!r:.80}: use {error}") from None
    if "style" not in values:
        raise _wrong("`style` is missing: name one that GET /styles lists")
    try:
        look = Look(
            values.get("keep_colors", False),
            values.get("stroke_size", STROKE_SIZE),
            values.get("mix", 1.0),
            values.get("abstraction"),
        )
    except ImageError as error:
        raise _wrong(str(error)) from None
    quality = values.get("quality", QUALITY)
    return Wanted(values["style"], values.get("size"), look, values.get("format"), quality)


def choose_format(wanted: Wanted, accept: str, photo_format: str) -> str:
    """Return Pillow's name of the format of the answer.

    The option `format` counts most, then the header Accept, then the format of the photo, then PNG.
    Raises: RequestError where Accept allows none of the formats.
    """
    if wanted.format:
        return FORMATS[wanted.format]
    own = photo_format if photo_format in FORMATS.values() else "PNG"
    qualities = _read_accept(accept)
    # The photo's own format comes first among those that are accepted alike.
    order = sorted(FORMATS.values(), key=lambda name: name != own)
    best = max(order, key=lambda name: _quality_of(f"image/{name.lower()}", qualities))
    if _quality_of(f"image/{best.lower()}", qualities) <= 0:
        known = ", ".join(f"image/{name}" for name in FORMATS)
        raise RequestError(
            HTTPStatus.NOT_ACCEPTABLE, f"Accept {accept!r:.80} allows none of: {known}"
        )
    return best


def _read_accept(header: str) -> dict[str, float]:
    """Return the media types of an Accept header with their weights, 1 where one makes no sense."""
    found: dict[str, float] = {}
    for entry in header.split(","):
        kind, *settings = (part.strip().lower() for part in entry.split(";"))
        weight = next((s[2:] for s in settings if s.startswith("q=")), "1")
        try:
            found[kind] = float(weight)
        except ValueError:
            found[kind] = 1.0
    found.pop("", None)
    return found or {"*/*": 1.0}


def _quality_of(kind: str, accepted: dict[str, float]) -> float:
    """Return the weight of a media type; the most exact entry counts (RFC 9110, 12.5.1)."""
    for name in (kind, "image/*", "*/*"):
        if name in accepted:
            return accepted[name]
    return 0.0


def _wrong(message: str) -> RequestError:
    return RequestError(HTTPStatus.UNPROCESSABLE_ENTITY, message)
