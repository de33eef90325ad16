"""A run in two halves: one network with less style, one with more, and the mean of their weights.

Both begin from the same start. Networks that were trained from one start for different objectives
can be interpolated by their weights. Source: Wang et al., "Deep Network Interpolation for
Continuous Imagery Effect Transition" (2019), https://arxiv.org/abs/1811.10515. Each half brings a
fine hatch of its own, which the mean has less of; strokes are common to both. The weight of style
that a checkpoint holds is that of the second half, for one objective must be told.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from faststyle.networks.network import StyleNetwork


class Halves:
    """Keeps the weights of the start and of the first half; both are saved with a run's state.

    Example:
        >>> halves = Halves(network, accelerator)
        >>> halves.turn(network)  # after the first half: `network` is at its start again
        >>> halves.mean(network)  # of the first half and of what `network` is now
    """

    def __init__(self, network: StyleNetwork, accelerator: Accelerator) -> None:
        self.start = AveragedModel(network)
        self.first = AveragedModel(network)
        accelerator.register_for_checkpointing(self.start, self.first)

    @torch.no_grad()
    def turn(self, network: StyleNetwork) -> None:
        """Keep the weights of `network` as those of the first half, and give it the start's.

        A step of several accumulated parts asks for it with each of them; the first one counts.
        """
        if int(self.first.n_averaged):
            return
        _copy(network, self.first.module)
        _copy(self.start.module, network)
        self.first.n_averaged += 1

    @torch.no_grad()
    def mean(self, network: StyleNetwork) -> StyleNetwork:
        """Return a network with the mean weights; `network` itself while the first half lasts."""
        if not int(self.first.n_averaged):
            return network
        between: StyleNetwork = AveragedModel(network).module  # type: ignore[assignment]
        for mean, first in zip(between.parameters(), self.first.parameters(), strict=True):
            mean.lerp_(first, 0.5)
        return between


def _copy(source: nn.Module, target: nn.Module) -> None:
    for new, old in zip(source.parameters(), target.parameters(), strict=True):
        old.copy_(new)
