"""What the package needs of others: declared, bounded only for a reason, pinned for the tests."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dinac_cli

PACKAGE = Path(dinac_cli.__file__).parent
PROJECT = PACKAGE.parent / "pyproject.toml"
CONSTRAINTS = Path(__file__).parent / "constraints.txt"

OPTIONAL = {
    "aiohttp",
    "botocore",
    "diffusers",
    "fsspec",
    "pi_heif",
    "pyarrow",
    "pylibjxl",
    "ray",
    "s3fs",
    "simplejpeg",
    "triton",
}
"""Imported if they are installed: by an extra, by torch or by huggingface_hub."""

BOUNDED_ABOVE = {"ray", "torch"}
"""Dependencies with an upper bound; pyproject.toml gives the reason."""

KEYS = ("dependencies", "cluster", "fast", "flux2", "formats", "parquet", "remote", "test")
ENVIRONMENTS = [
    {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0", "extra": ""} | system
    for minor in range(10, 15)
    for system in (
        {"sys_platform": "linux", "platform_system": "Linux"},
        {"sys_platform": "darwin", "platform_system": "Darwin"},
        {"sys_platform": "win32", "platform_system": "Windows"},
    )
]


def read_list(key: str) -> list[Requirement]:
    """A list of requirements in pyproject.toml. Python 3.10 has no TOML reader of its own."""
    found = re.search(rf"^{key} = \[\n(.*?)^\]", PROJECT.read_text("utf-8"), re.S | re.M)
    assert found is not None, key
    return [Requirement(entry) for entry in re.findall(r'^    "(.+)",', found[1], re.M)]


def read_constraints() -> list[Requirement]:
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def select(requirements: Iterable[Requirement], environment: dict[str, str]) -> list[Requirement]:
    """The requirements that apply in this environment."""
    return [one for one in requirements if one.marker is None or one.marker.evaluate(environment)]


def list_foreign_imports() -> set[str]:
    """Top names of all modules that the package imports and that are neither its own nor Python's.

    Imports inside functions count.
    """
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {PACKAGE.name}


def list_needed(requirements: Iterable[Requirement]) -> Iterator[str]:
    """Names of the requirements and of all packages that they need here, if installed.

    Leaves out the CUDA packages, which each version of torch pins itself.
    """
    waiting, seen = list(requirements), set[tuple[str, frozenset[str]]]()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = (name, frozenset(requirement.extras))
        if wanted in seen or name.startswith(("cuda-", "nvidia-")):
            continue
        seen.add(wanted)
        yield name
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for extra in {"", *requirement.extras}:
            waiting += select(map(Requirement, needed), {"extra": extra})


needs_project = pytest.mark.skipif(not PROJECT.exists(), reason="needs the project's own file")


@needs_project
def test_imported_and_declared_packages_are_the_same() -> None:
    modules = {"pillow": "PIL"}
    declared = {modules.get(entry.name, entry.name) for entry in read_list("dependencies")}
    assert declared == list_foreign_imports() - OPTIONAL


@needs_project
@pytest.mark.parametrize("key", KEYS)
def test_dependencies_have_a_lower_bound_and_an_upper_one_only_for_a_reason(key: str) -> None:
    for entry in read_list(key):
        operators = sorted(specifier.operator for specifier in entry.specifier)
        assert operators == (["<", ">="] if entry.name in BOUNDED_ABOVE else [">="]), entry


@needs_project
@pytest.mark.parametrize("key", KEYS)
def test_entries_are_sorted(key: str) -> None:
    names = [entry.name for entry in read_list(key)]
    assert names == sorted(names)


def test_constraints_are_sorted_exact_versions() -> None:
    constraints = read_constraints()
    names = [one.name for one in constraints]
    assert names == sorted(map(canonicalize_name, names))
    for one in constraints:
        assert re.fullmatch(r"==\d[\w.]*", str(one.specifier)), one


@needs_project
@pytest.mark.parametrize(
    "environment", ENVIRONMENTS, ids=lambda one: f"{one['sys_platform']}-{one['python_version']}"
)
def test_constraints_pin_each_dependency_once_and_in_its_range(environment: dict[str, str]) -> None:
    applied = select(read_constraints(), environment)
    pins = {one.name: str(one.specifier).removeprefix("==") for one in applied}
    assert len(pins) == len(applied)
    for key in KEYS:
        for entry in select(read_list(key), environment):
            pin = pins[canonicalize_name(entry.name)]
            assert entry.specifier.contains(pin, prereleases=False), (entry, pin)


@needs_project
def test_compare_is_another_name_of_flux2() -> None:
    [entry] = read_list("compare")
    assert (entry.name, entry.extras, str(entry.specifier)) == ("dinac-cli", {"flux2"}, "")


@needs_project
def test_constraints_pin_the_dependencies_of_dependencies() -> None:
    here = {"extra": ""}
    declared = select((entry for key in KEYS for entry in read_list(key)), here)
    pinned = {one.name for one in select(read_constraints(), here)}
    assert set(list_needed(declared)) <= pinned
