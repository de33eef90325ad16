"""Where training starts: the base, a collection, a checkpoint of the same network, or scratch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from faststyle.checkpoint import About, base_file, read_about, save_checkpoint
from faststyle.errors import CheckpointError, RecipeError
from faststyle.networks import build_network, network_options, one_painting_config
from faststyle.networks.network import StyleNetwork
from faststyle.perceptual.loss_config import STYLE_LAYERS, LossConfig, deepest_layers
from faststyle.perceptual.losses import PerceptualLoss, WeightedPainting
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.training.recipe import load_recipe
from faststyle.training.start import check_start, painting_means, start_network

NETWORK = {"name": "mobile", "width": 4, "blocks": 1}
NAMES = ["reds", "greens", "stripes"]


def picture(kind: str, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    image = 0.3 * torch.rand(1, 3, 64, 64, generator=generator)
    if kind == "stripes":
        image[..., ::4] = 0.9
    else:
        image[:, NAMES.index(kind)] += 0.6
    return image


@pytest.fixture(scope="module")
def objective(tiny_weights: VGGWeights):  # type: ignore[no-untyped-def]
    config = LossConfig()
    vgg = load_vgg(tiny_weights, deepest_layers(config, "vgg16"))

    def build(*paintings: torch.Tensor) -> PerceptualLoss:
        return PerceptualLoss(vgg, [WeightedPainting(painting) for painting in paintings], config)

    return build


def randomised(config: dict[str, object]) -> StyleNetwork:
    torch.manual_seed(7)
    network = build_network(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


@pytest.fixture
def collection(tmp_path: Path, objective) -> Path:  # type: ignore[no-untyped-def]
    """A collection of three paintings, in half precision, with a balance of its own for each."""
    config = {**NETWORK, "paintings": 3}
    known = [{"name": name, "balance": 1.0 + i} for i, name in enumerate(NAMES)]
    about = About(config, {}, {}, "few", {}, paintings=known, photos_seen=60, license="lent")
    means = painting_means(objective(*map(picture, NAMES)))
    path = tmp_path / "three.safetensors"
    save_checkpoint(path, randomised(config), about, torch.float16, means)
    return path


def test_a_new_painting_starts_from_the_nearest_one(collection: Path, objective) -> None:  # type: ignore[no-untyped-def]
    loss = objective(picture("stripes", seed=1))
    network = build_network(NETWORK)
    origin = start_network(network, NETWORK, str(collection), loss, ["new"])
    assert origin.nearest == "stripes"
    assert origin.photos == "few"
    assert origin.photos_seen == 60
    assert origin.license == "lent"
    assert len(origin.base) == 64
    assert loss.balance.tolist() == [3.0]
    many = randomised({**NETWORK, "paintings": 3}).state_dict()
    for name, value in network.state_dict().items():
        expected = many[name][2] if many[name].dim() == value.dim() + 1 else many[name]
        torch.testing.assert_close(value, expected.half().float())


def test_a_collection_goes_on_from_a_collection(collection: Path, objective) -> None:  # type: ignore[no-untyped-def]
    """Paintings of the same name keep their own scales and shifts, a new one gets the nearest."""
    loss = objective(picture("stripes", seed=2), picture("reds", seed=3), picture("greens", seed=4))
    config = {**NETWORK, "paintings": 3}
    network = build_network(config)
    start_network(network, config, str(collection), loss, ["new", "reds", "greens"])
    assert loss.balance.tolist() == [3.0, 1.0, 2.0]
    many = randomised(config).state_dict()["trunk.0.first.1.weight"].half().float()
    found = network.state_dict()["trunk.0.first.1.weight"]
    torch.testing.assert_close(found, many[[2, 0, 1]])


PYRAMID = STYLE_LAYERS["pyramid"]
AS_WIDE = {layer.replace("relu3_1", "relu3_2"): weight for layer, weight in PYRAMID.items()}


@pytest.mark.parametrize("style_layers", ["johnson", AS_WIDE], ids=["others", "as wide"])
def test_without_a_nearest_painting_it_is_the_first_one_and_that_is_said(
    collection: Path, tiny_weights: VGGWeights, style_layers: str | dict[str, float]
) -> None:
    config = LossConfig(style_layers=style_layers)
    vgg = load_vgg(tiny_weights, deepest_layers(config, "vgg16"))
    loss = PerceptualLoss(vgg, picture("stripes", seed=1), config)
    origin = start_network(build_network(NETWORK), NETWORK, str(collection), loss, ["new"])
    assert loss.balance.tolist() == [1.0]
    assert origin.nearest == ""
    assert origin.note == (
        "new: starts as three paints reds; the nearest painting cannot be found, for three has "
        "other style layers or another VGG"
    )
    own = start_network(build_network(NETWORK), NETWORK, str(collection), loss, ["stripes"])
    assert loss.balance.tolist() == [3.0]
    assert (own.nearest, own.note) == ("stripes", "")


def test_a_checkpoint_gives_its_weights(tmp_path: Path, objective) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, randomised(NETWORK), About(NETWORK, {}, {}, "few", {}, base="abc"))
    network = build_network(NETWORK)
    origin = start_network(network, NETWORK, str(path), objective(picture("reds")), ["new"])
    assert (origin.photos, origin.base, origin.nearest) == ("few", "abc", "")
    expected = randomised(NETWORK).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in network.state_dict().items())


def test_scratch_changes_nothing(objective) -> None:  # type: ignore[no-untyped-def]
    network = build_network(NETWORK)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    origin = start_network(network, NETWORK, "scratch", objective(picture("reds")), ["new"])
    assert (origin.photos, origin.base) == ("", "")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_another_network_is_refused(collection: Path) -> None:
    with pytest.raises(RecipeError, match="holds another network: width 4"):
        check_start(str(collection), {**NETWORK, "width": 8})


def test_defaults_are_the_same_network(collection: Path) -> None:
    check_start(str(collection), {"name": "mobile", "width": 4, "blocks": 1, "paintings": 9})
    with pytest.raises(RecipeError, match="another network: blocks 1"):
        check_start(str(collection), {"name": "mobile", "width": 4})


def test_what_cannot_be_started_from(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no file 'nowhere.safetensors'"):
        check_start("nowhere.safetensors", NETWORK)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing to see")
    with pytest.raises(CheckpointError, match=r"`init` .*: not a checkpoint, but some other file"):
        check_start(str(tmp_path / "broken.safetensors"), NETWORK)


def test_a_collection_does_not_start_from_a_network_of_one_painting(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_checkpoint(path, randomised(NETWORK), About(NETWORK, {}, {}, "few", {}))
    check_start(str(path), NETWORK)
    with pytest.raises(RecipeError, match="of one painting, and a collection cannot start from it"):
        check_start(str(path), {**NETWORK, "paintings": 2})
    with pytest.raises(RecipeError, match="there is no file 'xxx"):
        check_start("x" * 300, NETWORK)


@pytest.mark.parametrize("recipe", ["instant", "quick", "long"])
def test_the_base_fits_the_recipes_and_says_what_it_is(recipe: str) -> None:
    network = load_recipe(recipe).network
    check_start("base", network)
    about = read_about(base_file())
    assert network_options(one_painting_config(about.network)) == network_options(network)
    assert len(about.paintings) == about.network["paintings"] >= 40
    assert about.photos_seen > 0
    assert "research use" in about.photos
    assert about.license == "research use"
    tested = {"starry_night", "great_wave", "the_scream", "composition_vii"}
    assert not tested & {painting["name"] for painting in about.paintings}
    assert base_file().stat().st_size < 4 * 2**20  # it is in every installation


def test_a_network_without_a_base_says_so() -> None:
    with pytest.raises(RecipeError, match="the base holds another network: .*`init` scratch"):
        check_start("base", {"name": "johnson", "width": 4})
