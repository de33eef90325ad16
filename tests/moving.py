"""Clips whose motion is known: a pan, a zoom, parallax, an object that enters, a noisy camera.

    python tests/moving.py FOLDER

writes them as videos, over photos of scikit-image.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]
RATE = 25
COUNT = 60  # frames of a clip
HEIGHT = 256
WIDTH = 384
ZOOM = 0.995  # of the part of the photo that is seen, from a frame to the next
SQUARE = 64  # pixels; the side of the object that moves before the background
ENTRY = 8  # frames before an object enters


def texture(h: int, w: int, seed: int = 0, smooth: float = 2.0) -> Rgb:
    """Return random shapes, small and large as those of photos, in which motion is found."""
    rng = np.random.default_rng(seed)
    total = np.zeros((h, w, 3))
    for scale in (1, 3, 9):
        blurred = cv2.GaussianBlur(rng.normal(size=(h, w, 3)), (0, 0), smooth * scale)
        total += blurred / blurred.std()
    return np.clip(128 + 25 * total, 0, 255).astype(np.uint8)


def pan(photo: Rgb, h: int, w: int, count: int, step: tuple[int, int]) -> list[Rgb]:
    """Return parts of a photo, each moved by `step` pixels (across, down) from the one before."""
    right, down = step
    return [photo[i * down : i * down + h, i * right : i * right + w] for i in range(count)]


def pan_flow(h: int, w: int, step: tuple[int, int], distance: int) -> Floats:
    """Return the flow of `pan` from a frame to the one `distance` frames before."""
    return np.tile(np.float32(step) * distance, (h, w, 1))


def zoom(photo: Rgb, h: int, w: int, count: int, factor: float = ZOOM) -> list[Rgb]:
    """Return the middle of a photo, enlarged more and more. The photo is no smaller than (h, w)."""
    y, x = _from_middle(h, w)
    middle_y, middle_x = (np.array(photo.shape[:2], np.float32) - 1) / 2
    frames = []
    for i in range(count):
        places = (middle_x + x * factor**i, middle_y + y * factor**i)
        frames.append(cv2.remap(photo, *places, cv2.INTER_CUBIC))
    return frames


def zoom_flow(h: int, w: int, distance: int, factor: float = ZOOM) -> Floats:
    """Return the flow of `zoom` from a frame to the one `distance` frames before."""
    y, x = _from_middle(h, w)
    return np.stack([x, y], -1) * np.float32(factor**distance - 1)


def parallax(
    near: Rgb, far: Rgb, h: int, w: int, count: int, steps: tuple[int, int] = (4, 1)
) -> list[Rgb]:
    """Return a square of `near` that crosses `far`, which moves too; `steps` in pixels a frame."""
    frames = [frame.copy() for frame in pan(far, h, w, count, (steps[1], 0))]
    top = (h - SQUARE) // 2
    for i, frame in enumerate(frames):
        left = SQUARE // 4 + i * steps[0]
        seen = frame[top : top + SQUARE, left : left + SQUARE]
        seen[:] = near[:SQUARE, : seen.shape[1]]
    return frames


def enter(
    near: Rgb, far: Rgb, h: int, w: int, count: int, step: int = 4, begin: int = ENTRY
) -> list[Rgb]:
    """Return frames of `far` that stands still, which `near` enters from the left.

    It is out of sight in frames 0 to `begin`, and moves by `step` pixels a frame from then on,
    until all of it is seen. Its middle is that of the frame.
    """
    still = far[:h, :w]
    frames = []
    for i in range(count):
        frame = still.copy()
        top, bottom, right = entered(near, h, i, step, begin)
        frame[top:bottom, :right] = near[: bottom - top, near.shape[1] - right :]
        frames.append(frame)
    return frames


def entered(near: Rgb, h: int, i: int, step: int = 4, begin: int = ENTRY) -> tuple[int, int, int]:
    """Return where the object of `enter` is in frame i: top, bottom and right end, in pixels."""
    top = max(0, (h - near.shape[0]) // 2)
    return top, min(h, top + near.shape[0]), min(near.shape[1], max(0, (i - begin) * step))


def enter_flow(near: Rgb, h: int, w: int, i: int, step: int = 4, begin: int = ENTRY) -> Floats:
    """Return the flow of `enter` from frame i to the one before."""
    top, bottom, right = entered(near, h, i, step, begin)
    flow = np.zeros((h, w, 2), np.float32)
    flow[top:bottom, :right, 0] = entered(near, h, i - 1, step, begin)[2] - right
    return flow


def still(photo: Rgb, h: int, w: int, count: int, sigma: float, seed: int = 0) -> list[Rgb]:
    """Return the same part of a photo with new noise in each frame, `sigma` of 255 levels."""
    rng = np.random.default_rng(seed)
    part = photo[:h, :w].astype(np.float64)
    # Away from black and white, where noise would be cut off.
    part = 64 + part / 2
    frames = (part + rng.normal(0, sigma, part.shape) for _ in range(count))
    return [frame.round().clip(0, 255).astype(np.uint8) for frame in frames]


def write_frames(path: Path, frames: list[Rgb], rate: int = RATE) -> None:
    """Write frames as a lossless .mkv: other encoders would take the noise away."""
    import av

    with av.open(str(path), "w") as file:
        video = file.add_stream("ffv1", rate=rate)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "bgr0"
        for rgb in frames:
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), "rgb24")))
        file.mux(video.encode(None))


def _from_middle(h: int, w: int) -> Iterator[Floats]:
    """Yield the distances of all pixels from the middle: down, and across."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    yield y - (h - 1) / 2
    yield x - (w - 1) / 2


def main() -> None:
    from skimage import data

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    size = (HEIGHT, WIDTH, COUNT)
    photo: Any = data.coffee()  # 400x600
    other: Any = data.chelsea()  # 300x451
    write_frames(folder / "pan.mkv", pan(photo, *size, (3, 2)))
    write_frames(folder / "zoom.mkv", zoom(photo, *size))
    write_frames(folder / "parallax.mkv", parallax(other[100:], photo, *size))
    write_frames(folder / "enter.mkv", enter(other[:, 100:228], photo, *size, 8))
    write_frames(folder / "still.mkv", still(other, *size, sigma=2))


if __name__ == "__main__":
    main()
