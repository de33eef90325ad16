"""Put a checkpoint on the Hugging Face Hub, with a card that its metadata fills in.

Source of the card's fields: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faststyle
from faststyle.checkpoint import About, check_weights, painting_names, read_about, read_weights
from faststyle.errors import OutputError
from faststyle.networks import network_options

CARD = "README.md"
MARK = "<!-- written by faststyle push -->"  # only cards that we wrote are written over
SCORES = {
    "style_closed": "how far the style has moved from the photo's (0) to the painting's (1)",
    "clear_distance": "how much of the photo is lost",
    "light": "correlation of light and dark with the photo's",
    "grid": "an alarm for checkerboards; photos have about 2",
}


def push_checkpoint(
    path: Path, repo: str, private: bool = False, overwrite: bool = False
) -> tuple[str, list[str]]:
    """Upload a checkpoint and its card in one commit; return the page's address, and notes.

    The repository is made where there is none, `private` or public. A card that somebody else wrote
    is left as it is, with a note. Raises: CheckpointError for a damaged file; OutputError where a
    file of that name is there and `overwrite` is not given, or the Hub refuses.
    """
    import huggingface_hub

    about = read_about(path)
    with check_weights(path):
        read_weights(path)
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    api = huggingface_hub.HfApi()
    notes: list[str] = []
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        repo = url.repo_id
        if not overwrite and api.file_exists(repo, path.name):
            raise OutputError(
                f"{repo} has a file {path.name} already; replace it with `overwrite`, or rename "
                f"{path}"
            )
        add = huggingface_hub.CommitOperationAdd
        operations = [add(path.name, path)]
        if _is_ours(api, repo):
            operations.append(add(CARD, write_card(about, repo, path.name).encode()))
        else:
            notes.append(f"{CARD} of {repo} is not ours and was left as it is")
        api.create_commit(repo, operations, commit_message=f"{path.name}, by faststyle")
    except OutputError:
        raise
    except Exception as error:  # a zoo: no token, no right to write, no network
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise OutputError(
            f"cannot put {path} on the Hub as {repo}: {first}; a token that may write is given "
            "with `hf auth login` or HF_TOKEN"
        ) from error
    return str(url), notes


def _is_ours(api: Any, repo: str) -> bool:
    """Return whether a card may be written: there is none, or one of ours."""
    if not api.file_exists(repo, CARD):
        return True
    import huggingface_hub

    # The newest card is meant, whatever its commit is.
    card = huggingface_hub.hf_hub_download(repo, CARD)  # nosec B615
    return MARK in Path(card).read_text("utf-8")


def write_card(about: About, repo: str, file: str) -> str:
    """Return the card of a checkpoint: what it is, its licence, its scores and how it was made."""
    import huggingface_hub

    data = huggingface_hub.ModelCardData(
        license="other",
        license_name=about.license,
        library_name="faststyle",
        pipeline_tag="image-to-image",
        tags=["style-transfer", "fast-neural-style"],
    )
    style = f"hf:{repo}/{Path(file).stem}"
    names = painting_names(about)
    title = f"A network of {len(names)} paintings" if names else f"The style {Path(file).stem}"
    shown = f"{style}:{names[0]}" if names else style
    network = network_options(about.network)
    lines = [
        "---",
        data.to_yaml(),
        "---",
        MARK,
        f"# {title}",
        "A feed-forward network (Johnson et al. 2016) that repaints any photo or video in the "
        "style of a painting. Trained with faststyle.",
        "",
        "```bash",
        "pip install faststyle-trainer",
        f"faststyle stylize photo.jpg --style {shown} -o out.png",
        "```",
        "",
        "| | |",
        "|---|---|",
        *(table_row(key, value) for key, value in facts(about).items()),
        f"| network | {network['name']}, width {network['width']} |",
        f"| faststyle | {faststyle.__version__} |",
        *_score_rows(about),
        "",
    ]
    if names:
        lines += ["Paintings: " + ", ".join(f"`{name}`" for name in names) + ".", ""]
    return "\n".join(lines)


def facts(about: About) -> dict[str, str]:
    """Return what is known of a checkpoint, by name, in words: what it is and how it was made.

    What is not known is left out.
    """
    recipe = about.recipe
    measured = about.measured
    seconds = measured.get("seconds")
    values = {
        "painting": about.painting.get("file", ""),
        "photos": about.photos,
        "licence": about.license,
        "recipe": recipe.get("name", ""),
        "teacher": recipe.get("teacher", ""),
        "steps": recipe.get("steps", ""),
        "photos a step": recipe.get("batch_size", ""),
        "photos seen": about.photos_seen or "",
        "VGG weights": about.vgg.get("id", ""),
        "hours of training": "" if seconds is None else f"{seconds / 3600:.2f}",
        "machine": measured.get("machine", ""),
        "equal L-BFGS step": _equal_step(measured.get("equal_step") or {}),
        "flicker": _flicker(measured.get("flicker") or {}),
    }
    return {key: str(value) for key, value in values.items() if value != ""}


def _equal_step(found: Mapping[str, Any]) -> str:
    """Return after how many steps from the photo the slow path is as good as the network."""
    if not found:
        return ""
    photos = found["photos"]
    if found["step"] is not None:
        return f"{found['step']:g}, the median of {found['reached']} of {photos} photos"
    if 2 * found["start_as_good"] >= photos:
        return f"none: no better than the photo on {found['start_as_good']} of {photos} photos"
    return f"above {found['steps']}: reached on {found['reached']} of {photos} photos"


def _flicker(found: Mapping[str, Any]) -> str:
    """Return the warping error beside that of the clips, and the gain of noise of still places."""
    if not found:
        return ""
    error = f"{1000 * found['error']:.2f} x 10^-3"
    own = f"{1000 * found['error_of_clips']:.2f}"
    gain = found["noise_gain"]
    more = "" if gain is None else f"; noise of still places x {gain:.2f}"
    return f"warping error {error} on {found['clips']} clips ({own} the clips themselves){more}"


def table_row(*cells: object) -> str:
    """Return a row of a table in Markdown."""
    texts = [str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells]
    return f"| {' | '.join(texts)} |"


def _score_rows(about: About) -> list[str]:
    """Return rows of the table for the judge's scores that the checkpoint has."""
    return [
        table_row(f"{name}: {meaning}", f"{about.scores[name]:.2f}")
        for name, meaning in SCORES.items()
        if isinstance(about.scores.get(name), int | float)
    ]
