"""The objective of a run, and one step towards it; trainer, benchmarks and `compare` share both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from faststyle.networks.layers import ConvNorm, InstanceNorm
from faststyle.networks.network import StyleNetwork
from faststyle.perceptual.loss_config import deepest_layers
from faststyle.perceptual.losses import PerceptualLoss, Terms, WeightedPainting
from faststyle.perceptual.vgg import Feats
from faststyle.perceptual.weights import VGGWeights, load_vgg
from faststyle.sizes import fit_bounded
from faststyle.training.accelerators import (
    as_data,
    average_gradients,
    mark_averaged,
    run_program,
)
from faststyle.training.balance import OF_FEW, Balance
from faststyle.training.critic import LAYERS as WATCHED
from faststyle.training.critic import Critic
from faststyle.training.guard import FiniteGuard
from faststyle.training.halves import Halves
from faststyle.training.optimizer import Muon
from faststyle.training.recipe import Recipe, learning_rate, part_of
from faststyle.training.stability import draw_motion, instability, moved
from faststyle.training.start import SCRATCH
from faststyle.training.teacher import Teacher
from faststyle.training.view import draw_view

# A learning rate of 1e-3 turns convolutions by 0.03 of their length in a step.
MUON_TIMES = 30.0
NORMS_TIMES = 12.5  # where the norms learn alone
ADAM_TIMES = 5.0  # the head and the norms hold the colours, and have them after 100 steps
EDGES = 4.0  # edges are few: without it, copies are blurred
SPREAD = 0.04  # about the variance of photos, values in [0, 1]
BETAS = (0.9, 0.99)  # Adam's: the second moment forgets the first steps of a short run


def build_objective(
    recipe: Recipe, paintings: Sequence[Tensor], weights: VGGWeights
) -> PerceptualLoss:
    """Return the objective of a recipe, for paintings (1, 3, H, W) in [0, 1] of any size."""
    watched = WATCHED if recipe.adversarial_weight else ()
    vgg = load_vgg(weights, {*deepest_layers(recipe.loss, recipe.vgg), *watched})
    size = round(recipe.painting_size * recipe.stroke_size)
    styles = [WeightedPainting(fit_bounded(painting, size)) for painting in paintings]
    loss = PerceptualLoss(vgg, styles, recipe.loss, recipe.vgg, watched=watched)
    return loss.to(memory_format=torch.channels_last)


class Stepped(NamedTuple):
    """The results of a step.

    Pictures (B, 3, S, S); the terms of the objective and the norm of the gradient, one tensor on
    the device.
    """

    stylized: Tensor
    values: Tensor


class TrainStep:
    """Forward, backward, and a step of Muon and Adam, for one painting or for many.

    `network` learns, `loss` is the objective, and `teacher` paints what is copied first. `shown` is
    the network to look at and to save: that with the running mean of the weights where the recipe
    has an `average`, with the mean of both halves where there is a `spread`, else `network`.

    Example:
        >>> step = TrainStep(accelerator, network, loss, recipe)
        >>> step(photos, which, 0).values
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: StyleNetwork,
        loss: PerceptualLoss,
        recipe: Recipe,
        teacher: Teacher | None = None,
        few: bool = False,
    ) -> None:
        """Take a network and what it learns by; `few` says that there are few photos."""
        self.accelerator = accelerator
        self.recipe = recipe
        self.plain = network
        self.loss = loss
        self.teacher = teacher
        # Of photos and step; several networks that learn from the same photos share one (each.py).
        self.targets: Callable[[Tensor, int], Feats] = lambda photos, _: loss.targets(photos)
        self.balance = Balance(loss, recipe.content_target, recipe.loss.strength, recipe.steps)
        if few:
            self.balance.harder = OF_FEW
        self.guard = FiniteGuard(accelerator.device)
        self.critic: Critic | None = None
        if recipe.adversarial_weight:
            self.critic = Critic(loss, recipe.seen, recipe.seed, accelerator)
        optimizers = optimizers_of(network, recipe, few)
        self.network, *self.optimizers = accelerator.prepare(network, *optimizers)
        self.average: AveragedModel | None = None
        if recipe.average:
            self.average = AveragedModel(network)
            accelerator.register_for_checkpointing(self.average)
        self.halves: Halves | None = Halves(network, accelerator) if recipe.spread else None

    @property
    def shown(self) -> StyleNetwork:
        """Return the network to look at and to save."""
        if self.halves is not None:
            return self.halves.mean(self.plain)
        if self.average is None:
            return self.plain
        network: StyleNetwork = self.average.module  # type: ignore[assignment]
        return network

    def __call__(self, photos: Tensor, numbers: Sequence[int], step: int) -> Stepped:
        """Learn from photos, (B, 3, S, S) in [0, 1], in channels last; `step` counts from 0.

        `numbers` are those of the paintings that the photos are for. Nothing waits for the device,
        and on XLA each step is the same program.
        """
        accelerator = self.accelerator
        recipe = self.recipe
        which = as_data(torch.tensor(numbers), photos.device)
        view = draw_view(recipe, step)
        copied = round(recipe.copying * recipe.steps) if recipe.init == SCRATCH else 0
        copying = step < copied
        if step == copied:
            self._forget_moments()
        part = part_of(step, recipe)
        if self.halves is not None:
            self.balance.aim(part.target, part.steps)
            if step and not part.step:
                self.halves.turn(self.plain)
                self._forget_moments()
        mix = F.one_hot(which, self.plain.paintings).float() if self.plain.paintings else None
        with accelerator.accumulate(self.network):
            with accelerator.autocast():
                stylized, unstable = self._painted(photos, mix, step, steady=not copying)
                seen = view.of(stylized)
                if copying:
                    wanted = view.of(self._example(photos, which))
                    terms = Terms.only(copy_error(seen.float(), wanted.float()))
                else:
                    terms = self._evaluated(seen, view.of(photos), numbers, which, step)
                total = terms.total + recipe.stability * unstable
                terms = terms._replace(total=total, stability=unstable)
            accelerator.backward(terms.total)
            norm = torch.zeros((), device=photos.device)
            if accelerator.sync_gradients:
                rate = learning_rate(step, recipe)
                for group in (g for o in self.optimizers for g in o.param_groups):
                    group["lr"] = rate * group["times"]
                if photos.device.type == "xla":  # elsewhere DDP has done it
                    average_gradients(accelerator, self.plain.parameters())
                    mark_averaged(self.optimizers[0])
                norm = accelerator.clip_grad_norm_(self.network.parameters(), recipe.clip_norm)
            values = torch.cat([terms.scalars(), norm.detach().float().view(1)])
            self.guard.check(values, self.plain)
            for optimizer in self.optimizers:
                mark_averaged(optimizer)
                optimizer.step()
                optimizer.zero_grad()
        if not copying:
            self.balance.add(terms, which)
        if accelerator.sync_gradients and self.average is not None:
            _update(self.average, self.plain, recipe.average)
        run_program(photos.device)
        if accelerator.sync_gradients:
            self.balance.adjust(part.step + 1, accelerator)
        return Stepped(stylized.detach(), values)

    def _painted(
        self, photos: Tensor, mix: Tensor | None, step: int, steady: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the pictures; if they are to be `steady`, how far those of moved photos are off.

        Every second photo is moved: that costs half as much, and there are many steps. With several
        processes these are the same ones as with one.
        """
        if not (self.recipe.stability and steady):
            stylized = self.network(photos) if mix is None else self.network(photos, mix)
            return stylized, torch.zeros((), device=photos.device)
        motion = draw_motion(self.recipe.seed, step)
        frames = torch.cat([photos, moved(photos[::2], motion)])
        if mix is None:
            painted = self.network(frames)
        else:
            painted = self.network(frames, torch.cat([mix, mix[::2]]))
        stylized = painted[: len(photos)]
        after = painted[len(photos) :]
        return stylized, instability(stylized[::2], after, motion, self.recipe.margin)

    def _forget_moments(self) -> None:
        """Let the optimizers begin anew: gradients of the objective are much larger than of copies.

        Adam would take steps of many times its rate, and undo the copies.
        """
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def _evaluated(
        self,
        stylized: Tensor,
        photos: Tensor,
        numbers: Sequence[int],
        which: Tensor,
        step: int,
    ) -> Terms:
        """Return the terms of the objective, with the blame of the critic."""
        terms, painted = self.loss.evaluate(stylized, self.targets(photos, step), which)
        if self.critic is None:
            return terms
        blame = self.loss.balance[which] * self.critic(painted, numbers, step)
        added = self.recipe.adversarial_weight * self.recipe.loss.strength * blame.mean()
        return terms._replace(total=terms.total + added, adversarial=added)

    def _example(self, photos: Tensor, which: Tensor) -> Tensor:
        """Return what to copy: the teacher's pictures, else photos in the paintings' colours."""
        if self.teacher is None:
            return self.loss.recoloured(photos, which)
        return self.teacher.paint(photos, which)


def copy_error(picture: Tensor, wanted: Tensor) -> Tensor:
    """Return how far a picture is from another, both (B, 3, H, W): values, and edges.

    The mean squared error and `EDGES` times that of the differences of neighbours, over `SPREAD`:
    about 1 for a picture all grey.
    """
    off = picture - wanted
    edges = off.diff(dim=2).square().mean() + off.diff(dim=3).square().mean()
    return (off.square().mean() + EDGES * edges) / SPREAD


@torch.no_grad()
def _update(average: AveragedModel, network: StyleNetwork, decay: float) -> None:
    """Take weights into their running means; the first steps are forgotten sooner.

    `AveragedModel.update_parameters` would take its count to the device, and wait for it there.
    """
    updates = int(average.n_averaged)  # on the CPU
    share = 1 - min(decay, (1 + updates) / (10 + updates)) if updates else 1.0
    means: list[Tensor] = list(average.module.parameters())
    weights: list[Tensor] = list(network.parameters())
    if weights[0].device.type == "xla":
        # As a number it would be one with an equal number elsewhere: another program, each time.
        data = as_data(torch.tensor(share), weights[0].device)
        for mean, weight in zip(means, weights, strict=True):
            mean.lerp_(weight, data)
    else:
        torch._foreach_lerp_(means, weights, share)
    average.n_averaged += 1


def optimizers_of(
    network: StyleNetwork, recipe: Recipe, few: bool = False
) -> list[torch.optim.Optimizer]:
    """Return the optimizers of the parameters that are trained, `times` the learning rate for each.

    Muon for the convolutions that a normalisation follows, Adam for the rest. Of many paintings
    each sees few of the photos: their scales and shifts learn faster. Where photos are `few`,
    convolutions learn rings and grain from them: the recipe may leave these out.
    """
    norms = [p for m in network.modules() if isinstance(m, InstanceNorm) for p in m.parameters()]
    hidden = [m.conv.weight for m in network.modules() if isinstance(m, ConvNorm)]
    known = {id(p) for p in (*norms, *hidden)}
    rest = [p for p in network.parameters() if id(p) not in known]
    times = recipe.norm_rate if network.paintings else 1.0
    norms_alone = recipe.train == "norms" or (recipe.train == "auto" and few)
    if norms_alone and recipe.init != SCRATCH:
        for parameter in (*hidden, *rest):
            parameter.requires_grad_(False)
        return [_adam([{"params": norms, "times": NORMS_TIMES * times}], recipe)]
    groups = [{"params": rest, "times": ADAM_TIMES}, {"params": norms, "times": ADAM_TIMES * times}]
    muon = Muon(hidden, MUON_TIMES * recipe.learning_rate)
    muon.param_groups[0]["times"] = MUON_TIMES
    return [muon, _adam(groups, recipe)]


def _adam(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=recipe.learning_rate, betas=BETAS)
