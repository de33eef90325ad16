"""`faststyle styles`: a page that holds all it shows; the table of paintings beside checkpoints."""

from __future__ import annotations

import base64
import dataclasses
import io
import webbrowser
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, needs_chromium, read_axe, watched_page
from conftest import draw, write_random_network
from PIL import Image
from typer.testing import CliRunner

from faststyle.checkpoint import About, load_checkpoint, save_checkpoint
from faststyle.cli import app
from faststyle.errors import RecipeError
from faststyle.images import read_image
from faststyle.networks import build_network
from faststyle.sizes import fit_shorter
from faststyle.stylize.stylizer import Stylizer
from faststyle.titles import painting_words, read_titles
from faststyle.training.photos import example_photo

LOADS = ("src", "href", "srcset", "data", "action", "poster")
EVIL = '<script>alert(1)</script> & "more".png'


class Page(HTMLParser):
    """What a page shows: its tags with their attributes, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a photo and two styles; one has scores and an evil painting."""
    monkeypatch.chdir(tmp_path)
    draw(0, 40, 60).save("my photo.png")
    Path("checkpoints").mkdir()
    write_random_network(Path("checkpoints/plain.safetensors"))
    network, about = load_checkpoint(Path("checkpoints/plain.safetensors"))
    scores = {"style_closed": 0.517, "light": 0.25}
    known = dataclasses.replace(about, painting={"name": "evil", "file": EVIL}, scores=scores)
    save_checkpoint(Path("checkpoints/scored.safetensors"), network, known)
    return tmp_path


def call(*args: str) -> Any:
    return CliRunner().invoke(app, ["styles", *args])


def test_the_page_shows_each_style_and_loads_nothing(workplace: Path) -> None:
    result = call("my photo.png", "--size", "32")
    assert result.exit_code == 0, result.output
    address = (workplace / "styles.html").as_uri()
    assert result.stdout == f"wrote styles.html: 2 styles; open {address}\n"
    text = Path("styles.html").read_text()
    page = Page(text)
    addresses = [v for _, attributes in page.tags for k, v in attributes.items() if k in LOADS]
    assert all(str(value).startswith("data:") for value in addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert not page.all("script")
    assert EVIL in page.words  # as words, not as a script
    pictures = page.all("img")
    assert [picture["alt"] for picture in pictures] == [
        "The photo my photo.png as it is",
        "my photo.png in the style plain, dots.png",
        f"my photo.png in the style scored, {EVIL}",
    ]
    assert {(p["width"], p["height"]) for p in pictures} == {("48", "32")}
    photo = fit_shorter(read_image("my photo.png"), 32)
    painted = Stylizer.load("plain", engine="torch", device="cpu")(photo)
    for picture, expected in zip(pictures, (photo, painted), strict=False):
        data = base64.b64decode(str(picture["src"]).removeprefix("data:image/webp;base64,"))
        shown = read_image(Image.open(io.BytesIO(data)))
        assert shown.shape == expected.shape
        assert (shown - expected).abs().mean() < 0.06  # WebP
    for words in (
        "faststyle stylize 'my photo.png' --style plain -o out.png",
        "faststyle stylize 'my photo.png' --style scored -o out.png",
        "0.52",
        "0.25",
        " ms",
        "48x32 pixels",
    ):
        assert words in page.words


def test_without_a_photo_it_is_the_one_of_the_thumbnails(workplace: Path) -> None:
    assert call("--size", "24", "--style", "plain", "-o", "a.html").exit_code == 0
    page = Page(Path("a.html").read_text())
    assert page.all("img")[0]["alt"] == f"The photo {example_photo().name} as it is"
    assert "faststyle stylize photo.jpg --style plain -o out.png" in page.words
    assert "1 style on chelsea.png" in page.words


def test_a_collection_is_all_of_its_paintings(workplace: Path) -> None:
    config = {"name": "mobile", "width": 8, "paintings": 2}
    paintings = ({"name": "red", "file": "red.png"}, {"name": "blue", "file": "blue.png"})
    about = About(config, {}, {}, "none", {}, paintings=paintings)
    save_checkpoint(Path("checkpoints/two.safetensors"), build_network(config), about)
    wanted = ["my photo.png", "--style", "plain", "--style", "two"]
    page = call(*wanted, "--size", "24")
    assert page.exit_code == 0, page.output
    commands = Page(Path("styles.html").read_text()).words
    for name in ("plain", "two:red", "two:blue"):
        assert f"--style {name} -o out.png" in commands
    sheet = CliRunner().invoke(app, ["sheet", *wanted, "--size", "24", "-o", "sheet.png"])
    assert sheet.stdout == "wrote sheet.png: plain, red, blue\n"


def test_a_file_that_is_there_is_only_replaced_with_overwrite(workplace: Path) -> None:
    Path("styles.html").write_text("<p>my own")
    refused = call("my photo.png", "--size", "24")
    assert refused.exit_code == 1
    assert refused.stderr == "error: -o styles.html: is there already; --overwrite replaces it\n"
    assert Path("styles.html").read_text() == "<p>my own"
    assert call("my photo.png", "--size", "24", "--overwrite").exit_code == 0
    assert "my own" not in Path("styles.html").read_text()


def test_a_style_that_is_damaged_is_said_and_the_others_are_shown(workplace: Path) -> None:
    Path("checkpoints/broken.safetensors").write_bytes(b"nothing")
    result = call("my photo.png", "--size", "24")
    assert result.exit_code == 1
    assert result.stderr.startswith("left out: broken: ")
    assert len(Page(Path("styles.html").read_text()).all("img")) == 3
    only = call("my photo.png", "--style", "broken", "-o", "none.html")
    assert only.exit_code == 1
    assert not Path("none.html").exists()


def test_the_page_is_opened_where_that_is_asked_for(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    show = ("my photo.png", "--size", "24", "--style", "plain", "--overwrite")
    for option in ([], ["--no-open"]):  # this is no terminal
        assert call(*show, *option).exit_code == 0
    assert opened == []
    call(*show, "--open")
    assert opened == [(workplace / "styles.html").as_uri()]


def test_words_on_a_painting_come_from_the_table_beside_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "wave-mobile.safetensors"
    painting = {"name": "wave", "file": "wave.jpg"}
    assert painting_words(checkpoint, painting) == "wave.jpg"
    (tmp_path / "paintings.toml").write_text('[wave]\ntitle = "The Wave"\nyear = 1831\n')
    assert painting_words(checkpoint, painting) == "The Wave, 1831"
    assert painting_words(checkpoint, {"name": "other", "file": "o.png"}) == "o.png"
    assert painting_words(checkpoint, {}) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[wave", "not valid TOML"),
        ("wave = 3", "wave must be a table with a title"),
        ('[wave]\npainter = "Anna"', "wave must be a table with a title"),
        ('[wave]\ntitle = "a"\npanter = "b"', "unknown key 'panter'. Did you mean 'painter'"),
        ('[wave]\ntitle = "a"\nnotes = "b"', "notes are those of a network"),
        ("[wave]\ntitle = 1.5", "title must be a text, got 1.5"),
        ('[wave]\ntitle = "a"\nstrength = true', "strength must be a number above 0, got True"),
        ('[wave]\ntitle = "a"\nstrength = inf', "strength must be a number above 0, got inf"),
        ('[wave]\ntitle = "a"\nstrength = "2"', "strength must be a number above 0, got '2'"),
    ],
)
def test_a_table_that_is_wrong_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "paintings.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_titles(tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.mark.slow
@needs_chromium()
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_the_page_shuts_nobody_out(workplace: Path, browser: Any, scheme: str, width: int) -> None:
    call("my photo.png", "--size", "64")
    size = {"width": width, "height": 800}
    options = {"color_scheme": scheme, "viewport": size, "bypass_csp": True}
    with watched_page(browser, **options) as watched:
        watched.page.goto((workplace / "styles.html").as_uri())
        assert watched.page.evaluate("document.documentElement.scrollWidth") == width
        watched.page.evaluate(read_axe())
        assert watched.page.evaluate("axe.run()")["violations"] == []
        assert watched.errors == []
        assert [url for url in watched.requests if not url.startswith(("file:", "data:"))] == []
