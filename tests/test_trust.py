"""Each fault of scripts/trust, once."""

from __future__ import annotations

import os

import pytest
from trust import FAULTS, NEEDS_ROOT, open_lab

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_but_what_was_in_flight(name: str) -> None:
    if name in NEEDS_ROOT and os.geteuid() != 0:
        pytest.skip("it takes root to mount a small disk")
    with open_lab(seed=1) as lab:
        assert FAULTS[name](lab, 1).tried
