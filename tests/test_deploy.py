"""Networks in the form for engines: the same pictures, from other operations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from faststyle.engines.deploy import _Quads, for_engines
from faststyle.networks import NETWORKS, build_network
from faststyle.networks.johnson import Johnson


@pytest.mark.parametrize("size", [(32, 32), (36, 50)])
def test_quads_are_the_convolution_that_they_replace(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 3, 9, padding=4, padding_mode="reflect")
    x = torch.randn(2, 5, *size)
    torch.testing.assert_close(_Quads(conv)(x), conv(x), atol=1e-5, rtol=0)


def test_other_networks_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 9, padding=4, padding_mode="reflect"))
    assert isinstance(for_engines(network)[0], nn.Conv2d)  # type: ignore[index]
    assert isinstance(for_engines(Johnson(4, 0)).head, _Quads)
    assert isinstance(for_engines(build_network({"name": "mobile", "width": 4})).head, nn.Conv2d)


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("size", [(32, 32), (33, 70), (50, 35)])
def test_engines_get_the_same_picture(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_network({"name": name, "width": 4, "blocks": 1}).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0.1, 0.5)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    photos = torch.rand(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(for_engines(network)(photos), network(photos), atol=1e-4, rtol=0)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
