"""The critic: it tells textures apart, blames pictures for theirs, and crops the right painting."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from faststyle.perceptual.features import extract
from faststyle.perceptual.loss_config import LossConfig, deepest_layers
from faststyle.perceptual.losses import PerceptualLoss, WeightedPainting
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.training.critic import LAYERS, Critic, PatchCritic

CONFIG = LossConfig(content_layers="gatys", style_layers="gatys")
ONE = [0, 0]


def stripes(side: int = 64) -> Tensor:
    """Horizontal stripes, two pixels wide."""
    rows = (torch.arange(side) // 2 % 2).float()
    return rows.view(1, 1, side, 1).expand(1, 3, side, side).clone()


def alone() -> Any:
    return SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        process_index=0,
        register_for_checkpointing=lambda *objects: None,
    )


@pytest.fixture
def critic_of(tiny_weights: VGGWeights) -> Any:
    def build(*paintings: Tensor, accelerator: Any = None, seed: int = 0) -> Critic:
        torch.manual_seed(0)
        vgg = load_vgg(tiny_weights, deepest_layers(CONFIG, "vgg16"))
        loss = PerceptualLoss(vgg, [WeightedPainting(p) for p in paintings], CONFIG, watched=LAYERS)
        return Critic(loss, 48, seed, accelerator or alone())

    return build


def feats(critic: Critic, image: Tensor) -> dict[str, Tensor]:
    return extract(critic.vgg, image, LAYERS)


def test_a_patch_is_five_features_wide() -> None:
    """A feature changes the scores of the places that see it: 5 by 5 of them."""
    net = PatchCritic(3, 1).eval()
    x = torch.zeros(1, 3, 16, 16)
    y = x.clone()
    y[:, :, 8, 8] = 5.0
    which = torch.zeros(1, dtype=torch.long)
    changed = (net(y, which) - net(x, which)).abs()[0] > 1e-6
    assert net(x, which).shape == (1, 12, 12)
    assert int(changed.sum()) == 25
    assert changed[4:9, 4:9].all()


def test_it_learns_to_tell_a_painting_from_pictures_of_another_texture(critic_of: Any) -> None:
    painting = stripes()
    critic = critic_of(painting)
    pictures = painting.transpose(2, 3)[..., :48, :48].repeat(2, 1, 1, 1)  # stripes that stand
    painted = feats(critic, pictures)
    for step in range(200):
        critic(painted, ONE, step)
    unseen = feats(critic, critic._crops(ONE, 999))
    for layer, net in critic.nets.items():
        scale = unseen[layer].square().mean().rsqrt()
        passed = net(unseen[layer] * scale, torch.tensor(ONE))
        failed = net(painted[layer] * scale, torch.tensor(ONE))
        assert passed.mean() > 0 > failed.mean()


def test_blame_reaches_the_picture_and_not_the_critic(critic_of: Any) -> None:
    critic = critic_of(stripes())
    picture = torch.rand(2, 3, 48, 48, requires_grad=True)
    critic(feats(critic, picture), ONE, 0).sum().backward()
    assert picture.grad is not None
    assert float(picture.grad.abs().sum()) > 0
    assert all(p.grad is None for p in critic.nets.parameters())
    assert all(p.requires_grad for p in critic.nets.parameters())


def test_crops_are_of_the_painting_that_is_asked_for(critic_of: Any) -> None:
    colours = [torch.full((1, 3, 64, 80), value) for value in (0.2, 0.7)]
    crops = critic_of(*colours)._crops([1, 0, 1], 0)
    assert crops.shape == (3, 3, 48, 48)
    torch.testing.assert_close(crops.mean((1, 2, 3)), torch.tensor([0.7, 0.2, 0.7]))


def test_crops_are_a_function_of_seed_step_and_place_in_the_whole_batch(critic_of: Any) -> None:
    painting = torch.rand(1, 3, 96, 96)
    critic = critic_of(painting)
    again = critic_of(painting)
    other = critic_of(painting, seed=1)
    assert torch.equal(critic._crops(ONE, 3), again._crops(ONE, 3))
    assert not torch.equal(critic._crops(ONE, 3), critic._crops(ONE, 4))
    assert not torch.equal(critic._crops(ONE, 3), other._crops(ONE, 3))
    whole = critic._crops([0] * 4, 3)
    again.accelerator.process_index = 1
    assert torch.equal(torch.cat([critic._crops(ONE, 3), again._crops(ONE, 3)]), whole)


def test_a_painting_smaller_than_the_view_is_seen_whole(critic_of: Any) -> None:
    assert critic_of(torch.rand(1, 3, 32, 60))._crops(ONE, 0).shape == (2, 3, 32, 32)


def test_each_painting_has_a_row_of_its_own(critic_of: Any) -> None:
    """What is learned of one painting leaves the rows of the other alone."""
    critic = critic_of(stripes(), torch.rand(1, 3, 64, 64))
    before = [net.rows.detach().clone() for net in critic.nets.values()]
    critic(feats(critic, torch.rand(2, 3, 48, 48)), ONE, 0)
    for old, net in zip(before, critic.nets.values(), strict=True):
        assert not torch.equal(net.rows[0], old[0])
        assert torch.equal(net.rows[1], old[1])


def test_several_processes_learn_from_the_mean_of_their_gradients(critic_of: Any) -> None:
    """Where the mean is zero nothing moves."""
    asked = []

    def reduce(vector: Tensor, how: str) -> Tensor:
        asked.append(how)
        return torch.zeros_like(vector)

    accelerator = alone()
    accelerator.num_processes = 2
    accelerator.reduce = reduce
    critic = critic_of(stripes(), accelerator=accelerator)
    before = [p.detach().clone() for p in critic.nets.parameters()]
    critic(feats(critic, torch.rand(2, 3, 48, 48)), ONE, 0)
    assert asked == ["mean"]
    for old, new in zip(before, critic.nets.parameters(), strict=True):
        assert torch.equal(old, new)
