"""The HTTP service: pictures, every status, limits, batches, cached styles, and its end."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw, needs, write_random_network
from fuzz import mutate, picture_seeds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import faststyle
from faststyle.checkpoint import About, save_checkpoint
from faststyle.engines.options import EngineOptions
from faststyle.errors import DeviceError, ServerError
from faststyle.networks import build_network
from faststyle.serve import styles as styles_module
from faststyle.serve.app import PACKAGES, build_app
from faststyle.serve.options import RequestError, ServeOptions
from faststyle.serve.page import render_page
from faststyle.serve.server import bound_socket, is_public, run_server, serve_until
from faststyle.serve.service import Service
from faststyle.serve.styles import Catalogue, Shelf
from faststyle.serve.wanted import PARAMETERS, choose_format, read_wanted
from faststyle.signals import Stop
from faststyle.stylize.stylizer import Stylizer

pytestmark = needs(*PACKAGES)
TORCH = EngineOptions("torch", "cpu", "float32")
REFUSED = {400, 403, 404, 406, 413, 415, 422, 429}  # what a bad request may get
ONE_LEVEL = 1  # of 255: rounding to 8 bits
BOUNDARY = "limit"


class Client:
    """A running service in this process, and how to talk to it."""

    def __init__(self, service: Service, port: int) -> None:
        self.service = service
        self.port = port

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            data = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, data

    def stylize(
        self, photo: bytes, query: str = "style=dots", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        return self.ask("POST", f"/stylize?{query}", photo, {"Content-Type": "", **headers})

    def error(self, *args: Any, **kwargs: Any) -> tuple[int, str]:
        """Return the status and the message of a request that is refused."""
        status, headers, data = self.stylize(*args, **kwargs)
        assert headers["content-type"] == "application/json"
        found = json.loads(data)
        assert set(found) == {"error"}
        assert found["error"].isprintable()
        return status, found["error"]

    def metric(self, name: str) -> float:
        text = self.ask("GET", "/metrics")[2].decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[Client]:
    options = ServeOptions(**{"port": 0, "engine": TORCH, "timeout": 300.0, **settings})
    stop = Stop()
    ready = threading.Event()
    with bound_socket(options) as listener:
        service = Service(options)
        service.start()
        port = listener.getsockname()[1]
        thread = threading.Thread(
            target=serve_until, args=(stop, listener, service, lambda _: ready.set())
        )
        thread.start()
        try:
            assert ready.wait(120)
            yield Client(service, port)
        finally:
            stop.number = signal.SIGTERM
            thread.join()
            service.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with styles: dots, and a collection of two."""
    folder = tmp_path_factory.mktemp("styles")
    (folder / "checkpoints").mkdir()
    write_random_network(folder / "checkpoints/dots.safetensors")
    config = {"name": "mobile", "width": 8, "paintings": 2}
    torch.manual_seed(1)
    network = build_network(config)
    for name, values in network.named_parameters():
        if values.shape[:1] == (2,):  # the scales and shifts of each painting
            torch.nn.init.normal_(values, 1.0 if "scale" in name or "weight" in name else 0.0, 0.5)
    paintings = ({"name": "red", "file": "red.png"}, {"name": "blue", "file": "blue.png"})
    about = About(config, {}, {}, "none", {}, paintings=paintings)
    save_checkpoint(folder / "checkpoints/two.safetensors", network, about)
    return folder


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service-cache")


@pytest.fixture(autouse=True)
def _here(place: Path, module_cache: Path, monkeypatch: pytest.MonkeyPatch, _offline: None) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("FASTSTYLE_CACHE", str(module_cache))


@pytest.fixture
def client() -> Iterator[Client]:
    with serving() as running:
        yield running


def encoded(picture: Image.Image, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, format)
    return file.getvalue()


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def form(photo: bytes | None, field: str = "photo", **fields: str) -> tuple[bytes, dict[str, str]]:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    if photo is not None:
        head = f'Content-Disposition: form-data; name="{field}"; filename="a.png"\r\n\r\n'
        parts.append(f"--{BOUNDARY}\r\n{head}".encode() + photo + b"\r\n")
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file that claims a size, and holds almost nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\x04IDAT"


PHOTO = encoded(draw(0, 40, 52))


# ---- pictures


def test_a_body_and_a_form_give_the_picture_of_the_stylizer(client: Client) -> None:
    expected = np.asarray(Stylizer.load("dots", engine="torch", device="cpu")(draw(0, 40, 52)))
    status, headers, data = client.stylize(PHOTO)
    assert (status, headers["content-type"]) == (200, "image/png")
    assert np.abs(decoded(data) - expected).max() <= ONE_LEVEL
    body, kind = form(PHOTO, style="dots")
    status, _, same = client.ask("POST", "/stylize", body, kind)
    assert status == 200
    assert np.array_equal(decoded(same), decoded(data))


def test_options_are_those_of_the_stylizer(client: Client) -> None:
    stylizer = Stylizer.load("dots", engine="torch", device="cpu")
    expected = stylizer(draw(0, 40, 52), size=24, keep_colors=True, stroke_size=1.5, mix=0.6)
    query = "style=dots&size=24&keep_colors=true&stroke_size=1.5&mix=0.6"
    _, _, data = client.stylize(PHOTO, query)
    assert np.abs(decoded(data) - np.asarray(expected)).max() <= ONE_LEVEL
    body, kind = form(PHOTO, size="24", keep_colors="on", stroke_size="1.5", mix="0.6", quality="")
    _, _, same = client.ask("POST", "/stylize?style=dots", body, kind)
    assert np.array_equal(decoded(same), decoded(data))


def test_strokes_in_proportion_are_an_option(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faststyle.stylize.strokes.SIDE", 20)
    stylizer = Stylizer.load("dots", engine="torch", device="cpu")
    expected = np.asarray(stylizer(draw(0, 40, 52), stroke_size="auto"))
    _, _, data = client.stylize(PHOTO, "style=dots&stroke_size=auto")
    assert np.abs(decoded(data) - expected).max() <= ONE_LEVEL


def test_paintings_of_a_collection_are_styles(client: Client) -> None:
    pictures = [decoded(client.stylize(PHOTO, f"style=two:{name}")[2]) for name in ("red", "blue")]
    assert np.abs(pictures[0] - pictures[1]).max() > 5
    names = {style["name"]: style for style in json.loads(client.ask("GET", "/styles")[2])}
    assert {"dots", "two:red", "two:blue"} <= set(names)
    assert names["two:red"]["painting"] == "red.png"
    assert names["two:red"]["collection"] == "two"
    assert names["two:blue"]["loaded"]
    assert not names["dots"]["loaded"]
    assert "collection:waves" in names  # of the package


@pytest.mark.parametrize(
    ("accept", "photo", "expected"),
    [
        ("", "JPEG", "JPEG"),
        ("*/*", "WEBP", "WEBP"),
        ("", "GIF", "PNG"),
        ("image/webp", "JPEG", "WEBP"),
        ("image/*;q=0.5, image/jpeg;q=0.9", "PNG", "JPEG"),
        ("image/png;q=0, */*", "PNG", "JPEG"),
        ("text/html, */*;q=0.8", "JPEG", "JPEG"),
        ("image/jpeg;q=nonsense", "PNG", "JPEG"),
    ],
)
def test_accept_decides_on_the_format(accept: str, photo: str, expected: str) -> None:
    assert choose_format(read_wanted([("style", "a")]), accept, photo) == expected
    asked = read_wanted([("style", "a"), ("format", "jpg")])
    assert choose_format(asked, accept, photo) == "JPEG"


def test_the_answer_has_the_format_that_was_asked_for(client: Client) -> None:
    for query, headers, expected in (
        ("style=dots&format=webp", {}, "WEBP"),
        ("style=dots&format=jpeg&quality=80", {"Accept": "image/png"}, "JPEG"),
        ("style=dots", {"Accept": "image/jpeg"}, "JPEG"),
    ):
        status, found, data = client.stylize(PHOTO, query, **headers)
        assert (status, found["content-type"]) == (200, f"image/{expected.lower()}")
        assert Image.open(io.BytesIO(data)).format == expected
        assert found["vary"] == "Accept"


def test_what_is_left_out_of_a_photo_is_said(client: Client) -> None:
    file = io.BytesIO()
    draw(0, 20, 30).save(file, "GIF", save_all=True, append_images=[draw(1, 20, 30)])
    _, headers, _ = client.stylize(file.getvalue())
    assert headers["faststyle-notes"] == "only the first frame of an animation is used"


# ---- errors


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("", 422, "`style` is missing"),
        ("style=", 422, "`style` is missing"),
        ("style=none", 404, "no style 'none': GET /styles lists them"),
        ("style=dotz", 404, "no style 'dotz': did you mean 'dots'?"),
        ("style=../checkpoints/dots", 404, "no style"),
        ("style=checkpoints/dots.safetensors", 404, "no style"),
        ("style=two", 404, "no style 'two'"),
        ("style=two:", 404, "no style"),
        ("style=two:re", 404, "no style"),
        ("style=dots:0.5", 404, "no style"),
        ("style=dots&mix=2", 422, "`mix` must be 0"),
        ("style=dots&mix=nan", 422, "`mix` must be 0"),
        ("style=dots&mix=a", 422, "`mix` 'a': use a number"),
        ("style=dots&stroke_size=0", 422, "`stroke_size` must be 0.1 to 100"),
        ("style=dots&stroke_size=large", 422, "`stroke_size` 'large': use a number, or auto"),
        ("style=dots&stroke_size=5e-324", 422, "`stroke_size` must be 0.1 to 100"),
        ("style=dots&stroke_size=0.1&size=900", 413, "ask for more than"),
        ("style=dots&size=0", 422, "`size` '0': use pixels"),
        ("style=dots&size=99999", 413, "ask for more than 16,000,000 pixels"),
        ("style=dots&size=00000099999", 422, "`size` '00000099999': use pixels"),
        ("style=dots&size=" + "9" * 5000, 422, "`size` '999"),
        ("style=dots&keep_colors=maybe", 422, "use true or false"),
        ("style=dots&format=tiff", 422, "`format` 'tiff': use png, jpeg, webp"),
        ("style=dots&quality=0", 422, "use 1 to 100"),
        ("style=dots&quality=0000000501", 422, "use 1 to 100"),
        ("style=dots&strength=2", 422, "no option 'strength'"),
        ("style=dots&style=dots", 422, "`style` is given twice"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    shared: Client, query: str, status: int, message: str
) -> None:
    got, text = shared.error(PHOTO, query)
    assert (got, message in text) == (status, True), text


@pytest.fixture(scope="module")
def shared(place: Path, module_cache: Path) -> Iterator[Client]:
    """One service for tests that only send something to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("FASTSTYLE_CACHE", str(module_cache))
        with serving(max_bytes=200_000) as running:
            yield running


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"", "", 400, "the body is empty"),
        (b"x" * 100, "", 415, "no picture that is read here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "", 415, "no picture"),
        (PHOTO[:200], "image/png", 422, "damaged or truncated"),
        (PHOTO, "text/html", 415, "a body of text/html"),
        (PHOTO, "application/json", 415, "a body of application/json"),
        (png_header(60_000, 60_000), "", 413, "pixels"),
        (png_header(5_000, 5_000), "", 413, "5000x5000 pixels, 16,000,000 are allowed"),
        (png_header(1_500_000, 1), "", 413, "ask for more than"),  # mirrored up to 16 pixels
        (bytes(200_001), "", 413, "more than 200,000 bytes"),
        (b"x", "multipart/form-data", 400, "Missing boundary"),
        (b"x", "multipart/form-data; boundary=a", 400, "the form cannot be read"),
        (form(None, style="dots")[0], f"multipart/form-data; boundary={BOUNDARY}", 400, "no file"),
        (
            form(PHOTO, "file")[0],
            f"multipart/form-data; boundary={BOUNDARY}",
            400,
            "in the field 'file'; use 'photo'",
        ),
    ],
)
def test_bodies_that_are_no_photo_are_refused(
    shared: Client, body: bytes, kind: str, status: int, message: str
) -> None:
    got, text = shared.error(body, **{"Content-Type": kind})
    assert (got, message in text) == (status, True), text


def test_a_body_without_a_length_is_bounded(shared: Client) -> None:
    chunks = (bytes(50_000) for _ in range(5))
    status, headers, data = shared.ask("POST", "/stylize?style=dots", chunks)
    assert (status, headers["content-type"]) == (413, "application/json")
    assert b"more than 200,000 bytes" in data
    body, kind = form(bytes(200_001))
    assert shared.ask("POST", "/stylize?style=dots", body, kind)[0] == 413


def test_other_errors_are_json_too(shared: Client) -> None:
    for method, path, expected in (
        ("GET", "/nothing", 404),
        ("GET", "/stylize", 405),
        ("GET", "/docs", 404),
    ):
        status, _, data = shared.ask(method, path)
        assert status == expected
        assert set(json.loads(data)) == {"error"}
    status, text = shared.error(PHOTO, "style=dots", Accept="text/html")
    assert (status, "allows none of: image/png" in text) == (406, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://localhost:9"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
    ],
)
def test_requests_name_this_machine(shared: Client, headers: dict[str, str], status: int) -> None:
    assert shared.ask("GET", "/healthz", None, headers)[0] == status


def test_another_name_can_be_allowed() -> None:
    with serving(hosts=["Painter.example."]) as client:
        assert client.ask("GET", "/healthz", None, {"Host": "painter.example:80"})[0] == 200


def test_a_style_that_cannot_be_loaded_is_503_without_paths(place: Path) -> None:
    path = place / "checkpoints/broken.safetensors"
    path.write_bytes((place / "checkpoints/dots.safetensors").read_bytes())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # of a weight: the header can still be read
    path.write_bytes(data)
    try:
        with serving() as client:
            status, text = client.error(PHOTO, "style=broken")
            assert (status, str(place) in text) == (503, False)
            assert client.stylize(PHOTO)[0] == 200  # the worker goes on
    finally:
        path.unlink()


def test_a_bug_is_500_without_its_traceback_and_the_worker_goes_on(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Stylizer, "stylize_batch", lambda *_: [][1])
        status, text = client.error(PHOTO)
    assert (status, text) == (500, "an error of the service; its log has the reason")
    assert client.stylize(PHOTO)[0] == 200


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.binary(max_size=300),
    kind=st.sampled_from(["", "image/png", "multipart/form-data; boundary=limit", "a/b", "\xff"]),
    query=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
)
def test_any_body_is_refused(shared: Client, body: bytes, kind: str, query: str) -> None:
    assert shared.stylize(body, query, **{"Content-Type": kind})[0] in REFUSED
    wrapped, _ = form(body)
    head = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert shared.stylize(wrapped, "style=dots", **head)[0] in REFUSED
    damaged = mutate(wrapped, body or b"x", random.Random(len(body)))
    assert shared.stylize(damaged, "style=dots", **head)[0] in REFUSED


def test_damaged_photos_are_painted_or_refused(shared: Client, tmp_path: Path) -> None:
    seeds = [path.read_bytes() for path in picture_seeds(tmp_path)]
    rng = random.Random(7)
    seen = set()
    for _ in range(150):
        data = mutate(rng.choice(seeds), rng.choice(seeds), rng)
        body, kind = form(data, style="dots") if rng.random() < 0.3 else (data, {})
        query = "" if kind else "style=dots"
        status = shared.stylize(body, query, **kind)[0]
        assert status == 200 or status in REFUSED
        seen.add(status)
    assert {200, 415, 422} <= seen


# ---- the queue


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Hold the worker before each batch, and note the sizes of batches."""
    held = Gate()
    original = Stylizer.stylize_batch

    def wait(self: Stylizer, pictures: Any, *args: Any) -> Any:
        held.batches.append(len(pictures))
        held.reached.set()
        assert held.open.wait(120)
        return original(self, pictures, *args)

    monkeypatch.setattr(Stylizer, "stylize_batch", wait)
    yield held
    held.open.set()


class Gate:
    def __init__(self) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        self.batches: list[int] = []


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_photos_of_one_size_that_wait_are_one_batch(gate: Gate) -> None:
    photos = [encoded(draw(seed, 40, 52)) for seed in range(6)]
    other = encoded(draw(9, 30, 52))
    with serving(max_batch=4) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.stylize, PHOTO)
        assert gate.reached.wait(120)
        waiting = [pool.submit(client.stylize, photo) for photo in [*photos, other]]
        until(lambda: len(client.service.worker) == 7)
        assert client.metric("faststyle_queue_length") == 7
        gate.open.set()
        answers = [found.result() for found in (first, *waiting)]
        assert [status for status, *_ in answers] == [200] * 8
        assert sorted(gate.batches) == [1, 1, 2, 4]
        assert client.metric("faststyle_batch_size_sum") == 8
        assert client.metric("faststyle_batch_size_count") == 4
        assert client.metric('faststyle_requests_total{path="/stylize",status="200"}') == 8
        assert client.metric("faststyle_queue_length") == 0
        # Each gets its own picture, the one that it would get alone.
        for photo, (_, _, data) in zip([*photos, other], answers[1:], strict=True):
            alone = client.stylize(photo)[2]
            assert np.abs(decoded(alone) - decoded(data)).max() <= ONE_LEVEL


def test_a_batch_has_no_more_pixels_than_the_largest_photo(gate: Gate) -> None:
    with serving(max_pixels=40 * 52 * 2) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.stylize, PHOTO)
        assert gate.reached.wait(120)
        waiting = [pool.submit(client.stylize, PHOTO) for _ in range(5)]
        until(lambda: len(client.service.worker) == 5)
        gate.open.set()
        assert {found.result()[0] for found in (first, *waiting)} == {200}
    assert gate.batches == [1, 2, 2, 1]


def test_a_full_queue_is_429_with_the_time_to_come_again(gate: Gate) -> None:
    with serving(queue=2) as client, ThreadPoolExecutor(4) as pool:
        taken = [pool.submit(client.stylize, PHOTO) for _ in range(2)]
        until(lambda: client.service.in_progress == 2)
        status, headers, data = client.stylize(PHOTO)
        assert (status, "too many requests wait" in data.decode()) == (429, True)
        assert 1 <= int(headers["retry-after"]) <= 60
        assert client.ask("GET", "/healthz")[0] == 200
        gate.open.set()
        assert [found.result()[0] for found in taken] == [200, 200]
        assert client.stylize(PHOTO)[0] == 200


def test_photos_that_wait_hold_a_bounded_number_of_pixels(gate: Gate) -> None:
    with serving(max_pixels=40 * 52) as client, ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(client.stylize, PHOTO)]
        assert gate.reached.wait(120)
        taken += [pool.submit(client.stylize, PHOTO) for _ in range(4)]
        until(lambda: len(client.service.worker) == 4)
        assert client.error(PHOTO)[0] == 429
        gate.open.set()
        assert {found.result()[0] for found in taken} == {200}


def test_photos_of_clients_that_went_away_make_room(gate: Gate) -> None:
    with serving(max_pixels=40 * 52) as client, ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(client.stylize, PHOTO)]
        assert gate.reached.wait(120)
        head = f"Host: localhost\r\nContent-Length: {len(PHOTO)}\r\n\r\n"
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                gone = stack.enter_context(socket.create_connection(("127.0.0.1", client.port)))
                gone.sendall(f"POST /stylize?style=dots HTTP/1.1\r\n{head}".encode() + PHOTO)
            until(lambda: len(client.service.worker) == 4)
        until(lambda: client.service.in_progress == 1)
        taken.append(pool.submit(client.stylize, PHOTO))
        until(lambda: len(client.service.worker) == 1)
        gate.open.set()
        assert [found.result()[0] for found in taken] == [200, 200]


def test_a_request_that_takes_too_long_is_503_or_504(gate: Gate) -> None:
    with serving(timeout=1.0) as client, ThreadPoolExecutor(4) as pool:
        running = pool.submit(client.error, PHOTO)
        assert gate.reached.wait(120)
        waiting = pool.submit(client.stylize, PHOTO)
        assert running.result()[0] == 504
        status, headers, data = waiting.result()
        assert (status, "waited for more than 1 s" in data.decode()) == (503, True)
        assert int(headers["retry-after"]) >= 1
        gate.open.set()
        assert client.stylize(PHOTO)[0] == 200
    assert gate.batches == [1, 1]  # the one that waited was never worked on


def test_a_body_that_does_not_arrive_is_408() -> None:
    with (
        serving(timeout=0.3) as client,
        socket.create_connection(("127.0.0.1", client.port)) as slow,
    ):
        slow.settimeout(120)
        slow.sendall(b"POST /stylize?style=dots HTTP/1.1\r\nHost: localhost\r\n")
        slow.sendall(b"Content-Length: 100\r\n\r\nabc")
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
        until(lambda: client.service.in_progress == 0)


def test_a_client_that_went_away_is_not_worked_for(gate: Gate) -> None:
    with serving() as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.stylize, PHOTO)
        assert gate.reached.wait(120)
        with socket.create_connection(("127.0.0.1", client.port)) as gone:
            head = f"Host: localhost\r\nContent-Length: {len(PHOTO)}\r\n\r\n"
            gone.sendall(f"POST /stylize?style=dots HTTP/1.1\r\n{head}".encode() + PHOTO)
            until(lambda: len(client.service.worker) == 1)
        until(lambda: client.service.in_progress == 1)
        gate.open.set()
        assert first.result()[0] == 200
        assert client.stylize(PHOTO)[0] == 200
    assert gate.batches == [1, 1]


def test_64_clients_at_once_are_served(shared: Client) -> None:
    photos = [encoded(draw(seed, 40 + 8 * (seed % 3), 52)) for seed in range(64)]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(shared.stylize, photos))
    assert [status for status, *_ in answers] == [200] * 64
    for photo, (_, _, data) in zip(photos, answers, strict=True):
        assert decoded(photo).shape == decoded(data).shape
    assert shared.service.in_progress == 0


# ---- styles


def test_the_style_that_was_not_used_for_longest_makes_room(place: Path) -> None:
    catalogue = Catalogue()
    shelf = Shelf(2, TORCH, lambda _: None)
    dots, red, blue = (catalogue.find(name) for name in ("dots", "two:red", "two:blue"))
    first = shelf.get(dots)
    shelf.get(red)
    assert shelf.get(dots) is first
    shelf.get(blue)
    assert shelf.names() == ["dots", "two:blue"]
    assert shelf.get(dots) is first
    shelf.get(red)
    assert shelf.names() == ["dots", "two:red"]
    assert shelf.loads == 4


def test_a_style_that_was_trained_again_is_loaded_again(place: Path) -> None:
    path = place / "checkpoints/again.safetensors"
    write_random_network(path)
    try:
        shelf = Shelf(2, TORCH, lambda _: None)
        style = Catalogue().find("again")
        first = shelf.get(style)
        write_random_network(path)
        assert shelf.get(style) is not first
    finally:
        path.unlink()
    with pytest.raises(RequestError, match="again cannot be loaded"):
        shelf.get(style)


def test_new_styles_are_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(styles_module, "FRESH", 0.0)
    catalogue = Catalogue()
    with pytest.raises(RequestError, match="no style 'new'"):
        catalogue.find("new")
    write_random_network(place / "checkpoints/new.safetensors")
    try:
        assert catalogue.find("new").path.name == "new.safetensors"
    finally:
        (place / "checkpoints/new.safetensors").unlink()


def test_cached_styles_are_counted() -> None:
    with serving(styles=1, warm=["dots"]) as client:
        assert client.metric("faststyle_cached_styles") == 1
        for name in ("two:red", "dots", "dots"):
            client.stylize(PHOTO, f"style={name}")
        assert client.metric("faststyle_cached_styles") == 1
        assert client.metric("faststyle_style_loads") == 3


# ---- descriptions


def test_openapi_describes_each_option(shared: Client) -> None:
    status, _, data = shared.ask("GET", "/openapi.json")
    assert status == 200
    found = json.loads(data)
    assert set(found["paths"]) == {"/stylize", "/styles", "/healthz", "/metrics"}
    post = found["paths"]["/stylize"]["post"]
    assert [parameter["name"] for parameter in post["parameters"]] == list(PARAMETERS)
    assert all(parameter["description"] for parameter in post["parameters"])
    assert "multipart/form-data" in post["requestBody"]["content"]
    codes = {"200", "400", "404", "413", "415", "422", "429", "503", "504"}
    assert codes <= set(post["responses"])


def test_the_page_loads_nothing_from_elsewhere(shared: Client) -> None:
    status, headers, data = shared.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = data.decode()
    assert "two:red" in text
    assert not re.search(r"(src|href)=", text)
    assert headers["content-security-policy"].startswith("default-src 'none'")


def test_names_of_any_kind_are_shown_as_they_are_asked_for() -> None:
    page = render_page(["tom & jerry's"], "http://localhost/")
    assert "style=tom%20%26%20jerry%27s&quot; -o painted.jpg" in page
    assert "<option>tom &amp; jerry&#x27;s</option>" in page


def test_metrics_have_no_names_of_strangers(shared: Client) -> None:
    shared.ask("GET", "/some/made-up/path")
    text = shared.ask("GET", "/metrics")[2].decode()
    assert "made-up" not in text
    assert shared.metric('faststyle_requests_total{path="other",status="404"}') >= 1
    assert "process_resident_memory_bytes" in text


# ---- starting and stopping


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue": 0}, "`queue` must be 1 or more, got 0"),
        ({"timeout": float("nan")}, "`timeout` must be above 0"),
        ({"port": 70_000}, "`port` must be 0"),
        ({"styles": 1, "warm": ["a", "b"]}, "`warm`: 2 styles, and 1 are kept"),
    ],
)
def test_limits_that_make_no_sense_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ServerError, match=message):
        ServeOptions(**settings)


def test_an_address_that_cannot_be_had_is_one_line() -> None:
    in_use = pytest.raises(ServerError, match="address already in use; choose another `address`")
    with socket.create_server(("127.0.0.1", 0)) as taken, in_use:
        run_server(ServeOptions(port=taken.getsockname()[1]))
    with pytest.raises(ServerError, match="cannot listen on nowhere.invalid"):
        run_server(ServeOptions(address="nowhere.invalid"))
    with pytest.raises(ServerError, match="use `address` 0.0.0.0"):
        run_server(ServeOptions(hosts=["0.0.0.0"]))
    with pytest.raises(RequestError, match="no style 'none'"):
        run_server(ServeOptions(port=0, warm=["none"]))


def test_only_loopback_is_private() -> None:
    addresses = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.0.2.1")
    assert [is_public(ServeOptions(address)) for address in addresses] == [False] * 3 + [True] * 2


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PACKAGES:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(DeviceError, match=rf"needs {name}.*faststyle-trainer\[serve\]"):
                run_server(ServeOptions(port=0))


def test_an_app_can_be_built_for_other_servers() -> None:
    service = Service(ServeOptions())
    assert callable(build_app(service))
    service.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_requests_in_flight_and_ends_with_0(number: int) -> None:
    options = ("--port", "0", "--engine", "torch", "--device", "cpu", "--threads", "1")
    command = [sys.executable, "-m", "faststyle.cli", "serve", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(faststyle.__file__).parents[1])}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        line = running.stderr.readline()
        port = int(re.fullmatch(r"listening at http://127\.0\.0\.1:(\d+)/\n", line)[1])  # type: ignore[index]
        client = Client(None, port)  # type: ignore[arg-type]
        with contextlib.ExitStack() as stack:
            # Half of each body is sent before the signal, and the rest after it.
            flying = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2)
            ]
            head = f"Host: localhost\r\nContent-Length: {len(PHOTO)}\r\n\r\n"
            for one in flying:
                one.sendall(f"POST /stylize?style=dots HTTP/1.1\r\n{head}".encode() + PHOTO[:99])
            until(lambda: client.metric("faststyle_requests_in_progress") == 2)
            running.send_signal(number)
            until(lambda: refuses(port))
            for one in flying:
                one.sendall(PHOTO[99:])
                assert one.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        assert running.wait(120) == 0
        assert "stopped" in running.stderr.read()
    finally:
        running.kill()
        running.communicate()


def refuses(port: int) -> bool:
    """Return whether nobody listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return True
    return False
