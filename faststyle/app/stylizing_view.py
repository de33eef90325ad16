"""The view that stylizes: a photo, the webcam live, or a video, in one style or a blend of two."""

# Gradio reads the annotations of functions, so they are not kept as text here.

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faststyle.app.background import Stops
from faststyle.app.parts import Upload, duration, label, read_upload, stopper, takes_any_file, told
from faststyle.app.studio import Choice, Painted, Studio
from faststyle.app.thumbnails import Thumbnails
from faststyle.errors import ImageError
from faststyle.images import read_header
from faststyle.stylize.stylizer import Look

QUICK = 720  # pixels: shorter side of pictures that are to be there at once
# What is asked of the camera: each frame is sent to the server. Gradio asks for 1920x1440.
CAMERA = {"width": {"ideal": 640}, "height": {"ideal": 480}}
FRAME = 256  # pixels: shorter side of frames of the webcam, unless asked otherwise
STREAM_EVERY = 0.1  # seconds between two frames of the webcam
LONGEST_STREAM = 3600  # seconds
GALLERY_EVERY = 6.0  # seconds between two looks for new styles
ONE_STYLE = "one style alone"


def make_choice(
    style: str, second: str | None, share: float, mix: float, stroke_size: float, keep_colors: bool
) -> Choice:
    """Return what the controls say. Raises: ImageError."""
    return Choice(style, second or "", float(share), Look(keep_colors, stroke_size, mix))


def describe(painted: Painted) -> str:
    """Return the size of a picture and the time that it took, in words."""
    h, w = painted.size
    notes = "".join(f" Note: {note}." for note in painted.notes)
    return f"{w} x {h} pixels, painted in {duration(painted.seconds)}.{notes}"


class StylizingView:
    """The components of the view; `build` makes them and connects them."""

    def __init__(
        self,
        gr: Any,
        studio: Studio,
        thumbnails: Thumbnails,
        stops: Stops,
        in_words: Callable[[Any], Any],
    ) -> None:
        self.gr = gr
        self.studio = studio
        self.thumbnails = thumbnails
        self.stops = stops
        self.in_words = in_words

    def build(self, page: Any) -> None:
        """Add the view to the page that is being built."""
        gr = self.gr
        with gr.Row():
            with gr.Column(scale=3, min_width=320), gr.Tabs():
                with gr.Tab("Photo"):
                    self._build_photo()
                with gr.Tab("Webcam, live"):
                    self._build_webcam()
                with gr.Tab("Video"):
                    self._build_video()
            with gr.Column(scale=2, min_width=300):
                self._build_controls()
        self._connect(page)

    def _build_photo(self) -> None:
        gr = self.gr
        self.photo = takes_any_file(
            gr.Image(
                label="Photo: drop, paste or take one",
                sources=["upload", "clipboard", "webcam"],
                type="filepath",
                height=240,
                elem_id="photo",
                alt_text="The photo that is to be painted",
            )
        )
        self.size = gr.Radio(
            [(f"Quick: {QUICK} pixels", QUICK), ("Full size", 0)],
            value=QUICK,
            label="Shorter side of the picture",
            elem_id="size",
        )
        self.slider = gr.ImageSlider(
            label="Before and after",
            type="filepath",
            interactive=False,
            elem_id="slider",
            buttons=["fullscreen"],
        )
        self.told = gr.HTML(told("Choose a photo and a style."), elem_id="told")
        self.download = gr.DownloadButton("Download the picture", interactive=False, elem_id="save")

    def _build_webcam(self) -> None:
        gr = self.gr
        self.webcam = takes_any_file(
            gr.Image(
                label="Webcam",
                sources=["webcam"],
                webcam_options=gr.WebcamOptions(constraints={"video": CAMERA}),
                streaming=True,
                type="filepath",
                height=240,
                elem_id="webcam",
                alt_text="What the webcam sees",
            )
        )
        self.frame_size = gr.Slider(
            128, 720, FRAME, step=16, label="Shorter side of frames", elem_id="frame_size"
        )
        self.live = gr.HTML("", elem_classes="live", elem_id="live")

    def _build_video(self) -> None:
        gr = self.gr
        self.video = takes_any_file(
            gr.Video(label="Video", sources=["upload"], height=240, elem_id="video")
        )
        self.video_size = gr.Slider(
            128, 1080, 360, step=8, label="Shorter side of the video", elem_id="video_size"
        )
        with gr.Row():
            self.start_video = gr.Button("Paint the video", variant="primary", elem_id="go_video")
            self.stop_video = gr.Button("Stop", elem_id="stop_video")
        self.video_told = gr.HTML("", elem_id="video_told")
        self.painted_video = gr.Video(label="Painted", interactive=False, elem_id="painted_video")
        self.video_file = gr.DownloadButton("Download the video", interactive=False)

    def _build_controls(self) -> None:
        gr = self.gr
        names = self.studio.names()
        choices = [(label(name), name) for name in names]
        self.gallery = gr.Gallery(
            label="Styles",
            columns=3,
            height=330,
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id="styles",
        )
        self.style = gr.Dropdown(
            choices, value=names[0] if names else None, label="Style", elem_id="style"
        )
        self.second = gr.Dropdown(
            [(ONE_STYLE, ""), *choices], value="", label="Blend with", elem_id="second"
        )
        self.share = gr.Slider(
            0, 1, 0.5, step=0.05, label="Share of the second style", elem_id="share"
        )
        self.mix = gr.Slider(0, 1, 1, step=0.05, label="Mix: 0 is the photo", elem_id="mix")
        self.stroke = gr.Slider(0.5, 4, 1, step=0.1, label="Size of strokes", elem_id="stroke")
        self.keep = gr.Checkbox(False, label="Keep the colours of the photo", elem_id="keep")
        self.shown = gr.State([])
        self.timer = gr.Timer(GALLERY_EVERY)

    def _connect(self, page: Any) -> None:
        gr = self.gr
        look = [self.style, self.second, self.share, self.mix, self.stroke, self.keep]
        private: dict[str, Any] = {"api_visibility": "private"}
        gr.on(
            [self.photo.change, self.size.change, *(one.change for one in look)],
            self.in_words(self._paint),
            [self.photo, self.size, *look],
            [self.slider, self.told, self.download],
            trigger_mode="always_last",
            show_progress="minimal",
            concurrency_limit=4,
            **private,
        )
        self.gallery.select(
            self.in_words(self._select_for(gr)), self.shown, self.style, queue=False, **private
        )
        self.webcam.stream(
            self.in_words(self._frame),
            [self.webcam, self.frame_size, *look],
            self.live,
            stream_every=STREAM_EVERY,
            time_limit=LONGEST_STREAM,
            concurrency_limit=4,
            show_progress="hidden",
            **private,
        )
        self.start_video.click(
            self.in_words(self._follow_video_for(gr)),
            [self.video, self.video_size, *look],
            [self.video_told, self.painted_video, self.video_file],
            concurrency_limit=1,
            concurrency_id="videos",
            show_progress="hidden",
            **private,
        )
        self.stop_video.click(stopper(gr, self.stops, "video"), queue=False, **private)
        lists = [self.gallery, self.style, self.second, self.shown]
        for event in (page.load, self.timer.tick):
            event(
                self.refresh,
                [self.style, self.second, self.shown],
                lists,
                queue=False,
                show_progress="hidden",
                **private,
            )

    async def _paint(self, photo: Upload, size: int, *look: Any) -> Any:
        gr = self.gr
        if photo is None:
            return None, told("Choose a photo and a style."), gr.update(interactive=False)
        data = read_upload(photo, self.studio.options.max_bytes)
        header = read_header(data, "the photo")
        if header and min(header.height, header.width) <= size:
            size = 0  # nothing is enlarged
        painted = await self.studio.paint(data, make_choice(*look), size or None)
        return (
            (str(painted.before), str(painted.after)),
            told(describe(painted)),
            gr.update(value=str(painted.file), interactive=True),
        )

    async def _frame(self, frame: Upload, size: int, *look: Any) -> str:
        if frame is None:
            return told("The webcam has no picture.")
        data = read_upload(frame, self.studio.options.max_bytes)
        choice = make_choice(*look)
        jpeg, seconds = await self.studio.frame(data, choice, int(size))
        encoded = base64.b64encode(jpeg).decode()
        # No role="status" here: it would be read aloud for each frame.
        return (
            f'<img src="data:image/jpeg;base64,{encoded}" alt="The webcam, painted">'
            f"<p>{seconds * 1000:.0f} ms a frame</p>"
        )

    def _select_for(self, gr: Any) -> Callable[..., Any]:
        def select(shown: list[Any], event: gr.SelectData) -> Any:
            return shown[event.index][0]

        return select

    def _follow_video_for(self, gr: Any) -> Callable[..., Any]:
        def follow(
            video: Upload,
            size: int,
            style: str,
            second: str,
            share: float,
            mix: float,
            stroke: float,
            keep: bool,
            request: gr.Request,
        ) -> Any:
            if not isinstance(video, Path):
                raise ImageError("there is no video: choose one first")
            choice = make_choice(style, second, share, mix, stroke, keep)
            stop = self.stops.renew(f"video {request.session_hash}")
            yield told("The first frame is being painted.", 0), None, gr.update(interactive=False)
            work = self.studio.video(video, choice, int(size), stop)
            while True:
                try:
                    progress = next(work)
                except StopIteration as end:
                    file, report, engine = end.value
                    break
                of = f" of {progress.total}" if progress.total else ""
                left = progress.seconds_left
                text = f"Frame {progress.done}{of}, {1000 / progress.fps:.0f} ms a frame"
                text += "" if left is None else f", {duration(left)} left"
                share_done = progress.done / progress.total if progress.total else None
                yield told(text, share_done), gr.skip(), gr.skip()
            text = " ".join([f"{report.frames} frames, {engine}.", *report.notes])
            yield told(text), str(file), gr.update(value=str(file), interactive=True)

        return follow

    def refresh(self, style: str | None, second: str | None, shown: list[Any]) -> Any:
        """Return new lists of styles and thumbnails where there is something new."""
        gr = self.gr
        names = self.studio.names()
        pictures = self.thumbnails.get(names)
        now = [[name, str(pictures[name])] for name in names if name in pictures]
        if now == shown:
            return (gr.skip(),) * 4
        choices = [(label(name), name) for name in names]
        first = style if style in names else next(iter(names), None)
        return (
            [(path, label(name)) for name, path in now],
            gr.update(choices=choices, value=first),
            gr.update(choices=[(ONE_STYLE, ""), *choices], value=second if second in names else ""),
            now,
        )
