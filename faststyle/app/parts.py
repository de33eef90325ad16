"""What all views share: uploads, errors in words, names of styles, times, and the look."""

# Gradio reads the annotations of functions, so they are not kept as text here.

import base64
import binascii
import functools
import inspect
import os
import traceback
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from faststyle.app.background import StoppedError, Stops
from faststyle.errors import FaststyleError, ImageError
from faststyle.extras import require

Upload = Path | bytes | None
PACKAGES = ("prometheus_client", "matplotlib", "gradio")
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "Consolas", "monospace")
CSS = """
footer { display: none !important; }
.curves svg { width: 100%; height: auto; }
.curves figcaption { display: flex; flex-wrap: wrap; gap: .3rem 1rem; font-size: .9rem; }
.curves i { display: inline-block; width: 1.4rem; margin-right: .4rem; vertical-align: middle; }
.told progress { width: 100%; height: 1rem; accent-color: #1d4ed8; }
.told p { margin: .2rem 0; }
.live img { width: 100%; border-radius: .4rem; }
.verdict { font-size: 1.1rem; }
button[role="tab"][aria-selected="true"] { color: #1d4ed8 !important; }
.dark button[role="tab"][aria-selected="true"] { color: #93c5fd !important; }
"""
# Gradio gives its empty pictures a name, which only an element with a role may have. It calls a
# thumbnail "Thumbnail 1 of 2", and so its caption is not heard: a name begins with what is seen.
SCRIPT = """
() => {
  const name = () => {
    document.querySelectorAll(".empty[aria-label]:not([role])")
      .forEach(element => element.setAttribute("role", "img"));
    document.querySelectorAll("button[aria-label]").forEach(button => {
      const seen = button.textContent.replace(/\\s+/g, " ").trim();
      if (!button.ariaLabel.includes(seen)) button.ariaLabel = `${seen}, ${button.ariaLabel}`;
    });
  };
  new MutationObserver(name).observe(
    document.body,
    {childList: true, subtree: true, attributes: true, attributeFilter: ["aria-label"]},
  );
  name();
}
"""


def load_gradio() -> Any:
    """Return Gradio, with its reports home switched off. Raises: DeviceError without the extra."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return require(*PACKAGES, extra="app")


def make_theme(gr: Any) -> Any:
    """Return a theme of fonts that the reader's system has: nothing is loaded for it."""
    theme = gr.themes.Default(primary_hue="blue", font=list(FONTS), font_mono=list(MONO))
    # Gradio's own grey of placeholders and hints is too pale to be read by everyone.
    return theme.set(
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
    )


def takes_any_file(component: Any) -> Any:
    """Let a component hand over the file of an upload as it is, and return the component.

    Gradio would open it, of any size, and word errors in its own way.
    """
    component.preprocess = functools.partial(as_upload, Path(component.GRADIO_CACHE))
    return component


def as_upload(folder: Path, payload: Any) -> Upload:
    """Return the file of an upload, or the bytes of a frame that came as text.

    A visitor may send any path. One that is not within `folder`, where uploads are, is as good as
    none: Gradio checks only some of them.
    """
    if payload is None:
        return None
    payload = getattr(payload, "video", None) or payload
    url = payload.url or ""
    if url.startswith("data:"):
        try:
            return base64.b64decode(url.partition(",")[2], validate=True)
        except binascii.Error:
            return b""
    path = Path(payload.path or "").resolve()
    return path if path.is_relative_to(folder.resolve()) and path.is_file() else None


def read_upload(upload: Upload, limit: int) -> bytes:
    """Return the bytes of an upload. Raises: ImageError where there are none, or too many."""
    if upload is None:
        raise ImageError("there is no photo: choose one first")
    size = len(upload) if isinstance(upload, bytes) else os.path.getsize(upload)
    if size == 0:
        raise ImageError("the file is empty: choose another one")
    if size > limit:
        raise ImageError(f"the file has more than {limit:,} bytes; reduce it first")
    return upload if isinstance(upload, bytes) else upload.read_bytes()


def in_words(gr: Any, announce: Callable[[str], None]) -> Callable[[Any], Any]:
    """Return the decorator that tells errors of a function on the page, in our words.

    The traceback of a bug goes to the log of the server.
    """

    def worded(error: Exception) -> Exception:
        if isinstance(error, FaststyleError):
            text = str(error).replace("`", "")
        else:
            announce("".join(traceback.format_exception(error)))
            text = "this did not work, by a fault of the page; the server's log has the reason"
        shown: Exception = gr.Error(escape(text), title="", print_exception=False)
        return shown

    def decorate(function: Any) -> Any:
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def wait(*args: Any) -> Any:
                try:
                    return await function(*args)
                except Exception as error:
                    raise worded(error) from None

            return wait
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def follow(*args: Any) -> Any:
                try:
                    yield from function(*args)
                except StoppedError:
                    return
                except Exception as error:
                    raise worded(error) from None

            return follow

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            try:
                return function(*args)
            except Exception as error:
                raise worded(error) from None

        return call

    return decorate


def stopper(gr: Any, stops: Stops, *kinds: str) -> Callable[..., None]:
    """Return the function that stops the work of some kinds that a page has begun."""

    def stop(request: gr.Request) -> None:
        for kind in kinds:
            stops.stop(f"{kind} {request.session_hash}")

    return stop


def label(style: str) -> str:
    """Return the name of a style for people.

    Example:
        >>> label("collection:klee_senecio"), label("the_scream-mobile")
        ('klee senecio', 'the scream (mobile)')
    """
    name = style.rpartition(":")[2].replace("_", " ")
    plain, dash, network = name.rpartition("-")
    return f"{plain} ({network})" if dash and plain else name


def told(text: str, done: float | None = None) -> str:
    """Return a line, with a bar where the share that is `done` is known, 0 to 1."""
    progress = f'<progress aria-label="done" max="1" value="{done or 0:.4f}"></progress>'
    bar = "" if done is None else progress
    return f'<div class="told" role="status">{bar}<p>{escape(text)}</p></div>'


def duration(seconds: float) -> str:
    """Return a time: "0.42 s", "3:05 minutes"."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} minutes"
