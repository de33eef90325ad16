"""Imports go one way, every module imports without extras, and the public names are there."""

from __future__ import annotations

import ast
import graphlib
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

# Bottom to top: a module imports from its own room or from a lower layer. So rooms of one layer do
# not know each other: video/ and slow/ know neither engines/ nor training/.
LAYERS = [
    ["errors"],
    ["files", "devices", "extras", "hosts", "image_metadata", "pixel_formats"],
    ["images", "sizes", "progress", "signals", "flow", "hub", "titles", "abstraction"],
    ["perceptual", "networks", "paintings"],
    ["checkpoint", "judge"],
    ["training", "slow", "video", "convert", "push"],
    ["engines"],
    ["stylize"],
    ["bench", "compare", "live", "serve", "web", "doctor"],
    ["app"],
    ["cli"],
]


def room(module: str) -> str:
    return module.split(".")[1]


def layer(module: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if room(module) in names)


def imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports, anywhere in its code."""
    file = PACKAGE.parent / f"{module.replace('.', '/')}.py"
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            # `from faststyle.engines import graph` names a module after `import`.
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    known = {name.removesuffix(".__init__") for name in MODULES}
    return {name for name in found & known if name != "faststyle"}


@pytest.mark.parametrize("module", [m for m in MODULES if m != "faststyle.__init__"])
def test_imports_go_one_way(module: str) -> None:
    for name in imports(module):
        same_room = room(name) == room(module)
        assert same_room or layer(name) < layer(module), f"{module} imports {name}"


def test_no_modules_import_each_other() -> None:
    graph = {
        module.removesuffix(".__init__"): imports(module) - {module.removesuffix(".__init__")}
        for module in MODULES
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())  # a cycle raises CycleError
    assert set(graph) <= set(order)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_docstring_and_imports(module: str) -> None:
    assert importlib.import_module(module.removesuffix(".__init__")).__doc__


def test_public_names_are_there() -> None:
    assert set(faststyle.__all__) <= set(dir(faststyle))
    for name in faststyle.__all__:
        assert callable(getattr(faststyle, name))


def test_importing_the_package_loads_neither_torch_nor_datasets() -> None:
    code = (
        "import sys, faststyle, faststyle.cli\n"
        "print(*{'torch', 'datasets', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
