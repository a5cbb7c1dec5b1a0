"""Each module imports from lower layers alone, and what should start at once does without torch."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import dinac_cli

ROOT = Path(dinac_cli.__file__).parent
PACKAGE = "dinac_cli"

# A part of the package, and the parts below it that it may import from. What stands side by side
# (model, container, images, metrics, files; pipeline and training) knows nothing of each other.
LOWEST = {"errors", "results"}
SIDE_BY_SIDE = {"model", "container", "images", "metrics", "files"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "results": {"errors"},
    **dict.fromkeys(SIDE_BY_SIDE, LOWEST),
    "codec": LOWEST | SIDE_BY_SIDE,
    "pipeline": LOWEST | SIDE_BY_SIDE | {"codec"},
    "training": LOWEST | SIDE_BY_SIDE | {"codec"},
    "benchmark": LOWEST | SIDE_BY_SIDE | {"codec", "pipeline"},
    "latent_folder": LOWEST | {"container", "files"},
    "report": LOWEST | SIDE_BY_SIDE | {"pipeline"},
    "console": set(),
    "commands": LOWEST
    | SIDE_BY_SIDE
    | {"codec", "pipeline", "training", "benchmark", "report", "console"},
    "cli": LOWEST | {"commands", "console"},
    "__main__": {"cli"},
}

UPWARD = {
    ("commands.demo", "cli"),  # runs whole command lines, as its user will
    ("commands.manual", "cli"),  # as a tool it writes the manual of the whole program
}

TORCH_FREE_PARTS = {"errors", "results", "container", "images", "metrics", "files", "console"}
TORCH_FREE_MODULES = {
    f"model.{name}"
    for name in ("config", "sizes", "source", "tensor_file", "identity", "registry", "summary")
}


@dataclass(frozen=True)
class Import:
    """One imported module; `at_start` if it comes with the import of the importing module."""

    target: str
    at_start: bool


def list_modules() -> Iterator[str]:
    """Names of all modules, relative to the package; a package's own module has its name."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            yield name


@cache
def parse(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def list_imports(module: str) -> list[Import]:
    """All modules that a module names in its imports, `from` targets that are modules included."""
    return list(_walk_imports(parse(module), at_start=True))


def _walk_imports(node: ast.AST, *, at_start: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, at_start) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        assert node.module is not None
        yield Import(node.module, at_start)
        yield from (Import(f"{node.module}.{alias.name}", at_start) for alias in node.names)
    elif isinstance(node, ast.FunctionDef | ast.Lambda) or _is_for_types_alone(node):
        at_start = False
    for child in ast.iter_child_nodes(node):
        yield from _walk_imports(child, at_start=at_start)


def _is_for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def list_own_imports(module: str) -> Iterator[Import]:
    """Those of this package's modules, by their relative names."""
    known = set(MODULES)
    for found in list_imports(module):
        name = found.target.removeprefix(f"{PACKAGE}.")
        if found.target.startswith(f"{PACKAGE}.") and name in known:
            yield Import(name, found.at_start)


def close_over(module: str) -> set[str]:
    """The modules of this package that the import of one brings along, itself included."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [found.target for found in list_own_imports(name) if found.at_start]
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return seen


def imports_torch(found: Import) -> bool:
    return found.target.split(".")[0] == "torch" or found.target.startswith("safetensors.torch")


MODULES = list(list_modules())


def test_modules_are_found() -> None:
    assert len(MODULES) > 60
    assert {"cli", "model", "model.registry", "files.inputs", "pipeline.job"} <= set(MODULES)
    assert Import("container.record", True) in list(list_own_imports("codec.records"))


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_from_lower_layers(module: str) -> None:
    part = module.split(".")[0]
    upward = {
        found.target
        for found in list_own_imports(module)
        if found.target.split(".")[0] not in ALLOWED[part] | {part}
        and (module, found.target) not in UPWARD
    }
    assert not upward


def test_exceptions_are_needed() -> None:
    for module, target in UPWARD:
        assert target in {found.target for found in list_own_imports(module)}


def test_no_module_needs_itself_to_be_imported() -> None:
    graph = {
        module: {found.target for found in list_own_imports(module) if found.at_start} - {module}
        for module in MODULES
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError otherwise
    places = ("model.config", "model.layers", "model.encoder", "model.autoencoder")
    assert [name for name in order if name in places] == list(places)
    assert order.index("model.autoencoder") < order.index("model.checkpoint")


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if name.split(".")[0] in TORCH_FREE_PARTS]
    + sorted(TORCH_FREE_MODULES),
)
def test_torch_free_module_names_no_torch(module: str) -> None:
    assert not [found.target for found in list_imports(module) if imports_torch(found)]


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if name.split(".")[0] in TORCH_FREE_PARTS | {"commands", "cli"}]
    + sorted(TORCH_FREE_MODULES)
    + ["codec.loading", "codec.records", "codec.quantizer"]
    + [name for name in MODULES if name.split(".")[0] == "pipeline"],
)
def test_import_brings_no_torch_along(module: str) -> None:
    bringing = {
        name
        for name in close_over(module)
        if any(imports_torch(found) for found in list_imports(name) if found.at_start)
    }
    assert not bringing


def test_what_does_bring_torch_is_seen() -> None:
    assert any(imports_torch(found) for found in list_imports("codec.engine"))
    assert "model.autoencoder" in close_over("codec.engine")


@pytest.mark.parametrize(
    ("library", "users"), [("rich", {"console"}), ("typer", {"commands", "cli"})]
)
def test_library_of_the_screen_is_used_by_the_screen_alone(library: str, users: set[str]) -> None:
    found = {
        module.split(".")[0]
        for module in MODULES
        if any(entry.target.split(".")[0] == library for entry in list_imports(module))
    }
    assert found == users


def test_console_is_used_by_the_commands_alone() -> None:
    users = {
        module.split(".")[0]
        for module in MODULES
        if any(found.target == "console" for found in list_own_imports(module))
    }
    assert users == {"commands", "cli"}


def list_calls(module: str) -> Iterator[str]:
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield ast.unparse(node.exc).partition("(")[0]


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if name.split(".")[0] not in {"commands", "console", "cli"}],
)
def test_nothing_below_the_commands_prints_or_exits(module: str) -> None:
    forbidden = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "SystemExit"}
    forbidden |= {"sys.stdout.write", "sys.stderr.write", "warnings.warn"}
    assert not forbidden & set(list_calls(module))


@pytest.mark.parametrize("module", [name for name in MODULES if name != "cli"])
def test_import_does_nothing_but_define(module: str) -> None:
    """No call for its effect, no loop, nothing opened; the program's own module builds its tree."""
    guards = {"TYPE_CHECKING", "sys.platform != 'win32'", "__name__ == '__main__'"}
    for node in parse(module).body:
        assert not isinstance(node, ast.For | ast.While | ast.With | ast.Try | ast.Delete)
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant)  # a docstring
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) in guards


def test_no_module_is_called_after_nothing() -> None:
    names = {part for module in MODULES for part in module.split(".")}
    assert not names & {"utils", "util", "helpers", "misc", "common"}
