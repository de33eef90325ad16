"""The settings and limits of the page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faststyle.engines.options import AUTO, EngineOptions
from faststyle.errors import ServerError
from faststyle.serve.options import ADDRESS, ServeOptions

DEFAULT_PORT = 7860
# Recipes that the page offers, and what they take; docs/training.md has the measurements.
RECIPES = {
    "instant": "Instant: half a minute, a first look",
    "quick": "Quick: about seven minutes, worth using",
    "long": "Long: about a quarter of an hour, cleaner pictures",
}


@dataclass(frozen=True)
class AppOptions:
    """Where the page listens, how networks run, and the limits.

    `hosts`, `engine`, `max_bytes` and `max_pixels` are those of `ServeOptions`. `max_video_bytes`
    is the size of a video's file, `queue` how many trainings may wait. `timeout` is the seconds
    that a picture may take. Without `train` nobody can start a training. `recipes` are offered by
    name, with what is said of them. `train_args` are added to each `faststyle train`,
    `vgg_weights` is the file of VGG weights for comparisons. `share` opens a public tunnel of
    Gradio's, `mcp` adds a server of tools for language models.

    Raises: ServerError for a limit that makes no sense.
    """

    address: str = ADDRESS
    port: int = DEFAULT_PORT
    hosts: Sequence[str] = ()
    engine: EngineOptions = AUTO
    max_bytes: int = 20 * 2**20
    max_video_bytes: int = 200 * 2**20
    max_pixels: int = 16_000_000
    timeout: float = 120.0
    queue: int = 8
    train: bool = True
    recipes: Mapping[str, str] = field(default_factory=lambda: RECIPES)
    train_args: Sequence[str] = ()
    vgg_weights: Path | None = None
    share: bool = False
    mcp: bool = False

    def __post_init__(self) -> None:
        for name in ("max_video_bytes", "queue"):
            if getattr(self, name) < 1:
                raise ServerError(f"`{name}` must be 1 or more, got {getattr(self, name)}")
        self.serving()  # checks the rest

    def serving(self) -> ServeOptions:
        """Return the options of the service that paints. Raises: ServerError."""
        return ServeOptions(
            self.address,
            self.port,
            self.hosts,
            self.engine,
            self.max_bytes,
            self.max_pixels,
            timeout=self.timeout,
        )

    def allowed_hosts(self) -> set[str]:
        """Return the names that requests may ask for, besides those of this machine."""
        # A Space of Hugging Face says its name in SPACE_HOST.
        names = (*self.hosts, self.address, os.environ.get("SPACE_HOST", ""))
        return {name.lower().rstrip(".") for name in names if name}
