"""The resumable state of a run: a folder that is written aside, hashed, and renamed into place.

It holds the optimiser's moments and the random state of each process, through Accelerate's
save_state, and is private to the run. People exchange checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from faststyle.errors import OutputError, StateError
from faststyle.files import output_error, sha256

MANIFEST = "manifest.json"
KEPT = 2  # the newest, and the one before it in case the newest is damaged


@dataclass(frozen=True)
class SavedState:
    """A whole state on disk, its hashes verified.

    `step` is the one that it was saved after; `extra` is the plain data that was given with it.
    """

    folder: Path
    step: int
    extra: dict[str, Any]


def save_state(accelerator: Accelerator, folder: Path, step: int, extra: dict[str, Any]) -> None:
    """Write the state of all processes to `folder`/step-NNNNNN, whole or not at all.

    Older ones are deleted, all but the one before it. Raises: OutputError.
    """
    final = folder / f"step-{step:06d}"
    part = folder / f".step-{step:06d}.part"
    try:
        if accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(part))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _seal(part, final, step, extra)
            for old in _folders(folder)[KEPT:]:
                shutil.rmtree(old, ignore_errors=True)
        accelerator.wait_for_everyone()
    except OSError as error:
        raise output_error(final, error) from error
    # how torch and safetensors report a disk that is full
    except (RuntimeError, SafetensorError) as error:
        raise OutputError(
            f"cannot write {final}: the disk may be full, free some space "
            f"({str(error).splitlines()[0]})"
        ) from error
    finally:
        if accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)


def newest_state(folder: Path) -> SavedState | None:
    """Return the newest state whose files match their hashes; None when there is none at all.

    Raises: StateError when there are some, but all are damaged.
    """
    folders = _folders(folder)
    for candidate in folders:
        try:
            manifest = json.loads((candidate / MANIFEST).read_text(encoding="utf-8"))
            if manifest.pop("sha256") == _manifest_hash(manifest) and all(
                sha256(candidate / name) == digest for name, digest in manifest["files"].items()
            ):
                return SavedState(candidate, manifest["step"], manifest["extra"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    if folders:
        raise StateError(f"{folder}: no state there is whole; start again with `overwrite`")
    return None


def _seal(part: Path, final: Path, step: int, extra: dict[str, Any]) -> None:
    files = {
        p.relative_to(part).as_posix(): sha256(p) for p in sorted(part.rglob("*")) if p.is_file()
    }
    manifest = {"step": step, "extra": extra, "files": files}
    manifest = json.loads(json.dumps(manifest))  # as it will be read, so that the hash is the same
    manifest["sha256"] = _manifest_hash(manifest)
    (part / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in part.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    if final.exists():
        shutil.rmtree(final)
    part.rename(final)


def _manifest_hash(manifest: dict[str, Any]) -> str:
    """Return the sha256 of a manifest without its own hash."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _folders(folder: Path) -> list[Path]:
    """Return the state folders, newest first."""
    steps = (path for path in folder.glob("step-*") if path.name[5:].isdecimal())
    return sorted(steps, key=lambda path: int(path.name[5:]), reverse=True)
