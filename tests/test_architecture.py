"""Imports go one way, every module imports without extras, and the public names are there."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import faststyle

PACKAGE = Path(faststyle.__file__).parent
MODULES = sorted(
    p.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
    for p in PACKAGE.rglob("*.py")
)

# Bottom to top: a module imports from its own layer or a lower one.
LAYERS = [
    ["errors"],
    ["files", "devices", "extras"],
    ["images", "progress", "signals"],
    ["perceptual", "networks"],
    ["checkpoint", "judge"],
    ["training"],
    ["engines", "slow", "stylize", "video"],
    ["bench", "compare", "live"],
    ["cli"],
]


def layer(module: str) -> int:
    part = module.split(".")[1]
    return next(i for i, names in enumerate(LAYERS) if part in names)


@pytest.mark.parametrize(
    "module", [m for m in MODULES if not m.endswith("__init__") or m.count(".") > 1]
)
def test_imports_go_one_way(module: str) -> None:
    tree = ast.parse(
        (PACKAGE.parent / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    )
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    for name in imported:
        if name.startswith("faststyle."):
            assert layer(name) <= layer(module), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_docstring_and_imports(module: str) -> None:
    assert importlib.import_module(module.removesuffix(".__init__")).__doc__


def test_public_names_are_there() -> None:
    assert set(faststyle.__all__) <= set(dir(faststyle))
    for name in faststyle.__all__:
        assert callable(getattr(faststyle, name))


def test_importing_the_package_loads_neither_torch_nor_datasets() -> None:
    code = "import sys, faststyle, faststyle.cli; print(*{'torch', 'datasets', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
