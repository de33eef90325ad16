"""The page of `faststyle app`, asked by gradio_client: endpoints, errors, limits, files."""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from app_server import app_process
from conftest import draw, needs, write_random_network, write_tiny_vgg
from PIL import Image

from faststyle import Stylizer
from faststyle.checkpoint import read_about
from faststyle.files import sha256

pytestmark = [
    needs("gradio", "mcp"),
    # gradio_client leaves the thread of its heartbeat, and its sockets, to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WAIT = 300  # seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two styles, a photo, and a painting."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "checkpoints").mkdir()
    write_random_network(folder / "checkpoints" / "dots.safetensors")
    write_random_network(folder / "checkpoints" / "lines.safetensors")
    write_tiny_vgg(folder / "vgg.safetensors")
    draw(3, 60, 90).save(folder / "photo.png")
    draw(1, 80, 96).save(folder / "painting.png")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with app_process(folder, folder / "vgg.safetensors") as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Any:
    from gradio_client import Client

    return Client(url, verbose=False, analytics_enabled=False)


def image(path: Path) -> Any:
    from gradio_client import handle_file

    return handle_file(str(path))


def ask(url: str, path: str, **headers: str) -> tuple[int, http.client.HTTPResponse, bytes]:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 0, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer, body


def test_the_pixels_are_those_of_python(client: Any, folder: Path) -> None:
    found = client.predict(image(folder / "photo.png"), "dots", api_name="/stylize")
    got = np.array(Image.open(found)).astype(int)
    stylizer = Stylizer.load(
        folder / "checkpoints" / "dots.safetensors", engine="torch", precision="float32"
    )
    expected = np.array(stylizer(folder / "photo.png")).astype(int)
    assert got.shape == (60, 90, 3)
    assert np.abs(got - expected).max() <= 1  # rounding of another number of threads


def test_blends_and_looks(client: Any, folder: Path) -> None:
    photo = np.array(Image.open(folder / "photo.png")).astype(int)
    found = client.predict(image(folder / "photo.png"), "dots", mix=0, api_name="/stylize")
    assert np.abs(np.array(Image.open(found)).astype(int) - photo).max() <= 1
    # Both networks are the same, so their blend is too.
    alone = client.predict(image(folder / "photo.png"), "dots", api_name="/stylize")
    blend = client.predict(
        image(folder / "photo.png"), "dots", second_style="lines", share=0.3, api_name="/stylize"
    )
    difference = np.array(Image.open(alone)).astype(int) - np.array(Image.open(blend)).astype(int)
    assert np.abs(difference).max() <= 1
    small = client.predict(image(folder / "photo.png"), "dots", size=30, api_name="/stylize")
    assert Image.open(small).size == (45, 30)


def test_styles_are_listed_and_only_those_can_be_named(client: Any, folder: Path) -> None:
    assert client.predict(api_name="/styles") == ["dots", "lines"]
    for name in ("nothing", "checkpoints/dots.safetensors", "../vgg", str(folder / "vgg")):
        with pytest.raises(Exception, match="no style"):
            client.predict(image(folder / "photo.png"), name, api_name="/stylize")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello", "no picture that is read here"),
        (b"", "the file is empty"),
        (b"x" * (2 * 2**20 + 1), "more than 2,097,152 bytes"),
        ("cut", "damaged"),
        ("large", "2,000,000 are allowed"),
    ],
)
def test_bad_uploads_are_told_in_words(
    client: Any, tmp_path: Path, content: bytes | str, reason: str
) -> None:
    path = tmp_path / "photo.png"
    if content == "large":  # 100 million pixels in few bytes
        Image.new("1", (10_000, 10_000)).save(path)
    elif content == "cut":
        buffer = io.BytesIO()
        draw(1, 200, 200).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue()[:5000])
    else:
        path.write_bytes(content if isinstance(content, bytes) else b"")
    with pytest.raises(Exception, match=reason) as caught:
        client.predict(image(path), "dots", api_name="/stylize")
    assert "Traceback" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_options_that_make_no_sense_are_told_in_words(client: Any, folder: Path) -> None:
    photo = image(folder / "photo.png")
    with pytest.raises(Exception, match="mix must be 0"):
        client.predict(photo, "dots", mix=2, api_name="/stylize")
    with pytest.raises(Exception, match="stroke_size must be 0.1 to 100"):
        client.predict(photo, "dots", stroke_size=0, api_name="/stylize")
    with pytest.raises(Exception, match="ask for more than 2,000,000 pixels"):
        client.predict(photo, "dots", size=5000, api_name="/stylize")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=vgg.safetensors",
        "/gradio_api/file=checkpoints/dots.safetensors",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file=http://example.com/",
        "/gradio_api/proxy=https://example.hf.space/",
    ],
)
def test_no_other_file_is_served(url: str, path: str) -> None:
    status, _, _ = ask(url, path)
    assert status == 403


def test_a_path_of_a_visitor_is_not_read(url: str, folder: Path) -> None:
    """The file is a photo that could be painted: by a path, not by an upload, it is refused."""
    place = urlsplit(url)
    meta = {"_type": "gradio.FileData"}
    for photo in (
        {"path": str(folder / "photo.png"), "meta": meta},
        {"path": str(folder / "photo.png")},
        {"path": "photo.png", "meta": meta},
    ):
        connection = http.client.HTTPConnection(place.hostname or "", place.port or 0, timeout=60)
        body = json.dumps({"data": [photo, "dots", "", 0.5, 1, 1, False, 0]})
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/gradio_api/call/stylize", body, headers)
        event = json.loads(connection.getresponse().read())["event_id"]
        connection.close()
        _, _, answer = ask(url, f"/gradio_api/call/stylize/{event}")
        assert b"event: error" in answer
        assert b"painted" not in answer
        assert str(folder).encode() not in answer


def test_strangers_are_refused(url: str) -> None:
    port = urlsplit(url).port
    assert ask(url, "/")[0] == 200
    assert ask(url, "/", Host=f"evil.example:{port}")[0] == 403
    assert ask(url, "/", Origin="https://evil.example")[0] == 403
    assert ask(url, "/", Origin=f"http://127.0.0.1:{port}")[0] == 200


def test_browsers_are_told_to_load_nothing_from_elsewhere(url: str) -> None:
    _, answer, body = ask(url, "/")
    policy = answer.getheader("Content-Security-Policy") or ""
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert b"googleapis" not in body


def test_only_the_named_endpoints_are_public(client: Any) -> None:
    named = client.view_api(return_format="dict")
    assert set(named["named_endpoints"]) == {
        "/stylize",
        "/styles",
        "/runs",
        "/train",
        "/stop_training",
        "/resume_training",
        "/compare",
    }
    assert not named["unnamed_endpoints"]


def test_the_tools_of_mcp_have_their_docstrings(url: str) -> None:
    import anyio
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def list_tools() -> dict[str, str]:
        async with (
            streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return {
                tool.name: tool.description or "" for tool in (await session.list_tools()).tools
            }

    tools = anyio.run(list_tools)
    assert len(tools) == 7
    described = {name.rpartition("stylize")[1] or name: text for name, text in tools.items()}
    assert any("Repaint a photo" in text for text in described.values())
    assert any("in the background" in text for text in tools.values())


def test_thumbnails_are_kept_by_the_hash_of_the_checkpoint(url: str, folder: Path) -> None:
    until = time.monotonic() + WAIT
    place = folder / "faststyle_cache" / "thumbnails"
    while time.monotonic() < until and len(list(place.glob("*.jpg"))) < 2:
        time.sleep(0.2)
    # Both files have the same content, so they may share a picture.
    pictures = list(place.glob("*.jpg"))
    assert pictures
    assert Image.open(pictures[0]).size == (160, 160)


@pytest.mark.slow
def test_a_style_is_trained_stopped_resumed_and_compared(client: Any, folder: Path) -> None:
    def wait_for(status: str, step: int = 0) -> dict[str, Any]:
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            run = client.predict(api_name="/runs")[0]
            if run["status"] == status and run["step"] >= step:
                return dict(run)
            assert run["status"] != "failed", run
            time.sleep(0.3)
        raise AssertionError(run)

    painting = image(folder / "painting.png")
    with pytest.raises(Exception, match="a style dots already"):
        client.predict(painting, "dots", "smoke", api_name="/train")
    with pytest.raises(Exception, match="unknown recipe"):
        client.predict(painting, "new", "collection", api_name="/train")
    client.predict(painting, "new", "smoke", api_name="/train")
    wait_for("running", 10)
    client.predict("new", api_name="/stop_training")
    stopped = wait_for("stopped")
    about = json.loads((folder / "outputs" / "new" / "run.json").read_text())
    assert about["status"] == "interrupted"
    assert stopped["step"] < stopped["steps"] == 300
    client.predict("new", api_name="/resume_training")
    wait_for("finished")
    assert client.predict(api_name="/styles") == ["dots", "lines", "new"]
    checkpoint = folder / "checkpoints" / "new.safetensors"
    assert read_about(checkpoint).painting["sha256"] == sha256(folder / "painting.png")
    # The run keeps its painting, so the comparison finds it.
    answer = client.predict(image(folder / "photo.png"), "new", steps=5, api_name="/compare")
    assert answer["verdict"][0].startswith("On 1 photo at 256 px the network needs")
    with pytest.raises(Exception, match="the painting of dots"):
        client.predict(image(folder / "photo.png"), "dots", steps=5, api_name="/compare")
