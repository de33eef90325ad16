"""The judge: scores of style, content, light and known faults, by which results are compared.

No network is trained on these scores, and no image is optimised for them. The training objective is
another function (perceptual/losses.py): an optimiser can buy a low Gram error with fine noise that
leaves the photo's colours as they were. The judge looks at three scales, from the first layer on,
at all second moments together, and ranks such pictures as the eye does. Statistics are in float64.

Scores can be compared only at one size and with the same VGG weights. The protocol is photos of
256x256 pixels (`protocol_photo`), and the painting at a shorter side of 384.

The `Judge` is in judge.py. It combines scores of VGG's features (features.py) and of pixels
(pixels.py).
"""

from faststyle.judge.features import CONTENT_LAYER, LAYERS, Gaussian, frechet_distance
from faststyle.judge.judge import SIZE, Judge, Scores, protocol_photo
from faststyle.judge.pictures import SMALLEST, SMALLEST_GRID
from faststyle.judge.pixels import border, edges, grid, high_frequency, light, stripes

__all__ = [
    "CONTENT_LAYER",
    "LAYERS",
    "SIZE",
    "SMALLEST",
    "SMALLEST_GRID",
    "Gaussian",
    "Judge",
    "Scores",
    "border",
    "edges",
    "frechet_distance",
    "grid",
    "high_frequency",
    "light",
    "protocol_photo",
    "stripes",
]
