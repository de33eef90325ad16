"""VGG against the table of the paper and an independent torchvision network."""

from __future__ import annotations

import pytest
import torch
import torchvision

from faststyle.errors import ImageError, WeightsError
from faststyle.perceptual.vgg import VGG, layer_names


@pytest.mark.parametrize(("arch", "count"), [("vgg16", 13), ("vgg19", 16)])
def test_layer_names_follow_the_table_of_the_paper(arch: str, count: int) -> None:
    names = layer_names(arch)
    assert len(names) == count
    assert names[:4] == ["1_1", "1_2", "2_1", "2_2"]
    assert names[-1] == ("5_3" if arch == "vgg16" else "5_4")


@pytest.mark.parametrize(("arch", "indices"), [("vgg16", (0, 2, 5, 21)), ("vgg19", (0, 2, 5, 23))])
def test_features_are_those_of_torchvision(arch: str, indices: tuple[int, ...]) -> None:
    """The same weights and picture: torchvision's normalisation is outside, ours is inside."""
    torch.manual_seed(0)
    other = getattr(torchvision.models, arch)(weights=None).features.eval()
    layers = ["relu1_1", "relu1_2", "relu2_1", "relu4_3"]
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    vgg = VGG(arch, layers, mean, std)
    convs = [m for m in other if isinstance(m, torch.nn.Conv2d)]
    for mine, theirs in zip(vgg.convs.values(), convs, strict=False):
        mine.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 3, 40, 33)
    x = torchvision.transforms.functional.normalize(image, mean, std)
    feats = vgg(image)
    expected = {}
    for i, layer in enumerate(other):
        x = layer(x)
        if i - 1 in indices and isinstance(layer, torch.nn.ReLU):
            expected[layers[indices.index(i - 1)]] = x.clone()
    assert feats.keys() == expected.keys()
    for name, feature in feats.items():
        torch.testing.assert_close(feature, expected[name], rtol=1e-4, atol=1e-6)


def test_vgg_is_only_as_deep_as_its_layers() -> None:
    assert list(VGG("vgg16", ["relu2_1"]).convs) == ["1_1", "1_2", "2_1"]
    assert len(VGG("vgg19", ["relu5_4"]).convs) == 16


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(WeightsError, match="Did you mean 'relu4_2'"):
        VGG("vgg16", ["relu42"])
    with pytest.raises(WeightsError, match="relu5_3"):
        VGG("vgg16", ["relu5_4"])
    with pytest.raises(WeightsError, match="Did you mean 'vgg16'"):
        layer_names("vgg-16")


def test_the_error_for_a_small_image_gives_the_size_that_is_enough() -> None:
    vgg = VGG("vgg16", ["relu5_1"], width=1 / 16)
    assert vgg(torch.rand(1, 3, 16, 20))["relu5_1"].shape == (1, 32, 1, 1)
    with pytest.raises(ImageError, match="at least 16 pixels"):
        vgg(torch.rand(1, 3, 15, 20))
