"""The page of `faststyle export --format web`, in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import (
    CACHE,
    Watched,
    chromium,
    needs_chromium,
    read_axe,
    served,
    wait_until,
    watched_page,
)
from conftest import draw, needs, painted, write_random_network
from PIL import Image
from web_speed import renderer_memory

from faststyle.checkpoint import About, save_checkpoint
from faststyle.images import read_image
from faststyle.networks.mobile import Mobile
from faststyle.web.export import export_web
from faststyle.web.runtime import RuntimeFilesError, find_runtime

pytestmark = [
    pytest.mark.slow,
    needs_chromium(),
    needs("onnxruntime", "onnx", "onnxscript"),
]

LEVEL = 1 / 255
PATIENCE = 180_000  # milliseconds: tests may share a slow machine
FRAMES = 1000
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two small networks with random weights: their ids on the page, and their files."""
    folder = tmp_path_factory.mktemp("styles")
    dots = folder / "dots.safetensors"
    write_random_network(dots)
    torch.manual_seed(1)
    config = {"name": "mobile", "width": 16, "blocks": 1}
    waves = folder / "great_waves-mobile.safetensors"
    about = About(config, {"file": "waves.png"}, vgg={}, photos="none", recipe={})
    save_checkpoint(waves, Mobile(16, 1), about)
    return {"dots": dots, "great-waves": waves}


@pytest.fixture(scope="module")
def folder(styles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page with both styles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSTYLE_CACHE", str(CACHE))  # the runtime is 33 MB: download it once
        try:
            find_runtime()
        except RuntimeFilesError as error:
            pytest.skip(f"onnxruntime-web cannot be had: {error}")
        output = tmp_path_factory.mktemp("site") / "page"
        export_web([str(path) for path in styles.values()], output)
        yield output


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(folder) as url:
        yield url


@pytest.fixture
def watched(browser: Any, address: str) -> Iterator[Watched]:
    """The page, opened. At the end, nothing may have gone wrong or elsewhere in silence."""
    with watched_page(browser) as opened:
        open_page(opened.page, address)
        yield opened
        assert opened.errors == []
        assert opened.elsewhere == []
        assert len(opened.requests) > 10  # they were seen at all


@pytest.fixture
def page(watched: Watched) -> Any:
    return watched.page


def open_page(page: Any, address: str) -> None:
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")


def photo(h: int = 61, w: int = 83, seed: int = 3) -> tuple[bytes, torch.Tensor]:
    """A photo as a PNG file, and as a tensor (1, 3, H, W)."""
    image = draw(seed, h, w)
    return encoded(image), read_image(image)


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    data = io.BytesIO()
    image.save(data, format)
    return data.getvalue()


def upload(page: Any, data: bytes, name: str = "photo.png", kind: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


def wait_painted(page: Any) -> None:
    wait_until(page, "document.querySelector('#drop').getAttribute('aria-busy') === 'false'")
    wait_until(page, "/^Painted/.test(document.querySelector('#status').textContent)")


def shown(page: Any) -> torch.Tensor:
    """The picture that is on the page, (1, 3, H, W) in [0, 1]."""
    found = page.evaluate("document.querySelector('#picture').toDataURL('image/png')")
    return read_image(base64.b64decode(found.partition(",")[2]))


def off(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def give(page: Any, kind: str, name: str, data: bytes, media: str = "image/png") -> None:
    """Drop or paste a file on the page, as a person would."""
    page.evaluate(
        """([kind, name, base64, type]) => {
          const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type }));
          const event = kind === "paste"
            ? new ClipboardEvent(kind, { clipboardData: transfer, bubbles: true })
            : new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
          document.querySelector("#drop").dispatchEvent(event);
        }""",
        [kind, name, base64.b64encode(data).decode(), media],
    )


def error_of(page: Any) -> str:
    page.wait_for_selector("#error:not(:empty)")
    return str(page.text_content("#error"))


def slide(page: Any, selector: str, value: int) -> None:
    page.locator(selector).fill(str(value))


def choose(page: Any, style: str) -> None:
    page.locator(f"input[name=style][value={style}]").check(force=True)


# Painting


def test_a_photo_is_painted_as_in_python(page: Any, styles: dict[str, Path], folder: Path) -> None:
    """By torch, and by ONNX Runtime in Python with the same file: every value of the picture."""
    import onnxruntime

    data, image = photo()
    upload(page, data)
    wait_painted(page)
    for style in styles:
        choose(page, style)
        wait_painted(page)
        model = folder / "styles" / style / "model.onnx"
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (same,) = session.run(["stylized"], {"photo": image.numpy()})
        got = shown(page)
        assert off(got, painted(styles[style], image)) <= 3 * LEVEL
        assert off(got, torch.from_numpy(same)) <= LEVEL
        assert off(got, image) > 20 * LEVEL  # it is not the photo


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_may_be_dropped_or_pasted(page: Any, styles: dict[str, Path], kind: str) -> None:
    data, image = photo(48, 64, seed=4)
    give(page, kind, "mine.png", data)
    wait_painted(page)
    assert off(shown(page), painted(styles["dots"], image)) <= 3 * LEVEL


def test_the_mix_slider_goes_from_photo_to_painting(page: Any, styles: dict[str, Path]) -> None:
    data, image = photo()
    upload(page, data)
    wait_painted(page)
    slide(page, "#mix", 0)
    assert off(shown(page), image) <= LEVEL / 2
    slide(page, "#mix", 40)
    expected = 0.4 * painted(styles["dots"], image) + 0.6 * image
    assert off(shown(page), expected) <= 3 * LEVEL
    assert page.get_attribute("#mix", "aria-valuetext") == "40 %"


def test_two_styles_are_blended(page: Any, styles: dict[str, Path]) -> None:
    data, image = photo()
    upload(page, data)
    wait_painted(page)
    assert page.locator("#share").is_hidden()
    page.select_option("#second", "great-waves")
    page.wait_for_selector("#share", state="visible")
    pictures = [painted(path, image) for path in styles.values()]
    wait_painted(page)
    for percent in (50, 80, 0):
        slide(page, "#share", percent)
        expected = (1 - percent / 100) * pictures[0] + percent / 100 * pictures[1]
        wait_for_picture(page, expected)


def wait_for_picture(page: Any, expected: torch.Tensor) -> None:
    """Wait until the page shows a picture: a second style is painted after the first."""
    for _ in range(600):
        if off(shown(page), expected) <= 3 * LEVEL:
            return
        page.wait_for_timeout(100)
    assert off(shown(page), expected) <= 3 * LEVEL


def test_a_photo_of_12_megapixels_is_saved_at_its_size(page: Any) -> None:
    image = draw(5, 300, 400).resize((4000, 3000))
    page.select_option("#detail", "512")
    upload(page, encoded(image, "JPEG"), "large.jpg", "image/jpeg")
    wait_painted(page)
    assert shown(page).shape[-2:] == (384, 512)
    assert (
        "The photo is larger: the painting is enlarged to 4000 \u00d7 3000."
        in page.text_content("#status")
    )
    with page.expect_download() as waiting:
        page.click("#save")
    assert waiting.value.suggested_filename == "large-dots.jpg"
    with Image.open(waiting.value.path()) as saved:
        assert saved.size == (4000, 3000)
        small = read_image(saved.resize((512, 384), Image.Resampling.BOX))
    assert float((small - shown(page)).abs().mean()) < 4 * LEVEL


def test_the_saved_picture_is_what_is_shown(page: Any) -> None:
    upload(page, photo()[0], "holiday.2024.png")
    wait_painted(page)
    slide(page, "#mix", 70)
    with page.expect_download() as waiting:
        page.click("#save")
    assert waiting.value.suggested_filename == "holiday.2024-dots.png"
    assert off(read_image(Path(waiting.value.path()).read_bytes()), shown(page)) <= LEVEL


def test_the_example_is_painted(page: Any) -> None:
    page.click("#example")
    wait_painted(page)
    assert shown(page).shape[-2:] == (300, 451)


def test_without_the_headers_it_works_on_one_thread_and_says_so(
    browser: Any, folder: Path, styles: dict[str, Path]
) -> None:
    with served(folder, headers={}) as url, watched_page(browser) as watched:
        open_page(watched.page, url)
        data, image = photo()
        upload(watched.page, data)
        wait_painted(watched.page)
        assert off(shown(watched.page), painted(styles["dots"], image)) <= 3 * LEVEL
        assert "with 1 thread. More are not allowed here" in watched.page.text_content("#notes")
        assert watched.errors == []


def test_with_the_headers_there_are_threads(page: Any) -> None:
    upload(page, photo()[0])
    wait_painted(page)
    threads = page.evaluate("navigator.hardwareConcurrency")
    assert page.evaluate("crossOriginIsolated")
    if threads > 1:
        assert "with 1 thread" not in page.text_content("#notes")


def test_where_webgpu_fails_the_page_goes_on_without_it(
    browser: Any, address: str, styles: dict[str, Path]
) -> None:
    """The GPU is turned off in this Chromium."""
    with watched_page(browser) as watched:
        open_page(watched.page, f"{address}?device=webgpu")
        data, image = photo()
        upload(watched.page, data)
        wait_painted(watched.page)
        assert off(shown(watched.page), painted(styles["dots"], image)) <= 3 * LEVEL
        notes = watched.page.text_content("#notes")
        assert "Runs on the processor" in notes
        assert re.search(r" The GPU failed: \w", notes)
        assert [url for url in watched.requests if url.endswith("asyncify.wasm")]


# What goes wrong


def test_what_is_dropped_and_is_no_file_is_refused_in_words(page: Any) -> None:
    page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.setData("text/plain", "a picture of another page");
          document.body.dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
        }"""
    )
    assert error_of(page).startswith("That is no file.")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("letter.png", b"Dear all, this is a text.", "letter.png is not a picture that this"),
        ("empty.jpg", b"", "empty.jpg is empty: it has zero bytes."),
        ("cut.png", photo()[0][:60], "cut.png is not a picture that this"),
        ("dot.png", encoded(Image.new("RGB", (1, 1))), "dot.png is too small: it has 1 \u00d7 1"),
    ],
)
def test_what_is_no_photo_is_refused_in_words(
    page: Any, name: str, data: bytes, message: str
) -> None:
    upload(page, data, name)
    assert message in error_of(page)
    upload(page, photo()[0])  # and the page goes on
    wait_painted(page)
    assert page.text_content("#error") == ""


def test_a_file_that_is_too_large_is_refused_in_words(page: Any) -> None:
    page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(70e6)], "large.png"));
          document.body.dispatchEvent(
            new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
        }"""
    )
    assert error_of(page) == "large.png is too large: it has 70 MB, and 68 MB are allowed."


def test_a_network_that_cannot_be_loaded_is_said_in_words(browser: Any, address: str) -> None:
    with watched_page(browser) as watched:
        watched.page.route("**/model.onnx", lambda route: route.fulfill(status=404))
        watched.page.context.route("**/model.onnx", lambda route: route.fulfill(status=404))
        open_page(watched.page, address)
        upload(watched.page, photo()[0])
        assert "model.onnx could not be loaded: 404." in error_of(watched.page)


def test_a_wrong_picture_is_never_shown_in_silence(browser: Any, address: str) -> None:
    """The test picture must become what torch makes of it."""

    def lie(route: Any) -> None:
        answer = route.fetch()
        manifest = json.loads(answer.text())
        manifest["styles"][0]["probe"][7] += 4 * LEVEL
        route.fulfill(response=answer, body=json.dumps(manifest))

    with watched_page(browser) as watched:
        watched.page.route("**/styles.json", lie)
        open_page(watched.page, address)
        upload(watched.page, photo()[0])
        assert "paints a wrong picture of Dots" in error_of(watched.page)


def test_a_page_that_is_opened_as_a_file_says_what_it_needs(browser: Any, folder: Path) -> None:
    with watched_page(browser) as watched:
        watched.page.goto((folder / "index.html").as_uri())
        assert "python -m http.server" in error_of(watched.page)


# The camera


def wait_for_frames(page: Any, count: int) -> None:
    wait_until(page, f"Number(document.querySelector('#picture').dataset.frames) >= {count}")


def test_the_camera_is_painted_live(page: Any) -> None:
    page.select_option("#live", "128")
    page.click("#camera")
    wait_until(page, "/^[0-9.]+ fps at /.test(document.querySelector('#rate').textContent)")
    assert page.text_content("#rate").endswith(" fps at 147 \u00d7 110")
    first = shown(page)
    wait_for_frames(page, 12)
    assert off(first, shown(page)) > 10 * LEVEL  # the picture of the camera moves
    assert page.text_content("#camera") == "Stop the camera"
    assert page.get_attribute("#camera", "aria-pressed") == "true"
    page.click("#camera")
    page.wait_for_timeout(300)
    frames = page.get_attribute("#picture", "data-frames")
    page.wait_for_timeout(1000)
    assert page.get_attribute("#picture", "data-frames") == frames
    assert page.text_content("#rate") == ""


def test_two_styles_are_blended_live(page: Any) -> None:
    page.select_option("#live", "128")
    page.select_option("#second", "great-waves")
    page.click("#camera")
    wait_for_frames(page, 5)
    assert page.text_content("#error") == ""


def test_a_camera_that_is_refused_is_said_in_words(
    browser: Any, address: str, styles: dict[str, Path]
) -> None:
    """The photo that was being painted is painted all the same."""
    refusal = "new DOMException('no', 'NotAllowedError')"
    with watched_page(browser) as watched:
        watched.page.add_init_script(
            f"navigator.mediaDevices.getUserMedia = () => Promise.reject({refusal})"
        )
        held: list[Any] = []  # so that the photo is not painted before

        def hold(route: Any) -> None:
            held.append(route)

        watched.page.context.route("**/model.onnx", hold)
        open_page(watched.page, address)
        data, image = photo()
        upload(watched.page, data)
        watched.page.wait_for_selector("#picture:not([hidden])")
        watched.page.click("#camera")
        assert error_of(watched.page).startswith("The camera was refused.")
        assert watched.page.text_content("#camera") == "Use the camera"
        assert watched.page.is_enabled("#camera")
        for route in held:
            route.continue_()
        watched.page.context.unroute("**/model.onnx")  # it lets go of what is still held
        wait_painted(watched.page)
        assert off(shown(watched.page), painted(styles["dots"], image)) <= 3 * LEVEL
        assert watched.page.text_content("#error").startswith("The camera was refused.")


def test_memory_is_flat_over_many_frames(browser: Any, page: Any) -> None:
    page.select_option("#live", "128")
    page.click("#camera")
    wait_for_frames(page, 40)
    before = renderer_memory()
    # Garbage is collected now and then: the least of several readings counts.
    after = []
    for frames in range(40 + FRAMES // 2, 40 + FRAMES + 1, 100):
        wait_for_frames(page, frames)
        after.append(renderer_memory())
    # A leak of one frame of 110x147 RGBA a frame would be 32 MB by the middle.
    assert min(after) - before < 20e6


# People


@pytest.fixture(scope="module")
def axe() -> str:
    return read_axe()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"viewport": {"width": 1280, "height": 800}}, PHONE])
def test_nobody_is_shut_out(
    browser: Any, address: str, axe: str, scheme: str, size: dict[str, Any]
) -> None:
    with watched_page(browser, color_scheme=scheme, bypass_csp=True, **size) as watched:
        page = watched.page
        open_page(page, address)
        for step in (lambda: None, lambda: upload(page, photo()[0])):
            step()
            page.wait_for_timeout(300)
            page.evaluate(axe)
            found = page.evaluate("axe.run()")
            serious = [
                (v["id"], [n["html"] for n in v["nodes"]])
                for v in found["violations"]
                if v["impact"] in ("serious", "critical")
            ]
            assert serious == []
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0  # nothing hangs over the edge


def test_styles_are_chosen_with_the_keyboard(page: Any, styles: dict[str, Path]) -> None:
    data, image = photo()
    upload(page, data)
    wait_painted(page)
    page.focus("input[name=style]:checked")
    page.keyboard.press("ArrowRight")
    wait_for_picture(page, painted(styles["great-waves"], image))
    page.focus("#mix")
    page.keyboard.press("Home")
    assert off(shown(page), image) <= LEVEL / 2
