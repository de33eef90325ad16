"""`faststyle sheet` and `faststyle styles`: a photo in every style at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faststyle.cli.common import Device, Threads, announce_for, app, print_notes, reports_errors
from faststyle.errors import FaststyleError, one_line

if TYPE_CHECKING:
    from faststyle.stylize.sheet import Painted

Styles = Annotated[
    list[str] | None,
    typer.Option(
        "--style",
        help="A style, several times if wanted; `collection` is all of its paintings. "
        "Default: all styles but those.",
    ),
]


@app.command()
@reports_errors
def sheet(
    photo: Annotated[str, typer.Argument(help="An image file.", metavar="PHOTO")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The contact sheet (.png, .jpg, .webp).")
    ],
    styles: Styles = None,
    size: Annotated[
        int, typer.Option(help="Shorter side of each picture, in pixels.", min=16)
    ] = 320,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over a sheet that is there.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Render a photo in every style at hand, on one sheet, with scores and milliseconds.

    Example: faststyle sheet photo.jpg -o sheet.png
    """
    from faststyle.checkpoint import find_checkpoint
    from faststyle.files import check_free, check_place, write_bytes
    from faststyle.images import (
        check_format_size,
        encode_image,
        on_white,
        open_picture,
        output_format,
        read_image,
    )
    from faststyle.sizes import fitted_size
    from faststyle.stylize.sheet import contact_sheet, sheet_size
    from faststyle.stylize.stylizer import Stylizer

    format = output_format(output)
    check_free(output, overwrite)
    check_place(output)
    paths = [find_checkpoint(name) for name in _names(styles)]
    source = open_picture(photo)
    rgb = on_white(source)
    h, w = fitted_size(rgb.shape[-2], rgb.shape[-1], size)
    check_format_size(*sheet_size(h, w, len(paths) + 1), format)
    loaded = ((path.stem, Stylizer.load(path, device=device, threads=threads)) for path in paths)
    picture = contact_sheet(rgb, loaded, size)
    write_bytes(output, encode_image(read_image(picture), format))
    print_notes((f"{note}: {photo}" for note in source.notes), sheet)
    typer.echo(one_line(f"wrote {output}: {', '.join(path.stem for path in paths)}"))


@app.command("styles")
@reports_errors
def show_styles(
    photo: Annotated[
        str | None,
        typer.Argument(help="An image file; default: a photo of a cat.", metavar="[PHOTO]"),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The page, one file of HTML.")
    ] = Path("styles.html"),
    styles: Styles = None,
    size: Annotated[
        int, typer.Option(help="Shorter side of each picture, in pixels.", min=16)
    ] = 400,
    open_page: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Open the page; default: from a terminal."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write over a page that is there.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Show a photo in every style at hand, on a page in the browser.

    Each has its painting, scores, milliseconds on this machine, and the command to use it.

    Example: faststyle styles photo.jpg
    """
    import webbrowser

    from faststyle.checkpoint import find_checkpoint
    from faststyle.devices import machine
    from faststyle.files import check_free, check_place, write_bytes
    from faststyle.images import on_white, open_picture
    from faststyle.sizes import fit_shorter
    from faststyle.stylize.sheet import paint_each
    from faststyle.stylize.styles_page import styles_page
    from faststyle.stylize.stylizer import Stylizer
    from faststyle.titles import painting_words
    from faststyle.training.photos import example_photo

    check_free(output, overwrite)
    check_place(output)
    names = _names(styles)
    source = open_picture(photo or example_photo())
    rgb = fit_shorter(on_white(source), size)
    announce = announce_for(show_styles)
    paintings: dict[str, str] = {}
    painted: list[Painted] = []
    for name in names:
        try:
            path = find_checkpoint(name)
            stylizer = Stylizer.load(path, device=device, threads=threads)
            known = stylizer.about.painting if stylizer.about else {}
            paintings[name] = painting_words(path, known)
            painted += paint_each(rgb, [(name, stylizer)])
        except FaststyleError as error:
            announce(f"left out: {name}: {error}")
    if not painted:
        raise typer.Exit(1)
    name = Path(photo or example_photo()).name
    page = styles_page(rgb, name, photo or "photo.jpg", painted, paintings, machine())
    write_bytes(output, page.encode("utf-8", "backslashreplace"))
    print_notes((f"{note}: {name}" for note in source.notes), show_styles)
    address = output.resolve().as_uri()
    typer.echo(one_line(f"wrote {output}: {len(painted)} styles; open {address}"))
    if sys.stdout.isatty() if open_page is None else open_page:
        webbrowser.open(address)
    if len(painted) < len(names):
        raise typer.Exit(1)


def _names(styles: list[str] | None) -> list[str]:
    """Return the styles that were asked for, else all at hand. Raises: CheckpointError for none.

    A collection is all of its paintings.
    """
    from faststyle.checkpoint import names_at_hand, names_of
    from faststyle.errors import CheckpointError

    names = [name for style in styles for name in names_of(style)] if styles else names_at_hand()
    if not names:
        raise CheckpointError(
            "no checkpoints at hand; train one with: faststyle train --style PAINTING"
        )
    return names
