"""Training on XLA, as on a TPU: each step is one program, and the losses are those of plain torch.

FASTSTYLE_XLA_PYTHON names the Python of an environment with torch_xla; docs/scale.md says how to
make one. It takes minutes: XLA compiles for the CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_processes import environment

PYTHON = os.environ.get("FASTSTYLE_XLA_PYTHON", "")
SCRIPT = Path(__file__).parent / "xla_steps.py"
# Tiny programs: what takes time is to compile them.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
FIRST = 12  # steps until each program is there: two of steps, those of logs and of the balance

pytestmark = pytest.mark.slow


def train(python: str, folder: Path, vgg: Path, painting: Path) -> dict[str, Any]:
    """Run xla_steps.py, and return what it printed."""
    done = subprocess.run(
        [python, str(SCRIPT), str(vgg), str(painting), "steps=24"],
        cwd=folder,
        env=environment(PJRT_DEVICE="CPU", XLA_FLAGS=FLAGS),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


@pytest.mark.skipif(not PYTHON, reason="FASTSTYLE_XLA_PYTHON names no Python with torch_xla")
def test_a_step_is_compiled_once_and_its_losses_are_those_of_torch(
    tmp_path: Path, vgg_file: Path, painting: Path
) -> None:
    folders = [tmp_path / name for name in ("xla", "plain")]
    for folder in folders:
        folder.mkdir()
    on_xla = train(PYTHON, folders[0], vgg_file, painting)
    steps = on_xla["steps"]
    assert len(steps) == 24
    assert on_xla["programs"] == on_xla["uncached"] > 0
    # once it is the step of the objective alone, the balance and the log add small programs
    assert sum(step["programs"] for step in steps[3:FIRST]) <= 4
    assert [step["programs"] for step in steps[FIRST:]] == [0] * (24 - FIRST)
    # nothing is computed on the host, and no value is asked for
    assert [step["on_host"] for step in steps] == [0] * 24
    plain = train(sys.executable, folders[1], vgg_file, painting)
    totals = [[step["total"] for step in run["steps"]] for run in (on_xla, plain)]
    assert totals[0][:2] == pytest.approx(totals[1][:2], rel=1e-5)
    # Rounding grows from step to step. Torch with AVX2 and torch with SSE 4.1 alone are 1.6e-5
    # apart in 5 steps and 1.4e-2 in 24; torch with AVX2 and XLA 3e-5 and 7e-3.
    assert totals[0][:5] == pytest.approx(totals[1][:5], rel=1e-4)
    assert totals[0][:FIRST] == pytest.approx(totals[1][:FIRST], rel=1e-3)
    assert totals[0] == pytest.approx(totals[1], rel=0.02)
