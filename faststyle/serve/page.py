"""The page for people at /: a form, and the options in words. It loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

import faststyle
from faststyle.serve.wanted import FORMATS, PARAMETERS, PHOTO

# Nothing but this page and the answer of its form may be loaded or reached.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}"
    "pre{background:#eee;padding:.6rem;overflow:auto}label{display:block;margin:.5rem 0}"
)
PATHS = (
    ("POST /stylize", "a photo in, the stylized picture out"),
    ("GET /styles", "the styles, as JSON"),
    ("GET /healthz", "whether the service works"),
    ("GET /metrics", "figures for Prometheus"),
    ("GET /openapi.json", "all of this for programs, as OpenAPI"),
)


def render_page(styles: Sequence[str], address: str) -> str:
    """Return the page as HTML. `address` is that of the service, for the example."""
    first = quote(styles[0] if styles else "NAME")
    example = f'curl -F {PHOTO}=@photo.jpg "{address}stylize?style={first}" -o painted.jpg'
    rows = _rows((f"<code>{escape(path)}</code>", escape(about)) for path, about in PATHS)
    options = _rows(
        (f"<code>{name}</code>", escape(parameter.about)) for name, parameter in PARAMETERS.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>faststyle</title>"
        '<meta name=viewport content="width=device-width">'
        f"<style>{STYLE}</style><h1>faststyle {escape(faststyle.__version__)}</h1>"
        f"{_form(styles)}<h2>For programs</h2><pre>{escape(example)}</pre>"
        f"<table>{rows}</table><h2>Options of /stylize</h2>"
        "<p>Each is a part of the query or a field of the form. An error is JSON: "
        f'<code>{{"error": "..."}}</code>.</p><table>{options}</table></html>'
    )


def _form(styles: Sequence[str]) -> str:
    """Return the form that sends a photo."""
    names = "".join(f"<option>{escape(name)}</option>" for name in styles)
    formats = "".join(f"<option>{name}</option>" for name in FORMATS)
    return (
        "<form method=post action=/stylize enctype=multipart/form-data>"
        f"<label>Photo <input type=file name={PHOTO} accept=image/* required></label>"
        f"<label>Style <select name=style>{names}</select></label>"
        "<label>Mix <input type=number name=mix min=0 max=1 step=0.05 value=1></label>"
        "<label>Size of strokes <input type=number name=stroke_size min=0.25 max=8 step=0.25"
        " value=1></label>"
        "<label>Shorter side in pixels <input type=number name=size min=16></label>"
        "<label><input type=checkbox name=keep_colors value=true> Keep colours</label>"
        f"<label>Format <select name=format>{formats}</select></label>"
        "<button>Stylize</button></form>"
    )


def _rows(cells: Iterable[tuple[str, str]]) -> str:
    return "".join(f"<tr><td>{name}</td><td>{about}</td></tr>" for name, about in cells)
