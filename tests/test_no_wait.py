"""A training step never waits for the device: shown on tensors that have no values.

On the device "meta" a look at a value raises an error, as `.item()`, `if tensor:` and `tolist()`
are looks. What a GPU waits for besides is listed in `WAITS`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import draw_batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from faststyle.networks import build_network
from faststyle.networks.layers import enlarge, enlarge_plainly
from faststyle.perceptual import light
from faststyle.perceptual.weights import VGGWeights
from faststyle.training.accelerators import count_on_host, open_accelerator, release_accelerator
from faststyle.training.recipe import Recipe, recipe_from_dict
from faststyle.training.step import TrainStep, build_objective
from faststyle.training.view import square

# Operations of torch that look at a value, or at the status of a solver, on the host.
WAITS = ("_local_scalar_dense", "_linalg_check_errors", "nonzero", "eigh", "svd", "unique", "equal")


class Waits(TorchDispatchMode):
    """Lists the operations on tensors of the device that make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs or {})) if isinstance(x, torch.Tensor)]
        name = func.name().removeprefix("aten::").partition(".")[0]
        on_device = any(tensor.device.type == "meta" for tensor in tensors)
        if on_device and any(wait in name for wait in WAITS):
            self.found.append(name)
        # From the memory of the host a GPU copies in turn, unless the copy is marked.
        options = kwargs or {}
        moves = name == "_to_copy" and str(options.get("device")) == "meta"
        if moves and not options.get("non_blocking"):
            self.found.append("a blocking copy to the device")
        return func(*args, **options)


def recipe(**changes: Any) -> Recipe:
    return recipe_from_dict(
        {
            "steps": 40,
            "batch_size": 2,
            "image_size": 40,
            "shift": 8,
            "painting_size": 48,
            "average": 0.9,
            "content_target": 0.4,
            "adversarial_weight": 1.0,
            "stability": 5.0,
            "precision": "float32",
            "network": {"name": "mobile", "width": 4, "blocks": 1},
            "loss": {"content_layers": "gatys", "style_layers": "gatys"},
            **changes,
        }
    )


@pytest.fixture
def without_autocast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors without values have no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    yield
    release_accelerator()


@pytest.mark.parametrize("paintings", [1, 2])
def test_a_step_never_waits(
    tiny_weights: VGGWeights, without_autocast: None, paintings: int
) -> None:
    """Twelve steps: the last of copying, those of the objective, and a change of the balance."""
    settings = recipe(copying=0.05 if paintings > 1 else 0.0)
    accelerator = open_accelerator(settings, "cpu")
    loss = build_objective(settings, draw_batch(paintings, 70, 90).split(1), tiny_weights)
    accelerator.state._shared_state["device"] = torch.device("meta")
    config = {**settings.network, "paintings": paintings if paintings > 1 else 0}
    step = TrainStep(accelerator, build_network(config), loss.to("meta"), settings)
    photos = torch.rand(2, 3, 40, 40, device="meta")
    with Waits() as waits:
        for number in range(12):
            step(photos, [0, paintings - 1], number)
    assert waits.found == []


def test_the_test_can_fail() -> None:
    values = torch.rand(3, 3, device="meta")
    with Waits() as waits, contextlib.suppress(RuntimeError):
        torch.linalg.inv(values)
        torch.rand(3).to("meta")
        values.sum().item()
    assert waits.found == [
        "_linalg_check_errors",
        "a blocking copy to the device",
        "_local_scalar_dense",
    ]


def test_counts_of_steps_stay_on_the_host() -> None:
    """As `load_state` puts them on the device, where each step would ask for each of them."""
    weight = torch.nn.Parameter(torch.rand(3, device="meta"))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.rand(3, device="meta")
    optimizer.step()
    optimizer.state[weight]["step"] = torch.tensor(7.0)
    count_on_host(optimizer)
    assert optimizer.state[weight]["step"].device.type == "cpu"
    optimizer.step()
    assert float(optimizer.state[weight]["step"]) == 8


@pytest.mark.parametrize("grey", [False, True])
def test_the_root_for_gpus_is_that_of_eigh(grey: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        colours = torch.rand(2, 50, 3, generator=draw)
        if grey:  # two of three eigenvalues are next to zero
            colours = colours[:, :, :1].expand(-1, -1, 3)
        _, matrix = light._moments(colours)
        expected = light._root(matrix.double()).float()
        torch.testing.assert_close(light.root_by_iteration(matrix), expected, rtol=1e-4, atol=1e-5)


def test_enlarging_by_sums_is_bilinear() -> None:
    for size in ((5, 7), (1, 4)):
        x = torch.rand(2, 3, *size, requires_grad=True)
        torch.testing.assert_close(enlarge_plainly(x), enlarge(x))
        weights = torch.rand(2, 3, 2 * size[0], 2 * size[1])
        found, wanted = (
            torch.autograd.grad((f(x) * weights).sum(), x)[0] for f in (enlarge_plainly, enlarge)
        )
        torch.testing.assert_close(found, wanted)


def test_a_square_by_index_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As XLA takes it: here on the CPU, of a tensor that says that it is on XLA."""
    images = torch.rand(2, 3, 20, 24)

    class OnXLA:
        device = torch.device("xla")
        index_select = images.index_select

    monkeypatch.setattr("faststyle.training.view.as_data", lambda values, _: values)
    assert torch.equal(square(OnXLA(), 3, 5, 9), square(images, 3, 5, 9))  # type: ignore[arg-type]
