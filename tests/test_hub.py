"""Styles of the Hub: names, versions that stay, and pushing, against a Hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import draw
from models import TOKEN, Models, open_models

from faststyle.checkpoint import About, find_checkpoint, read_about, save_checkpoint
from faststyle.errors import CheckpointError
from faststyle.hub import Address, parse_address
from faststyle.networks.johnson import Johnson
from faststyle.push import MARK, facts, write_card

ROOT = Path(__file__).parents[1]
# Asks for a style as a program does: the client of the Hub reads its settings when it is imported.
FIND = "import sys; from faststyle.checkpoint import *; print(find_checkpoint(sys.argv[1]))"


@pytest.fixture
def hub() -> Iterator[Models]:
    with open_models() as hub:
        yield hub


@pytest.fixture
def style(tmp_path: Path) -> Path:
    path = tmp_path / "dots.safetensors"
    about = About(
        network={"name": "johnson", "width": 4, "blocks": 1},
        painting={"name": "dots", "file": "dots.png"},
        vgg={"id": "vgg16-tiny"},
        photos="drawings",
        license="research use",
        recipe={"name": "quick", "steps": 550},
        scores={"style_closed": 0.5231, "light": 0.96},
    )
    save_checkpoint(path, Johnson(4, 1), about)
    return path


def run(hub: Models, folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "hf"),
        "FASTSTYLE_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        **more,
    }
    environment.pop("HF_TOKEN", None) if "HF_TOKEN" not in more else None
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def find(hub: Models, folder: Path, name: str, **more: str) -> str:
    done = run(hub, folder, "-c", FIND, name, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("hf:me/dots", Address("me/dots", "", "")),
        ("hf:me/dots/blue", Address("me/dots", "", "blue.safetensors")),
        ("hf:me/dots/more/blue.safetensors", Address("me/dots", "", "more/blue.safetensors")),
        ("hf:me/dots@v1", Address("me/dots", "v1", "")),
        ("hf:me/dots/blue_v1.5", Address("me/dots", "", "blue_v1.5.safetensors")),
        ("hf:me/dots@v1/blue.pth", Address("me/dots", "v1", "blue.pth")),
        ("hf:dots", None),
        ("hf:me/dots:klee", None),
        ("me/dots", None),
    ],
)
def test_names_are_addresses(name: str, address: Address | None) -> None:
    assert parse_address(name) == address


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:dots", r"name a style of the Hub as hf:USER/REPO\[@REVISION\]\[/FILE\]"),
        ("hf:me/dots/blue.pth", "only .safetensors files are taken from the Hub"),
        ("hf:me/dots/../../x.safetensors", "no name of a file on the Hub"),
        ("hf:me/dots", "it is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub"),
    ],
)
def test_names_that_mean_nothing_say_so(
    monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    # The client of the Hub has read the variable when it was imported, perhaps before this test.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(name)


def test_the_card_is_filled_in(style: Path) -> None:
    card = write_card(read_about(style), "me/dots", "dots.safetensors")
    assert card.startswith("---\n")
    assert "license_name: research use" in card
    assert "faststyle stylize photo.jpg --style hf:me/dots/dots -o out.png" in card
    for row in ("| painting | dots.png |", "| recipe | quick |", "| steps | 550 |", "| 0.52 |"):
        assert row in card


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((87.0, 4, 0), "87, the median of 4 of 4 photos"),
        ((None, 1, 0), "above 300: reached on 1 of 4 photos"),
        ((None, 0, 3), "none: no better than the photo on 3 of 4 photos"),
    ],
)
def test_a_card_says_what_was_measured_and_no_more(
    found: tuple[float | None, int, int], words: str, style: Path
) -> None:
    about = read_about(style)
    for key in ("equal L-BFGS step", "flicker", "hours of training", "machine"):
        assert key not in facts(about)
    step, reached, as_good = found
    equal = {"step": step, "steps": 300, "photos": 4, "reached": reached, "start_as_good": as_good}
    flicker = {"clips": 5, "error": 0.0031, "error_of_clips": 0.001, "noise_gain": None}
    measured = {"seconds": 5400, "machine": "a | b", "equal_step": equal, "flicker": flicker}
    known = facts(replace(about, measured=measured))
    assert known["equal L-BFGS step"] == words
    assert known["hours of training"] == "1.50"
    assert known["flicker"] == ("warping error 3.10 x 10^-3 on 5 clips (1.00 the clips themselves)")
    assert "| machine | a \\| b |" in write_card(replace(about, measured=measured), "me/x", "x")


@pytest.mark.slow
def test_a_style_of_the_hub_stays_as_it_was_first_used(
    hub: Models, style: Path, tmp_path: Path
) -> None:
    first = style.read_bytes()
    hub.repos["me/dots"] = [{"dots.safetensors": first, "README.md": b"a card"}]
    path = find(hub, tmp_path, "hf:me/dots")
    assert Path(path).read_bytes() == first
    # A newer version changes nothing, and nobody is asked.
    save_checkpoint(style, Johnson(4, 1), read_about(style))
    hub.repos["me/dots"].append({"dots.safetensors": style.read_bytes()})
    hub.repos["me/two"] = [{"a.safetensors": first, "b.safetensors": first}]
    find(hub, tmp_path, "hf:me/two/a")
    several = run(hub, tmp_path, "-c", FIND, "hf:me/two")
    assert "hf:me/two has 2 styles; name one" in several.stderr
    asked = len(hub.asked)
    assert find(hub, tmp_path, "hf:me/dots") == path
    assert find(hub, tmp_path, "hf:me/dots/dots") == path
    assert find(hub, tmp_path, "hf:me/dots", HF_HUB_OFFLINE="1") == path
    assert len(hub.asked) == asked
    # A revision that is named is taken.
    assert Path(find(hub, tmp_path, "hf:me/dots@main")).read_bytes() == style.read_bytes()
    old = hub.commit("me/dots", 0)
    assert Path(find(hub, tmp_path, f"hf:me/dots@{old}")).read_bytes() == first
    assert find(hub, tmp_path, "hf:me/dots") == path


@pytest.mark.slow
def test_faults_of_the_hub_are_one_line(hub: Models, style: Path, tmp_path: Path) -> None:
    data = style.read_bytes()
    hub.repos["me/two"] = [{"a.safetensors": data, "b.safetensors": data}]
    hub.repos["me/none"] = [{"model.bin": b"pickle"}]
    hub.repos["me/bad"] = [{"bad.safetensors": data[:-9]}]
    photo = tmp_path / "photo.png"
    draw(0, 32, 40).save(photo)
    for name, message in (
        ("hf:me/two", "hf:me/two has 2 styles; name one, as in hf:me/two/a"),
        ("hf:me/two/c", "no such file. Did you mean "),
        ("hf:me/none", "the repository has no .safetensors file"),
        ("hf:me/other", "there is no such repository; a private one needs a token"),
        ("hf:me/two@v7", "there is no such revision"),
        ("hf:me/bad", "bad.safetensors"),
    ):
        command = ["stylize.py", str(photo), "--style", name, "-o", "out.png", "--engine", "torch"]
        command[0] = str(ROOT / command[0])
        done = run(hub, tmp_path, *command)
        assert done.returncode == 1, name
        assert done.stderr.splitlines()[-1].startswith("error: ")
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.png").exists()


@pytest.mark.slow
def test_a_pushed_style_is_used_by_others(hub: Models, style: Path, tmp_path: Path) -> None:
    push = ["-m", "faststyle.cli", "push", str(style), "me/dots"]
    done = run(hub, tmp_path, *push)
    assert done.returncode == 1
    assert "HF_TOKEN" in done.stderr.splitlines()[-1]
    done = run(hub, tmp_path, *push, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert "use it with: --style hf:me/dots/dots" in done.stdout
    pushed = hub.repos["me/dots"][-1]
    assert pushed["dots.safetensors"] == style.read_bytes()
    assert MARK in pushed["README.md"].decode()
    # What is there is replaced when asked, and a card of somebody else stays.
    done = run(hub, tmp_path, *push, HF_TOKEN=TOKEN)
    assert done.returncode == 1
    assert "has a file dots.safetensors already; replace it with --overwrite" in done.stderr
    hub.repos["me/dots"].append({**pushed, "README.md": b"by hand"})
    done = run(hub, tmp_path, *push, "--overwrite", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert "note: README.md of me/dots is not ours and was left as it is" in done.stderr
    assert hub.repos["me/dots"][-1]["README.md"] == b"by hand"
    other = tmp_path / "other"
    other.mkdir()
    assert Path(find(hub, other, "hf:me/dots")).read_bytes() == style.read_bytes()
