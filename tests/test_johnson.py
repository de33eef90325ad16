"""Johnson's network against the table of the paper."""

from __future__ import annotations

import torch

from faststyle.networks import build_network
from faststyle.networks.johnson import Johnson


def test_layer_sizes_are_those_of_the_papers_table() -> None:
    """Channels and sizes after each convolution, for 256x256 pixels (supplement, Table 1)."""
    network = Johnson()
    seen: list[tuple[int, ...]] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda m, i, o: seen.append((*m.kernel_size, *o.shape[1:]))
            )
    network.paint(torch.rand(1, 3, 256, 256))
    expected = [(9, 9, 32, 256, 256), (3, 3, 64, 128, 128), (3, 3, 128, 64, 64)]
    expected += [(3, 3, 128, 64, 64)] * 10
    expected += [(3, 3, 64, 128, 128), (3, 3, 32, 256, 256), (9, 9, 3, 256, 256)]
    assert seen == expected


def test_the_network_has_1_679_235_parameters() -> None:
    assert sum(p.numel() for p in build_network({"name": "johnson"}).parameters()) == 1_679_235
