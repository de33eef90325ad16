"""Trainings that the page starts: one at a time, each a process of its own.

A process is `faststyle train`, and its folder outputs/NAME says how it is. So a page may be closed,
and the server may end: whoever comes next reads the same folder. SIGTERM lets a run save its state,
and `--resume` goes on with it. What this room adds to the folder is the painting, app.json (recipe
and process) and train.log.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess  # nosec B404
import sys
import threading
import unicodedata
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from faststyle.app.options import AppOptions
from faststyle.app.run_log import ERROR, Progress, RunLog
from faststyle.errors import ImageError, OutputError, RecipeError, StateError, did_you_mean
from faststyle.files import output_error, write_bytes
from faststyle.images import read_header
from faststyle.paintings import read_painting
from faststyle.training.run_files import RunFiles, checkpoint_path

OUTPUTS = Path("outputs")
ABOUT = "app.json"
LOG = "train.log"
STOPPED = (130, 143)  # exit codes of trainings that were asked to end, and saved their state
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}
LAST_STATE = 30.0  # seconds that a run has to save its state, when the server ends

Status = Literal["waiting", "running", "stopping", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class Run:
    """A run as its folder shows it: how far it is, its newest pictures, and why it failed."""

    name: str
    status: Status
    recipe: str
    progress: Progress
    picture: Path | None
    checkpoint: Path

    @property
    def can_stop(self) -> bool:
        return self.status in ("waiting", "running")

    @property
    def can_resume(self) -> bool:
        return self.status in ("stopped", "failed")


def plain_name(text: str) -> str:
    """Return a text as a name of a style: small letters, digits and "_"; "" where none are left.

    Example:
        >>> plain_name("Nuit étoilée (1889).jpg")
        'nuit_etoilee_1889'
    """
    ascii_only = unicodedata.normalize("NFKD", Path(text).stem).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", ascii_only.lower()).strip("_")[:60]


class Jobs:
    """The queue of trainings, and the thread that starts one after the other."""

    def __init__(self, options: AppOptions, outputs: Path = OUTPUTS) -> None:
        self._options = options
        self._outputs = outputs
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._running = ""
        self._stopping = False
        self._closed = False
        self._process: psutil.Process | None = None
        self._logs: dict[str, RunLog] = {}
        self._thread = threading.Thread(target=self._work, name="trainings", daemon=True)

    def open(self) -> None:
        """Take over a run that an earlier server left running, and begin to work."""
        for name in self.names():
            process = _find_process(self._about(name))
            if process is not None:
                self._running = name
                self._process = process
        self._thread.start()

    def close(self) -> None:
        """Let the run save its state, and end. Those that wait stay in their folders."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._terminate()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(LAST_STATE)

    def names(self) -> list[str]:
        """Return the names of all runs that a page started, the newest first."""
        found = []
        for about in self._outputs.glob(f"*/{ABOUT}"):
            with contextlib.suppress(OSError):
                found.append((about.stat().st_mtime, about.parent.name))
        return [name for _, name in sorted(found, reverse=True)]

    @property
    def busy(self) -> bool:
        """Return whether a training runs."""
        return bool(self._running)

    def look(self, name: str) -> Run:
        """Return how a run is. Raises: StateError for a name that is not one of `names`."""
        self._check_known(name)
        log = self._logs.setdefault(name, RunLog(self._outputs / name / LOG))
        files = self._files(name)
        strips = sorted(files.strips.glob("*.png"), key=lambda file: (len(file.name), file.name))
        progress = log.read()
        status = self._status(name, files, progress)
        recipe = str(self._about(name).get("recipe", ""))
        # A preview of an earlier run may be there until this one is finished.
        picture = files.preview if status == "finished" and files.preview.is_file() else None
        picture = picture or next(iter(strips[-1:]), None)
        return Run(name, status, recipe, progress, picture, files.checkpoint)

    def add(self, painting: bytes, name: str, recipe: str, taken: Collection[str] = ()) -> str:
        """Put a training into the queue, and return its name.

        `painting` is the file, `taken` are names of styles that are there. Raises: ImageError for a
        painting that holds no style, RecipeError, OutputError for a name that will not do,
        StateError where too many wait.
        """
        if not self._options.train:
            raise RecipeError("this page does not train; start your own with: faststyle app")
        if recipe not in self._options.recipes:
            raise RecipeError(
                f"unknown `recipe` {recipe!r:.80}.{did_you_mean(recipe, self._options.recipes)}"
            )
        if not NAME.fullmatch(name):
            raise OutputError(
                f"`name` {name!r:.80}: use small letters, digits, _ and -, 60 at most"
            )
        suffix = self._check_painting(painting)
        with self._changed:
            if name in taken or self._files(name).checkpoint.exists():
                raise OutputError(f"there is a style {name} already; choose another `name`")
            folder = self._outputs / name
            if folder.exists():
                raise OutputError(f"there is a run {name} already; choose another `name`")
            self._check_place()
            try:
                folder.mkdir(parents=True)
            except OSError as error:
                raise output_error(folder, error) from error
            try:
                write_bytes(folder / f"painting{suffix}", painting)
                self._write_about(name, {"recipe": recipe, "painting": f"painting{suffix}"})
            except OutputError:  # the name is free again
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._enqueue(name)
        return name

    def stop(self, name: str) -> None:
        """Let a run save its state and end, or take it out of the queue. Raises: StateError."""
        self._check_known(name)
        with self._changed:
            if name in self._waiting:
                self._waiting.remove(name)
            elif name == self._running:
                self._terminate()
            else:
                raise StateError(f"{name} does not run")

    def resume(self, name: str) -> None:
        """Put a run that was stopped, or that failed, into the queue again. Raises: StateError."""
        run = self.look(name)
        if not run.can_resume:
            raise StateError(f"{name} is {run.status}: there is nothing to resume")
        if not self._options.train:
            raise StateError("this page does not train; start your own with: faststyle app")
        with self._changed:
            if name not in self._waiting and name != self._running:
                self._check_place()
                self._enqueue(name)

    def painting(self, name: str) -> Path | None:
        """Return the file of a run's painting."""
        return next(iter((self._outputs / name).glob("painting.*")), None)

    def _check_painting(self, data: bytes) -> str:
        """Return the suffix for the file of a painting. Raises: ImageError."""
        options = self._options
        if len(data) > options.max_bytes:
            raise ImageError(f"the painting has more than {options.max_bytes:,} bytes; reduce it")
        header = read_header(data, "the painting")
        if header is not None and header.height * header.width > options.max_pixels:
            raise ImageError(
                f"the painting has {header.height}x{header.width} pixels, "
                f"{options.max_pixels:,} are allowed; reduce it first"
            )
        read_painting(data)
        format = header.format if header else "PNG"
        return SUFFIXES.get(format, f".{format.lower()}")

    def _check_known(self, name: str) -> None:
        if not NAME.fullmatch(name) or not (self._outputs / name / ABOUT).is_file():
            raise StateError(f"there is no run {name!r:.80}")

    def _check_place(self) -> None:
        if len(self._waiting) >= self._options.queue:
            raise StateError(f"{len(self._waiting)} trainings wait already; try again later")

    def _enqueue(self, name: str) -> None:
        self._waiting.append(name)
        self._changed.notify_all()

    def _terminate(self) -> None:
        """Ask the process that runs, or is about to, for its last state."""
        if not self._running:
            return
        self._stopping = True
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process.terminate()

    def _status(self, name: str, files: RunFiles, progress: Progress) -> Status:
        if name == self._running:
            return "stopping" if self._stopping else "running"
        if name in self._waiting:
            return "waiting"
        if files.about().get("status") == "finished":
            return "finished"
        return "failed" if progress.error else "stopped"

    def _files(self, name: str) -> RunFiles:
        return RunFiles(self._outputs / name, checkpoint_path(name, None))

    def _about(self, name: str) -> dict[str, Any]:
        try:
            about = json.loads((self._outputs / name / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}

    def _write_about(self, name: str, about: dict[str, Any]) -> None:
        write_bytes(self._outputs / name / ABOUT, json.dumps(about, indent=1).encode())

    def _work(self) -> None:
        if self._process is not None:  # of an earlier server
            self._watch(self._process)
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                self._running = self._waiting.popleft()
            try:
                process = self._launch(self._running)
            except (OSError, OutputError) as error:
                self._end(f"error: the training cannot be started: {error}")
                continue
            with self._changed:
                self._process = process
                if self._stopping:  # asked for while it started
                    self._terminate()
            self._watch(process)

    def _watch(self, process: psutil.Process) -> None:
        """Wait until a process ends."""
        code = None
        with contextlib.suppress(psutil.NoSuchProcess):
            code = process.wait()  # None for that of an earlier server
        log = self._outputs / self._running / LOG
        if not code or code in STOPPED or self._stopping or RunLog(log).read().error:
            self._end()
            return
        why = f"was killed (signal {-code})" if code < 0 else f"failed (exit code {code})"
        self._end(f"{ERROR}the training {why}; its log is {log}")

    def _end(self, line: str = "") -> None:
        with self._changed:
            if line:
                with (
                    contextlib.suppress(OSError),
                    (self._outputs / self._running / LOG).open("a", encoding="utf-8") as log,
                ):
                    log.write(f"{line}\n")
            self._running = ""
            self._process = None
            self._stopping = False

    def _launch(self, name: str) -> psutil.Process:
        """Start the process of a run. Raises: OSError, OutputError."""
        folder = self._outputs / name
        about = self._about(name)
        command = [sys.executable, "-m", "faststyle.cli", "train"]
        command += ["--painting", str(self.painting(name)), "--name", name]
        command += ["--recipe", str(about.get("recipe")), *self._options.train_args]
        if any((folder / "state").glob("step-*")):
            command.append("--resume")
        with (folder / LOG).open("ab") as log:
            process = psutil.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C of the server's terminal is for the server, which then stops this.
                start_new_session=True,
            )
        found: psutil.Process = process
        # Without it, a later server does not find the process; this one does.
        with contextlib.suppress(psutil.NoSuchProcess, OutputError):
            self._write_about(name, {**about, "pid": found.pid, "started": found.create_time()})
        return found


def _find_process(about: dict[str, Any]) -> psutil.Process | None:
    """Return the process that app.json names, if it still runs."""
    try:
        process = psutil.Process(int(about["pid"]))
        # Numbers of processes are given again; the time of the start tells them apart.
        same = abs(process.create_time() - float(about["started"])) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (KeyError, TypeError, ValueError, psutil.Error):
        return None
