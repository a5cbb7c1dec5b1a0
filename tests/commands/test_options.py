"""The options are one namespace, whatever module they are spelled in."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter

import pytest

from dinac_cli.commands import options

MODULES = [module.name for module in pkgutil.iter_modules(options.__path__)]


def list_options(module: str) -> dict[str, object]:
    """What a module spells: annotations, by name."""
    values = vars(importlib.import_module(f"{options.__name__}.{module}"))
    return {name: value for name, value in values.items() if hasattr(value, "__metadata__")}


@pytest.mark.parametrize("module", MODULES)
def test_all_are_at_hand_as_one(module: str) -> None:
    for name, option in list_options(module).items():
        assert getattr(options, name) is option


def test_no_name_stands_for_two() -> None:
    counts = Counter(name for module in MODULES for name in list_options(module))
    assert len(counts) > 80
    assert [name for name, count in counts.items() if count > 1] == []
