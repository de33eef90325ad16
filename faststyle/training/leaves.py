"""Dead-leaves images: overlapping shapes of every size, with the edge statistics of photos.

Source: Lee, Mumford, Huang, "Occlusion models for natural images" (2001),
https://doi.org/10.1023/A:1011109015675; as training data: Baradad et al., "Learning to see by
looking at noise" (2021), https://arxiv.org/abs/2106.05963
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

# radii, over the side of the image
SMALLEST = 0.03
LARGEST = 0.6
# Spread of the colours of an image, in levels of 255: as much as gives its features at relu4_2 the
# variance that those of photos have. Content is counted against that variance; with more, leaves
# would outweigh the photos (docs/log/objective.md).
LIGHTNESS = 20
CHROMA = 10
LEAVES = 700  # enough to cover the canvas: what is left bare is the background colour


def dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a (size, size, 3) uint8 image of shaded shapes in colours of one palette.

    Their radii have a density of r^-3.
    """
    palette = _palette(rng)
    background = tuple(int(v) for v in palette[0])
    image = Image.new("RGB", (size, size), background)
    draw = ImageDraw.Draw(image)
    # The inverse of the cumulative distribution of a density proportional to r^-3 between two
    # radii.
    u = rng.random(LEAVES)
    radii = size / np.sqrt(u / SMALLEST**2 + (1 - u) / LARGEST**2)
    # some large leaves lie at the bottom
    radii[: LEAVES // 10] = np.sort(radii[: LEAVES // 10])[::-1]
    centres = rng.uniform(-0.1 * size, 1.1 * size, (LEAVES, 2))
    for radius, centre in zip(radii, centres, strict=True):
        colour = palette[rng.integers(len(palette))] + rng.normal(0, 12, 3)
        fill = tuple(int(v) for v in colour.clip(0, 255))
        corners = int(rng.choice([3, 4, 5, 24]))  # 24 corners are a disc to the eye
        angles = (
            np.sort(rng.uniform(0, 2 * np.pi, corners))
            if corners < 24
            else np.linspace(0, 2 * np.pi, 24)
        )
        stretch = rng.uniform(0.5, 1)
        points = centre + radius * np.stack([np.cos(angles), stretch * np.sin(angles)], 1)
        draw.polygon([(float(x), float(y)) for x, y in points], fill=fill)
    shaded = np.asarray(image, dtype=np.float32) * _shade(rng, size)[..., None]
    return np.asarray(shaded.clip(0, 255), dtype=np.uint8)


def _palette(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return 8 colours around one mean."""
    mean = rng.uniform(60, 190, 3)
    lightness = rng.normal(0, LIGHTNESS, (8, 1))
    return np.asarray((mean + lightness + rng.normal(0, CHROMA, (8, 3))).clip(0, 255))


def _shade(rng: np.random.Generator, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a field of light around 1: smooth clouds and fine grain, noise of several octaves."""
    field = np.zeros((size, size), dtype=np.float32)
    for cells, contrast in ((3, 0.1), (8, 0.08), (40, 0.05), (size, 0.02)):
        noise = rng.normal(0, contrast, (cells, cells)).astype(np.float32)
        field += np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))
    return 1 + field
