"""The network of PyTorch's example fast_neural_style, for checkpoints that others trained.

It is Johnson's network with another way to enlarge, no rim and no tanh. convert.py writes its
checkpoints. Source: https://github.com/pytorch/examples, fast_neural_style, `TransformerNet`
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from faststyle.networks.johnson import Johnson


class PyTorchExample(Johnson):
    """The network, with the same pictures as the example's.

    The example takes and gives values in [0, 255]. Here both are in [0, 1]: the factor 255 is in
    the weights of the first and of the last convolution.
    Differs from the example: it enlarges sides to multiples of 4, here the surplus is cut off.

    Example:
        >>> PyTorchExample()(torch.rand(1, 3, 33, 70)).shape
        torch.Size([1, 3, 33, 70])
    """

    rim = 0
    multiple = 1

    def enlarge(self, y: Tensor) -> Tensor:
        """Return features at twice the height and width, each value four times."""
        return F.interpolate(y, scale_factor=2.0, mode="nearest")

    def in_range(self, y: Tensor) -> Tensor:
        """Return the output of the head: it is the picture."""
        return y
