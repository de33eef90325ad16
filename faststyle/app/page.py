"""The page as a whole: three views and the endpoints for programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faststyle.app.background import Stops
from faststyle.app.comparing_view import ComparingView
from faststyle.app.endpoints import Endpoints
from faststyle.app.jobs import Jobs
from faststyle.app.options import AppOptions
from faststyle.app.parts import in_words, stopper
from faststyle.app.studio import Studio
from faststyle.app.stylizing_view import StylizingView
from faststyle.app.thumbnails import Thumbnails
from faststyle.app.training_view import TrainingView

TITLE = "faststyle"
ABOUT = "# faststyle\nA photo, repainted by a small network that learned from one painting."


@dataclass
class Workshop:
    """What the page works with. `open` begins the work, `close` ends it in good order."""

    options: AppOptions
    folder: Path  # uploads and results; it is removed at the end
    announce: Callable[[str], None]

    def __post_init__(self) -> None:
        self.studio = Studio(self.options, self.folder, self.announce)
        self.thumbnails = Thumbnails(self.studio.service.catalogue, self.announce)
        self.jobs = Jobs(self.options)
        self.stops = Stops()

    def open(self) -> None:
        """Start all threads."""
        self.studio.service.start()
        self.thumbnails.start()
        self.jobs.open()

    def close(self) -> None:
        """Stop what runs; a training saves its state."""
        self.stops.stop_all()
        self.jobs.close()
        self.thumbnails.close()
        self.studio.service.close()


def build_page(gr: Any, shop: Workshop) -> Any:
    """Return the page as Gradio's Blocks."""
    words = in_words(gr, shop.announce)
    stylizing = StylizingView(gr, shop.studio, shop.thumbnails, shop.stops, words)
    training = TrainingView(gr, shop.jobs, shop.studio, words)
    comparing = ComparingView(gr, shop.jobs, shop.studio, shop.stops, shop.folder, words)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(ABOUT)
        with gr.Tabs():
            with gr.Tab("Stylize", id="stylize"):
                stylizing.build(page)
            with gr.Tab("Train", id="train"):
                training.build(page)
            with gr.Tab("Compare", id="compare"):
                comparing.build(page)
        Endpoints(gr, shop.studio, shop.jobs, comparing, words).build()
        page.unload(stopper(gr, shop.stops, "video", "compare"))
    return page
