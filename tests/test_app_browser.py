"""The page of `faststyle app` in a real Chromium: what a person does with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_server import app_process
from browser import Watched, chromium, needs_chromium, read_axe, watched_page
from conftest import draw, needs, write_random_network, write_tiny_vgg
from PIL import Image
from test_video_clips import read_clip, write_clip

from faststyle import Stylizer
from faststyle.video.job import stylize_video
from faststyle.video.options import VideoOptions

pytestmark = [pytest.mark.slow, needs("gradio", "mcp", "av"), needs_chromium()]
WAIT = 600_000  # milliseconds: a machine that does other things too
# Gradio's own client says so, as a warning, whenever an answer has ended.
HARMLESS = "Method not implemented."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("app")
    (folder / "checkpoints").mkdir()
    for name in ("dots", "lines"):
        write_random_network(folder / "checkpoints" / f"{name}.safetensors")
    write_tiny_vgg(folder / "vgg.safetensors")
    draw(3, 60, 90).save(folder / "photo.png")
    draw(1, 80, 96).save(folder / "my painting.png")
    (folder / "text.png").write_bytes(b"hello")
    (folder / "empty.png").write_bytes(b"")
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with app_process(folder, folder / "vgg.safetensors") as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def watched(browser: Any, url: str) -> Iterator[Watched]:
    """Yield the page, open; at the end it has no errors, and has asked nobody else."""
    with watched_page(browser, viewport={"width": 1280, "height": 1000}) as watched:
        watched.page.set_default_timeout(WAIT)
        watched.page.goto(url)
        watched.page.wait_for_selector("#photo input[type=file]", state="attached")
        yield watched
        assert console_errors(watched) == []
        assert watched.elsewhere == []


def console_errors(watched: Watched) -> list[str]:
    return [error for error in watched.errors if error != HARMLESS]


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def upload(page: Any, place: str, file: Path) -> None:
    page.locator(f"{place} input[type=file]").first.set_input_files(str(file))


def wait_for_text(page: Any, place: str, text: str) -> str:
    found = page.locator(place).filter(has_text=re.compile(text))
    found.wait_for()
    return str(found.inner_text())


def test_a_photo_is_painted_as_python_paints_it(watched: Watched, folder: Path) -> None:
    page = watched.page
    page.get_by_label("Full size").check()
    upload(page, "#photo", folder / "photo.png")
    assert "90 x 60 pixels, painted in" in wait_for_text(page, "#told", "painted in")
    with page.expect_download() as download:
        page.locator("#save").click()
    got = np.array(Image.open(download.value.path())).astype(int)
    stylizer = Stylizer.load(folder / "checkpoints" / "dots.safetensors", engine="torch")
    expected = np.array(stylizer(folder / "photo.png")).astype(int)
    assert np.abs(got - expected).max() <= 1
    assert page.locator("#slider img").count() == 2
    # Moving a slider paints again: with none of the style, it is the photo.
    page.locator("#mix input[type=number]").fill("0")
    page.locator("#mix input[type=number]").press("Enter")
    page.wait_for_timeout(2000)
    wait_for_text(page, "#told", "painted in")
    with page.expect_download() as download:
        page.locator("#save").click()
    photo = np.array(Image.open(folder / "photo.png")).astype(int)
    assert np.abs(np.array(Image.open(download.value.path())).astype(int) - photo).max() <= 1


def test_a_style_is_chosen_by_its_thumbnail_and_by_keys(watched: Watched) -> None:
    page = watched.page
    page.locator("#styles button.thumbnail-item, #styles button").nth(1).wait_for()
    page.locator("#styles").get_by_role("button", name="Thumbnail 2 of").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#style input').value === 'lines'")
    assert page.locator("#style input").input_value() == "lines"


@pytest.mark.parametrize(
    ("file", "reason"),
    [("text.png", "no picture that is read here"), ("huge.png", "2,000,000 are allowed")],
)
def test_bad_files_are_told_in_words(
    watched: Watched, folder: Path, file: str, reason: str
) -> None:
    upload(watched.page, "#photo", folder / file)
    toast = watched.page.get_by_text(reason)
    toast.wait_for()
    assert "Traceback" not in watched.page.content()
    watched.errors.clear()  # the browser itself says that it cannot show such a file


def test_an_empty_file_is_told_in_words(watched: Watched, folder: Path) -> None:
    upload(watched.page, "#photo", folder / "empty.png")
    watched.page.get_by_text("empty").wait_for()
    assert "Traceback" not in watched.page.content()
    watched.errors.clear()  # the browser itself says that it cannot show such a file


def test_the_webcam_is_painted_live(browser: Any, url: str) -> None:
    size = {"width": 1280, "height": 900}
    with watched_page(browser, viewport=size, permissions=["camera"]) as watched:
        page = watched.page
        page.set_default_timeout(WAIT)
        page.goto(url)
        open_tab(page, "Webcam, live")
        page.locator("#webcam").get_by_text(re.compile("webcam", re.I)).last.click()
        page.wait_for_function("document.querySelector('#webcam video')?.videoWidth > 0")
        page.locator("#webcam button").filter(has_text=re.compile("record", re.I)).click()
        picture = page.locator("#live img")
        picture.wait_for()
        first = picture.get_attribute("src")
        # The camera of Chromium shows a clock, so that each frame differs.
        page.wait_for_function(
            "first => document.querySelector('#live img').src !== first", arg=first
        )
        assert "ms a frame" in page.locator("#live").inner_text()
        assert console_errors(watched) == []
        assert watched.elsewhere == []


def test_a_video_is_painted_as_the_command_paints_it(watched: Watched, folder: Path) -> None:
    page = watched.page
    clip = write_clip(folder / "walk.mp4", range(8), size=(96, 128))
    open_tab(page, "Video")
    upload(page, "#video", clip)
    page.locator("#video video").wait_for(state="attached")
    page.locator("#video_size input[type=number]").fill("128")
    page.locator("#video_size input[type=number]").press("Tab")
    page.locator("#go_video").click()
    assert "8 frames, " in wait_for_text(page, "#video_told", "8 frames, ")
    page.locator("#painted_video video").wait_for(state="attached")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the video").click()
    got = read_clip(Path(download.value.path()).rename(folder / "painted.mp4"))
    stylizer = Stylizer.load(folder / "checkpoints" / "dots.safetensors", engine="torch")
    options = VideoOptions(size=128, overwrite=True)
    stylize_video(clip, folder / "expected.mp4", lambda rgb: np.array(stylizer(rgb)), options)
    expected = read_clip(folder / "expected.mp4")
    assert (got.size, got.times) == (expected.size, expected.times)
    for one, other in zip(got.frames, expected.frames, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).mean() < 1
    # What is no video is said in words.
    page.reload()
    open_tab(page, "Video")
    (folder / "text.mp4").write_bytes(b"hello")
    upload(page, "#video", folder / "text.mp4")
    page.locator("#video video").wait_for(state="attached")
    page.locator("#go_video").click()
    page.get_by_text("not a video that can be read").wait_for()
    watched.errors.clear()  # the browser itself says that it cannot show such a file


def test_a_style_is_trained_from_the_page_and_survives_a_reload(
    watched: Watched, folder: Path
) -> None:
    page = watched.page
    open_tab(page, "Train")
    upload(page, "#painting", folder / "my painting.png")
    page.wait_for_selector("#painting img")
    page.locator("#train").click()
    wait_for_text(page, "#run_told", "my_painting .* Step [1-9]")
    page.wait_for_selector("#curves svg polyline")
    page.reload()
    open_tab(page, "Train")
    wait_for_text(page, "#run_told", "Step [1-9]")
    page.wait_for_selector("#strip img")
    page.locator("#stop button, button#stop").first.click()
    wait_for_text(page, "#run_told", "was stopped")
    page.locator("button#resume").click()
    wait_for_text(page, "#run_told", "is finished")
    open_tab(page, "Stylize")
    page.get_by_role("button", name="Thumbnail 3 of").wait_for()
    assert (folder / "checkpoints" / "my_painting.safetensors").is_file()


def test_slow_against_fast(watched: Watched, folder: Path) -> None:
    """It follows the training above, whose painting is at hand."""
    if not (folder / "checkpoints" / "my_painting.safetensors").is_file():
        pytest.skip("the training did not run")
    page = watched.page
    open_tab(page, "Compare")
    upload(page, "#compare_photo", folder / "photo.png")
    page.locator("#compare_style input").click()
    page.get_by_role("option", name="my painting").click()
    page.locator("#compare_steps input[type=number]").fill("10")
    page.locator("#compare_steps input[type=number]").press("Tab")
    page.locator("button#compare").click()
    text = wait_for_text(page, "#verdict", "the network needs")
    assert "the slow path" in text
    assert page.locator("#compare_chart polyline").count() == 3
    page.wait_for_selector("#compared img")


@pytest.fixture(scope="module")
def axe() -> str:
    return read_axe()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(
    browser: Any, url: str, axe: str, folder: Path, dark: bool, width: int
) -> None:
    scheme = "dark" if dark else "light"
    size = {"width": width, "height": 900}
    with watched_page(browser, viewport=size, color_scheme=scheme, bypass_csp=True) as watched:
        page = watched.page
        page.set_default_timeout(WAIT)
        page.goto(url)
        page.get_by_role("button", name="Thumbnail 2 of").wait_for()
        upload(page, "#photo", folder / "photo.png")
        wait_for_text(page, "#told", "painted in")
        page.evaluate(axe)
        for tab in ("Stylize", "Train", "Compare"):
            open_tab(page, tab)
            page.wait_for_timeout(1500)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = page.evaluate("axe.run()")["violations"]
            serious = [
                (one["id"], node["target"], node["html"][:200], node.get("failureSummary"))
                for one in found
                if one["impact"] in ("serious", "critical")
                for node in one["nodes"]
            ]
            assert serious == [], tab
