from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from faststyle.errors import RecipeError
from faststyle.networks import build_network
from faststyle.training.recipe import Recipe, load_recipe, recipe_from_dict, recipe_names

RECIPES = Path(__file__).parents[1] / "faststyle" / "training" / "recipes"
NAMES = ["collection", "distill", "full", "instant", "long", "quick", "smoke"]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_recipes_come_with_the_package() -> None:
    assert recipe_names() == NAMES
    assert sorted(p.stem for p in RECIPES.glob("*.toml")) == recipe_names()


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_as_its_file_says(name: str) -> None:
    recipe = load_recipe(name, (), {"teacher": "waves" if name == "distill" else None})
    written = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    for table in ("network", "loss"):
        for key, value in written.pop(table, {}).items():
            assert recipe.to_dict()[table][key] == value
    assert {key: recipe.to_dict()[key] for key in written} == written
    assert recipe.name == name
    build_network(recipe.network)


def test_full_is_the_schedule_of_the_paper() -> None:
    full = load_recipe("full")
    # Johnson et al. (2016), section 4.1: batch 4, 40,000 iterations, learning rate 1e-3, images of
    # 256 x 256.
    assert (full.batch_size, full.steps, full.learning_rate, full.image_size) == (
        4,
        40_000,
        1e-3,
        256,
    )
    assert full.network["width"] == 32


def test_flags_go_before_set_before_the_recipe_before_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.toml", "steps = 7\nbatch_size = 3\nseed = 5\n[loss]\nstrength = 2.0\n"
    )
    assert Recipe().steps != 7
    recipe = load_recipe(path, ["steps=8", "seed=6", "loss.strength=3"], {"steps": 9, "seed": None})
    assert (recipe.name, recipe.steps, recipe.seed, recipe.batch_size) == ("mine", 9, 6, 3)
    assert recipe.loss.strength == 3.0
    assert recipe.image_size == Recipe().image_size
    assert load_recipe(path, [], {"loss.strength": 4.0}).loss.strength == 4.0
    assert load_recipe(path, ["steps=8", "steps=10"]).steps == 10


@pytest.mark.parametrize(
    ("item", "path", "expected"),
    [
        ("loss.mode=absolute", ("loss", "mode"), "absolute"),
        ('loss.mode="absolute"', ("loss", "mode"), "absolute"),
        ("photos=my photos/of 2024", ("photos",), "my photos/of 2024"),
        ("photos=hf:a/b:train:image", ("photos",), "hf:a/b:train:image"),
        ("learning_rate=1", ("learning_rate",), 1.0),
        ("compile=true", ("compile",), True),
        ("network.width=8", ("network", "width"), 8),
        ("loss.style_layers.relu1_1=2", ("loss", "style_layers"), {"relu1_1": 2}),
        ("loss.style_layers.relu1_1@1/2=0.5", ("loss", "style_layers"), {"relu1_1@1/2": 0.5}),
        (
            "loss.style_layers={relu1_1 = 1.0, relu2_1 = 3}",
            ("loss", "style_layers"),
            {"relu1_1": 1.0, "relu2_1": 3},
        ),
        ("loss.content_layers=johnson", ("loss", "content_layers"), "johnson"),
        (" steps =3", ("steps",), 3),
    ],
)
def test_set_reaches_every_key(
    tmp_path: Path, item: str, path: tuple[str, ...], expected: Any
) -> None:
    value: Any = load_recipe(
        write(tmp_path / "base.toml", "[network]\nwidth = 16\n"), [item]
    ).to_dict()
    for key in path:
        value = value[key]
    assert value == expected
    assert type(value) is type(expected)


def test_set_changes_one_key_of_a_table_and_keeps_the_others() -> None:
    before = load_recipe("quick")
    after = load_recipe("quick", ["network.blocks=2", "loss.tv_weight=0.5"])
    assert dict(after.network) == {**before.network, "blocks": 2}
    assert after.loss.style_layers == before.loss.style_layers
    assert after.loss.weights().tv == 0.5


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("stepz=3", "unknown key 'stepz' in the recipe. Did you mean 'steps'?"),
        ("loss.mod=relative", "unknown key 'loss.mod' in the recipe. Did you mean 'loss.mode'?"),
        ("network.widht=3", "network 'mobile' has no option 'widht'. Did you mean 'width'?"),
        ("network.name=jonson", "unknown network 'jonson'. Did you mean 'johnson'?"),
        ("loss.style_layers=gatis", "unknown set of layers 'gatis'. Did you mean 'gatys'?"),
        ("loss.style_layers.relu1_9=1", "vgg16 has no layer 'relu1_9'"),
        ("steps", "`set` takes key=value, got 'steps'"),
        ("steps=", "steps must be a whole number, got ''"),
        ("=3", "unknown key '' in the recipe"),
        ("steps=1e3", "steps must be a whole number, got 1000.0"),
        ("steps=true", "steps must be a whole number, got True"),
        ("steps=many", "steps must be a whole number, got 'many'"),
        ("learning_rate=fast", "learning_rate must be a number, got 'fast'"),
        ("learning_rate=true", "learning_rate must be a number, got True"),
        ("photos=3", "photos must be a string, got 3"),
        ("compile=1", "compile must be true or false, got 1"),
        ("precision=bf15", "precision must be auto, float32, bf16, got 'bf15'"),
        ("vgg=vgg17", "vgg must be vgg16, vgg19, got 'vgg17'"),
        ("network=johnson", "network must be a table, got 'johnson'"),
        ("loss=absolute", "loss is a table, got 'absolute'"),
        ("loss.mode=relativ", "loss.mode must be relative, absolute, got 'relativ'"),
        ("loss.tv_weight=much", "loss.tv_weight must be a number, got 'much'"),
        ("loss.style_layers=3", "loss.style_layers must be a string or a table, got 3"),
        (
            "loss.style_layers.relu1_1=much",
            "loss.style_layers.relu1_1 must be a number above 0, got 'much'",
        ),
        ("steps.x=3", "steps must be a whole number, got {'x': 3}"),
    ],
)
def test_keys_and_types_are_checked(item: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("quick", [item])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("steps=0", "steps must be above 0, got 0"),
        ("batch_size=-1", "batch_size must be above 0"),
        ("accumulate=0", "accumulate must be above 0"),
        ("painting_size=0", "painting_size must be above 0"),
        ("painting_size=31", "be seen with 31 pixels a side, 32 are needed"),
        ("stroke_size=0.05", "be seen with 19 pixels a side, 32 are needed"),
        ("stroke_size=inf", "stroke_size must be a number, got inf"),
        ("learning_rate=0", "learning_rate must be above 0"),
        ("learning_rate=nan", "learning_rate must be above 0, got nan"),
        ("clip_norm=0.0", "clip_norm must be above 0"),
        ("log_every=0", "log_every must be above 0"),
        ("preview_every=0", "preview_every must be above 0"),
        ("state_every=0", "state_every must be above 0"),
        ("image_size=31", "image_size must be at least 32 pixels, got 31"),
        ("shift=-1", "shift must be at least 0, got -1"),
        ("margin=-1", "margin must be at least 0, got -1"),
        ("shift=190", "image_size - shift - 2 margin must be at least 32, got"),
        ("adversarial_weight=-1", "adversarial_weight must be a number, 0 or more, got -1"),
        ("adversarial_weight=inf", "adversarial_weight must be a number, 0 or more, got inf"),
        ("stability=-1", "stability must be a number, 0 or more, got -1"),
        ("warmup=1", "warmup is a share of the steps, at least 0 and below 1, got 1.0"),
        ("warmup=-0.1", "warmup is a share"),
        ("warmup=nan", "warmup is a share"),
        ("copying=1.1", "copying is a share of the steps, from 0 to 1, got 1.1"),
        ("copying=-0.1", "copying is a share"),
        ("copying=1", "needs a trained style to copy: `teacher` STYLE"),
        ("teacher=waves", "`init` is base, copying 0.0"),
        ("workers=-1", "workers must be 0 or more, got -1"),
        ("seed=-1", "seed must be 0 or more and below 2**32, got -1"),
        ("seed=4294967296", "seed must be 0 or more and below 2**32"),
        ("network.width=-1", "cannot be built with"),
        ("average=1", "average is a decay"),
        ("spread=0.5", "content_target 0.4 with it in 0 to 1, got 0.5"),
        ("image_size=222", "image_size must be a multiple of 4"),
        ("schedule=linear", "schedule must be cosine, constant"),
        ("loss.strength=-1", "loss.strength must be a number, 0 or more, got -1.0"),
        ("loss.strength=nan", "loss.strength must be a number, 0 or more, got nan"),
        ("loss.content_weight=-1", "loss.content_weight must be a number, 0 or more"),
        ("loss.style_weight=inf", "loss.style_weight must be a number, 0 or more"),
        (
            "loss.style_layers.relu1_1=0",
            "loss.style_layers.relu1_1 must be a number above 0, got 0",
        ),
        ("loss.style_layers={}", "at least one layer"),
    ],
)
def test_ranges_are_checked(item: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("quick", [item])
    assert message in str(caught.value)


def test_crops_that_are_too_small_for_the_layers_say_how_large_they_must_be() -> None:
    deep = "loss.style_layers={'relu5_1@1/4'=1.0}"
    with pytest.raises(
        RecipeError, match="of 64 pixels; image_size - shift - 2 margin is 60. Set image_size to 64"
    ):
        load_recipe("smoke", ["image_size=60", deep])
    with pytest.raises(RecipeError, match="need crops of 64 pixels; .*Set image_size to 68"):
        load_recipe(
            "smoke",
            ["image_size=60", "shift=4", "loss.style_layers={'relu5_1@1/4'=1.0, 'relu1_1'=1.0}"],
        )
    assert load_recipe("smoke", ["image_size=32", "loss.style_layers=gatys"]).image_size == 32


@pytest.mark.parametrize(
    "item",
    [
        "workers=0",
        "warmup=0",
        "seed=4294967295",
        "image_size=184",
        "shift=0",
        "loss.strength=0",
        "steps=1",
    ],
)
def test_the_ends_of_ranges_are_allowed(item: str) -> None:
    key, _, text = item.partition("=")
    value: Any = load_recipe("quick", [item]).to_dict()
    for part in key.split("."):
        value = value[part]
    assert value == float(text)


def test_unknown_recipes_get_a_suggestion_else_the_list() -> None:
    with pytest.raises(RecipeError, match=r"unknown recipe 'quik'. Did you mean 'quick'\?"):
        load_recipe("quik")
    with pytest.raises(RecipeError, match=f"unknown recipe 'xyz'. Allowed: {', '.join(NAMES)}."):
        load_recipe("xyz")


def test_files_that_are_no_recipes_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml cannot be read: no such file"):
        load_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(RecipeError, match=r"a\.toml is not valid TOML: .*line 2"):
        load_recipe(write(tmp_path / "a.toml", "steps = 3\n= 4\n"))
    (tmp_path / "b.toml").write_bytes(b'photos = "caf\xe9"')
    with pytest.raises(RecipeError, match=r"b\.toml is not a text file in UTF-8"):
        load_recipe(str(tmp_path / "b.toml"))
    (tmp_path / "c.toml").mkdir()
    with pytest.raises(RecipeError, match=r"c\.toml cannot be read: is a directory"):
        load_recipe(str(tmp_path / "c.toml"))
    with pytest.raises(RecipeError, match="Did you mean 'image_size'"):
        load_recipe(write(tmp_path / "d.toml", "images_size = 128"))


def test_files_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text("#" * (2**20 + 1))
    with pytest.raises(RecipeError, match="has more than 1,048,576 bytes: no recipe"):
        load_recipe(str(path))
    path.write_text("steps = " + "[" * 100_000)
    with pytest.raises(RecipeError, match="is not valid TOML"):
        load_recipe(str(path))
    with pytest.raises(RecipeError, match="width is at most 1024"):
        load_recipe("quick", ["network.width=1000000000"])


def test_a_recipe_is_checked_without_the_memory_of_its_network() -> None:
    """This network would take 80 GB."""
    recipe = load_recipe("quick", ['network={name="johnson", width=1024, blocks=64}'])
    assert recipe.network["width"] == 1024


def test_to_dict_and_back_through_json_is_the_same_recipe() -> None:
    recipe = load_recipe(
        "quick",
        ["loss.style_layers={relu1_1 = 1, 'relu2_1@1/2' = 0.5}", "steps=3", "loss.tv_weight=1"],
    )
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe_from_dict(recipe.to_dict()) != load_recipe("quick")
    assert recipe_from_dict({}) == Recipe()
