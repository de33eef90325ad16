"""What programs may call, by gradio_client or as tools of a language model (MCP).

The docstrings below are the documentation that they get.
"""

# Gradio reads the annotations of functions, so they are not kept as text here.

import threading
from collections.abc import Callable
from typing import Any

from faststyle.app.comparing_view import ComparingView
from faststyle.app.jobs import Jobs
from faststyle.app.parts import Upload, read_upload, takes_any_file
from faststyle.app.studio import Studio
from faststyle.app.stylizing_view import make_choice


class Endpoints:
    """The functions that are offered by name."""

    def __init__(
        self,
        gr: Any,
        studio: Studio,
        jobs: Jobs,
        comparing: ComparingView,
        in_words: Callable[[Any], Any],
    ) -> None:
        self.gr = gr
        self.studio = studio
        self.jobs = jobs
        self.comparing = comparing
        self.in_words = in_words

    def build(self) -> None:
        """Add the endpoints to the page that is being built; nothing of them is seen."""
        gr = self.gr
        with gr.Group(visible=False):
            photo = takes_any_file(gr.Image(type="filepath", label="photo"))
            painting = takes_any_file(gr.Image(type="filepath", label="painting"))
            style = gr.Textbox(label="style")
            second = gr.Textbox("", label="second_style")
            share = gr.Number(0.5, label="share")
            mix = gr.Number(1.0, label="mix")
            stroke = gr.Number(1.0, label="stroke_size")
            keep = gr.Checkbox(False, label="keep_colors")
            size = gr.Number(0, label="size", precision=0)
            steps = gr.Number(100, label="steps", precision=0)
            name = gr.Textbox(label="name")
            recipe = gr.Textbox("quick", label="recipe")
            file = gr.File(label="picture")
            found = gr.JSON(label="answer")
            self._add(
                self.stylize, [photo, style, second, share, mix, stroke, keep, size], file, limit=4
            )
            self._add(self.styles, [], found)
            self._add(self.runs, [], found)
            if self.studio.options.train:
                self._add(self.train, [painting, name, recipe], found)
                self._add(self.stop_training, [name], found)
                self._add(self.resume_training, [name], found)
            self._add(self.compare, [photo, style, painting, steps], found)

    def _add(self, function: Any, inputs: Any, outputs: Any, limit: int = 1) -> None:
        self.gr.Button(visible=False).click(
            self.in_words(function),
            inputs,
            outputs,
            api_name=function.__name__,
            concurrency_limit=limit,
            concurrency_id=None if function.__name__ != "compare" else "comparisons",
        )

    async def stylize(
        self,
        photo: Upload,
        style: str,
        second_style: str = "",
        share: float = 0.5,
        mix: float = 1.0,
        stroke_size: float = 1.0,
        keep_colors: bool = False,
        size: int = 0,
    ) -> str:
        """Repaint a photo in the style of a painting, and return the picture as a file.

        Args:
            photo: The photo, an image file.
            style: The name of a style, one of those that `styles` lists.
            second_style: A second style to blend with; empty for one style alone.
            share: Share of the second style, 0 to 1.
            mix: How much of the style: 0 is the photo, 1 all of it.
            stroke_size: Size of strokes: 2 is twice as large as trained.
            keep_colors: Whether to keep the colours of the photo.
            size: Shorter side of the picture in pixels; 0 keeps the size of the photo.
        """
        data = read_upload(photo, self.studio.options.max_bytes)
        choice = make_choice(style, second_style, share, mix, stroke_size, keep_colors)
        return str((await self.studio.paint(data, choice, size or None)).file)

    def styles(self) -> list[str]:
        """Return the names of all styles."""
        return self.studio.names()

    def runs(self) -> list[dict[str, Any]]:
        """Return all trainings: name, status, step, steps, seconds left, and an error if any."""
        return [self._describe(name) for name in self.jobs.names()]

    def train(self, painting: Upload, name: str, recipe: str = "quick") -> dict[str, Any]:
        """Train a new style from a painting, in the background; `runs` says how far it is.

        Args:
            painting: The painting, an image file.
            name: The name of the new style: small letters, digits and _.
            recipe: How long: "instant" (half a minute), "quick" (minutes) or "long" (twice that).
        """
        data = read_upload(painting, self.studio.options.max_bytes)
        return self._describe(self.jobs.add(data, name, recipe, self.studio.names()))

    def stop_training(self, name: str) -> dict[str, Any]:
        """Stop a training; its state is kept, and `resume_training` goes on with it.

        Args:
            name: The name of the style that is being trained.
        """
        self.jobs.stop(name)
        return self._describe(name)

    def resume_training(self, name: str) -> dict[str, Any]:
        """Go on with a training that was stopped.

        Args:
            name: The name of the style.
        """
        self.jobs.resume(name)
        return self._describe(name)

    def compare(
        self, photo: Upload, style: str, painting: Upload = None, steps: int = 100
    ) -> dict[str, Any]:
        """Compare a style's network with slow optimisation of the same photo's pixels.

        It takes minutes. The answer says after how many slow steps both are equal, and how many
        times as long that takes.

        Args:
            photo: The photo, an image file.
            style: The name of a style, one of those that `styles` lists.
            painting: The painting of the style, where the server does not have its file.
            steps: Steps of the slow path, 1 to 1000.
        """
        work = self.comparing.compare(photo, style, painting, steps, threading.Event())
        while True:
            try:
                next(work)
            except StopIteration as end:
                return {"verdict": end.value.sentences}

    def _describe(self, name: str) -> dict[str, Any]:
        run = self.jobs.look(name)
        progress = run.progress
        return {
            "name": name,
            "status": run.status,
            "recipe": run.recipe,
            "step": progress.step,
            "steps": progress.steps,
            "seconds_left": progress.seconds_left,
            "error": progress.error if run.status == "failed" else "",
        }
