"""Train a tiny network and print its losses as JSON; on XLA, what XLA has compiled too.

Run by test_xla.py, in an environment with torch_xla and in one without:
python xla_steps.py VGG FOLDER_OF_PAINTINGS KEY=VALUE...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from faststyle.training import held_out
from faststyle.training.recipe import recipe_from_dict
from faststyle.training.step import Stepped, TrainStep
from faststyle.training.train import train_style

RECIPE: dict[str, Any] = {
    "name": "custom",
    "steps": 40,
    "batch_size": 2,
    "image_size": 40,
    "shift": 8,
    "painting_size": 48,
    "learning_rate": 1e-4,
    "average": 0.9,
    "content_target": 0.4,
    "adversarial_weight": 1.0,
    "stability": 5.0,
    "precision": "float32",
    "workers": 0,
    "log_every": 5,
    "preview_every": 1000,
    "state_every": 1000,
    "network": {"name": "mobile", "width": 4, "blocks": 0},
    "loss": {
        "content_layers": {"relu2_1": 1.0},
        "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0},
    },
}


def compiled() -> dict[str, int]:
    """Return how many programs XLA has compiled, and how often a value was asked for."""
    try:
        import torch_xla.debug.metrics as met
    except ImportError:
        return {}
    programs = met.metric_data("CompileTime")
    counters = {name: met.counter_value(name) for name in met.counter_names()}
    return {
        "programs": programs[0] if programs else 0,
        "uncached": counters.get("UncachedCompile", 0) or 0,
        # operations that XLA has not: the host waits, computes them, and sends the result
        "on_host": sum(n for name, n in counters.items() if name.startswith("aten::")),
    }


def main(vgg: str, style: str, *settings: str) -> None:
    """Train, and print for each step the total and the counts."""
    changes = {key: json.loads(value) for key, _, value in (s.partition("=") for s in settings)}
    seen: list[dict[str, Any]] = []
    take_step = TrainStep.__call__

    def step_and_count(self: TrainStep, *arguments: Any) -> Stepped:
        before = compiled()
        out = take_step(self, *arguments)
        after = compiled()
        seen.append({key: after[key] - before[key] for key in after} | {"total": out.values[0]})
        counts = {key: value for key, value in seen[-1].items() if key != "total"}
        print(len(seen), after, counts, file=sys.stderr, flush=True)
        return out

    TrainStep.__call__ = step_and_count  # type: ignore[method-assign]
    for size in ("PREVIEW_SIZE", "STRIP_SIZE", "SCORE_SIZE"):
        setattr(held_out, size, 48)
    recipe = recipe_from_dict({**RECIPE, **changes})
    train_style(Path(style), recipe, name="xla", vgg_weights=vgg, overwrite=True)
    whole = compiled()
    print(json.dumps({"steps": [{**s, "total": float(s["total"])} for s in seen], **whole}))


if __name__ == "__main__":
    main(*sys.argv[1:])
