"""`faststyle app` for tests: run as a program, with styles and trainings that are small.

`app_process` starts it in a folder of its own, and yields its address.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
TINY = """
--steps 300 --image-size 32 --batch-size 2 --device cpu --threads 1 --set painting_size=48
--set loss.content_layers=gatys --set loss.style_layers=gatys --set network.width=4
--set network.blocks=1 --set workers=1 --set log_every=2 --set preview_every=20
--set precision=float32 --set state_every=50
"""
STARTED = "open "


@contextlib.contextmanager
def app_process(folder: Path, vgg: Path) -> Iterator[str]:
    """Serve the page from `folder`, in which checkpoints/ are its styles; yield its address."""
    places = {name: str(folder / name.lower()) for name in ("FASTSTYLE_CACHE", "FASTSTYLE_DATA")}
    paths = {"PYTHONPATH": str(TESTS.parent), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-u", __file__, str(vgg)],
            cwd=folder,
            env={**os.environ, **places, **paths, "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            line = next((line for line in lines if line.startswith(STARTED)), "")
            assert line, (folder / "server.log").read_text()
            yield line.removeprefix(STARTED).strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)
    assert process.returncode == 0, (folder / "server.log").read_text()
    assert not list((folder / "tmp").glob("faststyle-app-*"))  # uploads and results are removed


def main() -> None:
    """Serve until SIGTERM."""
    from faststyle import checkpoint
    from faststyle.app.options import AppOptions
    from faststyle.app.server import run_app
    from faststyle.engines.options import EngineOptions
    from faststyle.serve import styles

    vgg = Path(sys.argv[1])
    # Only the styles of the folder: the others take minutes to be rendered.
    checkpoint.GALLERY = Path("no gallery")
    styles.package_collections = list
    options = AppOptions(
        port=0,
        engine=EngineOptions(engine="torch", device="cpu", precision="float32", threads=1),
        max_bytes=2 * 2**20,
        max_pixels=2_000_000,
        recipes={"smoke": "Smoke: a test"},
        train_args=[*TINY.split(), "--vgg-weights", str(vgg)],
        vgg_weights=vgg,
        mcp=True,
    )
    run_app(
        options,
        lambda line: print(line, file=sys.stderr),
        lambda url: print(f"{STARTED}{url}"),
    )


if __name__ == "__main__":
    main()
