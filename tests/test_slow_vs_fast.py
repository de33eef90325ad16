"""Slow against fast: numbers against numpy, summaries by hand, results kept for the next call."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import draw, numpy_light_error
from skimage import data_dir

from faststyle.checkpoint import About, save_checkpoint
from faststyle.compare import slow_vs_fast as module
from faststyle.compare.results import Comparison, FastRow, SlowRow
from faststyle.compare.slow_vs_fast import compare, list_photos
from faststyle.compare.summary import equal_row, summarise
from faststyle.errors import CheckpointError, FaststyleError, ImageError, Interrupted, RecipeError
from faststyle.files import sha256
from faststyle.images import read_image
from faststyle.judge import LAYERS, Judge, protocol_photo
from faststyle.networks.johnson import Johnson
from faststyle.perceptual.loss_config import LossConfig
from faststyle.perceptual.losses import ADDED
from faststyle.perceptual.vgg import VGG
from faststyle.perceptual.weights import VGGWeights, find_weights, load_vgg
from faststyle.sizes import fit_shorter
from faststyle.slow.descent import Descent, Step
from faststyle.training.recipe import Recipe
from faststyle.training.step import build_objective

SIZE = 96  # pixels: the least that the judge takes
STEPS = 2
NETWORK = {"name": "johnson", "width": 4, "blocks": 1}
LOSS = LossConfig(
    content_layers={"relu4_2@1/2": 1.0},
    style_layers={"relu1_1": 1.0, "relu3_1": 1.0, "relu2_1@1/2": 1.0, "relu5_1@1/2": 1.0},
    strength=0.7,
    tv_weight=0.5,
)
ROOT = Path(__file__).parents[1]

# of (3, H, W) in [0, 1], each (C, h, w)
Features = Callable[[np.ndarray, list[str]], dict[str, np.ndarray]]


def save_network(
    path: Path, painting: Path, seed: int = 0, loss: LossConfig = LOSS, painting_size: int = 80
) -> Path:
    torch.manual_seed(seed)
    recipe = Recipe(painting_size=painting_size, network=NETWORK, loss=loss)
    about = About(
        NETWORK,
        {"file": painting.name, "sha256": sha256(painting), "size": [80, 96]},
        {"id": "vgg16-tiny", "license": "none"},
        "none",
        recipe.to_dict(),
    )
    save_checkpoint(path, Johnson(4, 1), about)
    return path


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of different shapes."""
    folder = tmp_path_factory.mktemp("album")
    draw(20, 100, 130).save(folder / "a.png")
    draw(21, 120, 96).save(folder / "b.png")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, painting: Path) -> Path:
    return save_network(tmp_path_factory.mktemp("checkpoints") / "one.safetensors", painting)


@pytest.fixture
def measure(
    painting: Path, checkpoint: Path, album: Path, vgg_file: Path
) -> Callable[..., Comparison]:
    """`compare` with arguments that a test may change; at a size without the judge, to be quick."""

    def call(**changes: Any) -> Comparison:
        given = {
            "style": painting,
            "checkpoints": [checkpoint],
            "photos": album,
            "sizes": [32],
            "steps": STEPS,
        }
        return compare(**{**given, "vgg_weights": vgg_file, "device": "cpu", **changes})

    return call


@pytest.fixture(scope="module")
def comparison(
    tmp_path_factory: pytest.TempPathFactory,
    painting: Path,
    checkpoint: Path,
    album: Path,
    vgg_file: Path,
) -> Comparison:
    """A full comparison: two checkpoints of different objectives, two sizes, and the judge."""
    folder = tmp_path_factory.mktemp("both")
    other = save_network(
        folder / "other.safetensors",
        painting,
        1,
        dataclasses.replace(LOSS, content_layers="johnson"),
        64,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSTYLE_CACHE", str(folder / "cache"))
        return compare(
            painting,
            [checkpoint, other],
            album,
            sizes=[SIZE, 64],
            steps=STEPS,
            vgg_weights=vgg_file,
            device="cpu",
        )


@pytest.fixture
def descents(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The starting image of each descent, in the order in which they are made."""
    starts: list[torch.Tensor] = []

    class Counted(Descent):
        def __init__(self, image: torch.Tensor, *rest: Any) -> None:
            starts.append(image)
            super().__init__(image, *rest)

    monkeypatch.setattr(module, "Descent", Counted)
    return starts


def signal_at(monkeypatch: pytest.MonkeyPatch, number: int, descent: int, step: int) -> None:
    """Have a signal come at a step of a descent, both counted from 0."""
    made = []

    class Signalled(Descent):
        def run(self, steps: int) -> Iterator[Step]:
            made.append(self)
            for now in super().run(steps):
                if (len(made) - 1, now.step) == (descent, step):
                    signal.raise_signal(number)
                yield now

    monkeypatch.setattr(module, "Descent", Signalled)


def numbers(rows: list[SlowRow]) -> list[tuple[Any, ...]]:
    return [dataclasses.astuple(row) for row in rows]


# Against numpy: the formulas of PerceptualLoss, on features of any source.


def numpy_terms(
    features: Features,
    stylized: np.ndarray,
    photo: np.ndarray,
    painting: np.ndarray,
    loss: LossConfig,
) -> dict[str, float]:
    """Return content_rel, style_rel and total of pictures (3, H, W), as in PerceptualLoss."""

    def seen(image: np.ndarray, wanted: Mapping[str, float]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for suffix, side in (("", 1), ("@1/2", 2), ("@1/4", 4)):
            c, h, w = (image.shape[0], *(s // side for s in image.shape[1:]))
            small = image[:, : h * side, : w * side].reshape(c, h, side, w, side).mean((2, 4))
            names = [
                layer
                for layer, at, scale in (key.partition("@") for key in wanted)
                if at + scale == suffix
            ]
            found |= (
                {name + suffix: f for name, f in features(small, names).items()} if names else {}
            )
        return found

    def relative(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a - b) ** 2).sum() / (b**2).sum())

    def error(f: np.ndarray, t: np.ndarray) -> float:
        a, b = (np.cov(x.reshape(len(x), -1), bias=True) / len(x) for x in (f, t))
        gram = np.einsum("ihw,jhw->ij", t, t, optimize=True) / t.size
        return float(((a - b) ** 2).sum() / max((b**2).sum(), 0.01 * (gram**2).sum()))

    content_layers, style_layers = loss.layers("vgg16")
    y, s = (seen(p, {**content_layers, **style_layers}) for p in (stylized, painting))
    x = seen(photo, content_layers)
    offs = [y[k] - x[k] for k in content_layers]
    errors = [(off**2 * np.where(off > 0, ADDED, 1)).mean() for off in offs]
    content = [
        e / max(x[k].var(), 0.5 * s[k].var()) for e, k in zip(errors, content_layers, strict=True)
    ]
    of_content = list(content_layers.values())
    variances = [x[k].var() for k in content_layers]
    content_rel = float(np.dot(of_content, errors) / np.dot(of_content, variances))
    style = [error(y[k], s[k]) for k in style_layers]
    mean = [relative(y[k].mean((1, 2)), s[k].mean((1, 2))) for k in style_layers]
    tv = (
        (np.diff(stylized, axis=1) ** 2).sum() + (np.diff(stylized, axis=2) ** 2).sum()
    ) / stylized.size
    shares = list(style_layers.values())
    style_rel = float(np.average(style, weights=shares))
    dampened = np.average(np.sqrt(1 + 2 * np.array(style)) - 1, weights=shares)
    weights = loss.weights()
    total = (
        weights.content * float(np.average(content, weights=of_content))
        + weights.style * float(dampened)
        + weights.mean * np.average(mean, weights=shares)
        + weights.tv * tv
        + weights.light * numpy_light_error(stylized, photo, painting)
    )
    return {"content_rel": content_rel, "style_rel": style_rel, "total": float(total)}


def array(image: torch.Tensor) -> np.ndarray:
    return image[0].double().numpy()


def tiny_features(weights: VGGWeights) -> Features:
    def features(image: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        vgg: VGG = load_vgg(weights, names)
        found = vgg(torch.from_numpy(image)[None].float())
        return {name: array(found[name]) for name in names}

    return features


def torchvision_features(weights: VGGWeights) -> Features:
    """The features of torchvision's own network with these weights, in float64."""
    net = torchvision.models.vgg16(weights=None).features
    convs = [(i, layer) for i, layer in enumerate(net) if isinstance(layer, torch.nn.Conv2d)]
    names = [
        f"{block}_{i}"
        for block, count in enumerate((2, 2, 3, 3, 3), 1)
        for i in range(1, count + 1)
    ]
    places = {}
    for name, (place, conv) in zip(names, convs, strict=True):
        if f"{name}.weight" in weights.tensors:  # those after relu5_1 may be missing
            conv.load_state_dict(
                {kind: weights.tensors[f"{name}.{kind}"] for kind in ("weight", "bias")}
            )
            places[place + 1] = f"relu{name}"  # a ReLU follows each convolution
    net = net.double().eval()
    mean, std = (np.array(v)[:, None, None] for v in (weights.mean, weights.std))

    @torch.no_grad()
    def features(image: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        x = torch.from_numpy((image - mean) / std)[None]
        found = {}
        for place, layer in enumerate(net):
            x = layer(x)
            if places.get(place) in names:
                found[places[place]] = x[0].numpy().copy()  # the ReLU works in place
            if len(found) == len(names):
                break
        return found

    return features


@pytest.mark.parametrize("size", [SIZE, 64])
def test_rows_against_numpy(
    comparison: Comparison, album: Path, painting: Path, tiny_weights: VGGWeights, size: int
) -> None:
    """The network's terms, and those of the slow path's last pictures, rounded to 8 bits."""
    features = tiny_features(tiny_weights)
    losses = {"one": (LOSS, 80), "other": (dataclasses.replace(LOSS, content_layers="johnson"), 64)}
    gallery = next(g for g in comparison.galleries if (g.photo, g.size) == ("b.png", size))
    photo = array(protocol_photo(album / "b.png", size))
    np.testing.assert_array_equal(array(gallery.content), photo)
    for name, (loss, painting_size) in losses.items():
        style = array(fit_shorter(read_image(painting), painting_size))
        expected = numpy_terms(features, array(gallery.fast[name]), photo, style, loss)
        (row,) = (
            r for r in comparison.fast if (r.checkpoint, r.photo, r.size) == (name, "b.png", size)
        )
        assert {k: getattr(row, k) for k in expected} == pytest.approx(expected, rel=1e-3)
        start = numpy_terms(features, photo, photo, style, loss)
        rows = [
            r
            for r in comparison.slow[name]
            if (r.photo, r.size, r.init) == ("b.png", size, "content")
        ]
        assert [r.step for r in rows] == [0, 1, 2]
        assert {k: getattr(rows[0], k) for k in start} == pytest.approx(start, rel=1e-3, abs=1e-9)
        assert rows[0].content_rel == 0
    style = array(fit_shorter(read_image(painting), 80))
    for init in ("content", "noise"):
        expected = numpy_terms(features, array(gallery.slow[init, STEPS]), photo, style, LOSS)
        (row,) = (
            r
            for r in comparison.slow["one"]
            if (r.photo, r.size, r.init, r.step) == ("b.png", size, init, STEPS)
        )  # fmt: skip
        assert {k: getattr(row, k) for k in expected} == pytest.approx(expected, rel=0.02)


@pytest.mark.weights
@pytest.mark.parametrize(("name", "size"), [("chelsea.png", 256), ("coffee.png", 192)])
def test_the_objective_agrees_with_numpy_on_features_of_torchvision(name: str, size: int) -> None:
    weights = find_weights()
    recipe = Recipe(painting_size=224)
    assert recipe.loss == LossConfig()
    painting = read_image(ROOT / "data" / "styles" / "nocturne.png")
    photo = protocol_photo(Path(data_dir) / name, size)
    generator = torch.Generator().manual_seed(0)
    stylized = (0.6 * photo + 0.4 * torch.rand(photo.shape, generator=generator)).flip(3)
    loss = build_objective(recipe, [painting], weights)
    with torch.no_grad():
        terms = loss(stylized, loss.targets(photo))
    style = array(fit_shorter(painting, 224))
    expected = numpy_terms(
        torchvision_features(weights), array(stylized), array(photo), style, LossConfig()
    )
    assert {k: float(getattr(terms, k)) for k in expected} == pytest.approx(expected, rel=1e-3)
    assert all(value > 0.01 for value in expected.values())


# Measurements.


def test_every_photo_size_start_and_step_has_a_row(comparison: Comparison) -> None:
    places = [(r.checkpoint, r.size, r.photo) for r in comparison.fast]
    assert places == [
        (c, s, p) for s in (SIZE, 64) for c in ("one", "other") for p in ("a.png", "b.png")
    ]
    expected = {
        (size, photo, init, step)
        for size in (SIZE, 64)
        for photo in ("a.png", "b.png")
        for init in ("content", "noise")
        for step in range(STEPS + 1)
    }
    for name in ("one", "other"):
        rows = comparison.slow[name]
        assert len(rows) == len(expected)
        assert {(r.size, r.photo, r.init, r.step) for r in rows} == expected
    assert [(s.checkpoint, s.size) for s in comparison.summaries] == [
        ("one", SIZE), ("other", SIZE), ("one", 64), ("other", 64)
    ]  # fmt: skip


def test_time_goes_on(comparison: Comparison) -> None:
    rows = comparison.slow["one"]
    for i in range(0, len(rows), STEPS + 1):
        path = rows[i : i + STEPS + 1]
        seconds = [r.seconds for r in path]
        assert seconds[0] == 0
        assert seconds == sorted(seconds)
        assert seconds[-1] > 0
    assert all(r.seconds > 0 for r in comparison.fast)


def test_means_are_those_of_the_rows(comparison: Comparison) -> None:
    summary = next(s for s in comparison.summaries if (s.checkpoint, s.size) == ("other", SIZE))
    fast = [r for r in comparison.fast if (r.checkpoint, r.size) == ("other", SIZE)]
    assert summary.photos == 2
    assert summary.fast["total"] == pytest.approx((fast[0].total + fast[1].total) / 2)
    assert summary.spread["total"] == pytest.approx(abs(fast[0].total - fast[1].total) / 2)
    last = next(r for r in summary.slow if (r["init"], r["step"]) == ("noise", STEPS))
    slow = [
        r for r in comparison.slow["other"] if (r.size, r.init, r.step) == (SIZE, "noise", STEPS)
    ]
    assert last["style_rel"] == pytest.approx((slow[0].style_rel + slow[1].style_rel) / 2)
    assert [(r["init"], r["step"]) for r in summary.slow] == [
        (init, step) for init in ("content", "noise") for step in range(STEPS + 1)
    ]


def test_the_judge_scores_both_and_not_what_is_too_small(
    comparison: Comparison, painting: Path, tiny_weights: VGGWeights
) -> None:
    judge = Judge(load_vgg(tiny_weights, LAYERS), read_image(painting), SIZE)
    galleries = [g for g in comparison.galleries if g.size == SIZE]
    photos = [g.content for g in galleries]
    for summary in comparison.summaries:
        if summary.size != SIZE:
            assert summary.judge == {}
            continue
        expected = dataclasses.asdict(
            judge.score([g.fast[summary.checkpoint] for g in galleries], photos)
        )
        assert summary.judge["fast"] == pytest.approx(expected)
        assert [(s["init"], s["step"]) for s in summary.judge["slow"]] == [
            ("content", STEPS),
            ("noise", STEPS),
        ]
    scores = comparison.summaries[0].judge["slow"][1]
    expected = dataclasses.asdict(judge.score([g.slow["noise", STEPS] for g in galleries], photos))
    assert {k: scores[k] for k in expected} == pytest.approx(expected)


def test_the_slow_path_descends_and_pictures_of_shown_steps_are_kept(
    measure: Callable[..., Comparison],
) -> None:
    found = measure(steps=12, limit=1)
    (first,) = found.galleries
    for init in ("content", "noise"):
        totals = [r.total for r in found.slow["one"] if r.init == init]
        assert len(totals) == 13
        assert totals[-1] < 0.9 * totals[0]
    assert list(first.slow) == [("content", 10), ("content", 12), ("noise", 10), ("noise", 12)]
    for picture in (first.content, *first.slow.values(), *first.fast.values()):
        assert picture.shape == (1, 3, 32, 32)
        assert 0 <= float(picture.min()) <= float(picture.max()) <= 1


def test_settings_and_machine_are_in_the_report(comparison: Comparison, painting: Path) -> None:
    about = comparison.about
    assert (about["painting"], about["steps"], about["optimizer"]) == (
        painting.name,
        STEPS,
        "lbfgs",
    )
    assert about["painting_size"] == {"one": 80, "other": 64}
    assert about["objective"]["one"] == dataclasses.asdict(LOSS)
    assert (about["vgg"], about["device"], about["threads"]) == (
        "vgg16-tiny",
        "cpu",
        torch.get_num_threads(),
    )
    assert about["machine"]
    network = Johnson(4, 1)
    (one, _) = comparison.checkpoints
    assert (one.name, one.network, one.parameters) == (
        "one",
        NETWORK,
        sum(p.numel() for p in network.parameters()),
    )
    assert one.megabytes == pytest.approx(
        sum(t.numel() for t in network.state_dict().values()) * 4 / 1e6
    )


# By hand.


def fast_row(photo: str, total: float, seconds: float) -> FastRow:
    return FastRow("one", photo, 64, 2 * total, 3 * total, total, seconds)


def slow_path(photo: str, init: str, totals: list[float], seconds: float = 1.0) -> list[SlowRow]:
    return [SlowRow(photo, 64, init, i, 2 * t, 3 * t, t, seconds * i) for i, t in enumerate(totals)]


def test_equal_is_the_first_step_that_is_no_worse() -> None:
    rows = slow_path("a", "content", [4.0, 2.0, 3.0, 1.0, 2.5])
    assert [equal_row(rows, total) for total in (5.0, 4.0, 2.5, 2.0, 1.5, 1.0)] == [
        rows[0], rows[0], rows[1], rows[1], rows[3], rows[3]
    ]  # fmt: skip
    assert equal_row(rows, 0.99) is None
    assert equal_row(rows, float("nan")) is None


def test_summary_by_hand() -> None:
    """Of three photos all reach the network from content, at steps 1, 2 and 4; from noise one."""
    fast = [fast_row("a", 2.0, 0.5), fast_row("b", 1.0, 0.25), fast_row("c", 6.0, 0.75)]
    slow = [
        *slow_path("a", "content", [4, 2, 1, 1, 1]),
        *slow_path("b", "content", [4, 2, 1, 1, 1], seconds=2.0),
        *slow_path("c", "content", [9, 8, 7, 6.5, 6.0], seconds=3.0),
        *slow_path("a", "noise", [9, 8, 7, 2, 1]),
        *slow_path("b", "noise", [9, 8, 7, 2, 1.5]),
        *slow_path("c", "noise", [9, 8, 7, 7, 6.5]),
    ]
    summary = summarise("one", 64, fast, slow, {"fast": {}})
    assert (summary.checkpoint, summary.photos, summary.size, summary.judge) == (
        "one",
        3,
        64,
        {"fast": {}},
    )
    assert summary.fast == pytest.approx(
        {"content_rel": 6.0, "style_rel": 9.0, "total": 3.0, "seconds": 0.5}
    )
    # Population deviations: of 2, 1, 6 about 3, and of 0.5, 0.25, 0.75 about 0.5.
    assert summary.spread["total"] == pytest.approx((14 / 3) ** 0.5)
    assert summary.spread["seconds"] == pytest.approx((0.125 / 3) ** 0.5)
    assert summary.reached == {"content": 3, "noise": 1}
    # Seconds 1, 4, 12 at equality, over those of the network: 2, 16, 16.
    assert summary.equal_step == {"content": 2, "noise": None}
    assert summary.equal_seconds == {"content": 4.0, "noise": None}
    assert summary.speedup == {"content": 16.0, "noise": None}
    assert len(summary.slow) == 10
    assert summary.slow[1] == pytest.approx(
        {
            "init": "content",
            "step": 1,
            "content_rel": 8.0,
            "style_rel": 12.0,
            "total": 4.0,
            "seconds": 2.0,
        }
    )
    assert summary.slow[9] == pytest.approx(
        {
            "init": "noise",
            "step": 4,
            "content_rel": 6.0,
            "style_rel": 9.0,
            "total": 3.0,
            "seconds": 4.0,
        }
    )


def test_a_start_as_good_as_the_network_is_counted_apart() -> None:
    """Of four photos two start no worse than the network: that says nothing of the slow path."""
    fast = [fast_row(p, 2.0, 0.5) for p in "abcd"]
    paths = {"a": [2, 1, 1], "b": [1, 1, 1], "c": [4, 3, 2], "d": [4, 2, 1]}
    slow = [row for p, totals in paths.items() for row in slow_path(p, "content", totals)]
    slow += [row for p in "abcd" for row in slow_path(p, "noise", [1, 1, 1])]
    summary = summarise("one", 64, fast, slow, {})
    assert summary.start_as_good == {"content": 2, "noise": 4}
    assert summary.reached == {"content": 2, "noise": 0}
    assert summary.equal_step == {"content": 1.5, "noise": None}
    assert summary.speedup == {"content": 3.0, "noise": None}


def test_half_of_the_photos_is_enough_and_a_median_may_lie_between_steps() -> None:
    fast = [fast_row(p, 1.0, 0.5) for p in "abcd"]
    reach = {"a": [2, 1, 1, 1], "b": [2, 2, 1, 1], "c": [2, 2, 2, 2], "d": [2, 2, 2, 2]}
    never = [row for p in "abcd" for row in slow_path(p, "noise", [2, 2, 2, 2])]
    slow = [row for p, totals in reach.items() for row in slow_path(p, "content", totals)]
    summary = summarise("one", 64, fast, [*slow, *never], {})
    assert summary.reached == {"content": 2, "noise": 0}
    assert summary.equal_step == {"content": 1.5, "noise": None}
    assert summary.speedup == {"content": 3.0, "noise": None}


def test_photos_of_a_folder_in_order_and_a_limit_takes_evenly(tmp_path: Path) -> None:
    for name in (
        "c.JPG",
        "a.png",
        "b.webp",
        "f.png",
        "e.bmp",
        "d.jpeg",
        "notes.txt",
        ".hidden.png",
    ):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()

    def found(limit: int | None = None) -> str:
        return "".join(p.stem for p in list_photos(tmp_path, limit))

    assert (found(), found(9), found(6)) == ("abcdef",) * 3
    assert (found(1), found(2), found(3), found(4)) == ("a", "ad", "ace", "abde")


# Results that are kept.


def test_another_checkpoint_of_the_same_objective_costs_only_its_own_time(
    measure: Callable[..., Comparison],
    descents: list[torch.Tensor],
    tmp_path: Path,
    painting: Path,
    checkpoint: Path,
) -> None:
    first = measure()
    assert len(descents) == 4  # two photos from two starts
    second = save_network(tmp_path / "two.safetensors", painting, seed=1)
    both = measure(checkpoints=[second, checkpoint])
    assert len(descents) == 4
    # seconds too
    assert numbers(both.slow["two"]) == numbers(both.slow["one"]) == numbers(first.slow["one"])
    assert {r.total for r in both.fast if r.checkpoint == "two"}.isdisjoint(
        r.total for r in first.fast
    )
    for before, after in zip(first.galleries, both.galleries, strict=True):
        assert all(torch.equal(before.slow[k], after.slow[k]) for k in before.slow)


def test_two_checkpoints_of_one_objective_share_a_descent_at_once(
    measure: Callable[..., Comparison],
    descents: list[torch.Tensor],
    tmp_path: Path,
    painting: Path,
    checkpoint: Path,
) -> None:
    second = save_network(tmp_path / "two.safetensors", painting, seed=1)
    other = save_network(
        tmp_path / "other.safetensors", painting, loss=dataclasses.replace(LOSS, strength=3.0)
    )
    measure(checkpoints=[checkpoint, second])
    assert len(descents) == 4
    measure(checkpoints=[checkpoint, other])
    assert len(descents) == 8
    apart = save_network(
        tmp_path / "apart.safetensors", painting, loss=dataclasses.replace(LOSS, contrast=1.0)
    )
    measure(checkpoints=[checkpoint, apart])
    assert len(descents) == 12


def test_photos_are_known_by_their_pixels(
    measure: Callable[..., Comparison], descents: list[torch.Tensor], album: Path, tmp_path: Path
) -> None:
    first = measure()
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "z.png").write_bytes((album / "a.png").read_bytes())
    again = measure(photos=tmp_path / "moved")
    assert len(descents) == 4
    assert {r.photo for r in again.slow["one"]} == {"z.png"}
    assert [r.total for r in again.slow["one"]] == [
        r.total for r in first.slow["one"] if r.photo == "a.png"
    ]


CHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "nothing": ({}, 0),
    "steps": ({"steps": 3}, 2),
    "size": ({"sizes": [40]}, 2),
    "seed": ({"seed": 1}, 2),
    "optimizer": ({"optimizer": "adam"}, 2),
    "one photo more": ({"limit": 2}, 2),
    "size twice": ({"sizes": [32, 32]}, 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_are_measured_anew(
    measure: Callable[..., Comparison], descents: list[torch.Tensor], change: str
) -> None:
    arguments, expected = CHANGES[change]
    measure(limit=1)
    again = measure(**{"limit": 1, **arguments})
    assert len(descents) == 2 + expected
    assert len(again.summaries) == 1


def test_another_photo_painting_or_objective_is_measured_anew(
    measure: Callable[..., Comparison], descents: list[torch.Tensor], tmp_path: Path, painting: Path
) -> None:
    measure(limit=1)
    (tmp_path / "album").mkdir()
    draw(22, 100, 130).save(tmp_path / "album" / "a.png")  # of a name that is known
    draw(2, 80, 96).save(tmp_path / "squares.png")
    other = {"style": tmp_path / "squares.png"}
    changes = [
        ({"photos": tmp_path / "album"}, 2),
        ({**other, "checkpoints": [save_network(tmp_path / "one.safetensors", other["style"])]}, 2),
        (
            {"checkpoints": [save_network(tmp_path / "b.safetensors", painting, painting_size=64)]},
            2,
        ),
        (
            {
                "checkpoints": [
                    save_network(
                        tmp_path / "c.safetensors",
                        painting,
                        loss=dataclasses.replace(LOSS, strength=0.8),
                    )
                ]
            },
            2,
        ),
        (
            {
                "checkpoints": [
                    save_network(tmp_path / "d.safetensors", painting, loss=LossConfig("absolute"))
                ]
            },
            2,
        ),
    ]
    count = len(descents)
    for arguments, expected in changes:
        measure(limit=1, **arguments)
        count += expected
        assert len(descents) == count, arguments


def test_noise_is_that_of_the_seed(
    measure: Callable[..., Comparison], descents: list[torch.Tensor], album: Path
) -> None:
    measure(seed=7)
    expected = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(descents[1], expected, rtol=0, atol=0)
    torch.testing.assert_close(descents[0], protocol_photo(album / "a.png", 32), rtol=0, atol=0)


def damage(path: Path, how: str) -> None:
    from safetensors.torch import load_file, save

    whole = path.read_bytes()
    tensors = load_file(path)
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"no tensors here",
            "no rows": save(tensors),
            "no JSON": save(tensors, metadata={"rows": "{"}),
            "rows of another kind": save(tensors, metadata={"rows": "[3, 4]"}),
            "short rows": save(tensors, metadata={"rows": "[[0, 1.0]]"}),
        }[how]
    )


@pytest.mark.parametrize(
    "how", ["cut", "empty", "text", "no rows", "no JSON", "rows of another kind", "short rows"]
)  # fmt: skip
def test_a_damaged_file_is_computed_again(
    measure: Callable[..., Comparison], descents: list[torch.Tensor], how: str
) -> None:
    first = measure(limit=1, steps=1)
    kept = sorted((module.cache_folder() / "slow").iterdir())
    assert len(kept) == len(descents) == 2
    damage(kept[0], how)
    again = measure(limit=1, steps=1)
    assert len(descents) == 3
    assert [r.total for r in again.slow["one"]] == [r.total for r in first.slow["one"]]
    measure(limit=1, steps=1)
    assert len(descents) == 3  # the damaged file is whole again


def test_a_cache_that_cannot_be_written_does_not_cost_the_comparison(
    measure: Callable[..., Comparison],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTSTYLE_CACHE", str(tmp_path / "file" / "below"))
    assert len(measure(limit=1, quiet=False).slow["one"]) == 2 * (STEPS + 1)
    lines = capfd.readouterr().err.splitlines()
    assert lines.pop(0).startswith("note: ")  # the painting is small
    assert len(lines) == 2
    assert all(
        line.startswith("results of the slow path are not kept: cannot write") for line in lines
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_where_it_was(
    measure: Callable[..., Comparison], monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    handler = signal.getsignal(number)
    signal_at(monkeypatch, number, descent=2, step=1)
    with pytest.raises(
        Interrupted, match=r"stopped at step 1 of b\.png from content; the same command goes on"
    ) as end:
        measure()
    assert end.value.exit_code == code
    assert signal.getsignal(number) == handler
    folder = module.cache_folder() / "slow"
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert len(kept) == 2  # of the first photo
    starts: list[torch.Tensor] = []

    class Counted(Descent):
        def __init__(self, image: torch.Tensor, *rest: Any) -> None:
            starts.append(image)
            super().__init__(image, *rest)

    monkeypatch.setattr(module, "Descent", Counted)
    assert len(measure().slow["one"]) == 2 * 2 * (STEPS + 1)
    assert len(starts) == 2  # of the second
    assert {name: (folder / name).read_bytes() for name in kept} == kept


def test_a_complete_path_is_kept_when_a_signal_comes(
    measure: Callable[..., Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at(monkeypatch, signal.SIGINT, descent=1, step=STEPS)
    with pytest.raises(Interrupted, match=r"stopped before b\.png from content"):
        measure()
    assert len(list((module.cache_folder() / "slow").iterdir())) == 2


def test_a_signal_stops_a_run_that_has_all_it_needs(
    measure: Callable[..., Comparison],
    descents: list[torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measure(limit=1)
    read = module._read_kept

    def signalled(*arguments: Any) -> Any:
        if arguments[-1] == "noise":
            signal.raise_signal(signal.SIGINT)
        return read(*arguments)

    monkeypatch.setattr(module, "_read_kept", signalled)
    with pytest.raises(Interrupted, match="stopped before judging"):
        measure(limit=1)
    assert len(descents) == 2


# Bad input, which is refused before anything is measured.

REFUSED: dict[str, tuple[dict[str, Any], type[FaststyleError], str]] = {
    "no steps": ({"steps": 0}, RecipeError, "`steps` and `size` must be 1 or more"),
    "no size": ({"sizes": [32, 0]}, RecipeError, "`steps` and `size` must be 1 or more"),
    "no sizes": ({"sizes": []}, RecipeError, "must be 1 or more"),
    "no photos": ({"limit": 0}, RecipeError, "`limit` must be 1 or more, got 0"),
    "small size": (
        {"sizes": [64, 16]},
        ImageError,
        "`size` 16: an image of 8x8 pixels is too small for relu5_1: "
        "its shorter side must be at least 16",
    ),
    "unknown checkpoint": ({"checkpoints": ["onne"]}, CheckpointError, "no checkpoint 'onne'"),
    "unknown device": ({"device": "gpu"}, FaststyleError, "unknown device 'gpu'"),
    "missing painting": ({"style": "none.png"}, ImageError, "none.png: no such file"),
    "unknown optimizer": (
        {"optimizer": "lbgfs"},
        RecipeError,
        "unknown optimizer 'lbgfs'. Did you mean 'lbfgs'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(measure: Callable[..., Comparison], case: str) -> None:
    arguments, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        measure(**arguments)
    assert not (module.cache_folder() / "slow").exists()


def test_a_checkpoint_of_another_painting_is_refused(
    measure: Callable[..., Comparison], tmp_path: Path
) -> None:
    draw(2, 80, 96).save(tmp_path / "squares.png")
    with pytest.raises(
        CheckpointError,
        match=r"one\.safetensors was trained for another painting, dots\.png: "
        "give that file as `painting`",
    ):
        measure(style=tmp_path / "squares.png")


def test_a_checkpoint_that_was_converted_has_no_objective_to_compare(
    measure: Callable[..., Comparison], tmp_path: Path
) -> None:
    source = {"file": "mosaic.pth", "sha256": "ab" * 32}
    path = tmp_path / "mosaic.safetensors"
    save_checkpoint(path, Johnson(4, 1), About(NETWORK, {}, {}, "", {}, source=source))
    with pytest.raises(
        CheckpointError,
        match=r"mosaic\.safetensors was converted from mosaic\.pth: its painting and objective are",
    ):
        measure(checkpoints=[path])


def test_checkpoints_of_one_name_are_refused(
    measure: Callable[..., Comparison], tmp_path: Path, painting: Path, checkpoint: Path
) -> None:
    namesake = save_network(tmp_path / "one.safetensors", painting, seed=1)
    with pytest.raises(CheckpointError, match="two checkpoints are called 'one'"):
        measure(checkpoints=[checkpoint, namesake])


def test_folders_without_photos_are_refused(
    measure: Callable[..., Comparison], tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"`photos` .*none: no such folder"):
        measure(photos=tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        ImageError, match=r"`photos` .*: no images in it \(.*\.jpg.* are looked for\)"
    ):
        measure(photos=tmp_path)
