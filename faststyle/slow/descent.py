"""Gradient descent on the pixels of one image: L-BFGS or Adam, one step at a time.

The objective is given by the caller. The way up through sizes is in optimize.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from faststyle.errors import RecipeError, TrainingError, did_you_mean

# From an image to its terms; "total" is minimised.
Objective = Callable[[Tensor], Mapping[str, Tensor]]

LEARNING_RATES = {"lbfgs": 1.0, "adam": 0.02}  # of pixels in [0, 1]
HISTORY = 20  # pairs of vectors that L-BFGS keeps: at 1024 x 1024 pixels each pair takes 24 MiB
ADAM_BETAS = (0.9, 0.99)
# How far the first step of L-BFGS moves a pixel on average, at a learning rate of 1. All later
# steps learn their length from it. torch's own first step is a millionth of that: too small for
# float32 to tell the curvature from rounding.
FIRST_MOVE = 0.01


@dataclass(frozen=True)
class Step:
    """The image after `step` steps, (1, 3, H, W) in [0, 1], with its terms and seconds.

    `seconds` is the time that all steps so far have taken. Where images are averaged, `terms` on
    the way belong to the newest image, and those of the last step to the average.
    """

    step: int
    seconds: float
    terms: Mapping[str, float]
    image: Tensor


class Descent:
    """Minimises `objective` over the pixels of an image, from `image`, (1, 3, H, W) in [0, 1].

    After each step pixels are put back into [0, 1], as the bounded L-BFGS of Gatys et al. keeps
    them. So every image on the way can be saved, and its terms can be compared with a network's.
    `average` is the decay of a running mean of the images; 0 is none. The mean takes the noise out
    of Adam's last steps. Raises: RecipeError for settings that make no sense.

    Example:
        >>> for step in Descent(photo, lambda x: loss(x, targets).named()).run(100):
        ...     print(step.step, step.terms["total"])
    """

    def __init__(
        self,
        image: Tensor,
        objective: Objective,
        optimizer: str = "lbfgs",
        learning_rate: float | None = None,
        average: float = 0.0,
    ) -> None:
        check_optimizer(optimizer, learning_rate, average)
        self.objective = objective
        self.decay = average
        self.pixels = image.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        self.mean = torch.zeros_like(self.pixels, requires_grad=False) if average else None
        self.rate = LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
        self.optimizer: torch.optim.Optimizer
        if optimizer == "adam":
            self.optimizer = torch.optim.Adam([self.pixels], lr=self.rate, betas=ADAM_BETAS)
        else:
            # max_iter=1: the objective is computed once a step. There is no line search, since it
            # would compute the objective more often: the gradient scales the first step, and the
            # curvature all later ones.
            self.optimizer = torch.optim.LBFGS(
                [self.pixels],
                lr=self.rate,
                max_iter=1,
                history_size=HISTORY,
                tolerance_grad=0,
                tolerance_change=0,
            )

    def run(self, steps: int, first: int = 0) -> Iterator[Step]:
        """Yield the image before the first step, and after each of `steps` steps.

        Raises: TrainingError when a term is not finite; its message counts steps from `first`.
        """
        seconds = 0.0
        for number in range(steps):
            image = self._image(number)
            began = time.perf_counter()
            terms = self._step()
            spent = time.perf_counter() - began
            yield self._checked(Step(number, seconds, terms, image), first)
            seconds += spent
        image = self._image(steps)
        with torch.no_grad():
            terms = _floats(self.objective(image))
        yield self._checked(Step(steps, seconds, terms, image), first)

    def moments(self) -> tuple[Tensor, Tensor, int] | None:
        """Return Adam's two moments, (1, 3, H, W) each, and its count of steps; None for L-BFGS."""
        state = self.optimizer.state[self.pixels]
        return (
            (state["exp_avg"], state["exp_avg_sq"], int(state["step"]))
            if "exp_avg" in state
            else None
        )

    def warm_start(self, moments: tuple[Tensor, Tensor, int] | None) -> None:
        """Give Adam the moments of a descent at another size, resized; None changes nothing."""
        if moments is None:
            return
        first, second, count = moments
        h, w = self.pixels.shape[-2:]
        self.optimizer.state[self.pixels] = {
            "step": torch.tensor(float(count)),
            "exp_avg": F.interpolate(first, (h, w), mode="bicubic"),
            # Bilinear: bicubic weights could make a mean of squares negative.
            "exp_avg_sq": F.interpolate(second, (h, w), mode="bilinear").clamp_min(0),
        }

    def _step(self) -> dict[str, float]:
        """Take a step, and return the terms of the image before it."""
        seen: dict[str, float] = {}
        before = self.pixels.detach().clone()
        held = torch.zeros_like(before, dtype=torch.bool)

        def closure() -> Any:
            self.optimizer.zero_grad()
            terms = self.objective(self.pixels)
            terms["total"].backward()  # type: ignore[no-untyped-call]
            seen.update(_floats(terms))
            gradient = self.pixels.grad
            if gradient is not None and isinstance(self.optimizer, torch.optim.LBFGS):
                # A pixel at a bound, which the gradient pushes outside, is left out of the step.
                # The others then see a problem without bounds. Otherwise L-BFGS learns a curvature
                # from moves that never happened, and goes astray. Source: Bertsekas, "Projected
                # Newton methods for optimization problems with simple constraints" (1982).
                held.copy_(((before <= 0) & (gradient > 0)) | ((before >= 1) & (gradient < 0)))
                gradient[held] = 0
            return terms["total"].detach()

        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (
                FIRST_MOVE * before.numel() if self._is_first_of_lbfgs() else 1.0
            )
        self.optimizer.step(closure)
        with torch.no_grad():
            self.pixels.copy_(torch.where(held, before, self.pixels.clamp(0, 1)))
            if self.mean is not None:
                self.mean.mul_(self.decay).add_(self.pixels, alpha=1 - self.decay)
        return seen

    def _is_first_of_lbfgs(self) -> bool:
        # torch divides the first direction by the sum of its absolute values (and no other).
        return (
            isinstance(self.optimizer, torch.optim.LBFGS) and not self.optimizer.state[self.pixels]
        )

    def _image(self, steps: int) -> Tensor:
        """Return a copy of the image after `steps` steps, or the mean so far where one is kept."""
        if self.mean is None or steps == 0:
            return self.pixels.detach().clone()
        # The mean began at zero; this is the correction of Adam for its moments.
        return self.mean / (1 - self.decay**steps)

    def _checked(self, step: Step, first: int) -> Step:
        for name, value in step.terms.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"step {first + step.step}: the {name} term is not finite; "
                    "try a lower `learning_rate`, or `optimizer` adam"
                )
        return step


def check_optimizer(optimizer: str, learning_rate: float | None, average: float) -> None:
    """Check the settings of a descent. Raises: RecipeError for those that make no sense."""
    if optimizer not in LEARNING_RATES:
        raise RecipeError(
            f"unknown optimizer {optimizer!r}.{did_you_mean(optimizer, LEARNING_RATES)}"
        )
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise RecipeError(f"the learning rate must be above 0, got {learning_rate}")
    if not 0 <= average < 1:
        raise RecipeError(f"the decay of the average must be at least 0 and below 1, got {average}")


def _floats(terms: Mapping[str, Tensor]) -> dict[str, float]:
    # Stacked first: one transfer from the device instead of one for each term.
    values = torch.stack([t.detach().float().reshape(()) for t in terms.values()])
    return dict(zip(terms, values.tolist(), strict=True))
