"""The progress of a run in plain data: it goes into each saved state, and comes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from faststyle.training.accelerators import gather_list
from faststyle.training.balance import Balance


class RunState:
    """How far a run is: steps, photos, seconds, photos that were skipped, weights of style.

    `photos` counts those that steps were taken on, in all processes, however many these were.
    """

    def __init__(self, balance: Balance) -> None:
        self.balance = balance
        self.step = 0
        self.photos = 0
        self.seconds = 0.0
        self.skipped: list[tuple[str, str]] = []

    def gather_skipped(self, accelerator: Accelerator) -> None:
        """Take in the photos that any process skipped, each once, in a fixed order."""
        self.skipped = sorted(
            {(name, reason) for name, reason in gather_list(self.skipped, accelerator)}
        )

    def state_dict(self, accelerator: Accelerator) -> dict[str, Any]:
        """Return plain data, ready for JSON; all processes call this together."""
        self.gather_skipped(accelerator)
        return {
            "photos": self.photos,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "balance": self.balance.state(accelerator),
        }

    def load_state_dict(self, step: int, saved: Mapping[str, Any], processes: int) -> None:
        """Go on after `step` in so many processes, from what `state_dict` returned then."""
        self.step = step
        self.photos = saved["photos"]
        self.seconds = saved["seconds"]
        self.skipped = [(name, reason) for name, reason in saved["skipped"]]
        self.balance.restore(saved["balance"], processes)
