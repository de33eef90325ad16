"""Live frames: only the newest is shown, keys, outputs, and errors for missing devices."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from test_video_clips import read_clip, write_clip
from typer.testing import CliRunner

from faststyle.checkpoint import About, save_checkpoint
from faststyle.cli import app
from faststyle.errors import ImageError, OutputError
from faststyle.images import read_image
from faststyle.live import loop, mjpeg
from faststyle.live.camera import Camera
from faststyle.live.loop import LiveReport, run_live
from faststyle.live.mjpeg import MjpegOutput
from faststyle.live.outputs import FileOutput, WindowOutput, open_output
from faststyle.networks import build_network
from faststyle.stylize.stylizer import Look
from faststyle.video.options import VideoError

Rgb = np.ndarray[Any, Any]
SYNTHETIC = "lavfi:testsrc=size=64x48:rate=50"


class Recorder:
    """An output that keeps its frames, and presses the keys of `keys[n]` after n frames."""

    def __init__(self, keys: dict[int, str] | None = None) -> None:
        self.keys = keys or {}
        self.shown = []
        self.seconds = []
        self.closed = False

    def show(self, rgb: Rgb, seconds: float) -> None:
        self.shown.append(rgb)
        self.seconds.append(seconds)

    def pressed(self) -> str:
        return self.keys.pop(len(self.shown), "")

    def close(self) -> None:
        self.closed = True


def paint(value: int) -> Any:
    """Return a style that fills frames with one level, mixed with black by the strength."""
    return lambda rgb, look: np.full_like(rgb, round(value * look.mix))


def run(
    output: Recorder,
    *styles: int,
    source: str = SYNTHETIC,
    look: Look | None = None,
    **options: Any,
) -> LiveReport:
    with Camera(source) as camera:
        named = [(f"s{value}", paint(value)) for value in styles or (200,)]
        return run_live(camera, named, output, look or Look(), figures=False, **options)


def test_a_camera_gives_the_newest_frame_and_each_once() -> None:
    with Camera(SYNTHETIC) as camera:
        first = camera.newest(timeout=5)
        assert first is not None
        assert first.rgb.shape == (48, 64, 3)
        time.sleep(0.2)  # ten frames
        before = camera.read
        second = camera.newest(timeout=5)
        assert second is not None
        assert time.monotonic() - second.arrival < 0.1
        assert camera.read - before < 5
        assert camera.newest(timeout=0) is None or camera.read > before


def test_a_file_is_shown_at_its_own_speed_and_ends(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", range(10))  # 0.4 s
    output = Recorder()
    began = time.monotonic()
    report = run(output, source=str(path))
    assert 0.3 < time.monotonic() - began < 5
    assert report.frames + report.dropped == 10
    assert report.frames == len(output.shown) > 4
    assert output.seconds[0] == 0
    assert output.seconds == sorted(output.seconds)


def test_a_slow_network_drops_frames_and_does_not_lag() -> None:
    output = Recorder()

    def slow(rgb: Rgb, look: Look) -> Rgb:
        time.sleep(0.05)
        return rgb

    with Camera("lavfi:testsrc=size=64x48:rate=100") as camera:
        report = run_live(camera, [("slow", slow)], output, Look(), limit=1.0)
    assert report.frames < 25
    assert report.dropped > 2 * report.frames
    assert report.latency < 0.12  # seconds: 0.05 for the frame before, 0.05 for its own


def test_keys_change_style_and_strength_and_stop() -> None:
    output = Recorder({1: "n", 2: "n", 3: "p", 4: "--", 5: "+", 6: "q"})
    run(output, 100, 200)
    assert [int(rgb.max()) for rgb in output.shown] == [100, 200, 100, 200, 160, 180]


def test_strength_stays_within_its_limits_and_starts_at_the_mix_of_the_look() -> None:
    output = Recorder({1: "+", 2: "-" * 20, 3: "q"})
    run(output, 200, look=Look(mix=0.5))
    assert [int(rgb.max()) for rgb in output.shown] == [100, 120, 0]


def test_a_pause_shows_nothing() -> None:
    output = Recorder({2: " "})
    report = run(output, limit=0.6)
    assert report.frames == len(output.shown) == 2


def test_a_still_is_saved_under_a_new_name(tmp_path: Path) -> None:
    (tmp_path / "s200-001.png").write_bytes(b"")
    lines: list[str] = []
    run(Recorder({1: "s", 3: "q"}), stills=tmp_path, announce=lines.append)
    assert lines == [f"wrote {tmp_path / 's200-002.png'}"]
    assert bool(read_image(tmp_path / "s200-002.png").eq(200 / 255).all())


def test_figures_are_drawn_and_left_out_of_stills() -> None:
    black = np.zeros((48, 160, 3), np.uint8)
    drawn = loop._draw_text(black, "25.0 fps")
    assert black.max() == 0
    assert drawn.max() == 255
    assert drawn[24:].max() == 0 or drawn[40:].max() == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("99", "`source` 99: cannot be opened (.*); is a camera connected?"),
        ("nowhere.mp4", "`source` nowhere.mp4: cannot be opened"),
        ("lavfi:nonsense", "`source` lavfi:nonsense: cannot be opened"),
        ("http://127.0.0.1:9/", "`source` http://127.0.0.1:9/: cannot be opened"),
    ],
)
def test_missing_sources_are_errors_of_one_line(source: str, message: str) -> None:
    with pytest.raises(VideoError) as caught:
        Camera(source)
    assert message.split("(")[0] in str(caught.value)


def test_a_recording_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "live.mp4"
    output = FileOutput(path, 25)
    for i in range(6):
        output.show(np.full((49, 65, 3), 40 * i, np.uint8), 0.04 * i + (0.5 if i > 3 else 0))
    assert not path.exists()
    output.close()
    clip = read_clip(path)
    assert [round(float(t), 2) for t in clip.times] == [0, 0.04, 0.08, 0.12, 0.66, 0.7]
    assert clip.frames[0].shape == (48, 64, 3)
    assert abs(float(clip.frames[5].mean()) - 200) < 4


def test_a_recording_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    output = FileOutput(tmp_path / "live.mp4", 25)
    output.close()
    assert not list(tmp_path.iterdir())


def test_a_recording_replaces_nothing_without_being_asked(tmp_path: Path) -> None:
    path = tmp_path / "live.mp4"
    path.write_bytes(b"an older one")
    with pytest.raises(OutputError, match="is there already"):
        open_output(str(path), 25)
    open_output(str(path), 25, overwrite=True).close()
    assert path.read_bytes() == b"an older one"
    with pytest.raises(OutputError, match="frames need 2 pixels a side"):
        FileOutput(path, 25).show(np.zeros((1, 1, 3), np.uint8), 0)


def test_a_recording_into_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    output = FileOutput(tmp_path / "file" / "live.mp4", 25)
    with pytest.raises(OutputError):
        output.show(np.zeros((48, 64, 3), np.uint8), 0)


def test_a_stream_is_read_by_a_player() -> None:
    output = open_output("http://127.0.0.1:0", 25)
    assert isinstance(output, MjpegOutput)
    stop = threading.Event()

    def feed() -> None:
        while not stop.is_set():
            output.show(np.full((48, 64, 3), 120, np.uint8), 0)
            time.sleep(0.02)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{output.port}/", timeout=5) as response:
            assert response.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
        with av.open(f"http://127.0.0.1:{output.port}/", format="mpjpeg") as file:
            picture = next(file.decode(video=0)).to_ndarray(format="rgb24")
    finally:
        stop.set()
        feeder.join()
        output.close()
    assert picture.shape == (48, 64, 3)
    assert abs(float(picture.mean()) - 120) < 3


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("out.avi", "use a file (.mp4, .mkv, .mov), /dev/videoN, or http://127.0.0.1:8080"),
        ("http://127.0.0.1:99999", "http://127.0.0.1:99999: Port out of range 0-65535; use http"),
        ("http://127.0.0.1:x", "Port could not be cast to integer"),
        ("http://:8080", "an address and a port are expected; use http://127.0.0.1:8080"),
        ("http://127.0.0.1:8080/video", "an address and a port are expected"),
    ],
)
def test_other_outputs_are_refused(target: str, message: str) -> None:
    with pytest.raises(VideoError) as caught:
        open_output(target, 25)
    assert message in str(caught.value)


@pytest.fixture
def stream() -> Iterator[MjpegOutput]:
    """A stream of one grey picture."""
    output = MjpegOutput("http://127.0.0.1:0", ["Studio.local"])
    output.show(np.full((16, 16, 3), 120, np.uint8), 0)
    yield output
    output.close()


def connect(output: MjpegOutput) -> socket.socket:
    return socket.create_connection(("127.0.0.1", output.port), timeout=5)


def ask(output: MjpegOutput, *headers: str, path: str = "/") -> tuple[socket.socket, int]:
    """Send a request, and return its socket and the status of the answer."""
    client = connect(output)
    lines = [f"GET {path} HTTP/1.1", *headers, "", ""]
    client.sendall("\r\n".join(lines).encode())
    return client, int(client.recv(12).split()[1])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:80", 200),
        ("localhost:8080", 200),
        ("LOCALHOST.", 200),
        ("[::1]:8080", 200),
        ("studio.local:8080", 200),  # a name that was given
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("192.0.2.7", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_a_stream_answers_to_names_of_this_machine_alone(
    stream: MjpegOutput, host: str, status: int
) -> None:
    client, got = ask(stream, f"Host: {host}")
    client.close()
    assert got == status


def test_a_request_without_a_host_is_refused(stream: MjpegOutput) -> None:
    client, status = ask(stream)
    client.close()
    assert status == 403


def test_other_paths_hold_no_place(stream: MjpegOutput) -> None:
    client, status = ask(stream, "Host: localhost", path="/favicon.ico")
    client.close()
    assert status == 404


def test_a_stream_has_a_bounded_number_of_viewers(stream: MjpegOutput) -> None:
    viewers = [ask(stream, "Host: localhost")[0] for _ in range(mjpeg.MAX_VIEWERS)]
    with connect(stream) as one_more:
        assert one_more.recv(100).startswith(b"HTTP/1.0 503")
    for viewer in viewers:
        viewer.close()
    until = time.monotonic() + 10  # those who left give their places back
    while True:
        stream.show(np.zeros((16, 16, 3), np.uint8), 0)
        with connect(stream) as client, contextlib.suppress(ConnectionError):
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if client.recv(12).endswith(b"200"):
                break
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_viewer_that_asks_nothing_or_takes_nothing_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mjpeg._Handler, "timeout", 0.3)
    monkeypatch.setattr(mjpeg, "MAX_VIEWERS", 2)
    output = MjpegOutput("http://127.0.0.1:0")
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    try:
        silent = connect(output)
        assert silent.recv(1) == b""  # closed, after the time limit
        silent.close()
        stalled, status = ask(output, "Host: localhost")
        assert status == 200
        until = time.monotonic() + 20
        while output._server._places._value < 2:  # type: ignore[attr-defined]
            output.show(noise, 0)  # more and more, of which nothing is read
            assert time.monotonic() < until
            time.sleep(0.02)
        stalled.close()
    finally:
        output.close()


def test_viewers_who_left_a_stream_that_stands_still_are_noticed(
    stream: MjpegOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mjpeg, "REPEAT", 0.05)
    client, _ = ask(stream, "Host: localhost")
    client.close()
    until = time.monotonic() + 10
    while stream._server._places._value < mjpeg.MAX_VIEWERS:  # type: ignore[attr-defined]
        assert time.monotonic() < until
        time.sleep(0.02)


def test_port_0_is_any_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "DEFAULT_PORT", 1)  # may not be had without being root
    outputs = [MjpegOutput("http://localhost:0") for _ in range(2)]
    for output in outputs:
        output.close()
    assert outputs[0].port != outputs[1].port
    assert min(output.port for output in outputs) > 1
    assert outputs[0].address == f"http://localhost:{outputs[0].port}/"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_a_stream_over_ipv6() -> None:
    try:
        output = MjpegOutput("http://[::1]:0")
    except OutputError:
        pytest.skip("no IPv6 here")
    output.show(np.zeros((16, 16, 3), np.uint8), 0)
    with urllib.request.urlopen(output.address, timeout=5) as response:
        assert response.status == 200
    output.close()
    assert not output.is_public


def test_another_address_is_served_where_it_is_asked_for() -> None:
    output = MjpegOutput("http://0.0.0.0:0")
    output.show(np.zeros((16, 16, 3), np.uint8), 0)
    try:
        assert output.is_public
        for host, expected in (("127.0.0.1", 200), ("evil.example", 403)):
            client, status = ask(output, f"Host: {host}")
            client.close()
            assert status == expected
    finally:
        output.close()
    with pytest.raises(OutputError, match="`output` http://192.0.2.1:8080: Cannot assign"):
        MjpegOutput("http://192.0.2.1:8080")


def test_a_port_that_is_taken_is_an_error() -> None:
    output = MjpegOutput("http://127.0.0.1:0")
    try:
        with pytest.raises(OutputError, match="in use"):
            MjpegOutput(f"http://127.0.0.1:{output.port}")
    finally:
        output.close()


def test_without_a_screen_the_error_names_other_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(
        VideoError, match="no window can be opened here .*`output` http://127.0.0.1:8080"
    ):
        WindowOutput()


def test_the_command_records_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"name": "mobile", "width": 4, "blocks": 1}
    save_checkpoint(
        Path("checkpoints/a.safetensors"), build_network(config), About(config, {}, {}, "", {})
    )
    command = [
        "webcam",
        "--style",
        "a",
        "--engine",
        "torch",
        "--threads",
        "1",
        "--seconds",
        "1",
        "--json",
    ]
    done = CliRunner().invoke(app, [*command, "--source", SYNTHETIC, "-o", "live.mp4"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["frames"] == len(read_clip(Path("live.mp4")).frames) > 5
    assert done.stderr == "engine: torch, cpu, float32\n"
    refused = CliRunner().invoke(app, [*command, "--source", "nowhere.mp4", "-o", "other.mp4"])
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert not Path("other.mp4").exists()
    done = CliRunner().invoke(app, [*command, "--source", SYNTHETIC, "-o", "http://127.0.0.1:0"])
    assert done.exit_code == 0, done.output
    assert re.match(r"watch at http://127\.0\.0\.1:[1-9]\d+/\n", done.stderr)


def test_a_mix_out_of_range_is_refused() -> None:
    with pytest.raises(ImageError, match="`mix` must be"):
        Look(mix=2)
