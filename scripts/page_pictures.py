"""Make the pictures of docs/app.md: of `faststyle app`, and of `faststyle export --format web`.

    python scripts/page_pictures.py           # all of them
    python scripts/page_pictures.py web       # or `app`: of one of the two pages

Chromium and playwright must be there, as for the tests of pages. Photos are those of scikit-image,
the painting is ours. A training is begun and left in the middle. It tells and shows how far it is
more often than those that visitors start. All of it takes some ten minutes on two busy cores.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import chromium, served, wait_until, watched_page  # noqa: E402

from faststyle.app import server  # noqa: E402
from faststyle.app.options import AppOptions  # noqa: E402
from faststyle.training.photos import sample_folder  # noqa: E402
from faststyle.web.export import export_web  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
PAINTING = ROOT / "data" / "styles" / "nocturne.png"
PHOTO = sample_folder() / "astronaut.png"
WAIT = 900_000  # milliseconds: a machine that does other things too
REST = 2000  # milliseconds before a picture is taken
WIDE = 1280  # pixels: width of a window
APP_WIDTH = 1000  # of the app's pictures: the window, reduced
APP_HEIGHTS = {"Stylize": 932, "Compare": 1024, "Train": 779}
WEB_WIDE = (1280, 734)  # pixels: width and height
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
WEB_PHONE = (520, 1125)
APP_PHONES = (1100, 1172)
GAP = 8  # pixels between phones
GREY = (136, 136, 136)
OFTEN = "--set log_every=1 --set preview_every=10"
PAINTED = """document.querySelector('#drop').ariaBusy === 'false'
  && /^Painted/.test(document.querySelector('#status').textContent)"""
# Times of a busy machine say nothing.
NO_TIMES = "document.querySelectorAll('#status, #notes').forEach((line) => line.remove())"
# Of those that are in sight: others are loaded late.
LOADED = """[...document.images].every((image) => {
  const { top, bottom } = image.getBoundingClientRect();
  const seen = image.checkVisibility() && bottom > 0 && top < innerHeight;
  return !seen || (image.complete && image.naturalWidth > 0);
})"""


def main() -> None:
    pages = sys.argv[1:] or ["web", "app"]
    if "web" in pages:
        web()
    if "app" in pages:
        app()


def web() -> None:
    """Write the pictures of the page without a server: light, and dark with two styles."""
    # What the wide picture cuts off below is room for the painting, which fills its column then.
    wide: dict[str, Any] = {"viewport": {"width": WEB_WIDE[0], "height": 900}}
    phone: dict[str, Any] = {**PHONE, "device_scale_factor": 2}
    windows = {"wide": (wide, WEB_WIDE), "phone": (phone, WEB_PHONE)}
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        export_web(["the_scream", "great_wave"], Path(name) / "page")
        with served(Path(name) / "page") as url:
            for kind, (window, size) in windows.items():
                for scheme in ("light", "dark"):
                    with watched_page(browser, **window, color_scheme=scheme) as watched:
                        page = watched.page
                        page.goto(url)
                        page.wait_for_selector("body[data-ready]", timeout=WAIT)
                        if scheme == "dark":
                            page.select_option("#second", "great-wave")
                            page.locator("#mix").fill("85")
                        page.click("#example")
                        wait_until(page, PAINTED, WAIT / 1000)
                        page.evaluate(NO_TIMES)
                        page.mouse.move(0, 0)
                        picture = shot(page)
                        height = round(picture.height * size[0] / picture.width)
                        picture = picture.resize((size[0], height)).crop((0, 0, *size))
                        write(picture, f"web_{kind}_{scheme}")


def app() -> None:
    """Write the pictures of the page with a server: its views, and those on a phone."""
    options = AppOptions(port=0, train_args=OFTEN.split())
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        Path("data").symlink_to(ROOT / "data")  # paintings that are at hand
        with server.served(options, print) as url, chromium() as browser:
            for _ in range(2):  # the first has to load the network: its time says nothing
                with app_view(browser, url, "Stylize") as page:
                    paint(page, "the scream")
                    write_view(page, "Stylize")
            with app_view(browser, url, "Stylize", **PHONE) as page:
                paint(page, "great wave")
                phones = [shot(page, full_page=True)]
            with app_view(browser, url, "Compare") as page:
                upload(page, "#compare_photo", PHOTO)
                page.locator("#compare_style input").click()
                page.get_by_role("option", name="nocturne (mobile)").click()
                page.locator("#compare_steps input[type=number]").fill("10")
                page.locator("#compare_steps input[type=number]").press("Tab")
                page.locator("button#compare").click()
                wait_for_text(page, "#verdict", "the network needs")
                page.wait_for_selector("#compared img")
                write_view(page, "Compare")
            with app_view(browser, url, "Train") as page:
                upload(page, "#painting", PAINTING)
                page.get_by_label("Instant").check()
                page.locator("button#train").click()
                wait_for_text(page, "#run_told", r"Step (1[2-9]|[2-4]\d) of")
                write_view(page, "Train")
            for view, scheme in (("Train", "light"), ("Train", "dark"), ("Compare", "dark")):
                with app_view(browser, url, view, **PHONE, color_scheme=scheme) as page:
                    if view == "Train":
                        wait_for_text(page, "#run_told", r"Step \d+ of")
                    phones.append(shot(page, full_page=True))
            write(side_by_side(phones), "app_phone")


@contextlib.contextmanager
def app_view(browser: Any, url: str, view: str, **context: Any) -> Iterator[Any]:
    """Yield the app's page with one of its views in front."""
    height = round(APP_HEIGHTS[view] * WIDE / APP_WIDTH)
    window = {"viewport": {"width": WIDE, "height": height}, **context}
    with watched_page(browser, **window) as watched:
        page = watched.page
        page.set_default_timeout(WAIT)
        page.goto(url)
        page.get_by_role("button", name="Thumbnail 9 of").wait_for()
        page.get_by_role("tab", name=view, exact=True).click()
        yield page


def paint(page: Any, style: str) -> None:
    page.locator("#styles").get_by_role("button", name=f"{style} (mobile)").click()
    upload(page, "#photo", PHOTO)
    wait_for_text(page, "#told", "painted in")
    wait_until(page, "document.querySelectorAll('#slider img').length === 2", WAIT / 1000)


def upload(page: Any, place: str, file: Path) -> None:
    page.locator(f"{place} input[type=file]").first.set_input_files(str(file))
    page.wait_for_selector(f"{place} img")


def wait_for_text(page: Any, place: str, text: str) -> None:
    page.locator(place).filter(has_text=re.compile(text)).wait_for()


def shot(page: Any, **options: Any) -> Image.Image:
    """Return the page as it looks once all of its pictures are there and nothing moves."""
    page.evaluate("document.activeElement?.blur()")
    wait_until(page, LOADED, WAIT / 1000)
    page.wait_for_timeout(REST)
    return Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB")


def write_view(page: Any, view: str) -> None:
    page.mouse.move(0, 0)
    write(shot(page).resize((APP_WIDTH, APP_HEIGHTS[view])), f"app_{view.lower()}")


def side_by_side(phones: list[Image.Image]) -> Image.Image:
    """Return pictures of a phone on grey, cut where they are too long."""
    sheet = Image.new("RGB", APP_PHONES, GREY)
    width = (sheet.width - GAP * (len(phones) - 1)) // len(phones)
    for number, picture in enumerate(phones):
        height = round(picture.height * width / picture.width)
        sheet.paste(picture.resize((width, height)), (number * (width + GAP), 0))
    return sheet


def write(picture: Image.Image, name: str) -> None:
    picture.save(PICTURES / f"{name}.jpg", quality=85, optimize=True)
    print(f"wrote {name}.jpg", flush=True)


if __name__ == "__main__":
    main()
