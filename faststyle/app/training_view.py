"""The view that trains: a painting in, and how its run goes, for whoever looks."""

# Gradio reads the annotations of functions, so they are not kept as text here.

from collections.abc import Callable
from pathlib import Path
from typing import Any

from faststyle.app.curves import Line, chart
from faststyle.app.jobs import Jobs, Run, plain_name
from faststyle.app.parts import Upload, duration, read_upload, takes_any_file, told
from faststyle.app.studio import Studio
from faststyle.errors import ImageError

EVERY = 4.0  # seconds between two looks at a run: what it shows changes every ten seconds or so
CURVES = {"content_rel": "content", "style_rel": "style", "total": "total"}
WORDS = {
    "waiting": "waits for the training before it",
    "running": "trains",
    "stopping": "saves its state and stops",
    "stopped": "was stopped; Resume goes on where it was",
    "finished": "is finished, and is among the styles",
    "failed": "failed",
}


def describe(run: Run) -> str:
    """Return how a run is, in words, with a bar."""
    progress = run.progress
    text = f"{run.name} ({run.recipe}) {WORDS[run.status]}."
    if run.status == "failed":
        text = f"{run.name} failed: {progress.error}"
    elif run.status == "running" and not progress.steps:
        text += " It loads the networks."
    elif run.status == "running" and progress.step == progress.steps:
        text += " All steps are done; it is being judged."
    elif run.status in ("running", "stopping"):
        text += (
            f" Step {progress.step} of {progress.steps}, "
            f"{progress.images_per_second:.2f} photos a second, "
            f"{duration(progress.seconds_left)} left."
        )
    elif progress.steps and run.status == "stopped":
        text += f" It did {progress.step} of {progress.steps} steps."
    return told(text, progress.step / progress.steps if progress.steps else None)


class TrainingView:
    """The components of the view; `build` makes them and connects them."""

    def __init__(self, gr: Any, jobs: Jobs, studio: Studio, in_words: Callable[[Any], Any]) -> None:
        self.gr = gr
        self.jobs = jobs
        self.studio = studio
        self.in_words = in_words

    def build(self, page: Any) -> None:
        """Add the view to the page that is being built."""
        gr = self.gr
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._build_start()
            with gr.Column(scale=3, min_width=320):
                self._build_run()
        self._connect(page)

    def _build_start(self) -> None:
        gr = self.gr
        options = self.studio.options
        self.painting = takes_any_file(
            gr.Image(
                label="Painting: drop or paste one",
                sources=["upload", "clipboard"],
                type="filepath",
                height=280,
                elem_id="painting",
                alt_text="The painting whose style is learned",
            )
        )
        self.name = gr.Textbox(
            label="Name of the style",
            info="Small letters, digits and _. Empty: the name of the file.",
            max_length=60,
            elem_id="name",
        )
        recipes = [(text, name) for name, text in options.recipes.items()]
        default = "quick" if "quick" in options.recipes else recipes[0][1]
        self.recipe = gr.Radio(recipes, value=default, label="How long", elem_id="recipe")
        self.start = gr.Button(
            "Train", variant="primary", interactive=options.train, elem_id="train"
        )
        if not options.train:
            gr.HTML(told("This page does not train. Start your own with: faststyle app"))

    def _build_run(self) -> None:
        gr = self.gr
        names = self.jobs.names()
        self.run = gr.Dropdown(
            names, value=names[0] if names else None, label="Training", elem_id="run"
        )
        self.told = gr.HTML(told("Nothing was trained yet."), elem_id="run_told")
        with gr.Row():
            self.stop = gr.Button("Stop", interactive=False, elem_id="stop")
            self.resume = gr.Button("Resume", interactive=False, elem_id="resume")
        self.picture = gr.Image(
            label="Preview",
            type="filepath",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="strip",
            alt_text="Two photos, each beside the picture that the network paints of it",
        )
        self.curves = gr.HTML("", elem_id="curves")
        self.seen = gr.State(())
        self.timer = gr.Timer(EVERY)

    def _connect(self, page: Any) -> None:
        private: dict[str, Any] = {"api_visibility": "private", "queue": False}
        shown = [
            self.run,
            self.told,
            self.stop,
            self.resume,
            self.picture,
            self.curves,
            self.seen,
        ]
        looks = {"inputs": [self.run, self.seen], "outputs": shown, "show_progress": "hidden"}
        page.load(self._look_anew, self.run, shown, show_progress="hidden", **private)
        self.timer.tick(self._look, **looks, **private)
        self.run.change(self._look, **looks, **private)
        self.start.click(
            self.in_words(self._start),
            [self.painting, self.name, self.recipe],
            [self.run, self.name],
            **private,
        )
        for button, act in ((self.stop, self.jobs.stop), (self.resume, self.jobs.resume)):
            done = button.click(self.in_words(act), self.run, None, **private)
            done.then(self._look, **looks, **private)

    def _start(self, painting: Upload, name: str, recipe: str) -> Any:
        if painting is None:
            raise ImageError("there is no painting: choose one first")
        data = read_upload(painting, self.studio.options.max_bytes)
        if not name.strip() and isinstance(painting, Path):
            name = plain_name(painting.name)
        added = self.jobs.add(data, name.strip(), recipe, self.studio.names())
        return self.gr.update(choices=self.jobs.names(), value=added), ""

    def _look_anew(self, name: str | None) -> Any:
        """Return all of a run, for a page that was just opened: the newest one is shown."""
        names = self.jobs.names()
        return self._look(name if name in names else next(iter(names), None), ())

    def _look(self, name: str | None, seen: Any) -> Any:
        """Return what changed since the page looked last."""
        gr = self.gr
        names = self.jobs.names()
        if name not in names:
            return (gr.skip(),) * 7
        run = self.jobs.look(name)
        picture = run.picture
        stamp = picture.stat().st_mtime if picture and picture.is_file() else 0
        progress = run.progress
        now = [names, name, run.status, progress.step, progress.last_line, str(picture), stamp]
        if now == seen:
            return (gr.skip(),) * 7
        lines = [Line(text, list(progress.curves.get(term, []))) for term, text in CURVES.items()]
        same_picture = bool(seen) and seen[5:] == now[5:] and seen[1] == name
        return (
            gr.update(choices=names, value=name),
            describe(run),
            gr.update(interactive=run.can_stop),
            gr.update(interactive=run.can_resume and self.studio.options.train),
            gr.skip() if same_picture else (str(picture) if stamp else None),
            chart(lines, "step"),
            now,
        )
