"""What the package needs of others: declared, bounded, and nothing that is not."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import dinac_cli

PACKAGE = Path(dinac_cli.__file__).parent
PROJECT = PACKAGE.parent / "pyproject.toml"

OPTIONAL = {"diffusers", "simplejpeg", "triton"}
"""Imported where they are: of an extra, or brought by torch where it has a use for it."""


def read_list(key: str) -> list[str]:
    """A list of strings of pyproject.toml, for which Python 3.10 has no reader of its own."""
    found = re.search(rf"^{key} = \[\n(.*?)^\]", PROJECT.read_text("utf-8"), re.S | re.M)
    assert found is not None, key
    return re.findall(r'^    "(.+)",', found[1], re.M)


def list_foreign_imports() -> set[str]:
    """Top names of all modules that the package imports and that are neither its own nor Python's.

    Whatever the place: also those of functions.
    """
    names: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {PACKAGE.name}


needs_project = pytest.mark.skipif(not PROJECT.exists(), reason="needs the project's own file")


@needs_project
def test_imported_and_declared_packages_are_the_same() -> None:
    declared = {re.split("[<>=;]", entry)[0] for entry in read_list("dependencies")}
    modules = {"pillow": "PIL"}
    assert {modules.get(name, name) for name in declared} == list_foreign_imports() - OPTIONAL


@needs_project
@pytest.mark.parametrize("key", ["dependencies", "compare", "fast"])
def test_dependencies_of_users_have_a_lower_and_an_upper_bound(key: str) -> None:
    for entry in read_list(key):
        assert re.fullmatch(r"[a-zA-Z_]+>=\d+(\.\d+)*,<\d+(\.\d+)*", entry), entry
