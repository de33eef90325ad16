"""The report: whole files, strict JSON, a page that loads nothing, the same bytes each time."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from faststyle.compare.charts import Curve, Point, objective_by_step, speed_and_quality, spread_out
from faststyle.compare.page import report_html, require_packages
from faststyle.compare.report import report_csv, report_json, write_report
from faststyle.compare.results import (
    Checkpoint,
    Comparison,
    FastRow,
    Gallery,
    RefinedRow,
    SlowRow,
    Summary,
)
from faststyle.compare.words import answer
from faststyle.errors import DeviceError, OutputError

NASTY = 'a<b>&"c".jpg'
PHOTOS = ["bear.jpg", NASTY]
STEPS = [0, 10, 50, 100, 300]
SHOWN = [10, 50, 100, 300]
TOTALS = {"content": [2.5, 1.6, 0.9, 0.7, 0.55], "noise": [30.0, 9.0, 2.0, 1.2, 0.8]}  # by STEPS
SCORES = {
    "style_distance": 0.222,
    "style_closed": 0.4,
    "content_distance": 0.81,
    "clear_distance": 0.72,
    "light": 0.8,
    "grid": 1.9,
    "stripes": 1.2,
    "border": 1.01,
    "edges": 0.12,
    "high_frequency": 0.93,
    "photos": 2,
}
VOID = {"meta", "link", "img", "br", "input", "hr"}


def slow_rows(scale: float = 1.0) -> list[SlowRow]:
    return [
        SlowRow(photo, 64, init, step, 0.5, 0.2, total * scale * (1 + 0.1 * i), 0.25 * step)
        for i, photo in enumerate(PHOTOS)
        for init, totals in TOTALS.items()
        for step, total in zip(STEPS, totals, strict=True)
    ]


def summary(name: str = "night", **changes: Any) -> Summary:
    values: dict[str, Any] = {
        "checkpoint": name,
        "photos": 2,
        "size": 64,
        "fast": {"content_rel": 0.88, "style_rel": 0.29, "total": 0.85, "seconds": 0.05},
        "slow": [
            {
                "init": init,
                "step": step,
                "content_rel": 0.5,
                "style_rel": 0.2,
                "total": total,
                "seconds": 0.25 * step,
            }
            for init, totals in TOTALS.items()
            for step, total in zip(STEPS, totals, strict=True)
        ],
        "equal_step": {"content": 54, "noise": 283.0},
        "speedup": {"content": 270.0, "noise": 1415.0},
        "equal_seconds": {"content": 13.2, "noise": 71.5},
        "reached": {"content": 2, "noise": 1},
        "judge": {
            "fast": SCORES,
            "slow": [{"init": "content", "step": 50, **SCORES, "style_closed": 0.27}],
        },
        "spread": {"content_rel": 0.05, "style_rel": 0.02, "total": 0.1},
    }
    return Summary(**{**values, **changes})


def picture(seed: int, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def comparison(names: tuple[str, ...] = ("night",), **changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "about": {
            "painting": "data/styles/stars & moon.png",
            "machine": "a machine <with> brackets",
            "threads": 2,
            "vgg": "vgg16-tiny",
            "optimizer": "lbfgs",
            "versions": {"torch": "2.9.1", "faststyle": "0.2.0"},
        },
        "painting": picture(0, 64, 96),
        "checkpoints": [
            Checkpoint(name, {"name": "johnson", "width": 16}, 1_679_235, 6.72) for name in names
        ],
        "summaries": [summary(name) for name in names],
        "fast": [
            FastRow(name, p, 64, 0.9, 0.3, 0.85 + i / 10, 0.05)
            for name in names
            for i, p in enumerate(PHOTOS)
        ],
        "slow": {name: slow_rows() for name in names},
        "galleries": [
            Gallery(
                photo,
                64,
                picture(1),
                {(init, step): picture(step) for init in TOTALS for step in SHOWN},
                {name: picture(7) for name in names},
            )
            for photo in PHOTOS
        ],
    }
    return Comparison(**{**values, **changes})


class Page(html.parser.HTMLParser):
    """The elements and words of a page. It also checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words += data.replace("\N{NO-BREAK SPACE}", " ")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report_html(comparison()))


def test_writes_three_whole_files_and_nothing_else(tmp_path: Path) -> None:
    write_report(comparison(), tmp_path / "new" / "folder")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "report.csv",
        "report.html",
        "report.json",
    ]
    assert (tmp_path / "new/folder/report.html").read_text(encoding="utf-8").endswith("</html>\n")


def test_a_file_where_the_folder_should_be_is_one_line_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write_report(comparison(), tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "mine"


def test_json_is_strict_and_holds_every_row(tmp_path: Path) -> None:
    broken = FastRow("night", "c.jpg", 64, math.nan, math.inf, -math.inf, 0.1)
    given = comparison()
    given = dataclasses.replace(given, fast=[*given.fast, broken])
    write_report(given, tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert list(data) == ["about", "checkpoints", "summaries", "fast", "refined", "slow"]
    assert data["about"] == given.about
    assert data["checkpoints"] == [
        {
            "name": "night",
            "network": {"name": "johnson", "width": 16},
            "parameters": 1679235,
            "megabytes": 6.72,
        }
    ]
    assert data["summaries"] == [dataclasses.asdict(s) for s in given.summaries]
    assert data["fast"][:-1] == [dataclasses.asdict(r) for r in given.fast[:-1]]
    assert data["fast"][-1]["total"] is None
    assert data["slow"] == {"night": [dataclasses.asdict(r) for r in given.slow["night"]]}


def test_json_takes_numbers_of_numpy_and_paths() -> None:
    import numpy as np

    given = {
        "a": np.int64(3),
        "b": np.float32(0.5),
        "c": Path("x"),
        "d": (True, None),
        "e": np.float64("nan"),
    }
    about = report_json(comparison(about=given))["about"]
    assert (
        json.dumps(about, allow_nan=False)
        == '{"a": 3, "b": 0.5, "c": "x", "d": [true, null], "e": null}'
    )


def refined(names: tuple[str, ...] = ("night",)) -> Comparison:
    """A comparison whose networks' pictures were refined too."""
    plain = comparison(names)
    means = {"content_rel": 0.7, "style_rel": 0.21, "total": 0.613, "seconds": 10.7, "step": 8.5}
    judged = {**summary().judge, "refined": {**SCORES, "style_closed": 0.567}}
    return dataclasses.replace(
        plain,
        summaries=[summary(name, refined=means, judge=judged) for name in names],
        refined=[
            RefinedRow(name, photo, 64, 0.7, 0.21, 0.6 + i / 10, 10.5, 8 + i)
            for name in names
            for i, photo in enumerate(PHOTOS)
        ],
        galleries=[
            dataclasses.replace(gallery, refined={name: picture(8) for name in names})
            for gallery in plain.galleries
        ],
    )


def test_refined_pictures_have_a_row_a_mark_and_a_place(page: Page) -> None:
    found = Page(report_html(refined()))
    assert "Network, refined: 8.50 steps" in found.words
    assert "Refined, its objective is 0.613 instead of 0.850, after 10.7 s." in found.words
    assert "0.567" in found.words  # its score
    assert "refined 0.613" in found.words  # in the chart of seconds
    alts = [image["alt"] for image in found.all("img")]
    assert alts.count("bear.jpg by the network night, refined") == 1
    assert len(alts) == len(page.all("img")) + len(PHOTOS)
    assert "objective 0.700, 10.5 s" in found.words  # of the second photo
    assert "Network, refined" not in page.words
    both = Page(report_html(refined(("night", "dots"))))
    assert "night refined, 0.72" in both.words  # in the chart of speed and quality
    rows = list(csv.DictReader(io.StringIO(report_csv(refined()))))
    got = [(r["photo"], r["step"], r["total"]) for r in rows if r["method"] == "refined"]
    assert got == [("bear.jpg", "8", "0.6"), (NASTY, "9", "0.7")]


def test_csv_has_a_line_for_every_measurement() -> None:
    given = comparison(("night", "dots"))
    rows = list(csv.DictReader(io.StringIO(report_csv(given))))
    assert (
        ",".join(rows[0])
        == "method,checkpoint,photo,size,init,step,content_rel,style_rel,total,seconds"
    )
    fast, slow = ([r for r in rows if r["method"] == m] for m in ("fast", "slow"))
    assert len(fast) == len(given.fast) == 4
    assert len(slow) == 2 * len(PHOTOS) * len(TOTALS) * len(STEPS)
    assert [float(r["total"]) for r in fast] == [r.total for r in given.fast]
    assert fast[1]["photo"] == NASTY
    assert (fast[0]["init"], fast[0]["step"]) == ("", "")
    expected = [("night", *dataclasses.astuple(r)) for r in given.slow["night"]]
    got = [
        (
            *(r["checkpoint"], r["photo"], int(r["size"]), r["init"], int(r["step"])),
            *(float(r[k]) for k in ("content_rel", "style_rel", "total", "seconds")),
        )
        for r in slow
    ]
    assert got[: len(expected)] == expected


def test_numbers_that_are_not_finite_are_empty_in_csv() -> None:
    given = comparison(fast=[FastRow("night", "c.jpg", 64, math.nan, 0.1, math.inf, 0.1)])
    assert report_csv(given).splitlines()[1] == "fast,night,c.jpg,64,,,,0.1,,0.1"


def test_page_loads_nothing(page: Page) -> None:
    text = report_html(comparison())
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "<script" not in text
    assert "default-src 'none'" in text  # the browser enforces it too


def test_page_has_the_pictures_with_words_for_those_who_do_not_see_them(page: Page) -> None:
    images = page.all("img")
    # The painting on top. For each photo: itself, the painting, the network, and two starts at four
    # steps.
    assert len(images) == 1 + len(PHOTOS) * (3 + 2 * len(SHOWN))
    assert all(i["alt"] and (i["src"] or "").startswith("data:image/webp;base64,") for i in images)
    assert sum(i["alt"] == f"{NASTY} by the slow path, 50 steps from noise" for i in images) == 1
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))


def test_page_escapes_names(page: Page) -> None:
    text = report_html(comparison())
    assert NASTY in page.words
    assert "a<b>" not in text
    assert "stars & moon.png" in page.words
    assert "stars & moon" not in text
    assert "a machine <with> brackets" in page.words


def test_page_stands_alone_on_a_phone_and_in_the_dark(page: Page) -> None:
    metas = {m.get("name"): m.get("content") for m in page.all("meta")}
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    assert metas["color-scheme"] == "light dark"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))  # those of several charts too
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table")) == 2


def test_page_says_the_answer_and_the_numbers(page: Page) -> None:
    assert "Slow against fast: stars & moon.png" in page.words
    assert "On 2 photos at 64 px the network needs 50.0 ms a photo." in page.words
    # The seconds are a median of their own, and not the product of two others.
    assert (
        "Started from the photo, the slow path reaches the same objective after 54 L-BFGS steps: "
        "13.2 s, 270 times as long." in page.words
    )
    assert "on 1 of 2 photos after 283 L-BFGS steps: 71.5 s, 1,415 times as long." in page.words
    assert "equal at step 54" in page.words
    assert "equal at step 283" in page.words
    assert (
        "the network goes 40% of the way from photo to painting; the slow path 27% after 50 steps"
        in page.words
    )
    for text in (
        "0.850",
        "± 0.10",
        "0.222",
        "0.810",
        "vgg16-tiny",
        "torch 2.9.1",
        "1,679,235 parameters",
    ):
        assert text in page.words


def test_never_equal_is_said_so() -> None:
    nothing = summary(
        equal_step={"content": None, "noise": None},
        speedup={"content": None, "noise": None},
        reached={"content": 0, "noise": 1},
        photos=10,
    )
    words = Page(report_html(comparison(summaries=[nothing]))).words
    assert (
        "from the photo, the slow path reached the same objective on none of the 10 photos "
        "within 300" in words
    )
    assert (
        "from noise, the slow path reached the same objective on only 1 of 10 photos within 300"
        in words
    )
    assert "not within 300" in words
    assert "equal at step" not in words
    assert "times as long" not in words


def test_a_start_as_good_as_the_network_is_said() -> None:
    given = summary(
        photos=4,
        equal_step={"content": 1.5, "noise": None},
        reached={"content": 2, "noise": 0},
        start_as_good={"content": 2, "noise": 4},
    )
    told = " ".join(answer(given, "adam", {"content": 300, "noise": 300}))
    assert "no better than the photo itself on 2 of 4 photos" in told
    assert "reaches the same objective on 2 of 4 photos after 1.5 Adam steps" in told
    assert "no better than noise on 4 of 4 photos" in told
    assert "Started from noise" not in told


@pytest.mark.parametrize(
    ("photos", "seconds", "step", "equal", "speedup", "expected"),
    [
        (
            *(1, 2.0, 1, 7.5, 3.25),
            "On 1 photo at 64 px the network needs 2.00 s a photo. Started from the photo, the "
            "slow path reaches the same objective after 1 Adam step: 7.50 s, 3.2 times as long.",
        ),
        (
            *(2, 0.5, 12.5, None, 600.0),
            "On 2 photos at 64 px the network needs 500 ms a photo. Started from the photo, the "
            "slow path reaches the same objective after 12.5 Adam steps: 5.00 minutes, 600 times "
            "as long.",
        ),
    ],
)
def test_answer_in_words(
    photos: int, seconds: float, step: float, equal: float | None, speedup: float, expected: str
) -> None:
    """Without measured seconds the answer multiplies the network's seconds by the speed-up."""
    given = summary(
        photos=photos,
        fast={"content_rel": 1.0, "style_rel": 0.1, "total": 1.0, "seconds": seconds},
        equal_step={"content": step},
        equal_seconds={} if equal is None else {"content": equal},
        speedup={"content": speedup},
        reached={"content": photos},
    )
    assert (
        " ".join(answer(given, "adam", {"content": 300})).replace("\N{NO-BREAK SPACE}", " ")
        == expected
    )


def test_scatter_for_several_checkpoints_only(page: Page) -> None:
    assert "Speed against quality" not in page.words
    both = comparison(("night", "dots"))
    several = Page(report_html(both))
    assert "Speed against quality" in several.words
    assert "night, 0.72" in several.words
    assert "dots, 0.72" in several.words
    assert len(several.all("svg")) == 5  # two for each checkpoint, and the scatter
    unscored = dataclasses.replace(both, summaries=[summary("night"), summary("dots", judge={})])
    assert "Speed against quality" not in Page(report_html(unscored)).words


def test_footer_has_a_line_for_each_checkpoint_and_leaves_out_none() -> None:
    loss = {
        "mode": "relative",
        "content_layers": {"relu4_2": 1.0},
        "strength": 1.5,
        "tv_weight": None,
    }
    about = {
        "objective": {"night": loss, "a<b>": {**loss, "strength": 2.0}},
        "painting_size": {"night": 384, "a<b>": 256},
        "versions": {"torch": "2.9.1", "python": "3.13"},
    }
    text = report_html(comparison(("night", "a<b>"), about=about))
    for line in (
        "night: mode relative, content_layers relu4_2 1, strength 1.5",
        "a&lt;b&gt;: mode relative, content_layers relu4_2 1, strength 2",
        "night: 384",
        "a&lt;b&gt;: 256",
        "torch 2.9.1, python 3.13",
    ):
        assert f"<div>{line}</div>" in text


def test_slow_pictures_of_several_checkpoints_say_whose_objective_they_minimised(
    page: Page,
) -> None:
    words = Page(report_html(comparison(("night", "dots")))).words
    # From noise, after 50 steps: 2.0 on the first photo, and 12.5 s.
    assert "slow, 50 stepsfrom noise, by the objective of night: objective 2.00, 12.5 s" in words
    assert "by the objective of dots" not in words
    assert "slow, 50 stepsfrom noise: objective 2.00, 12.5 s" in page.words
    assert "by the objective of" not in page.words


def test_page_without_judge_slow_path_or_pictures() -> None:
    bare = summary(slow=[], judge={}, equal_step={}, speedup={}, reached={}, spread={})
    page = Page(report_html(comparison(summaries=[bare], slow={}, galleries=[])))
    assert "On 2 photos at 64 px the network needs 50.0 ms a photo." in page.words
    assert page.all("svg") == []
    assert len(page.all("img")) == 1


def test_page_with_numbers_that_are_not_finite() -> None:
    lost = summary(
        fast={"content_rel": math.nan, "style_rel": 0.1, "total": math.nan, "seconds": 0.05}
    )
    rows = [dataclasses.replace(r, total=math.inf) if r.step == 50 else r for r in slow_rows()]
    assert Page(report_html(comparison(summaries=[lost]))).all("svg") == []
    assert len(Page(report_html(comparison(slow={"night": rows}))).all("svg")) == 2


def test_many_steps_are_a_curve_but_not_a_table() -> None:
    rows = [
        SlowRow("bear.jpg", 64, "content", s, 0.1, 0.1, 2 / (1 + s), 0.2 * s) for s in range(301)
    ]
    table = [{"init": r.init, "step": r.step, "total": r.total} for r in rows]
    page = Page(report_html(comparison(summaries=[summary(slow=table)], slow={"night": rows})))
    # Those that the judge scored, and the last.
    assert re.findall(r"(\d+) steps\n", page.words) == ["50", "300"]


def test_pictures_shrink_until_the_page_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    large = comparison(painting=picture(0, 300, 400))
    whole = len(report_html(large))
    monkeypatch.setattr("faststyle.compare.page.MAX_PICTURES", 10_000)
    assert len(report_html(large)) < whole * 0.8


def test_same_comparison_same_bytes() -> None:
    both = comparison(("night", "dots"))
    assert report_html(both) == report_html(comparison(("night", "dots")))
    assert report_csv(both) == report_csv(comparison(("night", "dots")))


def test_a_missing_package_is_one_line_and_the_numbers_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = r"^this needs matplotlib: pip install 'faststyle-trainer\[compare\]'$"
    with pytest.raises(DeviceError, match=message):
        require_packages()
    with pytest.raises(DeviceError, match=message):
        write_report(comparison(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.csv", "report.json"]


def test_names_that_are_not_utf8_or_are_mathematics(tmp_path: Path) -> None:
    # The first has a byte that is not UTF-8, as Python represents it.
    names = ("caf\udce9", "$x_1$ \N{SNOWMAN} \u591c")
    write_report(comparison(names), tmp_path)
    words = Page((tmp_path / "report.html").read_text(encoding="utf-8")).words
    assert "$x_1$ \N{SNOWMAN} \u591c" in words
    assert (
        json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["checkpoints"][0]["name"]
        == names[0]
    )


def test_labels_are_spread_out_in_their_order() -> None:
    assert spread_out([0.5, 0.1], 0.1) == [0.5, 0.1]
    assert spread_out([0.5, 0.5], 0.1) == pytest.approx([0.5, 0.6])
    assert spread_out([1.0, 0.95, 0.2], 0.1) == pytest.approx([1.0, 0.9, 0.2])
    assert spread_out([], 0.1) == []


def test_charts_follow_the_theme_and_keep_to_themselves() -> None:
    curve = Curve(
        "content",
        "from the photo",
        [0, 10, 100],
        [0.0, 1.0, 10.0],
        [3.0, 1.0, 0.5],
        [2, 1, 0.4],
        [4, 1, 0.6],
    )
    svg = objective_by_step([curve], 0.9, {"content": 20}, "one")
    assert svg.startswith(
        '<svg role="img" aria-label="Objective against step. Slow: from the photo 3 at step 0'
    )
    assert "currentColor" in svg
    assert "var(--content)" in svg
    assert "var(--network)" in svg
    assert "<style" not in svg
    assert "<metadata" not in svg
    assert "<text" in svg  # letters, not outlines
    # It has no colours of its own, and no ids of another chart.
    assert not re.search(r"#(?!one-)\w", re.sub(r"&#\w+;", "", svg))
    assert all(name.startswith("one-") for name in re.findall(r'\bid="([^"]*)"', svg))


def test_long_names_are_shortened_beside_the_scatter() -> None:
    points = [Point("a_very_long_checkpoint_v2", 0.05, 0.4, 0.8), Point("b", 0.05, 0.4, 0.8)]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", speed_and_quality(points, "s"))
    assert "a_very_l\N{HORIZONTAL ELLIPSIS}oint_v2, 0.80" in texts
