"""What a network makes of photos that it never saw: pictures to look at, terms of its objective, the judge's scores."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from faststyle.images import crop_centre, fit_shorter, read_image, write_image
from faststyle.judge import Judge, Scores, protocol_photo
from faststyle.perceptual.losses import PerceptualLoss, Terms
from faststyle.training.photos import held_out_photos

PREVIEW_SIZE = 384  # pixels: side of each picture in preview.png
STRIP_SIZE = 256  # pixels: side of each picture in a strip
SCORE_SIZE = 256  # pixels: crops that the final scores are measured on


class HeldOut:
    """The photos that are kept out of training, and a network to try on them, on `device`.

    The network is put into evaluation for each call and back into training after it. It is called by `.forward`: a
    compiled one would be compiled again for each size.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network, self.device = network, device
        self.photos = [crop_centre(read_image(path), PREVIEW_SIZE) for path in held_out_photos()]

    def write_strip(self, path: Path) -> Tensor:
        """Write all photos in one row, each beside its stylization; return the picture, (1, 3, H, W)."""
        return self._write(path, STRIP_SIZE, rows=1)

    def write_preview(self, path: Path) -> Tensor:
        """Write each photo beside its stylization, in a row of its own; return the picture, (1, 3, H, W)."""
        return self._write(path, PREVIEW_SIZE, rows=len(self.photos))

    def terms(self, loss: PerceptualLoss) -> dict[str, float]:
        """Return total, content_rel and style_rel of the photos together, in float32."""
        photos = [fit_shorter(photo, SCORE_SIZE).to(self.device) for photo in self.photos]
        with torch.no_grad():
            terms = [loss.forward(y, loss.targets(x)) for x, y in zip(photos, self._stylize(photos), strict=True)]
        means = Terms.means(terms)
        return {key: float(getattr(means, key)) for key in ("total", "content_rel", "style_rel")}

    def judge(self, judge: Judge) -> Scores:
        """Return what the judge says of the network."""
        photos = [protocol_photo(read_image(path)) for path in held_out_photos()]
        outputs = self._stylize([photo.to(self.device) for photo in photos])
        return judge.score([y.float().clamp(0, 1).cpu() for y in outputs], photos)

    @torch.no_grad()
    def _stylize(self, photos: list[Tensor]) -> list[Tensor]:
        self.network.eval()
        outputs = [self.network.forward(photo) for photo in photos]
        self.network.train()
        return outputs

    def _write(self, path: Path, size: int, rows: int) -> Tensor:
        photos = [fit_shorter(photo, size).to(self.device) for photo in self.photos]
        pairs = [torch.cat([x, y], 3).cpu() for x, y in zip(photos, self._stylize(photos), strict=True)]
        per_row = math.ceil(len(pairs) / rows)
        picture = torch.cat([torch.cat(pairs[i : i + per_row], 3) for i in range(0, len(pairs), per_row)], 2)
        write_image(picture, path)
        return picture
