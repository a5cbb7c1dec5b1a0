"""Each module imports from lower layers alone, and what should start at once does without torch."""

from __future__ import annotations

import ast
import graphlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import dinac_cli

ROOT = Path(dinac_cli.__file__).parent
PACKAGE = "dinac_cli"

# The floors of the house, lowest first. A room imports from the floors below its own and, inside
# itself, from anything that does not import it. Rooms on one floor do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("container", "images"),
    ("models",),
    ("storage",),
    ("latent_items", "ranks", "shard_order"),
    ("shard_reading",),
    ("shard_epoch",),
    ("codec", "latent_folder", "latent_shards"),
    ("bucket_sampler",),
    ("jobs.results",),
    ("jobs.executor",),
    ("jobs", "training"),
    ("bench", "doctor", "report"),
    ("compare",),
    ("commands.screen",),
    ("commands",),
    ("cli",),
    ("__main__", "artifacts", "worker"),
)
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

TORCH_FREE_PARTS = {
    "errors",
    "container",
    "images",
    "storage",
    "shard_order",
    "shard_reading",
    "shard_epoch",
}
TORCH_FREE_MODULES = {
    "models.aliases",
    "models.families",
    "models.registry",
    "models.identity",
    "models.facts",
    "models.tensor_file",
    *(f"models.flux2.{name}" for name in ("diffusers_library", "vae_config", "vae_files")),
    "models.json_file",
    *(
        f"models.dinac.{name}"
        for name in ("config", "norm_choice", "sizes", "source", "tensor_names")
    ),
    "jobs.results",
    "commands.screen.console",
}


def find_room(module: str) -> str:
    """The innermost room of a module: `jobs.executor` for `jobs.executor.local`."""
    names = module.split(".")
    paths = (".".join(names[:count]) for count in range(len(names), 0, -1))
    return next(path for path in paths if path in ROOMS)


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
    assert {"cli", "models", "models.registry", "storage.inputs", "jobs.executor.job"} <= set(
        MODULES
    )
    assert Import("container.record", True) in list(list_own_imports("codec.records"))


def find_violations(module: str, targets: Iterable[str]) -> set[str]:
    """The imported modules that are not on a floor below the module's own room, or inside it."""
    room = find_room(module)
    return {
        target
        for target in targets
        if find_room(target) != room and ROOMS[find_room(target)] >= ROOMS[room]
    }


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_from_lower_floors(module: str) -> None:
    assert not find_violations(module, (found.target for found in list_own_imports(module)))


@pytest.mark.parametrize(
    ("module", "target"),
    [
        ("container.record", "jobs.encode"),
        ("jobs.executor.local", "jobs.encode"),
        ("images.reading", "storage.content"),
        ("jobs.encode", "commands.screen.console"),
        ("commands.demo", "cli"),
    ],
)
def test_planted_violation_is_found(module: str, target: str) -> None:
    assert find_violations(module, ["errors", target]) == {target}


def test_every_module_has_a_floor() -> None:
    assert {find_room(module) for module in MODULES} == set(ROOMS)


def test_no_module_needs_itself_to_be_imported() -> None:
    graph = {
        module: {found.target for found in list_own_imports(module) if found.at_start} - {module}
        for module in MODULES
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())  # CycleError otherwise
    for lower, upper in itertools.pairwise(("config", "encoder", "autoencoder")):
        assert order.index(f"models.dinac.{lower}") < order.index(f"models.dinac.{upper}")


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
    + ["models.interface", "models.dinac.model", "models.flux2.family"]
    + ["codec.handle", "codec.records", "codec.quantizer", "codec.machine"]
    + [name for name in MODULES if name.split(".")[0] == "jobs"],
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
    assert "models.dinac.autoencoder" in close_over("bench.network")


@pytest.mark.parametrize(
    ("library", "users"),
    [("rich", {"commands.screen"}), ("typer", {"artifacts", "commands", "cli"})],
)
def test_library_of_the_screen_is_used_by_the_screen_alone(library: str, users: set[str]) -> None:
    found = {
        find_room(module)
        for module in MODULES
        if any(entry.target.split(".")[0] == library for entry in list_imports(module))
    }
    assert found == users


FLOOR_MATES = {("commands", room) for room in ("jobs", "report", "bench")}
FLOOR_MATES |= {("storage", "jobs.executor")}  # `local`: a place of this machine, and its executor


def test_no_two_files_share_a_name() -> None:
    """But for one word on two floors, and the fast network, which mirrors the plain one."""
    homes: dict[str, list[str]] = {}
    for module in MODULES:
        if not ROOT.joinpath(*module.split(".")).is_dir():
            folder, _, name = module.rpartition(".")
            homes.setdefault(name, []).append(folder)
    shared = {name: tuple(sorted(folders)) for name, folders in homes.items() if len(folders) > 1}
    mirrored = ("models.dinac", "models.dinac.fast")
    assert {
        name: folders
        for name, folders in shared.items()
        if folders != mirrored and tuple(folders) not in {tuple(sorted(m)) for m in FLOOR_MATES}
    } == {}


def _is_main_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def list_calls(module: str) -> Iterator[str]:
    """The calls of a module but for those of its own program, below a main guard."""
    body = [n for n in parse(module).body if not _is_main_guard(n)]
    for node in itertools.chain.from_iterable(map(ast.walk, body)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            yield ast.unparse(node.exc).partition("(")[0]


@pytest.mark.parametrize(
    "module",
    [
        name
        for name in MODULES
        if find_room(name) not in {"commands", "commands.screen", "cli", "artifacts", "worker"}
    ],
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
