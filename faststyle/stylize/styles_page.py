"""A page of all styles: a photo in each, with painting, scores, speed, and the command to use it.

It is one file that loads nothing and runs no script. styles.html.j2 holds its words and looks.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

import jinja2
from torch import Tensor

from faststyle.images import data_uri
from faststyle.push import SCORES
from faststyle.stylize.sheet import SHOWN, Painted

QUALITY = 85  # of WebP, 0-100


def styles_page(
    photo: Tensor,
    name: str,
    file: str,
    painted: Iterable[Painted],
    paintings: Mapping[str, str],
    machine: str,
) -> str:
    """Return the page of a photo, (1, 3, H, W) in [0, 1], in many styles.

    `name` is the photo's, `file` the one that the commands on the page name. `paintings` are words
    on the painting of each style, by its name; `machine` is what the speed was measured on.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("faststyle.stylize", "."),
        autoescape=True,  # names and metadata of strangers may hold < and &
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    height, width = photo.shape[-2:]
    return environment.get_template("styles.html.j2").render(
        photo_name=name,
        photo=data_uri(photo, QUALITY),
        height=height,
        width=width,
        machine=machine,
        styles=[
            {
                "name": one.name,
                "uri": data_uri(one.picture, QUALITY),
                "painting": paintings.get(one.name, ""),
                "scores": {name: f"{value:.2f}" for name, value in one.scores.items()},
                "milliseconds": f"{1000 * one.seconds:.0f}",
                "command": shlex.join(
                    ["faststyle", "stylize", file, "--style", one.name, "-o", "out.png"]
                ),
            }
            for one in painted
        ],
        meanings={name: SCORES[name] for name in SHOWN},
    )
