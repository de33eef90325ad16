"""All networks: sizes, range, rim, paintings; and how they are built."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from faststyle.errors import ImageError, RecipeError
from faststyle.networks import NETWORKS, build_network, one_painting, parse_network
from faststyle.networks.layers import InstanceNorm
from faststyle.networks.mobile import Mobile, without_lattice
from faststyle.networks.network import StyleNetwork, in_range

NAMES = pytest.mark.parametrize("name", list(NETWORKS))
OURS = pytest.mark.parametrize("name", [name for name in NETWORKS if name != "pytorch_example"])


def build(name: str, paintings: int = 0) -> StyleNetwork:
    torch.manual_seed(0)
    config = {"name": name, "width": 4, "blocks": 1, "paintings": paintings}
    network = build_network(config)
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            torch.nn.init.normal_(module.weight, mean=1.0, std=0.5)
            torch.nn.init.normal_(module.bias, std=0.5)
    return network


@NAMES
@pytest.mark.parametrize("size", [(32, 32), (33, 49), (34, 64), (47, 35), (256, 130)])
def test_the_picture_has_the_size_of_the_photo(name: str, size: tuple[int, int]) -> None:
    photo = torch.rand(1, 3, *size)
    assert build(name).eval()(photo).shape == photo.shape


@OURS
def test_the_rim_is_mirrored_and_cut_off_again(name: str) -> None:
    """It has 24 pixels, and more on the right and below, up to a multiple of 4."""
    network = build(name).eval()
    photo = torch.rand(1, 3, 34, 35)
    around = ((0, 0), (0, 0), (24, 26), (24, 25))
    mirrored = torch.from_numpy(np.pad(photo.numpy(), around, mode="reflect"))
    with torch.no_grad():
        expected = in_range(network.paint(mirrored))[..., 24:58, 24:59]
        torch.testing.assert_close(network(photo), expected.clamp(0, 1))


@NAMES
def test_training_adds_no_rim(name: str) -> None:
    network = build(name).train()
    crop = torch.rand(2, 3, 32, 36)
    torch.testing.assert_close(network(crop), network.in_range(network.paint(crop)))


def test_the_range_reaches_a_tenth_beyond_black_and_white() -> None:
    ends = in_range(torch.tensor([-50.0, 0.0, 50.0]))
    torch.testing.assert_close(ends, torch.tensor([-0.1, 0.5, 1.1]))


@NAMES
def test_only_evaluation_clamps(name: str) -> None:
    network = build(name)
    head = network.get_parameter("head.bias")
    head.data.fill_(20.0)
    photo = torch.rand(1, 3, 32, 32)
    assert network.train()(photo).max() > 1
    assert network.eval()(photo).max() == 1


@NAMES
def test_flat_parts_stay_flat(name: str) -> None:
    """Where a photo is flat, and far from its edges, a new network draws no texture."""
    torch.manual_seed(0)
    network = build_network({"name": name, "width": 4, "blocks": 1}).eval()
    with torch.no_grad():
        out = network(torch.full((1, 3, 64, 64), 0.3))
    assert float(out[..., 24:40, 24:40].flatten(2).std(2).max()) < 1e-5


@NAMES
def test_a_network_of_many_paintings_is_the_network_of_each(name: str) -> None:
    config = {"name": name, "width": 4, "blocks": 1, "paintings": 3}
    many = build(name, paintings=3).eval()
    photos = torch.rand(2, 3, 36, 32)
    mix = torch.tensor([[0.0, 0.0, 1.0], [0.25, 0.75, 0.0]])
    with torch.no_grad():
        together = many(photos, mix)
        for photo, shares, expected in zip(photos, mix, together, strict=True):
            single = one_painting(many, config, shares)
            assert single.paintings == 0
            torch.testing.assert_close(single(photo[None])[0], expected, atol=1e-5, rtol=0)
    assert (together[0] - many(photos, mix.flip(0))[0]).abs().max() > 0.01


@NAMES
def test_too_small_is_an_error_with_the_limit(name: str) -> None:
    with pytest.raises(ImageError, match="at least 32"):
        build(name).eval()(torch.rand(1, 3, 31, 40))


def test_unknown_names_and_options_get_a_suggestion() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'johnson'"):
        build_network({"name": "jonson"})
    with pytest.raises(RecipeError, match="Did you mean 'width'"):
        build_network({"name": "johnson", "widht": 3})


def test_networks_have_short_names() -> None:
    assert parse_network("mobile") == {"name": "mobile"}
    assert parse_network("johnson-16") == {"name": "johnson", "width": 16}
    wrong = ("mobil", "mobile-", "mobile-x", "mobile-3.5", "nocturne")
    assert [parse_network(text) for text in wrong] == [None] * 5


@NAMES
@pytest.mark.parametrize(
    "option", [{"width": 10**9}, {"blocks": 10**9}, {"paintings": 10**9}, {"width": 1025}]
)
def test_networks_that_would_take_all_memory_are_refused(name: str, option: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="width is at most 1024, blocks 64 and paintings 1000"):
        build_network({"name": name, **option})


@NAMES
@pytest.mark.parametrize("option", [{"width": 0}, {"blocks": -1}, {"paintings": -1}])
def test_impossible_sizes_are_refused(name: str, option: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="at least"):
        build_network({"name": name, **option})


def test_mobile_never_works_at_full_size() -> None:
    """The ends work at half the size, the trunk at a quarter, both with the rim of 24."""
    network = build_network({"name": "mobile", "width": 8, "blocks": 2}).eval()
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape[1:])))
    network(torch.rand(1, 3, 64, 96))
    assert seen == [(2, 56, 72), *[(8, 28, 36)] * 5, (4, 56, 72), (12, 56, 72)]


def test_mobile_starts_near_grey_and_without_a_lattice() -> None:
    torch.manual_seed(0)
    head = Mobile(8, 1).head
    by_pixel = head.weight.view(3, 4, 4, 3, 3)  # colour, pixel, channel, kernel
    assert torch.equal(by_pixel, by_pixel[:, :1].expand_as(by_pixel))
    assert float(head.weight.detach().abs().max()) < 0.1 / 6  # a tenth of 1 / sqrt(4 channels x 9)


@pytest.mark.parametrize("turned", [False, True])
def test_a_lattice_is_removed(turned: bool) -> None:
    """Stripes of period 2 vanish, a checkerboard too; a wave of 4 pixels keeps 0.7 of itself."""
    at = torch.arange(32.0)
    stripes = (at % 2).expand(1, 3, 32, 32)
    board = ((at[:, None] + at) % 2).expand(1, 3, 32, 32)
    for image in (stripes.mT if turned else stripes, board):
        left = without_lattice(image)[..., :-1, :-1]
        torch.testing.assert_close(left, torch.full_like(left, 0.5))
    wave = torch.cos(torch.pi / 2 * at).expand(1, 1, 32, 32)
    left = without_lattice(wave.mT if turned else wave)[..., :-1, :-1]
    assert float(left.square().mean() / wave.square().mean()) == pytest.approx(0.5, abs=0.01)
