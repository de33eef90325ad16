"""The view that compares: the slow path against a network, on one photo, as it goes."""

# Gradio reads the annotations of functions, so they are not kept as text here.

import hashlib
from collections.abc import Callable, Generator
from html import escape
from pathlib import Path
from typing import Any

from faststyle.app.background import Stops
from faststyle.app.comparing import MOST_STEPS, STEPS, Verdict, find_painting, run_comparison
from faststyle.app.jobs import OUTPUTS, Jobs
from faststyle.app.parts import Upload, label, read_upload, stopper, takes_any_file, told
from faststyle.app.studio import Studio
from faststyle.errors import ImageError, RecipeError
from faststyle.files import write_bytes
from faststyle.images import QUALITY
from faststyle.serve.styles import Style
from faststyle.serve.wanted import Wanted
from faststyle.stylize.stylizer import PLAIN

PAINTINGS = Path("data") / "styles"  # those that come with the source
BUSY = " A training ran meanwhile: the times are longer than they would be alone."


class ComparingView:
    """The components of the view; `build` makes them and connects them."""

    def __init__(
        self,
        gr: Any,
        jobs: Jobs,
        studio: Studio,
        stops: Stops,
        folder: Path,
        in_words: Callable[[Any], Any],
    ) -> None:
        self.gr = gr
        self.jobs = jobs
        self.studio = studio
        self.stops = stops
        self.folder = folder
        self.in_words = in_words

    def build(self, page: Any) -> None:
        """Add the view to the page that is being built."""
        gr = self.gr
        names = self.studio.names()
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.photo = takes_any_file(
                    gr.Image(
                        label="Photo",
                        sources=["upload", "clipboard"],
                        type="filepath",
                        height=220,
                        elem_id="compare_photo",
                        alt_text="The photo on which both are compared",
                    )
                )
                self.style = gr.Dropdown(
                    [(label(name), name) for name in names],
                    value=names[0] if names else None,
                    label="Style",
                    elem_id="compare_style",
                )
                self.painting = takes_any_file(
                    gr.Image(
                        label="Its painting, where this machine does not have it",
                        sources=["upload", "clipboard"],
                        type="filepath",
                        height=160,
                        elem_id="compare_painting",
                        alt_text="The painting of the style",
                    )
                )
                self.steps = gr.Slider(
                    10, MOST_STEPS, STEPS, step=10, label="Slow steps", elem_id="compare_steps"
                )
                with gr.Row():
                    self.start = gr.Button("Compare", variant="primary", elem_id="compare")
                    self.stop = gr.Button("Stop", elem_id="compare_stop")
            with gr.Column(scale=3, min_width=320):
                self.told = gr.HTML(
                    told(
                        "The slow path optimises the pixels of this one photo, by the objective "
                        "that the network was trained on. The network needs one pass."
                    ),
                    elem_id="compare_told",
                )
                self.chart = gr.HTML("", elem_id="compare_chart")
                self.verdict = gr.HTML("", elem_id="verdict", elem_classes="verdict")
                self.pictures = gr.Gallery(
                    label="Pictures",
                    columns=2,
                    object_fit="contain",
                    interactive=False,
                    buttons=["fullscreen"],
                    elem_id="compared",
                )
        self._connect(page)

    def _connect(self, page: Any) -> None:
        gr = self.gr
        private: dict[str, Any] = {"api_visibility": "private"}
        self.start.click(
            self.in_words(self._follow_for(gr)),
            [self.photo, self.style, self.painting, self.steps],
            [self.told, self.chart, self.verdict, self.pictures],
            concurrency_limit=1,
            concurrency_id="comparisons",
            show_progress="hidden",
            **private,
        )

        def renew(style: str | None) -> Any:
            names = self.studio.names()
            value = style if style in names else next(iter(names), None)
            return gr.update(choices=[(label(name), name) for name in names], value=value)

        self.stop.click(stopper(gr, self.stops, "compare"), queue=False, **private)
        self.style.focus(renew, self.style, self.style, queue=False, **private)

    def compare(
        self, photo: Upload, style: str, painting: Upload, steps: int, stop: Any
    ) -> Generator[Any, None, Verdict]:
        """Yield the rows of a comparison; return the verdict. See `run_comparison`."""
        options = self.studio.options
        if not 1 <= steps <= MOST_STEPS:
            raise RecipeError(f"steps: 1 to {MOST_STEPS}, got {steps}")
        data = read_upload(photo, options.max_bytes)
        self._check(data)
        chosen = self.studio.service.catalogue.find(style)
        file = self._find_painting(chosen, painting)
        return (yield from run_comparison(data, chosen, file, steps, self.folder, options, stop))

    def _check(self, data: bytes) -> None:
        """Refuse a picture that is too large, or of a format that is not decoded here."""
        self.studio.service.check_header(data, Wanted("", None, PLAIN, None, QUALITY))

    def _find_painting(self, style: Style, given: Upload) -> Path | None:
        """Return the file of a style's painting: the one that was given, else one at hand."""
        if given is not None:
            data = read_upload(given, self.studio.options.max_bytes)
            self._check(data)
            path = self.folder / "given" / f"{hashlib.sha256(data).hexdigest()[:16]}.png"
            write_bytes(path, data)
            return path
        runs = [OUTPUTS / name for name in self.jobs.names()]
        return find_painting(style, [*runs, PAINTINGS])

    def _follow_for(self, gr: Any) -> Callable[..., Any]:
        def follow(
            photo: Upload, style: str, painting: Upload, steps: int, request: gr.Request
        ) -> Any:
            if photo is None:
                raise ImageError("there is no photo: choose one first")
            stop = self.stops.renew(f"compare {request.session_hash}")
            yield told("The networks are being loaded."), "", "", None
            work = self.compare(photo, style, painting, int(steps), stop)
            busy = False
            while True:
                try:
                    rows = next(work)
                except StopIteration as end:
                    verdict = end.value
                    break
                busy = busy or self.jobs.busy
                yield told(rows.status(int(steps))), rows.chart(), gr.skip(), gr.skip()
            text = " ".join(verdict.sentences) + BUSY * busy
            pictures = [(str(path), caption) for path, caption in verdict.pictures]
            yield told("Done."), gr.skip(), f"<p>{escape(text)}</p>", pictures

        return follow
