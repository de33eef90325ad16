"""Where training starts: the base that comes with the package, a checkpoint of the same network, or scratch."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from faststyle.checkpoint import About, save_checkpoint
from faststyle.errors import CheckpointError, RecipeError
from faststyle.networks import build_network
from faststyle.training.recipe import load_recipe
from faststyle.training.start import KEY, check_start, start_network

NETWORK = {"name": "johnson", "width": 4, "blocks": 1}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkpoint of the same network with other weights and another palette."""
    torch.manual_seed(7)
    network = build_network(NETWORK, torch.rand(1, 3, 16, 16))
    torch.nn.init.normal_(network.get_parameter("head.weight"))
    save_checkpoint(tmp_path / "other.safetensors", network, About(NETWORK, {}, {}, "few", {}, base="abc"))
    return tmp_path / "other.safetensors"


def test_a_checkpoint_gives_its_weights_and_keeps_the_paintings_palette(other: Path) -> None:
    painting = torch.rand(1, 3, 20, 20)
    network = build_network(NETWORK, painting)
    palette = network.get_buffer("palette_mean").clone()
    assert start_network(network, NETWORK, str(other)) == ("few", "abc")
    assert torch.equal(network.get_buffer("palette_mean"), palette)
    torch.manual_seed(7)
    expected = build_network(NETWORK, torch.rand(1, 3, 16, 16))
    assert torch.equal(network.get_parameter("encode1.0.weight"), expected.get_parameter("encode1.0.weight"))
    assert bool(network.get_parameter("head.weight").any())  # from scratch it is all zeros


def test_scratch_changes_nothing() -> None:
    network = build_network(NETWORK)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert start_network(network, NETWORK, "scratch") == ("", "")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_another_network_is_refused(other: Path) -> None:
    config = {**NETWORK, "width": 8}
    with pytest.raises(RecipeError, match="holds another network"):
        start_network(build_network(config), config, str(other))


def test_defaults_are_the_same_network(other: Path) -> None:
    config = {"width": 4, "blocks": 1, "start": "palette"}
    network = build_network(config)
    start_network(network, config, str(other))
    assert bool(network.get_parameter("head.weight").any())


def test_what_cannot_be_started_from(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no file 'nowhere.safetensors'"):
        check_start("nowhere.safetensors", NETWORK)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        start_network(build_network(NETWORK), NETWORK, str(tmp_path / "broken.safetensors"))


def test_the_base_fits_quick_and_leaves_the_palette_to_the_painting() -> None:
    network = load_recipe("quick").network
    check_start("base", network)
    started, plain = (build_network(network, torch.full((1, 3, 20, 20), 0.25)) for _ in range(2))
    origin = start_network(started, network, "base")
    assert origin.photos
    assert len(origin.base) == 64
    assert all(not torch.equal(p, q) for p, q in zip(started.parameters(), plain.parameters(), strict=True))
    assert torch.equal(started.get_buffer("palette_mean"), plain.get_buffer("palette_mean"))
    assert bool(started.get_buffer("palette_mean").eq(0.25).all())
    photo = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert bool(started.eval()(photo).isfinite().all())


def test_bases_are_small_and_say_how_they_were_made() -> None:
    files = list(Path(str(resources.files("faststyle.training") / "bases")).glob("*.safetensors"))
    assert files
    for path in files:
        assert path.stat().st_size < 2**20  # they are in every installation
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[KEY])
            assert not any(name.startswith("palette") for name in file.keys())  # noqa: SIM118
        assert {"network", "paintings", "photos"} <= about.keys()
        assert {"steps", "vgg"} <= about.keys() or {"teacher", "minutes"} <= about.keys()


def test_a_network_without_a_base_says_which_ones_have_one() -> None:
    with pytest.raises(RecipeError, match="no base fits this network; there is one for .*width=16.*--init scratch"):
        check_start("base", NETWORK)
