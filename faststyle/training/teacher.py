"""A trained network whose pictures a new, smaller network learns to copy, before it paints itself.

A picture of the teacher costs one forward pass; a step on the objective costs five times as much.
Source: Hinton et al., "Distilling the knowledge in a neural network" (2015),
https://arxiv.org/abs/1503.02531; there the outputs are classes, here they are pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from faststyle.abstraction import abstract
from faststyle.checkpoint import About, find_checkpoint, load_network, painting_names, read_about
from faststyle.errors import CheckpointError
from faststyle.networks.network import StyleNetwork


class Teacher(NamedTuple):
    """A network in evaluation mode, and its number of each painting that the new one is for.

    `about` is what its checkpoint says. A network of one painting has no numbers.

    Example:
        >>> teacher = open_teacher("the_scream", ["the_scream"])
        >>> teacher.paint(photos, torch.zeros(len(photos), dtype=torch.long)).shape
        torch.Size([2, 3, 224, 224])
    """

    network: StyleNetwork
    about: About
    rows: list[int]

    @torch.no_grad()
    def paint(self, photos: Tensor, which: Tensor) -> Tensor:
        """Return its pictures, (B, 3, H, W), of photos; `which`, (B,), are their paintings.

        The photos are abstracted as for the teacher; who copies it learns to do so itself.
        """
        photos = abstract(photos, self.about.abstraction)
        if not self.rows:
            picture: Tensor = self.network(photos)
            return picture
        rows = torch.tensor(self.rows, device=which.device)[which]
        mix = F.one_hot(rows, self.network.paintings).float()
        painted: Tensor = self.network(photos, mix)
        return painted

    def balance(self) -> Tensor:
        """Return the weight of style of each painting, (P,), that it was trained with."""
        about = self.about
        entries = [about.paintings[row] for row in self.rows] or [about.painting]
        return torch.tensor([float(entry.get("balance", 1.0)) for entry in entries])


def check_teacher(name: str, count: int) -> None:
    """Raise CheckpointError where a network of one painting is to teach `count` of them.

    It paints every photo as its own painting would.
    """
    if name and count > 1 and not painting_names(read_about(find_checkpoint(name))):
        raise CheckpointError(
            f"`teacher` {name} is a network of one painting; {count} need a collection"
        )


def open_teacher(name: str, paintings: Sequence[str]) -> Teacher | None:
    """Return the teacher `name`, a style or a file, for paintings of those names; None for "".

    A teacher of one painting suits one painting, whatever its name; a collection has to hold each
    of them. Raises: CheckpointError.
    """
    if not name:
        return None
    path = find_checkpoint(name)
    about = read_about(path)
    known = painting_names(about)
    missing = [painting for painting in paintings if painting not in known]
    if known and missing:
        raise CheckpointError(
            f"`teacher` {name} does not hold {', '.join(missing[:3])}: it cannot teach them"
        )
    if not known:
        check_teacher(name, len(paintings))
    rows = [known.index(painting) for painting in paintings] if known else []
    return Teacher(load_network(path, about).eval(), about, rows)
