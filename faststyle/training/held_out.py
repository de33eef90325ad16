"""A network on photos that it never saw: pictures to look at, terms of its objective, scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from faststyle.abstraction import abstract
from faststyle.images import read_image, write_image
from faststyle.judge import Judge, Scores, protocol_photo
from faststyle.networks.network import StyleNetwork
from faststyle.perceptual.losses import PerceptualLoss, Terms
from faststyle.sizes import crop_centre, fit_shorter
from faststyle.training.photos import held_out_photos

PREVIEW_SIZE = 384  # pixels: side of each picture in preview.png
STRIP_SIZE = 256  # pixels: side of each picture in a strip
SCORE_SIZE = 256  # pixels: crops that the final scores are measured on
SHOWN_PAINTINGS = 6  # of a collection, in a strip


class HeldOut:
    """The photos that are kept out of training, and a network to try on them, on `device`.

    It paints them abstracted by `abstraction` pixels, as it is to be used (abstraction.py).
    `network` returns the network to look at. It is put into evaluation for each call, and back
    after it. It is called by `.forward`: a compiled one would be compiled again for each size.
    """

    def __init__(
        self,
        network: Callable[[], StyleNetwork],
        device: torch.device,
        abstraction: float = 0.0,
    ) -> None:
        self.network = network
        self.abstraction = abstraction
        self.device = device
        self.photos = [crop_centre(read_image(p), PREVIEW_SIZE) for p in held_out_photos()]

    def write_strip(self, path: Path) -> Tensor:
        """Write all photos with their stylizations; return the picture, (1, 3, H, W).

        Of one painting in one row, each photo beside its stylization; of a collection, some of its
        paintings, a row each.
        """
        return self._write(path, STRIP_SIZE, in_one_row=True)

    def write_preview(self, path: Path) -> Tensor:
        """Write each photo beside its stylization, in a row of its own; return the picture."""
        return self._write(path, PREVIEW_SIZE, in_one_row=False)

    def terms(self, loss: PerceptualLoss) -> dict[str, float]:
        """Return total, content_rel, style_rel and light_kept of the photos together, in float32.

        Of a collection they are means over all paintings.
        """
        photos = [fit_shorter(photo, SCORE_SIZE).to(self.device) for photo in self.photos]
        found = []
        for number in range(max(1, self.network().paintings)):
            which = torch.tensor([number], device=self.device)
            outputs = self._stylize(photos, number)
            with torch.no_grad():
                found += [
                    loss.forward(y, loss.targets(x), which=which)
                    for x, y in zip(photos, outputs, strict=True)
                ]
        named = Terms.means(found).named()
        return {
            key: float(named[key]) for key in ("total", "content_rel", "style_rel", "light_kept")
        }

    def judge(self, judge: Judge) -> Scores:
        """Return the scores of the network of one painting."""
        photos = [protocol_photo(read_image(path)) for path in held_out_photos()]
        outputs = self._stylize([photo.to(self.device) for photo in photos])
        return judge.score([y.float().clamp(0, 1).cpu() for y in outputs], photos)

    @torch.no_grad()
    def _stylize(self, photos: list[Tensor], painting: int = 0) -> list[Tensor]:
        network = self.network()
        training = network.training
        network.eval()
        mix = None
        if network.paintings:
            number = torch.tensor([painting], device=self.device)
            mix = F.one_hot(number, network.paintings).float()
        if self.abstraction:  # on the CPU: a program for a TPU would be compiled for each size
            photos = [abstract(photo.cpu(), self.abstraction).to(self.device) for photo in photos]
        outputs = [network.forward(photo, mix) for photo in photos]
        network.train(training)
        return outputs

    def _write(self, path: Path, size: int, in_one_row: bool) -> Tensor:
        photos = [fit_shorter(photo, size).to(self.device) for photo in self.photos]
        count = self.network().paintings
        if count:
            shown = range(0, count, max(1, -(-count // SHOWN_PAINTINGS)))
            rows = [photos, *(self._stylize(photos, painting) for painting in shown)]
            picture = torch.cat([torch.cat(row, 3) for row in rows], 2)
        else:
            stylized = self._stylize(photos)
            pairs = [torch.cat(pair, 3) for pair in zip(photos, stylized, strict=True)]
            picture = torch.cat(pairs, 3 if in_one_row else 2)
        picture = picture.cpu()
        write_image(picture, path)
        return picture
