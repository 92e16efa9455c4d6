"""What may import what: the floors of `grm`, and what stays unimported until it is used."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import grm
from grm.weights import find_weights

PACKAGE = Path(grm.__file__).parent
WEIGHTS = find_weights("tiny")
#: From the top. A module imports its own floor and those below.
FLOORS = (
    ("cli",),
    ("ablation",),
    ("training",),
    ("evaluation",),
    ("data",),
    ("tracking", "drawing", "sheet"),
    ("model", "media", "crop"),
    ("config", "devices", "boxes"),
    ("weights", "files", "errors"),
)
#: What is imported inside functions, and the floors that may do so at the top of a file.
LATE = {
    "av": (),
    "matplotlib": (),
    "pycocotools": (),
    "rich": ("training",),
    "tensorboard": (),
    "torch.utils.tensorboard": (),
    "trax": (),
    "typer": ("cli",),
}


class Import(NamedTuple):
    """One import of a module."""

    #: As a path of names: "grm.crop.Image" of `from ..crop import Image` somewhere in grm.data.
    name: str
    #: Not inside a function, and not for type checkers only.
    at_import: bool
    #: For type checkers only.
    for_types: bool


def imports(source: str, package: str) -> Iterator[Import]:
    """What a module in a package imports."""

    def visit(node: ast.AST, at_import: bool, for_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, at_import, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            home = ".".join(filter(None, [*above, node.module]))
            yield from (Import(f"{home}.{alias.name}", at_import, for_types) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.body:
                yield from visit(child, False, True)
            for child in node.orelse:
                yield from visit(child, at_import, for_types)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_import and not inside, for_types)

    return visit(ast.parse(source), True, False)


def modules() -> dict[str, list[Import]]:
    """Every module of grm and its imports."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("grm", *path.relative_to(PACKAGE).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        package = name if is_package else name.rpartition(".")[0]
        found[name] = list(imports(path.read_text(encoding="utf-8"), package))
    return found


MODULES = modules()


def floor_of(name: str) -> int | None:
    """The floor of a module, 0 the top; None outside grm, and for grm itself, which stands above all."""
    parts = name.split(".")
    if parts[0] != "grm" or len(parts) == 1 or name == "grm.__main__":
        return None
    return next((number for number, floor in enumerate(FLOORS) if parts[1] in floor), None)


def module_of(name: str) -> str | None:
    """The module of grm that an imported name is, or is in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def test_every_module_has_a_floor():
    assert {name for name in MODULES if floor_of(name) is None} == {"grm", "grm.__main__"}


def test_nothing_imports_upwards():
    upwards = [
        f"{name} imports {imported.name}"
        for name, found in MODULES.items()
        for imported in found
        if (own := floor_of(name)) is not None
        and (module := module_of(imported.name)) is not None
        and ((other := floor_of(module)) is None or other < own)
    ]
    assert not upwards


def test_there_are_no_circles():
    """Type checkers may go in circles, and so may packages: what counts is the order in which modules are run."""
    graph = {
        name: {module_of(imported.name) for imported in found if imported.at_import} - {None, name}
        for name, found in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_kernels_know_nothing_of_the_tracker():
    sources = (PACKAGE.parent / "grm_kernels").rglob("*.py")
    assert not [
        path for path in sources for found in imports(path.read_text(), "grm_kernels.x") if module_of(found.name)
    ]


@pytest.mark.parametrize("library", LATE)
def test_heavy_libraries_are_imported_late(library):
    early = [
        name
        for name, found in MODULES.items()
        for imported in found
        if f"{imported.name}.".startswith(f"{library}.")
        and imported.at_import
        and not name.startswith(tuple(f"grm.{floor}." for floor in LATE[library]))
    ]
    assert not early


def test_only_the_command_line_knows_typer():
    knows = {name for name, found in MODULES.items() for i in found if i.name.partition(".")[0] in ("typer", "click")}
    assert knows and all(name.startswith("grm.cli.") for name in knows)


def take_away(libraries, monkeypatch):
    """Has importing them be a ModuleNotFoundError, and grm be imported anew."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("grm", *libraries):
            monkeypatch.delitem(sys.modules, name)
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)


OPTIONAL = ("av", "matplotlib", "pycocotools", "rich", "tensorboard", "typer")


@pytest.mark.parametrize("missing", OPTIONAL)
def test_libraries_that_only_some_commands_need_may_be_missing(missing, monkeypatch):
    take_away([missing], monkeypatch)
    for name in ("grm.tracking", "grm.data", "grm.evaluation.runner", "grm.media.frames", "grm.media.writer"):
        importlib.import_module(name)


def test_the_tracker_runs_without_any_of_them(monkeypatch):
    """With torch, NumPy, OpenCV, pydantic, PyYAML and safetensors: what is carried to a machine without a network."""
    take_away([*OPTIONAL, "click", "PIL", "scipy", "tqdm"], monkeypatch)
    tracking, model = importlib.import_module("grm.tracking"), importlib.import_module("grm.model")
    tracker, frame = tracking.Tracker(model.load_model(WEIGHTS)), np.zeros((90, 120, 3), np.uint8)
    tracker.initialize(frame, (40, 30, 20, 13))
    assert tracker.track(frame).box.shape == (4,)


WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "numpy", "cv2"):
    sys.modules[name] = None
sys.argv = ["grm", *{arguments!r}]
runpy.run_module("grm", run_name="__main__")
"""


@pytest.mark.parametrize("arguments", [["--help"], ["track", "--help"], ["data", "--help"]], ids=" ".join)
def test_help_needs_no_torch(arguments):
    """It takes a third of a second so, and several with it."""
    command = [sys.executable, "-c", WITHOUT_TORCH.format(arguments=arguments)]
    result = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout


EXAMPLES = {
    "import grm.crop": ("grm.crop", True, False),
    "from ..crop import Image": ("grm.crop.Image", True, False),
    "from . import sample": ("grm.data.sample", True, False),
    "def f():\n    import av": ("av", False, False),
    "class C:\n    import av": ("av", True, False),
    "try:\n    import av\nexcept ImportError: pass": ("av", True, False),
    "if TYPE_CHECKING:\n    import av": ("av", False, True),
    "if not TYPE_CHECKING:\n    import av": ("av", True, False),
}


@pytest.mark.parametrize("source", EXAMPLES)
def test_imports_are_found(source):
    assert list(imports(source, "grm.data")) == [EXAMPLES[source]]
