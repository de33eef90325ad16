"""Tiles against the whole picture: the same but for rounding, for all networks and sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import faststyle
from faststyle.checkpoint import load_checkpoint
from faststyle.networks import NETWORKS, build_network
from faststyle.networks.network import StyleNetwork
from faststyle.stylize.tiles import HALO, Moments, Pixels, _tiles, stylize_tiles


def photo(h: int, w: int) -> Pixels:
    """A picture whose parts differ: no tile has the statistics of the whole."""
    y, x = np.mgrid[:h, :w]
    shade = 255 * (0.5 + 0.5 * np.sin(x / 7 + (y / 40) ** 2)) * (x / w)
    noise = np.random.default_rng(0).normal(0, 30, (h, w, 3))
    return (
        (shade[..., None] * [1, 0.7, 0.4] + noise * (y > h // 2)[..., None])
        .clip(0, 255)
        .astype(np.uint8)
    )


def network(name: str) -> StyleNetwork:
    """A network with random weights, also in the norms and in the head."""
    torch.manual_seed(1)
    built = build_network({"name": name, "width": 4})
    for key, parameter in built.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float(key.endswith("weight")), std=0.3)
    torch.nn.init.normal_(built.get_parameter("head.weight"), std=0.1)
    return built.eval()


def whole(built: StyleNetwork, rgb: Pixels) -> np.ndarray:
    with torch.no_grad():
        out = built(torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255)
    return out[0].float().mul(255).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", list(NETWORKS))
def test_tiles_give_the_whole_picture(name: str) -> None:
    rgb = photo(157, 230)
    built = network(name)
    got = stylize_tiles(built, rgb, tile=64)
    assert got.shape == rgb.shape
    assert np.abs(got - whole(built, rgb)).max() < 0.6  # rounding to 8 bits is half a level


@pytest.mark.slow
@pytest.mark.parametrize("name", ["great_wave-mobile", "the_scream-mobile"])
def test_trained_networks_give_the_same_large_picture(name: str) -> None:
    """Sums are over millions of pixels. In float32 whole pictures were up to 5 levels off."""
    rgb = np.array(
        Image.fromarray(skimage.data.astronaut()).resize((2048, 2048), Image.Resampling.BICUBIC)
    )
    gallery = Path(faststyle.__file__).with_name("gallery")
    built = load_checkpoint(gallery / f"{name}.safetensors")[0].eval()
    assert np.abs(stylize_tiles(built, rgb) - whole(built, rgb)).max() < 0.6


@pytest.mark.parametrize("name", list(NETWORKS))
def test_tiles_in_bf16_give_the_whole_picture_in_bf16(name: str) -> None:
    """Rounding differs a little, since the moments do: a trained network was 2.2 levels off."""
    rgb = photo(120, 150)
    built = network(name)
    with torch.autocast("cpu", torch.bfloat16):
        expected = whole(built, rgb)
    got = stylize_tiles(built, rgb, tile=64, precision="bf16")
    off = np.abs(got - expected.astype(np.float32))
    exact = np.abs(got - whole(built, rgb))
    assert exact.mean() > 0.3  # it is bf16
    assert off.mean() < 0.75 * exact.mean()


@pytest.mark.parametrize("size", [(32, 32), (33, 200), (130, 35), (64, 64), (65, 129)])
@pytest.mark.parametrize("name", ["mobile", "pytorch_example"])  # with and without a rim
def test_any_size(size: tuple[int, int], name: str) -> None:
    rgb = photo(*size)
    built = network(name)
    assert np.abs(stylize_tiles(built, rgb, tile=40) - whole(built, rgb)).max() < 0.6


def test_the_network_is_as_before() -> None:
    built = network("mobile")
    rgb = photo(40, 60)
    before = whole(built, rgb)
    stylize_tiles(built, rgb, tile=32)
    np.testing.assert_array_equal(whole(built, rgb), before)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_halo_is_wider_than_what_a_pixel_depends_on(name: str) -> None:
    """With fixed norms, the gradient of one painted pixel is zero outside of the halo."""
    built = network(name)
    for module in built.modules():
        if type(module).__name__ == "InstanceNorm":
            module.forward = lambda x, relu=False, mix=None: x  # type: ignore[method-assign, assignment]
    side = 4 * HALO
    x = torch.rand(1, 3, side, side, requires_grad=True)
    for at in range(2 * HALO, 2 * HALO + 4):
        (grad,) = torch.autograd.grad(built.paint(x)[0, :, at, at].sum(), x)
        seen = grad.abs().sum((0, 1)).nonzero()
        assert int((seen - at).abs().max()) < HALO


def test_progress_goes_to_its_end() -> None:
    seen: list[tuple[int, int]] = []
    stylize_tiles(
        network("mobile"), photo(64, 96), tile=48, progress=lambda *done: seen.append(done)
    )
    assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))
    # norms of encoder, trunk and decoder, and the picture
    assert seen[0][1] == 4 * (2 + 10 + 1 + 1)


def test_moments_in_parts_are_those_of_all() -> None:
    values = 1000 + torch.randn(3, 700, dtype=torch.float64)
    found = Moments()
    for part in values.split([1, 300, 399], 1):
        found.add(part)
    torch.testing.assert_close(found.mean, values.mean(1))
    torch.testing.assert_close(found.scatter / 700, values.var(1, correction=0))


def test_tiles_cover_all_once_and_lie_on_the_networks_grid() -> None:
    count = np.zeros((132, 200), int)
    for tile in _tiles(132, 200, 50, rim=12):
        count[tile.top : tile.bottom, tile.left : tile.right] += 1
        assert all(edge % 4 == 0 for edge in tile)
    assert count.min() == count.max() == 1
