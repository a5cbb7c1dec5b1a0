"""The import of all test modules, by several processes at once and past the garbage collector."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Imports this process's share of the test modules, before pytest imports them all.

    That leaves the bytecode with rewritten asserts to the other test processes. Otherwise each of
    them, at the same time, would compile all modules.
    """
    gc.disable()  # nothing of what is imported becomes garbage
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    count = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    if count == "1" or sys.dont_write_bytecode:
        return
    paths = [path for place in session.config.args for path in _list_modules(place)]
    for path in paths[int(number) :: int(count)]:
        name = ".".join(path.relative_to(_ROOT).with_suffix("").parts)
        with suppress(Exception, pytest.skip.Exception):  # pytest tries again, and reports it
            importlib.import_module(name)


def _list_modules(place: str) -> list[Path]:
    folder = Path(place).resolve()
    return sorted(folder.rglob("test_*.py")) if folder.is_dir() else []


def pytest_collection_finish() -> None:
    """Lets the garbage collector run again, but not through all that was imported."""
    gc.collect()
    gc.freeze()
    gc.enable()
