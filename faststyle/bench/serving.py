"""Measured speed and memory of `faststyle serve`, by clients on this machine.

The service is a process of its own, started as a person would. Each client is a thread with one
connection, which sends the next photo when it has the answer to the last one.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess  # nosec B404
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import psutil
import torch

import faststyle
from faststyle.checkpoint import SUFFIX, About, save_checkpoint
from faststyle.errors import ServerError
from faststyle.images import encode_image
from faststyle.networks import build_network

CLIENTS = (1, 8, 64)
STYLE = "bench"
WARM_UP = 20  # requests: engines compile for sizes, and buffers are filled
PARTS = 10  # of the requests, after each of which memory is measured
PHOTOS = 8  # different ones that clients send
TIMEOUT = 600  # seconds of an answer
RETRY = 0.05  # seconds after which a client comes again when the queue is full


@dataclass(frozen=True)
class ServeRow:
    """One number of clients: throughput, latency in milliseconds, and memory of the service.

    `batch` is the mean number of photos in one run of the network. `refused` counts answers of 429,
    after which the client came again. `rss_mb` is the resident memory after each tenth of the
    requests, in MiB.
    """

    clients: int
    requests: int
    size: str
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    batch: float
    refused: int
    rss_mb: list[int]


def bench_serve(
    network: Path | Mapping[str, Any],
    size: tuple[int, int] = (256, 256),
    requests: int = 200,
    clients: Sequence[int] = CLIENTS,
    options: Sequence[str] = (),
    announce: Callable[[str], None] = lambda _: None,
) -> list[ServeRow]:
    """Measure the service with a checkpoint, or with a network that gets random weights.

    `size` is the height and width of the photos, which are JPEG files. `requests` are those of each
    row. `options` are more options of `faststyle serve`. Raises: ServerError when the service does
    not start, or an answer is no picture.
    """
    photos = _photos(*size)
    rows = []
    with _service(network, max(clients), options) as (process, port):
        announce(f"the service has {process.memory_info().rss >> 20} MiB; warming up")
        _load(port, photos, WARM_UP, 1)
        for count in clients:
            announce(f"{count} clients, {requests} requests")
            rows.append(_measure(process, port, photos, requests, count, "x".join(map(str, size))))
    return rows


def _measure(
    process: psutil.Process, port: int, photos: list[bytes], requests: int, clients: int, size: str
) -> ServeRow:
    """Return the row of one number of clients."""
    memory: list[int] = []
    marks = {requests * part // PARTS for part in range(1, PARTS + 1)}

    def see(done: int) -> None:
        if done in marks:
            memory.append(process.memory_info().rss >> 20)

    before = _batches(port)
    began = time.perf_counter()
    seconds, refused = _load(port, photos, requests, clients, see)
    took = time.perf_counter() - began
    runs, pictures = (now - then for now, then in zip(_batches(port), before, strict=True))
    cuts = quantiles(seconds, n=100, method="inclusive")
    return ServeRow(
        clients=clients,
        requests=len(seconds),
        size=size,
        requests_per_second=len(seconds) / took,
        p50_ms=1e3 * cuts[49],
        p99_ms=1e3 * cuts[98],
        batch=pictures / runs,
        refused=refused,
        rss_mb=memory,
    )


def _load(
    port: int,
    photos: list[bytes],
    requests: int,
    clients: int,
    see: Callable[[int], None] = lambda done: None,
) -> tuple[list[float], int]:
    """Send requests from several clients; return the seconds of each, and how many came again.

    `see` is called with the number of answers so far, after each.
    """
    numbers = iter(range(requests))
    lock = threading.Lock()
    seconds: list[float] = []
    errors: list[Exception] = []
    refused = 0

    def run() -> None:
        nonlocal refused
        try:
            with contextlib.closing(_connect(port)) as connection:
                while True:
                    with lock:
                        number = next(numbers, None)
                    if number is None or errors:
                        return
                    took, again = _ask(connection, photos[number % len(photos)])
                    with lock:
                        seconds.append(took)
                        refused += again
                        see(len(seconds))
        except Exception as error:  # is raised again below, in the thread of the caller
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(min(clients, requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return seconds, refused


def _ask(connection: http.client.HTTPConnection, photo: bytes) -> tuple[float, int]:
    """Send a photo until there is a picture; return the seconds, and how often it was refused."""
    refused = 0
    began = time.perf_counter()
    while True:
        head = {"Content-Type": "image/jpeg"}
        connection.request("POST", f"/stylize?style={STYLE}", photo, head)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status == http.HTTPStatus.OK:
            return time.perf_counter() - began, refused
        if answer.status != http.HTTPStatus.TOO_MANY_REQUESTS:
            raise ServerError(f"the service answers {answer.status}: {data[:200]!r}")
        refused += 1
        time.sleep(RETRY)


def _connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)


def _batches(port: int) -> tuple[float, float]:
    """Return how often the network ran so far, and for how many photos."""
    with contextlib.closing(_connect(port)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    name = r"^faststyle_batch_size_{} (\S+)$"
    found = [re.search(name.format(part), text, re.MULTILINE) for part in ("count", "sum")]
    runs, pictures = (float(match[1]) if match else 0.0 for match in found)
    return runs, pictures


@contextlib.contextmanager
def _service(
    network: Path | Mapping[str, Any], clients: int, options: Sequence[str]
) -> Iterator[tuple[psutil.Process, int]]:
    """Start the service in a folder with one style; yield its process and its port."""
    with tempfile.TemporaryDirectory(prefix="faststyle-") as folder:
        checkpoint = Path(folder) / "checkpoints" / f"{STYLE}{SUFFIX}"
        checkpoint.parent.mkdir()
        if isinstance(network, Path):
            shutil.copyfile(network, checkpoint)
        else:
            about = About(dict(network), {}, {}, "none", {})
            save_checkpoint(checkpoint, build_network(network), about)
        command = [sys.executable, "-m", "faststyle.cli", "serve", "--port", "0"]
        command += ["--warm", STYLE, "--queue", str(max(64, clients)), "--timeout", str(TIMEOUT)]
        command += options
        # The service is that of this package, wherever it lies.
        path = str(Path(faststyle.__file__).parents[1])
        running = subprocess.Popen(  # nosec B603
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield psutil.Process(running.pid), _read_port(running)
        finally:
            running.send_signal(signal.SIGTERM)
            running.communicate()


def _read_port(running: subprocess.Popen[str]) -> int:
    """Return the port of a service, once it listens. Raises: ServerError when it ended instead."""
    assert running.stderr is not None
    lines = []
    for line in running.stderr:
        lines.append(line.strip())
        if found := re.match(r"listening at http://.*:(\d+)/$", line):
            return int(found[1])
    raise ServerError(f"the service did not start: {' '.join(lines)}")


def _photos(h: int, w: int) -> list[bytes]:
    """Return JPEG files with smooth shapes, which are as small as photos are."""
    generator = np.random.default_rng(0)
    coarse = torch.from_numpy(generator.random((PHOTOS, 3, 6, 8), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (h, w), mode="bilinear")
    return [encode_image(photo, "JPEG", quality=85) for photo in smooth]
